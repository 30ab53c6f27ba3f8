"""FashionNet: the metrics of each of its tasks, from one stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fashionjax.metrics import classification
from fashionjax.metrics.collect import Rows
from fashionjax.metrics.labels import LabelMetrics
from fashionjax.metrics.retrieval import RetrievalMetrics

BLUE = classification.SHARES
BLUE_DEFINITIONS = {
    name.replace("/", "/blue_"): f"{classification.CATEGORY_DEFINITIONS[name]}, by the blue branch"
    for name in BLUE
}
ROI_DEFINITIONS = {
    "standard/roi_hit": "share of visible landmarks inside the RoI that the local branch pools for them",
}


class FashionNetMetrics:
    """The accumulator: labels of whatever the stream predicts, retrieval where records have a role.

    labels: LabelMetrics; retrieval: RetrievalMetrics or None; roi: rows with `roi` [k 4] of each example.
    """

    def __init__(self, context):
        self.context = context
        self.labels, self.blue = LabelMetrics(context.gather), LabelMetrics(context.gather)
        self.roi, self.retrieval = Rows(context.gather), None

    def update(self, prediction: Mapping, batch: Mapping) -> None:
        self.labels.update(prediction, batch)
        if "blue_category_logits" in prediction:
            self.blue.update({"category_logits": prediction["blue_category_logits"]}, batch)
        if "roi" in prediction and "landmark" in batch:
            inside = holds(prediction["roi"], batch["landmark"])
            self.roi.add(
                batch, {"roi": prediction["roi"], "inside": inside, "visibility": batch["visibility"]}
            )
        if "embedding" in prediction and "role" in batch:
            self.retrieval = self.retrieval or RetrievalMetrics(self.context)
            self.retrieval.update(prediction, batch)

    def result(self) -> dict[str, float]:
        result = self.labels.result()
        if self.blue.rows.filled():
            found = self.blue.result()
            result |= {name.replace("/", "/blue_"): found[name] for name in BLUE if name in found}
        if self.roi.filled():
            rows = self.roi.whole()
            seen = rows["visibility"] > 0.5
            if seen.any():
                result["standard/roi_hit"] = float(rows["inside"][seen].mean())
        if self.retrieval is not None:
            result |= self.retrieval.result()
        return result


def holds(roi: np.ndarray, landmark: np.ndarray) -> np.ndarray:
    """roi [b k 4] xyxy, landmark [b k 2] → whether each lies in its RoI, bool [b k]."""
    return np.all((landmark >= roi[..., :2]) & (landmark <= roi[..., 2:]), axis=-1)


class WhereRoles:
    """An accumulator that counts where records are of a query or a gallery; its result is {} elsewhere."""

    def __init__(self, accumulator):
        self.accumulator, self.seen = accumulator, False

    def update(self, prediction: Mapping, batch: Mapping) -> None:
        if "role" in batch:
            self.seen = True
            self.accumulator.update(prediction, batch)

    def result(self) -> dict[str, float]:
        return self.accumulator.result() if self.seen else {}
