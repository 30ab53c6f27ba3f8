"""CGD against plain average pooling on the synthetic in-shop set, with the same budget.

    python -m benchmarks.synthetic_cgd --out benchmarks/results/synthetic_cgd.json

Every model is the small variant of experiments/cgd.py: ResNet-18 of width 16 at 64 px whose third stage
keeps its resolution, a unit embedding of 96 values, batch-hard triplets and smoothed classification on
batches of 16 items × 4 images, the same steps, seeds and learning rate. `S` is plain average pooling: one
descriptor of 96 values; the others split the 96 values among their descriptors. Where --combined names
several, recall@1 on held-out training items, mean over seeds, decides which is compared with `S`; the test
items are looked at once, for `S` and that one. A killed run goes on in the folder --runs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import jax

from benchmarks import hardware
from benchmarks.seeds import spread
from experiments import cgd
from fashionjax import evaluate, train
from fashionjax.runtime import parallel

PLAIN = "S"
METRICS = ("standard/recall@1", "standard/recall@5", "standard/map")
CHOSEN_BY = "standard/recall@1"


def make_config(descriptors: str, seed: int, steps: int, data_dir: str):
    """The small variant with these descriptors."""
    config = cgd.get_config(f"small=true,descriptors={descriptors}")
    config.data_dir, config.seed, config.steps = data_dir, seed, steps
    config.validation.share, config.best = 0.2, ""
    config.log_every = max(steps // 4, 1)
    return config


def measure(args) -> dict:
    """{"validation", "chosen", "test": figures, their means and spread over seeds}."""
    runs, folder, combined = {}, Path(args.runs), args.combined.split(",")
    for seed in range(args.seeds):
        for name in (PLAIN, *combined):
            workdir = folder / f"{name}-{seed}"
            train.train(make_config(name, seed, args.steps, args.data_dir), workdir)
            runs[name, seed] = figures(workdir, "validation")
            print(json.dumps({"model": name, "seed": seed, **runs[name, seed]}), flush=True)
    validation = {name: summary(runs, name, args.seeds) for name in (PLAIN, *combined)}
    chosen = max(combined, key=lambda name: validation[name][CHOSEN_BY]["mean"])
    tested = {
        (name, seed): figures(folder / f"{name}-{seed}", "query+gallery")
        for name in (PLAIN, chosen)
        for seed in range(args.seeds)
    }
    test = {name: summary(tested, name, args.seeds) for name in (PLAIN, chosen)}
    pairs = [
        {metric: 100 * (tested[chosen, seed][metric] - tested[PLAIN, seed][metric]) for metric in METRICS}
        for seed in range(args.seeds)
    ]
    above = {metric: spread([pair[metric] for pair in pairs], 2) for metric in METRICS}
    return {
        "validation": validation,
        "chosen": chosen,
        "test": test,
        "test_runs": [{"model": name, "seed": seed, **values} for (name, seed), values in tested.items()],
        "above_average_pooling_in_points": above,
    }


def figures(workdir: Path, split: str) -> dict[str, float]:
    """The metrics of the last checkpoint on a split."""
    report = evaluate.evaluate(workdir, split, workdir / split, which="last")
    return {metric: round(report["metrics"][metric], 4) for metric in METRICS}


def summary(runs: dict, name: str, seeds: int) -> dict:
    """{metric: mean and standard deviation over the seeds}."""
    return {metric: spread([runs[name, seed][metric] for seed in range(seeds)], 4) for metric in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--data_dir", default=os.path.join(tempfile.gettempdir(), "fashionjax-bench-data"))
    parser.add_argument("--combined", default="SG", help="descriptors, several separated by commas")
    parser.add_argument("--runs", default=os.path.join(tempfile.gettempdir(), "fashionjax-bench-cgd"))
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    about = {"hardware": hardware.describe(jax.devices()), "steps": args.steps, "label": "synthetic"}
    result = about | measure(args)
    print(json.dumps({name: result[name] for name in ("chosen", "above_average_pooling_in_points")}))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
