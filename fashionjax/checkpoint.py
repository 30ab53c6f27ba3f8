"""Orbax checkpoints: save, restore, best, parameters alone.

`WORKDIR/checkpoints/STEP/` holds `state` (the TrainState), `config` (JSON: the whole config with the label
names, so that a checkpoint is evaluated and used on photos without any other file) and `metrics`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from fashionjax.errors import UserError
from fashionjax.state import TrainState

FOLDER = "checkpoints"


class Restored(NamedTuple):
    """What inference needs of a checkpoint; arrays are numpy."""

    config: ConfigDict
    params: Any
    model_state: Any
    step: int


def open_manager(workdir: str | Path, best: str = "", best_mode: str = "max") -> ocp.CheckpointManager:
    """A manager that keeps the last checkpoint and the best by metric `best`.

    The last is always among them: a policy of best-only deletes the newest when its metric is poor, and a
    resume would then go backwards.
    """
    policies: list = [checkpoint_managers.LatestN(1)]
    if best:
        policies.append(
            checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics[best],
                reverse=best_mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        best_fn=(lambda metrics: metrics[best]) if best else None,  # without it no metrics are stored
        best_mode=best_mode,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
    )
    folder = Path(workdir).resolve() / FOLDER
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "config"))


def save(
    manager: ocp.CheckpointManager, state: TrainState, config: ConfigDict, metrics: dict | None = None
) -> None:
    """Start saving in the background; a step that is already saved is left alone."""
    step = int(state.step)
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(json.loads(config.to_json()))
    )
    manager.save(step, args=items, metrics=metrics)


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The last saved state, onto the shapes and shardings of `state`."""
    step = manager.latest_step()
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    try:
        _check_shapes(manager.directory / str(step) / "state", state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        return manager.restore(step, args=args)["state"]
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(
            f"{manager.directory / str(step)}: does not fit this config ({_first_line(error)}); "
            "use another --workdir, or the config this one was trained with"
        ) from error


def _check_shapes(item: Path, state: TrainState) -> None:
    """ValueError for parameters that the saved state has in another shape; told before any array is read."""
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = _flat(reader.metadata(item).item_metadata.tree["params"])
    wanted = _flat(state.params)
    for name in sorted(saved.keys() | wanted.keys()):
        there = tuple(saved[name].shape) if name in saved else None
        here = tuple(wanted[name].shape) if name in wanted else None
        if there != here:
            raise ValueError(f"{name} is {there} there, {here} here")


def restore_for_inference(path: str | Path, which: str = "best") -> Restored:
    """Config, parameters and running statistics of a run.

    `path` is a workdir, its `checkpoints` folder or one step's folder inside that; `which` is best (by the
    config's `best` metric; the last where no checkpoint has it), last, or a step number.
    """
    folder, step = locate(path, which)
    item = folder / str(step)
    try:
        config = ConfigDict(json.loads((item / "config" / "metadata").read_text()))
        with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(item / "state").item_metadata.tree
            template = {name: tree[name] for name in ("params", "model_state")}
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
            template = jax.tree.map(lambda _: 0, template)
            args = ocp.args.PyTreeRestore(item=template, restore_args=how, partial_restore=True)
            tree = reader.restore(item / "state", args=args)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{item}: not a readable checkpoint ({_first_line(error)})") from error
    return Restored(config, tree["params"], tree["model_state"], step)


def initialise_from(state: TrainState, path: str, skip: tuple[str, ...] = ()) -> TrainState:
    """`state` with parameters and running statistics from another run's checkpoint.

    Paths that match a pattern of `skip` stay fresh (or are left unread); every other leaf must be there, in
    shape, on both sides.
    """
    restored = restore_for_inference(path)
    pattern = re.compile("|".join(f"(?:{p})" for p in skip)) if skip else None
    filled, problems = {}, []
    for name in ("params", "model_state"):
        have = _flat(getattr(restored, name))
        want = _flat(getattr(state, name))
        left_out = {key for key in want.keys() | have.keys() if pattern and pattern.match(key)}
        for key in sorted((want.keys() ^ have.keys()) - left_out):
            problems.append(f"{key} is only in the {'model' if key in want else 'checkpoint'}")
        for key in sorted((want.keys() & have.keys()) - left_out):
            if want[key].shape != have[key].shape:
                problems.append(f"{key} is {have[key].shape} there, {want[key].shape} here")
        taken = {key: have[key] for key in want if key not in left_out and key in have}
        filled[name] = flax.traverse_util.unflatten_dict(want | taken, sep="/")
    if problems:
        listed = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"config.init_from={path}: {listed}; config.init_skip names paths to leave fresh")
    return state.replace(**filled)


def tell_changes(manager: ocp.CheckpointManager, config: ConfigDict) -> None:
    """Print the config fields that differ from the checkpoint that is being resumed."""
    file = manager.directory / str(manager.latest_step()) / "config" / "metadata"
    before, now = _fields(json.loads(file.read_text())), _fields(json.loads(config.to_json()))
    print(f"resuming {manager.directory} at step {manager.latest_step()}", file=sys.stderr)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            print(f"  config.{key}: was {before.get(key)!r}, now {now.get(key)!r}", file=sys.stderr)


def locate(path: str | Path, which: str = "best") -> tuple[Path, int]:
    """(the `checkpoints` folder, the step) that `path` and `which` mean."""
    path = Path(path).resolve()
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; --checkpoint is the --workdir of a training run")
    if path.name.isdigit() and (path / "state").is_dir():
        return path.parent, int(path.name)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / "state").is_dir())
    if not steps:
        raise UserError(f"{path}: holds no checkpoint; --checkpoint is the --workdir of a training run")
    if which not in ("best", "last"):
        if not which.isdigit() or int(which) not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"{folder}: no step {which!r}; there are best, last, {known}")
        return folder, int(which)
    return folder, (_best_step(folder, steps) if which == "best" else steps[-1])


def _best_step(folder: Path, steps: list[int]) -> int:
    scores = {}
    for step in steps:
        config = json.loads((folder / str(step) / "config" / "metadata").read_text())
        name, sign = config.get("best", ""), -1.0 if config.get("best_mode") == "min" else 1.0
        file = folder / str(step) / "metrics" / "metrics"
        metrics = json.loads(file.read_text()) if file.is_file() else {}
        if name in metrics:
            scores[step] = sign * metrics[name]
    return max(scores, key=scores.get) if scores else steps[-1]


def _flat(tree: Any) -> dict:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _fields(tree: Any, prefix: str = "") -> dict:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for name, sub in tree.items() for k, v in _fields(sub, f"{prefix}.{name}".lstrip(".")).items()
    }


class _quiet:
    """Orbax warns of a file that only checkpoints written outside a manager have."""

    def __enter__(self):
        self.level = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.ERROR)

    def __exit__(self, *_):
        logging.getLogger("absl").setLevel(self.level)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
