"""Labels and landmarks of one photo: a model's outputs → a `Prediction`, and the photo with it drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fashionjax.reports import draw
from fashionjax.results import Label, Landmark, Prediction
from fashionjax.task import PhotoResults, Seen


def parts(output: Mapping[str, np.ndarray], seen: Seen) -> dict[str, tuple]:
    """category_logits [c], attribute_logits [a], landmark [k 2] in [0, 1] of the frame with visibility [k]:
    those that are there → the fields of a Prediction."""
    found: dict[str, tuple] = {}
    if "category_logits" in output:
        logits = np.asarray(output["category_logits"], np.float64)
        share = np.exp(logits - logits.max())
        found["category"] = _best(share / share.sum(), seen.names["category"], seen.topk)
    if "attribute_logits" in output:
        logits = np.asarray(output["attribute_logits"], np.float64)
        found["attribute"] = _best(np.exp(-np.logaddexp(0.0, -logits)), seen.names["attribute"], seen.topk)
    if "landmark" in output:
        frame = np.asarray(seen.example["frame"], np.float64)
        points = frame[:2] + np.asarray(output["landmark"], np.float64) * (frame[2:] - frame[:2])
        visible = np.asarray(output.get("visibility", np.ones(len(points)))) >= 0.5
        known = seen.names.get("landmark") or [f"landmark_{n}" for n in range(1, len(points) + 1)]
        found["landmark"] = tuple(
            Landmark(str(name), round(float(x), 2), round(float(y), 2), bool(shown))
            for name, (x, y), shown in zip(known, points, visible, strict=True)
        )
    return found


def annotate(shown: np.ndarray, result: Prediction) -> np.ndarray:
    """Landmarks on the photo, scores below it."""
    if result.landmark is not None:
        size = np.asarray([result.width, result.height], np.float64)
        points = np.asarray([[point.x, point.y] for point in result.landmark]) / size
        shown = draw.landmarks(shown, points, np.asarray([point.visible for point in result.landmark]))
    lines: list[str] = []
    scores: list[float | None] = []
    for part, labels in (("category", result.category), ("attribute", result.attribute)):
        if labels:
            lines += [part, *(label.name for label in labels)]
            scores += [None, *(label.score for label in labels)]
    return draw.caption(shown, lines, scores) if lines else shown


def _best(scores: np.ndarray, names: Sequence[str], topk: int) -> tuple[Label, ...]:
    order = np.argsort(-scores, kind="stable")[:topk]
    return tuple(Label(str(names[i]), round(float(scores[i]), 6)) for i in order)


LABELLED = PhotoResults(Prediction, parts, annotate)
