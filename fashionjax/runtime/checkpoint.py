"""Orbax checkpoints: save, restore, best, parameters alone.

A checkpoint holds the TrainState, the whole config with the label names (so that it is evaluated and used on
photos without any other file) and the metrics of its evaluation; `checkpoint_files` knows the files.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from fashionjax.errors import UserError
from fashionjax.runtime.checkpoint_files import (
    FOLDER,
    STATE,
    UNFINISHED,
    first_line,
    read_config,
    step_folder,
    write_metrics,
)
from fashionjax.runtime.checkpoint_files import (
    locate as locate,
)
from fashionjax.runtime.state import TrainState

ORIGIN = ("imported", "trained_on_synthetic")  # config fields that stay true whatever training follows


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
        enable_async_checkpointing=True,
    )
    folder = Path(workdir).resolve() / FOLDER
    if jax.process_index() == 0:  # in the background, as Orbax would, it prints into a run that ends at once
        for unfinished in folder.glob(f"*{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "config"))


def save(
    manager: ocp.CheckpointManager, state: TrainState, config: ConfigDict, metrics: dict | None = None
) -> None:
    """Start saving in the background; a step that is already saved is left alone."""
    step = int(state.step)
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(_arrays(state)), config=ocp.args.JsonSave(json.loads(config.to_json()))
    )
    manager.save(step, args=items, metrics=metrics)


def _arrays(state: TrainState) -> dict:
    """The fields that a run has: without an average it is saved as runs always were."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


def add_metrics(manager: ocp.CheckpointManager, step: int, metrics: dict) -> None:
    """Store the metrics of an evaluation that came after `step` was saved; by the first host."""
    manager.wait_until_finished()
    if jax.process_index() == 0:
        write_metrics(manager.directory / str(step), metrics)


def restore(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """The last saved state, onto the shapes and shardings of `state`."""
    step = manager.latest_step()
    folder = manager.directory / str(step)
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
    try:
        different = _differences(folder / STATE, state)
        if not different:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
            with _quiet():
                return TrainState(**manager.restore(step, args=args)["state"])
    except Exception as error:  # the readers raise many types for damaged files
        raise UserError(
            f"{folder}: cannot be read ({first_line(error)}); delete this folder to go on from the "
            "checkpoint before it, or use another --workdir"
        ) from error
    raise UserError(
        f"{folder}: does not fit this config: {_listed(different)}; use another --workdir, or the config "
        "this one was trained with"
    )


def _differences(item: Path, state: TrainState) -> list[str]:
    """Leaves that the saved state has not, or in another shape, a line each; no array is read."""
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = ocp.tree.to_flat_dict(_saved_tree(reader, item), sep="/")
    wanted = ocp.tree.to_flat_dict(_arrays(state), sep="/")
    there = {name: tuple(leaf.shape) for name, leaf in saved.items() if hasattr(leaf, "shape")}
    here = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    found = []
    for name in sorted(there.keys() | here.keys()):
        if name not in here or name not in there:
            found.append(f"{name} is only in the {'checkpoint' if name in there else 'config'}")
        elif there[name] != here[name]:
            found.append(f"{name} is {there[name]} there, {here[name]} here")
    return found


def restore_for_inference(path: str | Path, which: str = "best") -> Restored:
    """Config, parameters (their moving average, of a run that keeps one) and running statistics of a run.

    `path` and `which` as for `checkpoint_files.locate`.
    """
    item = step_folder(path, which)
    try:
        config = ConfigDict(read_config(item))
        with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = _saved_tree(reader, item / STATE)
            used = "average" if tree.get("average") else "params"
            template = {name: tree[name] for name in (used, "model_state")}
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), template)
            template = jax.tree.map(lambda _: 0, template)
            args = ocp.args.PyTreeRestore(item=template, restore_args=how, partial_restore=True)
            tree = reader.restore(item / STATE, args=args)
    except UserError:
        raise
    except Exception as error:  # the readers raise many types for damaged files
        raise UserError(f"{item}: not a readable checkpoint ({first_line(error)})") from error
    return Restored(config, tree[used], tree["model_state"], int(item.name))


