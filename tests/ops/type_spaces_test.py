"""Type spaces against worked examples and naive loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_sums_close

from fashionjax.ops import type_spaces
from fashionjax.ops.type_spaces import Spaces

TYPES = ("bags", "shoes", "tops")
PAIRS = list(itertools.combinations_with_replacement(TYPES, 2))


def random_spaces(kind, c=6, d=8, seed=0):
    rng = np.random.default_rng(seed)
    metric = rng.normal(size=d).astype(np.float32) if "metric" in kind else None
    if "mask" in kind:
        return Spaces(mask=rng.normal(0.9, 0.7, (c, d)).astype(np.float32), metric=metric)
    kernel, bias = rng.normal(size=(c, d, d)), rng.normal(size=(c, d))
    return Spaces(kernel=kernel.astype(np.float32), bias=bias.astype(np.float32), metric=metric)


KINDS = ("mask", "fc", "mask metric", "fc metric")


def naive(spaces, a, b, c):
    def place(x):
        if spaces.mask is None:
            return x @ spaces.kernel[c] + spaces.bias[c]
        y = x * spaces.mask[c]
        return y / (np.linalg.norm(y) + 1e-10)

    a, b = place(a.astype(np.float64)), place(b.astype(np.float64))
    if spaces.metric is not None:
        return float(np.sum(spaces.metric * a * b))
    return float(np.linalg.norm(a - b + 1e-6))


def test_table_takes_either_order():
    pairs = [(b, a) for a, b in PAIRS][::-1]
    table = type_spaces.space_table(pairs, TYPES)
    for number, (a, b) in enumerate(pairs):
        i, j = TYPES.index(a), TYPES.index(b)
        assert table[i, j] == table[j, i] == number


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (PAIRS[:-1], "no type space joins tops and tops"),
        ([*PAIRS, ("shoes", "bags")], "both join"),
        ([*PAIRS, ("shoes", "hats")], "'hats'"),
    ],
)
def test_tables_that_do_not_fit(pairs, message):
    with pytest.raises(ValueError, match=message):
        type_spaces.space_table(pairs, TYPES)


def test_worked_masks():
    """Vectors of the specification: training rectifies, evaluation does not."""
    mask = np.asarray([[1, -0.5], [0.5, 2]], np.float32)
    e = np.asarray([[1, 2], [3, 4]], np.float32)
    trained = type_spaces.project(Spaces(mask=jnp.maximum(mask, 0)), e, np.asarray([0, 1]))
    np.testing.assert_allclose(trained, [[1, 0], [0.184289, 0.982872]], atol=1e-6)
    raw = type_spaces.project_all(Spaces(mask=mask), e[:1])
    np.testing.assert_allclose(raw, [[[0.707107, -0.707107], [0.124035, 0.992278]]], atol=1e-6)


def test_equal_vectors_are_the_epsilon_apart():
    assert float(type_spaces.pair_distance(jnp.ones(2), jnp.ones(2))) == pytest.approx(1.4142e-6, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_projecting_one_space_is_a_row_of_all(kind):
    spaces, e = random_spaces(kind), np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    every = type_spaces.project_all(spaces, e)
    space = np.asarray([0, 5, 2, 2, 1])
    assert_sums_close(type_spaces.project(spaces, e, space), every[np.arange(5), space], 2 * 8)


@pytest.mark.parametrize("kind", KINDS)
def test_many_distances_equal_a_loop(kind):
    rng = np.random.default_rng(2)
    spaces, e = random_spaces(kind), rng.normal(size=(40, 8)).astype(np.float32)
    first, second = rng.integers(0, 40, (2, 700))
    space = rng.choice([0, 1, 1, 1, 5], 700)  # spaces of several blocks, of one, of none
    got = type_spaces.distances(spaces, e, first, second, space)
    want = [naive(spaces, e[a], e[b], c) for a, b, c in zip(first, second, space)]
    assert_sums_close(got, want, 3 * 8)  # two projections and a distance of 8 values


def test_no_pairs():
    none = np.zeros(0, np.int32)
    assert type_spaces.distances(random_spaces("fc"), np.ones((3, 8)), none, none, none).shape == (0,)


def test_gradient_of_a_zero_row_is_finite():
    spaces = random_spaces("mask")
    grad = jax.grad(lambda e: type_spaces.project(spaces, e, 0).sum())(jnp.zeros(8))
    assert np.isfinite(grad).all()


def test_a_metric_without_spaces_ranks_by_it():
    """Neither masks nor maps: the learned metric on general embeddings."""
    rng = np.random.default_rng(5)
    query, candidate, metric = (
        rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (20, 4), (4,))
    )
    total, row = type_spaces.rank(Spaces(metric=metric), query, candidate, np.zeros(3, int), 6)
    want = np.einsum("d,qd,nd->n", metric.astype(np.float64), query, candidate)
    np.testing.assert_array_equal(row, np.argsort(want, kind="stable")[:6])
    assert_sums_close(total, want[row], 2 * 4)
