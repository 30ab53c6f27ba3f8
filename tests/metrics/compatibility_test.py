"""Outfit metrics against worked examples and naive counts."""

import numpy as np
import pytest

from fashionjax.metrics import compatibility as c

POINTS = np.asarray([(0, 0), (3, 4), (0, 1), (1, 0), (0, 2), (1, 1)], np.float64)
WEIGHT = np.asarray([0.5, -0.25])


def euclidean(a, b):
    return np.linalg.norm(POINTS[a] - POINTS[b] + 1e-6, axis=1)


def metric(a, b):
    return (WEIGHT * POINTS[a] * POINTS[b]).sum(axis=1)


@pytest.mark.parametrize(
    ("distance", "scores", "auc"),
    [(euclidean, (-2.414213, -0.609475), 0.0), (metric, (1.333333, 1.166667), 1.0)],
)
def test_worked_outfits(distance, scores, auc):
    pairs = c.pairs_within([np.asarray([0, 1, 2]), np.asarray([0, 4, 5])])
    score = 1 - c.mean_distance(distance(pairs.first, pairs.second), pairs.group, 2)
    np.testing.assert_allclose(score, scores, atol=1e-5)
    found = c.auc_metrics(score, np.asarray([1, 0]))
    assert found == {"zoo/compatibility_auc": auc, "standard/compatibility_auc": auc}


@pytest.mark.parametrize(
    ("distance", "sums", "right"),
    [(euclidean, (5.6056, 5.2426, 5.4721), 1.0), (metric, (-2.0, -1.0, 1.5), 0.0)],
)
def test_worked_question(distance, sums, right):
    pairs = c.pairs_across([np.asarray([0, 1])], [np.asarray([4, 2, 3])])
    total = c.summed_distance(distance(pairs.first, pairs.second), pairs.group, 3)
    np.testing.assert_allclose(total, sums, atol=1e-4)
    found = c.fill_in_blank_metrics([-total], [np.asarray([0, 1, 0])])
    assert found == {"zoo/fill_in_blank": 100 * right, "standard/fill_in_blank": right}


def test_worked_ties():
    assert c.roc_auc(np.asarray([0.2, 0.2, 0.5, 0.1]), np.asarray([1, 0, 1, 0])) == 0.875


def test_single_precision_adds_as_upstream():
    """Pair after pair in float32, then 1 - mean: what float64 tells apart may tie."""
    rng = np.random.default_rng(3)
    distance = np.float32(0.3 + 1e-7 * rng.standard_normal(3 * 40))
    group = np.repeat(np.arange(40), 3)
    want = []
    for n in range(40):
        total = np.float32(0)
        for value in distance[group == n]:
            total = total + value
        want.append(np.float32(1) - total / np.float32(3))
    mixed = rng.permutation(40).repeat(3).argsort(kind="stable")  # groups in another order, pairs in theirs
    single = 1 - c.mean_distance(distance[mixed], group[mixed], 40, np.float32)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, np.asarray(want))
    double = 1 - c.mean_distance(distance, group, 40)
    assert len(np.unique(single)) < len(np.unique(double))
    label = rng.integers(0, 2, 40)
    found = c.auc_metrics(double, label, single)
    assert found["zoo/compatibility_auc"] == c.roc_auc(np.asarray(want), label)
    assert found["standard/compatibility_auc"] == c.roc_auc(double, label)


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 9, 60), rng.integers(0, 2, 60)
    good, bad = score[label == 1], score[label == 0]
    want = np.mean([(a > b) + 0.5 * (a == b) for a in good for b in bad])
    assert c.roc_auc(score, label) == pytest.approx(want, abs=1e-12)


def test_curve_encloses_the_area():
    rng = np.random.default_rng(1)
    score, label = rng.integers(0, 9, 60), rng.integers(0, 2, 60)
    x, y = c.roc_curve(score, label)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(c.roc_auc(score, label), abs=1e-12)


def test_ties_share_the_credit_and_zoo_takes_the_first():
    score = [np.asarray([0.0, 0.0, 0.0, 0.0]), np.asarray([1.0, 0.0, 1.0, 0.0])]
    correct = [np.asarray([1, 0, 0, 0]), np.asarray([0, 0, 1, 0])]
    assert c.fill_in_blank_metrics(score, correct) == {
        "zoo/fill_in_blank": 50.0,
        "standard/fill_in_blank": (0.25 + 0.5) / 2,
    }


def test_an_outfit_of_one_item_has_no_score():
    pairs = c.pairs_within([np.asarray([3]), np.asarray([0, 1])])
    score = -c.mean_distance(euclidean(pairs.first, pairs.second), pairs.group, 2)
    assert np.isnan(score[0]) and np.isfinite(score[1])
    assert np.isnan(c.auc_metrics(score, np.asarray([1, 0]))["standard/compatibility_auc"])


def test_no_question():
    assert np.isnan(c.fill_in_blank_metrics([], [])["standard/fill_in_blank"])


def test_table_of_type_pairs():
    distance = np.asarray([0.1, 0.9, 0.2, 0.8, 0.5])
    label, first, second = [1, 0, 1, 0, 1], np.asarray([0, 1, 1, 0, 2]), np.asarray([1, 0, 0, 1, 2])
    rows = c.type_pair_table(distance, label, first, second)
    assert [row["types"] for row in rows] == [(0, 1), (2, 2)]
    assert (rows[0]["n_real"], rows[0]["n_artificial"], rows[0]["auc"]) == (2, 2, 1.0)
    assert rows[0]["mean_real"] == pytest.approx(0.15)
    assert np.isnan(rows[1]["auc"]) and np.isnan(rows[1]["mean_artificial"])
