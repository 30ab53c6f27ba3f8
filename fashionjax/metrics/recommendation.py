"""Metrics of recommendation by similarity: each garment of the queries against the database's garments of its
category, numpy, float64.

Relevant are garments of the same pair (product); a query without one in the database is left out, as in
src/backup/99_test_recomm_backup.py of Donghwa-KIM/fashion-recommendation, whose figures `zoo/*` repeat: means
per category, then the unweighted mean over categories, in percent. `standard/*` are means over garments.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics.collect import Rows
from fashionjax.ops import pca
from fashionjax.ops.distances import unit_rows

KS = (1, 2, 5, 10, 20)
CELLS = 1 << 22  # similarities that are held at once

_MACRO = "mean over the garments of a category, then over categories, in percent (as published)"
_MICRO = "mean over all garments that have a relevant one in the database"
DEFINITIONS = {
    "zoo/recommend_recall@k": f"share of the relevant garments that are among the k nearest; {_MACRO}",
    "zoo/recommend_hit@k": f"whether a relevant garment is among the k nearest; {_MACRO}",
    "zoo/recommend_mrr@k": f"1 / rank of the first relevant garment, 0 beyond k; {_MACRO}",
    "standard/recommend_recall@k": f"share of the relevant garments that are among the k nearest; {_MICRO}",
    "standard/recommend_hit@k": f"whether a relevant garment is among the k nearest; {_MICRO}",
    "standard/recommend_mrr": f"1 / rank of the first relevant garment; {_MICRO}",
    "standard/validation_loss": "mean over the batches of the split of the training's loss",
    "zoo/last_batch_loss": (
        "classification loss of the split's last batch over its number of garments (as upstream selects)"
    ),
}


class Garments(NamedTuple):
    """embedding [n d]; category, pair and image [n] (any comparable ids)."""

    embedding: np.ndarray
    category: np.ndarray
    pair: np.ndarray
    image: np.ndarray


class Ranked(NamedTuple):
    """ranks: per query the ranks (from 1, ascending) of its relevant garments among those of its category; []
    where there is none. row: the query's place. best: its highest similarity, NaN without a candidate."""

    row: np.ndarray
    ranks: list[np.ndarray]
    best: np.ndarray


class Matches(NamedTuple):
    """The first matches of a query: rows of the database with their cosine similarity and whether they are of
    its pair."""

    row: np.ndarray
    score: np.ndarray
    correct: np.ndarray


