"""Retrieval metrics over a whole split, numpy, float64; the ranking itself is `fashionjax.ops.topk`.

`zoo/recall@k` repeats MMFashion's core/evaluation/retrieval_eval.py (a percentage); `standard/*` are
fractions.
"""

from typing import NamedTuple

import jax
import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics.collect import Rows
from fashionjax.ops import topk
from fashionjax.ops.distances import unit_rows

QUERY, GALLERY = 0, 1  # roles; in `a+b` of an evaluation split they go by order
ZOO_KS = (3, 5, 10, 20, 30, 50)
KS = (1, 3, 5, 10, 20, 30, 40, 50)  # 40: in-shop figures are published as recall at 1, 10, 20, 30, 40, 50
KEPT = ("identity", "role", "pairs", "category")  # labels of an example
LISTED = 5  # queries named in one line

DEFINITIONS = {
    "zoo/recall@k": (
        "mean over queries of the share of the gallery's items of the same identity that are among the k "
        "nearest, in percent (the zoo's Top-k accuracy)"
    ),
    "standard/recall@k": "share of queries with an item of the same identity among the k nearest",
    "standard/map": "mean over queries of the average precision over the whole ranked gallery",
    "standard/map@k": (
        "mean over queries of the average precision among the k nearest: the precisions at the relevant "
        "ones, over min(k, number of relevant)"
    ),
}


def relevant_rows(query_id, gallery_id) -> list[np.ndarray]:
    """query_id [q], gallery_id [g] (any comparable labels) -> per query the gallery rows of its identity,
    ascending.

    A query whose identity is not in the gallery cannot be scored: UserError naming it.
    """
    query_id, gallery_id = np.asarray(query_id), np.asarray(gallery_id)
    order = np.argsort(gallery_id, kind="stable")
    ordered = gallery_id[order]
    first, last = (np.searchsorted(ordered, query_id, side=side) for side in ("left", "right"))
    if (first == last).any():
        row = int(np.flatnonzero(first == last)[0])
        raise UserError(
            f"query {row} has identity {query_id[row]}, which no gallery item has; "
            "leave it out or add its item to the gallery"
        )
    return [order[a:b] for a, b in zip(first, last, strict=True)]


def matches(index, query_id, gallery_id) -> np.ndarray:
    """index [q k] of gallery rows best first, query_id [q], gallery_id [g] -> same identity [q k] bool."""
    return np.asarray(gallery_id)[index] == np.asarray(query_id)[:, None]


def zoo_recall(match, relevant, k: int) -> np.ndarray:
    """match [q >=k] bool, relevant [q] gallery items of the query's identity -> share of them found [q]."""
    return match[:, :k].sum(axis=1) / np.asarray(relevant, np.float64)


def hit(match, k: int) -> np.ndarray:
    """match [q >=k] bool -> any among the first k [q] float64."""
    return match[:, :k].any(axis=1).astype(np.float64)


def average_precision(ranks) -> float:
    """Ranks (from 1) of all relevant items -> mean of the precision at each of them; 0 without any."""
    ranks = np.sort(np.asarray(ranks, np.float64))
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0


def average_precision_at(match, relevant, k: int) -> np.ndarray:
    """match [q >=k] bool, relevant [q] -> [q]: precisions at the matches, over min(k, relevant)."""
    match = match[:, :k]
    precision = np.cumsum(match, axis=1) / np.arange(1, match.shape[1] + 1)
    return (precision * match).sum(axis=1) / np.minimum(k, np.asarray(relevant, np.float64))


def matches_from_ranks(ranks, k: int) -> np.ndarray:
    """Per query the ranks of its relevant items -> match [q k] bool."""
    match = np.zeros((len(ranks), k), bool)
    for row, rank in enumerate(ranks):
        rank = np.asarray(rank)
        match[row, rank[rank <= k] - 1] = True
    return match


def retrieval_metrics(ranks, ks=ZOO_KS) -> dict[str, float]:
    """ranks: per query the ranks (from 1) of all gallery items of its identity -> every retrieval metric."""
    relevant = np.array([len(rank) for rank in ranks])
    if len(relevant) == 0 or (relevant == 0).any():
        raise UserError("retrieval needs at least one query, and a gallery item of each query's identity")
    match = matches_from_ranks(ranks, max(ks))
    result = {"standard/map": float(np.mean([average_precision(rank) for rank in ranks]))}
    for k in ks:
        result[f"zoo/recall@{k}"] = float(100 * zoo_recall(match, relevant, k).mean())
        result[f"standard/recall@{k}"] = float(hit(match, k).mean())
        result[f"standard/map@{k}"] = float(average_precision_at(match, relevant, k).mean())
    return result


