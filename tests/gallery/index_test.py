"""The gallery: built in batches, saved, refused when damaged, searched under each metric, exported."""

import json
import sys
import types

import numpy as np
import pytest
from close import rounding
from safetensors.numpy import save_file

from fashionjax.errors import UserError
from fashionjax.gallery import index as galleries

RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.normal(size=(90, 6)) * RANDOM.uniform(0.2, 3, size=(90, 1)) + 2).astype(np.float32)
QUERY = (RANDOM.normal(size=(7, 6)) + 2).astype(np.float32)
IDS = [f"img/{n:03d}.jpg" for n in range(90)]


def built(metric):
    return galleries.build(((ROWS[a : a + 40], IDS[a : a + 40]) for a in (0, 40, 80)), metric)


def exact_scores(metric):
    query, rows = QUERY.astype(np.float64), ROWS.astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(query[:, None] - rows[None], axis=-1)
    if metric == "cosine":
        query, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, rows))
    return query @ rows.T


def rounding_of(metric, distance) -> float:
    """Of products of six values: the largest is the scale."""
    if metric == "cosine":
        return rounding(6 + 6 + 8 + 1)
    middle = ROWS.mean(axis=0) if metric == "euclidean" else 0
    query, rows = (np.linalg.norm(x - middle, axis=1).max() for x in (QUERY, ROWS))
    if metric != "euclidean":
        return rounding(6, scale=query * rows)
    square = rounding(3 * 6 + 3, scale=(query + rows) ** 2)  # |q|² - 2 q·g + |g|², of differences to the mean
    return square / (2 * distance.min())


@pytest.mark.parametrize("metric", galleries.METRICS)
def test_search_equals_float64(metric):
    gallery = built(metric)
    score, index = galleries.search(gallery, QUERY, 10, galleries.place(gallery, tile=32))
    exact = exact_scores(metric)
    order = np.argsort(exact if metric == "euclidean" else -exact, axis=1, kind="stable")
    np.testing.assert_array_equal(index, order[:, :10])
    want = np.take_along_axis(exact, index, axis=1)
    np.testing.assert_allclose(score, want, rtol=0, atol=rounding_of(metric, want))
    relevant = [np.array([3, 50, 89])] * len(QUERY)
    for ranks, row in zip(galleries.ranks(gallery, QUERY, relevant), order, strict=True):
        np.testing.assert_array_equal(ranks, np.flatnonzero(np.isin(row, relevant[0])) + 1)


def test_k_beyond_the_gallery_gives_everything():
    _, index = galleries.search(built("inner"), QUERY[:1], 1000)
    assert sorted(index[0]) == list(range(90))


def test_save_and_load(tmp_path):
    path = tmp_path / "deep" / "gallery.safetensors"
    gallery = built("cosine")
    galleries.save(gallery, path)
    galleries.save(gallery, path)  # over an existing one
    again = galleries.load(path)
    assert again.id == gallery.id and again.metric == "cosine"
    np.testing.assert_array_equal(again.embedding, gallery.embedding)
    assert [file.name for file in path.parent.iterdir()] == ["gallery.safetensors"]


