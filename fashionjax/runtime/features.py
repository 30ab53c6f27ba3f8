"""Features of a frozen backbone, computed once and kept beside the dataset.

`config.feature_views` = v: what the model reads of its backbone (`Task.reduce`) is computed for v views of
every training image, the first as evaluation sees it, the others each with its own draw of `config.augment`;
training draws a view for each example, evaluation takes the first. Augmentation thus has v outcomes an image,
drawn by a fixed seed and shared by all runs on the same features.

DATASET/features/KEY/ holds `SPLIT-VIEW.npy` [n d] float16, each written whole or not at all, so that a killed
run goes on with the view it was at, and `SPLIT-labels.npz`. The key is a digest of the backbone's weights and
of every config field that the features depend on.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fashionjax import files
from fashionjax.data import pipeline
from fashionjax.errors import UserError
from fashionjax.runtime import optim, parallel, progress
from fashionjax.runtime.state import TrainState, run_key
from fashionjax.task import Task

BACKBONE = "backbone/"  # before the paths of the backbone's parameters
# what the features depend on beside the backbone's weights
FIELDS = ("image_size", "canvas_size", "crop_box", "box_margin", "augment", "dtype", "normalisation",
          "labels", "validation")  # fmt: skip
SEED = 0  # of the augmented views
MODEL_FIELDS = ("backbone", "backbone_fields", "pooling", "global_pooling", "global_levels", "cells")


class Stored:
    """A split whose records are features: `split[i]` is {"row": i}, which `read` turns into an example."""

    def __init__(self, split: Any, views: list[np.ndarray], labels: dict[str, np.ndarray]):
        self.split, self.views, self.labels_of = split, views, labels
        self.name, self.folder, self.dataset = split.name, split.folder, split.dataset
        self.labels, self.features, self.synthetic = split.labels, split.features, split.synthetic
        self.tables = split.tables

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": int(index), "stored": self}

    def column(self, name: str) -> np.ndarray:
        """As `data.source.Split.column`."""
        return self.split.column(name)


def read(record: dict, rng: np.random.Generator | None) -> dict:
    """A record of `Stored` → example: `reduced` f32 [d] of a drawn view (the first without `rng`) and the
    labels."""
    row, stored = record["row"], record["stored"]
    if not stored.labels_of["example_valid"][row]:
        raise UserError("the image could not be read when its features were computed")
    view = 0 if rng is None else int(rng.integers(len(stored.views)))
    labels = {name: values[row] for name, values in stored.labels_of.items() if name != "example_valid"}
    return labels | {"reduced": np.asarray(stored.views[view][row], np.float32)}


def stored(
    config: ConfigDict, task: Task, run: TrainState, mesh: Mesh, split: Any, held_out: Any
) -> tuple[Task, Stored, Stored]:
    """(the task on features, the training split and the evaluation split as features), computed where they
    are not kept yet. UserError where the backbone is not frozen, or the model reads more than one vector."""
    _check(config, task, run)
    key = _key(config, run)
    reduces = [
        parallel.compile_predict_step(_step(task, augmented), config.parallel, mesh)
        for augmented in (False, True)
    ]
    found = []
    for part, views in ((split, config.feature_views), (held_out, 1)):
        folder = Path(part.folder) / "features" / key
        arrays = [
            _view(config, task, run, mesh, reduces[number > 0], part, folder, number)
            for number in range(views)
        ]
        with np.load(folder / f"{part.name}-labels.npz") as kept:
            found.append(Stored(part, arrays, dict(kept)))
    return task._replace(preprocess=read, collate=None), *found


def _check(config: ConfigDict, task: Task, run: TrainState) -> None:
    frozen = optim.frozen_paths(config.optim)
    names = [optim.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(run.params)]
    backbone = [name for name in names if name.startswith(BACKBONE)]
    if frozen is None or not all(map(frozen, backbone)):
        raise UserError("config.feature_views needs a frozen backbone: config.optim.frozen=('backbone',)")
    spec = config.model
    whole = spec.get("pooling") == "global" and spec.get("landmark_source") != "predicted"
    if task.reduce is None or not whole or "landmark" in spec.get("labels_predicted", ()):
        raise UserError(
            "config.feature_views needs a model that reads one vector of its backbone: model.pooling=global "
            "and no landmarks predicted"
        )
    if jax.process_count() > 1:
        raise UserError("config.feature_views works on one host; set it to 0")


def _key(config: ConfigDict, run: TrainState) -> str:
    """Names what the features depend on."""
    digest = hashlib.blake2b(digest_size=8)
    spec = {name: config.get(name) for name in FIELDS if name in config}
    spec |= {f"model.{name}": config.model.get(name) for name in MODEL_FIELDS}
    digest.update(json.dumps(spec, default=_plain, sort_keys=True).encode())
    for tree in (run.params, run.model_state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if optim.path_name(path).startswith(BACKBONE):
                digest.update(optim.path_name(path).encode())
                digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else list(value)


def _step(task: Task, augmented: bool):
    """(params, model_state, batch with `view` [b]) → {"reduced"}."""

    def step(params, model_state, batch):
        rng = jax.random.fold_in(run_key(SEED), batch["view"][0]) if augmented else None
        return {"reduced": task.reduce(params, model_state, batch, rng)}

    return step


def _view(
    config: ConfigDict, task: Task, run: TrainState, mesh: Mesh, reduce, part, folder: Path, number: int
) -> np.ndarray:
    """The features of one view, [n d] float16, mapped from their file, which is written first where it is
    not there."""
    path, labels_path = folder / f"{part.name}-{number}.npy", folder / f"{part.name}-labels.npz"
    if path.is_file() and labels_path.is_file():
        return np.load(path, mmap_mode="r")

    def preprocess(record: dict, _) -> dict:
        return task.preprocess(record, np.random.default_rng((SEED, number)) if number else None)

    size = -(-min(config.batch_size, len(part)) // mesh.size) * mesh.size
    batches = pipeline.eval_batches(part, preprocess, batch_size=size, workers=config.workers)
    features, labels, started = None, {}, time.monotonic()
    feed = parallel.prefetch(batches, lambda b: _put(config, mesh, b, number))
    for host, batch in feed:
        found = parallel.fetch(reduce(run.params, run.model_state, batch), config.parallel)["reduced"]
        here = host["index"] != pipeline.PADDING
        for name, value in host.items():
            if name not in ("image", "frame", "index"):
                labels.setdefault(name, []).append(value[here])
        if features is None:
            features = np.zeros((len(part), found.shape[1]), np.float16)
        features[host["index"][here]] = _half(found[here])
        _progress(part, number, int(host["index"][here].max()) + 1, started)
    files.write_atomically(path, lambda temporary: _save(temporary, features))
    joined = {name: np.concatenate(values) for name, values in labels.items()}
    files.write_atomically(labels_path, lambda temporary: _save_labels(temporary, joined))
    return np.load(path, mmap_mode="r")


def _half(values: np.ndarray) -> np.ndarray:
    """float16, the few values beyond its range at its ends."""
    limit = np.finfo(np.float16).max
    return np.clip(values, -limit, limit).astype(np.float16)


def _save(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, values)


def _save_labels(path: Path, labels: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **labels)


def _put(config: ConfigDict, mesh: Mesh, batch: dict, number: int) -> dict:
    """The batch on the devices, with what `augment` draws from: the record's number is its slot."""
    count = len(batch["index"])
    drawn = {
        "slot": batch["index"].astype(np.int32),
        "example_weight": batch["example_valid"].astype(np.float32),
        "view": np.full(count, number, np.int32),
    }
    return parallel.put_batch(batch | drawn, config.parallel, mesh)


def _progress(part: Any, number: int, seen: int, started: float) -> None:
    elapsed = time.monotonic() - started
    left = progress.clock(elapsed / seen * (len(part) - seen))
    rate = seen / max(elapsed, 1e-9)
    what = f"features of {part.name}, view {number + 1}"
    progress.show(f"{what}: {seen}/{len(part)}  {rate:.0f} img/s  left {left}", last=seen == len(part))
