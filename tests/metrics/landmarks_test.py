"""Landmark metrics: the original's stored figures, examples written out by hand, naive loops."""

from pathlib import Path

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.metrics import landmarks as metrics

GOLDEN = np.load(Path(__file__).parent.parent / "fixtures" / "metrics" / "landmark.npz")
# Two images, three slots; coordinates of unseen points are arbitrary.
TRUE = np.array([[[100, 50], [180, 200], [7, 7]], [[20, 30], [0, 0], [0, 0]]]) / 224
PREDICTED = np.array([[[106, 58], [200, 200], [90, 3]], [[20, 20], [50, 50], [9, 9]]]) / 224
VISIBLE = np.array([[1, 1, 0], [1, 0, 0]])


def golden_slots():
    shape = (45 * 8, 8, 2)
    predicted, true = (
        GOLDEN[name].astype(np.float64).reshape(shape) / 224 for name in ("pred_landmark", "landmark")
    )
    return predicted, true, GOLDEN["vis"].reshape(360, 8)


def test_goldens_per_batch():
    error, detected = metrics.zoo_slots(*golden_slots())
    np.testing.assert_allclose(error.reshape(45, 64).mean(1), GOLDEN["norm_error_per_batch"], rtol=1e-9)
    np.testing.assert_allclose(
        100 * detected.reshape(45, 64).mean(1), GOLDEN["det_percent_per_batch"], rtol=1e-9
    )
    visibility = [
        metrics.zoo_visibility_accuracy(p, v) for p, v in zip(GOLDEN["pred_vis"], GOLDEN["vis"], strict=True)
    ]
    np.testing.assert_allclose(visibility, GOLDEN["vis_accuracy_per_batch"], rtol=1e-9)


def test_goldens_of_the_split():
    slots = golden_slots()
    reported = metrics.landmark_metrics(*slots, zoo_batch_size=8, zoo_every=metrics.ZOO_EVERY)
    everything = metrics.landmark_metrics(*slots)
    assert reported["zoo/landmark_ne"] == pytest.approx(float(GOLDEN["reported_norm_error"]), rel=1e-9)
    assert reported["zoo/landmark_detected"] == pytest.approx(float(GOLDEN["reported_det_percent"]), rel=1e-9)
    assert everything["zoo/landmark_ne"] == pytest.approx(float(GOLDEN["all_batches_norm_error"]), rel=1e-9)
    assert everything["zoo/landmark_detected"] == pytest.approx(
        float(GOLDEN["all_batches_det_percent"]), rel=1e-9
    )


def test_written_out():
    values = metrics.landmark_metrics(PREDICTED, TRUE, VISIBLE, np.array([[0.9, 0.1, 0.9], [0.6, 0.4, 0.2]]))
    assert values["zoo/landmark_ne"] == pytest.approx(0.0297619, abs=5e-8)
    assert values["zoo/landmark_detected"] == pytest.approx(83.333, abs=5e-4)
    assert values["standard/landmark_ne_visible"] == pytest.approx(0.0595238, abs=5e-8)
    assert values["standard/landmark_detected_visible"] == pytest.approx(0.66667, abs=5e-6)
    assert values["zoo/visibility_accuracy"] == pytest.approx(100 * 2 / 6)
    assert values["standard/visibility_accuracy"] == pytest.approx(4 / 6)
    np.testing.assert_allclose(
        metrics.per_slot_error(PREDICTED, TRUE, VISIBLE), [10 / 224, 20 / 224, np.nan], atol=1e-12
    )
    thresholds = np.array([9.9, 10, 19.9, 20, 30]) / 224
    curve = metrics.pck_curve(PREDICTED, TRUE, VISIBLE, thresholds)
    np.testing.assert_allclose(curve, [0, 2 / 3, 2 / 3, 1, 1])


def test_every_twentieth_batch():
    value = np.full((24 * 5, 4), 7.0)
    value[:5], value[100:105] = 0.1, 0.3
    assert metrics.zoo_mean(value, 5, 20) == pytest.approx(0.2)
    # A short last batch weighs as much as a full one.
    assert metrics.zoo_mean(np.array([[1.0], [1], [4]]), 2, 1) == 2.5
    assert metrics.zoo_mean(np.array([[1.0], [1], [4]])) == 2.0


def test_equals_naive_loop():
    random = np.random.default_rng(0)
    predicted, true = random.uniform(size=(2, 30, 8, 2))
    visible = random.integers(0, 2, size=(30, 8))
    errors = [np.hypot(*(predicted[n, k] - true[n, k])) for n in range(30) for k in range(8) if visible[n, k]]
    values = metrics.landmark_metrics(predicted, true, visible)
    assert values["standard/landmark_ne_visible"] == pytest.approx(np.mean(errors))
    assert values["standard/landmark_detected_visible"] == pytest.approx(
        np.mean(np.array(errors) * 224 <= 10)
    )
    share = 1 - visible.mean()
    assert values["zoo/landmark_ne"] == pytest.approx((1 - share) * np.mean(errors))


def test_unusable_input_is_named():
    with pytest.raises(UserError, match="no example of this split has a visible landmark"):
        metrics.landmark_metrics(PREDICTED, TRUE, np.zeros((2, 3)))
    with pytest.raises(UserError, match="no example of this split has a visible landmark"):
        metrics.pck_curve(PREDICTED, TRUE, np.zeros((2, 3)), [0.1])
    with pytest.raises(UserError, match=r"expected \[n k 2\]"):
        metrics.landmark_metrics(PREDICTED, TRUE[:, :2], VISIBLE)
    with pytest.raises(UserError, match="example 1 are not finite"):
        metrics.landmark_metrics(np.where(np.arange(2)[:, None, None] == 1, np.nan, PREDICTED), TRUE, VISIBLE)


def test_every_metric_is_defined():
    assert set(metrics.landmark_metrics(PREDICTED, TRUE, VISIBLE, VISIBLE)) == set(
        metrics.POINT_DEFINITIONS | metrics.VISIBILITY_DEFINITIONS
    )
