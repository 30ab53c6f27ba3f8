"""What a compatibility model says of embedded items: distances of pairs, outfits, answers to questions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics import compatibility
from fashionjax.metrics.compatibility import PRECISIONS, Scorer, Scores
from fashionjax.models.compatibility import SetTransformer
from fashionjax.ops import type_spaces

SETS = 512  # sets scored together


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
