"""Pairwise distances against float64 numpy."""

import jax
import numpy as np

from fashionjax.ops import distances as ops

RANDOM = np.random.default_rng(0)
QUERY = RANDOM.normal(size=(5, 12)).astype(np.float32)
GALLERY = RANDOM.normal(size=(7, 12)).astype(np.float32)


def test_equal_float64():
    query, gallery = QUERY.astype(np.float64), GALLERY.astype(np.float64)
    difference = np.linalg.norm(query[:, None] - gallery[None], axis=-1)
    np.testing.assert_allclose(
        jax.jit(ops.inner_products)(QUERY, GALLERY), query @ gallery.T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(jax.jit(ops.distances)(QUERY, GALLERY), difference, rtol=1e-5)
    norms = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(gallery, axis=1)
    np.testing.assert_allclose(
        jax.jit(ops.cosine_similarities)(QUERY, GALLERY), query @ gallery.T / norms, atol=1e-6
    )


def test_a_common_offset_does_not_drown_the_distance():
    """The product form taken around zero would lose all digits here."""
    offset = jax.jit(ops.squared_distances)(QUERY + 1000, GALLERY + 1000)
    exact = ((QUERY + np.float32(1000)).astype(np.float64)[:, None] - (GALLERY + np.float32(1000))) ** 2
    np.testing.assert_allclose(offset, exact.sum(-1), rtol=1e-3)


ROWS = np.array([[3.0, 4.0], [0, 0], [3e-10, 4e-10], [1e-13, 0]], np.float32)
UNIT = [[0.6, 0.8], [0, 0], [0.6, 0.8], [0.1, 0]]  # the last is shorter than EPSILON


def test_unit_is_one_rule_on_host_and_device():
    np.testing.assert_allclose(ops.unit_rows(ROWS), UNIT, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(ops.unit)(ROWS), UNIT, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: ops.unit(x).sum())(ROWS)).all()


def test_unit_with_an_epsilon_added_to_the_norm():
    added = jax.jit(lambda x: ops.unit(x, added=5e-10))
    np.testing.assert_allclose(added(ROWS)[:3], [[0.6, 0.8], [0, 0], [0.3, 0.4]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: added(x).sum())(ROWS)).all()


def test_unit_rows_in_chunks():
    many = RANDOM.normal(size=(9000, 3))
    np.testing.assert_allclose(
        ops.unit_rows(many), many / np.linalg.norm(many, axis=1, keepdims=True), rtol=1e-6
    )
    assert not np.asarray(ops.cosine_similarities(ROWS[1:2], ROWS)).any()
