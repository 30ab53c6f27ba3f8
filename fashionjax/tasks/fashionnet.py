"""FashionNet: landmarks with three states of visibility, category, attributes and a triplet embedding.

`config.loss` has a weight per term of `TERMS`; a stage of training is a choice of terms and of what
`config.optim.frozen` leaves alone. `config.part` says what a prediction computes (models.fashionnet.PARTS).
`config.balance` holds the share of positive attribute labels, by which the attribute loss weighs positives
and negatives, and a weight per category ((): all 1).

Source of the losses: src/FashionNet.ipynb of Jasonsey/FashionNet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.data import samplers
from fashionjax.data.preprocess import VISIBLE
from fashionjax.errors import UserError
from fashionjax.metrics import classification, collect, landmarks, retrieval
from fashionjax.metrics import fashionnet as fashionnet_metrics
from fashionjax.models import fashionnet
from fashionjax.models.backbones.vgg import VGG
from fashionjax.models.fashionnet import FashionNet, RoISettings
from fashionjax.ops.distances import unit
from fashionjax.reports import baselines as simple
from fashionjax.reports import fashionnet as fashionnet_report
from fashionjax.reports.photo_results import LABELLED
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry, Weights
from fashionjax.tasks import attributes, supervised
from fashionjax.tasks import retrieval as retrieval_task

TRUNK_STAGES = 4
TRUNCATED, ABSENT = 2, 3  # landmark_state beside 0 visible and 1 occluded
# the folders of the In-shop benchmark, in the order of the original's outputs
CATEGORIES = (
    *(f"MEN/{name}" for name in ("Denim", "Jackets_Vests", "Pants", "Shirts_Polos", "Shorts", "Suiting")),
    *(f"MEN/{name}" for name in ("Sweaters", "Sweatshirts_Hoodies", "Tees_Tanks")),
    *(f"WOMEN/{name}" for name in ("Blouses_Shirts", "Cardigans", "Denim", "Dresses", "Graphic_Tees")),
    *(f"WOMEN/{name}" for name in ("Jackets_Coats", "Leggings", "Pants", "Rompers_Jumpsuits", "Shorts")),
    *(f"WOMEN/{name}" for name in ("Skirts", "Sweaters", "Sweatshirts_Hoodies", "Tees_Tanks")),
)
OUTSIDE = 1e-6  # where an absent landmark is put under F7: (0, 0) itself would not move with the image


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    _check(config)
    return supervised.make_task(
        config,
        make_model(config),
        arguments=lambda batch: {"image": batch["image"]},
        loss_terms=functools.partial(loss_terms, config),
        predictions=predictions,
        metrics=fashionnet_metrics.FashionNetMetrics,
        sampler=order if "triplet" in config.loss else None,
        preprocess=make_preprocess(config),
    )


def make_model(config: ConfigDict) -> FashionNet:
    """The flax module of a config."""
    spec, on = config.model, functools.partial(quirks.on, config)
    backbone = attributes.make_backbone(config)
    if not isinstance(backbone, VGG):
        raise UserError(f"config.model.backbone={spec.backbone!r}: FashionNet's trunk is a VGG: vgg16, vgg11")
    running = spec.blue_running and not on("f11_frozen_blue_uses_batch")
    return FashionNet(
        backbone=backbone.clone(
            stages=TRUNK_STAGES, frozen_bn=running
        ),  # whoever freezes blue freezes it too
        categories=len(supervised.label_names(config, "category")),
        attributes=len(supervised.label_names(config, "attribute")),
        landmarks=supervised.landmark_count(config),
        fc=spec.fc,
        green=spec.green,
        roi=RoISettings(
            on("f1_rois_of_first_image"), on("f2_roi_logits"), on("f3_roi_corner"), on("f4_roi_two_points")
        ),
        part=config.part,
        blue_running=running,
        bn_axis_name=AXIS if spec.sync_bn else None,
        dtype=jnp.dtype(config.dtype),
    )


def _check(config: ConfigDict) -> None:
    terms = set(config.loss)
    if not terms or terms - set(TERMS):
        raise UserError(f"config.loss has {', '.join(terms) or 'no term'}: use {', '.join(TERMS)}")
    if config.part not in fashionnet.PARTS:
        raise UserError(f"config.part={config.part!r}: use one of {', '.join(fashionnet.PARTS)}")
    rate, weights = config.balance.attribute_rate, config.balance.category_weights
    if not 0 < rate < 1:
        raise UserError(f"config.balance.attribute_rate={rate}: expected a share above 0 and below 1")
    count = len(config.get("labels", {}).get("category", ()))
    if len(weights) and len(weights) != count:
        raise UserError(
            f"config.balance.category_weights has {len(weights)} weights and {config.dataset} has {count} "
            "categories; expected a weight for each, or ()"
        )
    if "triplet" in terms and config.accumulate > 1:
        raise UserError("config.accumulate cuts triplets; set it to 1, or leave config.loss.triplet out")


# ------------------------------------------------------------------------------ records and their order
def make_preprocess(config: ConfigDict) -> Callable:
    """As of retrieval, and landmark_state i32 [k]: 0 visible, 1 occluded, 2 truncated (also: outside of the
    frame), 3 the garment has no such landmark."""
    base = retrieval_task.make_preprocess(config)
    absent_visible, outside_visible, first = (
        quirks.on(config, name)
        for name in ("f7_absent_landmarks_visible", "f9_outside_stays_visible", "f10_no_attribute_is_first")
    )
    category = collapsed(config.get("labels", {}).get("category", ()))
    if not quirks.on(config, "f6_categories_collapsed"):
        category = np.arange(len(category), dtype=np.int32)

    def run(record: dict, rng) -> dict:
        example = base(record, rng)
        if "role" not in record:  # a split alone is no query against a gallery
            example.pop("role", None)
        if "category" in record:
            example["category"] = category[example["category"]]
        if first and "attribute" in record and not example["attribute"].any():
            example["attribute"] = np.eye(1, len(example["attribute"]), dtype=np.uint8)[0]
        if "visibility" in record:
            state = np.array(record["visibility"], np.int32)
            absent = state == ABSENT
            if not outside_visible:
                state[(state == VISIBLE) & (example["visibility"] == 0)] = TRUNCATED
            if absent_visible and rng is not None:  # metrics go by the landmarks that there are
                state[absent], example["visibility"][absent] = VISIBLE, 1
                example["landmark"][absent] = OUTSIDE
            example["landmark_state"] = state
        return example

    return run


def collapsed(names) -> np.ndarray:
    """Category names such as WOMEN/Shorts → i32 [c]: the first category whose name ends alike."""
    garments = [name.rpartition("/")[2] for name in names]
    return np.asarray([garments.index(garment) for garment in garments], np.int32)


def order(column: Callable[[str], np.ndarray]) -> samplers.Sampler:
    """Triplets of items: anchor, positive and negative take turns."""
    return samplers.triplets(column("item_id"))


# ------------------------------------------------------------------------------ loss
def loss_terms(config: ConfigDict, outputs: dict, batch: Batch, params: dict) -> dict:
    """Weighted terms by name, `loss_<term>`."""
    del params
    return {
        f"loss_{name}": weight * TERMS[name](config, outputs, batch) for name, weight in config.loss.items()
    }


def _category(key: str, config: ConfigDict, outputs: dict, batch: Batch) -> jax.Array:
    """Cross-entropy of the logits `key`, times the weight of the true category."""
    per_example = losses.softmax_ce(outputs[key], batch["category"])
    if len(config.balance.category_weights):
        per_example *= jnp.asarray(config.balance.category_weights, jnp.float32)[batch["category"]]
    return supervised.weighted_mean(per_example, batch)


def _attribute(config: ConfigDict, outputs: dict, batch: Batch) -> jax.Array:
    """Binary cross-entropies, summed: positives weigh the share of negatives and the other way round."""
    positive, negative = 1 - config.balance.attribute_rate, config.balance.attribute_rate
    if quirks.on(config, "f5_attribute_weights_swapped"):
        positive, negative = negative, positive
    per_example = losses.balanced_bce(outputs["attribute_logits"], batch["attribute"], positive, negative)
    return supervised.weighted_mean(per_example, batch)


def _state(config: ConfigDict, batch: Batch) -> jax.Array:
    """landmark_state after the crop, which truncates what it cuts off."""
    state = batch["landmark_state"]
    if quirks.on(config, "f9_outside_stays_visible"):
        return state
    return jnp.where((state == VISIBLE) & (batch["visibility"] == 0), TRUNCATED, state)


def _landmark(config: ConfigDict, outputs: dict, batch: Batch) -> jax.Array:
    """Squared error of visible points in image sides, summed over them."""
    seen = _state(config, batch) == VISIBLE
    per_example = losses.landmark_square(outputs["landmark"], batch["landmark"], seen)
    return supervised.weighted_mean(per_example, batch)


def _visibility(config: ConfigDict, outputs: dict, batch: Batch) -> jax.Array:
    """Cross-entropy of the states, summed over the landmarks that the garment has."""
    per_example = losses.state_ce(outputs["state_logits"], _state(config, batch))
    return supervised.weighted_mean(per_example, batch)


def _triplet(config: ConfigDict, outputs: dict, batch: Batch) -> jax.Array:
    """Hinge on the squared distances of unit embeddings, over the triplets whose images could all be read."""
    embedding = unit(outputs["embedding"])
    supervised.check_triplets(len(embedding))
    loss = losses.l2_triplet(*(embedding[role::3] for role in range(3)), config.triplet_margin)
    whole = rearrange(batch["example_weight"], "(b t) -> t b", t=3).min(axis=0) > 0
    return supervised.selected_mean(loss, whole.astype(jnp.float32))


TERMS = {
    "blue_category": functools.partial(_category, "blue_category_logits"),
    "landmark": _landmark,
    "visibility": _visibility,
    "category": functools.partial(_category, "category_logits"),
    "attribute": _attribute,
    "triplet": _triplet,
}


# ------------------------------------------------------------------------------ predictions
def predictions(outputs: Mapping) -> dict:
    """Model outputs → prediction keys; of the blue part alone its category is the category."""
    names = ("category_logits", "blue_category_logits", "attribute_logits", "embedding", "landmark", "roi")
    result = {name: outputs[name] for name in names if name in outputs}
    if "category_logits" not in result:
        result["category_logits"] = result.pop("blue_category_logits")
    if "state_logits" in outputs:
        result["visibility"] = jax.nn.softmax(outputs["state_logits"])[..., VISIBLE]
    return result


def baselines(task: Task, context: Context) -> dict:
    """Those of labelled images, and colours alone where there is a query and a gallery."""
    colours = collect.Mapped(retrieval.RetrievalMetrics(context), simple.colours)
    return simple.labelled(task, context) | {"colour_histogram": fashionnet_metrics.WhereRoles(colours)}


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The fields of a config whose model has these parts."""
    del pooling, parts
    return f"task=fashionnet model.backbone={backbone}"


