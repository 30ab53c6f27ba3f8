"""What an outfit lacks, and the ranking of candidates against a loop in float64."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest
from close import assert_conditioned
from outfits import PAIRS, TYPES

from fashionjax.models.compatibility import SetTransformer
from fashionjax.ops import type_spaces
from fashionjax.ops.type_spaces import Spaces
from fashionjax.outfit import completion

TABLE = type_spaces.space_table(PAIRS, TYPES)
D = 8


def spaces(kind: str) -> Spaces:
    rng = np.random.default_rng(7)
    metric = rng.normal(size=D).astype(np.float32) if "metric" in kind else None
    if "mask" in kind:
        return Spaces(mask=rng.uniform(0.1, 2, (66, D)).astype(np.float32), metric=metric)
    kernel, bias = rng.normal(size=(66, D, D)), rng.normal(size=(66, D))
    return Spaces(kernel=kernel.astype(np.float32), bias=bias.astype(np.float32), metric=metric)


def distance(own: Spaces, a, b, c) -> float:
    """Of float64 arrays."""

    def place(x):
        if own.mask is None:
            return x @ own.kernel[c] + own.bias[c]
        return x * own.mask[c] / (np.linalg.norm(x * own.mask[c]) + 1e-10)

    a, b = place(a), place(b)
    return float(np.sum(own.metric * a * b) if own.metric is not None else np.linalg.norm(a - b + 1e-6))


@pytest.mark.parametrize("kind", ["mask", "fc", "mask metric", "fc metric"])
@pytest.mark.parametrize("pieces", [1, 5, 9])
def test_ranking_equals_a_loop(kind, pieces, monkeypatch):
    monkeypatch.setattr(type_spaces, "RANKED", 16)  # several blocks, the last of them not full
    rng, own = np.random.default_rng(0), spaces(kind)
    gallery, category = rng.normal(size=(90, D)).astype(np.float32), rng.integers(0, 3, 90)
    outfit, worn = rng.normal(size=(pieces, D)).astype(np.float32), rng.integers(0, 11, pieces)
    candidates = completion.by_type(gallery, category, [2, 7])
    assert set(candidates) == {2}, "the gallery has no type 7"
    rank = completion.pair_ranker(own, TABLE, TYPES)
    value, number = rank(outfit, worn, 2, candidates[2], 10)
    rows = np.flatnonzero(category == 2)

    def scores(own, outfit, candidates):
        """The epsilon of a distance is added to candidate minus item."""
        own, outfit, candidates = jax.tree.map(np.float64, (own, outfit, candidates))
        pairs = list(zip(outfit, worn))
        return np.asarray(
            [1 - np.mean([distance(own, c, q, TABLE[t, 2]) for q, t in pairs]) for c in candidates]
        )

    want = scores(own, outfit, gallery[rows])
    order = np.argsort(-want, kind="stable")[:10]
    np.testing.assert_array_equal(number, rows[order])
    arguments = own, outfit, gallery[rows[order]]
    assert_conditioned(value, want[order], scores, *arguments, terms=max(D, pieces))


@pytest.mark.parametrize("kind", ["mask", "fc", "mask metric", "fc metric"])
def test_equal_candidates_come_in_order_of_the_gallery(kind, monkeypatch):
    monkeypatch.setattr(type_spaces, "RANKED", 16)
    rng = np.random.default_rng(3)
    gallery = rng.normal(size=(70, D)).astype(np.float32)
    same = [3, 14, 15, 16, 40, 69]  # in blocks of their own and beside each other
    gallery[same] = gallery[40]
    outfit = rng.normal(size=(4, D)).astype(np.float32)
    rank = completion.pair_ranker(spaces(kind), TABLE, TYPES)
    candidates = completion.by_type(gallery, np.zeros(70, int), [0])[0]
    value, number = rank(outfit, np.arange(4), 0, candidates, 1000)
    assert sorted(number) == list(range(70)), "topk beyond the gallery gives everything"
    assert (np.diff(value) <= 0).all()
    at = np.flatnonzero(np.isin(number, same))
    assert number[at].tolist() == same and len(set(value[at])) == 1


def test_one_trace_for_every_size():
    rng, own = np.random.default_rng(0), spaces("mask")
    rank = completion.pair_ranker(own, TABLE, TYPES)
    rank(np.ones((2, D), np.float32), np.zeros(2, int), 0, _all(rng.normal(size=(3, D))), 1)
    before = type_spaces._summed._cache_size()
    for size, pieces in itertools.product((1, 500, 5000), (1, 8)):
        outfit = np.ones((pieces, D), np.float32)
        rank(outfit, np.zeros(pieces, int), 0, _all(rng.normal(size=(size, D))), 1)
    assert type_spaces._summed._cache_size() == before


def _all(rows) -> completion.Candidates:
    return completion.by_type(np.float32(rows), np.zeros(len(rows), int), [0])[0]


def test_the_set_transformer_scores_the_whole_outfit(monkeypatch):
    monkeypatch.setattr(type_spaces, "RANKED", 16)
    rng = np.random.default_rng(5)
    scorer = SetTransformer(None, embedding=D, types=11, width=8, heads=2, depth=1)
    pair = np.zeros((1, 2), int)
    init = jax.jit(partial(scorer.init, method="score_sets"))
    own = init(jax.random.PRNGKey(0), np.zeros((1, 2, D)), pair, pair == 0)
    gallery, outfit = (rng.normal(size=(n, D)).astype(np.float32) for n in (40, 3))
    category = np.asarray([0, 3, 9], np.int32)
    value, number = completion.set_ranker(scorer, own["params"])(outfit, category, 4, _all(gallery), 40)
    # two of them by themselves, in another order of the pieces
    sets = np.stack([np.concatenate([gallery[row : row + 1], outfit[::-1]]) for row in number[:2]])
    kinds = np.tile(np.append(4, category[::-1]), (2, 1))
    apply = jax.jit(partial(scorer.apply, method="score_sets"))

    def probability(own, sets):
        return 1 / (1 + np.exp(-np.asarray(apply(own, sets, kinds, kinds >= 0), np.float64)))

    assert_conditioned(value[:2], probability(own, sets), probability, own, sets, terms=16)
    assert (np.diff(value) <= 0).all() and sorted(number) == list(range(40))


@pytest.mark.parametrize(
    ("worn", "missing"),
    [
        (["shoes"], ["all-body", "bags", "bottoms", "tops"]),
        (["all-body"], ["bags", "shoes"]),
        (["tops"], ["bags", "bottoms", "shoes"]),
        (["tops", "bottoms", "bags", "shoes"], []),
        (["tops", "all-body", "shoes", "shoes"], ["bags"]),
    ],
)
def test_what_is_missing(worn, missing):
    offered = ["all-body", "bags", "bottoms", "shoes", "tops"]
    assert completion.missing_types(worn, offered) == missing


def test_probability_does_not_overflow():
    np.testing.assert_array_equal(completion.probability([-1e4, 0, 1e4]), [0, 0.5, 1])
