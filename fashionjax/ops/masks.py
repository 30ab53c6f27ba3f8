"""Instance masks on the device: rasterised polygons, mask targets of RoIs, pasting, overlaps.

Functions of one image, lifted by `jax.vmap`. The forms on the host, with RLE, are in `data/masks.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.ops.roi_align import crop_stack

FAR = 1e5  # px; points beyond are moved here, as on the host
UPSAMPLE = 5  # COCO's rasteriser walks edges on a grid of fifths of a pixel


def rasterize(ring, length, *, height: int, width: int):
    """ring [r p 2] (x, y in pixels), length [r] int points used -> union of the rings [height width] bool.

    The rule of COCO's `rleFrPoly` (common/maskApi.c) in closed form. Points are rounded to fifths of a pixel,
    an edge is walked along its longer axis, and where the walk passes the middle of column x at height y
    every row from y on changes sides (even-odd). Equal to pycocotools up to ties, which float64 rounds there:
    single pixels on the outline. A ring of fewer than 3 points is empty.
    """
    point = jnp.trunc(UPSAMPLE * jnp.clip(ring.astype(jnp.float32), -FAR, FAR) + 0.5)
    index = jnp.arange(ring.shape[1])
    used = (index < length[:, None]) & (length >= 3)[:, None]  # [r p]
    following = jnp.where(index + 1 < length[:, None], index + 1, 0)
    other = jnp.take_along_axis(point, following[..., None], axis=1)
    row, crosses = _crossings(point, other, width)  # [r p w]
    crosses &= used[..., None]
    below = crosses[:, :, None, :] & (row[:, :, None, :] <= jnp.arange(height)[:, None])
    return (below.sum(axis=1, dtype=jnp.int32) % 2 == 1).any(axis=0)


def _crossings(start, end, width: int):
    """Edges in fifths of a pixel, start, end [... 2] -> (first row below [... w], whether crossed [... w]).

    The walk passes column x between u = 5 x + 2 and the next u; its height there is the smaller of the two v.
    """
    left = UPSAMPLE * jnp.arange(width, dtype=jnp.float32) + UPSAMPLE // 2
    turned = start[..., :1] > end[..., :1]
    (x0, y0), (x1, y1) = (
        (p[..., :1], p[..., 1:]) for p in (jnp.where(turned, end, start), jnp.where(turned, start, end))
    )
    crossed = (x0 <= left) & (x1 > left)
    along, across = x1 - x0, y1 - y0  # along >= 0
    length = jnp.maximum(along, 1)
    # products before quotients: exact for integers below 2^24, so that ties round as in exact arithmetic
    # wide edges: v at u = left and left + 1, relative to y0
    v_left = jnp.floor(across * (left - x0) / length + 0.5)
    v_right = jnp.floor(across * (left + 1 - x0) / length + 0.5)
    wide = y0 + jnp.minimum(v_left, v_right)
    # steep edges: the v before the step from u = left to left + 1, or after it where u grows as v shrinks
    reach = across * (left + 0.5 - x0) / length
    steep = y0 + jnp.where(across > 0, jnp.ceil(reach) - 1, jnp.floor(reach))
    v = jnp.where(along >= jnp.abs(across), wide, steep)
    # ceil((v + 0.5) / 5 - 0.5) in integers
    row = (v.astype(jnp.int32) + UPSAMPLE // 2) // UPSAMPLE
    return jnp.maximum(row, 0), crossed


def polygon_targets(ring, length, box, *, size: int):
    """ring [n r p 2], length [n r], box [n 4] xyxy -> mask targets [n size size] bool, one instance a RoI.

    detectron2's PolygonMasks.crop_and_resize: shifted by the box's corner, scaled per axis by
    size / max(side, 0.1), rasterised at size x size. An instance without a ring gives an empty target.
    """
    corner = box[:, None, None, :2]
    scale = size / jnp.maximum(box[:, 2:] - box[:, :2], 0.1)
    moved = (ring - corner) * scale[:, None, None, :]
    return jax.vmap(lambda ring, length: rasterize(ring, length, height=size, width=size))(moved, length)


def bitmap_targets(mask, instance, box, *, size: int):
    """mask [g h w] bool or 0/1, instance [n] int, box [n 4] -> targets [n size size] bool of mask[instance].

    detectron2's BitMasks.crop_and_resize: aligned RoIAlign of the bitmap on the adaptive grid, >= 0.5.
    """
    return crop_stack(mask.astype(jnp.float32), instance, box, size=size) >= 0.5


def legacy_bitmap_targets(mask, instance, box, *, size: int):
    """As `bitmap_targets`, by mmdetection 1.x's mask_target: the crop of the truncated, inclusive box.

    Resized bilinearly without antialiasing, rounded as OpenCV rounds uint8. The crop is cut at the image;
    a box wholly outside gives an empty target.
    """
    h, w = mask.shape[1:]
    corner = jnp.trunc(box.astype(jnp.float32)).astype(jnp.int32)

    def taps(low, high, extent):
        last = low + jnp.maximum(high - low + 1, 1)
        low, last = jnp.clip(low, 0, extent), jnp.clip(last, 0, extent)
        inside = last > low
        position = (jnp.arange(size) + 0.5) * (last - low)[:, None] / size - 0.5
        position = jnp.clip(position, 0, jnp.maximum(last - low - 1, 0)[:, None])
        first = jnp.floor(position).astype(jnp.int32)
        part = position - first
        second = jnp.minimum(first + 1, jnp.maximum(last - low - 1, 0)[:, None])
        index = jnp.stack([first, second], axis=-1) + low[:, None, None]
        weight = jnp.stack([1 - part, part], axis=-1) * inside[:, None, None]
        return jnp.clip(index, 0, extent - 1), weight

    row, along_y = taps(corner[:, 1], corner[:, 3], h)
    column, along_x = taps(corner[:, 0], corner[:, 2], w)
    instance, row = instance[:, None, None, None, None], rearrange(row, "n p i -> n p 1 i 1")
    tap = mask[instance, row, rearrange(column, "n q j -> n 1 q 1 j")].astype(jnp.float32)
    value = jnp.einsum("npi,nqj,npqij->npq", along_y, along_x, tap, precision="highest")
    return value >= 0.5


def paste(probability, box, *, height: int, width: int):
    """probability [n m m], box [n 4] xyxy -> masks in the image [n height width] float32.

    detectron2's paste_masks_in_image: each pixel centre samples the map bilinearly with zeros outside. An
    empty box gives zeros.
    """
    m = probability.shape[1]
    box = box.astype(jnp.float32)

    def weights(low, high, extent):
        side = jnp.where(high > low, high - low, 1)
        position = (jnp.arange(extent) + 0.5 - low[:, None]) / side[:, None] * m - 0.5
        tap = jnp.maximum(1 - jnp.abs(position[..., None] - np.arange(m)), 0)
        return tap * (high > low)[:, None, None]

    along_y, along_x = weights(box[:, 1], box[:, 3], height), weights(box[:, 0], box[:, 2], width)
    rows = jnp.einsum("nhp,npq->nhq", along_y, probability.astype(jnp.float32), precision="highest")
    return jnp.einsum("nhq,nwq->nhw", rows, along_x, precision="highest")


def mask_iou(mask, other, crowd=None):
    """mask [n h w], other [m h w] bool -> IoU [n m] float32, 0 where both are empty.

    Against a crowd (crowd [m] bool) the share of `mask` that it covers, as in COCO's evaluation.
    """
    first, second = (rearrange(x, "n h w -> n (h w)").astype(jnp.float32) for x in (mask, other))
    # counts up to 2^24 are exact in float32
    both = jnp.einsum("np,mp->nm", first, second, precision="highest")
    area, of_other = first.sum(axis=1)[:, None], second.sum(axis=1)[None, :]
    union = area + of_other - both
    if crowd is not None:
        union = jnp.where(crowd[None, :], area, union)
    return both / jnp.maximum(union, 1)
