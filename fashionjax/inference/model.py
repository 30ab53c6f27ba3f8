"""A model ready to run, from a checkpoint or from a run under way, and its predictions over a split."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fashionjax import quirks, tasks
from fashionjax.data import pipeline
from fashionjax.data.source import Joined, Split
from fashionjax.errors import UserError
from fashionjax.runtime import checkpoint, parallel, progress, state
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


def load(path: str | Path, which: str = "best", overrides: Mapping[str, str] | None = None) -> Model:
    """The model of a checkpoint. `path` and `which` (best, last or a step) as for
    `checkpoint.restore_for_inference`; `overrides` replaces config fields, empty values do not."""
    restored = checkpoint.restore_for_inference(path, which)
    config = restored.config
    with config.unlocked():
        config.update({name: value for name, value in (overrides or {}).items() if value})
    task, mesh = tasks.make(config), parallel.make_mesh()
    step = parallel.compile_predict_step(state.make_predict_step(task), config.parallel, mesh)
    params, model_state = parallel.replicate((restored.params, restored.model_state), mesh)
    return Model(config, task, mesh, step, params, model_state, restored.step)


def run(model: Model, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A numpy batch [b …] → outputs [b …]; b must divide over the devices. Each new b is compiled again."""
    placed = parallel.put_batch(dict(batch), model.config.parallel, model.mesh)
    outputs = model.predict_step(model.params, model.model_state, placed)
    return parallel.fetch(outputs, model.config.parallel)


def context(model: Model, split: Split | Joined) -> Context:
    """What the task's metrics read beside the predictions over `split`."""
    return Context(model.params, model.model_state, split.column)


def predictions(
    model: Model, split: Split | Joined, *, allow_missing: bool = False, show_progress: bool = True
) -> Iterator[tuple[dict, dict]]:
    """(prediction, batch) numpy pairs [b …] over the whole split, in batches of `config.batch_size`,
    padded to a whole number of rows per device.

    Padding and unreadable records are marked by `example_valid` False. Records that cannot be read are named
    and then an error, or with `allow_missing` a warning.
    """
    config, process = model.config, parallel.this_process()
    batches = pipeline.eval_batches(
        split, model.task.preprocess, batch_size=config.batch_size, workers=config.workers, process=process
    )
    # the devices' shares are equal, and whole groups under switch S3: the same numbers on any device count
    share = len(model.mesh.local_devices) * (quirks.on(config, "s3_roi_scramble_group") or 1)
    batches = (pipeline.pad(batch, share) for batch in batches)
    feed = parallel.prefetch(batches, lambda batch: parallel.put_batch(batch, config.parallel, model.mesh))
    started, seen, broken = time.monotonic(), 0, []
    for host_batch, batch in feed:
        for index in pipeline.damaged(host_batch):
            why = pipeline.why_damaged(split, model.task.preprocess, int(index))
            print(f"warning: damaged record {why}", file=sys.stderr)
        outputs = parallel.fetch(model.predict_step(model.params, model.model_state, batch), config.parallel)
        truth = host_batch if process[1] == 1 else parallel.fetch(batch, config.parallel)
        broken += pipeline.damaged(truth).tolist()  # of all hosts, so that all of them stop or none
        seen = min(seen + config.batch_size, len(split))
        if show_progress:
            _progress(seen, len(split), started)
        yield outputs, truth
    if not broken:
        return
    told = f"{split.dataset}/{split.name}: {len(broken)} of {len(split)} records cannot be read (named above)"
    if not allow_missing:
        raise UserError(f"{told}; prepare the dataset again, or pass --allow_missing to evaluate the others")
    print(f"warning: {told}; evaluated without them", file=sys.stderr)


def _progress(seen: int, total: int, started: float) -> None:
    elapsed = time.monotonic() - started
    left = progress.clock(elapsed / seen * (total - seen))
    line = f"evaluated {seen}/{total}  {seen / max(elapsed, 1e-9):.0f} img/s  left {left}"
    progress.show(line, last=seen == total, every=False)
