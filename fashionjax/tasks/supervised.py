"""What tasks with one flax model and labelled images share: records → arrays, augmentation, the record."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.data import preprocess
from fashionjax.errors import UserError
from fashionjax.ops import augment
from fashionjax.task import AXIS, Batch, Task

INITS = ("zoo", "torch", "zero_heads")
DEEPFASHION_SLOTS = 8
MOVED = ("image", "landmark", "visibility", "landmark_state", "box")  # by a crop and a flip
CLASSIFIERS = ("attr_predictor", "cate_predictor")  # modules of a model
# the quirks that act on records
PREPROCESSED = (
    "s1_random_crop_at_test",
    "s2_landmark_not_moved",
    "s4_landmark_scaled_twice",
    "s6_landmark_list_shifted",
    "s8_attribute_zero",
)


def make_task(
    config: ConfigDict,
    model: nn.Module,
    *,
    arguments: Callable[[Batch], dict],
    loss_terms: Callable[[dict, Batch, dict], dict],
    predictions: Callable[[dict], dict],
    metrics: Callable,
    sampler: Callable | None = None,
    preprocess: Callable | None = None,
) -> Task:
    """A Task around `model`: its loss is the sum of `loss_terms` (already weighted, also the scalars).

    `arguments` picks the model's arguments out of a batch whose image is normalised; the model takes `train`
    and returns a dict of arrays, of which `predictions` makes the prediction keys. `loss_terms` gets these
    outputs, the batch and the parameters. `config.model.init` is zoo (as the heads ask for: normal, Xavier),
    zero_heads (the same, classifiers at 0) or torch (PyTorch's defaults everywhere, for the original's models
    that never call their own initialiser).
    `preprocess` is `make_preprocess(config)` where a task has none of its own.
    """
    quirks.check(config)
    prepare_eval = functools.partial(augment.prepare_eval, form=normalisation(config))
    to_training = make_augment(config)
    blends = {name: float(value) for name, value in config.get("blend", {}).items() if value}
    initial = config.model.get("init", "zoo")
    if initial not in INITS:
        raise UserError(f"config.model.init={initial!r}: use one of {', '.join(INITS)}")

    def init(rng, batch: Batch):
        variables = model.init({"params": rng, "dropout": rng}, **arguments(prepare_eval(batch)), train=False)
        params = variables["params"]
        if initial == "zero_heads":
            params = zero_heads(params)
        if initial == "torch":
            params = torch_initial(jax.random.fold_in(rng, 1), params)
        return params, variables.get("batch_stats", {})

    def loss(params, model_state, batch: Batch, rng):
        share = partner = None
        if "reduced" not in batch:
            batch = to_training(batch, rng)
            if blends:
                mixing = jax.random.fold_in(rng, 2)
                batch["image"], share, partner = augment.mix(mixing, batch, **blends)
        outputs, updated = model.apply(
            {"params": params, "batch_stats": model_state},
            **inputs(batch),
            train=True,
            rngs=dropout_rng(rng),
            mutable=["batch_stats"],
        )
        if share is None:
            terms = loss_terms(outputs, batch, params)
        else:
            terms = mixed_terms(functools.partial(loss_terms, outputs, params=params), batch, share, partner)
        return sum(terms.values()), (updated.get("batch_stats", {}), terms)

    def inputs(batch: Batch) -> dict:
        """The model's arguments; features of a frozen backbone stand for the image."""
        return {"image": None, "reduced": batch["reduced"]} if "reduced" in batch else arguments(batch)

    def reduce(params, model_state, batch: Batch, rng) -> jax.Array:
        variables = {"params": params, "batch_stats": model_state}
        batch = prepare_eval(batch, config.dtype) if rng is None else to_training(batch, rng)
        return model.apply(variables, batch["image"], method="reduced")

    def predict(params, model_state, batch: Batch) -> dict:
        variables = {"params": params, "batch_stats": model_state}
        if "reduced" not in batch:
            batch = prepare_eval(batch, config.dtype)
        return predictions(model.apply(variables, **inputs(batch), train=False))

    reduces = hasattr(model, "reduced")
    return Task(
        preprocess or make_preprocess(config),
        init,
        loss,
        predict,
        metrics,
        sampler,
        reduce=reduce if reduces else None,
    )