def fit_config(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, list], given: bool = False
) -> list[str]:
    """Labels and widths of a Keras file into `config`; → remarks. See `task.Weights.fit_config`."""
    remarks, labels = [], dict(known)
    if shapes and not labels.get("category"):
        labels["category"] = list(CATEGORIES)
    heads = {"category": ("category head", 1), "attribute": ("attribute head", 1)}
    heads["landmark"] = ("landmark head", fashionnet.POINT)
    for label, (part, each) in heads.items() if shapes else ():
        shape = shapes.get(fashionnet.FILE_PARTS[part], ())
        have = len(labels.get(label, ()))
        default = (
            supervised.landmark_count(config) if label == "landmark" else 1
        )  # of a file that lacks the head
        width = shape[-1] // each if len(shape) == 2 else have or default
        unnamed = label == "landmark" and not have and width == supervised.DEEPFASHION_SLOTS
        if width != have and not unnamed:
            labels[label] = supervised.numbered(label, width)
            dataset = f"has {have}" if have else "is not prepared or has none"
            remarks.append(f"{width} {label} outputs are named by number ({config.dataset} {dataset})")
    with config.unlocked():
        config.labels = ConfigDict(labels)
        for field, name in (("fc", "red_fc1/kernel"), ("green", "green_fc1/kernel")):
            if len(shapes.get(name, ())) == 2:
                config.model[field] = shapes[name][1]
    return remarks


