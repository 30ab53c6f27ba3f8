"""The report of a detector: images with their objects drawn, precision over recall, AP per category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fashionjax.data.detections import category_ids, found_in, listed
from fashionjax.reports import draw_instances
from fashionjax.reports.panels import Bars, Curve, Panel, Table, Tiles
from fashionjax.results import Instance, Segmentation
from fashionjax.task import PhotoResults, Seen

SHOWN, SIDE, GAP = 12, 360, 6  # images that are drawn; pixels: their longer side, between the two of a pair
SCORE = 0.3  # detections that are drawn
THRESHOLDS = (0.5, 0.75, 0.9)  # IoU of the curves
KINDS = {"box": "boxes", "mask": "masks"}
COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APs": "ap_small",
    "APm": "ap_medium",
    "APl": "ap_large",
}


class DetectionReport:
    """`metrics` is the DetectionMetrics of the same stream; it keeps what was found in the sampled images."""

    def __init__(self, context, metrics):
        self.context, self.metrics = context, metrics
        step = max(context.size // SHOWN, 1)
        metrics.sampled = dict.fromkeys(range(0, context.size, step)[:SHOWN])

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep."""

    def panels(self) -> list[Panel]:
        evaluator = self.metrics.evaluator
        kinds = tuple(evaluator.streams)
        result: list[Panel] = [self._images(), summary(kinds, self.metrics.result())]
        for kind in kinds:
            result.append(precision_recall(kind, evaluator.curves(kind)))
        rows = evaluator.per_category()
        for kind in kinds:
            result.append(
                Bars(
                    f"AP per category: {KINDS[kind]}",
                    [row["category"] for row in rows],
                    [np.nan if row[f"{kind}_ap"] is None else row[f"{kind}_ap"] for row in rows],
                    caption="Mean over IoU 0.50:0.05:0.95; empty where no image has the category.",
                    maximum=1.0,
                )
            )
        columns = ["category", "objects", *(f"{kind} AP (%)" for kind in kinds)]
        result.append(Table("AP per category", columns, [_row(row, kinds) for row in rows]))
        return result

    def artifacts(self) -> list[Path]:
        """detections.json, which the metrics have written as the images passed."""
        results = self.metrics.evaluator.results
        return [results.path] if results else []

    def _images(self) -> Tiles:
        names, tiles = self.metrics.evaluator.categories, []
        for record, sample in self.metrics.sampled.items():
            if sample is None:  # unreadable, or not counted
                continue
            found, truth = sample
            image = self.context.image(record)
            scale = np.tile([image.shape[1] / truth.width, image.shape[0] / truth.height], 2)
            left = draw_instances.instances(
                image, truth.box * scale, truth.category, names, truth.rle, side=SIDE
            )
            best = found.score >= SCORE
            rle = None if found.rle is None else [mask for mask, kept in zip(found.rle, best) if kept]
            boxes, category, score = (found.box * scale)[best], found.category[best], found.score[best]
            right = draw_instances.instances(image, boxes, category, names, rle, score, SIDE)
            gap = np.full((left.shape[0], GAP, 3), 255, np.uint8)
            tiles.append((np.concatenate([left, gap, right], axis=1), truth.image_id))
        return Tiles(
            "Instances",
            f"Left the annotation, right what was found with a score of {SCORE} or more. Evenly spread over "
            "the split, not chosen.",
            tiles,
        )


def summary(kinds: Sequence[str], metrics: Mapping[str, float]) -> Table:
    """The six APs in percent, in the columns of detectron2's tables and of the published ones."""
    figures = [[metrics.get(f"standard/{kind}_{name}") for name in COLUMNS.values()] for kind in kinds]
    rows = [
        [KINDS[kind], *(None if value is None else 100 * value for value in values)]
        for kind, values in zip(kinds, figures, strict=True)
    ]
    return Table("AP (%)", ["instances", *COLUMNS], rows)


def _row(row: dict, kinds: Sequence[str]) -> list:
    values = [row[f"{kind}_ap"] for kind in kinds]
    return [row["category"], row["objects"], *(None if v is None else 100 * v for v in values)]


def precision_recall(kind: str, curves) -> Curve:
    """Precision over recall at a few IoU thresholds, mean over the categories that have objects."""
    series = {}
    for threshold in THRESHOLDS:
        place = int(np.argmin(np.abs(curves.threshold - threshold)))
        precision = curves.precision[place]
        known = ~np.isnan(precision).all(axis=0)
        mean = precision[:, known].mean(axis=1)
        series[f"IoU {threshold:.2f}"] = (curves.recall.tolist(), mean.tolist())
    return Curve(f"Precision and recall: {KINDS[kind]}", "recall", "precision", series)


# ------------------------------------------------------------------------------ one photo
def parts(output: dict, seen: Seen) -> dict[str, tuple]:
    """A detector's outputs for one photo → its instances in the photo's pixels, best first; all of them,
    whatever `topk`."""
    labels, legacy = seen.config.labels, seen.config.model.geometry.inclusive_boxes
    found = found_in(output, seen.example["size"], seen.example["original_size"], legacy=legacy)
    entries = listed(found, labels.category, category_ids(labels))
    return {"instances": tuple(Instance(**entry | {"box": tuple(entry["box"])}) for entry in entries)}


def annotate(shown: np.ndarray, result: Segmentation) -> np.ndarray:
    """Instances with a score of `SCORE` or more, drawn on the photo."""
    kept = [instance for instance in result.instances if instance.score >= SCORE]
    scale = np.tile([shown.shape[1] / result.width, shown.shape[0] / result.height], 2)
    masks = [instance.segmentation for instance in kept]
    return draw_instances.instances(
        shown,
        np.asarray([instance.box for instance in kept]).reshape(-1, 4) * scale,
        [instance.category_id for instance in kept],
        {instance.category_id: instance.category for instance in kept},
        None if None in masks else masks,
        [instance.score for instance in kept],
    )


PHOTO_RESULTS = PhotoResults(Segmentation, parts, annotate)
