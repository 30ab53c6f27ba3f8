"""Attribute and category metrics over a whole split, numpy, float64.

`zoo/*` repeat MMFashion's evaluators (core/evaluation/attr_predict_eval.py, cate_predict_eval.py) and are
percentages; `standard/*` are the field's definitions as fractions. Of equal scores the one with the lower
index ranks first.
"""

from typing import NamedTuple

import numpy as np

from fashionjax.errors import UserError

BEST_CLASSES = 50  # MMFashion averages over its 50 best attributes only (quirk S12)

ATTRIBUTE_DEFINITIONS = {
    "zoo/attribute_recall@k": (
        "sum of the 50 largest per-attribute recalls among the k highest scores of an image, over min(50, "
        "attributes with a positive), in percent"
    ),
    "zoo/attribute_precision@k": (
        "as zoo/attribute_recall@k with tp / predicted, over attributes that were predicted"
    ),
    "zoo/attribute_accuracy@k": (
        "mean over attributes of (tp + tn) / images when the k highest scores of an image count as "
        "predicted, in percent"
    ),
    "standard/attribute_map": "mean over attributes with a positive of the average precision over the split",
    "standard/attribute_prevalence": (
        "mean over the same attributes of the share of positives: the expected average precision of a "
        "random ranking"
    ),
    "standard/attribute_macro_recall@k": (
        "mean over all attributes with a positive of the recall among the k highest scores of an image"
    ),
    "standard/attribute_micro_recall@k": (
        "share of all positive labels found among the k highest scores of their image"
    ),
    "standard/attribute_f1": "mean over attributes with a positive of F1 at probability 0.5",
}
CATEGORY_DEFINITIONS = {
    "zoo/category_recall@k": (
        "mean over the categories that occur of the share of their images with the category among the k "
        "highest scores, in percent"
    ),
    "standard/category_top1": "share of images whose highest-scoring category is the true one",
    "standard/category_top3": "share of images whose true category is among the 3 highest scores",
    "standard/category_top5": "share of images whose true category is among the 5 highest scores",
    "standard/category_macro_recall@k": (
        "mean over the categories that occur of the share of their images with the category among the k "
        "highest scores"
    ),
}


TOPS = (1, 3, 5)
SHARES = tuple(f"standard/category_top{k}" for k in (1, 3, 5))  # metrics that are shares of the images


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent examples (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


class Counts(NamedTuple):
    """Per class, over all images, with the k highest scores of an image as predictions: int64 [a] each."""

    tp: np.ndarray
    fn: np.ndarray
    fp: np.ndarray
    tn: np.ndarray


def _checked(score, target, what):
    score, target = np.asarray(score), np.asarray(target)
    if score.ndim != 2 or len(score) == 0:
        raise UserError(f"{what} scores have shape {score.shape}; a metric needs [n classes] with n > 0")
    if len(target) != len(score):
        raise UserError(f"{what}: {len(score)} rows of scores but {len(target)} of truth")
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score).all(axis=1))[0])
        raise UserError(f"{what} scores of example {row} are not finite; the model has diverged")
    return score, target


