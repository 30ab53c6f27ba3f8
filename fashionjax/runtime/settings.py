"""Ranges and choices of the config fields that every run has, checked before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from numbers import Real
from typing import Any

from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.errors import UserError
from fashionjax.runtime import optim, parallel

# field → the values allowed; a field that a config does not have is not checked
CHOICES = {
    "parallel": parallel.MODES,
    "nonfinite": ("skip", "stop"),
    "best_mode": ("max", "min"),
    "dtype": ("float32", "bfloat16"),
    "normalisation": ("auto", "imagenet", "caffe"),
    "optim.optimizer": optim.OPTIMIZERS,
    "optim.schedule": optim.SCHEDULES,
}
# field → the smallest whole number allowed
LEAST = {
    "image_size": 1,
    "canvas_size": 1,
    "batch_size": 1,
    "accumulate": 1,
    "steps": 0,
    "epochs": 0,
    "log_every": 0,
    "eval_every": 0,
    "save_every": 0,
    "workers": 0,
    "seed": 0,
    "optim.warmup_steps": 0,
    "retrieval.per_item": 1,
    "outfit.slots": 1,
    "outfit.candidates": 1,
    "model.cells": 1,
    "feature_views": 0,
}
# field → (least, largest) real number allowed
RANGES = {
    "box_margin": (0.0, math.inf),
    "augment.flip": (0.0, 1.0),
    "augment.erase": (0.0, 1.0),
    "augment.brightness": (0.0, math.inf),
    "augment.contrast": (0.0, math.inf),
    "augment.saturation": (0.0, math.inf),
    "augment.hue": (0.0, 0.5),
    "optim.lr": (0.0, math.inf),
    "optim.momentum": (0.0, 1.0),
    "optim.weight_decay": (0.0, math.inf),
    "optim.gamma": (0.0, math.inf),
    "optim.warmup_ratio": (0.0, 1.0),
    "optim.clip_norm": (0.0, math.inf),
    "model.dropout": (0.0, 1.0),
    "validation.share": (0.0, 1.0),
    "label_smoothing": (0.0, 1.0),
    "class_balance": (0.0, 1.0),
    "blend.mixup": (0.0, 1.0),
    "blend.cutmix": (0.0, 1.0),
    "model.dropout_pooled": (0.0, 1.0),
    "optim.average": (0.0, 0.99999),
}
INTERVALS = ("augment.scale", "augment.ratio")  # (low, high), both positive
PATTERNS = ("init_skip", "optim.frozen")


def check(config: ConfigDict) -> None:
    """UserError for the first field whose value no run can have. Nothing is read, rendered or compiled."""
    for field, allowed in CHOICES.items():
        _require(config, field, lambda x, a=allowed: x in a, f"one of {', '.join(allowed)}")
    for field, least in LEAST.items():
        _require(
            config, field, lambda x, n=least: _whole(x) and x >= n, f"a whole number of at least {least}"
        )
    for field, (least, most) in RANGES.items():
        upper = "" if most == math.inf else f" and at most {most:g}"
        wanted = f"a number of at least {least:g}{upper}"
        _require(config, field, lambda x, a=least, b=most: _real(x) and a <= x <= b, wanted)
    for field in INTERVALS:
        _require(config, field, _interval, "two positive numbers (low, high) with low <= high")
    for field in PATTERNS:
        _require(config, field, lambda x: all(map(_compiles, x)), "regular expressions")
    for name, weight in config.get("loss", {}).items():
        if not _real(weight):
            raise UserError(f"config.loss.{name}={weight!r}: expected a finite number")
    if bool(config.get("steps")) == bool(config.get("epochs")):
        raise UserError(
            f"config.steps={config.get('steps')}, config.epochs={config.get('epochs')}: set exactly one of "
            "them above 0, the other to 0"
        )
    quirks.check(config)


def _require(config: ConfigDict, field: str, holds: Callable[[Any], bool], wanted: str) -> None:
    *parents, name = field.split(".")
    for parent in parents:
        config = config.get(parent, {})
    if name in config and not holds(config[name]):
        raise UserError(f"config.{field}={config[name]!r}: expected {wanted}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _interval(value: Any) -> bool:
    return len(value) == 2 and all(map(_real, value)) and 0 < value[0] <= value[1]


def _compiles(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError):
        return False
    return True
