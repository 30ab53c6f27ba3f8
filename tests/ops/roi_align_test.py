"""RoIAlign against numbers written out by hand and the published definition, one sample at a time."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, rounding

from fashionjax.ops import roi_align as ops

STATIC = ("size", "stride", "samples", "aligned", "inclusive", "limit")
roi_align = jax.jit(ops.roi_align, static_argnames=STATIC)
RAMP = np.arange(25, dtype=np.float32).reshape(5, 5, 1)  # 5 y + x
MODES = {
    "aligned adaptive": {},
    "aligned fixed": {"samples": 2},
    "aligned limited": {"limit": 2},
    "legacy fixed": {"samples": 2, "aligned": False},
    "legacy inclusive": {"samples": 2, "aligned": False, "inclusive": True},
    "legacy adaptive": {"aligned": False},
}


def bilinear(feature, y, x):
    """The sample of detectron2's ROIAlign_cpu.cpp and mmdetection 1.x's roi_align_kernel.cu."""
    h, w, _ = feature.shape
    if y < -1 or y > h or x < -1 or x > w:
        return np.zeros(feature.shape[2])
    y, x = max(y, 0.0), max(x, 0.0)
    y, x = min(y, h - 1.0), min(x, w - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
    top = (1 - (x - x0)) * feature[y0, x0] + (x - x0) * feature[y0, x1]
    bottom = (1 - (x - x0)) * feature[y1, x0] + (x - x0) * feature[y1, x1]
    return (1 - (y - y0)) * top + (y - y0) * bottom


def naive(feature, box, size, stride, samples=0, aligned=True, inclusive=False, limit=None):
    feature, scale = feature.astype(np.float64), 1.0 / stride
    pooled = np.zeros((len(box), size, size, feature.shape[2]))
    for n, (x1, y1, x2, y2) in enumerate(np.asarray(box, np.float64)):
        offset = 0.5 if aligned else 0.0
        left, top = x1 * scale - offset, y1 * scale - offset
        wide = (x2 + inclusive) * scale - offset - left
        high = (y2 + inclusive) * scale - offset - top
        if not aligned:
            wide, high = max(wide, 1.0), max(high, 1.0)
        count_y, count_x = (samples or math.ceil(length / size) for length in (high, wide))
        if limit is not None and not samples:
            count_y, count_x = min(count_y, limit), min(count_x, limit)
        for p, q in itertools.product(range(size), repeat=2):
            total = np.zeros(feature.shape[2])
            for i, j in itertools.product(range(count_y), range(count_x)):
                y = top + (p + (i + 0.5) / count_y) * high / size
                x = left + (q + (j + 0.5) / count_x) * wide / size
                total += bilinear(feature, y, x)
            pooled[n, p, q] = total / max(count_y * count_x, 1)
    return pooled


def boxes(rng, n, height, width):
    """Random boxes and every degenerate kind. Coordinates keep off the steps of the definition by 2^-5 px."""
    centre = rng.uniform(-0.1, 1.1, (n, 2)) * [width, height]
    side = np.exp(rng.uniform(0, math.log(max(height, width)), (n, 2)))
    usual = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
    odd = [
        [8, 8, 8, 8],  # empty
        [8, 4, 8, 20],  # without width
        [9, 9, 5, 5],  # turned over
        [-90, -90, -50, -50],  # outside
        [width + 40, 3, width + 60, 9],
        [-20, -20, width + 20, height + 20],  # more than the image
        [0, 3, width, 7],  # sliver
        [4, 0, 7, height],
        [5, 6, 21, 22],
        [5, 6, 21, 22],  # identical
    ]
    box = np.concatenate([usual, odd])
    return (np.round(box * 16) / 16 + 1 / 32 * (box[:, :1] != box[:, 2:3])).astype(np.float32)


def slope_of(feature):
    """The largest difference between neighbouring cells."""
    return max(np.abs(np.diff(feature, axis=axis)).max() for axis in (0, 1))


def assert_sampled_close(got, want, feature):
    """Within the rounding of a sample's position, of up to the map's side in cells, times the slope."""
    assert_rounded(got, want, 8, scale=max(feature.shape) * slope_of(feature))


@pytest.mark.parametrize(
    "box, options, expected",
    [
        # one sample a bin, at 0.75, 1.25, 1.75, 2.25
        ([1, 1, 3, 3], {"size": 4},
         [[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]]),
        # not shifted: at 1.25, 1.75, 2.25, 2.75
        ([1, 1, 3, 3], {"size": 4, "aligned": False},
         [[7.5, 8, 8.5, 9], [10, 10.5, 11, 11.5], [12.5, 13, 13.5, 14], [15, 15.5, 16, 16.5]]),
        # inclusive corners: the same box ends at 2
        ([1, 1, 2, 2], {"size": 2, "aligned": False, "inclusive": True, "samples": 2}, [[9, 10], [14, 15]]),
        # samples at 3, 4 | 5, 6: 5 takes the border cell 4, 6 is more than a cell outside
        ([3, 3, 7, 7], {"size": 2}, [[21, 10.75], [11.75, 6]]),
        # samples at -1 (the border cell 0), 0 | 1, 2
        ([-1, 0, 3, 2], {"size": 2}, [[0, 1.5], [5, 6.5]]),
        # no length, no sample
        ([2, 2, 2, 2], {"size": 2}, [[0, 0], [0, 0]]),
        # without alignment at least one cell: 2.25, 2.75
        ([2, 2, 2, 2], {"size": 2, "aligned": False}, [[13.5, 14], [16, 16.5]]),
    ],
)  # fmt: skip
def test_hand_written_numbers(box, options, expected):
    got = roi_align(RAMP, np.array([box], np.float32), stride=1.0, **options)
    np.testing.assert_array_equal(got[0, :, :, 0], np.array(expected, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size, shape, stride", [(7, (40, 57, 3), 4.0), (3, (9, 70, 2), 8.0)])
def test_equals_the_definition(mode, size, shape, stride):
    rng = np.random.default_rng(0)
    feature = rng.normal(size=shape).astype(np.float32)
    box = boxes(rng, 40, shape[0] * stride, shape[1] * stride)
    got = roi_align(feature, box, size=size, stride=stride, **MODES[mode])
    assert_sampled_close(got, naive(feature, box, size, stride, **MODES[mode]), feature)


@pytest.mark.parametrize("legacy", [False, True])
def test_pyramid_reads_the_assigned_level(legacy):
    rng = np.random.default_rng(1)
    features = [
        rng.normal(size=(h, w, 2)).astype(np.float32) for h, w in ((40, 56), (20, 28), (10, 14), (5, 7))
    ]
    sides = [4, 60, 111.5, 112.5, 150, 230, 460, 600]
    box = np.array([[3, 5, 3 + s, 5 + 0.7 * s] for s in sides] + [[0, 0, 0, 0]], np.float32)
    options = {"samples": 2, "aligned": False} if legacy else {}
    got = jax.jit(lambda f, b: ops.pyramid(f, b, size=5, legacy_levels=legacy, **options))(features, box)
    level = np.asarray(ops.assign_level(jnp.asarray(box), legacy=legacy))
    for i, l in enumerate(level):
        expected = naive(features[l], box[i : i + 1], 5, 4.0 * 2**l, **options)
        assert_sampled_close(got[i : i + 1], expected, features[0])
    assert set(level) == {0, 1, 2, 3}


def test_levels_by_hand():
    side = np.array([0, 20, 111, 112, 223, 224, 447, 448, 5000], np.float32)
    box = jnp.stack([jnp.zeros(9), jnp.zeros(9), side, side], axis=1)
    assert ops.assign_level(box).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert ops.assign_level(box, legacy=True).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        3,
    ]  # 111 counts as 112 pixels
    assert ops.assign_level(box, levels=3, finest_stride=8).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 2]


def test_gradient_is_the_transpose():
    """RoIAlign is linear in the features: <g, pool(f)> = <pool'(g), f>, and boxes get no gradient."""
    rng = np.random.default_rng(2)
    feature = rng.normal(size=(40, 57, 3)).astype(np.float32)
    box = boxes(rng, 40, 160, 228)
    g = rng.normal(size=(50, 7, 7, 3)).astype(np.float32)

    def product(feature, box):
        return jnp.sum(g * ops.roi_align(feature, box, size=7, stride=4.0))

    gradient, of_box = jax.jit(jax.grad(product, argnums=(0, 1)))(feature, box)
    assert not np.any(of_box)
    unit = np.zeros_like(feature)
    unit[11, 20] = 1.0
    # each of n weights follows from a position of up to 57 cells; independent errors add up by squares
    bound = rounding(8, max(feature.shape)) * np.sqrt(g.size / 3)
    expected = np.einsum("npqc,npqc->c", g, naive(unit, box, 7, 4.0))
    np.testing.assert_allclose(gradient[11, 20], expected, rtol=0, atol=bound)
    pooled = np.asarray(roi_align(feature, box, size=7, stride=4.0), np.float64)
    bound = rounding(8, max(feature.shape) * slope_of(feature)) * np.sqrt(g.size)
    assert np.sum(g * pooled) == pytest.approx(np.sum(np.asarray(gradient, np.float64) * feature), abs=bound)


