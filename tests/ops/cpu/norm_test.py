"""Batch normalisation in training against flax's own, values and gradients."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import relative_rounding

from fashionjax.models import layers

SHAPE = (4, 5, 6, 3)
# sums over 120 values; the variance is the mean square, 29, less the squared mean, 25
FLOAT32 = 29 / 4 * relative_rounding(120)
BFLOAT16 = 5 * 2.0**-8  # a handful of roundings to eight bits


def draw(dtype=jnp.float32):
    r = np.random.default_rng(0)
    x = jnp.asarray(2 * r.normal(size=SHAPE) + 5, dtype)
    params = {"scale": jnp.asarray(r.normal(size=3), jnp.float32), "bias": jnp.arange(3.0)}
    stats = {"mean": jnp.asarray(r.normal(size=3), jnp.float32), "var": jnp.asarray([0.5, 1.0, 2.0])}
    return x, params, stats


def run(module, x, params, stats):
    """Output, updated statistics, gradients of x and parameters."""
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def loss(x, params):
        y, updated = module.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y.astype(jnp.float32)) * weights), (y, updated)

    (_, (y, updated)), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, params)
    return {"y": y, "updated": updated, "grads": grads}


def modules(**fields):
    fields = {"momentum": 0.9, "epsilon": 1e-5, "use_running_average": False, **fields}
    return layers.BatchNorm(**fields), nn.BatchNorm(**fields)


def assert_close(got, want, rtol):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("dtype, rtol", [(jnp.float32, FLOAT32), (jnp.bfloat16, BFLOAT16)])
def test_equals_flax(evaluation, dtype, rtol):
    ours, flax = modules(use_running_average=evaluation, dtype=dtype)
    assert_close(run(ours, *draw(dtype)), run(flax, *draw(dtype)), rtol)


def test_has_the_same_variables():
    ours, flax = modules()
    x = draw()[0]
    assert_close(ours.init(jax.random.key(0), x), flax.init(jax.random.key(0), x), 0)


@pytest.mark.slow
def test_synchronised_devices_equal_flax_and_one_device():
    """Two shards on a vmapped axis: statistics and gradients of the whole batch."""
    x, params, stats = draw()
    ours, flax = modules(axis_name="batch")
    shards = x.reshape(2, 2, *SHAPE[1:])
    lift = partial(jax.vmap, in_axes=(0, None, None), axis_name="batch")
    got = lift(partial(run, ours))(shards, params, stats)
    assert_close(got, lift(partial(run, flax))(shards, params, stats), FLOAT32)
    alone = run(modules()[0], x, params, stats)
    assert_close(got["y"].reshape(SHAPE), alone["y"], FLOAT32)
    assert_close(got["updated"]["batch_stats"]["var"][1], alone["updated"]["batch_stats"]["var"], FLOAT32)


def test_a_constant_map_has_no_negative_variance():
    x = jnp.full(SHAPE, 1e3)
    _, params, stats = draw()
    result = run(modules()[0], x, params, stats)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
