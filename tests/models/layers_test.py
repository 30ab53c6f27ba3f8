"""Layers against loops in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, assert_sums_close

from fashionjax.models import layers


def naive_conv(x, kernel, stride, pad):
    """x [b h w c], kernel [k k c d] in float64, zero padding on all sides."""
    k = kernel.shape[0]
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = ((side - k) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((x.shape[0], h, w, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("bijc,ijcd->bd", window, np.asarray(kernel, np.float64))
    return out


@pytest.mark.parametrize(
    "kernel_size, stride, pointwise",
    [(1, 1, "einsum"), (1, 2, "einsum"), (1, 2, "conv"), (3, 2, "auto"), (7, 2, "auto")],
)
def test_conv_equals_a_loop_with_symmetric_padding(drawn, kernel_size, stride, pointwise):
    x = np.random.default_rng(0).normal(size=(2, 8, 9, 3)).astype(np.float32)
    module = layers.Conv(4, kernel_size, stride, use_bias=True, pointwise=pointwise)
    variables = drawn(module, x)
    params = variables["params"]
    want = naive_conv(x, params["kernel"], stride, (kernel_size - 1) // 2) + params["bias"]
    assert_sums_close(jax.jit(module.apply)(variables, x), want, terms=3 * kernel_size**2)


def test_einsum_and_conv_have_equal_gradients(drawn):
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    module = layers.Conv(4, 1, 2, pointwise="einsum")
    variables = drawn(module, x)

    def gradient(pointwise):
        def loss(v, x):
            return jnp.sum(jnp.sin(module.clone(pointwise=pointwise).apply(v, x)))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, x)

    a, b = gradient("einsum"), gradient("conv")
    jax.tree.map(lambda a, b: assert_sums_close(a, b, terms=18), a, b)


def test_pointwise_is_one_of_three():
    with pytest.raises(ValueError, match="pointwise"):
        layers.Conv(4, 1, pointwise="matmul").init(jax.random.key(0), np.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("size", [7, 14, 3, 10, 1, 16])
def test_adaptive_pooling_equals_a_loop(size):
    x = np.random.default_rng(2).normal(size=(2, size, size + 1, 3))
    want = np.zeros((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            rows = slice(int(np.floor(i * size / 7)), int(np.ceil((i + 1) * size / 7)))
            cols = slice(int(np.floor(j * (size + 1) / 7)), int(np.ceil((j + 1) * (size + 1) / 7)))
            want[:, i, j] = x[:, rows, cols].mean(axis=(1, 2))
    got = layers.adaptive_average_pool(jnp.asarray(x, jnp.float32), 7, 7)
    assert_sums_close(got, want, terms=16)


def test_max_pool_pads_with_minus_infinity():
    x = -jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    got = layers.max_pool(x, 3, 2, padding=1)[0, :, :, 0]
    np.testing.assert_array_equal(got, [[-1, -2], [-5, -6]])


class Normed(nn.Module):
    frozen: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        norm = layers.batch_norm(train=train, frozen=self.frozen, axis_name=self.axis_name, dtype=jnp.float32)
        return norm(name="bn")(x)


def test_batch_norm_uses_batch_statistics_and_keeps_nine_tenths_of_the_old():
    x = np.random.default_rng(3).normal(2, 3, size=(8, 5, 5, 2)).astype(np.float32)
    variables = Normed().init(jax.random.key(0), x, False)
    y, state = Normed().apply(variables, x, True, mutable=["batch_stats"])
    mean, var = x.astype(np.float64).mean(axis=(0, 1, 2)), x.astype(np.float64).var(axis=(0, 1, 2))
    assert_sums_close(y, (x - mean) / np.sqrt(var + 1e-5), terms=200)
    assert_sums_close(state["batch_stats"]["bn"]["mean"], 0.1 * mean, terms=200)
    assert_sums_close(state["batch_stats"]["bn"]["var"], 0.9 + 0.1 * var, terms=200)


def test_frozen_batch_norm_neither_uses_nor_moves_the_statistics():
    x = np.random.default_rng(4).normal(2, 3, size=(8, 2)).astype(np.float32)
    module = Normed(frozen=True)
    variables = module.init(jax.random.key(0), x, False)
    y, state = module.apply(variables, x, True, mutable=["batch_stats"])
    assert_rounded(y, x / np.sqrt(1 + 1e-5), operations=1 + 8 + 3)
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])


def test_synchronised_batch_norm_over_an_axis_equals_the_whole_batch():
    x = np.random.default_rng(5).normal(2, 3, size=(4, 6, 2)).astype(np.float32)
    module = Normed(axis_name="batch")
    variables = module.init(jax.random.key(0), x[0], False)

    def run(x):
        return module.apply(variables, x, True, mutable=["batch_stats"])

    parts, state = jax.jit(jax.vmap(run, axis_name="batch"))(x)
    module = Normed()
    whole, whole_state = jax.jit(run)(x.reshape(24, 2))
    assert_sums_close(parts.reshape(24, 2), whole, terms=24)
    assert_sums_close(state["batch_stats"]["bn"]["var"][0], whole_state["batch_stats"]["bn"]["var"], terms=24)
