"""Peak memory of an evaluation at two sizes of split: metrics, baselines and report of an attribute model.

    python -m benchmarks.evaluation_memory [RECORDS …]

A tiny untrained model (VGG-11 of width 4, 32 px) with 1,000 attributes, 50 categories and 8 landmarks sees
split after split of random records, each in a process of its own; one JSON line per size.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time

import jax
import numpy as np
from PIL import Image

from experiments import demo
from fashionjax import evaluate, tasks
from fashionjax.data.preprocess import VISIBLE
from fashionjax.inference import model as inference
from fashionjax.runtime import parallel, state

SIZES = (1_000, 10_000)
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


def measure(count: int) -> dict:
    """One evaluation in this process."""
    model, split = make_model(), RandomSplit(count)
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.monotonic()
    examples = (model.task.preprocess(split[i], None) for i in range(500))
    context = inference.context(model, split)._replace(training=lambda cap: examples)
    pairs = inference.predictions(model, split, show_progress=False)
    figures = evaluate.measure(model.task, tasks.entry(model.config.task), context, pairs)
    figures.report.panels()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "records": count,
        "peak_mib": round(peak / 1024),
        "before_mib": round(started / 1024),
        "seconds": round(time.monotonic() - clock, 1),
    }


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        print(json.dumps(measure(int(sys.argv[2]))), flush=True)
        return
    for count in map(int, sys.argv[1:] or SIZES):
        line = [sys.executable, "-m", "benchmarks.evaluation_memory", "--one", str(count)]
        print(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
