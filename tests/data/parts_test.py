"""The validation part of training items: disjoint by item, seeded, every query with a match."""

from types import SimpleNamespace

import numpy as np
import pytest

from fashionjax.data import parts
from fashionjax.errors import UserError

ITEMS = np.asarray([f"id_{i:02d}" for i in range(20) for _ in range(1 + i % 3)] + [""])


class FakeSplit(SimpleNamespace):
    def __len__(self):
        return len(ITEMS)

    def __getitem__(self, index):
        return {"item_id": ITEMS[index], "number": index}

    def column(self, name):
        return ITEMS


SPLIT = FakeSplit(folder=None, dataset="shop", labels={}, features=("item_id",), synthetic=True, name="train")


def test_items_are_held_out_whole_with_queries_and_gallery():
    trained, held = parts.hold_out(SPLIT, 0.3, 0)
    assert len(trained) + len(held) == len(ITEMS) and (trained.name, held.name) == ("train", "validation")
    assert not set(trained.column("item_id")) & set(held.column("item_id"))
    records = [held[i] for i in range(len(held))]
    assert [record["item_id"] for record in records] == held.column("item_id").tolist()
    queries = [record["item_id"] for record in records if record["role"] == parts.QUERY]
    gallery = [record["item_id"] for record in records if record["role"] == parts.GALLERY]
    assert len(queries) == len(set(queries)) == 4 and set(queries) == set(gallery)
    assert "role" not in trained[0]


def test_the_part_goes_by_the_seed():
    rows = [parts.hold_out(SPLIT, 0.3, seed)[1].rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_too_few_items():
    with pytest.raises(UserError, match=r"validation\.share=1\.0"):
        parts.hold_out(SPLIT, 1.0, 0)
