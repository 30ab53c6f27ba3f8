"""What no learning, and a linear model on pixels, reach on the same split under the same metric names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from PIL import Image

from fashionjax.errors import UserError
from fashionjax.metrics import classification, landmarks

SIDE = 24  # pixels of the pictures that the linear model sees
TRAIN_CAP = 6000  # training examples that are used at most
LABELS = ("category", "attribute", "landmark", "visibility")
BINS = 8  # per channel of the colour histogram
STRENGTHS = 10.0 ** np.arange(-5, 3)  # λ relative to the mean eigenvalue of the Gram matrix

DEFINITIONS = {
    "majority": "the most frequent training category for every image; each attribute's training prevalence "
    "as its score",
    "linear_pixels": f"ridge regression on {SIDE}×{SIDE} RGB pixels, at most {TRAIN_CAP:,} training images, "
    "strength chosen on a fifth of them",
    "mean_landmark": "the mean position of each slot's visible training landmarks",
    "colour_histogram": f"cosine of the square roots of {BINS}×{BINS}×{BINS} RGB histograms of the pictures "
    "that the model is given (outfits: their Euclidean distance, which orders alike)",
    "untrained": "Euclidean distance of the same network's embeddings before training",
}


def gather(examples: Iterable[Mapping], cap: int | None = None) -> dict[str, np.ndarray]:
    """Preprocessed examples (image uint8 [h w 3] and labels) → arrays [n …], pictures shrunk as they come.

    Memory is about 2 kB an example. `cap` stops the iteration; give examples in random order with it.
    """
    columns: dict[str, list] = {}
    for count, example in enumerate(examples):
        if cap is not None and count >= cap:
            break
        columns.setdefault("image", []).append(shrink(example["image"]))
        for name in LABELS:
            if name in example:
                columns.setdefault(name, []).append(np.asarray(example[name]))
    return {name: np.stack(values) for name, values in columns.items()}


def spread(total: int, cap: int = TRAIN_CAP) -> np.ndarray:
    """At most `cap` record indices, evenly spread over `total`: int64 [n]."""
    return np.unique(np.linspace(0, total - 1, min(total, cap)).round().astype(np.int64))


def shrink(image: np.ndarray) -> np.ndarray:
    """image uint8 [h w 3] → uint8 [SIDE SIDE 3], each pixel the mean of its area."""
    if image.shape[:2] == (SIDE, SIDE):
        return np.asarray(image)
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def baselines(train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Arrays of two splits → {baseline: {metric: value, "train_examples": n}}.

    Goes by the labels that both have: category [n] int, attribute [n a] 0/1, landmark [n k 2] with visibility
    [n k] (1 = visible); image uint8 [n h w 3] for `linear_pixels`. Training arrays beyond TRAIN_CAP are
    thinned evenly.
    """
    count = min(len(value) for value in train.values()) if train else 0
    if not count or not test or not min(len(value) for value in test.values()):
        raise UserError("baselines need examples of a training and a test split; one of them is empty")
    chosen = spread(count)
    train = {name: np.asarray(value)[chosen] for name, value in train.items()}
    found = {
        "majority": _majority(train, test),
        "linear_pixels": _linear_pixels(train, test),
        "mean_landmark": _mean_landmark(train, test),
    }
    return {name: values | {"train_examples": len(chosen)} for name, values in found.items() if values}