@pytest.mark.slow
def test_vmap_is_a_loop_over_images():
    rng = np.random.default_rng(3)
    feature = rng.normal(size=(3, 20, 28, 2)).astype(np.float32)
    box = np.stack([boxes(rng, 10, 80, 112) for _ in range(3)])
    box[1] = 0.0  # an image of padding

    def pooled(feature, box):
        return ops.roi_align(feature, box, size=3, stride=4.0)

    one, many = jax.jit(pooled), jax.jit(jax.vmap(pooled))
    assert_sampled_close(many(feature, box), [one(f, b) for f, b in zip(feature, box)], feature[0])
    shared = jax.jit(jax.vmap(pooled, in_axes=(None, 0)))(feature[0], box)
    assert_sampled_close(shared, [one(feature[0], b) for b in box], feature[0])

    def loss(pool):
        return lambda feature: jnp.sum(jnp.sin(pool(feature, box)))

    each = [jax.jit(jax.grad(lambda f, b=b: jnp.sum(jnp.sin(pooled(f, b)))))(f) for f, b in zip(feature, box)]
    # sums over 20 boxes x 9 bins of weights that follow from positions of up to 28 cells
    bound = rounding(8, 28) * np.sqrt(20 * 9)
    np.testing.assert_allclose(jax.jit(jax.grad(loss(jax.vmap(pooled))))(feature), each, rtol=0, atol=bound)


