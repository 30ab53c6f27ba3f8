"""Matching and sampling against a loop over boxes and ground truths, and under padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fashionjax.ops import matching

IOU = np.array([[0.9, 0.1], [0.5, 0.4], [0.2, 0.4], [0.0, 0.0], [0.3, 0.6]], np.float32)
ALL = jnp.ones(2, bool)


def test_thresholds_by_hand():
    got = matching.match(jnp.asarray(IOU), ALL, high=0.7, low=0.3)
    assert got.index.tolist() == [0, 0, 1, 0, 1]
    assert got.label.tolist() == [1, -1, -1, 0, -1]


def test_best_of_a_ground_truth_is_foreground():
    got = matching.match(jnp.asarray(IOU), ALL, high=0.7, low=0.3, low_quality=0.0)
    assert got.label.tolist() == [1, -1, -1, 0, 1]


def test_claiming_and_keeping():
    iou = jnp.array([[0.5, 0.6, 0.6], [0.1, 0.2, 0.6]])
    kept = matching.match(iou, jnp.ones(3, bool), high=0.7, low=0.3, low_quality=0.3)
    assert kept.index.tolist() == [1, 2] and kept.label.tolist() == [1, 1]
    claimed = matching.match(iou, jnp.ones(3, bool), high=0.7, low=0.3, low_quality=0.3, claim=True)
    assert claimed.index.tolist() == [2, 2]  # every ground truth's best is box 0, or tied with it


def test_a_ground_truth_that_nothing_overlaps_makes_no_foreground():
    got = matching.match(jnp.zeros((4, 1)), jnp.ones(1, bool), high=0.5, low=0.5, low_quality=0.0)
    assert got.label.tolist() == [0] * 4


@pytest.mark.parametrize("g", [0, 3])
def test_without_ground_truth_everything_is_background(g):
    got = matching.match(jnp.full((4, g), 0.9), jnp.zeros(g, bool), high=0.5, low=0.5, low_quality=0.0)
    assert got.label.tolist() == [0] * 4


def naive_match(iou, high, low, low_quality):
    index, label = iou.argmax(1), np.full(len(iou), -1)
    for i, row in enumerate(iou):
        if row.max() >= high:
            label[i] = 1
        elif row.max() < low:
            label[i] = 0
    for j in range(iou.shape[1]):
        if low_quality is not None and 0 < iou[:, j].max() >= low_quality:
            label[iou[:, j] == iou[:, j].max()] = 1
    return index, label


@pytest.mark.parametrize("low_quality", [None, 0.0, 0.3])
def test_match_equals_a_loop_and_ignores_padding(low_quality):
    iou = np.random.default_rng(0).integers(0, 9, (40, 6)).astype(np.float32) / 10  # many ties
    index, label = naive_match(iou, 0.7, 0.3, low_quality)
    padded = np.ones((44, 9), np.float32)
    padded[:40, :6] = iou
    got = matching.match(
        jnp.asarray(padded), jnp.arange(9) < 6, high=0.7, low=0.3,
        box_valid=jnp.arange(44) < 40, low_quality=low_quality,
    )  # fmt: skip
    assert got.index[:40].tolist() == index.tolist()
    assert got.label.tolist() == [*label.tolist(), -1, -1, -1, -1]


def draw(label, count, share, seed=0):
    label = jnp.asarray(label)
    priority = matching.priorities(jax.random.key(seed), jnp.arange(len(label)))
    return jax.tree.map(np.asarray, matching.sample(label, priority, count=count, foreground_share=share))


@pytest.mark.parametrize(
    ("foreground", "background", "expected"),
    [(20, 50, (4, 12)), (2, 50, (2, 14)), (0, 50, (0, 16)), (20, 3, (4, 3)), (0, 0, (0, 0)), (3, 0, (3, 0))],
)
def test_sample_counts(foreground, background, expected):
    label = np.array([1] * foreground + [0] * background + [-1] * 5)
    label = np.random.default_rng(1).permutation(label)
    got = draw(label, 16, 0.25)
    assert (got.foreground.sum(), (got.valid & ~got.foreground).sum()) == expected
    chosen = got.index[got.valid]
    assert len(set(chosen.tolist())) == len(chosen)
    assert (label[got.index[got.foreground]] == 1).all()
    assert (label[got.index[got.valid & ~got.foreground]] == 0).all()
    assert got.foreground.tolist() == sorted(got.foreground.tolist(), reverse=True)


def test_sample_depends_on_the_key_and_not_on_padding():
    label = np.random.default_rng(2).integers(-1, 2, 60)
    one, two = draw(label, 16, 0.5), draw(label, 16, 0.5, seed=1)
    assert one.index.tolist() != two.index.tolist()
    padded = draw(np.concatenate([label, np.full(9, -1)]), 16, 0.5)
    assert one.index.tolist() == padded.index.tolist()


def test_every_box_is_drawn_equally_often():
    label = jnp.array([0] * 10)

    def once(key):
        priority = matching.priorities(key, jnp.arange(10))
        return matching.sample(label, priority, count=5, foreground_share=0.5).index

    counts = np.bincount(np.asarray(jax.vmap(once)(jax.random.split(jax.random.key(3), 1000))).ravel())
    # binomial(1000, 1/2): deviation 16, five of them
    assert np.abs(counts - 500).max() < 80
