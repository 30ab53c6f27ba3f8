"""What a fine-tuning run is: its options, what the photos come with, and the config that follows."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments import own
from fashionjax import files
from fashionjax.data import source
from fashionjax.errors import UserError
from fashionjax.runtime import checkpoint_files
from fashionjax.weights import files as weight_files
from fashionjax.weights import recognise

FILE = "finetune.json"  # in the workdir: the options that a resumed run must share, and what was decided
TABLES, COCO = (".csv", ".tsv"), (".json",)
UNEVEN = 2.0  # from this ratio of the largest to the smallest class on, rare classes are drawn more often
STEPS = (600, 20_000)  # of a run without --minutes, least and most
FRESH = ("(?!backbone/).*",)  # config.init_skip: all but the backbone


class Options(NamedTuple):
    """The command's arguments."""

    source: str
    workdir: str
    init: str = ""
    freeze: bool = False
    minutes: float = 0.0
    seed: int = 0
    task: str = "auto"
    labels: str = ""
    allow_damaged: int = 0
    data_dir: str = ""  # of the dataset, which several runs may share; "": in the workdir
    dataset_fields: Mapping[str, str] = {}
    config_fields: Mapping[str, str] = {}


class Source(NamedTuple):
    """What `prepare` is given."""

    dataset: str
    manual_dir: str
    fields: dict[str, str]


