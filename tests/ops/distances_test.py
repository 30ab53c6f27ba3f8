"""Pairwise distances against float64 numpy."""

import jax
import numpy as np
from close import assert_rounded, assert_sums_close

from fashionjax.ops import distances as ops

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.normal(size=(5, 12)).astype(np.float32)
GALLERY = RANDOM.normal(size=(7, 12)).astype(np.float32)


def test_equal_float64():
    query, gallery = QUERY.astype(np.float64), GALLERY.astype(np.float64)
    difference = np.linalg.norm(query[:, None] - gallery[None], axis=-1)
    width = QUERY.shape[1]
    assert_sums_close(jax.jit(ops.inner_products)(QUERY, GALLERY), query @ gallery.T, width)
    assert_sums_close(jax.jit(ops.distances)(QUERY, GALLERY), difference, 3 * width)  # a² - 2 a b + b²
    norms = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
    assert_sums_close(jax.jit(ops.cosine_similarities)(QUERY, GALLERY), query @ gallery.T / norms, 3 * width)


def test_a_common_offset_does_not_drown_the_distance():
    """The product form taken around zero would lose all digits here."""
    offset = jax.jit(ops.squared_distances)(QUERY + 1000, GALLERY + 1000)
    exact = ((QUERY + np.float32(1000)).astype(np.float64)[:, None] - (GALLERY + np.float32(1000))) ** 2
    assert_sums_close(offset, exact.sum(-1), 3 * QUERY.shape[1])


ROWS = np.array([[3.0, 4.0], [0, 0], [3e-10, 4e-10], [1e-13, 0]], np.float32)
UNIT = [[0.6, 0.8], [0, 0], [0.6, 0.8], [0.1, 0]]  # the last is shorter than EPSILON


def test_unit_is_one_rule_on_host_and_device():
    assert_rounded(ops.unit_rows(ROWS), UNIT, operations=16)
    assert_rounded(jax.jit(ops.unit)(ROWS), UNIT, operations=16)
    assert np.isfinite(jax.grad(lambda x: ops.unit(x).sum())(ROWS)).all()


def test_unit_with_an_epsilon_added_to_the_norm():
    added = jax.jit(lambda x: ops.unit(x, added=5e-10))
    assert_rounded(added(ROWS)[:3], [[0.6, 0.8], [0, 0], [0.3, 0.4]], operations=16)
    assert np.isfinite(jax.grad(lambda x: added(x).sum())(ROWS)).all()


def test_unit_rows_in_chunks():
    many = RANDOM.normal(size=(9000, 3))
    assert_rounded(ops.unit_rows(many), many / np.linalg.norm(many, axis=1, keepdims=True), operations=16)
    assert not np.asarray(ops.cosine_similarities(ROWS[1:2], ROWS)).any()
