"""Layers shared by the backbones and heads: convolution, batch normalisation, pooling, linear.

Three of them have a faster form on the CPU (`ops/cpu`). Which form a program holds is decided when it is
lowered, by the platform it is lowered for (`lax.platform_dependent`), not by the machine that traces it.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax

from fashionjax.ops.cpu import conv, norm, pool

POINTWISE = ("auto", "einsum", "conv")

# He et al. 2015, fan-out form: what torchvision draws for convolutions of ResNet and VGG.
KAIMING_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# PyTorch's default for a linear layer: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
TORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _pointwise(x, kernel, stride: int, form: str):
    """A 1x1 convolution, as a matrix product ('einsum'), as a convolution ('conv'), or 'auto': a product on
    the CPU, where XLA's weight gradient of a convolution reaches a fraction of the product's speed;
    accelerators keep the convolution, which their libraries fuse with what follows."""
    if form not in POINTWISE:
        raise ValueError(f"pointwise must be one of {POINTWISE}, not {form!r}")
    if form == "auto":
        return conv.conv_pointwise_auto(x, kernel, stride)
    return conv.conv_pointwise(x, kernel, stride) if form == "einsum" else conv.conv(x, kernel, stride, 0)


class Conv(nn.Module):
    """A square convolution with explicit symmetric padding: x [b h w c] -> [b h' w' features].

    Parameters: `kernel` [k k c/groups features] float32, and `bias` [features] float32 with `use_bias`: each
    of `groups` equal parts of the outputs reads its part of the inputs. Padding defaults to (k - 1) / 2 on
    each side, as PyTorch models write it; 'SAME' would pad a strided window on one side only.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    pointwise: str = "auto"
    kernel_init: Any = KAIMING_FAN_OUT
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        k, s = self.kernel_size, self.stride
        pad = (k - 1) // 2 if self.padding is None else self.padding
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.groups > 1:
            y = lax.conv_general_dilated(
                x,
                kernel,
                (s, s),
                ((pad, pad), (pad, pad)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )
        elif k == 1 and pad == 0:
            y = _pointwise(x, kernel, s, self.pointwise)
        else:
            y = _spatial(x, kernel, s, pad)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


def _spatial(x, kernel, stride: int, padding: int):
    """A convolution of any window: XLA's on accelerators, faster forms of it on the CPU."""
    k = kernel.shape[0]
    if padding == 0 and stride == k and x.shape[1] % k == 0 and x.shape[2] % k == 0:
        plain = partial(conv.conv, stride=stride, padding=padding)
        return lax.platform_dependent(x, kernel, cpu=conv.conv_tiled, default=plain)
    return conv.conv_banded(x, kernel, stride, padding)


class BatchNorm(nn.BatchNorm):
    """nn.BatchNorm over x [... c], in training by `ops.cpu.norm`, whose gradient is faster on the CPU."""

    @nn.compact
    def __call__(self, x, mask=None):
        c = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        scale = self.param("scale", self.scale_init, (c,), jnp.float32)
        bias = self.param("bias", self.bias_init, (c,), jnp.float32)
        if self.use_running_average:
            y = (x - mean.value) * (jax.lax.rsqrt(variance.value + self.epsilon) * scale) + bias
            return y.astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        if mask is None:
            y, batch_mean, batch_variance = norm.batch_norm(x, scale, bias, self.epsilon, axis_name)
        else:
            batch_mean, batch_variance = _masked_moments(x, mask, axis_name)
            y = (x - batch_mean) * (jax.lax.rsqrt(batch_variance + self.epsilon) * scale) + bias
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
            variance.value = self.momentum * variance.value + (1 - self.momentum) * batch_variance
        return y.astype(self.dtype)


def _masked_moments(x, mask, axis_name: str | None):
    """Mean and variance [c] of x [... c] over the cells of mask [... 1 or c], over `axis_name` as well."""
    axes = tuple(range(x.ndim - 1))
    weight = jnp.broadcast_to(mask, x.shape).astype(jnp.float32)
    x = jnp.where(weight > 0, x.astype(jnp.float32), 0)

    def total(value):
        value = jnp.sum(value, axis=axes)
        return value if axis_name is None else jax.lax.psum(value, axis_name)

    count = jnp.maximum(total(weight), 1)
    mean = total(x) / count
    return mean, total(weight * jnp.square(x - mean)) / count


def normalise(norm, name: str, x, cells=None):
    """x [b h w c] through a normalisation made by the constructor `norm`; where `cells` is given,
    statistics are those of the image's own cells (`image_cells`).
    """
    if cells is None:
        return norm(name=name)(x)
    return norm(name=name)(x, mask=jnp.broadcast_to(image_cells(x, cells), x.shape))


def group_norm(*, dtype: Any, channels_per_group: int = 16):
    """A constructor of group normalisations (Wu & He 2018), which have no statistics of the batch."""
    return partial(nn.GroupNorm, num_groups=None, group_size=channels_per_group, epsilon=1e-5, dtype=dtype)


def image_cells(x, cells):
    """x [b h w c], cells [b 2] int: rows and columns that belong to the image -> mask [b h w 1] bool."""
    row = jnp.arange(x.shape[1])[None, :] < cells[:, :1]
    column = jnp.arange(x.shape[2])[None, :] < cells[:, 1:]
    return (row[:, :, None] & column[:, None, :])[..., None]


def cut_to_image(x, cells):
    """x [b h w c] with 0 in the cells that are padding, as a convolution pads a map that ends there; `cells`
    None: as it is.
    """
    return x if cells is None else jnp.where(image_cells(x, cells), x, 0)


def batch_norm(*, train: bool, frozen: bool, axis_name: str | None, dtype: Any):
    """A constructor of batch normalisations, PyTorch's constants: eps 1e-5, new = 0.9 old + 0.1 batch.

    Statistics of the batch in training (over `axis_name` as well where given: synchronised), running ones
    otherwise or when `frozen`. The running variance is the biased one; PyTorch keeps n/(n-1) of it, the
    forward pass in training is the same.
    """
    return partial(
        BatchNorm,
        use_running_average=frozen or not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        axis_name=axis_name,
    )


def linear(
    features: int, name: str | None = None, *, dtype=jnp.float32, kernel_init=TORCH_LINEAR, bias=0.0
) -> nn.Dense:
    """A linear layer x [... c] -> [... features] with a constant initial bias."""
    return nn.Dense(
        features, dtype=dtype, kernel_init=kernel_init, bias_init=nn.initializers.constant(bias), name=name
    )


def max_pool(x, window: int, stride: int, padding: int = 0):
    """x [b h w c] -> [b h' w' c], padded symmetrically with -inf. Of equal cells of a window the first in row
    order takes the gradient.

    On the CPU the gradient is `ops.cpu.pool`'s, 10 to 30 times XLA's own; accelerators keep theirs.
    """

    def plain(x):
        return nn.max_pool(
            x, window_shape=(window, window), strides=(stride, stride), padding=((padding, padding),) * 2
        )

    def cpu(x):
        return pool.max_pool(x, window, stride, padding)

    return lax.platform_dependent(x, cpu=cpu, default=plain)


def _bin_weights(size: int, bins: int) -> np.ndarray:
    """[bins size]: row i averages the cells floor(i*size/bins) .. ceil((i+1)*size/bins)."""
    weights = np.zeros((bins, size), np.float32)
    for i in range(bins):
        start, stop = i * size // bins, -(-(i + 1) * size // bins)
        weights[i, start:stop] = 1 / (stop - start)
    return weights


def adaptive_average_pool(x, h: int, w: int):
    """x [b H W c] -> [b h w c]: each output cell is the mean over its share of the input, shares overlap by
    at most one.

    Equals torch.nn.AdaptiveAvgPool2d((h, w)) for every input size; at H = h, W = w it is the identity.
    """
    if x.shape[1:3] == (h, w):
        return x
    rows = jnp.asarray(_bin_weights(x.shape[1], h), x.dtype)
    cols = jnp.asarray(_bin_weights(x.shape[2], w), x.dtype)
    return jnp.einsum("bHWc,hH,wW->bhwc", x, rows, cols, precision="highest")


def flatten_map(x):
    """x [b h w c] -> [b (h w c)]."""
    return rearrange(x, "b h w c -> b (h w c)")
