"""Batches from a prepared split: shuffle, shard over hosts, read, preprocess, pad, prefetch.

Everything is a function of (seed, position): a position of the endless shuffled stream is the same record
with the same random numbers whatever the number of hosts, worker processes or threads, and a run starts at
any step without replaying the ones before.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from fashionjax.data.source import DamagedRecord, Split
from fashionjax.errors import UserError

PADDING = -1  # `index` of an example that only fills up the last batch
ENDLESS = 2**40  # positions of the training stream; Grain's lengths overflow on a true infinity
Example = dict[str, Any]
Preprocess = Callable[[Example, np.random.Generator | None], Example]
Collate = Callable[[Sequence[Example]], Example]


def train_batches(
    split: Split,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    order: Callable[[int, int], int | tuple[int, dict]] | None = None,
    collate: Collate | None = None,
) -> Iterator[Example]:
    """Endless batches from `start_step` on: this host's share, {name: array [b …]}.

    `process` is (index, count) of the host; `batch_size` is global, and each host has consecutive positions
    of it. `order(seed, position)` → record index, or (record index, labels that replace the record's); None
    for a fresh shuffle each epoch. `collate` makes a batch of examples of different shapes; None: they are
    stacked. Every batch has `index` [b] i32 (the record)
    and `example_valid` [b] bool; a record that cannot be read is zeros with example_valid False.
    """
    blank = _blank(split, preprocess, np.random.default_rng(seed))
    if order is None:
        indices = grain.MapDataset.range(len(split)).seed(seed).shuffle().repeat(ENDLESS // len(split))
    else:
        indices = grain.MapDataset.range(ENDLESS).map(lambda position: order(seed, position))

    def load(position: int, index: int | tuple[int, dict]) -> Example:
        index, labels = index if isinstance(index, tuple) else (index, {})
        rng = np.random.default_rng((seed, position))
        return _load(split, preprocess, int(index), rng, blank) | labels

    share, count = process
    dataset = indices.map_with_index(load).batch(batch_size // count, batch_fn=collate)[share::count]
    return iter(_iterate(dataset[start_step:], workers))


def eval_batches(
    split: Split,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    collate: Collate | None = None,
) -> Iterator[Example]:
    """Every record once, in order, in batches of one size: the last is padded with example_valid False
    and `index` PADDING. A `batch_size` that does not divide over the hosts is rounded up."""
    blank = _blank(split, preprocess, None)
    share, count = process
    per_host = -(-batch_size // count)
    padded = -(-len(split) // (per_host * count)) * per_host * count

    def load(index: int) -> Example:
        if index >= len(split):
            return blank
        return _load(split, preprocess, int(index), None, blank)

    dataset = grain.MapDataset.range(padded).map(load).batch(per_host, batch_fn=collate)[share::count]
    return iter(_iterate(dataset, workers))


def pad(batch: Example, multiple: int) -> Example:
    """The batch [b …] with rows of zeros (example_valid False, `index` PADDING) up to a multiple of rows."""
    lacking = -len(batch["index"]) % multiple
    if not lacking:
        return batch
    rows = {name: np.zeros((lacking, *value.shape[1:]), value.dtype) for name, value in batch.items()}
    rows["index"] = np.full(lacking, PADDING, batch["index"].dtype)
    return {name: np.concatenate([value, rows[name]]) for name, value in batch.items()}


def damaged(batch: Example) -> np.ndarray:
    """Record indices in a host batch that could not be read."""
    return batch["index"][~batch["example_valid"] & (batch["index"] != PADDING)]


def read(
    split: Split, preprocess: Preprocess, index: int, rng: np.random.Generator | None = None
) -> Example | None:
    """One record preprocessed, without `rng` as for evaluation, or None when it cannot be read."""
    try:
        return preprocess(split[index], rng)
    except (DamagedRecord, UserError):
        return None


def why_damaged(split: Split, preprocess: Preprocess, index: int) -> str:
    """The report line of a record that `damaged` named."""
    try:
        preprocess(split[index], None)
    except (DamagedRecord, UserError) as error:
        return f"{_record_id(split, index)}: {error}"
    return f"{_record_id(split, index)}: unreadable at first, readable now"


def _record_id(split: Split, index: int) -> str:
    name = f"{split.dataset}/{split.name}[{index}]"
    try:
        return f"{name} ({split[index]['image_id']})"
    except (DamagedRecord, KeyError):
        return name


def _load(split: Split, preprocess: Preprocess, index: int, rng, blank: Example) -> Example:
    example = read(split, preprocess, index, rng)
    if example is None:
        return blank | {"index": np.int32(index)}
    return example | {"index": np.int32(index), "example_valid": np.True_}


def _blank(split: Split, preprocess: Preprocess, rng) -> Example:
    """Zeros in the shapes of the first readable record."""
    if not len(split):
        raise UserError(f"{split.dataset}/{split.name}: the split is empty")
    for index in range(len(split)):
        example = read(split, preprocess, index, rng)
        if example is not None:
            blank = {name: np.zeros_like(value) for name, value in example.items()}
            return blank | {"index": np.int32(PADDING), "example_valid": np.False_}
    last = why_damaged(split, preprocess, len(split) - 1)
    raise UserError(f"{split.dataset}/{split.name}: no record can be read; the last: {last}")


def _iterate(dataset: grain.MapDataset, workers: int) -> grain.IterDataset:
    cores = os.cpu_count() or 1
    threads = grain.ReadOptions(num_threads=min(16, 2 * cores), prefetch_buffer_size=min(16, 2 * cores))
    batches = dataset.to_iter_dataset(threads)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, also where no command parsed any
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        end = functools.partial(_end_with_parent, os.getpid())
        batches = batches.mp_prefetch(options, worker_init_fn=end)
    return batches


def _end_with_parent(parent: int, worker: int, count: int) -> None:
    """A worker whose trainer was killed, also while the worker started, ends within a second; it would wait
    on its queue for ever."""
    del worker, count

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
