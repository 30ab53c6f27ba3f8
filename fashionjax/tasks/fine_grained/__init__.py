"""Attribute-specific retrieval: one embedding for each (image, attribute), RPF's two stages and ASEN.

`config.model.patch` says whether the model has a patch branch (stage 2). `config.loss` has a weight per term
of `TERMS`; `config.fine_grained` says how the stream is ordered (`sampler`, one of `SAMPLERS`: triplets of
one attribute, groups of one attribute's values, or images with all their labels) and holds the constants of
the losses. Evaluation ranks the candidates of each query's attribute.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.data import attribute_samplers, preprocess
from fashionjax.data import fine_grained as examples
from fashionjax.data.samplers import Sampler
from fashionjax.errors import UserError
from fashionjax.metrics import collect, fine_grained
from fashionjax.models import backbones, region_patch, region_patch_keys
from fashionjax.models.backbones.resnet import BOTTLENECK_DEPTHS
from fashionjax.models.region_patch import PatchBranch, RegionPatch
from fashionjax.ops import attention_crop, augment
from fashionjax.ops.distances import unit
from fashionjax.reports import baselines as simple
from fashionjax.reports import fine_grained as report
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry
from fashionjax.tasks import supervised
from fashionjax.tasks.fine_grained.weight_files import WEIGHTS

SAMPLERS = ("triplet", "in_batch", "image")
CROPS = ("attention", "none")
TRIPLET_TERMS = {"triplet", "patch_triplet"}
PATCH_TERMS = {"patch_triplet", "patch_in_batch", "contrast", "align"}


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    quirks.check(config)
    model = make_model(config)
    _check(config, model)
    size, in_triplets = config.image_size, config.fine_grained.sampler == "triplet"

    def init(rng, batch: Batch):
        del batch
        image, attribute = jnp.zeros((1, size, size, 3)), jnp.zeros((1,), jnp.int32)
        variables = model.init({"params": rng, "dropout": rng}, image, attribute)
        return variables["params"], variables.get("batch_stats", {})

    def loss(params, model_state, batch: Batch, rng):
        batch = _mirrored(batch, rng, config.mirror)
        if in_triplets:
            batch = _by_role(batch)
        image = augment.normalise(batch["image"], config.dtype)
        variables, keys = {"params": params, "batch_stats": model_state}, supervised.dropout_rng(rng)
        roles = 3 if in_triplets and quirks.on(config, "r18_statistics_by_role") else 1
        outputs, model_state = _region(model, variables, image, batch["attribute"], keys, roles)
        if batch["attribute"].ndim == 2:
            batch = _rows(batch)
        if model.patch is not None:
            outputs |= model.apply(
                {"params": params},
                outputs["attention"],
                *(batch[name] for name in ("attribute", "canvas", "pixels")),
                train=True,
                rngs={"dropout": jax.random.fold_in(keys["dropout"], roles)},
                method="at_attention",
            )
        terms = loss_terms(config, outputs, batch)
        return sum(terms.values()), (model_state, terms)

    def predict(params, model_state, batch: Batch) -> dict:
        if "attribute" not in batch:
            names = ", ".join(supervised.label_names(config, "attribute"))
            raise UserError(f"this model embeds an image for one attribute; choose --attribute from {names}")
        variables = {"params": params, "batch_stats": model_state}
        image = augment.normalise(batch["image"], config.dtype)
        crop = {name: batch[name] for name in ("canvas", "pixels") if name in batch}
        outputs = predictions(config, model.apply(variables, image, batch["attribute"], **crop, train=False))
        if batch["attribute"].ndim == 1:
            return outputs
        return {name: rearrange(x, "(b a) ... -> b a ...", b=len(image)) for name, x in outputs.items()}

    return Task(
        make_preprocess(config),
        init,
        loss,
        predict,
        metrics,
        functools.partial(sampler, config),
        examples.collate,
    )


# ------------------------------------------------------------------------------ the model
def make_model(config: ConfigDict) -> RegionPatch:
    """The flax module of a config."""
    spec, dtype = config.model, jnp.dtype(config.dtype)
    fields = {name: value for name, value in spec.backbone_fields.items() if value is not None}
    axis = AXIS if spec.sync_bn else None
    try:
        backbone = backbones.build(
            spec.backbone, dtype=dtype, bn_axis_name=axis, stage_strides=region_patch.STRIDES, **fields
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model.backbone={spec.backbone!r}: needs a ResNet ({error})") from error
    if spec.variant not in region_patch.VARIANTS:
        known = ", ".join(region_patch.VARIANTS)
        raise UserError(f"config.model.variant={spec.variant!r}: use one of {known}")
    if spec.crop not in CROPS:
        raise UserError(f"config.model.crop={spec.crop!r}: use one of {', '.join(CROPS)}")
    patch = None
    if spec.patch:
        if spec.variant != "rpf" or not spec.conditioned:
            raise UserError("config.model.patch: only the conditioned variant rpf has a patch branch")
        sizes = {name: spec.vit[name] for name in ("width", "depth", "heads", "patch", "grid")}
        vit = region_patch_keys.make_vit(spec.dropout, dtype=dtype, **sizes)
        patch = PatchBranch(vit, spec.embedding, spec.patch_hidden, spec.dropout, parent=None)
    return RegionPatch(
        backbone=backbone,
        attributes=len(supervised.label_names(config, "attribute")),
        patch=patch,
        project_complement=not quirks.on(config, "r7_complement_not_projected"),
        clamp=not quirks.on(config, "r10_black_past_the_edge"),
        crop_size=config.image_size,
        values=_most_values(config) if "value" in config.loss else None,
        dtype=dtype,
        **{name: spec[name] for name in MODEL_FIELDS},
    )


def _most_values(config: ConfigDict) -> int:
    """How many values the attribute with the most has."""
    return max(len(names) for names in supervised.label_names(config, "attribute_value"))


MODEL_FIELDS = ("variant", "conditioned", "embedding", "attribute_width", "common", "hidden", "dropout",
                "threshold", "crop")  # fmt: skip


def _check(config: ConfigDict, model: RegionPatch) -> None:
    spec, wanted = config.fine_grained, set(config.loss)
    if spec.sampler not in SAMPLERS:
        raise UserError(f"config.fine_grained.sampler={spec.sampler!r}: use one of {', '.join(SAMPLERS)}")
    if not wanted or wanted - set(TERMS):
        raise UserError(f"config.loss has {', '.join(wanted) or 'no term'}: use {', '.join(TERMS)}")
    channels = model.backbone.width * (16 if model.backbone.depth in BOTTLENECK_DEPTHS else 4)
    rpf = model.conditioned and model.variant == "rpf"
    if rpf and not model.project_complement and model.embedding != channels:
        raise UserError(
            f"config.model.embedding={model.embedding}: the quirk r7_complement_not_projected needs the "
            f"backbone's {channels} channels"
        )
    if wanted & TRIPLET_TERMS and spec.sampler != "triplet":
        raise UserError("config.loss.triplet and .patch_triplet need config.fine_grained.sampler=triplet")
    if wanted & PATCH_TERMS and model.patch is None:
        terms = ", ".join(sorted(wanted & PATCH_TERMS))
        raise UserError(f"config.loss has {terms}, which need the patch branch: config.model.patch=True")
    if spec.sampler == "image" and model.patch is not None:
        raise UserError("config.fine_grained.sampler=image is for models without a patch branch")
    if config.accumulate > 1:
        raise UserError("config.accumulate cuts batches whose order matters; set it to 1 for this task")


def _region(model: RegionPatch, variables: dict, image, attribute, keys: dict, roles: int):
    """The region branch in training → (outputs [b …], running statistics). With several `roles` each third of
    the batch has statistics of its own and updates the running ones in turn, as separate passes do."""

    def one(model_state, part):
        image, attribute, key = part
        outputs, updated = model.apply(
            {"params": variables["params"], "batch_stats": model_state},
            image,
            attribute,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
            method="region",
        )
        return updated.get("batch_stats", {}), outputs

    if roles == 1:
        model_state, outputs = one(variables["batch_stats"], (image, attribute, keys["dropout"]))
        return outputs, model_state
    parts = jax.tree.map(lambda x: rearrange(x, "(t b) ... -> t b ...", t=roles), (image, attribute))
    key = jax.vmap(lambda role: jax.random.fold_in(keys["dropout"], role))(jnp.arange(roles))
    model_state, outputs = jax.lax.scan(one, variables["batch_stats"], (*parts, key))
    return jax.tree.map(lambda x: rearrange(x, "t b ... -> (t b) ..."), outputs), model_state


def _mirrored(batch: Batch, rng: jax.Array, probability: float) -> Batch:
    """Region inputs mirrored at random; an example draws from fold_in(rng, slot). Crops are not mirrored."""
    if not probability:
        return batch
    draw = jax.vmap(lambda slot: jax.random.uniform(jax.random.fold_in(rng, slot)))(batch["slot"])
    image = batch["image"]
    flipped = jnp.where((draw < probability)[:, None, None, None], image[:, :, ::-1], image)
    return batch | {"image": flipped}


def _by_role(batch: Batch) -> Batch:
    """Triplets at consecutive rows → anchors, then positives, then negatives."""
    supervised.check_triplets(len(batch["attribute"]))
    return {name: rearrange(x, "(b t) ... -> (t b) ...", t=3) for name, x in batch.items()}


def _rows(batch: Batch) -> Batch:
    """Labels [b a] of images → of their (image, attribute) pairs [b * a]; value -1: not labelled."""
    value, weight = batch["value"], batch["example_weight"]
    attribute = jnp.where(value >= 0, batch["attribute"], -1)
    labels = {"attribute": attribute, "value": value}
    labels["example_weight"] = jnp.broadcast_to(weight[:, None], value.shape)
    return {name: rearrange(x, "b a -> (b a)") for name, x in labels.items()}


# ------------------------------------------------------------------------------ loss
class View(NamedTuple):
    """What the terms read: outputs and labels of the local batch (in triplets by role), the weight [b] of
    whole triplets and of single rows, both with mean 1 over all devices."""

    config: ConfigDict
    outputs: dict
    batch: Batch
    triplet_weight: jax.Array | None


def loss_terms(config: ConfigDict, outputs: dict, batch: Batch) -> dict:
    """Weighted terms by name, `loss_<term>`."""
    weight = None
    if config.fine_grained.sampler == "triplet":
        whole = rearrange(batch["example_weight"], "(t b) -> t b", t=3).min(axis=0) > 0
        whole = whole.astype(jnp.float32)
        weight = whole / jnp.maximum(jax.lax.pmean(jnp.mean(whole), AXIS), 1e-6)
    view = View(config, outputs, batch, weight)
    return {f"loss_{name}": factor * TERMS[name](view) for name, factor in config.loss.items()}


def _triplet(view: View, key: str) -> jax.Array:
    parts = rearrange(view.outputs[key], "(t b) d -> t b d", t=3)
    return jnp.mean(view.triplet_weight * losses.cosine_triplet(*parts, view.config.fine_grained.margin))


def _labels(view: View) -> tuple:
    """(attribute, value) [b], -1 for a record that could not be read."""
    valid = view.batch["example_weight"] > 0
    return tuple(jnp.where(valid, view.batch[name], -1) for name in ("attribute", "value"))


_gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)


def _in_batch(view: View, key: str) -> jax.Array:
    embedding, (attribute, value) = view.outputs[key], _labels(view)
    own = jax.lax.axis_index(AXIS) * len(embedding) + jnp.arange(len(embedding))
    loss = losses.info_nce(
        embedding,
        value,
        _gather(embedding),
        _gather(value),
        own,
        view.config.fine_grained.temperature,
        group=attribute,
        all_group=_gather(attribute),
    )
    return supervised.weighted_mean(loss, view.batch)


def _contrast(view: View) -> jax.Array:
    embeddings = (view.outputs[name] for name in ("region", "patch", "complement"))
    rows, spec = losses.AttributeRows(*embeddings, *_labels(view)), view.config.fine_grained
    every = losses.AttributeRows(*map(_gather, rows))
    across = quirks.on(view.config, "r15_other_attributes_are_negatives")
    loss = losses.foreground_background(rows, every, spec.temperature, spec.alpha, across_attributes=across)
    return supervised.weighted_mean(loss, view.batch)


def _align(view: View) -> jax.Array:
    """ASEN++'s: summed over anchor, positive and negative."""
    loss = losses.cosine_alignment(view.outputs["region"], view.outputs["patch"])
    roles = 3 if view.triplet_weight is not None else 1
    return roles * supervised.weighted_mean(loss, view.batch)


