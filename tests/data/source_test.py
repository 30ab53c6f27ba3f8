"""Prepared splits: joined splits with roles, whole columns, the items of a dataset."""

import json
import pickle
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from pyarrow import parquet

from fashionjax.data import builders, columns, source
from fashionjax.errors import UserError
from fashionjax.runtime import datasets

NAME = "synthetic_fashion/consumer_to_shop"
SIZES = {"train_items": "3", "val_items": "1", "test_items": "2", "consumer_views": "1", "size": "48"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    builders.prepare(NAME, data_dir=folder, overrides=SIZES, progress=False)
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
    pairs = split.column("pair_id")  # three of a consumer's image, one of a shop's
    assert [list(row) for row in pairs] == [list(record["pair_id"]) for record in records]
    assert {len(row) for row in pairs} == {1, 3}
    with pytest.raises(UserError, match="no feature 'colour'"):
        split.column("colour")


def test_columns_pass_over_a_damaged_record(data_dir, tmp_path):
    """Without label columns the others keep their values and places, and the items of all splits are still
    those."""
    before = source.open_split(NAME, "train", data_dir)
    copy = without_column_files(data_dir, tmp_path)
    (file,) = copy.glob("**/*train.array_record*")
    raw = bytearray(file.read_bytes())
    at = next(at for at in (raw.find(before[i]["image"][40:60]) for i in range(12)) if at >= 0)
    raw[at : at + 30] = bytes(30)
    file.write_bytes(raw)
    split, broken = source.open_split(NAME, "train", copy), []
    for i in range(len(split)):
        try:
            split[i]
        except source.DamagedRecord:
            broken.append(i)
    assert broken
    whole = [i for i in range(12) if i not in broken]
    for name in ("item_id", "view", "pair_id"):
        there, here = before.column(name), split.column(name)
        assert [np.array_equal(there[i], here[i]) for i in range(12)] == [i in whole for i in range(12)]
    assert {split.column("item_id")[i] for i in broken} == {""}
    assert {int(split.column("view")[i]) for i in broken} == {-1}
    assert "" not in source.item_names(source.find(NAME, copy))
    builders.prepare(NAME, data_dir=copy, overrides=SIZES, progress=False)  # usable as it is
    folder = source.find(NAME, copy)
    assert not (folder / "columns-train.parquet").exists() and (folder / "columns-val.parquet").exists()


def test_items_are_those_of_all_splits_in_order(data_dir):
    names = source.item_names(source.find(NAME, data_dir))
    assert names == sorted(names) and len(names) == 3 + 1 + 2
    split = source.open_split(NAME, "val", data_dir)
    assert set(split.column("item_id")) < set(names)


@pytest.fixture(scope="module")
def outfits_dir(data_dir, tmp_path_factory):
    """The same dataset with tables of its splits and type spaces in the metadata."""
    folder = tmp_path_factory.mktemp("tables") / "data"
    shutil.copytree(data_dir, folder)
    tables = {
        "train": {
            "outfit": [[3, 0], [11, 2, 5], [4, 4]],
            "compatibility_label": [1, 0, 1],
            "outfit_id": ["a", "b", "c"],
            "answer": [[1, 2], [0, 3]],
        },
        "val": {"question": []},
    }
    file = source.find(NAME, folder) / "metadata.json"
    metadata = json.loads(file.read_text())
    file.write_text(
        json.dumps(metadata | {"tables": tables, "type_spaces": [["top", "shoe"], ["bag", "top"]]})
    )
    return folder


def test_tables_of_a_split_are_columns(outfits_dir):
    split = source.open_split(NAME, "train", outfits_dir)
    outfit = split.column("outfit")
    assert [row.tolist() for row in outfit] == [[3, 0], [11, 2, 5], [4, 4]]
    assert outfit.dtype == object and all(row.dtype == np.int64 for row in outfit)
    answer = split.column("answer")  # rows of one length are rows all the same
    assert answer.shape == (2,) and answer[1].tolist() == [0, 3]
    assert split.column("compatibility_label").tolist() == [1, 0, 1]
    assert split.column("outfit_id").tolist() == ["a", "b", "c"]
    assert len(split.column("item_id")) == len(split) == 12
    assert len(source.open_split(NAME, "val", outfits_dir).column("question")) == 0
    with pytest.raises(UserError, match=r"no feature 'outfits'; it has .*image.*, outfit, "):
        split.column("outfits")
    with pytest.raises(UserError, match="no feature 'outfit'"):
        source.open_split(NAME, "val", outfits_dir).column("outfit")


def test_a_table_belongs_to_one_split(outfits_dir):
    for name in ("train+val", "val+train"):
        with pytest.raises(UserError, match="'outfit' is a table of one split"):
            source.open_split(NAME, name, outfits_dir).column("outfit")
        with pytest.raises(UserError, match="no feature 'colour'"):
            source.open_split(NAME, name, outfits_dir).column("colour")


def test_type_spaces_survive_the_checkpoint_config(outfits_dir):
    split = source.open_split(NAME, "train", outfits_dir)
    assert split.labels["type_space"] == [["top", "shoe"], ["bag", "top"]]
    config = ConfigDict({"labels": {}, "dataset": NAME})
    datasets.attach_labels(config, split)
    again = ConfigDict(json.loads(config.to_json()))
    assert [list(pair) for pair in again.labels.type_space] == split.labels["type_space"]
    assert again.labels.type_space == config.labels.type_space


# ------------------------------------------------------------------------------ label columns
@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    """A dataset whose records hold a list of objects, with label columns."""
    folder = tmp_path_factory.mktemp("instances")
    sizes = {"train": "5", "val": "1", "test": "1", "size": "48"}
    builders.prepare("synthetic_fashion/instances", data_dir=folder, overrides=sizes, progress=False)
    return folder


@pytest.fixture
def no_records(monkeypatch):
    """Reading a record fails the test."""

    monkeypatch.setattr(source.Split, "_source", lambda self: pytest.fail("a record was read"))
    source._read_column.cache_clear()


def equal(found, expected):
    """Two columns: dtype, shape and every value."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if found.dtype == object:
        for here, there in zip(found, expected):
            equal(here, there)
    else:
        np.testing.assert_array_equal(found, expected)


def without_column_files(data_dir, folder):
    """A copy as it was prepared before there were label columns."""
    copy = folder / "data"
    shutil.copytree(data_dir, copy)
    for file in copy.rglob("columns-*.parquet"):
        file.unlink()
    return copy


def every_column(name, split, data_dir):
    opened = source.open_split(name, split, data_dir)
    return {column: opened.column(column) for column in source._columns(opened.folder)}


@pytest.mark.parametrize("split", ["train", "query", "gallery"])
def test_columns_are_read_without_a_record(data_dir, tmp_path, split, no_records, monkeypatch):
    found = every_column(NAME, split, data_dir)
    source.item_names(source.find(NAME, data_dir))
    assert {"image_id", "item_id", "pair_id", "landmark", "box", "category"} <= set(found)
    monkeypatch.undo()
    expected = every_column(NAME, split, without_column_files(data_dir, tmp_path))
    assert found.keys() == expected.keys()
    for name in found:
        equal(found[name], expected[name])


def test_fields_of_a_list_of_objects_are_columns(instances, tmp_path, no_records, monkeypatch):
    name = "synthetic_fashion/instances"
    split = source.open_split(name, "train", instances)
    small = {field: split.column(f"instance/{field}") for field in ("category", "box", "area", "iscrowd")}
    monkeypatch.undo()
    file = columns.file_of(split.folder, "train")
    stored = set(parquet.read_schema(file).names)
    assert {f"instance/{field}" for field in small} <= stored
    assert "instance/segmentation" not in stored  # read from the records
    found = every_column(name, "train", instances)
    for field, column in small.items():
        equal(column, found[f"instance/{field}"])
    records = [split[i]["instance"] for i in range(5)]
    assert [len(row) for row in found["instance/category"]] == [len(r["category"]) for r in records]
    for i, record in enumerate(records):
        np.testing.assert_array_equal(found["instance/category"][i], record["category"])
        np.testing.assert_array_equal(found["instance/landmark"][i], np.stack(record["landmark"]))
        assert found["instance/segmentation"][i].tolist() == [t.decode() for t in record["segmentation"]]
    expected = every_column(name, "train", without_column_files(instances, tmp_path))
    for column in found:
        equal(found[column], expected[column])
    with pytest.raises(UserError, match=r"no feature 'instance/colour'; it has .*instance/box"):
        split.column("instance/colour")


def test_columns_over_several_row_groups(tmp_path, monkeypatch):
    """Empty lists at the edges, more records than are held in memory, and a split without records."""
    monkeypatch.setattr(columns, "ROWS", 2)
    kinds = {
        "name": columns.Column(("name",), None, (), False),
        "point": columns.Column(("point",), np.dtype(np.float32), (2, 2), False),
        "tag": columns.Column(("tag",), None, (), True),
        "box": columns.Column(("one", "box"), np.dtype(np.uint8), (4,), True),
    }
    rng = np.random.default_rng(0)
    counts = (0, 3, 0, 0, 1)
    records = [
        {
            "name": "é" * n,
            "point": rng.random((2, 2), np.float32),
            "tag": [f"t{i}" for i in range(n)],
            "one": {"box": [rng.integers(0, 255, 4, np.uint8) for _ in range(n)]},
        }
        for n in counts
    ]
    for rows in (records, []):
        path = tmp_path / f"columns-{len(rows)}.parquet"
        columns.write(path, kinds, rows)
        for name, column in kinds.items():
            found = columns.read(path, name, column, len(rows))
            equal(found, column.stack([column.pick(record) for record in rows]))
    assert columns.read(path, "colour", kinds["name"], 0) is None
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_unfinished_column_file_is_not_left(tmp_path):
    def rows():
        yield {"name": "a"}
        raise OSError("disk full")

    path = tmp_path / "columns-train.parquet"
    with pytest.raises(OSError, match="disk full"):
        columns.write(path, {"name": columns.Column(("name",), None, (), False)}, rows())
    assert not list(tmp_path.iterdir())


def test_column_file_of_another_dataset_is_refused(data_dir, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    folder = source.find(NAME, copy)
    shutil.copy(folder / "columns-val.parquet", folder / "columns-query.parquet")
    with pytest.raises(UserError, match=r"columns-query.parquet: holds 4 records, the split has 2; delete"):
        source.open_split(NAME, "query", copy).column("item_id")
    (folder / "columns-gallery.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"columns-gallery.parquet: not readable \(.*prepare"):
        source.open_split(NAME, "gallery", copy).column("item_id")


def test_preparing_again_adds_missing_columns(data_dir, tmp_path):
    copy = without_column_files(data_dir, tmp_path)
    builders.prepare(NAME, data_dir=copy, overrides=SIZES, progress=False)
    for file in source.find(NAME, data_dir).glob("columns-*.parquet"):
        assert (source.find(NAME, copy) / file.name).read_bytes() == file.read_bytes()


def test_large_values_and_texts_of_objects_are_not_stored_again():
    kinds = {
        "title": columns.Column(("title",), None, (), False),
        "point": columns.Column(("point",), np.dtype(np.float32), (294, 2), False),
        "one/box": columns.Column(("one", "box"), np.dtype(np.float32), (4,), True),
        "one/outline": columns.Column(("one", "outline"), None, (), True),
        "one/landmark": columns.Column(("one", "landmark"), np.dtype(np.float32), (294, 2), True),
    }
    assert list(columns.stored(kinds)) == ["title", "point", "one/box"]
