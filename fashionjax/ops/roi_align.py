"""RoIAlign on one feature map or on a pyramid, each RoI reading only its own level.

Functions of one image, lifted by `jax.vmap`. Sampling follows detectron2 (`aligned=True`, half-pixel offset)
and mmdetection 1.x (`aligned=False`); He et al., Mask R-CNN, arXiv:1703.06870.

A bin averages `count` bilinear samples per axis, so the pooled RoI is Wy F Wx with weights that are nonzero
only on the cells the RoI touches. The RoIs are cut into tiles of `TILE` cells; a loop whose length is the
number of tiles present multiplies the tiles of one chunk at a time. This keeps shapes static and stays exact
for any box, however long, and costs what the boxes cover rather than what the map holds.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

TILE = 16  # cells per side of a tile
CHUNK = 64  # tiles multiplied at a time
ADAPTIVE = 0  # samples per bin and axis: ceil(RoI length / bins), as detectron2's sampling_ratio=0
# Of an adaptive grid with more than 6 samples at most 3 touch a given cell: they are at least 6/7 cell apart.
TAPS = 6
MOST = 2**20  # samples a bin and axis, so that counts stay integers for boxes of any size


class Region(NamedTuple):
    """Where each of n RoIs samples. `cell`, `extent` in cells; index 0 of the last axis is y, 1 is x."""

    base: jax.Array  # [n] int32, index of the level's first cell in the concatenated levels
    extent: jax.Array  # [n 2] int32, height and width of the level
    pitch: jax.Array  # [n] int32, cells from one row of the level to the next
    start: jax.Array  # [n 2] float32, upper left corner
    bin: jax.Array  # [n 2] float32, size of one bin
    count: jax.Array  # [n 2] int32, samples per bin; 0 pools to 0


def roi_align(
    feature,
    box,
    *,
    size: int,
    stride: float,
    samples: int = ADAPTIVE,
    aligned: bool = True,
    inclusive: bool = False,
    limit: int | None = None,
):
    """feature [h w c], box [n 4] xyxy in image pixels -> pooled [n size size c], dtype of `feature`.

    `stride` is the size of a cell in image pixels. `samples` per bin and axis; 0 is adaptive, at most `limit`
    (None: no limit). `aligned` shifts the scaled box by half a cell and allows any size (an empty box pools
    to 0 on the adaptive grid); without it the box is not shifted and is at least one cell wide and high.
    `inclusive` adds 1 to x2 and y2 first, as some mmdetection 1.x builds do. A sample beyond one cell outside
    the map contributes 0; a box that is not finite pools to 0. Differentiable in `feature`; boxes get no
    gradient, as in the originals.
    """
    level = jnp.zeros(box.shape[0], jnp.int32)
    return _pool_levels([feature], [stride], level, box, size, samples, aligned, inclusive, limit)


def crop_stack(stack, index, box, *, size: int):
    """stack [g h w], index [n] int, box [n 4] xyxy in cells -> [n size size].

    RoIAlign of stack[index], each box on its own map, aligned and on the adaptive grid.
    """
    _, h, w = stack.shape
    start, bin, count = _sampling(box, 1.0, size, ADAPTIVE, True, False, None)
    extent = jnp.broadcast_to(jnp.array([h, w], jnp.int32), start.shape)
    region = Region(index.astype(jnp.int32) * (h * w), extent, extent[:, 1], start, bin, count)
    return rearrange(_pool_maps([stack[..., None]], region, size, TAPS), "n p q 1 -> n p q")


def pyramid(
    features: Sequence,
    box,
    *,
    size: int,
    strides: Sequence[float] = (4, 8, 16, 32),
    samples: int = ADAPTIVE,
    aligned: bool = True,
    inclusive: bool = False,
    limit: int | None = None,
    legacy_levels: bool = False,
    cells=None,
):
    """features: one [h_l w_l c] per stride, box [n 4] xyxy in image pixels -> pooled [n size size c].

    Every box is pooled from the level that `assign_level` gives it (`legacy_levels` is its `legacy`); the
    other arguments are those of `roi_align`. `cells` [l 2] int, which may be traced, gives the rows and
    columns of each level that belong to the image where a map is padded at the bottom and right: the map
    is taken to end there.
    """
    if len(features) != len(strides):
        raise ValueError(f"{len(features)} feature maps but {len(strides)} strides")
    level = assign_level(box, levels=len(strides), finest_stride=strides[0], legacy=legacy_levels)
    return _pool_levels(features, strides, level, box, size, samples, aligned, inclusive, limit, cells)


def assign_level(box, *, levels: int = 4, finest_stride: float = 4, legacy: bool = False):
    """box [n 4] xyxy -> index of its pyramid level [n] int32, 0 the finest (Lin et al., arXiv:1612.03144).

    floor(log2(sqrt(area) / s)) with s = 14 * finest_stride (56 px at stride 4, so that 224 px fall on the
    level of stride 16), clamped. `legacy` counts inclusive pixels (+1) as mmdetection 1.x.
    """
    box = box.astype(jnp.float32)
    side = box[:, 2:] - box[:, :2] + (1.0 if legacy else 0.0)
    scale = jnp.sqrt(jnp.maximum(side[:, 0] * side[:, 1], 0.0))
    # detectron2 adds 1e-8 to sqrt(area) / 224, mmdetection 1e-6 to sqrt(area) / 56
    if legacy:
        level = jnp.floor(jnp.log2(scale / (14 * finest_stride) + 1e-6))
    else:
        level = jnp.floor(2 + jnp.log2(scale / (56 * finest_stride) + 1e-8))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def _pool_levels(features, strides, level, box, size, samples, aligned, inclusive, limit, cells=None):
    extent = np.array([f.shape[:2] for f in features], np.int32)
    area = extent[:, 0] * extent[:, 1]
    base = (np.cumsum(area) - area).astype(np.int32)
    scale = jnp.asarray(1.0 / np.asarray(strides, np.float32))[level][:, None]
    start, bin, count = _sampling(box, scale, size, samples, aligned, inclusive, limit)
    ends = jnp.asarray(extent if cells is None else cells, jnp.int32)
    pitch = jnp.asarray(extent[:, 1])
    region = Region(jnp.asarray(base)[level], ends[level], pitch[level], start, bin, count)
    return _pool_maps(features, region, size, samples or TAPS)


def _sampling(box, scale, size, samples, aligned, inclusive, limit):
    """(start, bin, count) [n 2] of boxes in pixels (`Region`)."""
    box = box.astype(jnp.float32)
    if inclusive:
        box = box + jnp.array([0.0, 0.0, 1.0, 1.0])
    offset = 0.5 if aligned else 0.0
    start = box[:, 1::-1] * scale - offset  # y, x
    length = box[:, 3:1:-1] * scale - offset - start
    if not aligned:
        length = jnp.maximum(length, 1.0)
    if samples == ADAPTIVE:
        count = jnp.ceil(length / size)
        count = jnp.clip(count, 0, MOST if limit is None else limit).astype(jnp.int32)
    else:
        count = jnp.full(length.shape, samples, jnp.int32)
    return start, length / size, count


def _pool_maps(features, region: Region, size: int, taps: int):
    """Maps [... c], Region in their concatenation -> pooled [n size size c]."""
    channels, dtype = features[0].shape[-1], features[0].dtype
    if region.base.shape[0] == 0:
        return jnp.zeros((0, size, size, channels), dtype)
    # A tile's row is a run of TILE cells; the last row's run may leave the map.
    flat = [f.reshape(-1, channels) for f in features] + [jnp.zeros((TILE, channels), dtype)]
    return _pool(jnp.concatenate(flat), jax.lax.stop_gradient(region), size, taps)


def axis_weights(start, bin, count, extent, cell, *, size: int, taps: int):
    """Share of each cell in each bin along one axis: cell [k t] int -> [k size t]; the others are [k].

    Sample i of bin p lies at start + p * bin + (i + 0.5) * bin / count. It is bilinear between its two cells,
    takes a border cell whole up to one cell outside, and counts as 0 beyond. At most `taps` samples of a bin
    are looked at per cell, those from the first that may touch it.
    """
    spacing = bin / jnp.maximum(count, 1)
    first = start[:, None] + bin[:, None] * jnp.arange(size) + spacing[:, None] / 2  # [k p]
    first, spacing, count, extent, cell = (
        first[:, :, None, None],
        spacing[:, None, None, None],
        count[:, None, None, None],
        extent[:, None, None, None],
        cell[:, None, :, None],
    )
    reached = jnp.floor((cell - 1 - first) / jnp.maximum(spacing, 1e-6))
    index = jnp.clip(reached, 0, jnp.maximum(count - taps, 0)) + jnp.arange(taps)
    position = first + index * spacing
    distance = position - cell
    border = ((cell == 0) & (distance <= 0)) | ((cell == extent - 1) & (distance >= 0))
    tap = jnp.where(border, 1.0, jnp.maximum(1 - jnp.abs(distance), 0.0))
    counted = (index < count) & (position >= -1) & (position <= extent) & (cell < extent)
    return jnp.where(counted, tap, 0.0).sum(axis=-1) / jnp.maximum(count[..., 0], 1)


class _Tiles(NamedTuple):
    """How the RoIs are cut: `low` [n 2] first cell, `tiles` [n 2] tiles per axis, `end` [n] running total."""

    low: jax.Array
    tiles: jax.Array
    end: jax.Array


def _cut(region: Region, size: int) -> _Tiles:
    spacing = region.bin / jnp.maximum(region.count, 1)
    one_end = region.start + spacing / 2
    other = one_end + region.bin * (size - 1) + spacing * (region.count - 1)
    first, last = jnp.minimum(one_end, other), jnp.maximum(one_end, other)  # x2 < x1 with fixed samples
    low = jnp.clip(jnp.floor(first), 0, region.extent - 1).astype(jnp.int32)
    high = jnp.clip(jnp.floor(last) + 1, 0, region.extent - 1).astype(jnp.int32)
    touched = (region.count > 0) & (last >= -1) & (first <= region.extent)
    tiles = jnp.where(touched, (high - low) // TILE + 1, 0)
    return _Tiles(low, tiles, jnp.cumsum(tiles[:, 0] * tiles[:, 1]))


def _chunk(i, region: Region, tiles: _Tiles, size: int, taps: int):
    """Chunk i of the tiles: (RoI [k], index of each row's run [k h], weights [k p h], [k q w])."""
    t = i * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)
    present = t < tiles.end[-1]
    roi = jnp.minimum(jnp.searchsorted(tiles.end, t, side="right"), len(tiles.end) - 1)
    across = tiles.tiles[roi, 1]
    nth = t - (tiles.end[roi] - tiles.tiles[roi, 0] * across)
    across = jnp.maximum(across, 1)
    origin = tiles.low[roi] + TILE * jnp.stack([nth // across, nth % across], axis=1)
    origin = jnp.where(present[:, None], origin, 0)
    cell = origin[:, :, None] + jnp.arange(TILE)  # [k 2 t]
    start, bin, count, extent = region.start[roi], region.bin[roi], region.count[roi], region.extent[roi]
    count = jnp.where(present[:, None], count, 0)
    along_y, along_x = (
        axis_weights(start[:, a], bin[:, a], count[:, a], extent[:, a], cell[:, a], size=size, taps=taps)
        for a in (0, 1)
    )
    row = jnp.minimum(cell[:, 0], extent[:, :1] - 1)
    run = region.base[roi][:, None] + row * region.pitch[roi][:, None] + origin[:, 1:]
    return roi, run, along_y, along_x


_RUNS = jax.lax.GatherDimensionNumbers(offset_dims=(2, 3), collapsed_slice_dims=(), start_index_map=(0,))
_RUNS_BACK = jax.lax.ScatterDimensionNumbers(
    update_window_dims=(2, 3), inserted_window_dims=(), scatter_dims_to_operand_dims=(0,)
)


def _product(equation, *operands, dtype):
    # HIGHEST: 10-bit products would lose more than the parity bounds allow on float32 features
    return jnp.einsum(equation, *operands, precision="highest", preferred_element_type=jnp.float32).astype(
        dtype
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _pool(flat, region: Region, size: int, taps: int):
    """flat [cells c], Region of n RoIs -> [n size size c]."""
    return _over_images(partial(_forward, size=size, taps=taps), flat.shape[0])(flat, region)


def _pool_fwd(flat, region, size, taps):
    return _pool(flat, region, size, taps), (jnp.zeros((flat.shape[0], 0), flat.dtype), region)


def _pool_bwd(size, taps, saved, gradient):
    like, region = saved
    backward = partial(_backward, size=size, taps=taps)
    return _over_images(backward, like.shape[0])(gradient, region).astype(like.dtype), None


_pool.defvjp(_pool_fwd, _pool_bwd)


def _over_images(function, cells: int):
    """function(array, Region, cells) of one image with `cells` cells -> the same of (array, Region) for vmap.

    A batch is one call on the concatenated images: a loop lifted by vmap would run as long as the fullest
    image and copy what it carries in every step.
    """

    @jax.custom_batching.custom_vmap
    def one_image(array, region):
        return function(array, region, cells)

    @one_image.def_vmap
    def many_images(images, batched, array, region):
        array, region = jax.tree.map(
            lambda x, has_axis: x if has_axis else jnp.broadcast_to(x, (images, *x.shape)),
            (array, region),
            tuple(batched),
        )
        region = region._replace(base=region.base + cells * jnp.arange(images, dtype=jnp.int32)[:, None])
        array, region = jax.tree.map(lambda x: rearrange(x, "b n ... -> (b n) ..."), (array, region))
        joined = _over_images(function, cells * images)(array, region)
        return rearrange(joined, "(b n) ... -> b n ...", b=images), True

    return one_image


def _forward(flat, region: Region, cells: int, *, size: int, taps: int):
    """flat [cells c] -> pooled [n size size c], dtype of `flat`."""
    n, c = region.base.shape[0], flat.shape[1]
    tiles = _cut(region, size)

    def body(i, pooled):
        roi, run, along_y, along_x = _chunk(i, region, tiles, size, taps)
        tile = jax.lax.gather(flat, run[..., None], _RUNS, (TILE, c), mode="promise_in_bounds")
        rows = _product("kph,khwc->kpwc", along_y.astype(flat.dtype), tile, dtype=flat.dtype)
        part = _product("kqw,kpwc->kpqc", along_x.astype(flat.dtype), rows, dtype=jnp.float32)
        return pooled.at[roi].add(part)

    pooled = jnp.zeros((n, size, size, c), jnp.float32)
    return jax.lax.fori_loop(0, _chunks(tiles), body, pooled).astype(flat.dtype)


def _backward(gradient, region: Region, cells: int, *, size: int, taps: int):
    """gradient [n size size c] -> gradient of the concatenated levels [cells c], float32."""
    dtype = gradient.dtype
    tiles = _cut(region, size)

    def body(i, flat):
        roi, run, along_y, along_x = _chunk(i, region, tiles, size, taps)
        columns = _product("kqw,kpqc->kpwc", along_x.astype(dtype), gradient[roi], dtype=dtype)
        tile = _product("kph,kpwc->khwc", along_y.astype(dtype), columns, dtype=jnp.float32)
        return jax.lax.scatter_add(flat, run[..., None], tile, _RUNS_BACK, mode="promise_in_bounds")

    flat = jnp.zeros((cells, gradient.shape[-1]), jnp.float32)
    return jax.lax.fori_loop(0, _chunks(tiles), body, flat)


def _chunks(tiles: _Tiles):
    return (tiles.end[-1] + CHUNK - 1) // CHUNK