def test_a_failed_save_leaves_the_old_gallery(tmp_path, monkeypatch):
    path = tmp_path / "gallery.safetensors"
    galleries.save(built("inner"), path)
    before = path.read_bytes()

    def full_disk(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(galleries, "save_file", full_disk)
    with pytest.raises(OSError, match="disk full"):
        galleries.save(built("cosine"), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_damaged_galleries_are_refused(tmp_path):
    path = tmp_path / "gallery.safetensors"
    with pytest.raises(UserError, match="no such gallery"):
        galleries.load(path)
    galleries.save(built("inner"), path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-10], b"\x00" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"gallery.safetensors: damaged gallery"):
            galleries.load(path)
    ids = np.frombuffer(b'["a"]', np.uint8)
    good = {"format": galleries.FORMAT, "metric": "inner"}
    rows = np.zeros((1, 2), np.float32)
    for tensors, metadata, message in (
        (
            {"embedding": rows, "id": ids},
            {"format": "other"},
            "wrong gallery format ('other'|None), expected 'fashionjax-gallery-1'",
        ),
        (
            {"embedding": rows, "id": ids},
            None,
            "wrong gallery format ('other'|None), expected 'fashionjax-gallery-1'",
        ),
        ({"embedding": rows, "id": ids}, {**good, "metric": "manhattan"}, "'manhattan' is unknown"),
        ({"embedding": rows.astype(np.float64), "id": ids}, good, "float64"),
        ({"embedding": np.zeros((2, 2), np.float32), "id": ids}, good, "2 embeddings but 1 ids"),
        ({"embedding": rows * np.nan, "id": ids}, good, "'a' \\(row 0\\) is not finite"),
        ({"embedding": rows, "id": np.frombuffer(b"{", np.uint8)}, good, "damaged"),
        ({"embedding": rows}, good, "damaged"),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(UserError, match=message):
            galleries.load(path)


def test_unusable_input_is_named():
    with pytest.raises(UserError, match="no batch was given"):
        galleries.build([])
    with pytest.raises(UserError, match=r"gallery batch 1 has embeddings of shape \(2, 5\)"):
        galleries.build([(ROWS[:2], IDS[:2]), (ROWS[:2, :5], IDS[2:4])])
    with pytest.raises(UserError, match=r"batch 0 .* for each of its ids"):
        galleries.build([(ROWS[:2], IDS[:3])])
    with pytest.raises(UserError, match=r"img/001.jpg' \(row 1\) is not finite"):
        galleries.build([(np.where(np.arange(3)[:, None] == 1, np.inf, ROWS[:3]), IDS[:3])])
    with pytest.raises(UserError, match="metric 'dot' is unknown"):
        galleries.build([(ROWS, IDS)], "dot")
    with pytest.raises(UserError, match="same model"):
        galleries.search(built("inner"), QUERY[:, :3], 1)
    with pytest.raises(UserError, match="query 2 is not finite"):
        galleries.search(built("inner"), np.where(np.arange(7)[:, None] == 2, np.nan, QUERY), 1)
    with pytest.raises(UserError, match="at least one result"):
        galleries.search(built("inner"), QUERY, 0)


def test_faiss_export_without_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        galleries.export_faiss(built("cosine"), tmp_path / "index.faiss")


@pytest.mark.parametrize("metric,kind", [("cosine", "IP"), ("inner", "IP"), ("euclidean", "L2")])
def test_faiss_export_calls(tmp_path, monkeypatch, metric, kind):
    """Which index is made of which rows; the real library is used in the full run."""

    class Index:
        def __init__(self, kind, d):
            self.kind, self.d = kind, d

        def add(self, rows):
            self.rows = rows

    written = []
    fake = types.SimpleNamespace(
        IndexFlatIP=lambda d: Index("IP", d),
        IndexFlatL2=lambda d: Index("L2", d),
        write_index=lambda index, path: (written.append(index), open(path, "wb").close()),
    )
    monkeypatch.setitem(sys.modules, "faiss", fake)
    gallery = built(metric)
    galleries.export_faiss(gallery, tmp_path / "index.faiss")
    assert written[0].kind == kind and written[0].d == 6
    np.testing.assert_array_equal(written[0].rows, gallery.embedding)
    assert json.loads((tmp_path / "index.faiss.ids.json").read_text()) == IDS
    assert (tmp_path / "index.faiss").exists()


@pytest.mark.full
@pytest.mark.parametrize("metric", galleries.METRICS)
def test_faiss_reads_the_export(tmp_path, metric):
    import faiss

    gallery = built(metric)
    galleries.export_faiss(gallery, tmp_path / "index.faiss")
    query = QUERY / np.linalg.norm(QUERY, axis=1, keepdims=True) if metric == "cosine" else QUERY
    _, theirs = faiss.read_index(str(tmp_path / "index.faiss")).search(np.ascontiguousarray(query), 10)
    np.testing.assert_array_equal(galleries.search(gallery, QUERY, 10)[1], theirs)
