"""Experiments and reports made up for the tests of comparing."""

import copy
import json
from pathlib import Path

ROW_QUIRKS = ["random_crop_at_test", "roi_scramble_group"]


def experiment(config: str) -> dict:
    """A made-up config for any `experiments/NAME.py:arguments` of the zoo."""
    file, _, argument = config.partition(":")
    name = Path(file).stem
    args = dict(part.split("=") for part in argument.split(",") if part)
    task = {"inshop": "retrieval", "consumer2shop": "retrieval"} | {
        name: name for name in ("landmarks", "compatibility")
    }
    learns = {"attributes": ["attribute"], "category_attributes": ["attribute", "category"]}
    on = args.get("faithful") == "zoo"
    return {
        "task": task.get(name, "attributes"),
        "dataset": f"of_{name}" + (f"/{args['split']}" if "split" in args else ""),
        "data_dir": "data",
        "seed": 0,
        "image_size": 224,
        "batch_size": 16,
        "model": {
            "backbone": args.get("backbone", "resnet18"),
            "projection": args.get("projection"),
            "whiten": args.get("pca"),
            "pooling": {"landmark": "roi"}.get(args.get("pool"), "global"),
            "labels_predicted": learns.get(name, [name]),
        },
        "loss": {"attribute": 1.0},
        "optim": {"lr": 0.001},
        "quirks": ROW_QUIRKS if on else [],
        "images_per_gpu": 32 if on else 0,
    }


def report_of(row: dict, *, faithful: bool = True, label: str = "reproduced-forward", **changes) -> dict:
    """A report that belongs to `row`; its metrics are the published ones plus 1."""
    joint = "," if ":" in row["config"] else ":"
    config = experiment(row["config"] + (f"{joint}faithful=zoo" if faithful and row["faithful"] else ""))
    return {
        "label": label,
        "dataset": f"{row['dataset']}/1.0.0",
        "split": row["split"],
        "n": 40000,
        "n_total": 40000,
        "missing": [],
        "step": 0,
        "metrics": {metric["name"]: metric["value"] + 1.0 for metric in row["metrics"]},
        "switches": sorted(config["quirks"]),
        "config": config | {"labels": {}, "dataset": row["trained_on"] or row["dataset"]},
    } | copy.deepcopy(changes)


def write(folder: Path, report) -> Path:
    folder.mkdir(parents=True)
    path = folder / "report.json"
    path.write_text(json.dumps(report))
    return path
