"""From a stream of (prediction, batch) numpy pairs to whole-split arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fashionjax.errors import UserError

NOT_LABELS = ("image", "frame", "text")  # too large, or no label


def collect(pairs: Iterable[tuple[dict, dict]]) -> tuple[dict, dict]:
    """(prediction, batch) pairs of arrays [b …] → (predictions, labels), arrays [n …] of the valid examples.

    Padding and unreadable records (`example_valid` False) are left out; the order is the stream's.
    """
    predicted: dict[str, list] = {}
    truth: dict[str, list] = {}
    for prediction, batch in pairs:
        valid = np.asarray(batch["example_valid"], bool)
        for name, value in prediction.items():
            predicted.setdefault(name, []).append(np.asarray(value)[valid])
        for name, value in batch.items():
            if name not in NOT_LABELS:
                truth.setdefault(name, []).append(np.asarray(value)[valid])
    if not predicted:
        raise UserError("the split has no example to evaluate")
    return (
        {name: np.concatenate(parts) for name, parts in predicted.items()},
        {name: np.concatenate(parts) for name, parts in truth.items()},
    )
