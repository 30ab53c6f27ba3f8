"""(image, attribute) pairs of a split: which there are, their records and their columns."""

import pickle

import numpy as np
import pytest

from fashionjax.data import pairs

# attribute, value, role of each record
TEST = [
    ([0, 1], [2, 0], [1, 0]),
    ([1], [0], [2]),
    ([], [], []),
    ([0, 0, 1], [2, 3, 1], [2, 0, 1]),
]
TRAIN = [(attribute, value, [0] * len(value)) for attribute, value, _ in TEST]


class FakeSplit:
    """Records as a prepared split gives them."""

    folder, dataset, labels, name = None, "pairs", {"attribute": ["collar", "hem"]}, "test"
    features, synthetic, tables = ("image", "image_id", "attribute", "value", "role", "part_box"), True, ()

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        lists = dict(zip(("attribute", "value", "role"), self.rows[index], strict=True))
        boxes = [[10 * index + p, 0, 1, 1] for p in range(len(self.rows[index][0]))]
        return {"image": b"", "image_id": f"{index}.jpg", "part_box": boxes} | lists

    def column(self, name):
        if name == "image_id":
            return np.asarray([f"{i}.jpg" for i in range(len(self))])
        column = np.empty(len(self), object)
        for i in range(len(self)):
            column[i] = np.asarray(self[i][name], np.float32 if name == "part_box" else np.int32)
            column[i] = column[i].reshape(-1, 4) if name == "part_box" else column[i]
        return column


def test_a_split_with_queries_has_those_pairs_alone():
    view = pairs.Pairs(FakeSplit(TEST))
    assert len(view) == 4
    found = [
        (r["image_id"], r["attribute"], r["value"], r["role"], r["record"])
        for r in map(view.__getitem__, range(4))
    ]
    assert found == [
        ("0.jpg", 0, 2, 1, 0),
        ("1.jpg", 1, 0, 2, 1),
        ("3.jpg", 0, 2, 2, 3),
        ("3.jpg", 1, 1, 1, 3),
    ]
    assert [view[i]["part_box"].tolist()[0] for i in range(4)] == [0, 10, 30, 32]


@pytest.mark.parametrize("rows, count", [(TEST, 4), (TRAIN, 6)])
def test_columns_are_the_records_values(rows, count):
    view = pairs.Pairs(FakeSplit(rows))
    assert len(view) == count
    for name in ("image_id", "attribute", "value", "role", "record", "part_box"):
        column = view.column(name)
        assert len(column) == count
        for i in range(count):
            assert np.array_equal(column[i], view[i][name]), name
    again = pickle.loads(pickle.dumps(view))  # as a worker process gets it
    assert again[count - 1]["value"] == view[count - 1]["value"]


def test_all_values_of_the_pairs_attribute():
    values = pairs.Pairs(FakeSplit(TEST)).column("values")
    assert [sorted(of.tolist()) for of in values] == [[2], [0], [2, 3], [1]]


def test_which_datasets_have_pairs():
    assert pairs.has_pairs(FakeSplit.features)
    assert not pairs.has_pairs(("image", "attribute", "role"))
