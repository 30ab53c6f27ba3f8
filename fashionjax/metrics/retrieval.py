"""Retrieval metrics over a whole split, numpy, float64; the ranking itself is `fashionjax.ops.topk`.

`zoo/recall@k` repeats MMFashion's core/evaluation/retrieval_eval.py (a percentage); `standard/*` are
fractions.
"""

import numpy as np

from fashionjax.errors import UserError

ZOO_KS = (3, 5, 10, 20, 30, 50)

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