def mixed_terms(terms_of: Callable, batch: Batch, share: jax.Array, partner: jax.Array) -> dict:
    """`terms_of(batch=…)` of blended images: each counts its own labels by `share` [b] and its partner's by
    the rest."""
    weight = batch["example_weight"]
    labels = {name: value[partner] for name, value in batch.items() if name != "example_weight"}
    own = terms_of(batch=batch | {"example_weight": weight * share})
    others = terms_of(batch=labels | {"example_weight": weight * (1 - share)})
    return {name: own[name] + others[name] for name in own}


def make_preprocess(config: ConfigDict) -> Callable:
    """(record, rng | None) → image u8 [s s 3] and the labels the record has, placed in the frame.

    The frame is the whole image or, with `config.crop_box`, the box grown by `config.box_margin` pixels.
    For training (rng given) the image is `config.canvas_size` wide, so that the device's random crop finds
    pixels to choose from; otherwise `config.image_size`. Under quirk S1 both are MMFashion's random chain.
    """
    s1, s2, s4, s6, s8 = (quirks.on(config, name) for name in PREPROCESSED)

    order = functools.partial(augment.flip_order, pairs=landmark_flip(config))

    def run(record: dict, rng: np.random.Generator | None) -> dict:
        image = preprocess.picture(record)
        if s6 and "landmark" in record:
            record = preprocess.shifted_landmarks(record, image)
        boxed = config.crop_box and "box" in record
        if s1:
            rng = preprocess.rng_of(config.seed, record) if rng is None else rng
            frame = preprocess.whole_frame(image)
            if boxed:
                frame = preprocess.zoo_frame(image, record["box"], config.box_margin, clip=config.box_clip)
            shrink = config.get("shrink_first", True)
            example = preprocess.place_at_random(
                record, frame, image, config.image_size, rng, move=not s2, shrink=shrink, flip_order=order
            )
        else:
            frame = preprocess.whole_frame(image)
            if boxed:
                frame = preprocess.box_frame(image, record["box"], config.box_margin)
            size = config.image_size if rng is None else config.canvas_size
            example = preprocess.place(record, frame, image, size)
        if s4 and "landmark" in record:
            example["landmark"] = preprocess.twice_scaled(record, frame, image)
        if "category" in record:
            example["category"] = np.int32(record["category"])
        if "attribute" in record:
            attribute = np.asarray(record["attribute"], np.uint8)
            example["attribute"] = np.zeros_like(attribute) if s8 else attribute
        return example

    return run


def make_augment(config: ConfigDict) -> Callable[[Batch, jax.Array], Batch]:
    """(batch, rng) → the batch as the model sees it in training; an example draws from fold_in(rng, slot).

    Under quirk S1 the images were cropped and flipped when they were read.
    """
    if quirks.on(config, "s1_random_crop_at_test"):
        return lambda batch, rng: augment.prepare_eval(batch, config.dtype, normalisation(config))
    settings = augment.AugmentSettings(
        out_hw=(config.image_size, config.image_size),
        dtype=config.dtype,
        move_landmark=not quirks.on(config, "s2_landmark_not_moved"),
        landmark_flip=landmark_flip(config),
        normalisation=normalisation(config),
        **{name: _plain(value) for name, value in config.augment.items()},
    )

    def run(batch: Batch, rng: jax.Array) -> Batch:
        moved = {name: batch[name] for name in MOVED if name in batch}
        keys = jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch["slot"])
        return batch | jax.vmap(lambda key, example: augment.augment(key, example, settings))(keys, moved)

    return run


def normalisation(config: ConfigDict) -> str:
    """The form of `augment.normalise` that the backbone's weights expect; auto is settled before training."""
    form = config.get("normalisation", "auto")
    return augment.IMAGENET if form == "auto" else form


def landmark_flip(config: ConfigDict) -> tuple[tuple[int, int], ...] | None:
    """The (left, right) landmark slots of the config's dataset that a flip exchanges; None for one that does
    not name them."""
    if quirks.on(config, "f8_flip_keeps_sides"):
        return ()
    pairs = config.get("labels", {}).get("landmark_flip")
    return None if pairs is None else tuple((int(left), int(right)) for left, right in pairs)


