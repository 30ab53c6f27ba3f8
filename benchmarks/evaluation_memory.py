"""Peak memory of an evaluation at several sizes of split: metrics, baselines and report of a task.

    python -m benchmarks.evaluation_memory [attributes] [RECORDS …]
    python -m benchmarks.evaluation_memory detection [RECORDS …]

attributes: a tiny untrained model (VGG-11 of width 4, 32 px) with 1,000 attributes, 50 categories and 8
landmarks sees random records. detection: random detections, 100 an image with 28 x 28 masks, in the form in
which a detector returns them, of random annotations of 13 categories; no network runs. Each size is a process
of its own; one JSON line per size.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from experiments import demo, mask_rcnn
from fashionjax import evaluate, tasks
from fashionjax.data.preprocess import VISIBLE
from fashionjax.inference import model as inference
from fashionjax.runtime import parallel, state
from fashionjax.task import Context, Task, TaskEntry

SIZES = {"attributes": (1_000, 10_000), "detection": (1_000, 30_000)}
ATTRIBUTES, CATEGORIES, LANDMARKS = 1000, 50, 8


class RandomSplit:
    """Records of random labels; 16 different images in turn."""

    dataset, name, labels = "random", "test", {}

    def __init__(self, count: int):
        self.count, rng = count, np.random.default_rng(0)
        self.images = [_jpeg(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(16)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        return {
            "image": self.images[index % 16],
            "image_id": f"{index}",
            "attribute": (rng.random(ATTRIBUTES) < 0.05).astype(np.uint8),
            "category": int(rng.integers(CATEGORIES)),
            "landmark": rng.random((LANDMARKS, 2), dtype=np.float32),
            "visibility": np.full(LANDMARKS, VISIBLE, np.int32),
        }

    def column(self, name: str) -> np.ndarray:
        return np.asarray([self[i][name] for i in range(self.count)])


# ------------------------------------------------------------------------------ detection
CLASSES, OBJECTS, DETECTIONS, BATCH, SIDE = 13, 3, 100, 8, 128


class RandomInstances(RandomSplit):
    """Records of random objects with polygons; 16 different images in turn."""

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng(index)
        box = random_boxes(rng, OBJECTS)
        outline = box[:, [0, 1, 2, 1, 2, 3, 0, 3]]  # the box's own corners
        instance = {
            "category": rng.integers(CLASSES, size=OBJECTS),
            "box": box,
            "area": np.prod(box[:, 2:] - box[:, :2], axis=1),
            "iscrowd": np.zeros(OBJECTS, np.uint8),
            "segmentation": [json.dumps([ring.tolist()]).encode() for ring in outline],
        }
        record = {"image": self.images[index % 16], "image_id": f"{index}", "coco_id": index + 1}
        return record | {"height": SIDE, "width": SIDE, "instance": instance}


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[n 4] xyxy in pixels, at least 4 px on a side."""
    corner = rng.uniform(0, SIDE / 2, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(4, SIDE / 2, (count, 2))], axis=1).astype(np.float32)


def random_detections(split: RandomInstances) -> Iterator[tuple[dict, dict]]:
    """(prediction, batch) as `inference.predictions` gives them: the annotated boxes, moved a little, among
    random ones."""
    mask = np.tile(np.linspace(-3, 6, 28, dtype=np.float32), (28, 1))
    logits = np.broadcast_to(mask, (BATCH, DETECTIONS, 28, 28))
    for start in range(0, len(split), BATCH):
        rng, rows = np.random.default_rng(start), range(start, min(start + BATCH, len(split)))
        count = len(rows)
        box = random_boxes(rng, count * DETECTIONS).reshape(count, DETECTIONS, 4)
        category = rng.integers(CLASSES, size=(count, DETECTIONS))
        for b, row in enumerate(rows):
            truth = split[row]["instance"]
            box[b, :OBJECTS] = truth["box"] + rng.uniform(-2, 2, (OBJECTS, 4))
            category[b, :OBJECTS] = truth["category"]
        score = np.sort(rng.random((count, DETECTIONS), np.float32))[:, ::-1]
        prediction = {"box": box, "score": score, "category": category, "mask_logits": logits[:count]}
        prediction["detection_valid"] = np.ones((count, DETECTIONS), bool)
        batch = {"index": np.asarray(rows), "example_valid": np.ones(count, bool)}
        side = np.full((count, 2), SIDE)
        yield prediction, batch | {"size": side, "original_size": side}


def measure_detection(count: int) -> dict:
    """One evaluation in this process: matches, curves and the report, with detections.json."""
    config = mask_rcnn.get_config("tiny=true")
    config.labels = {"category": [f"category_{n}" for n in range(CLASSES)]}
    split, entry = RandomInstances(count), tasks.entry("detection")
    task = entry.make(config)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(config=config, size=count, record=split.__getitem__, out=Path(folder))
        context = context._replace(image=lambda record: np.zeros((SIDE, SIDE, 3), np.uint8))
        return timed(count, task, entry, context, random_detections(split))


# ------------------------------------------------------------------------------ labels and landmarks
def _jpeg(small: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(small).resize((64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_model() -> inference.Model:
    """The demo's model, untrained."""
    config = demo.get_config("steps=1")
    config.image_size = config.canvas_size = 32
    config.batch_size, config.model.backbone, config.model.backbone_fields.width = 64, "vgg11", 4
    names = {"attribute": ATTRIBUTES, "category": CATEGORIES}
    config.labels = {label: [f"{label}_{i}" for i in range(count)] for label, count in names.items()}
    task, mesh = tasks.make(config), parallel.make_mesh(jax.devices()[:1])
    step = parallel.compile_predict_step(state.make_predict_step(task), "shard_map", mesh)
    config.parallel = "shard_map"
    batch = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    params, model_state = jax.jit(task.init)(state.initial_key(0), batch)
    return inference.Model(config, task, mesh, step, params, model_state, 0)


def measure_attributes(count: int) -> dict:
    """One evaluation in this process."""
    model, split = make_model(), RandomSplit(count)
    examples = (model.task.preprocess(split[i], None) for i in range(500))
    context = inference.context(model, split)._replace(training=lambda cap: examples)
    pairs = inference.predictions(model, split, show_progress=False)
    return timed(count, model.task, tasks.entry(model.config.task), context, pairs)


def timed(count: int, task: Task, entry: TaskEntry, context: Context, pairs: Iterable) -> dict:
    """Peak memory and time of an evaluation over the pairs."""
    started, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    figures = evaluate.measure(task, entry, context, pairs)
    figures.report.panels()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "records": count,
        "peak_mib": round(peak / 1024),
        "before_mib": round(started / 1024),
        "seconds": round(time.monotonic() - clock, 1),
    }


MEASURES = {"attributes": measure_attributes, "detection": measure_detection}


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] == "--one":
        print(json.dumps(MEASURES[sys.argv[2]](int(sys.argv[3]))), flush=True)
        return
    words = sys.argv[1:]
    task = words.pop(0) if words and words[0] in MEASURES else "attributes"
    for count in map(int, words or SIZES[task]):
        line = [sys.executable, "-m", "benchmarks.evaluation_memory", "--one", task, str(count)]
        print(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
