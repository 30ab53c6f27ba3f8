"""Attribute, category and landmark metrics of whatever a stream both predicts and labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fashionjax.metrics import classification, landmarks
from fashionjax.metrics.collect import Rows

LANDMARK_KEYS = ("landmark", "visibility")


class LabelMetrics:
    """The accumulator of tasks on labelled images.

    Reads attribute_logits [b a] with attribute [b a], category_logits [b c] with category [b], landmark
    [b k 2] (and visibility [b k]) with landmark and visibility; goes by the keys that prediction and batch
    share. Kept of an example: its attribute scores, its landmarks, and the rank of its true category.
    `zoo_batch_size`, `zoo_every`: as `landmarks.landmark_metrics`.
    """

    def __init__(self, gather=lambda rows: rows, *, zoo_batch_size: int | None = None, zoo_every: int = 1):
        self.rows = Rows(gather)
        self.categories = 0
        self.zoo = {"zoo_batch_size": zoo_batch_size, "zoo_every": zoo_every}

    def update(self, prediction: Mapping, batch: Mapping) -> None:
        kept = {}
        if "attribute_logits" in prediction and "attribute" in batch:
            kept |= {"attribute_score": prediction["attribute_logits"], "attribute": batch["attribute"]}
        if "category_logits" in prediction and "category" in batch:
            self.categories = np.shape(prediction["category_logits"])[1]
            kept |= classification.category_rows(prediction["category_logits"], batch["category"])
        if "landmark" in prediction and "landmark" in batch:
            kept |= {name: batch[name] for name in LANDMARK_KEYS}
            kept |= {f"predicted_{name}": prediction[name] for name in LANDMARK_KEYS if name in prediction}
        self.rows.add(batch, kept)

    def result(self) -> dict[str, float]:
        rows, result = self.rows.whole(), {}
        if "attribute" in rows:
            result |= classification.attribute_metrics(rows["attribute_score"], rows["attribute"])
        if "category" in rows:
            result |= classification.category_metrics_of(rows, self.categories)
        if "landmark" in rows:
            result |= landmarks.landmark_metrics(
                rows["predicted_landmark"],
                rows["landmark"],
                rows["visibility"],
                rows.get("predicted_visibility"),
                **self.zoo,
            )
        return result
