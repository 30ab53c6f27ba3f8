"""Landmark metrics over a whole split, numpy, float64. Coordinates are xy in [0, 1]; the zoo's pixels are
224 times that.

`zoo/*` repeat MMFashion's core/evaluation/landmark_detect_eval.py and apis/test_landmark_detector.py.
"""

import numpy as np

from fashionjax.errors import UserError

FRAME = 224.0
DETECTED_PIXELS = 10.0  # of the 224 frame, inclusive
ZOO_EVERY = 20  # MMFashion's final figure is the mean of batches 0, 20, 40, ... (quirk S11)
# Coordinates pass through float32 on their way here, so "at most 10 pixels" needs this much room.
SLACK = 1e-6

POINT_DEFINITIONS = {
    "zoo/landmark_ne": (
        "mean over all slots of the distance over the image side, invisible and unused slots counting as "
        "error 0"
    ),
    "zoo/landmark_detected": (
        "percent of all slots within 10 pixels of the 224 frame, invisible and unused slots counting as "
        "detected"
    ),
    "standard/landmark_ne_visible": "mean distance over visible points, both axes divided by the image side",
    "standard/landmark_detected_visible": (
        "share of visible points predicted within 10 pixels of the 224 frame"
    ),
}
VISIBILITY_DEFINITIONS = {
    "zoo/visibility_accuracy": (
        "percent of all slots that are visible and predicted visible (true positives only)"
    ),
    "standard/visibility_accuracy": "share of slots whose visibility is predicted rightly at 0.5",
}


def _checked(predicted, true, visibility):
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    visibility = np.asarray(visibility, np.float64)
    if predicted.shape != true.shape or predicted.shape[:-1] != visibility.shape or len(predicted) == 0:
        raise UserError(
            f"landmarks: predicted {predicted.shape}, true {true.shape}, visibility {visibility.shape}; "
            "expected [n k 2], [n k 2], [n k] with n > 0"
        )
    if not np.isfinite(predicted).all():
        row = int(np.flatnonzero(~np.isfinite(predicted).all(axis=(1, 2)))[0])
        raise UserError(f"predicted landmarks of example {row} are not finite; the model has diverged")
    return predicted, true, visibility


def zoo_slots(predicted, true, visibility, frame: float = FRAME) -> tuple[np.ndarray, np.ndarray]:
    """predicted, true [n k 2], visibility [n k] -> (normalised error [n k], detected [n k] bool) by the
    zoo's rule.

    Both points are multiplied by the true visibility first. Pixel coordinates: divide them by 224.
    """
    predicted, true, visibility = _checked(predicted, true, visibility)
    v = visibility[..., None]
    error = np.linalg.norm(v * predicted - v * true, axis=-1)
    return error, error * frame <= DETECTED_PIXELS * (1 + SLACK)


def zoo_mean(value, batch_size: int | None = None, every: int = 1) -> float:
    """value [n k] -> mean of batch means over batches 0, every, 2 * every, ...; each batch weighs the same.

    batch_size None takes the plain mean over everything.
    """
    if batch_size is None:
        return float(np.mean(value))
    batches = range(0, len(value), batch_size * every)
    return float(np.mean([np.mean(value[start : start + batch_size]) for start in batches]))


def zoo_visibility_accuracy(predicted, true) -> float:
    """Probabilities and truth [n k] -> percent of all slots where both are at least 0.5."""
    return float(100 * np.mean((np.asarray(predicted) >= 0.5) & (np.asarray(true) >= 0.5)))


def distances(predicted, true) -> np.ndarray:
    """predicted, true [n k 2] -> Euclidean distance [n k] in units of the image side."""
    return np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(true, np.float64), axis=-1)


def per_slot_error(predicted, true, visibility) -> np.ndarray:
    """Mean distance over the visible points of each slot [k]; NaN for a slot that is never visible."""
    predicted, true, visibility = _checked(predicted, true, visibility)
    seen = visibility > 0.5
    total = np.where(seen, distances(predicted, true), 0).sum(axis=0)
    return np.divide(total, seen.sum(axis=0), out=np.full(seen.shape[1], np.nan), where=seen.any(axis=0))


def pck_curve(predicted, true, visibility, thresholds) -> np.ndarray:
    """Share of visible points within each threshold (image sides) [t]."""
    predicted, true, visibility = _checked(predicted, true, visibility)
    distance = np.sort(distances(predicted, true)[visibility > 0.5])
    if not len(distance):
        raise UserError("no example of this split has a visible landmark; landmark metrics are not defined")
    limit = np.asarray(thresholds, np.float64) * (1 + SLACK)
    return np.searchsorted(distance, limit, side="right") / len(distance)


def landmark_metrics(
    predicted,
    true,
    visibility,
    predicted_visibility=None,
    *,
    zoo_batch_size: int | None = None,
    zoo_every: int = 1,
) -> dict[str, float]:
    """predicted, true [n k 2] in [0, 1], visibility [n k] of 0/1, predicted_visibility [n k] probability ->
    metrics.

    The zoo's own averaging (quirk S11) is zoo_batch_size = its test batch, zoo_every = ZOO_EVERY.
    """
    predicted, true, visibility = _checked(predicted, true, visibility)
    seen = visibility > 0.5
    if not seen.any():
        raise UserError("no example of this split has a visible landmark; landmark metrics are not defined")
    error, detected = zoo_slots(predicted, true, visibility)
    distance = distances(predicted, true)[seen]
    result = {
        "zoo/landmark_ne": zoo_mean(error, zoo_batch_size, zoo_every),
        "zoo/landmark_detected": 100 * zoo_mean(detected, zoo_batch_size, zoo_every),
        "standard/landmark_ne_visible": float(distance.mean()),
        "standard/landmark_detected_visible": float(
            np.mean(distance * FRAME <= DETECTED_PIXELS * (1 + SLACK))
        ),
    }
    if predicted_visibility is not None:
        result["zoo/visibility_accuracy"] = zoo_visibility_accuracy(predicted_visibility, visibility)
        result["standard/visibility_accuracy"] = float(
            np.mean((np.asarray(predicted_visibility) >= 0.5) == seen)
        )
    return result
