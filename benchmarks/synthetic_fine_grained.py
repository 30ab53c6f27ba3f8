"""Attribute-specific retrieval on the synthetic fine_grained set: RPF's stage 1 against an embedding that
does not read the attribute, and stage 2 against stage 1.

    python -m benchmarks.synthetic_fine_grained --out benchmarks/results/synthetic_fine_grained.json

`experiments/rpf.py:small=true`: the region branch sees 96 px, crops come from 192 px. The models of a seed
have the same backbone, data and steps. Stage 2 goes on from stage 1, and so does `stage1_longer`, the control
for the steps that stage 2 has beyond stage 1's: stage 1's recipe for as many steps. What is chosen (stage 2's
weight of the region, from `--betas`) is chosen on val; test is looked at once, at the end. Figures are means
over seeds with their spread. The share of attention inside the garment part's box is, for the unconditioned
model, whose attention is even, the box's share of the image. With `--workdir` a run that was stopped goes on.
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
from experiments import rpf
from fashionjax import evaluate, train
from fashionjax.inference import model as inference
from fashionjax.metrics import fine_grained
from fashionjax.runtime import datasets, parallel

ARGUMENTS = {
    "unconditioned": "conditioned=false",
    "stage1": "stage=1",
    "stage1_longer": "stage=1",
    "stage2": "stage=2",
}
CONTINUED = ("stage1_longer", "stage2")  # from the checkpoint of stage 1, for `--stage2_steps`
GAINS = (("stage1", "unconditioned"), ("stage2", "stage1"), ("stage2", "stage1_longer"))
METRICS = ("standard/map", "zoo/map", "standard/recall@1", fine_grained.PART)


def make_config(model: str, args, seed: int):
    """experiments/rpf.py at the size of a laptop."""
    config = rpf.get_config(f"small=true,negatives=in_batch,{ARGUMENTS[model]}")
    config.synthetic.set, config.data_dir = args.records, args.data_dir
    config.seed, config.steps = seed, args.stage2_steps if model in CONTINUED else args.steps
    config.eval_every, config.best, config.log_every = 0, "", max(config.steps // 20, 1)
    return config


def chosen_beta(workdir: Path, betas: list[float]) -> tuple[float, dict]:
    """The weight of the region with the best standard/map on val → (weight, {weight: figure})."""
    model = inference.load(workdir, "last")
    split = datasets.open_split(model.config, model.config.eval_split)
    found = {}
    for beta in betas:
        config = model.config.copy_and_resolve_references()
        config.model.beta = beta
        changed = inference.load(workdir, "last", {"model": config.model})
        measured = changed.task.metrics(inference.context(changed, split))
        for prediction, batch in inference.predictions(changed, split, show_progress=False):
            measured.update(prediction, batch)
        found[beta] = round(measured.result()["standard/map"], 4)
    return max(found, key=found.get), found


def run(model: str, args, seed: int, folder: Path) -> dict:
    """Trains and tests one model → its line of the results, kept in `folder`."""
    kept = folder / f"{model}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    started = time.perf_counter()
    config = make_config(model, args, seed)
    if model in CONTINUED:
        config.init_from = str(folder / "stage1")
    train.train(config, folder / model)
    line = {"model": model, "seed": seed, "train_seconds": round(time.perf_counter() - started, 1)}
    overrides = None
    if model == "stage2":
        beta, on_val = chosen_beta(folder / model, args.betas)
        config.model.beta = beta
        overrides = {"model": config.model}
        line |= {"beta": beta, "val_map_by_beta": on_val}
    report = evaluate.evaluate(
        folder / model, "test", folder / f"{model}-test", which="last", overrides=overrides
    )
    line |= {name: round(report["metrics"][name], 4) for name in METRICS if name in report["metrics"]}
    colours = report["baselines"]["colour_histogram"]["standard/map"]
    line |= {"records": report["n"], "colour_histogram": round(colours, 4)}
    kept.write_text(json.dumps(line) + "\n")
    return line


def measure(args) -> dict:
    """{"runs": one entry per model and seed, "summary", "gain_in_points"}."""
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(args.seeds):
            folder = Path(args.workdir or temporary) / f"seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for model in ARGUMENTS:
                runs.append(run(model, args, seed, folder))
                print(json.dumps(runs[-1]), flush=True)
    return {"runs": runs} | summarise(runs)


def summarise(runs: list[dict]) -> dict:
    """Mean and standard deviation over seeds; differences of standard/map in points, seed by seed."""
    summary: dict = {}
    for model in ARGUMENTS:
        rows = [row for row in runs if row["model"] == model]
        values = {name: [row[name] for row in rows if name in row] for name in METRICS}
        summary[model] = {name: spread(found) for name, found in values.items() if found}
    gain = {}
    for better, worse in GAINS:
        of = {row["seed"]: row["standard/map"] for row in runs if row["model"] == worse}
        points = [
            100 * (row["standard/map"] - of[row["seed"]])
            for row in runs
            if row["model"] == better and row["seed"] in of
        ]
        gain[f"{better} - {worse}"] = spread(points, 2)
    return {"summary": summary, "gain_in_points": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--stage2_steps", type=int, default=1000)
    parser.add_argument("--betas", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--records", default="train=3000,val=300,test=600")
    parser.add_argument("--data_dir", default=os.path.join(tempfile.gettempdir(), "fashionjax-bench-data"))
    parser.add_argument("--workdir", help="keeps the checkpoints and lines of finished models")
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    about = {"hardware": hardware.describe(jax.devices()), "label": "synthetic"}
    about |= {name: getattr(args, name) for name in ("steps", "stage2_steps", "records", "betas")}
    result = about | measure(args)
    print(json.dumps({name: result[name] for name in ("summary", "gain_in_points")}, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
