"""A convolution whose gradients are fast on a CPU.

XLA writes the gradient of a convolution's kernel as another convolution whose window is the whole output map.
Its CPU back end runs that one at half the speed of the forward pass, and at a tenth where the maps are large.
Here it is a sum of matrix products over bands of output rows. The gradient of the input is XLA's, but on
small maps, where it mostly rearranges the kernel, it is one matrix product whose columns are then added up.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

# Measured on AVX-512 cores for 3x3 at 16..512 channels. On output maps of fewer positions than SMALL, and for
# fewer output channels than CHANNELS, XLA's kernel gradient is as fast or faster; its input gradient is
# slower on maps smaller than SMALL, if both sides have WIDE channels.
SMALL = 196
CHANNELS = 64
WIDE = 128
BAND = 196  # output positions of a band whose windows are laid out whole; flat from 200 to 800
LARGE = 400  # positions from which a band of window parts is faster, with stride 1 and CHANNELS on both sides
LARGE_BAND = 3136


def conv(x, kernel, stride: int, padding: int):
    """x [b h w c], kernel [k k c d] -> [b h' w' d], zero padding on all sides; XLA's convolution as it is."""
    edge = (padding, padding)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_pointwise(x, kernel, stride: int = 1):
    """x [b h w c], kernel [1 1 c d] -> [b h' w' d], as one matrix product.

    Of matrices: with four axes XLA's CPU back end transposes the output's gradient first.
    """
    x = x[:, ::stride, ::stride]
    b, h, w, _ = x.shape
    y = jnp.einsum("nc,cd->nd", rearrange(x, "b h w c -> (b h w) c"), kernel[0, 0])
    return rearrange(y, "(b h w) d -> b h w d", b=b, h=h, w=w)


def conv_tiled(x, kernel):
    """x [b h w c], kernel [k k c d] -> [b h/k w/k d], stride k, as a matrix product over the tiles; h and w
    must be multiples of k.
    """
    k = kernel.shape[0]
    tiles = rearrange(x, "b (h i) (w j) c -> b h w (i j c)", i=k, j=k)
    return jnp.einsum("bhwn,nd->bhwd", tiles, rearrange(kernel, "i j c d -> (i j c) d"))


# Differentiating through a choice by platform makes tracing several times slower. Here forward and backward
# each choose for themselves, and a function of one stride is one object, whose trace JAX finds again.
@cache
def _product(stride: int):
    return lambda x, kernel: conv_pointwise(x, kernel, stride)


@cache
def _plain(stride: int, padding: int):
    return lambda x, kernel: conv(x, kernel, stride, padding)


@cache
def _gradient(function):
    """(x, kernel, dy) -> the gradients of x and kernel of a function of both."""
    return lambda x, kernel, dy: jax.vjp(function, x, kernel)[1](dy)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_pointwise_auto(x, kernel, stride: int):
    """x [b h w c], kernel [1 1 c d] -> [b h' w' d]: `conv_pointwise` on the CPU, `conv` elsewhere.

    Reverse mode only.
    """
    return lax.platform_dependent(x, kernel, cpu=_product(stride), default=_plain(stride, 0))


def _pointwise_forward(x, kernel, stride):
    return conv_pointwise_auto(x, kernel, stride), (x, kernel)


def _pointwise_backward(stride, saved, dy):
    cpu, default = _gradient(_product(stride)), _gradient(_plain(stride, 0))
    return lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


