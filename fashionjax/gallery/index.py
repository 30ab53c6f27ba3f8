"""An index of embeddings: build it from batches, save and load it, search it exactly on all devices, export
it to FAISS.

A gallery is one safetensors file: `embedding` [g d] float32, `id` (the ids as a JSON list, in UTF-8 bytes),
and the metric in the file's metadata. Rows are stored as they are compared (of unit length under "cosine").
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fashionjax import files
from fashionjax.errors import UserError
from fashionjax.ops import topk
from fashionjax.ops.distances import unit_rows

FORMAT = "fashionjax-gallery-1"
READERS = {FORMAT: "search", "fashionjax-wardrobe-1": "outfit complete"}  # format → command that reads it
METRICS = ("cosine", "inner", "euclidean")


class Index(NamedTuple):
    """embedding [g d] float32 as compared, id [g] (str each, may repeat), metric: one of METRICS."""

    embedding: np.ndarray
    id: tuple[str, ...]
    metric: str


class Placed(NamedTuple):
    """A gallery's rows on devices; Euclidean rows are taken around `origin` against cancellation."""

    arranged: topk.Arranged
    origin: np.ndarray | None


def _check_metric(metric, where):
    if metric not in METRICS:
        raise UserError(f"{where}: metric {metric!r} is unknown; use one of {', '.join(METRICS)}")


def check_rows(embedding: np.ndarray, ids, where) -> None:
    """A UserError unless there is a finite row for every id."""
    if embedding.ndim != 2 or 0 in embedding.shape:
        raise UserError(
            f"{where}: embeddings have shape {embedding.shape}; expected [g d], neither of them 0"
        )
    if len(ids) != len(embedding):
        raise UserError(f"{where}: {len(embedding)} embeddings but {len(ids)} ids")
    finite = np.isfinite(embedding).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise UserError(f"{where}: the embedding of {ids[row]!r} (row {row}) is not finite")


def build(batches: Iterable[tuple[np.ndarray, Iterable[str]]], metric: str = "cosine") -> Index:
    """batches of (embedding [b d], ids of its rows) -> Index. Padding must have been removed by the
    caller.
    """
    rows, ids = [], []
    for embedding, names in batches:
        rows.append(np.asarray(embedding, np.float32))
        ids.extend(str(name) for name in names)
        if rows[-1].ndim != 2 or rows[-1].shape[1] != rows[0].shape[1] or sum(map(len, rows)) != len(ids):
            raise UserError(
                f"gallery batch {len(rows) - 1} has embeddings of shape {rows[-1].shape}; expected one row "
                f"of {rows[0].shape[-1]} values for each of its ids"
            )
    if not rows:
        raise UserError("a gallery needs at least one embedding; no batch was given")
    embedding = np.concatenate(rows)
    _check_metric(metric, "gallery")
    check_rows(embedding, ids, "gallery")
    return Index(unit_rows(embedding) if metric == "cosine" else embedding, tuple(ids), metric)


