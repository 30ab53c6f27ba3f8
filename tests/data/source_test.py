"""Prepared splits: joined splits with roles, whole columns, the items of a dataset."""

import pickle

import numpy as np
import pytest

from fashionjax import prepare
from fashionjax.data import source
from fashionjax.errors import UserError

NAME = "synthetic_fashion/consumer_to_shop"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    sizes = {"train_items": "3", "val_items": "1", "test_items": "2", "consumer_views": "1", "size": "48"}
    prepare.prepare(NAME, data_dir=folder, overrides=sizes, progress=False)
    return folder


def test_joined_splits_are_one_after_the_other(data_dir):
    joined = source.open_split(NAME, "query+gallery", data_dir)
    parts = [source.open_split(NAME, name, data_dir) for name in ("query", "gallery")]
    assert [len(joined), *map(len, parts)] == [8, 2, 6] and joined.name == "query+gallery"
    assert [joined[i]["role"] for i in range(8)] == [0] * 2 + [1] * 6
    assert "role" not in parts[0][0]
    expected = [part[i]["image_id"] for part in parts for i in range(len(part))]
    assert [joined[i]["image_id"] for i in range(8)] == expected == joined.column("image_id").tolist()
    assert joined.labels == parts[0].labels and joined.dataset == parts[0].dataset
    again = pickle.loads(pickle.dumps(joined))  # as a worker process gets it
    assert again[7]["image_id"] == expected[7]
    with pytest.raises(UserError, match="no split 'galery'"):
        source.open_split(NAME, "query+galery", data_dir)


def test_columns_are_the_records_values(data_dir):
    split = source.open_split(NAME, "train", data_dir)
    records = [split[i] for i in range(len(split))]
    assert split.column("item_id").tolist() == [record["item_id"] for record in records]
    assert split.column("view").tolist() == [record["view"] for record in records]
    landmark = split.column("landmark")
    assert landmark.shape == (12, 8, 2)
    np.testing.assert_array_equal(landmark[5], records[5]["landmark"])
    pairs = split.column("pair_id")  # three of a consumer's picture, one of a shop's
    assert [list(row) for row in pairs] == [list(record["pair_id"]) for record in records]
    assert {len(row) for row in pairs} == {1, 3}
    with pytest.raises(UserError, match="no feature 'colour'"):
        split.column("colour")


def test_items_are_those_of_all_splits_in_order(data_dir):
    names = source.item_names(source.find(NAME, data_dir))
    assert names == sorted(names) and len(names) == 3 + 1 + 2
    split = source.open_split(NAME, "val", data_dir)
    assert set(split.column("item_id")) < set(names)