def landmark_count(config: ConfigDict) -> int:
    """Landmark slots of the config's dataset; DeepFashion's eight where its labels do not name them."""
    return len(config.get("labels", {}).get("landmark") or ()) or DEEPFASHION_SLOTS


def zero_heads(params: dict) -> dict:
    """The classifiers' kernels and biases at 0. Behind features of more numbers than there are examples, a
    drawn kernel keeps its part that no example sees, which is noise on every other image."""
    return {
        name: jax.tree.map(jnp.zeros_like, part) if name in CLASSIFIERS else part
        for name, part in params.items()
    }


def torch_initial(rng: jax.Array, params: dict) -> dict:
    """Kernels and biases redrawn by PyTorch's default, U(±1/sqrt(fan in)); normalisations stay at 1 and 0."""
    leaves = flax.traverse_util.flatten_dict(params)
    for number, path in enumerate(sorted(leaves)):
        kernel = leaves.get((*path[:-1], "kernel"))
        if kernel is None or path[-1] not in ("kernel", "bias"):
            continue
        bound = 1 / math.sqrt(math.prod(kernel.shape[:-1]))
        key, leaf = jax.random.fold_in(rng, number), leaves[path]
        leaves[path] = jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)
    return flax.traverse_util.unflatten_dict(leaves)


def dropout_rng(rng: jax.Array) -> dict[str, jax.Array]:
    """A dropout stream of its own for each device."""
    return {"dropout": jax.random.fold_in(jax.random.fold_in(rng, 1), jax.lax.axis_index(AXIS))}


def weighted_mean(per_example: jax.Array, batch: Batch) -> jax.Array:
    """[b] → the mean with the step's example weights (0 for a record that could not be read)."""
    return jnp.mean(per_example * batch["example_weight"])


def selected_mean(value: jax.Array, selected: jax.Array) -> jax.Array:
    """[b] → the mean over the selected (0/1) examples of all devices, this device's share; 0 for none."""
    share = jax.lax.pmean(jnp.mean(selected), AXIS)
    return jnp.mean(selected * value) / jnp.maximum(share, 1e-6)


def check_triplets(count: int) -> None:
    """UserError unless a device's batch consists of whole triplets."""
    if count % 3:
        raise UserError(
            f"per-device batch of {count} images is not a multiple of 3 (triplets); config.batch_size has to "
            "be a multiple of 3 x devices"
        )


def label_names(config: ConfigDict, label: str) -> list[str]:
    """Names of a label of the config's dataset."""
    names = config.get("labels", {}).get(label)
    if not names:
        have = ", ".join(config.get("labels", {})) or "none"
        raise UserError(f"{config.dataset}: has no label {label!r}, which this task learns (it has {have})")
    return list(names)


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def fit_labels(
    heads: Mapping[str, str],
    config: ConfigDict,
    shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, list],
    given: bool = False,
) -> list[str]:
    """Writes the labels of a weight file's heads into `config`; → remarks, see `task.Weights.fit_config`.

    `heads` is {label: PyTorch name of the head's weight}, the first side of which counts the outputs. Names
    are the `known` ones where there are as many, else numbers. A head that the file lacks keeps the known
    names, or one placeholder, so that the mismatch is reported by its keys.
    """
    del given
    remarks, labels = [], dict(known)
    for label, key in heads.items() if shapes else ():
        have, shape = len(known.get(label, ())), shapes.get(key, ())
        width = shape[0] if len(shape) == 2 else have or 1
        if width != have:
            if len(shape) == 2:
                dataset = f"has {have}" if label in known else "is not prepared or has none"
                remarks.append(f"{width} {label} outputs are named by number ({config.dataset} {dataset})")
            labels[label] = numbered(label, width)
    with config.unlocked():
        config.labels = ConfigDict(labels)
    return remarks


def numbered(label: str, n: int) -> list[str]:
    """Stand-ins for names that nobody knows: label_00 … label_12."""
    return [f"{label}_{i:0{len(str(n - 1))}d}" for i in range(n)]
