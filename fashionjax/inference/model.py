"""A model ready to run, from a checkpoint or from a run under way, and its predictions over a split."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fashionjax import quirks, tasks
from fashionjax.data import pipeline
from fashionjax.data.source import Joined, Split
from fashionjax.errors import UserError
from fashionjax.runtime import checkpoint, datasets, parallel, progress, state
from fashionjax.task import Batch, Context, Task, Tree


class Model(NamedTuple):
    """A task with its variables on the devices; `predict_step` is compiled when its first batch comes."""

    config: ConfigDict
    task: Task
    mesh: Mesh
    predict_step: Callable[[Tree, Tree, Batch], dict]  # (params, model_state, batch on the devices) → arrays
    params: Tree
    model_state: Tree
    step: int  # how long it was trained


def load(
    path: str | Path,
    which: str = "best",
    overrides: Mapping[str, str] | None = None,
    quirks_off: Sequence[str] = (),
) -> Model:
    """The model of a checkpoint. `path` and `which` (best, last or a step) as for
    `checkpoint.restore_for_inference`; `overrides` replaces config fields, empty values do not;
    `quirks_off` are left out of `config.quirks`."""
    restored = checkpoint.restore_for_inference(path, which)
    config = restored.config
    with config.unlocked():
        config.update({name: value for name, value in (overrides or {}).items() if value})
        config.quirks = [name for name in config.get("quirks", ()) if name not in quirks_off]
    task, mesh = tasks.make(config), parallel.make_mesh()
    step = parallel.compile_predict_step(state.make_predict_step(task), config.parallel, mesh)
    params, model_state = parallel.replicate((restored.params, restored.model_state), mesh)
    return Model(config, task, mesh, step, params, model_state, restored.step)


def run(model: Model, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A numpy batch [b …] → outputs [b …]; b must divide over the devices. Each new b is compiled again."""
    placed = parallel.put_batch(dict(batch), model.config.parallel, model.mesh)
    outputs = model.predict_step(model.params, model.model_state, placed)
    return parallel.fetch(outputs, model.config.parallel)


def context(
    model: Model,
    split: Split | Joined,
    *,
    allow_missing: bool = True,
    out: Path | None = None,
    left_out: set[int] | None = None,
    excluded: set[int] | None = None,
) -> Context:
    """What metrics, baselines and reports read beside the predictions over `split`.

    Records that a metric cannot count are an error, or with `allow_missing` a warning; their indices go into
    `left_out`, those that the config's protocol does not count into `excluded`. `out` is the folder of a
    report's files.
    """
    reported = set() if left_out is None else left_out

    def leave_out(records: Iterable[int], reason: str) -> None:
        records = {int(record) for record in records}
        if not allow_missing:
            name = f"{split.dataset}/{split.name}"
            raise UserError(f"{name}: {reason}; pass --allow_missing to evaluate the others")
        if not records <= reported:
            print(f"warning: {reason}; evaluated without them", file=sys.stderr)
        reported.update(records)

    return Context(
        model.config,
        model.params,
        model.model_state,
        split.dataset,
        split.name,
        len(split),
        split.labels,
        split.column,
        record=split.__getitem__,
        image=lambda record: pipeline.read(split, model.task.preprocess, record)["image"],
        untrained=lambda: _untrained(model),
        training=lambda count: _training(model, count),
        training_column=lambda name: datasets.open_split(model.config, model.config.train_split).column(name),
        gather=parallel.gather_rows,
        leave_out=leave_out,
        exclude=(set() if excluded is None else excluded).update,
        out=out,
    )


def _untrained(model: Model) -> Callable[[Batch], dict]:
    """The same network before training: batch of this host → predictions. Initialised at the first batch."""
    fresh: list[Model] = []

    def predict(batch: Batch) -> dict:
        if not fresh:
            image = {"image": np.asarray(batch["image"])[:1]}
            variables = jax.jit(model.task.init)(state.initial_key(model.config.seed), image)
            params, model_state = parallel.replicate(variables, model.mesh)
            fresh.append(model._replace(params=params, model_state=model_state))
        return run(fresh[0], batch)

    return predict


def _training(model: Model, count: int) -> Iterator[dict]:
    """At most `count` readable examples of the training split, evenly spread and preprocessed, with their
    record's number as `index`."""
    split = datasets.open_split(model.config, model.config.train_split)
    chosen = np.linspace(0, len(split) - 1, min(len(split), count)).round().astype(np.int64)
    for index in np.unique(chosen):
        example = pipeline.read(split, model.task.preprocess, int(index))
        if example is not None:
            yield example | {"index": np.int32(index)}


def predictions(
    model: Model, split: Split | Joined, *, allow_missing: bool = False, show_progress: bool = True
) -> Iterator[tuple[dict, dict]]:
    """(prediction, batch) numpy pairs [b …] over the whole split, in batches of `config.batch_size`, padded
    to a whole number of rows per device; each host sees its own share.

    Padding and unreadable records are marked by `example_valid` False. Records that cannot be read are named
    and then an error, or with `allow_missing` a warning.
    """
    config, process = model.config, parallel.this_process()
    batches = pipeline.eval_batches(
        split,
        model.task.preprocess,
        batch_size=config.batch_size,
        workers=config.workers,
        process=process,
        collate=model.task.collate,
    )
    # the devices' shares are equal, and whole groups under quirk S3: the same numbers on any device count
    share = len(model.mesh.local_devices) * quirks.scramble_group(config)
    batches = (pipeline.pad(batch, share) for batch in batches)
    feed = parallel.prefetch(batches, lambda batch: parallel.put_batch(batch, config.parallel, model.mesh))
    started, seen, broken = time.monotonic(), 0, []
    for host_batch, batch in feed:
        for index in pipeline.damaged(host_batch):
            why = pipeline.why_damaged(split, model.task.preprocess, int(index))
            print(f"warning: damaged record {why}", file=sys.stderr)
        outputs = parallel.fetch(model.predict_step(model.params, model.model_state, batch), config.parallel)
        broken += pipeline.damaged(host_batch).tolist()
        seen = min(seen + config.batch_size, len(split))
        if show_progress:
            _progress(seen, len(split), started)
        yield outputs, host_batch
    broken = [index for part in parallel.gather(broken) for index in part]  # all hosts stop or none
    if not broken:
        return
    lost = f"{split.dataset}/{split.name}: {len(broken)} of {len(split)} records cannot be read (named above)"
    if not allow_missing:
        raise UserError(f"{lost}; prepare the dataset again, or pass --allow_missing to evaluate the others")
    print(f"warning: {lost}; evaluated without them", file=sys.stderr)


def _progress(seen: int, total: int, started: float) -> None:
    elapsed = time.monotonic() - started
    left = progress.clock(elapsed / seen * (total - seen))
    line = f"evaluated {seen}/{total}  {seen / max(elapsed, 1e-9):.0f} img/s  left {left}"
    progress.show(line, last=seen == total, every=False)