def per_category(ranks, category, ks=(1, 5)) -> dict:
    """ranks as in `retrieval_metrics`, category [q] of each query -> {category: {"n": queries, metric:
    value}}.
    """
    category = np.asarray(category)
    result = {}
    for name in np.unique(category):
        rows = np.flatnonzero(category == name)
        result[name.item()] = {"n": len(rows)} | retrieval_metrics([ranks[row] for row in rows], ks)
    return result


# ------------------------------------------------------------------------------ the stream
class Ranking(NamedTuple):
    """Rows are places in the stream. ranks: per query those of its item's gallery rows; top, score [q k]."""

    query: np.ndarray
    gallery: np.ndarray
    ranks: list
    top: np.ndarray
    score: np.ndarray


def matched(truth: dict) -> np.ndarray:
    """[n] bool: False for queries whose item has no image in the gallery, which cannot be scored."""
    if "role" not in truth:
        return np.ones(len(truth["identity"]), bool)
    item, role = _items(truth), truth["role"]
    return (role != QUERY) | np.isin(item, item[role == GALLERY])


def _items(truth: dict) -> np.ndarray:
    """identity [n 2] i32 → [n] i64, equal for equal items."""
    return np.ascontiguousarray(truth["identity"], np.int32).view(np.int64)[:, 0]


def rank(predicted: dict, truth: dict, k: int = 1, *, per_pair: bool = False) -> Ranking:
    """embedding [n d] with identity [n 2] and role [n] → queries ranked against the gallery by cosine.

    Exact in the order of float32 cosines, whose steps near 1 are 6e-8, on this host's devices; of equal ones
    the earlier row comes first.
    """
    if "role" not in truth:
        raise UserError(
            "the records have no role; evaluate a query and a gallery split: --split=query+gallery"
        )
    embedding = np.asarray(predicted["embedding"], np.float32)
    finite = np.isfinite(embedding).all(axis=1)
    if not finite.all():
        raise UserError(
            f"the embedding of example {int(np.argmin(finite))} is not finite; the model diverged"
        )
    rows = np.arange(len(embedding))
    if per_pair and "pairs" in truth:
        rows = np.repeat(rows, np.maximum(truth["pairs"], 1))
    query, gallery = (rows[truth["role"][rows] == role] for role in (QUERY, GALLERY))
    if not len(query) or not len(gallery):
        raise UserError(f"{len(query)} queries and {len(gallery)} gallery records; retrieval needs both")
    item = _items(truth)
    relevant = relevant_rows(item[query], item[gallery])
    unit = unit_rows(embedding)
    placed = topk.arrange(unit[gallery], devices=jax.local_devices())
    ranks = topk.relevant_ranks(placed, unit[query], relevant)
    score, top = topk.topk(placed, unit[query], min(k, len(gallery)))
    return Ranking(query, gallery, ranks, gallery[top], score)


class RetrievalMetrics:
    """The accumulator of retrieval: keeps embedding f32 [d], identity, role and, where given, pairs of each
    example. Queries without an image of their item in the gallery are left out (`Context.leave_out`).

    `per_pair`: an image counts once per pair it is in.
    """

    def __init__(self, context, *, per_pair: bool = False):
        self.context, self.per_pair = context, per_pair
        self.rows = Rows(context.gather)
        self.matched: dict[str, np.ndarray] | None = None

    def update(self, prediction: dict, batch: dict) -> None:
        labels = {name: batch[name] for name in KEPT if name in batch}
        embedding = np.asarray(prediction["embedding"], np.float32)
        self.rows.add(batch, {"embedding": embedding, **labels})

    def scored(self) -> dict[str, np.ndarray]:
        """The rows that can be ranked."""
        if self.matched is None:
            rows = self.rows.whole()
            kept = matched(rows)
            if not kept.all():
                self._leave_out(rows, kept)
                rows = {name: values[kept] for name, values in rows.items()}
            self.matched = rows
        return self.matched

    def result(self) -> dict[str, float]:
        rows = self.scored()
        return retrieval_metrics(rank(rows, rows, per_pair=self.per_pair).ranks, KS)

    def _leave_out(self, rows: dict, kept: np.ndarray) -> None:
        records = rows["index"][~kept] if "index" in rows else np.flatnonzero(~kept)
        queries = int((rows["role"] == QUERY).sum())
        reason = f"{len(records)} of {queries} queries have no image of their item in the gallery"
        if self.context.column is not None:
            item, picture = (self.context.column(name)[records[:LISTED]] for name in ("item_id", "image_id"))
            reason += ": " + ", ".join(f"{name} of item {label}" for name, label in zip(picture, item))
            reason += f" and {len(records) - LISTED} more" if len(records) > LISTED else ""
        self.context.leave_out(records, reason)
