"""Compatibility on synthetic outfits: masks, linear maps with a learned metric, the set transformer.

    python -m benchmarks.synthetic_outfits --seeds 1 --out=default.json
    python -m benchmarks.synthetic_outfits --seeds 2 --set=seed=5 --out=other.json     # other clothes, other outfits

The stages of `experiments/compatibility.py:small=true`, one after the other from scratch: types and texts; masks
from there; linear maps and the set transformer from the network of the masks. Test outfits and their pieces were not
seen in training. Each is evaluated on the same questions as a colour histogram and an untrained network.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import hardware
from experiments import compatibility
from fashionjax import evaluate, train
from fashionjax.runtime import parallel

METRICS = (
    "standard/fill_in_blank",
    "standard/compatibility_auc",
    "zoo/fill_in_blank",
    "zoo/compatibility_auc",
)
# model: (arguments, the model whose network it starts from)
STAGES = {
    "texts": ("stage=texts", None),
    "mask": ("projection=mask", "texts"),
    "fc": ("projection=fc", "mask"),
    "set": ("recipe=set", "mask"),
}


def run_stage(name: str, folder: Path, seed: int, fields: str, data_dir: str) -> dict:
    """Train and evaluate one stage → its figures, and those of the baselines."""
    argument, start = STAGES[name]
    config = compatibility.get_config(f"small=true,{argument}")
    config.seed, config.data_dir, config.synthetic.set = seed, data_dir, fields
    config.init_from = str(folder / start) if start else ""
    started = time.perf_counter()
    train.train(config, folder / name)
    seconds = time.perf_counter() - started
    about = {"model": name, "seed": seed, "set": fields, "steps": config.steps}
    if name == "texts":
        return about | {"train_seconds": round(seconds, 1)}
    report = evaluate.evaluate(folder / name, "test", folder / name / "test", which="last")
    kept = {metric: round(report["metrics"][metric], 4) for metric in METRICS}
    kept["type_top1"] = round(report["metrics"]["standard/category_top1"], 4)
    baselines = {
        other: {metric: round(values[metric], 4) for metric in METRICS}
        for other, values in report["baselines"].items()
    }
    times = {"train_seconds": round(seconds, 1), "evaluate_seconds": report["seconds_total"]}
    return about | {"records": report["n"]} | kept | times | {"baselines": baselines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", default="", help="fields of the synthetic config, e.g. seed=5")
    parser.add_argument("--data_dir", default=os.path.join(tempfile.gettempdir(), "fashionjax-bench-data"))
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for name in STAGES:
                runs.append(run_stage(name, Path(folder), seed, args.set, args.data_dir))
                print(json.dumps(runs[-1]), flush=True)
    about = {"hardware": hardware.describe(jax.devices()), "label": "synthetic"}
    if args.out:
        Path(args.out).write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
