"""Classification metrics: the originals' stored figures, examples written out by hand, naive loops."""

from pathlib import Path

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.metrics import classification as metrics

FIXTURES = Path(__file__).parent.parent / "fixtures" / "metrics"
SCORE = np.array(
    [[0.9, 0.8, 0.1, 0.2, 0.3, 0.05], [0.2, 0.7, 0.6, 0.1, 0.5, 0.05], [0.1, 0.2, 0.3, 0.4, 0.5, 0.05]]
)
TARGET = np.array([[1, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0]])


@pytest.mark.parametrize("name", ["attr_topk_coarse", "attr_topk_fine"])
def test_attribute_goldens(name):
    golden = np.load(FIXTURES / f"{name}.npz")
    values = metrics.attribute_metrics(golden["pred"], golden["target"], tuple(golden["topk"]))
    for k in golden["topk"]:
        counts = metrics.topk_counts(golden["pred"], golden["target"], k)
        for field in ("tp", "fn", "fp", "tn"):
            np.testing.assert_array_equal(getattr(counts, field), golden[f"{field}_top{k}"])
        for quantity in ("recall", "precision", "accuracy"):
            assert values[f"zoo/attribute_{quantity}@{k}"] == pytest.approx(
                float(golden[f"{quantity}_top{k}"]), rel=1e-9
            )


def test_macro_and_micro_recall_of_the_coarse_file():
    golden = np.load(FIXTURES / "attr_topk_coarse.npz")
    values = metrics.attribute_metrics(golden["pred"], golden["target"])
    macro = [100 * values[f"standard/attribute_macro_recall@{k}"] for k in (3, 5, 10)]
    micro = [100 * values[f"standard/attribute_micro_recall@{k}"] for k in (3, 5, 10)]
    np.testing.assert_allclose(macro, [17.737, 27.406, 45.601], atol=5e-4)
    np.testing.assert_allclose(micro, [21.191, 31.034, 49.592], atol=5e-4)


def test_category_goldens():
    golden = np.load(FIXTURES / "cate_topk.npz")
    values = metrics.category_metrics(golden["pred"], golden["target"], tuple(golden["topk"]))
    for k in golden["topk"]:
        tp, fn = metrics.category_counts(golden["pred"], golden["target"], k)
        np.testing.assert_array_equal(tp, golden[f"tp_top{k}"])
        np.testing.assert_array_equal(fn, golden[f"fn_top{k}"])
        assert values[f"zoo/category_recall@{k}"] == pytest.approx(float(golden[f"recall_top{k}"]), rel=1e-9)
    assert (values["standard/category_top1"], values["standard/category_top5"]) == (0.1575, 0.4775)
    for k in (1, 3, 5):
        found = golden[f"tp_top{k}"].sum()
        assert values[f"standard/category_top{k}"] == pytest.approx(found / len(golden["target"]), rel=1e-12)


