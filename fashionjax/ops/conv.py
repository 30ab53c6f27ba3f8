"""A convolution whose kernel gradient is fast on a CPU.

XLA writes the gradient of a convolution's kernel as another convolution whose window is the whole output map.
Its CPU back end runs that one at half the speed of the forward pass, and at a tenth where the maps are large.
Here it is a sum of matrix products over bands of output rows: the windows of one band, laid out as a matrix
[rows of the band x columns, window x channels], stay in the cache.
"""

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax

# Output positions of a band, and of the smallest map worth it: on a smaller one, and for fewer output
# channels than FEATURES, XLA's own is as fast or faster. Measured on AVX-512 cores for 3x3 at 16..512
# channels; the time is flat for bands of 200 to 800.
BAND = 196
FEATURES = 64


def conv(x, kernel, stride: int, padding: int):
    """x [b h w c], kernel [k k c d] -> [b h' w' d], zero padding on all sides; XLA's convolution as it is."""
    edge = (padding, padding)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_pointwise(x, kernel):
    """x [b h w c], kernel [1 1 c d] -> [b h w d], as one matrix product.

    Of matrices: with four axes XLA's CPU back end transposes the output's gradient first.
    """
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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_banded(x, kernel, stride: int, padding: int):
    """`conv` with the kernel's gradient by `kernel_gradient`. Reverse mode only."""
    return conv(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
    return conv(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: conv(x, kernel, stride, padding), x)(dy)
    return dx, kernel_gradient(x, dy, kernel.shape[0], stride, padding).astype(kernel.dtype)


conv_banded.defvjp(_forward, _backward)


def kernel_gradient(x, dy, k: int, stride: int, padding: int):
    """x [b h w c], dy [b h' w' d] -> the gradient of the kernel [k k c d], float32.

    Pictures (three channels) with a stride are first folded, so that a window has rows of `stride * c`
    contiguous numbers: a 7x7 window with stride 2 is a 4x4 window over 12 channels.
    """
    (_, rows, cols, d), c = dy.shape, x.shape[-1]
    if rows * cols < BAND or d < FEATURES:
        shape = jax.ShapeDtypeStruct((k, k, c, d), x.dtype)
        (grad,) = jax.linear_transpose(lambda kernel: conv(x, kernel, stride, padding), shape)(dy)
        return grad.astype(jnp.float32)
    if stride == 1 or c > 4:
        return _bands(_pad_to(x, padding, stride * (rows - 1) + k, stride * (cols - 1) + k), dy, k, stride)
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
    """x [b h w c] padded, dy [b h' w' d] -> [k k c d] float32, one matrix product per band of rows."""
    (b, h, w, c), (_, rows, cols, d) = x.shape, dy.shape
    count = max(1, rows * cols // BAND)
    band = -(-rows // count)
    count = -(-rows // band)
    dy = jnp.pad(dy, ((0, 0), (0, count * band - rows), (0, 0), (0, 0)))
    reach = stride * (band - 1) + k
    x = jnp.pad(x, ((0, 0), (0, max(0, stride * band * (count - 1) + reach - h)), (0, 0), (0, 0)))

    def product(index):
        image, top = index // count, index % count * band
        cells = lax.dynamic_slice(x, (image, top * stride, 0, 0), (1, reach, w, c))[0]
        shares = lax.dynamic_slice(dy, (image, top, 0, 0), (1, band, cols, d))[0]
        windows = [
            cells[i : i + stride * (band - 1) + 1 : stride, j : j + stride * (cols - 1) + 1 : stride]
            for i in range(k)
            for j in range(k)
        ]
        windows = jnp.concatenate(windows, axis=-1)
        return jnp.einsum("hwd,hwn->dn", shares, windows, preferred_element_type=jnp.float32)

    total = lax.fori_loop(1, b * count, lambda index, total: total + product(index), product(0))
    return rearrange(total, "d (i j c) -> i j c d", i=k, j=k)
