"""Orders of the training stream that are more than a shuffle: triplets, pairs, balanced identities.

Each is a pure function (seed, position) → record index over an endless stream, so a run starts at any step,
on any number of hosts and workers, with the same records.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fashionjax.errors import UserError

SHOP, CONSUMER = 0, 1  # classes of the feature `view`


class Sampler(NamedTuple):
    """epoch: positions that count as one epoch. at(seed, position) → a record index, or (record index,
    {label: value}) where the position decides a label."""

    epoch: int
    at: Callable[[int, int], int | tuple[int, dict]]


class Items(NamedTuple):
    """Records by item: `code` [n] numbers the items, `rows[start[c]:start[c + 1]]` are those of item c."""

    code: np.ndarray
    rows: np.ndarray
    start: np.ndarray

    def of(self, code: int) -> np.ndarray:
        return self.rows[self.start[code] : self.start[code + 1]]


def items_of(item: np.ndarray) -> Items:
    """item [n], any comparable ids."""
    names, code = np.unique(np.asarray(item), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"triplets need at least two items; this split has {len(names)}")
    rows = np.argsort(code, kind="stable")
    return Items(code, rows, np.searchsorted(code[rows], np.arange(len(names) + 1)))


@functools.lru_cache(maxsize=8)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of one epoch over n things."""
    return np.random.default_rng((seed, 0, epoch)).permutation(n)


# ------------------------------------------------------------------------------ triplets
def triplets(item: np.ndarray) -> Sampler:
    """Anchor, positive, negative at consecutive positions; an epoch has every record as anchor once.

    Positive: another record of the anchor's item (itself where there is none). Negative: a record drawn
    uniformly until its item differs, then a uniform record of that item. Source:
    mmfashion/datasets/In_shop.py.
    """
    items = items_of(item)
    return Sampler(3 * len(items.code), functools.partial(_triplet_at, items))


def _triplet_at(items: Items, seed: int, position: int) -> int:
    number, role = divmod(position, 3)
    epoch, place = divmod(number, len(items.code))
    anchor = permutation(seed, epoch, len(items.code))[place]
    if role == 0:
        return int(anchor)
    rng = np.random.default_rng((seed, 1, number))
    if role == 1:
        others = items.of(items.code[anchor])
        others = others[others != anchor]
        return int(rng.choice(others)) if len(others) else int(anchor)
    return int(rng.choice(items.of(_other_code(rng, items.code, items.code[anchor]))))


def _other_code(rng: np.random.Generator, code: np.ndarray, own: int) -> int:
    """The item of a uniformly drawn row, drawn again while it is `own`."""
    while True:
        drawn = code[rng.integers(len(code))]
        if drawn != own:
            return int(drawn)


# ------------------------------------------------------------------------------ pairs of consumer and shop
class Pairs(NamedTuple):
    """Row p: the records of consumer and shop; `last` is the shop that the consumer is paired with last."""

    consumer: np.ndarray
    shop: np.ndarray
    last: np.ndarray
    items: Items


def pairs_of(pair_id: np.ndarray, view: np.ndarray, item: np.ndarray) -> Pairs:
    """Per record: the pairs that it belongs to (lists of numbers), its view and item → the complete pairs in
    the order of their numbers."""
    sides: dict[int, dict[int, int]] = {SHOP: {}, CONSUMER: {}}
    for row, (pairs, side) in enumerate(zip(pair_id, view, strict=True)):
        for pair in pairs:
            sides[int(side)][int(pair)] = row
    numbers = sorted(sides[SHOP].keys() & sides[CONSUMER].keys())
    if not numbers:
        raise UserError("no pair of a consumer's and a shop's image is in this split")
    consumer = np.asarray([sides[CONSUMER][p] for p in numbers])
    shop = np.asarray([sides[SHOP][p] for p in numbers])
    last = dict(zip(consumer.tolist(), shop.tolist(), strict=True))
    return Pairs(
        consumer, shop, np.asarray([last[c] for c in consumer.tolist()]), items_of(np.asarray(item)[consumer])
    )


def pair_triplets(
    pair_id: np.ndarray, view: np.ndarray, item: np.ndarray, halved_label: np.ndarray | None = None
) -> Sampler:
    """Consumer, shop, other shop at consecutive positions; an epoch has every pair once.

    Positive: the shop's image that the consumer's is paired with last. Negative: a pair drawn uniformly
    until its item differs, then the shop's image of a uniform pair of that item. `halved_label` [n], a
    label per record, turns quirk S7 on: the label of pair i is that of pair i // 2. Source:
    mmfashion/datasets/Consumer_to_shop.py.
    """
    pairs = pairs_of(pair_id, view, item)
    return Sampler(3 * len(pairs.consumer), functools.partial(_pair_triplet_at, pairs, halved_label))


