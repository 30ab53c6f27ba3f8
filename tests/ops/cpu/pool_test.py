"""Max pooling against XLA's own, forward and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import SLACK, UNIT

from fashionjax.ops.cpu import pool


def reference(x, window, stride, padding):
    return nn.max_pool(
        x, window_shape=(window, window), strides=(stride, stride), padding=((padding, padding),) * 2
    )


def vjp(function, x, *window):
    y, back = jax.vjp(lambda x: function(x, *window), x)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return y, back(dy)[0]


SHAPES = [
    ((2, 8, 9, 3), (3, 2, 1)),
    ((2, 9, 8, 3), (2, 2, 0)),  # a row is left uncovered
    ((1, 7, 7, 2), (2, 3, 0)),  # gaps between windows
    ((1, 6, 5, 2), (3, 1, 1)),
    ((1, 11, 10, 2), (5, 2, 2)),
    ((1, 3, 3, 2), (3, 3, 0)),
]


@pytest.mark.parametrize("shape, window", SHAPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_xla_forward_and_gradient_with_many_ties(shape, window, dtype):
    # integers 0..3 behind a ReLU: most windows have several equal maxima
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 4, shape).clip(0), dtype)
    y, dx = vjp(pool.max_pool, x, *window)
    want_y, want_dx = vjp(reference, x, *window)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, want_y)
    # sums of up to nine shares in another order; bfloat16 has 16 bits less
    got, want = (np.asarray(each, np.float32) for each in (dx, want_dx))
    bound = 9 * (UNIT if dtype == jnp.float32 else 2.0**-8) * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def test_the_first_of_equal_cells_takes_the_gradient():
    x = jnp.ones((1, 4, 4, 1))
    dx = jax.grad(lambda x: pool.max_pool(x, 2, 2).sum())(x)
    np.testing.assert_array_equal(dx[0, :, :, 0], np.tile([[1, 0], [0, 0]], (2, 2)))


def test_nan_is_passed_on_in_both_modes():
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    for y in (pool.max_pool(x, 2, 2), jax.vjp(lambda x: pool.max_pool(x, 2, 2), x)[0]):
        np.testing.assert_array_equal(np.isnan(y[0, :, :, 0]), [[True, False], [False, False]])


@pytest.mark.slow
def test_under_vmap_scan_and_remat():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 6, 6, 2)), jnp.float32)

    def loss(x):
        return jnp.sum(jnp.sin(pool.max_pool(x, 3, 2, 1)))

    each = jnp.stack([jax.grad(loss)(row) for row in x])
    bound = SLACK * 9 * UNIT * float(jnp.abs(each).max())
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(x), each, rtol=0, atol=bound)
    scanned = jax.lax.scan(lambda c, row: (c, jax.grad(jax.checkpoint(loss))(row)), 0, x)[1]
    np.testing.assert_allclose(scanned, each, rtol=0, atol=bound)


def test_a_window_that_a_byte_cannot_number_is_refused():
    with pytest.raises(ValueError, match="above 15"):
        pool.max_pool(jnp.zeros((1, 32, 32, 1)), 16, 16)