def _value(view: View) -> jax.Array:
    attribute, value = _labels(view)
    known = (attribute >= 0) & (value >= 0)
    loss = losses.softmax_ce(view.outputs["value_logits"], jnp.where(known, value, 0))
    return supervised.selected_mean(loss, known.astype(jnp.float32))


# triplet, patch_triplet and contrast are RPF's, align is ASEN++'s; in_batch and patch_in_batch take the batch
# of all devices, value classifies the region
TERMS: dict[str, Callable[[View], jax.Array]] = {
    "triplet": functools.partial(_triplet, key="region"),
    "patch_triplet": functools.partial(_triplet, key="patch"),
    "contrast": _contrast,
    "align": _align,
    "in_batch": functools.partial(_in_batch, key="region"),
    "value": _value,
    "patch_in_batch": functools.partial(_in_batch, key="patch"),
}


# ------------------------------------------------------------------------------ records, evaluation
def make_preprocess(config: ConfigDict) -> Callable:
    """See `data.fine_grained.make_preprocess`; with a patch branch there is a canvas."""
    canvas, mirrored = None, lambda record: False
    if config.model.patch:
        canvas = examples.check_canvases(config.canvas_size, config.test_canvases, config.image_size)
        if jax.process_count() > 1:  # each host collates its own share: all must have one shape
            canvas = canvas._replace(test=canvas.test[-1:])
    if quirks.on(config, "r4_flipped_at_evaluation"):

        def mirrored(record) -> bool:
            return preprocess.rng_of(config.seed, record).random() < config.mirror

    rounded = quirks.on(config, "r11_two_crop_offsets")
    return examples.make_preprocess(config.image_size, canvas, mirrored, rounded=rounded)


