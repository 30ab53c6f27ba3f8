"""Attributes, and category with attributes: MMFashion's predictors, and the joint model with landmarks.

`config.model.labels_predicted`: names of attribute, category, landmark (the last needs a landmark head).
`config.model.pooling` is global or roi, `config.model.landmark_source` given or predicted; a model that
predicts its landmarks works on a bare photo.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.data import samplers
from fashionjax.errors import UserError
from fashionjax.metrics import classification, landmarks
from fashionjax.metrics.labels import LabelMetrics
from fashionjax.models import backbones, heads, pooled_features, predictor
from fashionjax.models.predictor import Predictor
from fashionjax.reports import attributes as attribute_report
from fashionjax.reports import baselines as simple
from fashionjax.reports.photo_results import LABELLED
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry, Weights
from fashionjax.tasks import supervised

LABELS = ("attribute", "category", "landmark")


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    return supervised.make_task(
        config,
        make_model(config),
        arguments=functools.partial(model_inputs, config),
        loss_terms=functools.partial(loss_terms, config),
        predictions=predictions,
        metrics=functools.partial(metrics, config),
        sampler=functools.partial(order, config) if config.get("class_balance", 0.0) else None,
    )


def order(config: ConfigDict, column: Callable) -> samplers.Sampler:
    """Rare categories more often, by `config.class_balance`."""
    return samplers.class_balanced(column("category"), config.class_balance)


def make_model(config: ConfigDict) -> Predictor:
    """The flax module of a config."""
    spec = config.model
    unknown = set(spec.labels_predicted) - set(LABELS)
    if unknown or not spec.labels_predicted:
        raise UserError(
            f"config.model.labels_predicted={tuple(spec.labels_predicted)}: names of {', '.join(LABELS)}"
        )
    needs_head = "landmark" in spec.labels_predicted or spec.landmark_source == "predicted"
    return Predictor(
        **pooled_feature_fields(config, landmark_head=needs_head),
        attributes=len(supervised.label_names(config, "attribute"))
        if "attribute" in spec.labels_predicted
        else None,
        categories=len(supervised.label_names(config, "category"))
        if "category" in spec.labels_predicted
        else None,
    )


def pooled_feature_fields(config: ConfigDict, *, landmark_head: bool) -> dict:
    """The fields of a `PooledFeatures`, which attribute models and retrievers share."""
    spec = config.model
    return {
        "backbone": make_backbone(config),
        "pooling": spec.pooling,
        "global_pooling": spec.global_pooling,
        "hidden": spec.hidden,
        "features": spec.features,
        "landmark_source": spec.landmark_source,
        "landmark_head": make_landmark_head(config) if landmark_head else None,
        "roi_levels": tuple(spec.roi_levels),
        "global_levels": tuple(spec.global_levels),
        "dropout": spec.dropout,
        "cells": spec.get("cells", 1),
        "dropout_pooled": spec.get("dropout_pooled", 0.0),
        "normalise_pooled": spec.normalise_pooled,
        "bn_axis_name": AXIS if spec.sync_bn else None,
        "dtype": jnp.dtype(config.dtype),
    }


def make_backbone(config: ConfigDict):
    """`config.model.backbone` with its overrides (width and the like) and the run's dtype and batch-norm."""
    fields = {name: value for name, value in config.model.backbone_fields.items() if value is not None}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if "resnet" in config.model.backbone or config.model.backbone.endswith("_bn"):
        fields["bn_axis_name"] = AXIS if config.model.sync_bn else None
    try:
        return backbones.build(config.model.backbone, dtype=jnp.dtype(config.dtype), **fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model.backbone={config.model.backbone!r}: {error}") from error


def make_landmark_head(config: ConfigDict):
    return heads.HeatmapHead(
        features=config.model.landmark_features,
        levels=config.model.landmark_levels,
        landmarks=supervised.landmark_count(config),
        bn_axis_name=AXIS if config.model.sync_bn else None,
        dtype=jnp.dtype(config.dtype),
        parent=None,
    )


def model_inputs(config: ConfigDict, batch: Batch, roles: int = 1) -> dict:
    """The arguments of the model that come from the batch; `roles` as for `quirks.roi_landmark`."""
    given = {"image": batch["image"]}
    if config.model.pooling == "roi" and config.model.landmark_source == "given":
        if "landmark" not in batch:
            raise UserError(
                "this model pools at given landmarks and the input has none; give photos --landmarks=DIR, a "
                "checkpoint that detects them, or use a model trained with landmark_source=predicted"
            )
        given["landmark"] = quirks.roi_landmark(config, batch, roles)
        given["align_corners"] = quirks.on(config, "s5_align_corners")
    return given


def loss_terms(config: ConfigDict, outputs: dict, batch: Batch, params: dict) -> dict:
    """Weighted terms by name; each is the mean over the batch's readable examples."""
    weight, terms, smoothing = config.loss, {}, config.get("label_smoothing", 0.0)
    if "attribute" in config.model.labels_predicted:
        target = batch["attribute"]
        if smoothing:
            target = target * (1 - smoothing) + smoothing / 2
        per_example = losses.sigmoid_bce(outputs["attribute_logits"], target)
        if quirks.on(config, "s14_mean_sigmoid_loss"):
            per_example = jax.nn.sigmoid(outputs["attribute_logits"]).mean(axis=-1)
        terms["loss_attribute"] = weight.attribute * supervised.weighted_mean(per_example, batch)
    if "category" in config.model.labels_predicted:
        per_example = losses.softmax_ce(outputs["category_logits"], batch["category"], smoothing)
        terms["loss_category"] = weight.category * supervised.weighted_mean(per_example, batch)
    if "landmark" in config.model.labels_predicted:
        terms |= landmark_terms(config, outputs, batch)
    return terms


def landmark_terms(config: ConfigDict, outputs: dict, batch: Batch) -> dict:
    """Mean absolute error of the visible points in image sides, and cross-entropy of the visibility."""
    xy = losses.landmark_regression(outputs["landmark"], batch["landmark"], batch["visibility"], jnp.abs)
    seen = losses.visibility_bce(outputs["visibility_logits"], batch["visibility"])
    return {
        "loss_landmark": config.loss.landmark * supervised.weighted_mean(xy, batch),
        "loss_visibility": config.loss.visibility * supervised.weighted_mean(seen, batch),
    }


def predictions(outputs: dict) -> dict:
    """Model outputs → prediction keys: logits, landmark [b k 2] in [0, 1], visibility [b k] probability."""
    result = {
        name: outputs[name] for name in ("attribute_logits", "category_logits", "landmark") if name in outputs
    }
    if "visibility_logits" in outputs:
        result["visibility"] = jax.nn.sigmoid(outputs["visibility_logits"])
    return result


def metrics(config: ConfigDict, context: Context) -> LabelMetrics:
    """Every metric whose prediction and truth are in the stream.

    Under quirk S11 the zoo's landmark metrics are means over every 20th batch of `config.zoo_test_batch`.
    """
    if not quirks.on(config, "s11_every_20th_batch"):
        return LabelMetrics(context.gather)
    return LabelMetrics(context.gather, zoo_batch_size=config.zoo_test_batch, zoo_every=landmarks.ZOO_EVERY)


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The fields of a config whose model has these parts."""
    labels = [part.removesuffix(" head") for part in parts if part in ("attribute head", "category head")]
    fields = f"model.backbone={backbone} model.pooling={pooling}"
    return f"task=attributes {fields} model.labels_predicted=({', '.join(labels)})"


LABEL_HEADS = {label: heads.PARTS[f"{label} head"] for label in ("attribute", "category")}
WEIGHTS = Weights(
    key_rules=lambda model, keys=None: pooled_features.torch_keys(model),
    parts={part: heads.PARTS[part] for part in ("attribute head", "category head", "heatmap head")},
    defining=("attribute head", "category head"),
    from_shapes=predictor.from_shapes,
    pooling=pooled_features.pooling,
    fitting_config=fitting_config,
    fit_config=functools.partial(supervised.fit_labels, LABEL_HEADS),
)
ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={
        "attribute_logits": classification.ATTRIBUTE_DEFINITIONS,
        "category_logits": classification.CATEGORY_DEFINITIONS,
        "landmark": landmarks.POINT_DEFINITIONS,
        "visibility": landmarks.VISIBILITY_DEFINITIONS,
    },
    report=attribute_report.LabelReport,
    baselines=simple.labelled,
    command="predict",
    photo_results=LABELLED,
    weights=WEIGHTS,
)
