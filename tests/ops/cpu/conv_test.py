"""The gradients of a convolution against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import UNIT, relative_rounding
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fashionjax.ops.cpu import conv

# x [b h w c], kernel size, features, stride, padding; maps and channels on both sides of the limits, one band
# and several
SHAPES = {
    "stem": ((2, 38, 41, 3), 7, 64, 2, 3),
    "stem of one channel, 5x5 stride 3": ((1, 47, 46, 1), 5, 64, 3, 2),
    "3x3": ((2, 17, 14, 5), 3, 64, 1, 1),
    "3x3 with more bands than divide the rows": ((1, 31, 29, 4), 3, 64, 1, 1),
    "large": ((2, 20, 21, 64), 3, 65, 1, 1),
    "large without padding, with more bands than divide the rows": ((1, 69, 103, 64), 3, 64, 1, 0),
    "3x3 stride 2": ((2, 33, 30, 6), 3, 65, 2, 1),
    "3x3 stride 2 with more bands than divide the rows": ((1, 61, 59, 5), 3, 64, 2, 1),
    "3x3 without padding": ((1, 20, 20, 3), 3, 64, 1, 0),
    "2x2 stride 2 leaves a row": ((1, 31, 31, 3), 2, 64, 2, 0),
    "1x1": ((1, 15, 15, 3), 1, 64, 1, 0),
    "small map": ((2, 7, 7, 128), 3, 128, 1, 1),
    "small map of few channels": ((2, 7, 7, 5), 3, 64, 1, 1),
    "small map, stride 2": ((2, 14, 13, 128), 3, 128, 2, 1),
    "small map, stride 3 leaves rows": ((2, 18, 19, 128), 2, 129, 3, 0),
    "small map without padding": ((2, 9, 8, 130), 5, 128, 1, 0),
    "window of the whole map": ((2, 7, 7, 128), 7, 128, 1, 0),
    "small map, much padding": ((1, 4, 5, 128), 5, 128, 1, 4),
    "few features": ((2, 16, 16, 5), 3, 8, 1, 1),
}


def draw(shape, k, features, dtype=jnp.float32):
    r = np.random.default_rng(0)
    kernel = r.normal(size=(k, k, shape[-1], features)) / k
    return jnp.asarray(r.normal(size=shape), dtype), jnp.asarray(kernel, dtype)


def vjp(function, x, kernel, stride, padding):
    y, back = jax.vjp(lambda x, kernel: function(x, kernel, stride, padding), x, kernel)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return y, *back(dy)


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize("case", SHAPES)
def test_forward_and_both_gradients_equal_xla(case):
    shape, k, features, stride, padding = SHAPES[case]
    x, kernel = draw(shape, k, features)
    got = vjp(conv.conv_banded, x, kernel, stride, padding)
    want = vjp(conv.conv, x, kernel, stride, padding)
    np.testing.assert_array_equal(got[0], want[0])
    # a gradient sums over positions or over window and features
    terms = max(np.prod(shape[:-1]), k * k * features)
    for mine, theirs, like in zip(got[1:], want[1:], (x, kernel), strict=True):
        assert mine.shape == like.shape and mine.dtype == like.dtype
        assert relative(mine, theirs) < relative_rounding(terms)


def test_tiles_equal_a_strided_convolution():
    x, kernel = draw((2, 12, 8, 3), 4, 5)
    got = vjp(lambda x, kernel, *_: conv.conv_tiled(x, kernel), x, kernel, 4, 0)
    for a, b in zip(got, vjp(conv.conv, x, kernel, 4, 0), strict=True):
        assert a.shape == b.shape and relative(a, b) < 48 * UNIT  # sums of at most 48 products


def test_pointwise_equals_a_1x1_convolution():
    x, kernel = draw((2, 5, 4, 3), 1, 6)
    got = vjp(lambda x, kernel, *_: conv.conv_pointwise(x, kernel), x, kernel, 1, 0)
    for a, b in zip(got, vjp(conv.conv, x, kernel, 1, 0), strict=True):
        assert a.shape == b.shape and relative(a, b) < 48 * UNIT  # sums of at most 48 products


def test_bfloat16_sums_in_float32():
    for side, channels in ((32, 64), (7, 128)):
        x, kernel = draw((2, side, side, channels), 3, channels)
        want = vjp(conv.conv, x, kernel, 1, 1)[1:]
        got = vjp(conv.conv_banded, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), 1, 1)[1:]
        for mine, theirs in zip(got, want, strict=True):
            assert mine.dtype == jnp.bfloat16
            assert relative(mine, theirs) < 5e-3  # one rounding of inputs and result: 2**-9 each


@pytest.mark.slow
def test_under_vmap_scan_remat_and_both_kinds_of_parallel_step():
    xs, kernel = draw((2, 1, 15, 16, 3), 3, 64)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(conv.conv_banded(x, kernel, 1, 1)))

    grad = jax.grad(loss)
    each = jnp.stack([grad(kernel, x) for x in xs])

    def close(got, want):
        # sums over 15 x 16 positions of sums over 3 x 3 x 3 values
        for mine, theirs in zip(np.asarray(got), np.asarray(want), strict=True):
            assert relative(mine, theirs) < relative_rounding(15 * 16, layers=2)

    close(jax.vmap(grad, (None, 0))(kernel, xs), each)
    remat = jax.grad(jax.checkpoint(loss))
    close(jax.lax.scan(lambda carry, x: (carry, remat(kernel, x)), 0, xs)[1], each)

    devices = jax.local_device_count()
    x = jnp.stack([xs[i % 2] for i in range(devices)])
    mean = jnp.mean(jnp.stack([each[i % 2] for i in range(devices)]), axis=0)

    def step(kernel, x):
        return jax.lax.pmean(grad(kernel, x), "batch")

    close(jax.pmap(step, axis_name="batch", in_axes=(None, 0), out_axes=None)(kernel, x), mean)
    mesh = Mesh(np.asarray(jax.local_devices()), ("batch",))
    sharded = jax.shard_map(
        lambda kernel, x: step(kernel, x[0]),
        mesh=mesh,
        in_specs=(P(), P("batch")),
        out_specs=P(),
        check_vma=False,
    )
    close(jax.jit(sharded)(kernel, x), mean)
