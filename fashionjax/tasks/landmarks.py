"""Landmark detection: coordinates and visibility of the eight clothing landmarks.

`config.model.head` is regression (MMFashion's detector) or heatmap.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from ml_collections import ConfigDict

from fashionjax import losses, quirks
from fashionjax.errors import UserError
from fashionjax.metrics import landmarks as landmark_metrics
from fashionjax.models import heads, landmark_detector, pooled_features
from fashionjax.models.heads import FRAME
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.reports import attributes as attribute_report
from fashionjax.reports import baselines as simple
from fashionjax.reports.photo_results import LABELLED
from fashionjax.task import Batch, Task, TaskEntry, Weights
from fashionjax.tasks import attributes, supervised

HEADS = ("regression", "heatmap")


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    return supervised.make_task(
        config,
        make_model(config),
        arguments=lambda batch: {"image": batch["image"]},
        loss_terms=functools.partial(loss_terms, config),
        predictions=attributes.predictions,
        metrics=functools.partial(attributes.metrics, config),
    )


def make_model(config: ConfigDict) -> LandmarkDetector:
    """The flax module of a config."""
    if config.model.head not in HEADS:
        raise UserError(f"config.model.head={config.model.head!r}: use one of {', '.join(HEADS)}")
    heatmap = config.model.head == "heatmap"
    return LandmarkDetector(
        backbone=attributes.make_backbone(config),
        hidden=config.model.hidden,
        features=config.model.features,
        landmarks=supervised.landmark_count(config),
        landmark_head=attributes.make_landmark_head(config) if heatmap else None,
        dtype=jnp.dtype(config.dtype),
    )


def loss_terms(config: ConfigDict, outputs: dict, batch: Batch, params: dict) -> dict:
    """regression: upstream's squared error in pixels of the 224 frame; heatmap: as the joint model."""
    if config.model.head == "heatmap":
        return attributes.landmark_terms(config, outputs, batch)
    xy = losses.landmark_regression_zoo(outputs["landmark"], batch["landmark"], batch["visibility"], FRAME)
    double = quirks.on(config, "s9_double_sigmoid")
    visibility_loss = losses.visibility_bce_double_sigmoid if double else losses.visibility_bce
    seen = visibility_loss(outputs["visibility_logits"], batch["visibility"])
    return {
        "loss_landmark": config.loss.landmark * supervised.weighted_mean(xy, batch),
        "loss_visibility": config.loss.visibility * supervised.weighted_mean(seen, batch),
    }


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The fields of a config whose model has these parts."""
    head = "heatmap" if "heatmap head" in parts else "regression"
    return f"task=landmarks model.backbone={backbone} model.pooling={pooling} model.head={head}"


def fit_config(config: ConfigDict, shapes: dict, known: dict, given: bool = False) -> list[str]:
    """The labels of the dataset; landmarks named by number where the file has more or fewer of them."""
    remarks = supervised.fit_labels({}, config, shapes, known, given)
    count, here = landmark_detector.landmarks_from_shapes(shapes), supervised.landmark_count(config)
    if count not in (None, here):
        remarks.append(f"{count} landmarks are named by number ({config.dataset} has {here})")
        with config.unlocked():
            config.labels = ConfigDict(
                {name: value for name, value in config.labels.items() if name != "landmark_flip"}
                | {"landmark": supervised.numbered("landmark", count)}
            )
    return remarks


WEIGHTS = Weights(
    key_rules=lambda model, keys=None: pooled_features.torch_keys(model),
    parts={part: heads.PARTS[part] for part in ("landmark head", "heatmap head")},
    defining=("landmark head", "heatmap head"),
    from_shapes=landmark_detector.from_shapes,
    pooling=pooled_features.pooling,
    fitting_config=fitting_config,
    fit_config=fit_config,
)
ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={
        "landmark": landmark_metrics.POINT_DEFINITIONS,
        "visibility": landmark_metrics.VISIBILITY_DEFINITIONS,
    },
    report=attribute_report.LabelReport,
    baselines=simple.labelled,
    command="predict",
    photo_results=LABELLED,
    weights=WEIGHTS,
)
