"""A validation part of the training items, for retrieval benchmarks whose release has none.

A model is chosen on items that it was not trained on and that are not those of the reported split.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fashionjax.data.source import Split
from fashionjax.errors import UserError

VALIDATION = "validation"
QUERY, GALLERY = 0, 1


class Part:
    """Some records of a split, as `Split`; with `role` [n] (query 0, gallery 1) each record has its own."""

    def __init__(self, split: Split, name: str, rows: np.ndarray, role: np.ndarray | None = None):
        self.split, self.name, self.rows, self.role = split, name, rows, role
        self.folder, self.dataset, self.labels = split.folder, split.dataset, split.labels
        self.features, self.synthetic, self.tables = split.features, split.synthetic, ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.split[int(self.rows[index])]
        return record if self.role is None else record | {"role": int(self.role[index])}

    def column(self, name: str) -> np.ndarray:
        """As `Split.column`, of these records."""
        return self.split.column(name)[self.rows]


def hold_out(split: Split, share: float, seed: int) -> tuple[Part, Part]:
    """(training part, validation part): `share` of the items with two images or more are held out, drawn by
    `seed`. The first image of each is its query, the others are its gallery."""
    item = split.column("item_id")
    names, first, of_item, count = np.unique(item, return_index=True, return_inverse=True, return_counts=True)
    able = np.flatnonzero((count > 1) & (names != ""))  # "": a damaged record
    wanted = max(2, round(share * len(able)))
    if wanted >= len(able):
        raise UserError(
            f"config.validation.share={share}: {split.dataset}/{split.name} has {len(able)} items with two "
            "images or more, too few to hold some out"
        )
    held = np.isin(of_item, np.random.default_rng(seed).permutation(able)[:wanted])
    rows = np.flatnonzero(held)
    role = np.where(first[of_item[rows]] == rows, QUERY, GALLERY)
    return Part(split, split.name, np.flatnonzero(~held)), Part(split, VALIDATION, rows, role)
