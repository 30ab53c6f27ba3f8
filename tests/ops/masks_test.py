"""Masks on the device against pycocotools, the forms on the host and numbers written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, rounding
from pycocotools import mask as reference

from fashionjax.data import masks as host
from fashionjax.ops import masks as ops
from fashionjax.ops.roi_align import roi_align

rasterize = jax.jit(jax.vmap(lambda r, l: ops.rasterize(r, l, height=28, width=28)))


def padded(polygons, rings, points):
    """Polygons per instance -> (ring [n r p 2], length [n r]); padding is NaN, so that reading it shows."""
    ring = np.full((len(polygons), rings, points, 2), np.nan, np.float32)
    length = np.zeros((len(polygons), rings), np.int32)
    for n, polygon in enumerate(polygons):
        for r, values in enumerate(polygon):
            length[n, r] = len(values) // 2
            ring[n, r, : length[n, r]] = np.reshape(values, (-1, 2))
    return ring, length


def test_rasterize_by_hand():
    polygons = [
        [[1, 1, 4, 1, 4, 3, 1, 3]],
        [[0, 0, 28, 0, 28, 28, 0, 28]],
        [],
        [[3, 3, 9, 9]],
        [[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 3, 1, 3, 3, 1, 3]],  # a union, not even-odd
        [[-90, -90, 90, -90, 90, 90, -90, 90]],
        [[50, 50, 60, 50, 60, 60]],
    ]
    got = np.asarray(rasterize(*padded(polygons, 2, 4)))
    assert got.sum(axis=(1, 2)).tolist() == [6, 784, 0, 0, 7, 784, 0]
    assert got[0, 1:3, 1:4].all() and got[4, 1, 1]


def test_rasterize_follows_pycocotools():
    """Equal up to ties of the walk, which pycocotools rounds in float64: a pixel on some outlines."""
    rng = np.random.default_rng(0)
    polygons = [
        [
            rng.uniform(-6, 34, 2 * rng.integers(3, 9)).astype(np.float32).tolist()
            for _ in range(rng.integers(1, 4))
        ]
        for _ in range(300)
    ]
    got = np.asarray(rasterize(*padded(polygons, 3, 8)))
    expected = np.stack(
        [reference.decode(reference.merge(reference.frPyObjects(p, 28, 28))) for p in polygons]
    ).astype(bool)
    differ = (got != expected).sum(axis=(1, 2))
    assert differ.max() <= 3 and (differ == 0).mean() > 0.95


def test_polygon_targets_equal_the_host():
    polygons = [[[10, 20, 15, 20, 15, 30, 10, 30]], [[2, 2, 18, 4, 9, 25]], [], [[2, 2, 18, 4, 9, 25]]]
    box = np.array([[10, 20, 20, 30], [1, 3, 17, 19], [0, 0, 9, 9], [5, 5, 5, 5]], np.float32)
    ring, length = padded(polygons, 1, 4)
    got = np.asarray(jax.jit(lambda *a: ops.polygon_targets(*a, size=14))(ring, length, box))
    for n, polygon in enumerate(polygons):
        assert (got[n] != host.polygon_target(polygon, box[n], 14)).sum() <= 1
    np.testing.assert_array_equal(got[0], np.arange(14) < 7 * np.ones((14, 1)))


@pytest.mark.slow
def test_bitmap_targets():
    mask = np.zeros((2, 12, 16), bool)
    mask[0, 2:8, 4:12] = True
    mask[1] = True
    instance = np.array([0, 0, 1, 1, 0])
    box = np.array([[4, 2, 12, 8], [0, 2, 8, 8], [2, 2, 6, 6], [30, 30, 40, 40], [5, 5, 5, 5]], np.float32)
    modern = np.asarray(ops.bitmap_targets(jnp.asarray(mask), instance, jnp.asarray(box), size=4))
    np.testing.assert_array_equal(modern[1], np.array([[0, 0, 1, 1]] * 4, bool))
    assert modern[0].all() and modern[2].all() and not modern[3:].any()
    box[0] -= [0, 0, 1, 1]  # inclusive corners
    got = np.asarray(ops.legacy_bitmap_targets(jnp.asarray(mask), instance, jnp.asarray(box), size=4))
    assert got[0].all() and got[2].all() and not got[3].any()
    # inclusive: columns 0..8 of which 4..8 are set, resized to 4: at 0.625, 2.875, 5.125, 7.375
    # rows 2..8, of which 8 is not set: at 2.375, 4.125, 5.875, 7.625
    np.testing.assert_array_equal(got[1], np.array([[0, 0, 1, 1]] * 3 + [[0] * 4], bool))
    assert got[4].all()  # the pixel (5, 5) alone


def naive_legacy_target(mask, box, size):
    """mmdetection 1.x: the crop of the truncated box, resized by OpenCV's rule -> values before rounding."""
    x1, y1, x2, y2 = np.trunc(box).astype(int)
    rows = slice(max(y1, 0), max(y1 + max(y2 - y1 + 1, 1), 0))
    columns = slice(max(x1, 0), max(x1 + max(x2 - x1 + 1, 1), 0))
    crop, value = mask[rows, columns].astype(np.float64), np.zeros((size, size))
    if not crop.size:
        return value
    for p in range(size):
        for q in range(size):
            y = np.clip((p + 0.5) * crop.shape[0] / size - 0.5, 0, crop.shape[0] - 1)
            x = np.clip((q + 0.5) * crop.shape[1] / size - 0.5, 0, crop.shape[1] - 1)
            window = crop[int(y) : int(y) + 2, int(x) : int(x) + 2]
            weight_y = np.array([1 - y % 1, y % 1])[: window.shape[0]]
            weight_x = np.array([1 - x % 1, x % 1])[: window.shape[1]]
            value[p, q] = weight_y @ window @ weight_x
    return value


