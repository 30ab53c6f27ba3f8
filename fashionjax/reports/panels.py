"""What a report shows, as data: curves, bars, confusion, tiles, tables; and how predictions become them.

The builders go by key: whatever a prediction holds and the truth answers to is shown, whichever task made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import photo
from fashionjax.errors import UserError
from fashionjax.metrics import classification, landmarks
from fashionjax.reports import draw

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


Panel = Curve | Bars | Confusion | Tiles | Table


def panels_from(
    prediction: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    images: Images | None = None,
    ids: Sequence[str] | None = None,
) -> list[Panel]:
    """Whole-split arrays by prediction and batch key → every panel that they allow.

    category_logits [n C] with category [n]; attribute_logits [n a] with attribute [n a]; landmark [n k 2]
    with landmark and visibility [n k] (and predicted visibility [n k] where given). `names` has lists
    `category` and `attribute`; `ids` name the examples under their pictures.
    """
    panels: list[Panel] = []
    if "landmark" in prediction and "landmark" in truth:
        caption = None
        if "category_logits" in prediction and "category" in truth:
            caption = _category_caption(prediction["category_logits"], truth["category"], names["category"])
        panels += landmark_panels(
            images,
            truth["landmark"],
            truth["visibility"],
            prediction["landmark"],
            prediction.get("visibility"),
            caption=caption,
            ids=ids,
        )
    if "attribute_logits" in prediction and "attribute" in truth:
        panels += attribute_panels(prediction["attribute_logits"], truth["attribute"], names["attribute"])
    if "category_logits" in prediction and "category" in truth:
        logits, label = prediction["category_logits"], truth["category"]
        panels += classification_panels(logits, label, names["category"], images, ids)
    return panels


def classification_panels(
    category_logits: np.ndarray,
    category: np.ndarray,
    names: Sequence[str],
    images: Images | None = None,
    ids: Sequence[str] | None = None,
    count: int = 8,
) -> list[Panel]:
    """category_logits [n C], category [n] int → confusion matrix, frequent confusions, surest mistakes."""
    counts = classification.confusion_matrix(category_logits, category)
    panels: list[Panel] = [
        Confusion(
            "Category confusion",
            list(names),
            counts,
            "Row: the true category, column: the predicted one; shade: share of the row.",
        )
    ]
    off = counts - np.diag(np.diag(counts))
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-off, axis=None, kind="stable")[:12]]
    rows = [
        [names[t], names[p], int(off[t, p]), float(off[t, p] / counts[t].sum())]
        for t, p in pairs
        if off[t, p]
    ]
    if rows:
        columns = ["true", "predicted as", "examples", "share of the true category"]
        panels.append(Table("Most frequent confusions", columns, rows))
    if images is not None:
        panels += _mistakes(category_logits, category, names, images, ids, count)
    return panels


def attribute_panels(
    attribute_logits: np.ndarray, attribute: np.ndarray, names: Sequence[str]
) -> list[Panel]:
    """attribute_logits [n a], attribute [n a] 0/1 → average precision of each beside its prevalence."""
    precision = classification.per_attribute_ap(attribute_logits, attribute)
    order = np.argsort(-np.nan_to_num(precision, nan=-1), kind="stable")
    prevalence = classification.prevalence(attribute)
    return [
        Bars(
            "Average precision per attribute",
            [names[i] for i in order],
            precision[order].tolist(),
            prevalence[order].tolist(),
            "prevalence: the score of a random ranking",
            "An attribute without a positive example has no average precision.",
            maximum=1.0,
        )
    ]


def landmark_panels(
    images: Images | None,
    truth: np.ndarray,
    visibility: np.ndarray,
    prediction: np.ndarray,
    predicted_visibility: np.ndarray | None = None,
    error: np.ndarray | None = None,
    caption: Callable[[int], str] | None = None,
    ids: Sequence[str] | None = None,
    count: int = 8,
) -> list[Panel]:
    """truth, prediction [n k 2], visibility [n k] 0/1 → best and worst examples, error curve, slots.

    `error` [n] ranks the examples; by default it is the mean distance over an example's visible points.
    """
    seen = np.asarray(visibility) > 0.5
    if error is None:
        distance = np.where(seen, landmarks.distances(prediction, truth), 0.0)
        error = np.where(seen.any(1), distance.sum(1) / np.maximum(seen.sum(1), 1), np.nan)
    ranked = [int(i) for i in np.argsort(error, kind="stable") if np.isfinite(error[i])]

    def tile(index: int) -> tuple[np.ndarray, str]:
        shown = None if predicted_visibility is None else predicted_visibility[index] >= 0.5
        picture = draw.landmarks(
            photo.display(images(index)), prediction[index], shown, truth[index], seen[index]
        )
        parts = [f"error {error[index]:.3f}", caption(index) if caption else "", ids[index] if ids else ""]
        return picture, " · ".join(part for part in parts if part)

    panels: list[Panel] = []
    if images is not None and ranked:
        half = min(count, (len(ranked) + 1) // 2)
        worst = ranked[max(half, len(ranked) - half) :][::-1]
        panels.append(Tiles("Landmarks: best examples", draw.LEGEND, [tile(i) for i in ranked[:half]]))
        if worst:
            panels.append(Tiles("Landmarks: worst examples", draw.LEGEND, [tile(i) for i in worst]))
    if not seen.any():
        return panels
    limits = np.linspace(0, 0.2, 41)
    share = landmarks.pck_curve(prediction, truth, visibility, limits)
    slots = [f"pair {k // 2 + 1} {'left' if k % 2 == 0 else 'right'}" for k in range(seen.shape[1])]
    by_slot = landmarks.per_slot_error(prediction, truth, visibility).tolist()
    return [
        *panels,
        Curve(
            "Landmarks within a distance",
            "distance / image side",
            "share of visible points",
            {"model": (limits.tolist(), share.tolist())},
        ),
        Bars(
            "Landmark error per slot",
            slots,
            by_slot,
            caption="Mean distance of visible points over the image side; shorter is better. What a pair "
            "marks depends on the garment: collar, sleeve, hem of an upper; waistline, hem of a lower; all "
            "four of a full one.",
        ),
    ]


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
    groups = (
        ("Training loss", "loss", [name for name in series if "loss" in name]),
        ("Metrics during training", "value", tracked),
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


def _category_caption(logits: np.ndarray, category: np.ndarray, names: Sequence[str]) -> Callable[[int], str]:
    def caption(index: int) -> str:
        said, true = names[int(np.argmax(logits[index]))], names[int(category[index])]
        return true if said == true else f"{true}, taken for {said}"

    return caption


def _mistakes(logits, category, names, images, ids, count) -> list[Panel]:
    """The wrong predictions with the highest probability."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    said = probability.argmax(1)
    sure = np.where(said != category, probability.max(1), -1.0)
    chosen = [int(i) for i in np.argsort(-sure, kind="stable")[:count] if sure[i] >= 0]
    tiles = []
    for i in chosen:
        text = f"{names[int(category[i])]}, taken for {names[said[i]]} ({sure[i]:.2f})"
        tiles.append((photo.display(images(i)), text + (f" · {ids[i]}" if ids else "")))
    title, caption = "Category: surest mistakes", "Wrong predictions with the highest probability."
    return [Tiles(title, caption, tiles)] if tiles else []
