"""COCO average precision of boxes and masks, accumulated image by image.

The evaluator is hotcoco, whose figures equal pycocotools' (a test compares them); an image is matched when it
is added and only its matches are kept, so memory does not grow with pixels. Lin et al., arXiv:1405.0312.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from fashionjax.errors import UserError

KINDS = {"box": "bbox", "mask": "segm"}  # our name → COCO's
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# figure → its place in COCO's summary, its definition (None: as the one before)
FIGURES = {
    "ap": (0, "average precision, mean over IoU 0.50:0.05:0.95 and categories"),
    "ap50": (1, "average precision at IoU 0.50, mean over categories"),
    "ap75": (2, "average precision at IoU 0.75, mean over categories"),
    "ap_small": (3, "as ap, objects of at most 32² px"),
    "ap_medium": (4, "as ap, objects of 32² to 96² px"),
    "ap_large": (5, "as ap, objects of at least 96² px"),
    "ar@1": (6, "recall with the k best detections per image and category; mean over IoU 0.50:0.05:0.95"),
    "ar@10": (7, None),
    "ar@100": (8, None),
    "ar_small": (9, "as ar@100, objects of at most 32² px"),
    "ar_medium": (10, "as ar@100, objects of 32² to 96² px"),
    "ar_large": (11, "as ar@100, objects of at least 96² px"),
}
DEFINITIONS = {
    f"standard/{kind}_{figure.replace('@1', '@k')}": f"COCO, {plural}: {text}"
    for kind, plural in (("box", "boxes"), ("mask", "masks"))
    for figure, (_, text) in FIGURES.items()
    if text
}


class Curves(NamedTuple):
    """Precision over recall. NaN for a category without an object."""

    recall: np.ndarray  # [101]
    threshold: np.ndarray  # [t] IoU
    precision: np.ndarray  # [t 101 categories]


class CocoEvaluator:
    """Accumulates detections and ground truth; `result` gives COCO's twelve figures per kind, as fractions.

    categories: names in the order of the labels. kinds: "box", "mask" or both. ids: category ids in result
    files, 1 … n if None. results_file: where to write detections as COCO results json while they come; it
    appears under that name when `close` is called.
    """

    def __init__(
        self,
        categories: Sequence[str],
        *,
        kinds: Sequence[str] = ("box", "mask"),
        ids: Sequence[int] | None = None,
        results_file: str | os.PathLike | None = None,
    ):
        if not set(kinds) <= set(KINDS) or not kinds:
            raise UserError(f"kinds of evaluation are {', '.join(KINDS)}; got {', '.join(kinds) or 'none'}")
        self.categories = list(categories)
        self.ids = np.arange(1, len(self.categories) + 1) if ids is None else np.asarray(ids, np.int64)
        if len(self.ids) != len(self.categories) or len(set(self.ids.tolist())) != len(self.ids):
            raise UserError(
                f"{len(self.categories)} categories need as many different ids; got {list(self.ids)}"
            )
        listed = [{"id": int(i), "name": name} for i, name in zip(self.ids, self.categories, strict=True)]
        self.streams = {kind: hotcoco.StreamingEval(listed, iou_type=KINDS[kind]) for kind in kinds}
        self.results = None if results_file is None else ResultsWriter(results_file)
        self.images: set[int] = set()
        self.objects = np.zeros(len(self.categories), np.int64)  # per category, crowds left out
        self.annotations = 0
        self.evaluated: dict[str, Any] | None = None

    def update(self, prediction: dict, batch: dict) -> None:
        """Adds the valid images of a batch. Boxes are xyxy in pixels of the original image.

        prediction: box [b n 4], score [b n], category [b n] int, detection_valid [b n] bool; for masks `rle`
        [b n], compressed counts or RLE dicts.
        batch: image_id, height, width, example_valid [b]; truth_box [b g 4], truth_category [b g] int,
        truth_valid [b g] bool; for masks truth_rle [b g]; optional truth_crowd [b g] bool (default: none) and
        truth_area [b g] (default: the mask's where masks are evaluated, else the box's), truth_masked [b g]
        bool: objects without a mask are, for masks, regions that count neither for nor against.
        """
        if self.evaluated is not None:
            raise ValueError("update after result")
        chosen = np.flatnonzero(np.asarray(batch["example_valid"], bool))
        image_id = np.asarray(batch["image_id"])[chosen].astype(np.int64)
        size = [(int(batch["height"][b]), int(batch["width"][b])) for b in chosen]
        for i in image_id.tolist():
            if i in self.images:
                raise UserError(f"image id {i} came twice; COCO evaluation needs each image once")
            self.images.add(i)
        images = [
            {"id": i, "height": h, "width": w} for i, (h, w) in zip(image_id.tolist(), size, strict=True)
        ]
        truth = self._truth(batch, chosen, image_id, size)
        rows = self._rows(prediction, chosen, image_id)
        masks = None
        if "mask" in self.streams or (self.results and "rle" in prediction):
            masks = self._masks(prediction["rle"], prediction["detection_valid"], chosen, size)
        for kind, stream in self.streams.items():
            if kind == "box":
                stream.update(images, [annotation for annotation, _ in truth], rows)
            else:
                # without a box, so that a detection's area is its mask's
                found = [
                    {
                        "image_id": int(r[0]),
                        "category_id": int(r[6]),
                        "score": float(r[5]),
                        "segmentation": mask,
                    }
                    for r, mask in zip(rows, masks, strict=True)
                ]
                stream.update(images, [of_masks for _, of_masks in truth], found)
        if self.results:
            self.results.add(rows, masks)

    def _truth(self, batch, chosen, image_id, size) -> list[tuple[dict, dict]]:
        """The annotations as they count for boxes and for masks."""
        annotations = []
        for b, i, (h, w) in zip(chosen, image_id.tolist(), size, strict=True):
            for g in np.flatnonzero(np.asarray(batch["truth_valid"][b], bool)):
                x1, y1, x2, y2 = (float(v) for v in batch["truth_box"][b][g])
                label = int(batch["truth_category"][b][g])
                if not 0 <= label < len(self.ids):
                    raise UserError(f"image id {i}: category {label} of an object; there are {len(self.ids)}")
                crowd = "truth_crowd" in batch and bool(batch["truth_crowd"][b][g])
                self.annotations += 1
                annotation = {
                    "id": self.annotations,
                    "image_id": i,
                    "category_id": int(self.ids[label]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(crowd),
                }
                if "mask" in self.streams:
                    annotation["segmentation"] = _rle(batch["truth_rle"][b][g], h, w)
                    annotation["area"] = float(hotcoco.mask.area(annotation["segmentation"]))
                if "truth_area" in batch:
                    annotation["area"] = float(batch["truth_area"][b][g])
                self.objects[label] += not crowd
                of_masks = annotation
                if "mask" in self.streams and "truth_masked" in batch and not batch["truth_masked"][b][g]:
                    # detections of masks inside of its box count neither for nor against
                    of_masks = annotation | {"iscrowd": 1, "segmentation": _box_rle(x1, y1, x2, y2, h, w)}
                annotations.append((annotation, of_masks))
        return annotations

    def _rows(self, prediction, chosen, image_id) -> np.ndarray:
        """Valid detections [m 7] float64: image id, x, y, w, h, score, category id."""
        valid = np.asarray(prediction["detection_valid"], bool)[chosen]
        box = np.asarray(prediction["box"], np.float64)[chosen][valid]
        score = np.asarray(prediction["score"], np.float64)[chosen][valid]
        label = np.asarray(prediction["category"], np.int64)[chosen][valid]
        image = np.repeat(image_id, valid.sum(axis=1))
        wrong = ~(np.isfinite(box).all(axis=1) & np.isfinite(score))
        if wrong.any():
            raise UserError(f"image id {image[wrong][0]}: a detection is not finite; the model has diverged")
        if ((label < 0) | (label >= len(self.ids))).any():
            raise UserError(f"a detection has category {label.max()}; there are {len(self.ids)} categories")
        side = box[:, 2:] - box[:, :2]
        return np.column_stack([image, box[:, :2], side, score, self.ids[label]])

    @staticmethod
    def _masks(rle, valid, chosen, size) -> list[dict]:
        return [
            _rle(rle[b][n], h, w)
            for b, (h, w) in zip(chosen, size, strict=True)
            for n in np.flatnonzero(np.asarray(valid[b], bool))
        ]

    def _evaluate(self) -> dict[str, Any]:
        if self.evaluated is None:
            if not self.objects.sum():
                raise UserError(f"none of the {len(self.images)} images has an object; AP is not defined")
            self.evaluated = {}
            for kind, stream in self.streams.items():
                evaluation = stream.finalize()
                evaluation.accumulate()
                self.evaluated[kind] = evaluation
        return self.evaluated

    def result(self) -> dict[str, float]:
        """{standard/KIND_FIGURE: value} as fractions.

        A figure without an object (a size that does not occur) is left out. Images without objects count:
        their detections are false positives. A split without any object is a UserError.
        """
        stats = {kind: _summary(evaluation) for kind, evaluation in self._evaluate().items()}
        return {
            f"standard/{kind}_{name}": float(values[place])
            for name, (place, _) in FIGURES.items()
            for kind, values in stats.items()
            if values[place] > -1
        }

    def curves(self, kind: str = "box") -> Curves:
        """Precision over recall at every IoU threshold, all sizes, at most 100 detections per image."""
        precision = np.asarray(self._evaluate()[kind].eval["precision"], np.float64)[:, :, :, 0, -1]
        return Curves(RECALLS, IOU_THRESHOLDS, np.where(precision > -1, precision, np.nan))

    def per_category(self) -> list[dict]:
        """One row a category: category, objects, and KIND_ap (None without an object), as fractions."""
        rows = [
            {"category": c, "objects": int(n)} for c, n in zip(self.categories, self.objects, strict=True)
        ]
        for kind in self.streams:
            precision = self.curves(kind).precision
            for c, row in enumerate(rows):
                ap = precision[:, :, c].mean()
                row[f"{kind}_ap"] = None if np.isnan(ap) else float(ap)
        return rows

    def close(self) -> None:
        """Completes the results file."""
        if self.results:
            self.results.close()


def _summary(evaluation) -> np.ndarray:
    """COCO's 12 figures from the accumulated arrays, -1 where nothing is in range."""
    precision = np.asarray(evaluation.eval["precision"], np.float64)  # [t r c a m]
    recall = np.asarray(evaluation.eval["recall"], np.float64)  # [t c a m]

    def mean(values):
        values = values[values > -1]
        return values.mean() if values.size else -1.0

    best = precision[..., -1]
    ap = [mean(best[..., 0]), mean(best[0, ..., 0]), mean(best[5, ..., 0])]
    ap += [mean(best[..., a]) for a in (1, 2, 3)]
    ar = [mean(recall[:, :, 0, m]) for m in (0, 1, 2)] + [mean(recall[:, :, a, -1]) for a in (1, 2, 3)]
    return np.array(ap + ar)


