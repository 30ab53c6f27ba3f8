"""Splits of attribute-specific retrieval as (image, attribute) pairs.

A record of these datasets has parallel lists `attribute`, `value`, `role` [p]: an attribute of the image, its
value, and whether the pair is a query or a candidate of the evaluation. One image may be listed with several
attributes, and with several values of one attribute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

LABEL, QUERY, CANDIDATE = 0, 1, 2  # values of `role`; LABEL: known of the image, but not evaluated
LISTS = ("attribute", "value", "role", "part_box")  # what a record holds per pair
NEEDED = frozenset(LISTS[:3])
RECORD, VALUES = "record", "values"  # columns of pairs alone


def has_pairs(features: Iterable[str]) -> bool:
    """Whether the features of a dataset are those of attribute-specific retrieval."""
    return set(features) >= NEEDED


class Pairs:
    """The pairs of a split, as `data.source.Split`: `pairs[i]` is the record of pair i with the scalars
    `attribute`, `value`, `role` (and `part_box` [4]) in place of its lists.

    Where a split has queries or candidates, those are its pairs; in a split without any, such as train, every
    label is one. Pairs are in the order of records, a pure function of the label columns.
    """

    def __init__(self, split):
        self.split, self.name = split, split.name
        self.folder, self.dataset, self.labels = split.folder, split.dataset, split.labels
        self.synthetic, self.tables = split.synthetic, ()
        self.lists = tuple(name for name in LISTS if name in split.features)
        self.features = (*split.features, RECORD)
        role = split.column("role")
        count = np.asarray([len(of) for of in role], np.int64)
        row = np.repeat(np.arange(len(count)), count)
        place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        flat = np.concatenate([*role, np.zeros(0, np.int32)])
        kept = flat != LABEL if (flat != LABEL).any() else np.ones(len(flat), bool)
        self.kept, self.row, self.place = kept, row[kept], place[kept]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, place = int(self.row[index]), int(self.place[index])
        record = self.split[row]
        return record | {name: np.asarray(record[name])[place] for name in self.lists} | {RECORD: row}

    def column(self, name: str) -> np.ndarray:
        """As `Split.column`, a value per pair. `record` is the number of the pair's record in the split,
        `values` an array of all values that the record has of the pair's attribute."""
        if name == RECORD:
            return self.row
        if name == VALUES:
            return self._values()
        whole = self.split.column(name)
        if name in self.lists:
            return np.concatenate(whole)[self.kept] if len(whole) else np.zeros(0)
        return whole[self.row]

    def _values(self) -> np.ndarray:
        attribute, value = self.split.column("attribute"), self.split.column("value")
        found = np.empty(len(self), object)
        for pair, (row, own) in enumerate(zip(self.row.tolist(), self.column("attribute").tolist())):
            found[pair] = value[row][attribute[row] == own]
        return found