def top_indices(score, k: int) -> np.ndarray:
    """score [n a] -> the k best classes per row [n min(k, a)], best first; lower index first among equals."""
    order = [
        np.argsort(-rows, axis=1, kind="stable")[:, :k].copy()  # a view would keep all columns
        for rows in np.array_split(score, max(1, len(score) // 2048))
    ]
    return np.concatenate(order)


def topk_counts(score, target, k: int, top=None) -> Counts:
    """score [n a], target [n a] of 0/1 -> Counts. `top` may hold `top_indices` of at least k columns."""
    score, target = _checked(score, target, "attribute")
    positive = target == 1
    top = top_indices(score, k) if top is None else top[:, :k]
    predicted = np.zeros(score.shape, bool)
    np.put_along_axis(predicted, top, True, axis=1)
    tp = (predicted & positive).sum(axis=0)
    fn = positive.sum(axis=0) - tp
    fp = predicted.sum(axis=0) - tp
    return Counts(tp, fn, fp, len(score) - tp - fn - fp)


def category_counts(score, label, k: int, top=None) -> tuple[np.ndarray, np.ndarray]:
    """score [n c], label [n] int -> (tp [c], fn [c]): images of a class with the class among the k best /
    not.
    """
    score, label = _checked(score, label, "category")
    top = top_indices(score, k) if top is None else top[:, :k]
    found = (top == label[:, None]).any(axis=1)
    classes = score.shape[1]
    return np.bincount(label[found], minlength=classes), np.bincount(label[~found], minlength=classes)


def _share(part, whole):
    """part / whole elementwise, 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _best_mean(part, whole, best):
    """Sum of the `best` largest shares over min(best, number of non-empty classes)."""
    occupied = int((whole > 0).sum())
    return float(np.sort(_share(part, whole))[::-1][:best].sum() / min(best, occupied)) if occupied else 0.0


def zoo_attribute_recall(counts: Counts, best: int = BEST_CLASSES) -> float:
    """Percent; only the `best` highest per-attribute recalls enter."""
    return 100 * _best_mean(counts.tp, counts.tp + counts.fn, best)


def zoo_attribute_precision(counts: Counts, best: int = BEST_CLASSES) -> float:
    """Percent; the same rule with the number of predictions in place of the number of positives."""
    return 100 * _best_mean(counts.tp, counts.tp + counts.fp, best)


def zoo_attribute_accuracy(counts: Counts) -> float:
    """Percent of right decisions, mean over attributes; true negatives dominate it."""
    return float(100 * np.mean((counts.tp + counts.tn) / (counts.tp + counts.fn + counts.fp + counts.tn)))


def macro_recall(tp, fn) -> float:
    """Fraction: mean of tp / (tp + fn) over the classes that occur."""
    return _best_mean(tp, tp + fn, len(tp))


def average_precision(score, positive) -> float:
    """score [n], positive [n] bool with at least one set -> sum over thresholds of (R_i - R_{i-1}) P_i.

    Equal scores form one threshold, so the result does not depend on the order of ties (sklearn's
    definition).
    """
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    last_of_equals = np.append(score[1:] != score[:-1], True)
    tp = np.cumsum(positive)[last_of_equals]
    precision = tp / (np.flatnonzero(last_of_equals) + 1)
    return float(np.sum(np.diff(tp, prepend=0) * precision) / tp[-1])


def per_attribute_ap(score, target) -> np.ndarray:
    """score [n a], target [n a] of 0/1 -> [a] float64, NaN for attributes without a positive."""
    score, target = _checked(score, target, "attribute")
    result = np.full(score.shape[1], np.nan)
    for a in np.flatnonzero((target == 1).any(axis=0)):
        result[a] = average_precision(score[:, a], target[:, a] == 1)
    return result


def prevalence(target) -> np.ndarray:
    """target [n a] of 0/1 -> share of positives per attribute [a]."""
    return np.mean(np.asarray(target) == 1, axis=0, dtype=np.float64)


def per_attribute_f1(score, target, threshold: float = 0.0) -> np.ndarray:
    """score [n a], target [n a] of 0/1 -> F1 [a] at score > threshold (0 for logits), NaN without a
    positive.
    """
    score, target = _checked(score, target, "attribute")
    predicted, positive = score > threshold, target == 1
    tp, total = (predicted & positive).sum(axis=0), predicted.sum(axis=0) + positive.sum(axis=0)
    return np.where(positive.any(axis=0), 2 * tp / np.maximum(total, 1), np.nan)


def confusion_matrix(score, label) -> np.ndarray:
    """score [n c], label [n] -> counts [c c] int64, row = true category, column = predicted."""
    score, label = _checked(score, label, "category")
    classes = score.shape[1]
    predicted = top_indices(score, 1)[:, 0]
    return np.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes)


def attribute_metrics(score, target, ks=(3, 5, 10), threshold: float = 0.0) -> dict[str, float]:
    """score [n a] (logits; threshold is 0.5 in probability), target [n a] of 0/1 -> every attribute metric.

    A split without any positive label has no average precision: UserError.
    """
    score, target = _checked(score, target, "attribute")
    occurs = (target == 1).any(axis=0)
    if not occurs.any():
        raise UserError(
            "no example of this split has a positive attribute; attribute metrics are not defined"
        )
    top = top_indices(score, max(ks))
    result = {
        "standard/attribute_map": float(np.nanmean(per_attribute_ap(score, target))),
        "standard/attribute_prevalence": float(prevalence(target)[occurs].mean()),
        "standard/attribute_f1": float(np.nanmean(per_attribute_f1(score, target, threshold))),
    }
    for k in ks:
        counts = topk_counts(score, target, k, top)
        result |= {
            f"zoo/attribute_recall@{k}": zoo_attribute_recall(counts),
            f"zoo/attribute_precision@{k}": zoo_attribute_precision(counts),
            f"zoo/attribute_accuracy@{k}": zoo_attribute_accuracy(counts),
            f"standard/attribute_macro_recall@{k}": macro_recall(counts.tp, counts.fn),
            f"standard/attribute_micro_recall@{k}": float(counts.tp.sum() / (counts.tp + counts.fn).sum()),
        }
    return result


def category_rows(score, label, k: int = 5) -> dict[str, np.ndarray]:
    """score [n c], label [n] int -> what category metrics need of each example: category i32, the true one;
    category_predicted i32; category_place i32, the place of the true one among the k highest scores, k where
    it is not there; category_probability f64, the softmax of the predicted one, NaN where a score is not
    finite.
    """
    score, label = np.asarray(score, np.float64), np.asarray(label, np.int32)
    finite = np.isfinite(score).all(axis=1)
    score = np.where(finite[:, None], score, 0.0)
    top = top_indices(score, k)
    hit = top == label[:, None]
    share = np.exp(score - score.max(axis=1, keepdims=True))
    return {
        "category": label,
        "category_predicted": top[:, 0].astype(np.int32),
        "category_place": np.where(hit.any(axis=1), hit.argmax(axis=1), k).astype(np.int32),
        "category_probability": np.where(finite, share.max(axis=1) / share.sum(axis=1), np.nan),
    }


def category_metrics_of(rows, classes: int, ks=(1, 3, 5)) -> dict[str, float]:
    """`category_rows` of a whole split, of so many classes -> every category metric."""
    label, place, probability = (rows[f"category{part}"] for part in ("", "_place", "_probability"))
    if not np.isfinite(probability).all():
        row = int(np.flatnonzero(~np.isfinite(probability))[0])
        raise UserError(f"category scores of example {row} are not finite; the model has diverged")
    result = {f"standard/category_top{k}": float((place < k).mean()) for k in TOPS}
    for k in ks:
        tp, fn = (np.bincount(label[found], minlength=classes) for found in (place < k, place >= k))
        recall = macro_recall(tp, fn)
        result |= {f"zoo/category_recall@{k}": 100 * recall, f"standard/category_macro_recall@{k}": recall}
    return result


def category_metrics(score, label, ks=(1, 3, 5)) -> dict[str, float]:
    """score [n c], label [n] int -> every category metric."""
    score, label = _checked(score, label, "category")
    return category_metrics_of(category_rows(score, label, max(*ks, 5)), score.shape[1], ks)
