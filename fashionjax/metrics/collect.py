"""From a stream of (prediction, batch) numpy pairs to what a metric keeps of a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from fashionjax.errors import UserError

NOT_LABELS = ("image", "canvas", "frame", "text")  # too large, or no label


class Rows:
    """Arrays of the valid examples of a stream, kept to the end: what a metric needs of each, and no more.

    Padding and unreadable records (`example_valid` False) are left out. `gather` turns the rows of this host
    into those of all hosts, ordered by `index` (`Context.gather`).
    """

    def __init__(self, gather: Callable[[dict], dict] = lambda rows: rows):
        self.gather = gather
        self.parts: dict[str, list[np.ndarray]] = {}
        self.joined: dict[str, np.ndarray] | None = None

    def add(self, batch: Mapping, rows: Mapping[str, np.ndarray]) -> None:
        """Keeps `rows` {name: array [b …]} of the batch's valid examples, and the batch's `index`."""
        if self.joined is not None:
            raise ValueError("add after whole")
        valid = np.asarray(batch["example_valid"], bool)
        if "index" in batch:
            rows = {"index": batch["index"], **rows}
        for name, value in rows.items():
            self.parts.setdefault(name, []).append(np.asarray(value)[valid])

    def filled(self) -> bool:
        """Whether a batch was added, with valid examples or without."""
        return bool(self.parts) or self.joined is not None

    def whole(self) -> dict[str, np.ndarray]:
        """{name: array [n …]} in the order of the stream; no more rows can be added."""
        if self.joined is None:
            rows = {}
            for name in list(self.parts):  # one by one: parts and whole never stand beside each other
                rows[name] = np.concatenate(self.parts.pop(name))
            rows = self.gather(rows)
            if not rows or not len(next(iter(rows.values()))):
                raise UserError("the split has no example to evaluate")
            self.joined = rows
        return self.joined


class Mapped:
    """An accumulator that sees other predictions: `change` (prediction, batch) → prediction."""

    def __init__(self, accumulator, change: Callable[[dict, dict], dict]):
        self.accumulator, self.change = accumulator, change

    def update(self, prediction: dict, batch: dict) -> None:
        self.accumulator.update(self.change(prediction, batch), batch)

    def result(self) -> dict[str, float]:
        return self.accumulator.result()


def measure(accumulator, pairs: Iterable[tuple[dict, dict]]) -> dict[str, float]:
    """The accumulator's result over a stream of (prediction, batch)."""
    for prediction, batch in pairs:
        accumulator.update(prediction, batch)
    return accumulator.result()


def collect(pairs: Iterable[tuple[dict, dict]]) -> tuple[dict, dict]:
    """(prediction, batch) pairs of arrays [b …] → (predictions, labels), arrays [n …] of the valid examples,
    in the order of the stream."""
    predicted, truth = Rows(), Rows()
    for prediction, batch in pairs:
        predicted.add({"example_valid": batch["example_valid"]}, prediction)
        truth.add(batch, {name: value for name, value in batch.items() if name not in NOT_LABELS})
    return predicted.whole(), truth.whole()