WEIGHTS = Weights(
    key_rules=lambda model, keys=None: fashionnet.keras_keys(model),
    parts=fashionnet.FILE_PARTS,
    defining=("landmark head", "blue category head", "category head"),
    from_shapes=fashionnet.from_shapes,
    pooling=lambda shapes: "landmark",
    fitting_config=fitting_config,
    fit_config=fit_config,
    copies=lambda config: fashionnet.FIFTH_STAGE if config.model.backbone == "vgg16" else {},
)
ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={
        "category_logits": classification.CATEGORY_DEFINITIONS,
        "blue_category_logits": fashionnet_metrics.BLUE_DEFINITIONS,
        "attribute_logits": classification.ATTRIBUTE_DEFINITIONS,
        "landmark": landmarks.POINT_DEFINITIONS,
        "visibility": landmarks.VISIBILITY_DEFINITIONS,
        "roi": fashionnet_metrics.ROI_DEFINITIONS,
        "embedding": retrieval.DEFINITIONS,
    },
    report=fashionnet_report.FashionNetReport,
    baselines=baselines,
    command="predict",
    also_serves=("search",),
    parts=fashionnet.PARTS,
    photo_results=LABELLED,
    unread_labels=("item_id", "attribute_group"),
    weights=WEIGHTS,
)
