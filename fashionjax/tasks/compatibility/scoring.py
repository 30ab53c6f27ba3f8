"""What a compatibility model says of embedded items: distances of pairs, outfits, answers to questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics import compatibility
from fashionjax.models.compatibility import SetTransformer
from fashionjax.ops import type_spaces

SETS = 512  # sets scored together
PRECISIONS = (np.float64, np.float32)  # of Scores


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


def space_of(table: np.ndarray, types: Sequence[str], first, second) -> np.ndarray:
    """The type spaces that join types first and second, i32 [p] -> [p]; UserError where none does."""
    space = table[first, second]
    try:
        type_spaces.check_joined(space, np.stack(np.broadcast_arrays(first, second), -1), types)
    except ValueError as error:
        raise UserError(f"{error}: the typespaces.p of the training data has none") from error
    return space


def pair_scorer(spaces: type_spaces.Spaces, table: np.ndarray, types: Sequence[str]) -> Scorer:
    """Comparisons pair by pair: an outfit by the mean distance of its pairs, an answer by the sum.

    table i32 [t t]: the space of two types; `types` are their names.
    """

    def pairs(embedding, category, first, second):
        space = space_of(table, types, category[first], category[second])
        return type_spaces.distances(spaces, embedding, first, second, space)

    def outfits(embedding, category, sets):
        found = compatibility.pairs_within(sets)
        distance = pairs(embedding, category, found.first, found.second)
        mean = (compatibility.mean_distance(distance, found.group, len(sets), dtype) for dtype in PRECISIONS)
        return Scores(*(1 - values for values in mean))

    def answers(embedding, category, questions, choices):
        found = compatibility.pairs_across(questions, choices)
        distance = pairs(embedding, category, found.first, found.second)
        n = sum(map(len, choices))
        total = (compatibility.summed_distance(distance, found.group, n, dtype) for dtype in PRECISIONS)
        return Scores(*(_by_question(-values, choices) for values in total))

    return Scorer(pairs, outfits, answers)


def _by_question(values: np.ndarray, choices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """values of all answers in a row → an array per question."""
    return np.split(values, np.cumsum([len(rows) for rows in choices], dtype=int))[:-1]


def set_scorer(model: SetTransformer, params) -> Scorer:
    """Comparisons of whole sets; the distance of a pair is 1 - its probability as a set of two."""

    @jax.jit
    def score(embedding, category, rows):
        valid = rows >= 0
        return model.apply({"params": params}, embedding[rows], category[rows], valid, method="score_sets")

    def outfits(embedding, category, sets):
        if not len(sets):
            return Scores(*(np.zeros(0, dtype) for dtype in PRECISIONS))
        longest = max(map(len, sets))
        rows = np.full((-(-len(sets) // SETS) * SETS, longest), -1, np.int32)
        for number, members in enumerate(sets):
            rows[number, : len(members)] = members
        embedding, category = jnp.asarray(embedding), jnp.asarray(category)
        logits = [score(embedding, category, chunk) for chunk in rows.reshape(-1, SETS, longest)]
        single = np.concatenate([np.asarray(x, np.float32) for x in logits])[: len(sets)]
        single[[len(members) < 2 for members in sets]] = np.nan
        return Scores(single.astype(np.float64), single)

    def answers(embedding, category, questions, choices):
        sets = [
            np.append(question, choice)
            for question, rows in zip(questions, choices, strict=True)
            for choice in rows
        ]
        return Scores(*(_by_question(values, choices) for values in outfits(embedding, category, sets)))

    def pairs(embedding, category, first, second):
        logits = outfits(embedding, category, np.stack([first, second], 1)).double
        return (1 / (1 + np.exp(logits))).astype(np.float32)

    return Scorer(pairs, outfits, answers)


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


def outfit_metrics(judged: OutfitScores) -> dict[str, float]:
    """AUC and fill-in-the-blank of what was judged."""
    auc = compatibility.auc_metrics(judged.score, judged.label, judged.zoo_score)
    return auc | compatibility.fill_in_blank_metrics(
        judged.answer_score, judged.correct, judged.zoo_answer_score
    )
