"""Retrieval metrics: the original's stored figures, the example written out by hand, naive loops."""

from pathlib import Path

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.gallery import index as galleries
from fashionjax.metrics import retrieval as metrics
from fashionjax.task import Context

GOLDEN = np.load(Path(__file__).parent.parent / "fixtures" / "metrics" / "retrieval_recall.npz")


def ranked(query, rows, query_id, gallery_id):
    """The ranks of each query's relevant rows under cosine similarity, by the product's own search."""
    gallery = galleries.build([(rows, map(str, range(len(rows))))], "cosine")
    return galleries.ranks(gallery, query, metrics.relevant_rows(query_id, gallery_id)), gallery


def test_goldens():
    ranks, gallery = ranked(*(GOLDEN[name] for name in ("query", "gallery", "query_id", "gallery_id")))
    values = metrics.retrieval_metrics(ranks, tuple(GOLDEN["topk"]))
    relevant = [len(rank) for rank in ranks]
    _, index = galleries.search(gallery, GOLDEN["query"], 50)
    match = metrics.matches(index, GOLDEN["query_id"], GOLDEN["gallery_id"])
    np.testing.assert_array_equal(match, metrics.matches_from_ranks(ranks, 50))
    for row, k in enumerate(GOLDEN["topk"]):
        np.testing.assert_allclose(
            metrics.zoo_recall(match, relevant, k), GOLDEN["per_query"][row], rtol=1e-9
        )
        assert values[f"zoo/recall@{k}"] == pytest.approx(float(GOLDEN["recall"][row]), rel=1e-9)
    hits = [100 * values[f"standard/recall@{k}"] for k in GOLDEN["topk"]]
    np.testing.assert_allclose(hits, [84, 88, 96, 100, 100, 100])


def test_written_out():
    query = np.array([[1.0, 0], [0, 1]])
    rows = np.array([[10, 1], [5, 6], [1, 1], [0, 1], [3, 0], [0.1, 1]])
    gallery_id = np.array([0, 1, 0, 0, 2, 1])
    ranks, gallery = ranked(query, rows, np.array([0, 1]), gallery_id)
    _, order = galleries.search(gallery, query, 6)
    np.testing.assert_array_equal(order, [[4, 0, 2, 1, 5, 3], [3, 5, 1, 2, 0, 4]])
    np.testing.assert_array_equal(ranks[0], [2, 3, 6])
    np.testing.assert_array_equal(ranks[1], [2, 3])
    values = metrics.retrieval_metrics(ranks, ks=(1, 2, 3, 5))
    recall = [values[f"zoo/recall@{k}"] for k in (1, 2, 3, 5)]
    np.testing.assert_allclose(recall, [0, 41.667, 83.333, 83.333], atol=5e-4)
    assert [values[f"standard/recall@{k}"] for k in (1, 2, 3, 5)] == [0, 1, 1, 1]
    assert values["standard/map"] == pytest.approx(((1 / 2 + 2 / 3 + 3 / 6) / 3 + (1 / 2 + 2 / 3) / 2) / 2)
    assert values["standard/map@2"] == pytest.approx((1 / 2 / 2 + 1 / 2 / 2) / 2)
    assert values["standard/map@5"] == pytest.approx(((1 / 2 + 2 / 3) / 3 + (1 / 2 + 2 / 3) / 2) / 2)


def test_equals_naive_loop():
    random = np.random.default_rng(0)
    order = np.stack([random.permutation(40) for _ in range(25)])
    gallery_id, query_id = random.integers(0, 6, 40), random.integers(0, 6, 25)
    precision, recall, hit = [], [], []
    for row, label in zip(order, query_id, strict=True):
        right = [gallery_id[g] == label for g in row]
        precision.append(np.mean([sum(right[: r + 1]) / (r + 1) for r in range(40) if right[r]]))
        recall.append(sum(right[:5]) / sum(right))
        hit.append(any(right[:5]))
    ranks = [np.flatnonzero(gallery_id[row] == label) + 1 for row, label in zip(order, query_id, strict=True)]
    values = metrics.retrieval_metrics(ranks, ks=(5,))
    assert values["standard/map"] == pytest.approx(np.mean(precision))
    assert values["zoo/recall@5"] == pytest.approx(100 * np.mean(recall))
    assert values["standard/recall@5"] == pytest.approx(np.mean(hit))
    by_category = metrics.per_category(ranks, np.arange(25) % 2, ks=(5,))
    assert by_category[0]["n"] == 13 and by_category[1]["standard/map"] == pytest.approx(
        np.mean(precision[1::2])
    )


def test_relevant_rows_of_any_labels():
    rows = metrics.relevant_rows(np.array(["b", "a", "b"]), np.array(["b", "c", "a", "b"]))
    assert [list(row) for row in rows] == [[0, 3], [2], [0, 3]]


def test_unusable_input_is_named():
    with pytest.raises(UserError, match="query 1 has identity 7, which no gallery item has"):
        metrics.relevant_rows(np.array([3, 7]), np.array([3, 3]))
    with pytest.raises(UserError, match="at least one query"):
        metrics.retrieval_metrics([])


def test_every_metric_is_defined():
    for name in metrics.retrieval_metrics([np.array([1, 4])]):
        assert name.split("@")[0] in {known.split("@")[0] for known in metrics.DEFINITIONS}


def test_queries_without_a_match_are_named():
    """They are told to the context by record, which may refuse; the others are ranked."""
    columns = {
        "item_id": np.array(["x", "id_1", "id_2", "id_2", "x"]),
        "image_id": np.array(["x", "img/a.jpg", "img/b.jpg", "img/c.jpg", "x"]),
    }
    calls = []
    context = Context(column=columns.get, leave_out=lambda records, why: calls.append((list(records), why)))
    accumulator = metrics.RetrievalMetrics(context)
    batch = {
        "index": np.array([1, 2, 3, -1]),
        "identity": np.array([[1, 7], [2, 0], [2, 0], [0, 0]], np.int32),
        "role": np.array([0, 0, 1, 0]),
        "example_valid": np.array([True, True, True, False]),
    }
    accumulator.update({"embedding": np.eye(4, dtype=np.float32)}, batch)
    assert accumulator.result()["standard/recall@1"] == 1.0
    assert accumulator.scored()["index"].tolist() == [2, 3]
    ((records, why),) = calls
    assert records == [1]
    assert why == "1 of 2 queries have no image of their item in the gallery: img/a.jpg of item id_1"
