"""Outfit compatibility: area under the ROC curve, fill in the blank, and a table per pair of types.

`zoo/*` repeat MMFashion's evaluation of outfits in single precision; `standard/*` are taken in double
precision and share the credit of ties. A set of items is a list of pairs with their distances, lower for
items that go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DEFINITIONS = {
    "zoo/compatibility_auc": (
        "area under the ROC curve of 1 - mean pairwise distance over outfits (of a set transformer: of its "
        "logit), real against artificial, added up in single precision; ties count one half"
    ),
    "zoo/fill_in_blank": (
        "share of questions whose answer with the smallest distance to the question's items, summed in "
        "single precision (of a set transformer: with the largest logit), the first of equal ones, is the "
        "outfit's own, in percent"
    ),
    "standard/compatibility_auc": (
        "area under the ROC curve of the outfits' compatibility, real against artificial; ties count one half"
    ),
    "standard/fill_in_blank": (
        "share of questions whose most compatible answer is the right one; of n equal best answers each "
        "counts 1/n"
    ),
}


class Pairs(NamedTuple):
    """Pairs of rows in groups: first, second [p] rows, group [p] the outfit or answer that a pair is in."""

    first: np.ndarray
    second: np.ndarray
    group: np.ndarray


def pairs_within(outfits: Sequence[np.ndarray]) -> Pairs:
    """Every two items of each outfit, in order; group is the outfit. An outfit of one item has none."""
    length = np.asarray([len(rows) for rows in outfits], np.int64)
    first, second, group = [], [], []
    for n in np.unique(length[length > 1]):  # all outfits of one length at once
        at = np.flatnonzero(length == n)
        rows = np.stack([outfits[i] for i in at])
        i, j = np.triu_indices(n, 1)
        first.append(rows[:, i].ravel())
        second.append(rows[:, j].ravel())
        group.append(np.repeat(at, len(i)))
    return Pairs(*(_joined(parts) for parts in (first, second, group)))


def pairs_across(questions: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> Pairs:
    """Every item of a question with each of its answers; group numbers the answers of all questions."""
    sizes = np.asarray([len(rows) for rows in answers])
    offset = np.cumsum(sizes) - sizes
    first, second, group = [], [], []
    for question, answer, start in zip(questions, answers, offset.tolist(), strict=True):
        first.append(np.tile(question, len(answer)))
        second.append(np.repeat(answer, len(question)))
        group.append(np.repeat(start + np.arange(len(answer)), len(question)))
    return Pairs(*(_joined(parts) for parts in (first, second, group)))


def _joined(parts: list) -> np.ndarray:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def summed_distance(distance: np.ndarray, group: np.ndarray, n: int, dtype=np.float64) -> np.ndarray:
    """distance [p], group [p] in 0..n-1 -> sum per group [n]; NaN for a group without a pair.

    Pairs are added one after the other in `dtype`: in float32 the sums tie where upstream's do.
    """
    total = np.zeros(n, dtype)
    np.add.at(total, group, np.asarray(distance, dtype))
    total[np.bincount(group, minlength=n) == 0] = np.nan
    return total


def mean_distance(distance: np.ndarray, group: np.ndarray, n: int, dtype=np.float64) -> np.ndarray:
    """As `summed_distance`, the mean."""
    count = np.bincount(group, minlength=n).astype(dtype)
    return summed_distance(distance, group, n, dtype) / np.maximum(count, 1)


def roc_auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the share of (1, 0) pairs in the right order, ties one half; NaN without
    both labels.
    """
    score, positive = np.asarray(score), np.asarray(label).astype(bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # mean rank of equal values, from 1
    return float((rank[place[positive]].sum() - n * (n + 1) / 2) / (n * m))


def roc_curve(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-np.asarray(score), kind="stable")
    score, positive = np.asarray(score)[order], np.asarray(label)[order].astype(bool)
    last = np.append(np.diff(score) != 0, True)  # one point for equal scores
    hits, misses = np.cumsum(positive)[last], np.cumsum(~positive)[last]
    return tuple(np.concatenate([[0], x / max(x[-1], 1)]) for x in (misses, hits))


def right_answers(score: Sequence[np.ndarray], correct: Sequence[np.ndarray]) -> np.ndarray:
    """score: per question one number per answer, the best is the largest; correct: 0/1 alike -> credit [q]:
    1 for the right one, 1/n where it is among n equal best.
    """
    credit = np.zeros(len(score))
    for q, (values, right) in enumerate(zip(score, correct, strict=True)):
        best = np.asarray(values) == np.max(values)
        credit[q] = np.asarray(right, np.float64)[best].mean()
    return credit


def first_answers(score: Sequence[np.ndarray], correct: Sequence[np.ndarray]) -> np.ndarray:
    """As `right_answers`, the first of equal answers taken: 0/1 [q]."""
    return np.asarray([right[int(np.argmax(values))] for values, right in zip(score, correct, strict=True)])


def auc_metrics(score: np.ndarray, label: np.ndarray, zoo_score: np.ndarray | None = None) -> dict:
    """score [s], higher for outfits that go together (NaN: an outfit of one item, left out), label [s] 0/1.

    zoo_score is what the zoo's form ranks by, `score` where there is none.
    """
    known = np.isfinite(score)
    zoo_score = score if zoo_score is None else zoo_score
    return {
        "zoo/compatibility_auc": roc_auc(np.float32(zoo_score[known]), label[known]),
        "standard/compatibility_auc": roc_auc(score[known], label[known]),
    }


def fill_in_blank_metrics(
    score: Sequence[np.ndarray],
    correct: Sequence[np.ndarray],
    zoo_score: Sequence[np.ndarray] | None = None,
) -> dict:
    """score: per question one number per answer, higher is better; correct: 0/1 alike; zoo_score as in
    `auc_metrics`.
    """
    if not len(score):
        return {"zoo/fill_in_blank": float("nan"), "standard/fill_in_blank": float("nan")}
    single = [np.float32(values) for values in (score if zoo_score is None else zoo_score)]
    return {
        "zoo/fill_in_blank": 100.0 * float(np.mean(first_answers(single, correct))),
        "standard/fill_in_blank": float(np.mean(right_answers(score, correct))),
    }


def type_pair_table(distance, label, first_type, second_type) -> list[dict]:
    """Pairs of items of real (label 1) and artificial outfits by their two types, most frequent first.

    distance, label [p], first_type, second_type [p] -> rows of types (a <= b), n_real, n_artificial, their
    mean distances, and auc: how often the distance of a real pair is the smaller one.
    """
    low, high = np.minimum(first_type, second_type), np.maximum(first_type, second_type)
    label, rows = np.asarray(label).astype(bool), []
    keys, place = np.unique(np.stack([low, high], 1), axis=0, return_inverse=True)
    place = place.reshape(-1)
    for number, (a, b) in enumerate(keys.tolist()):
        at = place == number
        real, artificial = distance[at & label], distance[at & ~label]
        rows.append(
            {
                "types": (a, b),
                "n_real": len(real),
                "n_artificial": len(artificial),
                "mean_real": _mean(real),
                "mean_artificial": _mean(artificial),
                "auc": roc_auc(-distance[at], label[at]),
            }
        )
    return sorted(rows, key=lambda row: -(row["n_real"] + row["n_artificial"]))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else float("nan")