conv_pointwise_auto.defvjp(_pointwise_forward, _pointwise_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_banded(x, kernel, stride: int, padding: int):
    """`conv`, on the CPU with the gradients of `input_gradient` and `kernel_gradient`. Reverse mode only."""
    return conv(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
    return conv(x, kernel, stride, padding), (x, kernel)


@cache
def _banded_gradient(stride: int, padding: int):
    def gradient(x, kernel, dy):
        dx = input_gradient(dy, kernel, x.shape[1:3], stride, padding)
        return dx, kernel_gradient(x, dy, kernel.shape[0], stride, padding).astype(kernel.dtype)

    return gradient


def _backward(stride, padding, saved, dy):
    cpu, default = _banded_gradient(stride, padding), _gradient(_plain(stride, padding))
    return lax.platform_dependent(*saved, dy, cpu=cpu, default=default)


conv_banded.defvjp(_forward, _backward)


def input_gradient(dy, kernel, side: tuple[int, int], stride: int, padding: int):
    """dy [b h' w' d], kernel [k k c d] -> the gradient of x [b h w c], as dy; side is (h, w)."""
    (b, rows, cols, d), (k, _, c, _) = dy.shape, kernel.shape
    if rows * cols >= SMALL or min(c, d) < WIDE:
        shape = jax.ShapeDtypeStruct((b, *side, c), dy.dtype)
        return jax.linear_transpose(lambda x: conv(x, kernel, stride, padding), shape)(dy)[0]
    flat = rearrange(dy, "b h w d -> (b h w) d"), rearrange(kernel, "i j c d -> (i j c) d")
    shares = jnp.einsum("nd,md->nm", *flat, preferred_element_type=jnp.float32)
    shares = shares.reshape(b, rows, cols, k, k, c)

    def placed(i, j):  # what window offset (i, j) gives to each position of x
        edges = [
            (tap - padding, size - (tap - padding) - (stride * (count - 1) + 1), stride - 1)
            for tap, size, count in ((i, side[0], rows), (j, side[1], cols))
        ]
        return lax.pad(shares[:, :, :, i, j], jnp.float32(0), ((0, 0, 0), *edges, (0, 0, 0)))

    return sum(placed(i, j) for i in range(k) for j in range(k)).astype(dy.dtype)


def kernel_gradient(x, dy, k: int, stride: int, padding: int):
    """x [b h w c], dy [b h' w' d] -> the gradient of the kernel [k k c d], float32.

    Images (three channels) with a stride are first folded, so that a window has rows of `stride * c`
    contiguous numbers: a 7x7 window with stride 2 is a 4x4 window over 12 channels.
    """
    (_, rows, cols, d), c = dy.shape, x.shape[-1]
    if rows * cols < SMALL or d < CHANNELS:
        shape = jax.ShapeDtypeStruct((k, k, c, d), x.dtype)
        (grad,) = jax.linear_transpose(lambda kernel: conv(x, kernel, stride, padding), shape)(dy)
        return grad.astype(jnp.float32)
    if stride == 1 or c > 4:
        x = _pad_to(x, padding, stride * (rows - 1) + k, stride * (cols - 1) + k)
        if stride == 1 and rows * cols >= LARGE and c >= CHANNELS:
            return _large_bands(x, dy, k)
        return _bands(x, dy, k, stride)
    taps = -(-k // stride)
    x = _pad_to(x, padding, stride * (rows - 1 + taps), stride * (cols - 1 + taps))
    x = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=stride, q=stride)
    grad = _bands(x, dy, taps, 1)
    grad = rearrange(grad, "i j (p q c) d -> (i p) (j q) c d", p=stride, q=stride, c=c)
    return grad[:k, :k]


def _pad_to(x, padding, h, w):
    """Zeros around x, `padding` above and left, to [b h w c] exactly (rows no window reaches are cut)."""
    x = jnp.pad(x[:, : h - padding, : w - padding], ((0, 0), (padding, 0), (padding, 0), (0, 0)))
    return jnp.pad(x, ((0, 0), (0, h - x.shape[1]), (0, w - x.shape[2]), (0, 0)))


def _bands(x, dy, k, stride):
    """x [b h w c] padded, dy [b h' w' d] -> [k k c d] float32, one matrix product per band of rows, whose
    windows are laid out as a matrix [positions, window x c]."""

    def product(cells, shares):
        band, cols, _ = shares.shape
        windows = [
            cells[i : i + stride * (band - 1) + 1 : stride, j : j + stride * (cols - 1) + 1 : stride]
            for i in range(k)
            for j in range(k)
        ]
        windows = jnp.concatenate(windows, axis=-1)
        return jnp.einsum("hwd,hwn->dn", shares, windows, preferred_element_type=jnp.float32)

    total = _sum_over_bands(product, x, dy, k, stride, BAND)
    return rearrange(total, "d (i j c) -> i j c d", i=k, j=k)


def _large_bands(x, dy, k):
    """x [b h w c] padded, dy [b h' w' d] -> [k k c d] float32, stride 1, one matrix product per band of rows.

    The columns of a window stand side by side in x, its rows in dy: k copies of each instead of k * k of x,
    and a product of more even sides, [k c] by [k d].
    """

    def product(cells, shares):
        reach, cols = cells.shape[0], shares.shape[1]
        shares = jnp.pad(shares, ((k - 1, k - 1), (0, 0), (0, 0)))
        cells = jnp.concatenate([cells[:, j : j + cols] for j in range(k)], axis=-1)
        shares = jnp.concatenate([shares[k - 1 - i : k - 1 - i + reach] for i in range(k)], axis=-1)
        return jnp.einsum("hwn,hwm->nm", cells, shares, preferred_element_type=jnp.float32)

    total = _sum_over_bands(product, x, dy, k, 1, LARGE_BAND)
    return rearrange(total, "(j c) (i d) -> i j c d", i=k, j=k)


def _sum_over_bands(product, x, dy, k, stride, positions):
    """The sum of product(rows of x that a band's windows reach, the band's rows of dy) over the bands of all
    images, each of about `positions` output positions."""
    (b, h, w, c), (_, rows, cols, d) = x.shape, dy.shape
    count = max(1, rows * cols // positions)
    band = -(-rows // count)
    count = -(-rows // band)
    dy = jnp.pad(dy, ((0, 0), (0, count * band - rows), (0, 0), (0, 0)))
    reach = stride * (band - 1) + k
    x = jnp.pad(x, ((0, 0), (0, max(0, stride * band * (count - 1) + reach - h)), (0, 0), (0, 0)))

    def of_band(index):
        image, top = index // count, index % count * band
        cells = lax.dynamic_slice(x, (image, top * stride, 0, 0), (1, reach, w, c))[0]
        shares = lax.dynamic_slice(dy, (image, top, 0, 0), (1, band, cols, d))[0]
        return product(cells, shares)

    return lax.fori_loop(1, b * count, lambda index, total: total + of_band(index), of_band(0))