def rank(query: Garments, database: Garments, *, other_images: bool = False) -> dict[object, Ranked]:
    """{category: its queries ranked against the database's garments of the category} by cosine; of equal
    similarities the earlier garment comes first. Exact in float64 products of float32 unit vectors.

    other_images: garments of the query's own image do not compete, for a database that is its own query.
    """
    found = {}
    for name in sorted(set(np.asarray(query.category).tolist())):
        rows = np.flatnonzero(query.category == name)
        places = np.flatnonzero(database.category == name)
        known = unit_rows(database.embedding[places]).astype(np.float64)
        ranks, best = [], np.full(len(rows), np.nan)
        step = max(CELLS // max(len(places), 1), 1)
        for start in range(0, len(rows) if len(places) else 0, step):
            part = rows[start : start + step]
            similarity = unit_rows(query.embedding[part]).astype(np.float64) @ known.T
            own = database.image[places] == query.image[part][:, None]
            own &= other_images
            similarity[own] = -np.inf
            nearest = similarity.max(axis=1)
            best[start : start + step] = np.where(np.isfinite(nearest), nearest, np.nan)
            for row, line, left_out in zip(part, similarity, own):
                relevant = np.flatnonzero((database.pair[places] == query.pair[row]) & ~left_out)
                order = np.empty(len(line), np.int64)
                if len(relevant):
                    order[np.argsort(-line, kind="stable")] = np.arange(1, len(line) + 1)
                ranks.append(np.sort(order[relevant]))
        found[name] = Ranked(rows, ranks or [np.zeros(0, np.int64) for _ in rows], best)
    return found


def matches_of(query: Garments, database: Garments, row: int, count: int, *, other_images: bool) -> Matches:
    """The nearest garments of the query's category."""
    rival = database.category == query.category[row]
    if other_images:
        rival = rival & (database.image != query.image[row])
    places = np.flatnonzero(rival)
    similarity = unit_rows(database.embedding[places]) @ unit_rows(query.embedding[[row]])[0]
    best = np.argsort(-similarity, kind="stable")[:count]
    return Matches(places[best], similarity[best], database.pair[places[best]] == query.pair[row])


def of_query(ranks: np.ndarray, k: int) -> tuple[float, float, float]:
    """Ranks of all relevant garments, at least one → (recall, hit, reciprocal rank) at k."""
    inside = ranks[ranks <= k]
    return len(inside) / len(ranks), float(len(inside) > 0), 1 / ranks[0] if len(inside) else 0.0


def per_category(found: dict[object, Ranked], ks: Sequence[int] = KS) -> dict[object, dict]:
    """{category: {"n": queries with a relevant garment, "left_out", "recall@k", "hit@k", "mrr@k"}},
    fractions, None without such a query."""
    table = {}
    for name, ranked in found.items():
        scored = [ranks for ranks in ranked.ranks if len(ranks)]
        line = {"n": len(scored), "left_out": len(ranked.ranks) - len(scored)}
        for k in ks:
            means = np.mean([of_query(ranks, k) for ranks in scored], axis=0) if scored else (None,) * 3
            line |= {f"{part}@{k}": value for part, value in zip(("recall", "hit", "mrr"), means)}
        table[name] = line
    return table


def metrics(found: dict[object, Ranked], ks: Sequence[int] = KS) -> dict[str, float]:
    """Every metric of a ranking; NaN where no query has a relevant garment."""
    scored = [ranks for ranked in found.values() for ranks in ranked.ranks if len(ranks)]
    table = [line for line in per_category(found, ks).values() if line["n"]]
    mean = lambda numbers: float(np.mean(numbers)) if scored else float("nan")  # noqa: E731
    values: dict[str, float] = {}
    for place, part in enumerate(("recall", "hit", "mrr")):
        for k in ks:
            values[f"zoo/recommend_{part}@{k}"] = 100 * mean([line[f"{part}@{k}"] for line in table])
            if part != "mrr":
                micro = [of_query(ranks, k)[place] for ranks in scored]
                values[f"standard/recommend_{part}@{k}"] = mean(micro)
    return values | {"standard/recommend_mrr": mean([1 / ranks[0] for ranks in scored])}


# ------------------------------------------------------------------------------ the stream
class RecommendationMetrics:
    """The accumulator of recommendation: keeps embedding, category, pair and image of every garment that was
    found, and the losses of each batch.

    Of a joined split the garments of its first part are the queries and those of the others the database; of
    a single split each garment is compared with those of the other images. `names` are the categories,
    `weights` those of the loss terms, `margin` the triplets'. whiten: components of a whitened PCA, fitted on
    the database, that embeddings are compared through, 0: none; `seed` of its randomised solver, None: exact.
    first_box (quirk K1): of each image one garment per category, all with the embedding of its best one.
    """

    def __init__(
        self,
        context,
        names: Sequence[str],
        weights: dict[str, float],
        margin: float,
        whiten: int = 0,
        seed: int | None = None,
        first_box: bool = False,
    ):
        self.context, self.names, self.weights, self.margin = context, list(names), weights, margin
        self.whiten, self.seed, self.first_box = whiten, seed, first_box
        self.rows = Rows(context.gather)
        self.batches: list[tuple[float, float, int]] = []

    def update(self, prediction: dict, batch: dict) -> None:
        valid = np.asarray(prediction["detection_valid"], bool) & np.asarray(batch["example_valid"])[:, None]
        count, slots = valid.shape
        role = batch.get("role", np.full(count, -1, np.int32))
        record = np.asarray(batch["index"], np.int64)
        flat = {
            "embedding": np.asarray(prediction["embedding"], np.float32).reshape(count * slots, -1),
            "category": np.asarray(prediction["category"]).reshape(-1),
            "score": np.asarray(prediction["score"], np.float32).reshape(-1),
            "box": np.asarray(prediction["box"], np.float32).reshape(-1, 4),
            "pair": np.repeat(pair_of(batch["pair"]), slots),
            "role": np.repeat(role, slots),
            "record": np.repeat(record, slots),
        }
        place = {
            "example_valid": valid.reshape(-1),
            "index": (record[:, None] * slots + np.arange(slots)).ravel(),
        }
        self.rows.add(place, flat)
        if "id_loss" in prediction and "item_id" in batch:
            self._batch_losses(prediction, np.asarray(batch["item_id"]), valid)

    def _batch_losses(self, prediction: dict, item: np.ndarray, valid: np.ndarray) -> None:
        kept = valid & (item >= 0)[:, None]
        if not kept.any():
            return
        label = np.broadcast_to(item[:, None], kept.shape)[kept]
        triplet = batch_hard(np.asarray(prediction["embedding"], np.float64)[kept], label, self.margin)
        self.batches.append((float(prediction["id_loss"][kept].mean()), triplet, int(kept.sum())))

    @functools.cached_property
    def kept(self) -> dict[str, np.ndarray]:
        """The garments' rows that are compared; UserError where no garment was found."""
        try:
            rows = self.rows.whole()
        except UserError as error:
            raise UserError(
                "the detector found no garment in the split; start from a trained one (config.init_from) or "
                "lower config.model.settings.score_threshold"
            ) from error
        return first_boxes(rows) if self.first_box else rows

    @functools.cached_property
    def split(self) -> tuple[Garments, Garments, bool]:
        """(queries, database, whether they are the same)."""
        rows = self.kept
        query, embedding = rows["role"] <= 0, rows["embedding"]
        if self.whiten:
            fitted = pca.fit(
                embedding if query.all() else embedding[~query], self.whiten, randomised=self.seed
            )
            embedding = pca.transform(fitted, embedding)
        whole = Garments(embedding, rows["category"], rows["pair"], rows["record"])
        if query.all():
            return whole, whole, True
        return Garments(*(x[query] for x in whole)), Garments(*(x[~query] for x in whole)), False

    def ranked(self) -> dict[object, Ranked]:
        query, database, same = self.split
        return rank(query, database, other_images=same)

    def result(self) -> dict[str, float]:
        values = metrics(self.ranked())
        lines = self.context.gather(
            {
                "index": np.arange(len(self.batches)),
                "loss": np.asarray(self.batches, np.float64).reshape(-1, 3),
            }
        )["loss"]
        if len(lines):
            weights = [self.weights.get(name, 0.0) for name in ("id", "batch_hard")]
            values["standard/validation_loss"] = float((lines[:, :2] @ weights).mean())
            values["zoo/last_batch_loss"] = float(lines[-1, 0] / lines[-1, 2])
        return values


def first_boxes(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of garments, best first within each `record` → the first of each category, with the embedding of
    the record's first."""
    keys = np.stack([rows["record"], rows["category"]], axis=1)
    kept = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    best = np.unique(rows["record"], return_index=True)[1]
    own = best[np.searchsorted(rows["record"][best], rows["record"][kept])]
    return {name: values[kept] for name, values in rows.items()} | {"embedding": rows["embedding"][own]}


def pair_of(words: np.ndarray) -> np.ndarray:
    """pair [n 2] i32 → [n] i64: devices have no 64-bit integers."""
    return np.ascontiguousarray(words, np.int32).view(np.int64)[:, 0]


def batch_hard(embedding: np.ndarray, label: np.ndarray, margin: float) -> float:
    """`losses.batch_hard_triplet` in numpy, mean over the rows."""
    distance = np.linalg.norm(embedding[:, None] - embedding[None] + 1e-6, axis=-1)
    same = label[:, None] == label[None]
    positive, negative = same & ~np.eye(len(label), dtype=bool), ~same
    far = np.where(positive, distance, -np.inf).max(axis=1)
    near = np.where(negative, distance, np.inf).min(axis=1)
    usable = positive.any(axis=1) & negative.any(axis=1)
    gap = np.subtract(far, near, where=usable, out=np.zeros(len(label)))
    return float(np.where(usable, np.maximum(gap + margin, 0), 0).mean())