def sampler(config: ConfigDict, column: Callable) -> Sampler:
    """The order of the training stream."""
    spec = config.fine_grained
    labels = [column(name) for name in ("attribute", "value", "record")]
    if spec.sampler == "image":
        return attribute_samplers.whole_images(*labels, len(supervised.label_names(config, "attribute")))
    if spec.sampler == "in_batch":
        return attribute_samplers.attribute_balanced(*labels, spec.group_values, spec.group_images)
    strict = not quirks.on(config, "r6_negative_may_be_positive")
    return attribute_samplers.attribute_triplets(
        *labels, spec.triplets, strict=strict, by_image=config.model.variant == "asen"
    )


def predictions(config: ConfigDict, outputs: dict) -> dict:
    """Of (image, attribute) pairs: embedding [b d] of unit length, attention [b h w] that sums to 1, crop_box
    [b 4] xyxy in [0, 1] of the image's central square."""
    size, attention = config.image_size, outputs["attention"]
    embedding = unit(outputs["region"])
    if "patch" in outputs:
        embedding = region_patch.fused(outputs["region"], outputs["patch"], config.model.beta)
    x, y, d = jax.vmap(lambda a: attention_crop.square_box(a, config.model.threshold, size))(attention)
    box = jnp.stack([x, y, x + d, y + d], axis=-1) / size
    return {"embedding": embedding, "attention": attention, "crop_box": jnp.minimum(box, 1)}


def metrics(context: Context) -> fine_grained.FineGrainedMetrics:
    """Retrieval per attribute, over all attributes, and the attention inside the parts."""
    return fine_grained.FineGrainedMetrics(context)


def baselines(task: Task, context: Context) -> dict[str, collect.Mapped]:
    """The same ranking by colours alone, whatever the attribute."""
    return {"colour_histogram": collect.Mapped(task.metrics(context), simple.colours)}


ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={"embedding": fine_grained.DEFINITIONS},
    report=report.FineGrainedReport,
    baselines=baselines,
    per_attribute=True,
    command="search",
    unread_labels=("attribute_value",),
    weights=WEIGHTS,
)
