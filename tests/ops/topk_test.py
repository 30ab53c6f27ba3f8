"""Exact ranking against a stable sort: ties, tiles, shapes; and on 8 devices in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

from fashionjax.ops import topk

RANDOM = np.random.default_rng(0)
# Small integers: products are exact, so ties are plenty and every order is decided by the index.
GALLERY = RANDOM.integers(-2, 3, size=(700, 3)).astype(np.float32)
QUERY = RANDOM.integers(-2, 3, size=(137, 3)).astype(np.float32)
ORDER = np.argsort(-(QUERY @ GALLERY.T), axis=1, kind="stable")


@pytest.mark.parametrize("tile,ks", [(16384, (1, 20, 700)), (112, (20, 150))])
def test_equals_a_stable_sort(tile, ks):
    arranged = topk.arrange(GALLERY, tile=tile)
    for k in ks:
        score, index = topk.topk(arranged, QUERY, k, query_tile=64)
        np.testing.assert_array_equal(index, ORDER[:, :k])
        np.testing.assert_array_equal(score, np.take_along_axis(QUERY @ GALLERY.T, index, axis=1))


def test_bias_and_a_single_query():
    bias = RANDOM.integers(-3, 4, 700).astype(np.float32)
    _, index = topk.topk(topk.arrange(GALLERY, bias), QUERY[:1], 9)
    np.testing.assert_array_equal(index[0], np.argsort(-(QUERY[0] @ GALLERY.T + bias), kind="stable")[:9])
    assert topk.topk(topk.arrange(GALLERY), QUERY[:0], 2)[1].shape == (0, 2)
    with pytest.raises(ValueError, match="k = 701 of a gallery of 700"):
        topk.topk(topk.arrange(GALLERY), QUERY, 701)


def test_all_negative_scores_and_a_gallery_of_one():
    rows = -np.abs(RANDOM.normal(size=(33, 4))).astype(np.float32)
    _, index = topk.topk(topk.arrange(rows), np.ones((1, 4), np.float32), 33)
    np.testing.assert_array_equal(index[0], np.argsort(-rows.sum(1), kind="stable"))
    assert topk.topk(topk.arrange(rows[:1]), np.ones((2, 4), np.float32), 1)[1].tolist() == [[0], [0]]


def test_equal_rows_have_equal_scores_wherever_they_lie():
    """Real-valued duplicates: a row's score may not depend on its place in the product."""
    rows = RANDOM.normal(size=(1003, 300)).astype(np.float32)
    copies = np.unique(RANDOM.integers(0, 1003, 120))
    rows[copies] = rows[copies[0]]
    query = RANDOM.normal(size=(100, 300)).astype(np.float32)
    for tile, queries in ((16384, 100), (304, 3)):
        score, index = topk.topk(topk.arrange(rows, tile=tile), query[:queries], 1003)
        copied = np.isin(index, copies)
        np.testing.assert_array_equal(index[copied].reshape(queries, -1), np.tile(copies, (queries, 1)))
        assert not np.ptp(score[copied].reshape(queries, -1), axis=1).any()


@pytest.mark.parametrize("tile", [16384, 112])
def test_ranks_equal_a_stable_sort(tile):
    relevant = [RANDOM.choice(700, size=n, replace=False) for n in RANDOM.integers(0, 9, 137)]
    ranks = topk.relevant_ranks(topk.arrange(GALLERY, tile=tile), QUERY, relevant, query_tile=64)
    for row, (mine, order) in enumerate(zip(ranks, ORDER, strict=True)):
        np.testing.assert_array_equal(mine, np.flatnonzero(np.isin(order, relevant[row])) + 1)


EIGHT = """
import jax, numpy as np
from fashionjax.ops import topk
assert jax.device_count() == 8
random = np.random.default_rng(0)
gallery = random.integers(-2, 3, size=(700, 3)).astype(np.float32)
query = random.integers(-2, 3, size=(137, 3)).astype(np.float32)
order = np.argsort(-(query @ gallery.T), axis=1, kind="stable")
for tile in (16384, 48):
    arranged = topk.arrange(gallery, tile=tile)
    assert len(arranged.rows.addressable_shards) == 8
    assert arranged.rows.addressable_shards[0].data.shape[0] == 1
    for k in (20, 650):
        np.testing.assert_array_equal(topk.topk(arranged, query, k, query_tile=64)[1], order[:, :k])
    relevant = [random.choice(700, size=n, replace=False) for n in random.integers(0, 9, 137)]
    for mine, row, rows in zip(topk.relevant_ranks(arranged, query, relevant), order, relevant):
        np.testing.assert_array_equal(mine, np.flatnonzero(np.isin(row, rows)) + 1)
few = gallery[:5]  # fewer rows than devices
order = np.argsort(-(query @ few.T), axis=1, kind="stable")
np.testing.assert_array_equal(topk.topk(topk.arrange(few), query, 5)[1], order)
print("equal")
"""


@pytest.mark.slow
def test_eight_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", EIGHT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
