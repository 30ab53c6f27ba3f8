"""Batch normalisation in training whose gradient passes over the map three times.

Differentiated as written, XLA's CPU back end computes the chain of residual additions behind each of the
statistics' gradients again: half of a ResNet-50 training step.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x, scale, bias, epsilon: float, axis_name: str | None):
    """x [... c], scale and bias [c] float32 -> (y as x, normalised over all axes but the last, mean [c],
    variance [c]), float32.

    The variance is the biased one, mean(x^2) - mean(x)^2, not below 0. With `axis_name` the statistics are
    those over all devices of the axis. Mean and variance carry no gradient. Reverse mode only.
    """
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x, scale, bias, epsilon, axis_name):
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean, square = jnp.mean(wide, axes), jnp.mean(jnp.square(wide), axes)
    if axis_name is not None:
        mean, square = lax.pmean((mean, square), axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
    inverse = lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y, mean, variance), (x, mean, inverse, scale)


def _same(x):
    return x


def _backward(epsilon, axis_name, saved, cotangents):
    x, mean, inverse, scale = saved
    # On the CPU made once: the three uses below would each repeat what leads to it. Accelerators fuse it.
    dy = lax.platform_dependent(cotangents[0], cpu=lax.optimization_barrier, default=_same)
    centred = x.astype(jnp.float32) - mean
    count, axes = x.size // x.shape[-1], tuple(range(x.ndim - 1))
    dbias, along = jnp.sum(dy, axes), jnp.sum(dy * centred, axes)
    shift, slope = dbias / count, along / count
    if axis_name is not None:
        shift, slope = lax.pmean((shift, slope), axis_name)
    dx = (dy - shift - centred * (slope * jnp.square(inverse))) * (scale * inverse)
    return dx.astype(x.dtype), along * inverse, dbias


batch_norm.defvjp(_forward, _backward)
