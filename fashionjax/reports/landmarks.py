"""Panels of landmarks: best and worst examples, error curve, error per slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fashionjax.data import photo
from fashionjax.metrics import landmarks
from fashionjax.reports import draw
from fashionjax.reports.panels import Bars, Curve, Images, Panel, Tiles


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
