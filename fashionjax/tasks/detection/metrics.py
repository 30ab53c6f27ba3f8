"""COCO's figures of a detector, from the batches of an evaluation as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import instances, masks
from fashionjax.data.detections import Found, found_in
from fashionjax.metrics.collect import Rows
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
    users do not count (`Context.exclude`). On several hosts the detections wait, masks as RLE, until all of
    them are gathered.
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
        several_hosts: bool = False,
    ):
        self.context, self.legacy, self.truth = context, legacy, dict(truth)
        self.shop_only = shop_only
        file = None if context.out is None else context.out / RESULTS_FILE
        kinds = ("box", "mask") if masks else ("box",)
        self.evaluator = CocoEvaluator(categories, kinds=kinds, ids=ids, results_file=file)
        self.waiting = Rows(context.gather) if several_hosts else None
        self.measured: dict[str, float] | None = None
        self.sampled: dict[int, tuple[Found, Annotated] | None] = {}  # the records whose entry a report shows

    def update(self, prediction: dict, batch: dict) -> None:
        entries, rows = [], []
        for b in np.flatnonzero(np.asarray(batch["example_valid"], bool)).tolist():
            index = int(batch["index"][b])
            record = self.context.record(index)
            if self.shop_only and int(record["source"]) != instances.SHOP:
                if self.waiting is None:
                    self.context.exclude([index])
                continue
            rows.append(b)
            found = found_in(
                {name: value[b] for name, value in prediction.items()},
                batch["size"][b],
                batch["original_size"][b],
                legacy=self.legacy,
            )
            entries.append((index, found, annotated(record, **self.truth)))
        if self.waiting is None:
            for entry in entries:
                self._add(*entry)
            return
        waiting = np.empty(len(batch["index"]), object)  # None: not counted
        for b, entry in zip(rows, entries, strict=True):
            waiting[b] = entry
        self.waiting.add(batch, {"entry": waiting})

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
            if self.waiting is not None:
                whole = self.waiting.whole()
                self.context.exclude([int(i) for i, e in zip(whole["index"], whole["entry"]) if e is None])
                for entry in whole["entry"]:
                    if entry is not None:
                        self._add(*entry)
            self.measured = self.evaluator.result()
            self.evaluator.close()
        return self.measured
