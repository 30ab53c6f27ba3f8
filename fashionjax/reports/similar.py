"""Pairs of images that look alike: copies, and labels that contradict each other.

For people's own photos (`config.similar_pairs`), where both are common. Images are compared by their pixels
at a low resolution, not by the model, so that what the model has learned to ignore still counts; at most
`baselines.TRAIN_CAP` training images take part beside all evaluated ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fashionjax import files
from fashionjax.data import photo
from fashionjax.metrics.collect import Rows
from fashionjax.reports import baselines, draw
from fashionjax.reports.panels import Panel, Tiles

FILE = "similar_pairs.jsonl"
SIDE = 48  # pixels of the thumbnails that are compared and shown
ALIKE = 0.97  # cosine of two thumbnails without their mean colour, from which they look alike
SHOWN, KEPT = 12, 1000  # pairs on the page and in the file
BLOCK = 512  # rows of the similarity matrix at a time
NAMED = ("category", "attribute", "item_id")  # labels that a pair is compared by


class Pair(NamedTuple):
    """Two rows, their similarity, and whether their labels are equal."""

    one: int
    other: int
    similarity: float
    agree: bool


class SimilarPairs:
    """Collects thumbnails and labels of a stream; the training images join at the end."""

    def __init__(self, context: Any):
        self.context = context
        self.rows = Rows(context.gather)
        self.found: tuple | None = None

    def update(self, batch: Mapping) -> None:
        kept = {name: batch[name] for name in NAMED if name in batch}
        self.rows.add(batch, kept | {"thumbnail": np.stack([thumbnail(image) for image in batch["image"]])})

    def pairs(self) -> tuple[list[Pair], list[str], dict[str, np.ndarray]]:
        """(pairs, most similar first; a name for each row; thumbnails and labels of all rows)."""
        if self.found is None:
            rows = self.rows.whole()
            context, ids = self.context, self.context.column("image_id")
            names = [f"{context.split}: {ids[i]}" for i in rows["index"]]
            table = {name: rows[name] for name in ("thumbnail", *NAMED) if name in rows}
            if context.training_column is not None:
                more = _training(context, tuple(table))
                train_ids = context.training_column("image_id")
                names += [f"{context.config.train_split}: {train_ids[i]}" for i in more.pop("index")]
                table = {name: np.concatenate([table[name], more[name]]) for name in table}
            found = alike(table["thumbnail"], [value for name, value in table.items() if name != "thumbnail"])
            self.found = found, names, table
        return self.found

    def panels(self) -> list[Panel]:
        """Pairs whose labels differ, and pairs whose labels agree."""
        pairs, names, table = self.pairs()
        say = _caption(self.context.config, table)
        differ = [pair for pair in pairs if not pair.agree]
        same = [pair for pair in pairs if pair.agree]
        threshold = f"Cosine of the images at {SIDE} px without their mean colour: {ALIKE} or more."
        if not pairs:
            counted = f"None among {len(names)} images: the evaluated and the training ones."
            return [Tiles("Look alike", f"{counted} {threshold}", [])]
        return [
            *_tiles("Look alike, labelled differently", differ, names, table, say, threshold),
            *_tiles("Look alike: copies or one object", same, names, table, say, threshold),
        ]

    def write(self, out: Path) -> Path:
        """OUT/similar_pairs.jsonl: {"one", "other", "similarity", "labels_agree"}, most similar first."""
        pairs, names, _ = self.pairs()
        lines = (
            json.dumps(
                {
                    "one": names[pair.one],
                    "other": names[pair.other],
                    "similarity": round(pair.similarity, 4),
                    "labels_agree": pair.agree,
                },
                ensure_ascii=False,
            )
            + "\n"
            for pair in pairs[:KEPT]
        )
        files.write_lines(out / FILE, lines)
        return out / FILE


def thumbnail(image: np.ndarray) -> np.ndarray:
    """image uint8 [h w 3] → uint8 [SIDE SIDE 3], each pixel the mean of its area."""
    return np.asarray(Image.fromarray(np.asarray(image)).resize((SIDE, SIDE), Image.Resampling.BOX))


def _training(context: Any, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Thumbnails, labels and record numbers of training examples."""
    columns: dict[str, list] = {name: [] for name in (*keys, "index")}
    for example in context.training(baselines.TRAIN_CAP):
        example = dict(example) | {"thumbnail": thumbnail(example["image"])}
        for name, values in columns.items():
            values.append(np.asarray(example[name]))
    return {name: np.stack(values) for name, values in columns.items()}


def alike(thumbnails: np.ndarray, labels: Sequence[np.ndarray]) -> list[Pair]:
    """thumbnails uint8 [n s s 3], labels [n …] each → the pairs of rows whose cosine is `ALIKE` or more, most
    similar first. An image of one colour is like no other."""
    flat = thumbnails.reshape(len(thumbnails), -1, 3).astype(np.float32)
    flat = (flat - flat.mean(axis=1, keepdims=True)).reshape(len(thumbnails), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(norm > 0, flat / np.maximum(norm, 1e-6), 0.0)
    found = []
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK] @ flat[start:].T
        one, other = np.nonzero(np.triu(block >= ALIKE, 1))
        similarity = np.minimum(block[one, other], 1.0)
        found += zip((one + start).tolist(), (other + start).tolist(), similarity.tolist())
    found.sort(key=lambda pair: -pair[2])
    return [Pair(i, j, s, all(np.array_equal(label[i], label[j]) for label in labels)) for i, j, s in found]


def _caption(config: Any, table: Mapping[str, np.ndarray]) -> Callable[[int], str]:
    """Row → its labels in words."""

    def say(row: int) -> str:
        parts = []
        if "category" in table:
            parts.append(str(config.labels["category"][int(table["category"][row])]))
        if "attribute" in table:
            names = config.labels["attribute"]
            parts.append(
                ", ".join(names[i] for i in np.flatnonzero(table["attribute"][row])) or "no attribute"
            )
        return "; ".join(parts)

    return say


def _tiles(title: str, pairs: Sequence[Pair], names, table, say, caption: str) -> list[Panel]:
    if not pairs:
        return []
    tiles = []
    for one, other, similarity, agree in pairs[:SHOWN]:
        images = [photo.display(table["thumbnail"][row], 160) for row in (one, other)]
        sheet = draw.contact_sheet(images[0], images[1:], [agree], [say(one), say(other)])
        tiles.append((sheet, f"{names[one]} · {names[other]} · {similarity:.3f}"))
    count = f" {len(pairs)} pairs, the {len(tiles)} most similar shown; {FILE} lists them."
    return [Tiles(title, caption + count, tiles)]
