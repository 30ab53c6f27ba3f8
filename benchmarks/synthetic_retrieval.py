"""Retrieval on the synthetic in-shop set: landmark pooling against global pooling and a colour histogram.

    python -m benchmarks.synthetic_retrieval --out benchmarks/results/synthetic_retrieval.json

Both models are ResNet-18 of width 16 at 64 px with unit embeddings of 64 values, trained alike by InfoNCE on
batches of 16 items × 4 images; `landmark` also pools the same maps around the annotated landmarks, as the
zoo's landmark models do. Consumers' images search among the shop's images of items that were not seen in
training. Every seed trains both; the figures are means over seeds with their spread.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import hardware
from benchmarks.seeds import spread
from experiments import retrieval
from fashionjax import evaluate, train
from fashionjax.runtime import parallel

METRICS = ("standard/recall@1", "standard/recall@5", "standard/map", "zoo/recall@5")
POOLS = ("global", "landmark")


def make_config(pool: str, seed: int, steps: int, records: str, data_dir: str):
    """experiments/retrieval.py at the size of a laptop."""
    config = retrieval.get_config(f"loss=info_nce,pool={pool}")
    config.dataset, config.synthetic.set, config.data_dir = "synthetic", records, data_dir
    config.image_size, config.canvas_size, config.box_margin = 64, 72, 4.0
    config.augment.update({"scale": (0.7, 1.0), "ratio": (0.9, 1.11), "erase": 0.0})
    config.augment.update({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2})
    config.model.backbone, config.model.backbone_fields.width = "resnet18", 16
    config.model.update({"features": 128, "embedding": 64, "dropout": 0.0, "normalise_pooled": True})
    config.model.roi_levels = config.model.global_levels = (0, 1, 2, 3)
    config.retrieval.alternate_views = True
    config.seed, config.batch_size, config.epochs, config.steps = seed, 64, 0, steps
    config.eval_every, config.best, config.log_every = 0, "", max(steps // 4, 1)
    config.optim.update({"lr": 2e-3, "weight_decay": 1e-2, "warmup_steps": 50})
    return config


def measure(args) -> dict:
    """{"runs": one entry per model and seed, and what `summarise` makes of them}."""
    runs = []
    for seed in range(args.seeds):
        for pool in POOLS:
            started = time.perf_counter()
            config = make_config(pool, seed, args.steps, args.records, args.data_dir)
            with tempfile.TemporaryDirectory() as folder:
                train.train(config, Path(folder) / "run")
                seconds = time.perf_counter() - started
                report = evaluate.evaluate(Path(folder) / "run", "", Path(folder) / "test", which="last")
            for name, metrics in [(pool, report["metrics"]), *report["baselines"].items()]:
                kept = {metric: round(metrics[metric], 4) for metric in METRICS}
                runs.append({"model": name, "seed": seed, "records": report["n"], **kept})
            runs[-2]["train_seconds"] = round(seconds, 1)
            print(json.dumps(runs[-2]), flush=True)
    return {"runs": runs} | summarise(runs)


def summarise(runs: list[dict]) -> dict:
    """Mean and standard deviation over seeds, and how far landmark pooling is above the others, in points."""
    summary = {}
    for name in sorted({run["model"] for run in runs}):
        rows = [run for run in runs if run["model"] == name]
        summary[name] = {}
        for metric in METRICS:
            values = [row[metric] for row in rows]
            summary[name][metric] = spread(values)
    gain = {
        name: {
            metric: round(100 * (summary["landmark"][metric]["mean"] - summary[name][metric]["mean"]), 2)
            for metric in METRICS
            if metric.startswith("standard/")
        }
        for name in summary
        if name != "landmark"
    }
    return {"summary": summary, "landmark_above_in_points": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--records", default="train_items=400,test_items=200,size=80")
    parser.add_argument("--data_dir", default=os.path.join(tempfile.gettempdir(), "fashionjax-bench-data"))
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    about = {
        "hardware": hardware.describe(jax.devices()),
        "steps": args.steps,
        "records": args.records,
        "label": "synthetic",
    }
    result = about | measure(args)
    print(json.dumps({name: result[name] for name in ("summary", "landmark_above_in_points")}, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
