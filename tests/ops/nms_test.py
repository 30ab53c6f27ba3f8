"""Non-maximum suppression against the plain greedy loop, both forms, padded and degenerate input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fashionjax.ops import boxes, nms


def naive_nms(box, score, valid, threshold, group, legacy=False):
    iou = np.asarray(boxes.iou(jnp.asarray(box), jnp.asarray(box), legacy))
    keep = np.zeros(len(box), bool)
    for i in np.argsort(-score, kind="stable"):
        rivals = [j for j in np.flatnonzero(keep) if group[j] == group[i] and iou[j, i] > threshold]
        keep[i] = valid[i] and not rivals
    return keep


def draw(n, seed):
    rng = np.random.default_rng(seed)
    box = rng.uniform(0, 40, (n, 4)).astype(np.float32)
    box[:, 2:] = box[:, :2] + rng.uniform(-1, 25, (n, 2))
    box[5] = box[6] = box[7]  # identical
    box[8, 2:] = box[8, :2]  # no area
    score = rng.integers(0, 30, n).astype(np.float32) / 30  # ties
    return box, score, rng.random(n) < 0.9, rng.integers(0, 3, n)


@pytest.mark.parametrize("method", ["loop", "rounds"])
@pytest.mark.parametrize("legacy", [False, True])
def test_nms_equals_the_greedy_loop(method, legacy):
    run = jax.jit(jax.vmap(partial(nms.nms, threshold=0.4, legacy=legacy, method=method)))
    drawn = [draw(70, seed) for seed in range(3)]
    box, score, valid, group = (np.stack(x) for x in zip(*drawn))
    got = jax.jit(
        jax.vmap(lambda b, s, v, g: nms.nms(b, s, v, threshold=0.4, legacy=legacy, group=g, method=method))
    )(box, score, valid, group)
    alone = run(box, score, valid)
    for i in range(3):
        expected = naive_nms(box[i], score[i], valid[i], 0.4, group[i], legacy)
        assert got[i].tolist() == expected.tolist()
        expected = naive_nms(box[i], score[i], valid[i], 0.4, np.zeros(70), legacy)
        assert alone[i].tolist() == expected.tolist()
        assert 3 < expected.sum() < 60


@pytest.mark.parametrize("method", ["loop", "rounds"])
def test_a_suppressed_box_suppresses_nothing(method):
    box = jnp.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # IoU 6/14 and 2/18
    keep = nms.nms(box, jnp.array([3.0, 2, 1]), jnp.ones(3, bool), threshold=0.4, method=method)
    assert keep.tolist() == [True, False, True]


def test_no_boxes():
    assert nms.nms(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), threshold=0.5).shape == (0,)


def test_unknown_method():
    with pytest.raises(ValueError, match="method"):
        nms.nms(jnp.zeros((1, 4)), jnp.zeros(1), jnp.ones(1, bool), threshold=0.5, method="fast")


def naive_select(box, score, valid, least, threshold, count):
    found = []
    for label in range(score.shape[1]):
        usable = valid & (score[:, label] > least)
        keep = naive_nms(box[:, label], score[:, label], usable, threshold, np.zeros(len(box)))
        found += [(-score[i, label], i, label) for i in np.flatnonzero(keep)]
    return sorted(found)[:count]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_selection_equals_class_wise_nms_and_the_best(shared):
    rng = np.random.default_rng(4)
    each = np.stack([draw(40, seed)[0] for seed in range(5)], axis=1)
    if shared:
        each = np.repeat(each[:, :1], 5, axis=1)
    score = rng.random((40, 5)).astype(np.float32)
    valid = rng.random(40) < 0.9
    for count in (10, 400):
        expected = naive_select(each, score, valid, 0.3, 0.5, count)
        got = jax.jit(partial(nms.select, score_threshold=0.3, threshold=0.5, count=count))(
            each[:, 0] if shared else each, score, valid
        )
        kept = int(got.valid.sum())
        assert kept == len(expected) and bool(got.valid[:kept].all())
        assert [(int(i), int(c)) for i, c in zip(got.index[:kept], got.label[:kept])] == [
            (i, c) for _, i, c in expected
        ]
        for slot, (minus_score, i, c) in enumerate(expected):
            assert float(got.score[slot]) == -minus_score
            assert got.box[slot].tolist() == each[i, c].tolist()
        assert not got.box[kept:].any() and not got.score[kept:].any()


def test_selection_of_nothing():
    got = nms.select(
        jnp.array([[0, 0, jnp.nan, 1]]), jnp.ones((1, 2)), jnp.ones(1, bool), score_threshold=0.5,
        threshold=0.5, count=3,
    )  # fmt: skip
    assert not got.valid.any()