@pytest.mark.parametrize("options", [{}, {"samples": 2, "aligned": False}])
def test_boxes_beyond_measure(options):
    box = [[np.nan] * 4, [0, 0, np.inf, 9], [-np.inf, 0, 9, 9], [0, 0, 1e30, 1e30], [-1e9, -1e9, 1e9, 1e9]]
    box = np.array([*box, [1, 1, 3, 3]], np.float32)
    pooled = np.asarray(roi_align(RAMP, box, size=2, stride=1.0, **options))
    assert np.isfinite(pooled).all() and not pooled[:3].any()
    np.testing.assert_array_equal(pooled[5:], roi_align(RAMP, box[5:], size=2, stride=1.0, **options))


def test_no_box_and_bfloat16():
    feature = jnp.asarray(RAMP, jnp.bfloat16)
    assert roi_align(feature, jnp.zeros((0, 4)), size=2, stride=1.0).shape == (0, 2, 2, 1)
    pooled = roi_align(feature, jnp.array([[1.0, 1.0, 3.0, 3.0]]), size=2, stride=1.0)
    assert pooled.dtype == jnp.bfloat16 and pooled[0, :, :, 0].tolist() == [[6, 7], [11, 12]]
    with pytest.raises(ValueError, match="1 feature maps but 4 strides"):
        ops.pyramid([feature], jnp.zeros((1, 4)), size=2)