def read_source(options: Options) -> Source:
    """A folder of classes, a table or a COCO file, as the dataset that reads it."""
    path = Path(options.source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a folder of photos, a table or a COCO file")
    if path.is_dir() and Path(options.workdir).resolve().is_relative_to(path.resolve()):
        raise UserError(
            f"--workdir={options.workdir} lies inside of {path}; choose a folder beside the photos"
        )
    fields = {"seed": str(options.seed)} | dict(options.dataset_fields)
    coco = {"val_share": "0.15", "test_share": "0.15"} | fields
    if path.is_file():
        folder, suffix = str(path.parent), path.suffix.lower()
        if suffix in TABLES:
            return Source("own_photos/table", folder, {"table": path.name} | fields)
        if suffix in COCO:
            return Source("coco_instances/original", folder, {"train": path.name} | coco)
        raise UserError(f"{path}: expected a folder of photos, a .csv or .tsv table, or a COCO .json")
    top = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    if "table" in fields or any(entry.suffix.lower() in TABLES for entry in top):
        return Source("own_photos/table", str(path), fields)
    if any(entry.suffix.lower() in COCO for entry in [*top, *path.glob("annotations/*.json")]):
        return Source("coco_instances/original", str(path), coco)
    return Source("own_photos/folders", str(path), fields)


def fingerprint(path: str) -> str:
    """A digest that tells whether the source has changed: of a table or COCO file its bytes, of a folder the
    names, sizes and times of all files."""
    root, digest = Path(path), hashlib.blake2b(digest_size=16)
    if root.is_file():
        return hashlib.blake2b(root.read_bytes(), digest_size=16).hexdigest()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        for name in sorted(names):
            status = os.stat(os.path.join(folder, name))
            digest.update(os.fsencode(os.path.relpath(os.path.join(folder, name), root)))
            digest.update(f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------ what is learned
def arguments(
    options: Options, dataset: str, train: source.Split, backbone: Mapping[str, str]
) -> dict[str, str]:
    """The argument of experiments/own.py for this dataset, chosen by its features; `backbone` as of
    `initial`."""
    there = set(train.features)
    task = options.task
    if task == "auto":
        task = "detection" if "instance" in there else "retrieval" if "item_id" in there else "labels"
    if task == "detection":
        if "instance" not in there:
            raise UserError(f"--task=detection: {options.source} has no boxes of instances; give a COCO file")
        if options.freeze or options.labels:
            raise UserError("--freeze and --labels do not apply to detection")
        return {"task": task}
    chosen = {"task": task, "form": dataset.partition("/")[2], **backbone}
    if options.freeze:
        chosen["freeze"] = "true"
    if task == "retrieval":
        if "item_id" not in there:
            raise UserError("--task=retrieval needs the column `item`")
        return chosen
    labels = options.labels.split("+") if options.labels else [name for name in own.LABELS if name in there]
    if options.freeze and not options.labels:
        labels = [name for name in labels if name != "landmark"]  # they need the backbone's maps
    if not labels:
        needed = "category, attributes, item or landmark_…"
        raise UserError(f"{options.source}: nothing to learn; a table needs a column {needed}")
    for name in labels:
        if name not in there:
            raise UserError(f"--labels={options.labels}: the photos have no {name}")
    if "category" in labels and _check_classes(options, train):
        chosen["balance"] = "true"
    return chosen | {"labels": "+".join(labels)}


def _check_classes(options: Options, train: source.Split) -> bool:
    """Whether the classes of the training photos are uneven; UserError where there is one."""
    count = np.bincount(train.column("category"), minlength=len(train.labels["category"]))
    count = count[count > 0]
    if len(count) < 2:
        raise UserError(
            f"{options.source}: one class ({train.labels['category'][0]}); a classifier needs photos of two"
        )
    return bool(count.max() >= UNEVEN * count.min())


def describe(chosen: Mapping[str, str], train: source.Split) -> str:
    """One line: what is learned, from how many training photos."""
    if chosen["task"] == "retrieval":
        items = len(set(train.column("item_id").tolist()))
        return f"learns an embedding from {len(train)} photos of {items} items"
    if chosen["task"] == "detection":
        return f"learns boxes and masks of {len(train.labels['category'])} classes from {len(train)} photos"
    learned = []
    for name in chosen["labels"].split("+"):
        words = f"{name} ({len(train.labels[name])})"
        if name == "category":
            count = np.bincount(train.column("category"), minlength=len(train.labels["category"]))
            words = f"category ({len(count)} classes of {count.min()} to {count.max()} photos)"
        learned.append(words)
    return f"learns {', '.join(learned)} from {len(train)} photos"


def initial(options: Options) -> tuple[dict[str, str], dict[str, Any]]:
    """(the argument's backbone and width, config fields) that --init asks for: a run's own, or what a weight
    file holds."""
    if not options.init:
        if options.freeze:
            raise UserError(
                "--freeze=backbone needs --init: a backbone of random weights has nothing to keep"
            )
        return {"backbone": "resnet18"}, {}
    path = Path(options.init)
    if path.is_dir():
        spec = checkpoint_files.read_config(checkpoint_files.step_folder(path)).get("model", {})
        name = spec.get("backbone")
        if name not in own.BACKBONES:
            raise UserError(f"--init={path}: its backbone {name!r} is none of {', '.join(own.BACKBONES)}")
        fields = {f"model.backbone_fields.{key}": v for key, v in spec["backbone_fields"].items() if v}
        width = fields.pop("model.backbone_fields.width", 0) if not name.startswith("vit") else 0
        fields |= {"init_from": str(path), "init_skip": FRESH}
        return {"backbone": name, "width": str(width)}, fields
    shapes = {name: tensor.shape for name, tensor in weight_files.read_tensors(path).items()}
    found = recognise.describe(shapes)
    if found.backbone not in own.BACKBONES:
        raise UserError(f"--init={path}: holds {found}; expected one of {', '.join(own.BACKBONES)}")
    return {"backbone": found.backbone, "width": "0"}, {}


# ------------------------------------------------------------------------------ the config
def argument(chosen: Mapping[str, str]) -> str:
    """{"task": "labels", …} → "task=labels,…"."""
    return ",".join(f"{name}={value}" for name, value in chosen.items())


def make_config(chosen: Mapping[str, str], fields: Mapping[str, Any]) -> ConfigDict:
    """experiments/own.py with these fields replaced; UserError for one that it does not have."""
    config = own.get_config(argument(chosen))
    for name, value in fields.items():
        *parents, last = name.split(".")
        part = config
        for parent in parents:
            part = part.get(parent) if isinstance(part, ConfigDict) else None
        if not isinstance(part, ConfigDict) or last not in part:
            raise UserError(f"--field={name}={value}: unknown config field (docs/configs.md lists them)")
        try:
            part[last] = value
        except (TypeError, ValueError) as error:
            raise UserError(f"--field={name}={value}: {error}") from error
    return config


def typed(fields: Mapping[str, str]) -> dict[str, Any]:
    """Values as Python reads them; what it does not read is text."""
    found: dict[str, Any] = {}
    for name, text in fields.items():
        try:
            found[name] = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def default_steps(config: ConfigDict, photos: int) -> int:
    """The recipe's epochs in steps, within `STEPS`."""
    steps = config.epochs * -(-photos // config.batch_size)
    return int(np.clip(steps, *STEPS))


def command(name: str, *words: str, **flags: Any) -> str:
    """The command line of a step, quoted for a shell; empty flags are left out."""
    parts = ["fashionjax", name, *words]
    for flag, value in flags.items():
        if isinstance(value, Mapping):
            parts += [f"--config.{field}={_shown(inner)}" for field, inner in value.items()]
        elif isinstance(value, list):
            parts += [f"--{flag}={inner}" for inner in value]
        elif value is True:
            parts.append(f"--{flag}")
        elif value not in ("", None, False, 0):
            parts.append(f"--{flag}={value}")
    return shlex.join(parts)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


# ------------------------------------------------------------------------------ what is kept
def read_state(options: Options) -> dict[str, Any]:
    """WORKDIR/finetune.json, {} for a new run. UserError where it was started with other options."""
    path = Path(options.workdir) / FILE
    now = json.loads(json.dumps(_lasting(options)))
    if not path.is_file():
        if (Path(options.workdir) / checkpoint_files.FOLDER).exists():
            raise UserError(
                f"{options.workdir}: holds a run that finetune did not start; choose another --workdir"
            )
        return {"options": now}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        before = state["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}); delete it to start again") from error
    changed = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in sorted(now.keys() | before.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(f"{options.workdir} was started with {'; '.join(changed)}; choose another --workdir")
    return state


def _lasting(options: Options) -> dict[str, Any]:
    """The options that decide what is trained; --minutes may change between calls."""
    kept = options._asdict() | {"source": str(Path(options.source).resolve())}
    if options.init:
        kept["init"] = str(Path(options.init).resolve())
    return {name: value for name, value in kept.items() if name not in ("workdir", "minutes")}


def write_state(options: Options, state: Mapping[str, Any]) -> None:
    """Keep it, atomically."""
    files.write_text(Path(options.workdir) / FILE, json.dumps(state, indent=1) + "\n")