def _rle(value, height: int, width: int) -> dict:
    """Compressed counts (bytes or str) or an RLE dict -> RLE dict."""
    if isinstance(value, dict):
        return value
    return {"size": [height, width], "counts": value.decode() if isinstance(value, bytes) else str(value)}


def _box_rle(x1: float, y1: float, x2: float, y2: float, height: int, width: int) -> dict:
    """The pixels of a box as RLE."""
    return hotcoco.mask.frPoly([x1, y1, x2, y1, x2, y2, x1, y2], height, width)


class ResultsWriter:
    """COCO results json, written image by image beside the file and renamed to it by `close`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.file = self.partial.open("w")
        self.file.write("[")
        self.first = True

    def add(self, rows: np.ndarray, masks: list[dict] | None) -> None:
        """rows [m 7] as `CocoEvaluator` makes them, their masks."""
        for n, row in enumerate(rows):
            result = {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": [round(float(v), 3) for v in row[1:5]],
                "score": round(float(row[5]), 6),
            }
            if masks is not None:
                counts = masks[n]["counts"]
                counts = counts.decode() if isinstance(counts, bytes) else counts
                result["segmentation"] = {"size": [int(v) for v in masks[n]["size"]], "counts": counts}
            self.file.write(("\n" if self.first else ",\n") + json.dumps(result))
            self.first = False

    def close(self) -> None:
        if not self.file.closed:
            self.file.write("\n]\n")
            self.file.close()
            os.replace(self.partial, self.path)
