"""Evaluate a checkpoint on a split: metrics, baselines, report.json and report.html.

python -m fashionjax.evaluate --checkpoint=runs/landmarks --split=test --out=runs/landmarks/test
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from fashionjax import parallel
from fashionjax.data import pipeline
from fashionjax.data.source import Split
from fashionjax.errors import UserError
from fashionjax.scalars import clock
from fashionjax.task import Task


def predictions(
    task: Task,
    predict_step: Callable,
    params: Any,
    model_state: Any,
    split: Split,
    config: ConfigDict,
    mesh,
    *,
    allow_missing: bool = False,
    progress: bool = True,
) -> Iterator[tuple[dict, dict]]:
    """(prediction, batch) numpy pairs [b …] over the whole split, in batches of `config.batch_size`.

    Padding and unreadable records are marked by `example_valid` False. Records that cannot be read are named
    and then an error, unless `allow_missing`.
    """
    process = parallel.this_process()
    batches = pipeline.eval_batches(
        split, task.preprocess, batch_size=config.batch_size, workers=config.workers, process=process
    )
    feed = parallel.prefetch(batches, lambda batch: parallel.put_batch(batch, config.parallel, mesh))
    started, seen, broken = time.monotonic(), 0, []
    for host_batch, batch in feed:
        for index in pipeline.damaged(host_batch):
            broken.append(int(index))
            why = pipeline.why_damaged(split, task.preprocess, int(index))
            print(f"warning: damaged record {why}", file=sys.stderr)
        outputs = parallel.fetch(predict_step(params, model_state, batch), config.parallel)
        truth = host_batch if process[1] == 1 else parallel.fetch(batch, config.parallel)
        seen = min(seen + config.batch_size, len(split))
        if progress:
            _progress(seen, len(split), started)
        yield outputs, truth
    if broken and not allow_missing:
        raise UserError(
            f"{split.dataset}/{split.name}: {len(broken)} of {len(split)} records cannot be read (named "
            "above); prepare the dataset again, or pass --allow_missing to evaluate the others"
        )


def _progress(seen: int, total: int, started: float) -> None:
    elapsed = time.monotonic() - started
    line = f"evaluated {seen}/{total}  {seen / max(elapsed, 1e-9):.0f} img/s  left "
    line += clock(elapsed / seen * (total - seen))
    end = "\r" if sys.stderr.isatty() and seen < total else "\n"
    if end == "\r" or seen == total:
        print(line.ljust(70), end=end, file=sys.stderr, flush=True)
