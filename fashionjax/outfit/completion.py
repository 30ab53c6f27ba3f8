"""The types an outfit lacks, and a gallery's items ranked for them.

A candidate is scored as an answer that fills the blank of an outfit: by the type-aware embedding through the
sum of its distances to the outfit's items, by the set transformer through the outfit with it as one set.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fashionjax.ops import type_spaces
from fashionjax.outfit.typed_gallery import TypedGallery
from fashionjax.tasks import compatibility
from fashionjax.tasks.compatibility import scoring

STANDS_FOR = {"all-body": ("tops", "bottoms")}  # a dress is worn instead of these, these instead of a dress


@dataclasses.dataclass(frozen=True)
class Completion:
    """A gallery item that fits the outfit; rank within its type. score: type-aware models 1 - the mean
    distance to the outfit's items, set transformer the probability of the outfit with it."""

    type: str
    rank: int
    id: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """What a line of `fashionjax outfit complete` has."""
        return dict(vars(self))

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return f"{self.type} {self.rank}. {self.id} {self.score:.4f}"


class Candidates(NamedTuple):
    """The items of one type: their numbers in the gallery, ascending, and their embeddings in blocks."""

    number: np.ndarray
    blocks: type_spaces.Blocks


# (embedding [m d], category [m], a type, its candidates, k) → (score f64 [k], number in the gallery [k]),
# best first, of equal ones the lower number
Ranker = Callable[[np.ndarray, np.ndarray, int, Candidates, int], tuple[np.ndarray, np.ndarray]]


def missing_types(worn: Sequence[str], offered: Sequence[str]) -> list[str]:
    """The offered types that the outfit has not, in their order; all-body stands for tops and bottoms."""
    covered = set(worn)
    for whole, parts in STANDS_FOR.items():
        if whole in worn:
            covered |= set(parts)
        elif covered & set(parts):
            covered.add(whole)
    return [name for name in offered if name not in covered]


def complete(
    embedding: np.ndarray,
    category: np.ndarray,
    gallery: TypedGallery,
    rank: Ranker,
    missing: Sequence[str],
    topk: int,
) -> tuple[dict[str, list[tuple[Completion, int]]], list[str]]:
    """embedding [n d] and category [n] of an outfit → {missing type: its completions, best first, each with
    its row in the gallery}, and the missing types that the gallery has no item of."""
    numbers = [gallery.types.index(name) for name in missing]
    candidates = by_type(gallery.embedding, gallery.category, numbers)
    ranked, lacking = {}, []
    for name, number in zip(missing, numbers, strict=True):
        if number not in candidates:
            lacking.append(name)
            continue
        values, rows = rank(embedding, category, number, candidates[number], topk)
        ranked[name] = [
            (Completion(name, n, gallery.id[row], round(float(value), 6)), int(row))
            for n, (value, row) in enumerate(zip(values, rows, strict=True), 1)
        ]
    return ranked, lacking


def types_to_add(worn: Sequence[str], gallery: TypedGallery) -> list[str]:
    """Every type that the gallery has and an outfit of the types `worn` has not."""
    offered = [gallery.types[number] for number in np.unique(gallery.category) if number >= 0]
    return missing_types(worn, offered)


def by_type(embedding: np.ndarray, category: np.ndarray, wanted: Sequence[int]) -> dict[int, Candidates]:
    """embedding [g d] and category [g] of a gallery → the candidates of each wanted type that has some."""
    found = {}
    for number in wanted:
        rows = np.flatnonzero(category == number)
        if len(rows):
            found[number] = Candidates(rows, type_spaces.place(embedding[rows]))
    return found


def make_ranker(config: ConfigDict, params: Mapping[str, Any]) -> Ranker:
    """The ranking of a trained model; `params` on one device or in numpy."""
    if config.model.kind == "set_transformer":
        return set_ranker(compatibility.make_model(config), params)
    types = list(config.labels.category)
    return pair_ranker(compatibility.make_spaces(config, params), compatibility.space_table(config), types)


def pair_ranker(spaces: type_spaces.Spaces, table: np.ndarray, types: Sequence[str]) -> Ranker:
    """Score: 1 - the mean distance to the outfit's items."""

    def rank(embedding, category, kind, candidates, k):
        space = scoring.space_of(table, types, category, kind)
        total, row = type_spaces.rank(spaces, embedding, candidates.blocks, space, k)
        return 1.0 - total.astype(np.float64) / len(category), candidates.number[row]

    return rank


def set_ranker(model, params) -> Ranker:
    """Score: the probability of the outfit with the candidate; ranked before it is rounded to 1."""
    own = {"params": {"set_scorer": params["set_scorer"]}}

    @jax.jit
    def logits(variables, embedding, category, kind, block):
        outfit = jnp.broadcast_to(embedding, (len(block), *embedding.shape))
        sets = jnp.concatenate([outfit, block[:, None]], axis=1)
        kinds = jnp.broadcast_to(jnp.append(category, kind), sets.shape[:2])
        return model.apply(variables, sets, kinds, kinds >= 0, method="score_sets")

    def rank(embedding, category, kind, candidates, k):
        blocks = candidates.blocks
        given = (jnp.asarray(embedding), jnp.asarray(category), jnp.asarray(kind, category.dtype))
        with jax.default_matmul_precision(type_spaces.EXACT):
            found = [logits(own, *given, block) for block in blocks.rows]
        logit = np.concatenate([np.asarray(x, np.float64) for x in found])[: blocks.count]
        row = np.argsort(-logit, kind="stable")[:k]
        return probability(logit[row]), candidates.number[row]

    return rank


def probability(logit):
    """The logistic function, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit, np.float64)))
