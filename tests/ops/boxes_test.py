"""Boxes against numbers written out by hand and plain numpy in float64, degenerate boxes included."""

import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, rounding

from fashionjax.ops import boxes

DEGENERATE = np.array(
    [
        [0, 0, 0, 0],
        [5, 5, 5, 9],
        [7, 7, 3, 3],
        [-9, -9, -1, -1],
        [-5, -5, 99, 99],
        [2, 2, 6, 6],
        [2, 2, 6, 6],
    ],
    np.float32,
)


def random_boxes(n, seed=0):
    corner = np.random.default_rng(seed).uniform(-10, 60, (n, 2, 2))
    return np.concatenate([corner.min(1), corner.max(1)], axis=1).astype(np.float32)


def naive_iou(a, b, plus):
    result = np.zeros((len(a), len(b)))
    for i, p in enumerate(a.astype(np.float64)):
        for j, q in enumerate(b.astype(np.float64)):
            w = min(p[2], q[2]) - max(p[0], q[0]) + plus
            h = min(p[3], q[3]) - max(p[1], q[1]) + plus
            areas = [max(r[2] - r[0] + plus, 0) * max(r[3] - r[1] + plus, 0) for r in (p, q)]
            common = max(w, 0) * max(h, 0)
            result[i, j] = common / (sum(areas) - common) if common > 0 else 0
    return result


def test_iou_by_hand():
    a, b = jnp.array([[0.0, 0, 9, 9]]), jnp.array([[5.0, 5, 14, 14]])
    assert float(boxes.iou(a, b)[0, 0]) == pytest.approx(16 / 146)
    assert float(boxes.iou(a, b, legacy=True)[0, 0]) == pytest.approx(25 / 175)


@pytest.mark.parametrize("legacy", [False, True])
def test_iou_equals_a_loop(legacy):
    box = np.concatenate([random_boxes(20), DEGENERATE])
    got = boxes.iou(jnp.asarray(box), jnp.asarray(box), legacy)
    assert_rounded(got, naive_iou(box, box, float(legacy)), operations=16, scale=1)


def test_iou_without_boxes():
    assert boxes.iou(jnp.zeros((0, 4)), jnp.zeros((3, 4))).shape == (0, 3)


def test_coding_by_hand():
    anchor, target = jnp.array([0.0, 0, 9, 9]), jnp.array([2.0, 2, 11, 11])
    assert_rounded(boxes.encode(anchor, target, (10, 10, 5, 5), legacy=True), [2, 2, 0, 0], operations=16)
    wide = jnp.array([0.0, 0, 20, 10])
    got = boxes.encode(jnp.array([0.0, 0, 10, 10]), wide, (1, 1, 1, 2))
    assert_rounded(got, [0.5, 0, np.log(2), 0], operations=16, scale=1)


def naive_encode(anchor, target, weights, plus):
    """One pair of boxes, in float64."""
    (ax1, ay1, ax2, ay2), (tx1, ty1, tx2, ty2) = anchor, target
    aw, ah, tw, th = (max(side + plus, 1e-6) for side in (ax2 - ax1, ay2 - ay1, tx2 - tx1, ty2 - ty1))
    shift = (((tx1 + tx2) - (ax1 + ax2)) / 2 / aw, ((ty1 + ty2) - (ay1 + ay2)) / 2 / ah)
    return [w * x for w, x in zip(weights, (*shift, np.log(tw / aw), np.log(th / ah)), strict=True)]


def naive_decode(anchor, delta, weights, plus):
    """One box: mmdetection 1.x's delta2bbox where plus is 1, detectron2's Box2BoxTransform where it is 0."""
    (x1, y1, x2, y2), (dx, dy, dw, dh) = anchor, (d / w for d, w in zip(delta, weights, strict=True))
    w, h, most = x2 - x1 + plus, y2 - y1 + plus, np.log(1000 / 16)
    least = -most if plus else -np.inf
    cx, cy = ((x1 + x2) / 2, (y1 + y2) / 2) if plus else (x1 + w / 2, y1 + h / 2)
    cx, cy = cx + dx * w, cy + dy * h
    w, h = w * np.exp(np.clip(dw, least, most)), h * np.exp(np.clip(dh, least, most))
    return [cx - w / 2 + plus / 2, cy - h / 2 + plus / 2, cx + w / 2 - plus / 2, cy + h / 2 - plus / 2]


