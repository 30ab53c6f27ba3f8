"""COCO's figures of a detector, from the batches of an evaluation as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import instances, masks
from fashionjax.data.detections import Found, found_in
from fashionjax.metrics.detection import CocoEvaluator

RESULTS_FILE = "detections.json"


class Annotated(NamedTuple):
    """The annotated objects of an image, in its stored pixels."""

    image_id: str
    coco_id: int
    height: int
    width: int
    box: np.ndarray  # [n 4] xyxy
    category: np.ndarray  # [n]
    rle: list[dict]
    crowd: np.ndarray  # [n] bool
    area: np.ndarray  # [n]
    masked: np.ndarray  # [n] bool, objects that have a mask


def annotated(record: Mapping, **truth: bool) -> Annotated:
    """A record's objects; `truth`: arguments of `instances.instances`."""
    found = instances.instances(record, **truth)
    coco_id, height, width = (int(record[name]) for name in ("coco_id", "height", "width"))
    rle = [masks.rle(value, height, width) for value in found.segmentation]
    name = str(record["image_id"])
    masked = np.asarray([masks.is_mask(value) for value in found.segmentation], bool)
    boxes = (found.box, found.category, rle, found.iscrowd, found.area)
    return Annotated(name, coco_id, height, width, *boxes, masked)


class DetectionMetrics:
    """The accumulator of detectors. Ground truth is read from the records as the batches pass; an image is
    matched when it is seen, and OUT/detections.json grows with it where the evaluation writes files.

    ids: category ids of result files. `truth`: arguments of `instances.instances`. shop_only: images of
    users do not count (`Context.exclude`). On several hosts each batch's detections, masks as RLE, are
    gathered and all hosts match all images: what is kept is the matches, as on one.
    """

    def __init__(
        self,
        categories: Sequence[str],
        context: Any,
        *,
        ids: Sequence[int] | None = None,
        masks: bool = True,
        legacy: bool = False,
        truth: Mapping[str, bool],
        shop_only: bool = False,
    ):
        self.context, self.legacy, self.truth = context, legacy, dict(truth)
        self.shop_only = shop_only
        file = None if context.out is None else context.out / RESULTS_FILE
        kinds = ("box", "mask") if masks else ("box",)
        self.evaluator = CocoEvaluator(categories, kinds=kinds, ids=ids, results_file=file)
        self.measured: dict[str, float] | None = None
        self.sampled: dict[int, tuple[Found, Annotated] | None] = {}  # the records whose entry a report shows

    def update(self, prediction: dict, batch: dict) -> None:
        chosen = np.flatnonzero(np.asarray(batch["example_valid"], bool))
        entries = np.empty(len(chosen), object)
        for n, b in enumerate(chosen.tolist()):
            entries[n] = self._entry({name: value[b] for name, value in prediction.items()}, batch, b)
        rows = self.context.gather({"index": np.asarray(batch["index"])[chosen], "entry": entries})
        for index, entry in zip(rows.get("index", ()), rows.get("entry", ()), strict=True):
            if entry is None:
                self.context.exclude([int(index)])
            else:
                self._add(int(index), *entry)

    def _entry(self, outputs: dict, batch: dict, b: int) -> tuple[Found, Annotated] | None:
        """Example b of a batch, found and annotated; None where it does not count."""
        record = self.context.record(int(batch["index"][b]))
        if self.shop_only and int(record["source"]) != instances.SHOP:
            return None
        found = found_in(outputs, batch["size"][b], batch["original_size"][b], legacy=self.legacy)
        return found, annotated(record, **self.truth)

    def _add(self, index: int, found: Found, truth: Annotated) -> None:
        if index in self.sampled:
            self.sampled[index] = (found, truth)
        batch = {"image_id": [truth.coco_id], "height": [truth.height], "width": [truth.width]}
        batch |= {"example_valid": [True], "truth_valid": np.ones((1, len(truth.box)), bool)}
        batch |= {"truth_box": truth.box[None], "truth_category": truth.category[None]}
        batch |= {"truth_crowd": truth.crowd[None], "truth_area": truth.area[None], "truth_rle": [truth.rle]}
        batch["truth_masked"] = truth.masked[None]
        prediction = {"box": found.box[None], "score": found.score[None], "category": found.category[None]}
        prediction["detection_valid"] = np.ones((1, len(found.score)), bool)
        if found.rle is not None:
            prediction["rle"] = [found.rle]
        self.evaluator.update(prediction, batch)

    def result(self) -> dict[str, float]:
        if self.measured is None:
            self.measured = self.evaluator.result()
            self.evaluator.close()
        return self.measured
