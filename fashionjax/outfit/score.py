"""How well the items of an outfit go together: the whole, every pair, and the weakest one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.inference import photos
from fashionjax.inference.photo_model import PhotoModel
from fashionjax.inference.photos import Pixels
from fashionjax.outfit import completion, items, typed_gallery
from fashionjax.outfit.items import Item, Outfit
from fashionjax.tasks import compatibility


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two items by path and by their places in the outfit, and their distance; lower goes together better."""

    a: str
    b: str
    distance: float
    a_index: int
    b_index: int


@dataclasses.dataclass(frozen=True)
class ItemType:
    """probability: of a predicted type, None for a given one."""

    image: str
    type: str
    probability: float | None


@dataclasses.dataclass(frozen=True)
class OutfitScore:
    """score: higher is better; None for a single item. Type-aware models: 1 - the mean distance of all pairs;
    set transformer: the probability of the whole set. pairs: of every two items, in order. weakest: the pair
    of the largest distance, the first of equal ones. types: of every item."""

    score: float | None
    pairs: tuple[Pair, ...]
    weakest: Pair | None
    types: tuple[ItemType, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `fashionjax outfit score` prints; a_index and b_index only where a path comes twice."""
        twice = len({entry.image for entry in self.types}) < len(self.types)
        fields = ("a", "b", "distance", *(("a_index", "b_index") if twice else ()))
        pairs = [{name: getattr(pair, name) for name in fields} for pair in self.pairs]
        weakest = None if self.weakest is None else pairs[self.pairs.index(self.weakest)]
        return {
            "score": self.score,
            "pairs": pairs,
            "weakest": weakest,
            "types": [vars(entry) for entry in self.types],
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        if self.score is None:
            return "a single item has no score"
        weakest = f"{self.weakest.a} and {self.weakest.b}, {self.weakest.distance:.3f} apart"
        return f"outfit of {len(self.types)} items: score {self.score:.3f}; weakest pair: {weakest}"


def score_outfit(
    model: PhotoModel, images: Iterable[Pixels], *, types: Sequence[str | None] | None = None
) -> OutfitScore:
    """How well the items on these images (one on each) go together.

    types: a type for each image, None where it is to be predicted. UserError for an image that cannot be
    read, an unknown type, or a model of another task.
    """
    outfit = open_outfit(model, images, types)
    return score(outfit, model.config, jax.device_get(model.model.params))


def open_outfit(
    model: PhotoModel, images: Iterable[Pixels], types: Sequence[str | None] | None = None
) -> Outfit:
    """The images embedded and typed; UserError for the first that cannot be read."""
    typed_gallery.check_task(model.config, "the model")
    sources = photos.collect(images)
    if not sources:
        raise UserError("no image given; an outfit needs at least one")
    numbers = items.numbered_types(types, [source.name for source in sources], model.config)
    outfit = items.read(sources, numbers, model.config, model.predictor(len(sources)))
    if not isinstance(outfit, Outfit):
        raise outfit[0]
    return outfit


def score(outfit: Outfit, config: ConfigDict, params: Mapping[str, Any]) -> OutfitScore:
    """The score of embedded items; `params` on one device or in numpy.

    The distance of a pair is the model's; of a set transformer 1 - the probability of the two alone.
    """
    found, count = outfit.items, len(outfit.items)
    types = tuple(map(item_type, found))
    if count < 2:
        return OutfitScore(None, (), None, types)
    scorer = compatibility.make_scorer(config, params)
    (value,) = scorer.outfits(outfit.embedding, outfit.category, [np.arange(count)]).double
    value = completion.probability(value) if config.model.kind == "set_transformer" else value
    first, second = np.triu_indices(count, 1)
    distance = scorer.pairs(outfit.embedding, outfit.category, first, second)
    pairs = tuple(
        Pair(found[i].path, found[j].path, round(float(d), 6), int(i), int(j))
        for i, j, d in zip(first, second, distance, strict=True)
    )
    return OutfitScore(round(float(value), 6), pairs, pairs[int(np.argmax(distance))], types)


def item_type(item: Item) -> ItemType:
    """The type of an item as results have it."""
    share = None if item.probability is None else round(item.probability, 6)
    return ItemType(item.path, item.type, share)


def distances(result: OutfitScore) -> np.ndarray:
    """f64 [n n], symmetric, zero on the diagonal."""
    count = len(result.types)
    matrix = np.zeros((count, count))
    for pair in result.pairs:
        matrix[pair.a_index, pair.b_index] = matrix[pair.b_index, pair.a_index] = pair.distance
    return matrix


def in_words(result: OutfitScore, config: ConfigDict) -> list[str]:
    """The score and the weakest pair as sentences."""
    if result.score is None:
        return ["A single item has no pair to compare, so it has no score."]
    pairs, value = len(result.pairs), result.score
    spec = config.model
    if spec.kind == "set_transformer":
        summary = f"Probability that this is an outfit: {value:.2f}."
        scale = "The distance of a pair is 1 minus the probability of the two alone."
    else:
        summary = f"Compatibility {value:.3f}: 1 minus the mean distance of {pairs} pair{'s' * (pairs > 1)}."
        scale = "The model's distance has no fixed range: compare the score with other outfits of this model."
        if spec.projection == "mask" and not spec.metric:
            scale = "The best possible score is 1; -1 is the worst: items at opposite ends of every space."
    pair = result.weakest
    a, b = (f"{result.types[n].type} ({result.types[n].image})" for n in (pair.a_index, pair.b_index))
    weakest = f"{a} and {b}, {pair.distance:.3f} apart"
    return [summary, scale, f"The weakest pair: {weakest}." if pairs > 1 else f"The pair: {weakest}."]