def write_rows(path, embedding: np.ndarray, ids, metadata: dict[str, str], **tensors: np.ndarray) -> None:
    """A file of embeddings [g d] with their ids, and what else belongs to it, written atomically."""
    ids = np.frombuffer(json.dumps(ids).encode(), np.uint8)
    tensors = {"embedding": np.ascontiguousarray(embedding), "id": ids, **tensors}
    files.write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def read_rows(path, form: str, *names: str) -> tuple[dict, list[str], list[np.ndarray]]:
    """(metadata, ids, [embedding, and the tensors of `names`]) of a file of the format `form`; anything else
    is a UserError naming it."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                found = metadata.get("format")
                raise UserError(f"{path}: wrong gallery format {found!r}, expected {form!r}{_hint(found)}")
            tensors = [file.get_tensor(name) for name in ("embedding", *names)]
            ids = json.loads(file.get_tensor("id").tobytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such gallery; build it first") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged gallery ({error}); build it again") from error
    if tensors[0].dtype != np.float32 or not isinstance(ids, list):
        kinds = f"embeddings {tensors[0].dtype}, ids {type(ids).__name__}"
        raise UserError(f"{path}: damaged gallery ({kinds})")
    return metadata, list(map(str, ids)), tensors


def _hint(found: str | None) -> str:
    """Which command reads the format."""
    command = READERS.get(found)
    return f"; `fashionjax {command}` reads it" if command else ""


def save(gallery: Index, path, extra: Mapping[str, str] | None = None, **tensors: np.ndarray) -> None:
    """Write the gallery as one file, atomically, with further metadata `extra` and tensors."""
    metadata = {**(extra or {}), "format": FORMAT, "metric": gallery.metric}
    write_rows(path, gallery.embedding, gallery.id, metadata, **tensors)


def load(path) -> Index:
    """Read a gallery that `save` wrote; anything else is a UserError naming the file."""
    return load_with(path)[0]


def load_with(path, *names: str) -> tuple[Index, dict, list[np.ndarray]]:
    """`load`, with the metadata and the tensors of `names` that `save` was given."""
    metadata, ids, (embedding, *tensors) = read_rows(path, FORMAT, *names)
    check_rows(embedding, ids, path)
    _check_metric(metadata.get("metric"), path)
    return Index(embedding, tuple(ids), metadata["metric"]), metadata, tensors


def place(gallery: Index, devices=None, tile: int = topk.GALLERY_TILE) -> Placed:
    """Spread the rows over `devices` (all by default). Keep the result to search many times."""
    if gallery.metric != "euclidean":
        return Placed(topk.arrange(gallery.embedding, devices=devices, tile=tile), None)
    origin = gallery.embedding.mean(axis=0, dtype=np.float64).astype(np.float32)
    rows = gallery.embedding - origin
    # |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2): the score's bias is -|g|^2 / 2.
    bias = -0.5 * np.einsum("gd,gd->g", rows, rows, dtype=np.float64).astype(np.float32)
    return Placed(topk.arrange(rows, bias, devices, tile), origin)


def _comparable(gallery: Index, placed: Placed, query) -> np.ndarray:
    """The query rows [q d] in the form the placed rows are compared in."""
    query = np.asarray(query, np.float32)
    if query.ndim != 2 or query.shape[1] != gallery.embedding.shape[1]:
        raise UserError(
            f"queries have shape {query.shape}, the gallery has {gallery.embedding.shape[1]} values per row; "
            "they must come from the same model"
        )
    if not np.isfinite(query).all():
        row = int(np.flatnonzero(~np.isfinite(query).all(axis=1))[0])
        raise UserError(f"the embedding of query {row} is not finite")
    if gallery.metric == "cosine":
        return unit_rows(query)
    return query if placed.origin is None else query - placed.origin


def search(gallery: Index, query, k: int, placed: Placed | None = None, query_tile: int | None = None):
    """query [q d] -> (score [q k] float32, index [q k] int32 into the gallery's rows), best first; exact.

    score: cosine similarity, inner product, or Euclidean distance (ascending). Of rows at equal score the
    lower index comes first. k is cut to the size of the gallery.
    """
    if k < 1:
        raise UserError(f"k = {k}: ask for at least one result")
    placed = placed or place(gallery)
    query = _comparable(gallery, placed, query)
    score, index = topk.topk(placed.arranged, query, min(k, len(gallery.id)), query_tile)
    if gallery.metric == "euclidean":
        squares = np.einsum("qd,qd->q", query, query, dtype=np.float64)[:, None] - 2.0 * score
        score = np.sqrt(np.maximum(squares, 0)).astype(np.float32)
    return score, index


def ranks(
    gallery: Index, query, relevant, placed: Placed | None = None, query_tile: int | None = None
) -> list:
    """query [q d], relevant: per query an array of gallery rows -> per query their exact ranks (from 1),
    ascending.
    """
    placed = placed or place(gallery)
    return topk.relevant_ranks(placed.arranged, _comparable(gallery, placed, query), relevant, query_tile)


def need_faiss():
    """The module faiss, which only the export uses; a UserError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError("FAISS export needs faiss: pip install faiss-cpu") from None
    return faiss


def export_faiss(gallery: Index, path) -> None:
    """Write a flat FAISS index, with the ids as a JSON list beside it in `<path>.ids.json`.

    Inner-product index for "cosine" (normalise queries) and "inner", L2 index for "euclidean" (FAISS gives
    squares).
    """
    faiss = need_faiss()
    kind = faiss.IndexFlatL2 if gallery.metric == "euclidean" else faiss.IndexFlatIP
    index = kind(gallery.embedding.shape[1])
    index.add(np.ascontiguousarray(gallery.embedding))
    path = Path(path)
    files.write_atomically(path, lambda temporary: faiss.write_index(index, str(temporary)))
    files.write_text(path.with_name(path.name + ".ids.json"), json.dumps(gallery.id))