def colour_histograms(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 [h w 3] each → [n BINS³] float32, square roots of the shares, so that cosine is their overlap."""
    rows = []
    for picture in pictures:
        levels = picture.reshape(-1, 3).astype(np.int64) * BINS // 256
        code = (levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]
        rows.append(np.sqrt(np.bincount(code, minlength=BINS**3) / len(code)).astype(np.float32))
    return np.stack(rows)


def _majority(train: Mapping, test: Mapping) -> dict[str, float]:
    result = {}
    if "category" in train and "category" in test:
        counts = np.bincount(train["category"], minlength=_classes(train, test))
        score = np.broadcast_to(counts.astype(np.float64), (len(test["category"]), len(counts)))
        result |= _category(score, test)
    if "attribute" in train and "attribute" in test:
        prevalence = classification.prevalence(train["attribute"])
        result |= _attribute(np.broadcast_to(prevalence, test["attribute"].shape), test)
    return result


def _linear_pixels(train: Mapping, test: Mapping) -> dict[str, float]:
    """Category and attributes share one Gram matrix of the pixels; each chooses its own strength."""
    columns, measures = [], []
    if "category" in train and "category" in test:
        columns.append(np.eye(_classes(train, test))[train["category"]])
        measures.append(_category)
    if "attribute" in train and "attribute" in test:
        columns.append(np.asarray(train["attribute"], np.float64))
        measures.append(_attribute)
    if not columns or "image" not in train or "image" not in test:
        return {}
    x, y = _pixels(train["image"]), np.concatenate(columns, axis=1)
    ends = np.cumsum([column.shape[1] for column in columns])[:-1]
    held_out = np.arange(len(x)) % 5 == 4
    strengths = _best_strengths(x, y, ends, measures, held_out, train)
    result, fit, x_test = {}, ridge(x, y), _pixels(test["image"])
    for part, (measure, strength) in enumerate(zip(measures, strengths, strict=True)):
        result |= measure(np.split(fit(x_test, strength), ends, axis=1)[part], test)
    return result


def _best_strengths(x, y, ends, measures, held_out, train: Mapping) -> list[float]:
    """For each measure the strength that is best on the held-out fifth, fitted on the rest."""
    if not held_out.any():
        return [1e-2] * len(measures)
    fit = ridge(x[~held_out], y[~held_out])
    truth = {name: train[name][held_out] for name in ("category", "attribute") if name in train}
    scores = []
    for strength in STRENGTHS:
        parts = np.split(fit(x[held_out], strength), ends, axis=1)
        values = [measure(part, truth) for measure, part in zip(measures, parts, strict=True)]
        scores.append([next(iter(value.values()), 0.0) for value in values])
    return [float(STRENGTHS[i]) for i in np.argmax(scores, axis=0)]


def ridge(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
    """x [n p], y [n c] → a function (x' [m p], strength) → predictions [m c] float64.

    Minimises ‖y − xw − b‖² + λ‖w‖² with an unpenalised intercept, λ = strength × mean eigenvalue of the
    centred Gram matrix; that matrix is the smaller of [p p] and [n n], and shared by all strengths.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    primal = x.shape[1] <= x.shape[0]
    gram = x.T @ x if primal else x @ x.T
    aim = x.T @ y if primal else y
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)

    def predict(x_new: np.ndarray, strength: float) -> np.ndarray:
        weight = np.linalg.solve(gram + strength * scale * np.eye(len(gram)), aim)
        weight = weight if primal else x.T @ weight
        return (np.asarray(x_new, np.float64) - mean_x) @ weight + mean_y

    return predict


def _mean_landmark(train: Mapping, test: Mapping) -> dict[str, float]:
    if any(name not in split for name in ("landmark", "visibility") for split in (train, test)):
        return {}
    seen = np.asarray(train["visibility"], np.float64) > 0.5
    total = np.where(seen[..., None], train["landmark"], 0.0).sum(0)
    times = seen.sum(0)[:, None]
    mean = np.where(times > 0, total / np.maximum(times, 1), 0.5)  # a slot never seen: the picture's centre
    truth, visible = np.asarray(test["landmark"], np.float64), np.asarray(test["visibility"]) > 0.5
    if not visible.any():
        return {}
    name = "standard/landmark_ne_visible"
    prediction = np.broadcast_to(mean, truth.shape)
    return {name: landmarks.landmark_metrics(prediction, truth, visible)[name]}


def _category(score: np.ndarray, truth: Mapping) -> dict[str, float]:
    name = "standard/category_top1"
    return {name: classification.category_metrics(score, truth["category"])[name]}


def _attribute(score: np.ndarray, truth: Mapping) -> dict[str, float]:
    """Nothing where no attribute has a positive."""
    precision = classification.per_attribute_ap(score, truth["attribute"])
    defined = precision[np.isfinite(precision)]
    return {"standard/attribute_map": float(defined.mean())} if len(defined) else {}


def _classes(train: Mapping, test: Mapping) -> int:
    return int(max(train["category"].max(), test["category"].max())) + 1


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [n h w 3] → float64 [n SIDE·SIDE·3] in [0, 1]."""
    return np.stack([shrink(image) for image in images]).reshape(len(images), -1) / 255.0
