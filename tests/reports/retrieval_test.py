"""What a retrieval evaluation says beside its numbers."""

import types

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.reports import retrieval as retrieval_report


def test_queries_without_a_match_are_named(capsys):
    columns = {
        "item_id": np.array(["x", "id_1", "id_2", "id_2", "x"]),
        "image_id": np.array(["x", "img/a.jpg", "img/b.jpg", "img/c.jpg", "x"]),
    }
    split = types.SimpleNamespace(dataset="shop", name="query+gallery", column=columns.get)
    identity = np.array([[1, 7], [2, 0], [2, 0]], np.int32)
    truth = {"index": np.array([1, 2, 3]), "identity": identity, "role": np.array([0, 0, 1])}
    with pytest.raises(UserError) as caught:
        retrieval_report.scored(truth, split)
    assert str(caught.value) == (
        "shop/query+gallery: 1 of 2 queries have no picture of their item in the gallery: img/a.jpg of item "
        "id_1; pass --allow_missing to evaluate the others"
    )
    assert retrieval_report.scored(truth, split, allow_missing=True).tolist() == [False, True, True]
    assert "img/a.jpg of item id_1; evaluated without them" in capsys.readouterr().err
    truth["identity"] = identity[[1, 1, 1]]
    assert retrieval_report.scored(truth, split).all() and not capsys.readouterr().err