def initialise_from(
    state: TrainState, path: str, skip: tuple[str, ...] = (), *, quiet: bool = False
) -> TrainState:
    """`state` with parameters and running statistics from another run's checkpoint.

    Paths that match a pattern of `skip` stay fresh (or are left unread), which is reported unless `quiet`;
    every other leaf must be there, in shape, on both sides.
    """
    restored = restore_for_inference(path)
    pattern = re.compile("|".join(f"(?:{p})" for p in skip)) if skip else None
    filled, problems, fresh = {}, [], []
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
        fresh += sorted(key for key in want if key in left_out)
        filled[name] = flax.traverse_util.unflatten_dict(want | taken, sep="/")
    if problems:
        raise UserError(
            f"config.init_from={path}: {_listed(problems)}; config.init_skip names paths to leave fresh"
        )
    if skip and not quiet:
        print(f"config.init_from={path}: fresh are {', '.join(fresh) or 'none'}", file=sys.stderr)
    if state.average is not None:
        filled["average"] = jax.tree.map(jnp.array, filled["params"])
    return state.replace(**filled)


def inherit_normalisation(config: ConfigDict) -> None:
    """Settles `config.normalisation` where it is auto: weights go on seeing images in the form that they were
    trained on, so it is that of `config.init_from`'s checkpoint, imagenet without one."""
    if config.get("normalisation") != "auto":
        return
    before = read_config(step_folder(config.init_from, "best")) if config.init_from else {}
    form = before.get("normalisation", "auto")
    config.normalisation = "imagenet" if form == "auto" else form
    if config.normalisation != "imagenet":
        print(f"config.normalisation={form}, as in {config.init_from}", file=sys.stderr)


def keep_origin(manager: ocp.CheckpointManager, config: ConfigDict) -> None:
    """Where the weights that are being resumed came from, into `config`, so that reports go on to say it."""
    before = read_config(manager.directory / str(manager.latest_step()))
    with config.unlocked():
        config.update({name: before[name] for name in ORIGIN if before.get(name)})


def tell_changes(manager: ocp.CheckpointManager, config: ConfigDict) -> None:
    """Print the config fields that differ from the checkpoint that is being resumed."""
    before = _fields(read_config(manager.directory / str(manager.latest_step())))
    now = _fields(json.loads(config.to_json()))
    print(f"resuming {manager.directory} at step {manager.latest_step()}", file=sys.stderr)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            print(f"  config.{key}: was {before.get(key)!r}, now {now.get(key)!r}", file=sys.stderr)


def _saved_tree(reader: ocp.Checkpointer, item: Path) -> Any:
    """Shapes and types of the arrays that a folder holds."""
    metadata = reader.metadata(item).item_metadata
    if metadata is None:
        raise ValueError("its list of arrays is missing or damaged")
    return metadata.tree


def _listed(problems: list[str]) -> str:
    return "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")


def _flat(tree: Any) -> dict:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _fields(tree: Any, prefix: str = "") -> dict:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for name, sub in tree.items() for k, v in _fields(sub, f"{prefix}.{name}".lstrip(".")).items()
    }


def _of_orbax(trace: TracebackType | None) -> bool:
    """Whether an exception passed through Orbax."""
    while trace is not None:
        if "orbax" in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def _not_orbax(record: logging.LogRecord) -> bool:
    """A logging filter that drops what Orbax logs below ERROR, and its background tasks' exceptions."""
    if record.name == "asyncio":
        return not (record.exc_info and _of_orbax(record.exc_info[2]))
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname


class _quiet:
    """Drops Orbax's own messages, and nobody else's: it warns of a file that only checkpoints written outside
    a manager have, and its threads print the exceptions of damaged files, some of them later: after an error
    the filter stays."""

    def __enter__(self):
        self.hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_not_orbax)  # adding it again has no effect

    def __exit__(self, kind, *_):
        if kind is None:
            sys.unraisablehook = self.hook
            for name in ("absl", "asyncio"):
                logging.getLogger(name).removeFilter(_not_orbax)

    def _unraisable(self, unraisable):
        # a read of TensorStore that ends after Orbax's event loop has no frame of either in its traceback
        late = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not late and not _of_orbax(unraisable.exc_traceback):
            self.hook(unraisable)
