"""What no learning, and a linear model on pixels, reach on the same split under the same metric names."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from PIL import Image

from fashionjax.errors import UserError
from fashionjax.metrics import classification, landmarks
from fashionjax.metrics.collect import Rows

SIDE = 24  # pixels of the images that the linear model sees
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
    "colour_histogram": f"cosine of the square roots of {BINS}×{BINS}×{BINS} RGB histograms of the images "
    "that the model is given (outfits: their Euclidean distance, which orders alike)",
    "untrained": "Euclidean distance of the same network's embeddings before training",
}


def gather(examples: Iterable[Mapping], cap: int | None = None) -> dict[str, np.ndarray]:
    """Preprocessed examples (image uint8 [h w 3] and labels) → arrays [n …], images shrunk as they come.

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


def labelled(task, context) -> dict[str, Fitted]:
    """The baselines of tasks on labelled images, by the labels of the training split; {} without one."""
    try:
        train = gather(context.training(TRAIN_CAP))
    except UserError as error:
        print(f"no baselines: {error}", file=sys.stderr)
        return {}
    return fit(train, context.gather)


def fit(train: Mapping[str, np.ndarray], gather_rows=lambda rows: rows) -> dict[str, Fitted]:
    """Arrays of training examples as `gather` makes them → an accumulator for each baseline that they allow.

    Goes by the labels that training and test examples both have: category [n] int, attribute [n a] 0/1,
    landmark [n k 2] with visibility [n k] (1 = visible); image uint8 [n h w 3] for `linear_pixels`. Beyond
    TRAIN_CAP examples are thinned evenly.
    """
    count = min(len(value) for value in train.values()) if train else 0
    if not count:
        raise UserError("baselines need examples of a training split; it is empty")
    chosen = spread(count)
    train = {name: np.asarray(value)[chosen] for name, value in train.items()}
    fitted = {
        "majority": _majority(train),
        "linear_pixels": _linear_pixels(train),
        "mean_landmark": _mean_landmark(train),
    }
    return {name: Fitted(predict, len(chosen), gather_rows) for name, predict in fitted.items() if predict}


class Fitted:
    """The accumulator of a fitted baseline: `predict` (batch → scores as a model's predictions).

    Its result also has `train_examples`; it is empty where the test examples lack the labels. Kept of an
    example: its attribute scores f64 (none where all are equal), whether its category is right, its
    distances.
    """

    def __init__(
        self, predict: Callable[[Mapping], dict], train_examples: int, gather_rows=lambda rows: rows
    ):
        self.predict, self.train_examples = predict, train_examples
        self.rows, self.constant = Rows(gather_rows), None

    def update(self, prediction: dict, batch: dict) -> None:
        found, kept = self.predict(batch), {}
        if "category_logits" in found and "category" in batch:
            top = classification.top_indices(found["category_logits"], 1)[:, 0]
            kept["right"] = top == batch["category"]
        if "attribute_logits" in found and "attribute" in batch:
            kept["attribute"] = batch["attribute"]
            if found["attribute_logits"].ndim == 1:
                self.constant = found["attribute_logits"]
            else:
                kept["attribute_score"] = found["attribute_logits"]
        if "landmark" in found and "landmark" in batch:
            kept["distance"] = landmarks.distances(found["landmark"], batch["landmark"])
            kept["seen"] = np.asarray(batch["visibility"]) > 0.5
        self.rows.add(batch, kept)

    def result(self) -> dict[str, float]:
        rows, result = self.rows.whole(), {}
        if "right" in rows:
            result["standard/category_top1"] = float(rows["right"].mean())
        if "attribute" in rows:
            result |= self._attribute_map(rows)
        if "distance" in rows and rows["seen"].any():
            result["standard/landmark_ne_visible"] = float(rows["distance"][rows["seen"]].mean())
        return result and result | {"train_examples": self.train_examples}

    def _attribute_map(self, rows: Mapping) -> dict[str, float]:
        """Nothing where no attribute has a positive."""
        target = rows["attribute"]
        score = rows.get("attribute_score")
        score = np.broadcast_to(self.constant, target.shape) if score is None else score
        precision = classification.per_attribute_ap(score, target)
        defined = precision[np.isfinite(precision)]
        return {"standard/attribute_map": float(defined.mean())} if len(defined) else {}