def test_attributes_written_out():
    counts = metrics.topk_counts(SCORE, TARGET, 1)
    np.testing.assert_array_equal(counts.tp, [1, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(counts.fn, [1, 0, 2, 0, 0, 0])
    np.testing.assert_array_equal(counts.tp + counts.fn + counts.fp + counts.tn, 3)
    values = metrics.attribute_metrics(SCORE, TARGET, ks=(1, 2, 3))
    recall, accuracy, micro = (
        [values[f"{name}@{k}"] for k in (1, 2, 3)]
        for name in ("zoo/attribute_recall", "zoo/attribute_accuracy", "standard/attribute_micro_recall")
    )
    np.testing.assert_allclose(recall, [62.5, 75.0, 75.0], atol=1e-9)
    np.testing.assert_allclose(accuracy, [83.333, 77.778, 61.111], atol=5e-4)
    np.testing.assert_allclose(micro, [0.5, 0.66667, 0.66667], atol=5e-6)
    for k in (1, 2, 3):
        assert metrics.zoo_attribute_recall(metrics.topk_counts(SCORE, TARGET, k), best=2) == 100


def test_categories_written_out():
    score = np.array([[0.9, 0.5, 0.1, 0.2], [0.3, 0.8, 0.7, 0.1], [0.6, 0.3, 0.5, 0.1], [0.2, 0.1, 0.9, 0.3]])
    label = np.array([0, 0, 2, 0])
    values = metrics.category_metrics(score, label, ks=(1, 2))
    assert values["zoo/category_recall@1"] == pytest.approx(100 / 6)
    assert values["zoo/category_recall@2"] == pytest.approx(200 / 3)
    assert values["standard/category_macro_recall@2"] == pytest.approx(2 / 3)
    assert values["standard/category_top1"] == 0.25 and values["standard/category_top5"] == 1.0
    expected = [[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(metrics.confusion_matrix(score, label), expected)


def test_ties_rank_the_lower_index_first():
    np.testing.assert_array_equal(
        metrics.top_indices(np.array([[0.5, 0.7, 0.7, 0.5, 0.5]]), 4), [[1, 2, 0, 3]]
    )
    score = np.random.default_rng(0).integers(0, 4, size=(5000, 12)).astype(np.float32)
    naive = [sorted(range(12), key=lambda a: (-row[a], a))[:5] for row in score]
    np.testing.assert_array_equal(metrics.top_indices(score, 5), naive)


def test_average_precision_written_out():
    positive = np.array([True, False, True, False])
    assert metrics.average_precision(np.array([4.0, 3, 2, 1]), positive) == pytest.approx((1 + 2 / 3) / 2)
    # One threshold holds everything: the precision there is the prevalence, in whatever order the rows come.
    assert metrics.average_precision(np.zeros(4), positive) == 0.5
    # Thresholds 2 (1 of 2 right) and 1 (2 of 4): recall steps of one half each.
    assert metrics.average_precision(np.array([2.0, 2, 1, 1]), positive) == pytest.approx(0.5)


def naive_ap(score, positive):
    """Sum over distinct thresholds of (recall step) x precision, by counting."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        taken = score >= threshold
        tp = (taken & positive).sum()
        total += (tp / positive.sum() - recall) * tp / taken.sum()
        recall = tp / positive.sum()
    return total


def test_attribute_metrics_equal_naive_loops():
    random = np.random.default_rng(1)
    score = random.normal(size=(60, 7)).round(1)
    target = random.integers(0, 3, size=(60, 7)) == 0
    target[:, 3] = False
    ap = metrics.per_attribute_ap(score, target)
    assert np.isnan(ap[3])
    others = [a for a in range(7) if a != 3]
    expected = [naive_ap(score[:, a], target[:, a]) for a in others]
    np.testing.assert_allclose(ap[others], expected, rtol=1e-12)
    values = metrics.attribute_metrics(score, target)
    assert values["standard/attribute_map"] == pytest.approx(np.mean(expected))
    assert values["standard/attribute_prevalence"] == pytest.approx(target[:, others].mean())
    f1 = []
    for a in others:
        predicted = score[:, a] > 0
        precision = (predicted & target[:, a]).sum() / predicted.sum()
        recall = (predicted & target[:, a]).sum() / target[:, a].sum()
        f1.append(2 * precision * recall / (precision + recall))
    assert values["standard/attribute_f1"] == pytest.approx(np.mean(f1))


def test_random_scores_have_the_prevalence_as_map():
    random = np.random.default_rng(2)
    target = random.uniform(size=(20000, 3)) < [0.05, 0.2, 0.5]
    values = metrics.attribute_metrics(random.normal(size=(20000, 3)), target, ks=(1,))
    ratio = values["standard/attribute_map"] / values["standard/attribute_prevalence"]
    assert 0.97 < ratio < 1.06


@pytest.mark.parametrize(
    "score,target,message",
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), "n > 0"),
        (np.zeros((2, 3)), np.zeros((3, 3)), "2 rows of scores but 3 of truth"),
        (np.array([[0.0], [np.nan]]), np.ones((2, 1)), "example 1 are not finite"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "no example of this split has a positive attribute"),
    ],
)
def test_unusable_input_is_named(score, target, message):
    with pytest.raises(UserError, match=message):
        metrics.attribute_metrics(score, target)


def test_every_metric_is_defined():
    values = metrics.attribute_metrics(SCORE, TARGET) | metrics.category_metrics(SCORE, np.array([0, 1, 4]))
    assert {name.split("@")[0] for name in values} == {
        name.split("@")[0] for name in metrics.ATTRIBUTE_DEFINITIONS | metrics.CATEGORY_DEFINITIONS
    }


def test_intervals_of_shares():
    """Wilson's: z²/(n + z²) is the upper end of nothing right; (Newcombe 1998, table I: 81 of 263)."""
    low, high = metrics.share_interval(0.0, 10)
    assert low == 0 and high == pytest.approx(3.8415 / 13.8415, rel=1e-4)
    assert metrics.share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.share_interval(1.0, 10)[1] == pytest.approx(1)
