"""Attribute-specific retrieval: each query ranks the candidates of its attribute, relevant are those of its
value. `zoo/*` as RPF's modules/engine/evaluation.py prints them (percent), `standard/*` fractions in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fashionjax.errors import UserError
from fashionjax.metrics.collect import Rows
from fashionjax.metrics.retrieval import average_precision, hit, matches_from_ranks
from fashionjax.ops import topk
from fashionjax.ops.distances import unit_rows

QUERY, CANDIDATE = 1, 2  # values of `role`
KS = (1, 5, 10, 20)
KEPT = ("attribute", "value", "role")
PART = "standard/attention_in_part"

DEFINITIONS = {
    "zoo/map": (
        "mean over all queries of the average precision over the whole ranked list of the query's attribute, "
        "0 for a query without a relevant candidate, in percent; attributes weigh by their queries"
    ),
    "zoo/map/NAME": "the same over the queries of one attribute",
    "standard/map": "zoo/map over the queries that have a relevant candidate, as a fraction",
    "standard/map/NAME": "the same over the queries of one attribute",
    "standard/map_macro": "mean over attributes of standard/map/NAME",
    "standard/map_all_values": (
        "standard/map where a candidate is relevant if any of its known values of the attribute is one of "
        "the query's, not only the listed one"
    ),
    "standard/recall@k": "share of queries with a relevant candidate among the k nearest",
    PART: "share of the attention map that lies inside the box of the attribute's garment part, mean",
    f"{PART}/NAME": "the same over the examples of one attribute",
}


class Ranking(NamedTuple):
    """Queries of one attribute against its candidates. query, candidate: rows of the stream; ranks: per query
    the ranks (from 1) of its relevant candidates, none where there are none; top, score [q k]: the nearest
    candidates (rows) and their inner products."""

    query: np.ndarray
    candidate: np.ndarray
    ranks: list[np.ndarray]
    top: np.ndarray
    score: np.ndarray


def relevant_candidates(query_value, candidate_value) -> list[np.ndarray]:
    """query_value [q], candidate_value [c] → per query the candidates of its value, ascending, if any."""
    order = np.argsort(candidate_value, kind="stable")
    ordered = np.asarray(candidate_value)[order]
    first, last = (np.searchsorted(ordered, query_value, side=side) for side in ("left", "right"))
    return [np.sort(order[a:b]) for a, b in zip(first, last, strict=True)]


def rank(query, candidate, relevant: list[np.ndarray], k: int = 1) -> tuple[list, np.ndarray, np.ndarray]:
    """query [q d], candidate [c d], relevant rows of `candidate` per query → (ranks of each query, top [q k],
    score [q k]): inner products in float32, tiled, on the devices of this host; ties to the lower row."""
    placed = topk.arrange(np.asarray(candidate, np.float32), devices=jax.local_devices())
    query = np.asarray(query, np.float32)
    ranks = topk.relevant_ranks(placed, query, [np.asarray(rows, np.int32) for rows in relevant])
    score, top = topk.topk(placed, query, min(k, len(candidate)))
    return ranks, top, score


def average_precisions(ranks: list) -> np.ndarray:
    """Ranks of the relevant candidates of each query → average precision [q] float64; 0 without any."""
    return np.asarray([average_precision(of) for of in ranks], np.float64)


def random_precision(relevant: int, candidates: int) -> float:
    """The expected average precision of a random order of `candidates`, `relevant` of which are; 0 for
    none."""
    if not relevant:
        return 0.0
    harmonic = float((1 / np.arange(1, candidates + 1)).sum())
    others = (relevant - 1) / max(candidates - 1, 1)
    return (harmonic + others * (candidates - harmonic)) / candidates


def weighted_mean(per_attribute: dict[int, np.ndarray]) -> float:
    """{attribute: value per query} → mean over all queries: attributes weigh by their number of queries."""
    every = np.concatenate(list(per_attribute.values()))
    return float(every.mean()) if len(every) else float("nan")


def attention_inside(attention, box) -> np.ndarray:
    """attention [n h w] ≥ 0, box [n 4] xyxy in [0, 1] of the map's extent → share of each map's mass inside
    its box [n] float64, cells counted by the area that the box covers; NaN for an empty box or map."""
    attention, box = np.asarray(attention, np.float64), np.asarray(box, np.float64)

    def covered(low, high, cells):
        edge = np.arange(cells + 1) / cells
        length = np.minimum(edge[1:], high[:, None]) - np.maximum(edge[:-1], low[:, None])
        return np.clip(length * cells, 0, 1)

    x, y = (covered(box[:, axis], box[:, axis + 2], attention.shape[2 - axis]) for axis in (0, 1))
    inside, whole = np.einsum("nhw,nh,nw->n", attention, y, x), attention.sum((1, 2))
    known = (whole > 0) & (box[:, :2] < box[:, 2:]).all(1)
    return np.where(known, inside / np.where(known, whole, 1), np.nan)


class FineGrainedMetrics:
    """The accumulator of attribute-specific retrieval: keeps embedding f32 [d], attribute, value and role of
    each pair, and with an `attention` [h w] in the predictions and a `part_box` [4] in the batch (xyxy in
    [0, 1] of the map's extent) the share of the map inside the box.

    Attributes without queries, or without candidates, are left out. Two hosts or more each rank the whole
    split, as retrieval does.
    """

    def __init__(self, context):
        self.context = context
        self.rows = Rows(context.gather)
        self.rankings: dict[int, Ranking] | None = None
        self.figures: dict[str, float] | None = None

    def update(self, prediction: dict, batch: dict) -> None:
        kept = {name: batch[name] for name in KEPT if name in batch}
        if "role" not in kept:
            raise UserError("the records have no role; evaluate a split that has queries and candidates")
        kept["embedding"] = np.asarray(prediction["embedding"], np.float32)
        if "attention" in prediction and "part_box" in batch:
            share = attention_inside(prediction["attention"], batch["part_box"])
            kept["inside"] = share.astype(np.float32)
        self.rows.add(batch, kept)

    @property
    def names(self) -> list[str]:
        """The attributes' names; numbers where the dataset gives none."""
        count = int(self.rows.whole()["attribute"].max()) + 1
        names = [str(name) for name in self.context.labels.get("attribute", ())]
        return names + [str(number) for number in range(len(names), count)]

    def _unit(self) -> np.ndarray:
        """The embeddings as unit rows [n d]."""
        embedding = self.rows.whole()["embedding"]
        finite = np.isfinite(embedding).all(axis=1)
        if not finite.all():
            raise UserError(
                f"the embedding of example {int(np.argmin(finite))} is not finite; the model diverged"
            )
        return unit_rows(embedding)

    def ranked(self, k: int = max(KS)) -> dict[int, Ranking]:
        """The rankings of every attribute with queries and candidates; computed once."""
        if self.rankings is None or any(
            r.top.shape[1] < min(k, len(r.candidate)) for r in self.rankings.values()
        ):
            rows, unit = self.rows.whole(), self._unit()
            found = {}
            for attribute in np.unique(rows["attribute"]).tolist():
                of = rows["attribute"] == attribute
                query, candidate = (np.flatnonzero(of & (rows["role"] == r)) for r in (QUERY, CANDIDATE))
                if len(query) and len(candidate):
                    relevant = relevant_candidates(rows["value"][query], rows["value"][candidate])
                    ranks, top, score = rank(unit[query], unit[candidate], relevant, k)
                    found[attribute] = Ranking(query, candidate, ranks, candidate[top], score)
            if not found:
                raise UserError("no attribute of the split has both queries and candidates")
            self.rankings = found
        return self.rankings

    def result(self) -> dict[str, float]:
        if self.figures is None:
            self.figures = self._figures()
        return dict(self.figures)

    def _figures(self) -> dict[str, float]:
        rows, names, rankings = self.rows.whole(), self.names, self.ranked()
        precision = {a: average_precisions(found.ranks) for a, found in rankings.items()}
        some = {a: np.asarray([len(of) > 0 for of in found.ranks]) for a, found in rankings.items()}
        scored = {a: precision[a][some[a]] for a in rankings if some[a].any()}
        if not scored:
            raise UserError("no query of the split has a candidate of its value")
        result = {"zoo/map": 100 * weighted_mean(precision), "standard/map": weighted_mean(scored)}
        result["standard/map_macro"] = float(np.mean([values.mean() for values in scored.values()]))
        ranks = [of for found in rankings.values() for of in found.ranks if len(of)]
        match = matches_from_ranks(ranks, max(KS))
        result |= {f"standard/recall@{k}": float(hit(match, k).mean()) for k in KS}
        result |= self._all_values(rankings)
        result |= {f"zoo/map/{names[a]}": 100 * float(values.mean()) for a, values in precision.items()}
        result |= {f"standard/map/{names[a]}": float(values.mean()) for a, values in scored.items()}
        if "inside" in rows:
            result |= _attention(rows, names)
        return result

    def _all_values(self, rankings: dict[int, Ranking]) -> dict[str, float]:
        """standard/map_all_values, where images of the split have several known values of an attribute."""
        rows = self.rows.whole()
        try:
            values = self.context.column("values") if self.context.column and "index" in rows else None
        except UserError:  # the split is no split of pairs
            values = None
        if values is None or max(map(len, values), default=1) <= 1:
            return {}
        scored, unit = [], self._unit()
        for found in rankings.values():
            query, candidate = (values[rows["index"][part]] for part in (found.query, found.candidate))
            owners: dict[int, list[int]] = {}
            for place, of in enumerate(candidate):
                for value in set(of.tolist()):
                    owners.setdefault(value, []).append(place)
            relevant = [
                np.unique([p for v in of.tolist() for p in owners.get(v, ())]).astype(int) for of in query
            ]
            ranks, _, _ = rank(unit[found.query], unit[found.candidate], relevant)
            scored.append(average_precisions([of for of in ranks if len(of)]))
        return {"standard/map_all_values": float(np.concatenate(scored).mean())}


def _attention(rows: dict, names: list[str]) -> dict[str, float]:
    """The share of attention inside the parts, over all examples that have one and per attribute."""
    inside, known = rows["inside"].astype(np.float64), np.isfinite(rows["inside"])
    if not known.any():
        return {}
    result = {PART: float(inside[known].mean())}
    for attribute in np.unique(rows["attribute"][known]).tolist():
        of = known & (rows["attribute"] == attribute)
        result[f"{PART}/{names[attribute]}"] = float(inside[of].mean())
    return result