def colours(prediction: Mapping, batch: Mapping) -> dict[str, np.ndarray]:
    """The prediction of `colour_histogram`: embedding f32 [b BINS³]."""
    return {"embedding": colour_histograms(np.asarray(batch["image"]))}


def colour_histograms(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """uint8 [h w 3] each → [n BINS³] float32, square roots of the shares, so that cosine is their overlap."""
    rows = []
    for picture in pictures:
        levels = picture.reshape(-1, 3).astype(np.int64) * BINS // 256
        code = (levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]
        rows.append(np.sqrt(np.bincount(code, minlength=BINS**3) / len(code)).astype(np.float32))
    return np.stack(rows)


def _majority(train: Mapping) -> Callable | None:
    scores = {}
    if "category" in train:
        scores["category_logits"] = np.bincount(train["category"]).astype(np.float64)
    if "attribute" in train:
        scores["attribute_logits"] = classification.prevalence(train["attribute"])

    def predict(batch: Mapping) -> dict:
        counts = scores.get("category_logits")
        if counts is None:
            return scores
        return scores | {
            "category_logits": np.broadcast_to(counts, (len(batch["example_valid"]), len(counts)))
        }

    return predict if scores else None


def _linear_pixels(train: Mapping) -> Callable | None:
    """Category and attributes share one Gram matrix of the pixels; each chooses its own strength."""
    columns, names = [], []
    if "category" in train:
        columns.append(np.eye(int(train["category"].max()) + 1)[train["category"]])
        names.append("category")
    if "attribute" in train:
        columns.append(np.asarray(train["attribute"], np.float64))
        names.append("attribute")
    if not columns or "image" not in train:
        return None
    x, y = _pixels(train["image"]), np.concatenate(columns, axis=1)
    ends = np.cumsum([column.shape[1] for column in columns])[:-1]
    strengths = _best_strengths(x, y, ends, names, np.arange(len(x)) % 5 == 4, train)
    fit = ridge(x, y)

    def predict(batch: Mapping) -> dict:
        pixels = _pixels(batch["image"])
        parts = (np.split(fit(pixels, strength), ends, axis=1) for strength in strengths)
        return {f"{name}_logits": part[i] for i, (name, part) in enumerate(zip(names, parts, strict=True))}

    return predict


def _best_strengths(x, y, ends, names, held_out, train: Mapping) -> list[float]:
    """For each label the strength that is best on the held-out fifth, fitted on the rest."""
    if not held_out.any():
        return [1e-2] * len(names)
    fit = ridge(x[~held_out], y[~held_out])
    truth = {name: train[name][held_out] for name in names} | {"example_valid": held_out[held_out]}
    scores = []
    for strength in STRENGTHS:
        parts = np.split(fit(x[held_out], strength), ends, axis=1)
        scores.append([])
        for name, part in zip(names, parts, strict=True):
            measured = Fitted(lambda batch, key=f"{name}_logits", part=part: {key: part}, len(x))
            measured.update({}, truth)
            scores[-1].append(next(iter(measured.result().values()), 0.0))
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

    @functools.cache
    def weights(strength: float) -> np.ndarray:
        weight = np.linalg.solve(gram + strength * scale * np.eye(len(gram)), aim)
        return weight if primal else x.T @ weight

    def predict(x_new: np.ndarray, strength: float) -> np.ndarray:
        return (np.asarray(x_new, np.float64) - mean_x) @ weights(strength) + mean_y

    return predict


def _mean_landmark(train: Mapping) -> Callable | None:
    if "landmark" not in train or "visibility" not in train:
        return None
    seen = np.asarray(train["visibility"], np.float64) > 0.5
    total = np.where(seen[..., None], train["landmark"], 0.0).sum(0)
    times = seen.sum(0)[:, None]
    mean = np.where(times > 0, total / np.maximum(times, 1), 0.5)  # a slot never seen: the image's centre

    def predict(batch: Mapping) -> dict:
        return {"landmark": np.broadcast_to(mean, np.shape(batch["landmark"]))} if "landmark" in batch else {}

    return predict


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [n h w 3] → float64 [n SIDE·SIDE·3] in [0, 1]."""
    return np.stack([shrink(image) for image in images]).reshape(len(images), -1) / 255.0