@pytest.mark.slow
def test_bitmap_targets_equal_a_loop():
    """Random masks and boxes: usual ones, identical, empty, turned over, partly and wholly outside."""
    rng = np.random.default_rng(3)
    mask = rng.random((3, 20, 24)) < 0.5
    corner = rng.uniform(-4, 20, (24, 2))
    box = np.concatenate([corner, corner + rng.uniform(0.5, 16, (24, 2))], axis=1)
    odd = [[3, 3, 3, 3], [9, 9, 5, 5], [-30, -30, -20, -20], [40, 40, 50, 50], [-9, -9, 40, 40], box[0]]
    box = np.concatenate([box, odd]).astype(np.float32)
    instance = rng.integers(0, 3, len(box))
    modern = jax.jit(lambda m, i, b: ops.bitmap_targets(m, i, b, size=5))(mask, instance, box)
    legacy = jax.jit(lambda m, i, b: ops.legacy_bitmap_targets(m, i, b, size=5))(mask, instance, box)
    pool = jax.jit(lambda m, b: roi_align(m, b, size=5, stride=1.0))
    for n, image in enumerate(instance):
        # RoIAlign of one channel, which equals its definition (roi_align_test.py)
        value = np.asarray(pool(mask[image, :, :, None].astype(np.float32), box[n : n + 1]))[0, :, :, 0]
        sure = np.abs(value - 0.5) > rounding(64, 24)
        np.testing.assert_array_equal(np.asarray(modern[n])[sure], (value >= 0.5)[sure])
        value = naive_legacy_target(mask[image], box[n], 5)
        sure = np.abs(value - 0.5) > rounding(32, 24)
        np.testing.assert_array_equal(np.asarray(legacy[n])[sure], (value >= 0.5)[sure])
    assert not modern[24:28].any() and not legacy[26:28].any()


def test_paste_equals_the_host():
    rng = np.random.default_rng(2)
    probability = rng.random((6, 7, 7)).astype(np.float32)
    box = np.array(
        [
            [2.3, 1.6, 11.2, 9.9],
            [-4, -3.5, 30, 5.2],
            [3, 3, 3.4, 8],
            [9.5, 9.5, 40, 40],
            [3, 3, 3, 3],
            [40, 4, 50, 8],
        ],
        np.float32,
    )
    value = np.asarray(jax.jit(lambda p, b: ops.paste(p, b, height=12, width=14))(probability, box))
    for n in range(len(box)):
        sure = np.abs(value[n] - 0.5) > rounding(16, 14)  # positions of up to 14 px decide the weights
        np.testing.assert_array_equal(
            (value[n] >= 0.5)[sure], host.paste(probability[n], box[n], 12, 14)[sure]
        )
    assert not value[4:].any()


def test_mask_iou():
    rng = np.random.default_rng(1)
    mask = np.stack([rng.random((9, 7)) < p for p in (0, 0.2, 0.5, 1)])
    crowd = np.array([False, True, False, True])
    rles = [host.encode(m) for m in mask]
    got = jax.jit(ops.mask_iou)(mask, mask, crowd)
    assert_rounded(got, host.iou(rles, rles, crowd), operations=8, scale=1)
    assert ops.mask_iou(jnp.asarray(mask), jnp.asarray(mask))[0, 0] == 0
