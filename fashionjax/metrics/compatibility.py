"""Outfit compatibility: area under the ROC curve, fill in the blank, and a table per pair of types.

`zoo/*` repeat MMFashion's evaluation of outfits in single precision; `standard/*` are taken in double
precision and share the credit of ties. A set of items is a list of pairs with their distances, lower for
items that go together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics import classification
from fashionjax.metrics.collect import Rows

PRECISIONS = (np.float64, np.float32)  # of Scores

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


# ------------------------------------------------------------------------------ the stream
class Scores(NamedTuple):
    """Compatibilities, added up in double precision and, as upstream, in single precision."""

    double: Any
    single: Any


class Scorer(NamedTuple):
    """Comparisons of embedded items: embedding f32 [n d], category i32 [n]; sets are arrays of rows.

    pairs     (embedding, category, first [p], second [p]) → distance f32 [p], lower is better
    outfits   (embedding, category, sets) → Scores of arrays [s], higher is better; NaN for a single item
    answers   (embedding, category, questions, answers) → Scores of lists, an array per question
    """

    pairs: Callable
    outfits: Callable
    answers: Callable


class Items(NamedTuple):
    """The items of a split by record: embedding f32 [n d], category i32 [n]; known [n] False: not read."""

    embedding: np.ndarray
    category: np.ndarray
    known: np.ndarray


def items(predicted: dict, truth: dict, n: int) -> Items:
    """The stream's arrays at their records' places."""
    rows = truth["index"]
    embedding = np.zeros((n, predicted["embedding"].shape[1]), np.float32)
    embedding[rows] = predicted["embedding"]
    if not np.isfinite(embedding).all():
        bad = int(np.argmax(~np.isfinite(embedding).all(axis=1)))
        raise UserError(f"the embedding of record {bad} is not finite; the model diverged")
    category, known = np.zeros(n, np.int32), np.zeros(n, bool)
    category[rows], known[rows] = truth["category"], True
    return Items(embedding, category, known)


class OutfitScores(NamedTuple):
    """Outfits and questions with what a scorer says of them; those with unread items are left out.

    outfit, question, answer: lists of row arrays; label [s], correct: 0/1; score [s] and answer_score, as
    answer, in double precision, zoo_* in single precision.
    """

    outfit: Sequence[np.ndarray]
    label: np.ndarray
    score: np.ndarray
    question: Sequence[np.ndarray]
    answer: Sequence[np.ndarray]
    correct: Sequence[np.ndarray]
    answer_score: Sequence[np.ndarray]
    zoo_score: np.ndarray
    zoo_answer_score: Sequence[np.ndarray]


def evaluate_outfits(scorer: Scorer, found: Items, column: Callable[[str], np.ndarray]) -> OutfitScores:
    """Every outfit and question of the split, scored."""
    outfit, label = column("compatibility"), np.asarray(column("compatibility_label"))
    question, answer, correct = (list(column(name)) for name in ("question", "answer", "correct"))
    kept = [i for i, rows in enumerate(outfit) if found.known[rows].all()]
    asked = [
        q for q in range(len(question)) if found.known[question[q]].all() and found.known[answer[q]].all()
    ]
    outfit, label = [outfit[i] for i in kept], label[kept]
    question, answer, correct = ([part[q] for q in asked] for part in (question, answer, correct))
    score = scorer.outfits(found.embedding, found.category, outfit)
    answers = scorer.answers(found.embedding, found.category, question, answer)
    return OutfitScores(
        outfit,
        label,
        score.double,
        question,
        answer,
        correct,
        answers.double,
        score.single,
        answers.single,
    )


def metrics_of(scored: OutfitScores) -> dict[str, float]:
    """AUC and fill-in-the-blank of what was scored."""
    auc = auc_metrics(scored.score, scored.label, scored.zoo_score)
    return auc | fill_in_blank_metrics(scored.answer_score, scored.correct, scored.zoo_answer_score)


class OutfitMetrics:
    """The accumulator of outfits: keeps embedding f32 [d] and category of each item, and of a type head
    where the true type ranks. `scorer` compares the items; `context.column` gives the split's outfits and
    questions.
    """

    def __init__(self, context, scorer: Scorer, *, type_head: bool = True):
        self.context, self.scorer, self.type_head = context, scorer, type_head
        self.rows, self.types = Rows(context.gather), 0

    def update(self, prediction: dict, batch: dict) -> None:
        kept = {"embedding": np.asarray(prediction["embedding"], np.float32), "category": batch["category"]}
        if self.type_head and "category_logits" in prediction:
            self.types = np.shape(prediction["category_logits"])[1]
            kept |= classification.category_rows(prediction["category_logits"], batch["category"])
        self.rows.add(batch, kept)

    def items(self) -> Items:
        """The items by record."""
        rows = self.rows.whole()
        return items(rows, rows, len(self.context.column("category")))

    @functools.cached_property
    def scored(self) -> OutfitScores:
        """What the scorer says of the split's outfits and questions."""
        return evaluate_outfits(self.scorer, self.items(), self.context.column)

    def result(self) -> dict[str, float]:
        result = metrics_of(self.scored)
        if self.types:
            result |= classification.category_metrics_of(self.rows.whole(), self.types)
        return result