def _pair_triplet_at(pairs: Pairs, halved_label, seed: int, position: int):
    number, role = divmod(position, 3)
    epoch, place = divmod(number, len(pairs.consumer))
    pair = permutation(seed, epoch, len(pairs.consumer))[place]
    if role == 0 and halved_label is not None:
        return int(pairs.consumer[pair]), {"item_id": np.int32(halved_label[pairs.consumer[pair // 2]])}
    if role == 0:
        return int(pairs.consumer[pair])
    if role == 1:
        return int(pairs.last[pair])
    rng = np.random.default_rng((seed, 1, number))
    other = _other_code(rng, pairs.items.code, pairs.items.code[pair])
    return int(pairs.shop[rng.choice(pairs.items.of(other))])


# ------------------------------------------------------------------------------ balanced identities
def identity_balanced(item: np.ndarray, per_item: int, view: np.ndarray | None = None) -> Sampler:
    """`per_item` records of one item at consecutive positions, items in a fresh order each time around.

    Records of an item do not repeat before all were used. With `view` the two views alternate as far as an
    item has both. An epoch is as many positions as there are records.
    """
    if per_item < 2:
        raise UserError(f"config.retrieval.per_item={per_item}: at least 2, for a record to have a positive")
    items = items_of(item)
    return Sampler(len(items.code), functools.partial(_balanced_at, items, per_item, view))


def _balanced_at(items: Items, per_item: int, view, seed: int, position: int) -> int:
    group, slot = divmod(position, per_item)
    count = len(items.start) - 1
    epoch, place = divmod(group, count)
    rng = np.random.default_rng((seed, 2, group))
    rows = rng.permutation(items.of(permutation(seed, epoch, count)[place]))
    if view is not None:
        rows = _alternating(rows, np.asarray(view)[rows])
    return int(rows[slot % len(rows)])


def _alternating(rows: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Rows in turns of the two views, what is left of the longer one at the end."""
    turn = np.zeros(len(rows), int)
    for side in (SHOP, CONSUMER):
        turn[view == side] = np.arange((view == side).sum())
    return rows[np.lexsort((view, turn))]


# ------------------------------------------------------------------------------ outfits
NEGATIVE_TRIES = 100  # as upstream; after them the positive itself is used


class Outfits(NamedTuple):
    """Pairs of items of one outfit: `first`, `second` [p] records, and per category the records of each set
    that holds it: `member[c]` records, `start[c]` where the sets begin in it."""

    first: np.ndarray
    second: np.ndarray
    category: np.ndarray
    member: list[np.ndarray]
    start: list[np.ndarray]


def outfits_of(outfits: np.ndarray, category: np.ndarray) -> Outfits:
    """outfits: records of each outfit in file order; category [n] of every record, -1 of one that cannot be
    read and is left out."""
    first, second = [], []
    by_category: dict[int, list[list[int]]] = {}
    for rows in outfits:
        rows = np.asarray(rows)
        rows = rows[category[rows] >= 0]
        i, j = np.triu_indices(len(rows), 1)
        first.append(rows[i])
        second.append(rows[j])
        for c in np.unique(category[rows]).tolist():
            by_category.setdefault(c, []).append(rows[category[rows] == c].tolist())
    if not first or not sum(map(len, first)):
        raise UserError("no outfit of this split has two items")
    count = int(np.max(category)) + 1
    sets = [by_category.get(c, []) for c in range(count)]
    return Outfits(
        np.concatenate(first),
        np.concatenate(second),
        np.asarray(category),
        [np.asarray([row for rows in of for row in rows], np.int64) for of in sets],
        [np.cumsum([0, *map(len, of)]) for of in sets],
    )


def typed_triplets(outfits: np.ndarray, category: np.ndarray) -> Sampler:
    """Anchor, positive, negative at consecutive positions; an epoch has every two items of each outfit once,
    the earlier one as anchor.

    Negative: a set drawn uniformly among those that hold the positive's category, then an item of it of that
    category; drawn again while it is the positive, at most 100 times. It may come from the anchor's own
    outfit. Source: the Polyvore Outfits dataset of MMFashion and of Vasileva et al. 2018.
    """
    found = outfits_of(outfits, category)
    return Sampler(3 * len(found.first), functools.partial(_typed_at, found))


def _typed_at(found: Outfits, seed: int, position: int) -> int:
    number, role = divmod(position, 3)
    epoch, place = divmod(number, len(found.first))
    pair = permutation(seed, epoch, len(found.first))[place]
    if role == 0:
        return int(found.first[pair])
    positive = int(found.second[pair])
    if role == 1:
        return positive
    rng = np.random.default_rng((seed, 1, number))
    member, start = found.member[found.category[positive]], found.start[found.category[positive]]
    for _ in range(NEGATIVE_TRIES):
        chosen = rng.integers(len(start) - 1)
        negative = int(member[rng.integers(start[chosen], start[chosen + 1])])
        if negative != positive:
            return negative
    return positive


def whole_outfits(outfits: np.ndarray, slots: int) -> Sampler:
    """The items of one outfit at `slots` consecutive positions, outfits of two items and more in a fresh
    order each epoch.

    A position gives `in_outfit`: False behind the items of an outfit that has fewer, where its first item
    stands once more. Of a larger outfit a fresh random part is taken.
    """
    if slots < 2:
        raise UserError(f"config.outfit.slots={slots}: an outfit needs at least 2")
    rows = [np.asarray(outfit) for outfit in outfits if len(outfit) > 1]
    if not rows:
        raise UserError("no outfit of this split has two items")
    return Sampler(slots * len(rows), functools.partial(_whole_at, rows, slots))


def _whole_at(rows: list, slots: int, seed: int, position: int) -> tuple[int, dict]:
    number, slot = divmod(position, slots)
    epoch, place = divmod(number, len(rows))
    outfit = rows[permutation(seed, epoch, len(rows))[place]]
    chosen = np.random.default_rng((seed, 3, number)).permutation(outfit)[:slots]
    inside = slot < len(chosen)
    return int(chosen[slot if inside else 0]), {"in_outfit": np.bool_(inside)}


# ------------------------------------------------------------------------------ repeat factors
@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, for the caches below
class Repeats:
    """rows [n] records, factor [n] how often an epoch repeats each on average."""

    rows: np.ndarray
    factor: np.ndarray


def repeat_factors(category: Sequence[Sequence[int]], threshold: float) -> np.ndarray:
    """Categories of the objects of each image → r(image) [n] float64, 0 for an image without objects.

    f(c) is the share of images with objects that show c, r(c) = max(1, sqrt(threshold / f(c))), and r(image)
    the largest of its categories. Gupta et al., LVIS, arXiv:1908.03195; detectron2's
    RepeatFactorTrainingSampler.
    """
    if not threshold > 0:
        raise UserError(f"repeat threshold {threshold}: must be above 0")
    shown = [np.unique(np.asarray(labels, np.int64)) for labels in category]
    images = sum(len(labels) > 0 for labels in shown)
    if not images:
        raise UserError("no image of this split has an object")
    count = np.bincount(np.concatenate(shown))
    per_category = np.maximum(1.0, np.sqrt(threshold * images / np.maximum(count, 1)))
    return np.array([per_category[labels].max() if len(labels) else 0.0 for labels in shown])


def repeated(category: Sequence[Sequence[int]], threshold: float, rows: np.ndarray | None = None) -> Sampler:
    """Images of rare categories more often; images without objects never.

    Each epoch has floor(r) copies of an image and one more with probability r - floor(r), shuffled, so epochs
    differ a little in length; `epoch` is the mean. `rows` (default: all) are the records to draw from.
    """
    rows = np.arange(len(category)) if rows is None else np.asarray(rows)
    factor = repeat_factors([category[row] for row in rows], threshold)
    return Sampler(
        max(1, round(float(factor.sum()))),
        functools.partial(_repeated_at, Repeats(rows, factor)),
    )


def class_balanced(category: np.ndarray, power: float) -> Sampler:
    """Records of rare categories more often and of frequent ones less: a record's expected number in an epoch
    is proportional to n(its category)^-power, and an epoch has as many positions as there are records on
    average. power 0: as they are; 1: every category alike. Records of no category (negative) are left out.
    """
    if not 0 <= power <= 1:
        raise UserError(f"config.class_balance={power}: expected a number from 0 to 1")
    rows = np.flatnonzero(np.asarray(category) >= 0)
    if not len(rows):
        raise UserError("no record of this split has a category")
    label = np.asarray(category)[rows]
    factor = np.bincount(label)[label].astype(np.float64) ** -power
    factor *= len(rows) / factor.sum()
    return Sampler(len(rows), functools.partial(_repeated_at, Repeats(rows, factor)))


def _repeated_at(repeats: Repeats, seed: int, position: int) -> int:
    epoch = 0
    while (end := _epoch_end(repeats, seed, epoch)) <= position:
        epoch += 1
    rows = _epoch_rows(repeats, seed, epoch)
    return int(rows[position - (end - len(rows))])


@functools.lru_cache(maxsize=8)
def _epoch_rows(repeats: Repeats, seed: int, epoch: int) -> np.ndarray:
    """The records of one epoch in their order."""
    rng = np.random.default_rng((seed, 4, epoch))
    low = np.floor(repeats.factor)
    copies = (low + (rng.random(len(low)) < repeats.factor - low)).astype(np.int64)
    return rng.permutation(np.repeat(repeats.rows, copies))


@functools.lru_cache(maxsize=1 << 16)
def _epoch_end(repeats: Repeats, seed: int, epoch: int) -> int:
    """The position after an epoch's last one; asked for in the order of epochs."""
    before = _epoch_end(repeats, seed, epoch - 1) if epoch else 0
    return before + len(_epoch_rows(repeats, seed, epoch))