@pytest.mark.parametrize("legacy", [False, True])
def test_coding_equals_a_loop(legacy):
    """Random boxes, and degenerate ones, which give finite numbers."""
    weights = (10.0, 10.0, 5.0, 5.0)
    anchor = np.concatenate([random_boxes(20, 3), DEGENERATE])
    target = np.concatenate([random_boxes(20, 4), DEGENERATE[::-1]])
    delta = np.asarray(boxes.encode(jnp.asarray(anchor), jnp.asarray(target), weights, legacy))
    pairs = zip(anchor.astype(np.float64), target.astype(np.float64), strict=True)
    expected = np.array([naive_encode(a, t, weights, float(legacy)) for a, t in pairs])
    assert np.isfinite(delta).all()
    # corners of up to 100 px, their sides relative to the anchor's, which may be small
    side = np.maximum(anchor[:, 2:] - anchor[:, :2] + legacy, 1e-6)
    bound = rounding(16, 100) * 10 / np.minimum(side.min(axis=1), 1)[:, None]
    bound = bound + rounding(8, np.abs(expected))
    assert (np.abs(delta - expected) <= bound).all()

    delta = np.random.default_rng(5).normal(0, 8, anchor.shape).astype(np.float32)
    got = np.asarray(boxes.decode(jnp.asarray(anchor), jnp.asarray(delta), weights, legacy))
    pairs = zip(anchor.astype(np.float64), delta.astype(np.float64), strict=True)
    expected = np.array([naive_decode(a, d, weights, float(legacy)) for a, d in pairs])
    bound = rounding(32, np.maximum(np.abs(expected).max(axis=1, keepdims=True), 100))
    assert (np.abs(got - expected) <= bound).all()


@pytest.mark.parametrize("legacy", [False, True])
def test_decoding_inverts_encoding(legacy):
    anchor, target = random_boxes(30, 1), random_boxes(30, 2)
    anchor[:, 2:] += 1
    target[:, 2:] += 1
    weights = (10.0, 10.0, 5.0, 5.0)
    delta = boxes.encode(jnp.asarray(anchor), jnp.asarray(target), weights, legacy)
    # shifts and sides of up to 70 px, by way of exp and log
    assert_rounded(boxes.decode(anchor, delta, weights, legacy), target, operations=64, scale=100)


def test_log_scales_are_cut_off():
    anchor = jnp.array([0.0, 0, 16, 16])
    got = boxes.decode(anchor, jnp.array([0.0, 0, 9, 9]))
    assert_rounded(got, [-492, -492, 508, 508], operations=32, scale=1000)
    shrunk = boxes.decode(jnp.array([0.0, 0, 999, 999]), jnp.array([0.0, 0, -9, -9]), legacy=True)
    assert_rounded(boxes.sides(shrunk, legacy=True), [16, 16], operations=32, scale=500)


def test_padding_encodes_to_finite_deltas():
    assert np.isfinite(boxes.encode(jnp.zeros(4), jnp.zeros(4), legacy=False)).all()


def test_clipping():
    box = jnp.array([[-5.0, 3, 50, 99]])
    np.testing.assert_array_equal(boxes.clip(box, (20, 30)), [[0, 3, 30, 20]])
    np.testing.assert_array_equal(boxes.clip(box, (20, 30), legacy=True), [[0, 3, 29, 19]])


def test_nonempty():
    box = np.concatenate([DEGENERATE, [[0, 0, np.nan, 5]]]).astype(np.float32)
    assert boxes.nonempty(jnp.asarray(box)).tolist() == [False] * 3 + [True] * 4 + [False]
    assert bool(boxes.nonempty(jnp.zeros(4), legacy=True))
