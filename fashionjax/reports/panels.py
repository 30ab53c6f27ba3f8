"""What a page shows, as data: curves, bars, confusion, tiles, tables; and the curves of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionjax.errors import UserError

# of the evaluations during training, the ones that are plotted
TRACKED = (
    "standard/category_top1",
    "standard/attribute_map",
    "standard/landmark_ne_visible",
    "standard/visibility_accuracy",
    "standard/recall@1",
    "standard/recall@5",
    "standard/map",
)
Images = Callable[[int], np.ndarray]  # example number → uint8 [h w 3], the view that the model was given


class Curve(NamedTuple):
    title: str
    xlabel: str
    ylabel: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name → (x, y)
    caption: str = ""


class Bars(NamedTuple):
    title: str
    names: Sequence[str]
    values: Sequence[float]  # NaN: not defined for this one
    reference: Sequence[float] | None = None  # a mark on each bar, e.g. prevalence
    reference_name: str = ""
    caption: str = ""
    maximum: float | None = None  # length of a full bar; default: the largest value


class Confusion(NamedTuple):
    title: str
    names: Sequence[str]
    counts: np.ndarray  # [C C] int, row: truth, column: prediction
    caption: str = ""


class Tiles(NamedTuple):
    title: str
    caption: str
    tiles: Sequence[tuple[np.ndarray, str]]  # (uint8 [h w 3], caption)


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    printed: bool = False  # `evaluate` prints it too


Panel = Curve | Bars | Confusion | Tiles | Table


def training_curves(*logs: str | Path) -> list[Panel]:
    """The scalars that training logged, one JSON object with `step` a line → curves of loss, metrics, rate.

    A file that is not there is left out, as is a last line cut off by a kill; any other bad line is a
    UserError.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    for log in map(Path, logs):
        for step, scalars in _records(log) if log.is_file() else ():
            for name, value in scalars.items():
                if isinstance(value, int | float) and np.isfinite(value):
                    x, y = series.setdefault(name, ([], []))
                    x.append(step)
                    y.append(value)
    tracked = [name for name in series if name.endswith(TRACKED)]
    tracked = tracked or [name for name in series if "standard/" in name][:5]
    losses = [name for name in series if "loss" in name]
    if len(losses) == 2 and series[losses[0]] == series[losses[1]]:  # a loss of one term
        losses = losses[:1]
    groups = (
        ("Training loss", "loss", losses),
        ("Metrics during training", tracked[0] if len(tracked) == 1 else "value", tracked),
        ("Learning rate", "rate", [name for name in series if name == "lr"]),
    )
    return [
        Curve(title, "step", label, {n: series[n] for n in names}) for title, label, names in groups if names
    ]


def _records(path: Path) -> list[tuple[int, dict]]:
    records, lines = [], path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append((record.pop("step"), record))
        except (ValueError, KeyError, AttributeError) as error:
            if number < len(lines):
                raise UserError(
                    f"{path}, line {number}: no JSON object with `step`; remove the line"
                ) from error
    return records
