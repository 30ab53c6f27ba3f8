"""What an evaluation of FashionNet shows: its labels, what its local branch pooled, and what it retrieves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fashionjax.data import photo
from fashionjax.metrics.fashionnet import FashionNetMetrics
from fashionjax.reports import draw
from fashionjax.reports.attributes import LabelReport, images_of
from fashionjax.reports.panels import Bars, Panel, Tiles
from fashionjax.reports.retrieval import RetrievalReport

SHOWN = 8  # images with their RoIs


class FashionNetReport:
    """`metrics` is the FashionNetMetrics of the same stream, whose rows are shown."""

    def __init__(self, context, metrics: FashionNetMetrics):
        self.context, self.metrics = context, metrics

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep."""

    def panels(self) -> list[Panel]:
        """RoIs first, then every panel of labels and of retrieval that the rows allow."""
        panels = self._rois() if self.metrics.roi.filled() else []
        panels += LabelReport(self.context, self.metrics.labels).panels()
        return panels + (self._matches.panels() if self._matches else [])

    def artifacts(self) -> list[Path]:
        """matches.jsonl, where there is a query and a gallery."""
        return self._matches.artifacts() if self._matches else []

    @property
    def _matches(self) -> RetrievalReport | None:
        found = self.metrics.retrieval
        return None if found is None else RetrievalReport(self.context, found)

    def _rois(self) -> list[Panel]:
        rows, labels = self.metrics.roi.whole(), self.metrics.labels.rows.whole()
        image, ids = images_of(self.context, rows)
        seen = rows["visibility"] > 0.5
        chosen = np.flatnonzero(seen.any(axis=1))
        chosen = chosen[np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).round().astype(int)]
        said = labels.get("predicted_visibility")
        tiles = []
        for row in np.unique(chosen).tolist():
            visible = None if said is None else said[row] >= 0.5
            shown = rois(
                photo.display(image(row)),
                rows["roi"][row],
                seen[row],
                labels["predicted_landmark"][row],
                visible,
            )
            hit = int((rows["inside"][row] & seen[row]).sum())
            tiles.append(
                (shown, f"{ids[row]} · {hit} of {int(seen[row].sum())} visible landmarks in their RoI")
            )
        inside = [
            float(rows["inside"][seen[:, k], k].mean()) if seen[:, k].any() else np.nan
            for k in range(seen.shape[1])
        ]
        names = self.context.config.labels.get("landmark") or [
            f"landmark {k + 1}" for k in range(len(inside))
        ]
        caption = (
            "Frames: what the local branch pools for the landmarks that the annotation calls visible. Marks: "
            "predicted landmarks, filled where predicted visible, rings where not; discs left, squares right."
        )
        return [
            Tiles("RoIs of the local branch", caption, tiles),
            Bars(
                "Visible landmarks inside their RoI",
                list(names),
                inside,
                caption="Share of a landmark's visible points inside the RoI that is pooled for it.",
                maximum=1.0,
            ),
        ]


def rois(
    image: np.ndarray,
    roi: np.ndarray,
    shown: np.ndarray,
    landmark: np.ndarray,
    visible: np.ndarray | None = None,
) -> np.ndarray:
    """image uint8 [h w 3] at display size, roi [k 4] xyxy and landmark [k 2] in image sides, `shown` [k] bool
    → the image with the RoIs and landmarks that are shown."""
    height, width = image.shape[:2]
    corners = np.asarray(roi, np.float64)[shown] * [width, height, width, height]
    return draw.landmarks(draw.boxes(image, corners), np.where(shown[:, None], landmark, np.nan), visible)
