"""From an attention map to the crop of the image that it points at: box and pixels, on static shapes.

One image, lifted by vmap. A canvas uint8 [c c 3] holds the central square of an image in its top-left
corner, of any width; what lies to the right of the square and below it may follow, up to the image's end.
`pixels` i32 [size + 2] maps coordinates of the region input, `size` wide, to pixels of the square
(`data.fine_grained.pixel_table`). Source of the rules: LocalTransform of HuiGuanLab/RPF,
modules/data/transforms/transforms.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fashionjax.ops.augment import resize_matrix


def upsampling(cells: int, size: int) -> np.ndarray:
    """Weights [size cells] f32 of a bilinear enlargement: half-pixel centres, edges clamped."""
    place = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.minimum(np.floor(place).astype(int), max(cells - 2, 0))
    share = place - low
    weight = np.zeros((size, cells), np.float32)
    weight[np.arange(size), low] = 1 - share
    weight[np.arange(size), np.minimum(low + 1, cells - 1)] += share
    return weight


def square_box(attention, threshold: float, size: int):
    """attention [h w] -> (x, y, d) i32: the square around what is attended to, in pixels of the region input,
    `size` wide.

    The map is enlarged and scaled to 0..1, and its pixels (as 8-bit integers) above `threshold` are kept. The
    square has the longer side of their bounding rectangle and its centre, moved inside; an odd side may end
    at size + 1. A constant map gives the whole input.
    """
    rows, columns = (jnp.asarray(upsampling(cells, size)) for cells in attention.shape)
    attention = attention.astype(jnp.float32)
    wide = jnp.einsum("yh,hw,xw->yx", rows, attention, columns, precision="highest")
    low, high = wide.min(), wide.max()
    flat = high <= low
    level = jnp.floor(255 * ((wide - low) / jnp.where(flat, 1, high - low)))
    kept = (level > 255 * threshold) | flat
    x, w = _extent(kept.any(axis=0))
    y, h = _extent(kept.any(axis=1))
    d = jnp.maximum(w, h)
    return _inside(x + w // 2, d, size), _inside(y + h // 2, d, size), d


def _extent(kept):
    """kept [n] bool -> (first, count from the first to the last) i32."""
    first = jnp.argmax(kept)
    last = kept.shape[0] - 1 - jnp.argmax(kept[::-1])
    return first.astype(jnp.int32), (last - first + 1).astype(jnp.int32)


def _inside(centre, d, size: int):
    half = d // 2
    return jnp.where(centre + half > size, size - d, jnp.maximum(centre - half, 0))


def crop_box(attention, pixels, threshold: float, *, clamp: bool = True):
    """attention [h w], pixels i32 [size + 2] -> box xyxy i32 [4] in pixels of the square.

    `clamp` moves a box that ends past the square inside; False leaves it, as the original does.
    """
    size = pixels.shape[0] - 2
    x, y, d = (pixels[value] for value in square_box(attention, threshold, size))
    if clamp:
        side = pixels[size]
        d = jnp.minimum(d, side)
        x, y = jnp.minimum(x, side - d), jnp.minimum(y, side - d)
    return jnp.stack([x, y, x + d, y + d])


def crop(canvas, box, size: int):
    """canvas [c c 3] u8, box xyxy [4] i32 -> f32 [size size 3], whole numbers in 0..255.

    Pillow's crop() and antialiased bilinear resize(), which round after each pass; the pixels are Pillow's
    within one level. A box must end inside the canvas, whose unused part is black.
    """
    n = canvas.shape[0]
    x0, y0, x1, y1 = (box[i].astype(jnp.float32) for i in range(4))
    rows = resize_matrix(y0, y1, size, n, y0, y1)
    columns = resize_matrix(x0, x1, size, n, x0, x1)
    # planes of one channel: no contraction over an innermost axis of three
    plane = jnp.moveaxis(canvas, -1, 0).astype(jnp.float32)
    plane = jnp.floor(jnp.einsum("chw,pw->chp", plane, columns, precision="highest") + 0.5)
    plane = jnp.einsum("oh,chp->cop", rows, plane, precision="highest")
    return jnp.moveaxis(jnp.floor(jnp.clip(plane, 0, 255) + 0.5), 0, -1)


def crop_boxes(attention, pixels, threshold: float, *, clamp: bool = True):
    """`crop_box` of a batch: attention [b h w], pixels [b size+2] -> [b 4]."""
    return jax.vmap(lambda a, p: crop_box(a, p, threshold, clamp=clamp))(attention, pixels)


def crops(canvas, box, size: int):
    """`crop` of a batch: canvas [b c c 3], box [b 4] -> [b size size 3]."""
    return jax.vmap(lambda c, b: crop(c, b, size))(canvas, box)
