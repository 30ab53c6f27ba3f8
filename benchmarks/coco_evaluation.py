"""COCO evaluation at DeepFashion2's size: the project's accumulator, and the libraries it could rest on.

python -m benchmarks.coco_evaluation [--images=32000] [--detections=100] [--kinds=box,mask] [--compare=1000]

Synthetic annotations of 13 categories, 1 to 4 objects an image of 256x256; of an image's detections 6 are
near an object, the others are anywhere. Timed are `update` with padded batches of 64 images and `result`,
not the drawing of the data; masks are ellipses as RLE. `compare` is the number of images for pycocotools,
faster-coco-eval and hotcoco, from lists of annotations and results in memory to the 12 figures (those that
are installed). `peak_mb` is the memory of the process after it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import resource
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import hardware
from fashionjax.data import masks
from fashionjax.metrics.detection import CocoEvaluator

CATEGORIES, SIDE, OBJECTS, NEAR, BATCH = 13, 256, 4, 6, 64
LIBRARIES = {
    "pycocotools": ("pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster"),
    "hotcoco": ("hotcoco", "COCO", "hotcoco", "COCOeval"),
}


def ellipse(box) -> bytes:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = (box[0] + box[2]) / 2 + (box[2] - box[0]) / 2 * np.cos(angle)
    y = (box[1] + box[3]) / 2 + (box[3] - box[1]) / 2 * np.sin(angle)
    return masks.rle_from_polygons([np.stack([x, y], axis=1).ravel()], SIDE, SIDE)["counts"]


def random_boxes(rng, shape) -> np.ndarray:
    side = np.exp(rng.uniform(np.log(12), np.log(200), (*shape, 2)))
    corner = rng.uniform(0, SIDE - side)
    return np.concatenate([corner, corner + side], axis=-1)


def batches(images: int, detections: int, with_masks: bool):
    """(prediction, batch) pairs as `CocoEvaluator.update` takes them."""
    rng = np.random.default_rng(0)
    for first in range(0, images, BATCH):
        b = min(BATCH, images - first)
        truth = random_boxes(rng, (b, OBJECTS))
        category = rng.integers(0, CATEGORIES, (b, OBJECTS))
        box = random_boxes(rng, (b, detections))
        label = rng.integers(0, CATEGORIES, (b, detections))
        near = min(NEAR, detections)
        of = rng.integers(0, OBJECTS, (b, near))
        box[:, :near] = np.take_along_axis(truth, of[..., None], axis=1) + rng.normal(0, 4, (b, near, 4))
        label[:, :near] = np.take_along_axis(category, of, axis=1)
        box = np.clip(box, 0, SIDE)
        prediction = {
            "box": box.astype(np.float32),
            "score": np.where(np.arange(detections) < near, 0.5, 0) + rng.random((b, detections)),
            "category": label,
            "detection_valid": (box[..., 2:] > box[..., :2]).all(axis=-1),
        }
        batch = {
            "image_id": np.arange(first, first + b) + 1,
            "height": np.full(b, SIDE),
            "width": np.full(b, SIDE),
            "example_valid": np.ones(b, bool),
            "truth_box": truth,
            "truth_category": category,
            "truth_valid": np.arange(OBJECTS) < rng.integers(1, OBJECTS + 1, (b, 1)),
        }
        if with_masks:
            prediction["rle"] = [[ellipse(x) for x in row] for row in prediction["box"]]
            batch["truth_rle"] = [[ellipse(x) for x in row] for row in truth]
        yield prediction, batch


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def accumulated(kind: str, images: int, detections: int) -> dict:
    evaluator = CocoEvaluator([f"c{i}" for i in range(CATEGORIES)], kinds=(kind,))
    update = 0.0
    for prediction, batch in batches(images, detections, kind == "mask"):
        start = time.perf_counter()
        evaluator.update(prediction, batch)
        update += time.perf_counter() - start
    start = time.perf_counter()
    figures = evaluator.result()
    row = {"kind": kind, "images": images, "detections": detections}
    row |= {
        "update_s": round(update, 2),
        "result_s": round(time.perf_counter() - start, 2),
        "peak_mb": peak_mb(),
    }
    return row | {"ap": round(figures[f"standard/{kind}_ap"], 6)}


def as_lists(kind: str, images: int, detections: int) -> tuple[dict, list]:
    """The same data as a COCO dataset and a list of results."""
    dataset = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": f"c{i}"} for i in range(CATEGORIES)],
    }
    results = []
    for prediction, batch in batches(images, detections, kind == "mask"):
        for b, image in enumerate(batch["image_id"].tolist()):
            dataset["images"].append({"id": image, "height": SIDE, "width": SIDE})

            def entry(box, label, rle, image=image):
                x1, y1, x2, y2 = (float(v) for v in box)
                made = {"image_id": image, "category_id": int(label) + 1}
                if kind == "mask":
                    return made | {"segmentation": {"size": [SIDE, SIDE], "counts": rle.decode()}}
                return made | {"bbox": [x1, y1, x2 - x1, y2 - y1]}

            for g in np.flatnonzero(batch["truth_valid"][b]):
                rle = batch["truth_rle"][b][g] if kind == "mask" else None
                made = entry(batch["truth_box"][b, g], batch["truth_category"][b, g], rle)
                x1, y1, x2, y2 = batch["truth_box"][b, g]
                area = masks.area(made["segmentation"]) if kind == "mask" else (x2 - x1) * (y2 - y1)
                made |= {"id": len(dataset["annotations"]) + 1, "iscrowd": 0, "area": float(area)}
                made.setdefault("bbox", [float(x1), float(y1), float(x2 - x1), float(y2 - y1)])
                dataset["annotations"].append(made)
            for n in np.flatnonzero(prediction["detection_valid"][b]):
                rle = prediction["rle"][b][n] if kind == "mask" else None
                made = entry(prediction["box"][b, n].astype(np.float64), prediction["category"][b, n], rle)
                results.append(made | {"score": float(prediction["score"][b, n])})
    return dataset, results


def library_row(name: str, kind: str, dataset: dict, results: list) -> dict:
    coco_module, coco, eval_module, evaluation = LIBRARIES[name]
    coco = getattr(importlib.import_module(coco_module), coco)
    evaluation = getattr(importlib.import_module(eval_module), evaluation)
    dataset, results = json.loads(json.dumps(dataset)), json.loads(json.dumps(results))
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "pycocotools":
            truth = coco()
            truth.dataset = dataset
            truth.createIndex()
        else:
            truth = coco(dataset)
        found = truth.loadRes(results)
        evaluated = evaluation(truth, found, {"box": "bbox", "mask": "segm"}[kind])
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    seconds = round(time.perf_counter() - start, 2)
    return {
        "library": name,
        "kind": kind,
        "seconds": seconds,
        "stats": [float(s) for s in evaluated.stats[:12]],
    }


def compared(kind: str, images: int, detections: int) -> list[dict]:
    """Seconds and largest difference from pycocotools' 12 figures, of the libraries that are installed."""
    dataset, results = as_lists(kind, images, detections)
    rows = []
    for name in LIBRARIES:
        try:
            importlib.import_module(LIBRARIES[name][0])
        except ImportError:
            continue
        rows.append(library_row(name, kind, dataset, results) | {"images": images})
    reference = next((row["stats"] for row in rows if row["library"] == "pycocotools"), None)
    for row in rows:
        stats = row.pop("stats")
        if reference:
            row["largest_difference"] = float(np.max(np.abs(np.subtract(stats, reference))))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32_000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--kinds", default="box,mask")
    parser.add_argument("--compare", type=int, default=1000, help="images for the libraries, 0 for none")
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    rows, load = [], os.getloadavg()[0]
    for kind in args.kinds.split(","):
        found = compared(kind, args.compare, args.detections) if args.compare else []
        if args.images:
            found.append(accumulated(kind, args.images, args.detections))
        for row in found:
            print(json.dumps(row), flush=True)
        rows += found
    about = {
        "hardware": hardware.describe(jax.devices()),
        "load_average_before": round(load, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
    }
    if args.out:
        Path(args.out).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
