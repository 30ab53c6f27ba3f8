"""Landmark pooling: a small bilinear crop around each landmark of a feature map, then its maximum.

Functions of one image, lifted by `jax.vmap`. Source: MMFashion `models/roi_pool/roi_pooling.py`, whose
`affine_grid` + `grid_sample` (border padding) + max-pool is written here as two small interpolation matrices.
"""

import jax
import jax.numpy as jnp
from einops import rearrange


def sample_positions(coordinate, size: int, *, samples: int, crop: int, align_corners: bool):
    """Feature-pixel positions of the samples along one axis.

    coordinate [k] in [0, 1] of the image -> positions [k samples], clamped to [0, size - 1].
    `crop` is the side of the plane on which neighbouring samples lie one cell apart: with samples=2, crop=7
    on a 7-cell axis they are l - 1 and l for l = 7 * coordinate (align_corners=False), 6(l -+ 1)/7
    otherwise.
    """
    if align_corners:
        base = jnp.linspace(-1.0, 1.0, samples) if samples > 1 else jnp.zeros(1)
        offset = base * samples / crop
        position = (offset[None, :] + 2 * coordinate[:, None]) * (size - 1) / 2
    else:
        offset = (2 * jnp.arange(samples) + 1 - samples) / crop
        position = ((offset[None, :] + 2 * coordinate[:, None]) * size - 1) / 2
    # A clamped sample does not move with its landmark, so it passes no gradient to it (as torch's border
    # mode).
    inside = (position > 0) & (position < size - 1)
    return jnp.where(inside, position, jax.lax.stop_gradient(jnp.clip(position, 0, size - 1)))


def interpolation_matrix(position, size: int):
    """Bilinear weights: positions [...] in feature pixels -> [... size], each row sums to 1."""
    low = jnp.floor(jax.lax.stop_gradient(position))
    fraction = (position - low)[..., None]
    index = jnp.arange(size)
    at_low = index == low[..., None]
    at_high = index == low[..., None] + 1
    return (1 - fraction) * at_low + fraction * at_high


def landmark_pool(feature, landmark, *, samples: int = 2, crop: int = 7, align_corners: bool = False):
    """feature [h w c], landmark [k 2] (x, y in [0, 1] of the image) -> pooled [k c], dtype of `feature`.

    Takes samples x samples bilinear samples per landmark and keeps the maximum per channel. Landmarks
    outside the image clamp to its border; unused slots at (0, 0) pool the top-left corner, as in the
    original. Differentiable in both arguments; of equal samples the first in row-major order takes the
    gradient, as in torch's max-pool.

    The samples are two dense interpolation matrices per landmark rather than a gather of four taps: the maps
    are small (7 to 28 cells a side), the products run on matrix units, and the gradient is a product too
    instead of a scatter-add, which is slow on accelerators and not reproducible on GPUs.
    """
    h, w, _ = feature.shape
    landmark = landmark.astype(jnp.float32)
    axis = {"samples": samples, "crop": crop, "align_corners": align_corners}
    along_x = interpolation_matrix(sample_positions(landmark[:, 0], w, **axis), w)
    along_y = interpolation_matrix(sample_positions(landmark[:, 1], h, **axis), h)
    wide = feature.astype(jnp.float32)
    # HIGHEST: a 10-bit product would shift samples by more than the parity bounds allow.
    rows = jnp.einsum("kih,hwc->kiwc", along_y, wide, precision="highest")
    sample = jnp.einsum("kjw,kiwc->kijc", along_x, rows, precision="highest")
    sample = rearrange(sample, "k i j c -> k (i j) c")
    first_best = jnp.argmax(jax.lax.stop_gradient(sample), axis=1, keepdims=True)
    return jnp.take_along_axis(sample, first_best, axis=1)[:, 0].astype(feature.dtype)


def scramble_centres(landmark, group: int, count=None):
    """Exchange landmark coordinates between images as MMFashion's ROI layer did (quirk S3).

    landmark [b k 2] -> [b k 2]. The images are cut into chunks of `group` (the batch that one GPU received;
    the last chunk may be shorter). Within a chunk of size B the list x_0..x_{B-1}, y_0..y_{B-1} was read
    back as (x, y) pairs: image i gets elements 2i and 2i + 1. A chunk of one image is unchanged. `count`
    (may be traced) is the number of real images at the front; padding behind them keeps its own coordinates.
    torch splits n images over g devices in chunks of ceil(n / g): pass that as `group` for a short batch.
    """
    b = landmark.shape[0]
    count = b if count is None else count
    image = jnp.arange(b)
    start = image // group * group
    size = jnp.minimum(group, count - start)
    element = 2 * (image - start)[:, None] + jnp.arange(2)
    is_y = element >= size[:, None]
    source = start[:, None] + element - jnp.where(is_y, size[:, None], 0)
    real = (image < count)[:, None]
    source = jnp.where(real, source, image[:, None])
    axis = jnp.where(real, is_y.astype(jnp.int32), jnp.arange(2))
    return rearrange(landmark[source, :, axis], "b xy k -> b k xy")
