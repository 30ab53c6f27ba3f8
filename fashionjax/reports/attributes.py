"""What an evaluation of labelled images shows: categories, attributes and landmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fashionjax.data import photo
from fashionjax.metrics import classification
from fashionjax.metrics.labels import LabelMetrics
from fashionjax.reports import landmarks
from fashionjax.reports.panels import Bars, Confusion, Images, Panel, Table, Tiles
from fashionjax.reports.similar import SimilarPairs


class LabelReport:
    """`metrics` is the LabelMetrics of the same stream, whose rows are shown."""

    def __init__(self, context, metrics: LabelMetrics):
        self.context, self.metrics = context, metrics
        wanted = (context.config or {}).get("similar_pairs")
        self.similar = SimilarPairs(context) if wanted else None

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep, and thumbnails where similar pairs are wanted."""
        if self.similar is not None:
            self.similar.update(batch)

    def panels(self) -> list[Panel]:
        """Every panel that the rows allow."""
        context, rows, panels = self.context, self.metrics.rows.whole(), []
        names = context.config.labels
        if "landmark" in rows:
            image, ids = images_of(context, rows)
            panels += landmarks.landmark_panels(
                image,
                rows["landmark"],
                rows["visibility"],
                rows["predicted_landmark"],
                rows.get("predicted_visibility"),
                caption=_category_caption(rows, names["category"]) if "category" in rows else None,
                ids=ids,
            )
        if "attribute" in rows:
            panels += attribute_panels(rows["attribute_score"], rows["attribute"], list(names["attribute"]))
        if "category" in rows:
            panels += category_panels(context, rows, list(names["category"]))
        if self.similar is not None:
            if "attribute" in rows:
                panels += attribute_mistakes(rows, list(names["attribute"]), *images_of(context, rows))
            panels += self.similar.panels()
        return panels

    def artifacts(self) -> list[Path]:
        """similar_pairs.jsonl, where such pairs are wanted."""
        if self.similar is None or self.context.out is None:
            return []
        return [self.similar.write(self.context.out)]


def images_of(context, rows: Mapping) -> tuple[Images, Sequence[str]]:
    """(row → its image, names of the rows)"""
    index = rows["index"]
    ids = [f"{context.split}[{i}]" for i in index]
    if (context.config or {}).get("similar_pairs"):  # people's own photos: their files
        ids = context.column("image_id")[index].tolist()
    return lambda row: context.image(int(index[row])), ids


def category_panels(context, rows: Mapping, names: Sequence[str]) -> list[Panel]:
    """`classification_panels` of the rows of an evaluation."""
    return classification_panels(rows, names, *images_of(context, rows))


def classification_panels(
    rows: Mapping[str, np.ndarray],
    names: Sequence[str],
    images: Images | None = None,
    ids: Sequence[str] | None = None,
    count: int = 8,
) -> list[Panel]:
    """`classification.category_rows` of a split → confusion matrix, frequent confusions, surest mistakes."""
    code = rows["category"].astype(np.int64) * len(names) + rows["category_predicted"]
    counts = np.bincount(code, minlength=len(names) ** 2).reshape(len(names), len(names))
    panels: list[Panel] = [
        Confusion(
            "Category confusion",
            list(names),
            counts,
            "Row: the true category, column: the predicted one; shade: share of the row.",
        )
    ]
    off = counts - np.diag(np.diag(counts))
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-off, axis=None, kind="stable")[:12]]
    frequent = [
        [names[t], names[p], int(off[t, p]), float(off[t, p] / counts[t].sum())]
        for t, p in pairs
        if off[t, p]
    ]
    if frequent:
        columns = ["true", "predicted as", "examples", "share of the true category"]
        panels.append(Table("Most frequent confusions", columns, frequent))
    panels.append(_per_category(counts, names))
    if images is not None:
        panels += _mistakes(rows, names, images, ids, count)
    return panels


def _per_category(counts: np.ndarray, names: Sequence[str]) -> Table:
    """counts [c c] (row: truth) → examples, recall, precision and F1 of every category, the worst first."""
    true, said, right = counts.sum(1), counts.sum(0), np.diag(counts)
    recall, precision = right / np.maximum(true, 1), right / np.maximum(said, 1)
    f1 = 2 * right / np.maximum(true + said, 1)
    order = sorted(range(len(names)), key=lambda c: (true[c] == 0, f1[c]))
    rows = [
        [
            names[c],
            int(true[c]),
            float(recall[c]) if true[c] else np.nan,
            float(precision[c]) if said[c] else np.nan,
            float(f1[c]) if true[c] else np.nan,
        ]
        for c in order
    ]
    columns = ["category", "examples", "recall", "precision", "F1"]
    return Table("Results per category", columns, rows, "The worst first.")


def attribute_panels(
    attribute_logits: np.ndarray, attribute: np.ndarray, names: Sequence[str]
) -> list[Panel]:
    """attribute_logits [n a], attribute [n a] 0/1 → average precision of each beside its prevalence."""
    precision = classification.per_attribute_ap(attribute_logits, attribute)
    order = np.argsort(-np.nan_to_num(precision, nan=-1), kind="stable")
    prevalence = classification.prevalence(attribute)
    return [
        Bars(
            "Average precision per attribute",
            [names[i] for i in order],
            precision[order].tolist(),
            prevalence[order].tolist(),
            "prevalence: the score of a random ranking",
            "An attribute without a positive example has no average precision.",
            maximum=1.0,
        )
    ]


def attribute_mistakes(
    rows: Mapping, names: Sequence[str], images: Images, ids: Sequence[str], count: int = 8
) -> list[Panel]:
    """The wrong attributes with the highest probability: seen where the label says no, or the reverse."""
    logit, label = np.asarray(rows["attribute_score"], np.float64), rows["attribute"].astype(bool)
    wrong = np.where((logit > 0) != label, np.abs(logit), -1.0)
    tiles = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:count].tolist():
        row, attribute = divmod(place, len(names))
        if wrong[row, attribute] > 0:
            probability = 1 / (1 + np.exp(-logit[row, attribute]))
            said = "not labelled" if not label[row, attribute] else "labelled"
            text = f"{names[attribute]}: {said}, predicted at {probability:.2f} · {ids[row]}"
            tiles.append((photo.display(images(row)), text))
    title, caption = (
        "Attributes: surest mistakes",
        "Attributes whose probability is farthest on the wrong side.",
    )
    return [Tiles(title, caption, tiles)] if tiles else []


def _category_caption(rows: Mapping, names: Sequence[str]) -> Callable[[int], str]:
    def caption(index: int) -> str:
        said, true = (names[int(rows[key][index])] for key in ("category_predicted", "category"))
        return true if said == true else f"{true}, taken for {said}"

    return caption


def _mistakes(rows: Mapping, names, images: Images, ids, count: int) -> list[Panel]:
    """The wrong predictions with the highest probability."""
    true, said, probability = (rows[f"category{part}"] for part in ("", "_predicted", "_probability"))
    sure = np.where(said != true, probability, -1.0)
    tiles = []
    for i in np.argsort(-sure, kind="stable")[:count].tolist():
        if sure[i] >= 0:
            text = f"{names[true[i]]}, taken for {names[said[i]]} ({sure[i]:.2f})"
            tiles.append((photo.display(images(i)), text + (f" · {ids[i]}" if ids else "")))
    title, caption = "Category: surest mistakes", "Wrong predictions with the highest probability."
    return [Tiles(title, caption, tiles)] if tiles else []
