"""Pairs of a consumer's photo and the shop's image of the same item, and the records that splits make of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfds_builders.annotations import Lines, Partition, check_splits, fields_of, lines_of, picture_name
from tfds_builders.derived import ItemNames, parse_item, read_aligned_items, read_pictures, read_plain
from tfds_builders.release import Release, TextFile, read_table, require_text

SHOP, CONSUMER = 0, 1
SPLITS = ("train", "val", "test")


class Pairs(NamedTuple):
    """Row p: consumer image, shop image, their items (equal, except where derived lists disagree),
    split.
    """

    lines: Lines
    consumer: list[str]
    shop: list[str]
    consumer_item: list[str]
    shop_item: list[str]
    split: list[str]
    merged: int = 0


class Entries(NamedTuple):
    """The images of a split, each with its pairs."""

    image: list[str]
    view: list[int]
    item: list[str]
    pairs: list[list[int]]

    def __len__(self) -> int:
        return len(self.image)


# ------------------------------------------------------------------------------ reading
def read_pairs(text: TextFile) -> Pairs:
    """`Eval/list_eval_partition.txt`: consumer image, shop image, item, split; the count line counts
    pairs.
    """
    consumer, shop, item, split, line = [], [], [], [], []
    first: dict[tuple[str, str], int] = {}
    merged = 0
    for row in read_table(text).rows():
        fields = fields_of(text, row, 4, "consumer image, shop image, item id, split")
        photo, product = (picture_name(text, row, name) for name in fields[:2])
        if fields[3] not in SPLITS:
            raise text.error(row.line, f"split {fields[3]!r} is not one of {', '.join(SPLITS)}")
        before = first.setdefault((photo, product), len(line))
        if before < len(line):
            if (item[before], split[before]) != (fields[2], fields[3]):
                raise text.error(row.line, f"the pair has another item or split than on line {line[before]}")
            merged += 1
            continue
        consumer.append(photo)
        shop.append(product)
        item.append(fields[2])
        split.append(fields[3])
        line.append(row.line)
    check_splits(text, split, SPLITS)
    return Pairs(lines_of(text, line), consumer, shop, item, item, split, merged)


def read_derived_pairs(release: Release, items: ItemNames | None) -> dict[str, Pairs]:
    """MMFashion's lists → pairs of "train" and of "test" (its val and test merged)."""
    return {"train": _derived_train(release, items), "test": _derived_test(release, items)}


def _derived_train(release: Release, items: ItemNames | None) -> Pairs:
    text = require_text(release, "train_consumer2shop.txt", ("Anno",))
    rows = read_plain(text)
    names = [[picture_name(text, row, n) for n in fields_of(text, row, 2, "two images")] for row in rows]
    ids_text = require_text(release, "train_id.txt", ("Anno",))
    ids = read_plain(ids_text)
    if len(ids) != 2 * len(rows):
        raise ids_text.error(
            min(len(ids), 2 * len(rows)) + 1, f"{len(ids)} rows for the {len(rows)} pairs of {text.label}"
        )
    item = [parse_item(ids_text, row, fields_of(ids_text, row, 1, "item")[0], items) for row in ids]
    lines = lines_of(text, [row.line for row in rows])
    return Pairs(lines, *(list(side) for side in zip(*names)), item[0::2], item[1::2], ["train"] * len(rows))


def _derived_test(release: Release, items: ItemNames | None) -> Pairs:
    sides = {side: require_text(release, f"{side}.txt", ("Anno",)) for side in ("consumer", "shop")}
    consumer, lines = read_pictures(sides["consumer"], unique=False)
    shop, _ = read_pictures(sides["shop"], unique=False)
    if len(shop) != len(consumer):
        message = f"{len(shop)} rows for the {len(consumer)} rows of {sides['consumer'].label}"
        raise sides["shop"].error(min(len(shop), len(consumer)) + 1, message)
    ids = [
        read_aligned_items(require_text(release, f"{side}_id.txt", ("Anno",)), text, len(consumer), items)
        for side, text in sides.items()
    ]
    return Pairs(lines_of(sides["consumer"], lines), consumer, shop, *ids, ["test"] * len(consumer))


# ------------------------------------------------------------------------------ records
def picture_list(pairs: Pairs) -> Partition:
    """Every image once, in order of appearance; ReleaseError when one has two items or both views."""
    known: dict[str, tuple[int, str]] = {}
    image, item, line = [], [], []
    for p in range(len(pairs.consumer)):
        for view, name, identity in _sides(pairs, p):
            before = known.setdefault(name, (view, identity))
            if before[0] != view:
                raise pairs.lines.error(
                    p, f"image {name} is a consumer's photo in one pair, a shop's in another"
                )
            if before[1] != identity:
                raise pairs.lines.error(p, f"image {name} shows item {identity} here, but {before[1]} before")
            if len(known) > len(image):
                image.append(name)
                item.append(identity)
                line.append(int(pairs.lines.line[p]))
    return Partition(pairs.lines.texts[0], image, [""] * len(image), line, item)


def _sides(pairs: Pairs, p: int) -> tuple[tuple[int, str, str], ...]:
    consumer = CONSUMER, pairs.consumer[p], pairs.consumer_item[p]
    return consumer, (SHOP, pairs.shop[p], pairs.shop_item[p])


def unique_entries(pairs: Pairs, rows: Iterable[int], views: Sequence[int] = (CONSUMER, SHOP)) -> Entries:
    """One entry per image of the pairs in `rows`, listing all of its pairs among them."""
    entries = Entries([], [], [], [])
    position: dict[str, int] = {}
    for p in rows:
        for view, name, item in _sides(pairs, p):
            if view not in views:
                continue
            if name not in position:
                position[name] = len(entries)
                for column, value in zip(entries, (name, view, item, [])):
                    column.append(value)
            entries.pairs[position[name]].append(int(p))
    return entries


def paired_entries(pairs: Pairs, rows: Iterable[int], view: int) -> Entries:
    """One entry per pair in `rows`: images of several pairs repeat."""
    entries = Entries([], [], [], [])
    for p in rows:
        _, name, item = next(side for side in _sides(pairs, p) if side[0] == view)
        for column, value in zip(entries, (name, view, item, [int(p)])):
            column.append(value)
    return entries


def rows_of(pairs: Pairs, *splits: str) -> np.ndarray:
    """The rows of some splits, in file order."""
    return np.flatnonzero(np.isin(pairs.split, splits))
