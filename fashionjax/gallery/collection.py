"""What `fashionjax search` looks through: an index of unit embeddings that knows where its images are.

Its one file is an index that also names the model and, where one was needed, the detector of landmarks; a
file of another model is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from fashionjax.errors import UserError
from fashionjax.gallery import embed, index
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.inference.photo_model import PhotoModel
from fashionjax.inference.photos import Pixels


class Collection(NamedTuple):
    """rows are searched by cosine; source and record as `embed.Embedded`. model and detector are
    fingerprints, the latter "" where the images needed none.

    Of a model that embeds an image for one attribute, `attributes` are those of the rows: all images for the
    first, then all for the second …; `for_attribute` takes one out."""

    rows: index.Index
    source: Mapping[str, str]
    record: np.ndarray
    model: str
    detector: str
    attributes: tuple[str, ...] = ()

    def for_attribute(self, attribute: str, name: str = "this gallery") -> Collection:
        """The rows of one attribute; UserError where the collection, called `name`, does not have it."""
        if not attribute:
            return self
        spelled = [photos.spelled(known) for known in self.attributes]
        if photos.spelled(attribute) not in spelled:
            has = ", ".join(map(repr, self.attributes)) or "no attribute"
            raise UserError(
                f"{name}: was embedded for {has}, not for {attribute!r}; build it again from the images, "
                "with --gallery_attributes=all for every attribute"
            )
        count, place = len(self.rows.id) // len(self.attributes), spelled.index(photos.spelled(attribute))
        part = slice(place * count, (place + 1) * count)
        rows = self.rows._replace(embedding=self.rows.embedding[part], id=self.rows.id[part])
        found = self._replace(rows=rows, record=self.record[part])
        return found._replace(attributes=self.attributes[place : place + 1])


def open_collection(
    name: str,
    model: inference.Model,
    predictor: photos.Predictor,
    detector: inference.Model | None = None,
    data_dir: str = "",
    *,
    attribute: str = "",
    every_attribute: bool = False,
) -> tuple[Collection, int]:
    """`--gallery` (a folder, `dataset:NAME:SPLIT` or a saved file) → (collection, number of unreadable
    images, which are named on standard error and left out).

    `predictor` is that of `model` and `detector`; a split has landmarks of its own. A model that embeds for
    one attribute does it for `attribute`, or for all that it knows.
    """
    given = photos.attribute_record(model.config, attribute, every=every_attribute)
    if given:
        predictor = photos.predictor(model, predictor.batch_size, detector, given)
    if name.startswith(embed.DATASET):
        found, detector = embed.embed_split(*embed.open_split(name, model, data_dir), model, given), None
    elif os.path.isdir(name):
        found = embed.embed_folder(name, embed.folder_ids(name), predictor)
    else:
        finder = "" if detector is None else embed.fingerprint(detector)
        return load(name, embed.fingerprint(model), finder), 0
    return _collected(found, model, detector, given), found.unread


def save(collection: Collection, path: str) -> None:
    """Write it as one file; what was there before stays until the new one is whole."""
    metadata = {"source": json.dumps(dict(collection.source)), "model": collection.model}
    metadata["detector"] = collection.detector
    if collection.attributes:
        metadata["attributes"] = json.dumps(collection.attributes)
    try:
        index.save(collection.rows, path, metadata, record=collection.record)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another file") from error


def load(path: str, model: str, detector: str = "") -> Collection:
    """Read what `save` wrote; `model` and `detector` are the fingerprints that it must have."""
    rows, metadata, (record,) = index.load_with(path, "record")
    try:
        where, own, finder = json.loads(metadata["source"]), metadata["model"], metadata["detector"]
        attributes = tuple(map(str, json.loads(metadata.get("attributes", "[]"))))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged gallery ({error!r}); build it again") from error
    embed.check_model(own, model, path)
    if finder and finder != detector:
        raise UserError(
            f"{path}: was embedded at the landmarks of another detector; name that one with --landmarks, or "
            "build it again"
        )
    if rows.metric != "cosine" or record.dtype != np.int32 or record.shape != (len(rows.id),):
        raise UserError(f"{path}: damaged gallery (metric or records do not fit its rows); build it again")
    if len(rows.id) % max(len(attributes), 1):
        raise UserError(
            f"{path}: damaged gallery ({len(rows.id)} rows are not those of {len(attributes)} attributes); "
            "build it again"
        )
    return Collection(rows, where, record, own, finder, attributes)


# ------------------------------------------------------------------------------ matches
@dataclasses.dataclass(frozen=True)
class Match:
    """An image of the gallery; score is the cosine similarity."""

    rank: int
    id: str
    score: float


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """One query's matches, best first; `error` says why the query could not be read."""

    image: str
    matches: tuple[Match, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A line of `fashionjax search`: {"image", "matches": [{"rank", "id", "score"}]}, or "error"."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        return {"image": self.image, "matches": [vars(match) for match in self.matches]}

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        return "\n".join([self.image, *(f"  {m.rank}. {m.id} {m.score:.4f}" for m in self.matches)])


def best_matches(
    rows: index.Index, embedding: np.ndarray, k: int, placed: index.Placed | None = None
) -> tuple[list[tuple[Match, ...]], np.ndarray]:
    """embedding f32 [q d] → the k best matches of each query and their rows, i32 [q k].

    Exact; of equal scores the earlier row comes first. An index of fewer than k rows gives them all.
    """
    score, row = index.search(rows, embedding, k, placed)
    found = [
        tuple(
            Match(rank, rows.id[place], round(value, 6))
            for rank, (value, place) in enumerate(zip(values, places, strict=True), 1)
        )
        for values, places in zip(score.tolist(), row.tolist(), strict=True)
    ]
    return found, row


class Gallery:
    """Images embedded by a model, to be searched by other images: `Gallery.build` or `Gallery.load`.

    ids: what the images are called, in order. unread: how many could not be read when it was built.
    """

    def __init__(self, model: PhotoModel, collection: Collection, unread: int = 0) -> None:
        self.model, self.collection, self.unread = model, collection, unread
        self._placed: index.Placed | None = None

    @classmethod
    def build(
        cls, model: PhotoModel, images: Pixels | Iterable[Pixels], *, data_dir: str | os.PathLike = ""
    ) -> Gallery:
        """The gallery of a folder and its subfolders (ids are paths in it), of `dataset:NAME/CONFIG:SPLIT`
        prepared in `data_dir` (ids are its image_id), or of images as `PhotoModel` takes them.

        Images that cannot be read are named on standard error and left out; UserError where none can, and
        where the model is not one of retrieval.
        """
        _check_task(model)
        name = os.fspath(images) if isinstance(images, (str, os.PathLike)) else ""
        predictor = model.predictor(model.batch_size)
        if name.startswith(embed.DATASET) or os.path.isdir(name):
            where, attribute = os.fspath(data_dir), model.attribute
            opened = open_collection(name, model.model, predictor, model.detector, where, attribute=attribute)
            return cls(model, *opened)
        sources = photos.collect(images)
        found = embed.embed_images(sources, [source.name for source in sources], Path.cwd(), predictor)
        given = photos.attribute_record(model.config, model.attribute)
        return cls(model, _collected(found, model.model, model.detector, given), found.unread)

    @classmethod
    def load(cls, path: str | os.PathLike, model: PhotoModel) -> Gallery:
        """A saved gallery; UserError where another model embedded it, or not for the model's attribute."""
        _check_task(model)
        finder = "" if model.detector is None else embed.fingerprint(model.detector)
        found = load(os.fspath(path), embed.fingerprint(model.model), finder)
        return cls(model, found.for_attribute(model.attribute, os.fspath(path)))

    def save(self, path: str | os.PathLike) -> None:
        """One file, written atomically; `Gallery.load` and `fashionjax search --gallery` read it."""
        save(self.collection, os.fspath(path))

    def search(self, images: Pixels | Iterable[Pixels] | np.ndarray, k: int = 5) -> list[SearchResult]:
        """The k best matches of each query image, by cosine, exactly; also of embeddings f32 [q d].

        A query that cannot be read has its `error` set.
        """
        if isinstance(images, np.ndarray) and images.dtype.kind == "f" and images.ndim == 2:
            names = [f"embedding_{number}" for number in range(len(images))]
            queries: list[np.ndarray | UserError] = list(images)
        else:
            sources = photos.collect(images)
            names = [source.name for source in sources]
            read = photos.embeddings(sources, self.model.predictor(len(sources)))
            queries = [entry if isinstance(entry, UserError) else entry[1] for entry in read]
        return answers(self.collection.rows, names, queries, k, self._place())[0]

    def _place(self) -> index.Placed:
        if self._placed is None:
            self._placed = index.place(self.collection.rows)
        return self._placed

    @property
    def ids(self) -> tuple[str, ...]:
        return self.collection.rows.id

    @property
    def embedding(self) -> np.ndarray:
        """float32 [g d], of unit length."""
        return self.collection.rows.embedding

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Gallery of {len(self)} images, {self.embedding.shape[1]} values each>"


def answers(
    rows: index.Index,
    names: Sequence[str],
    queries: Sequence[np.ndarray | UserError],
    k: int,
    placed: index.Placed | None = None,
) -> tuple[list[SearchResult], np.ndarray]:
    """Embeddings f32 [d] or what is wrong with the query → results in order, and the matches' rows i32
    [readable queries, k]."""
    readable = [query for query in queries if not isinstance(query, UserError)]
    stacked = np.stack(readable) if readable else np.zeros((0, rows.embedding.shape[1]), np.float32)
    matches, row = best_matches(rows, stacked, k, placed)
    ranked = iter(matches)
    results = [
        SearchResult(name, error=str(query))
        if isinstance(query, UserError)
        else SearchResult(name, next(ranked))
        for name, query in zip(names, queries, strict=True)
    ]
    return results, row


def _collected(
    found: embed.Embedded, model: inference.Model, detector: inference.Model | None, given: Mapping
) -> Collection:
    embedding, names = found.outputs["embedding"], _attributes(model, given)
    if embedding.ndim == 3:
        embedding = rearrange(embedding, "g a d -> (a g) d")
    times = max(len(names), 1)
    rows = index.build([(embedding, found.id * times)], "cosine")
    finder = "" if detector is None else embed.fingerprint(detector)
    record = np.tile(found.record, times)
    return Collection(rows, found.source, record, embed.fingerprint(model), finder, names)


def _attributes(model: inference.Model, given: Mapping) -> tuple[str, ...]:
    """The names of the attributes that images were embedded for."""
    names = model.config.get("labels", {}).get("attribute", ())
    return tuple(str(names[number]) for number in np.ravel(given["attribute"])) if given else ()


def _check_task(model: PhotoModel) -> None:
    if photos.command_of(model.config) != "search":
        raise UserError(
            f"a Gallery needs a model of the task retrieval, got {model.task} (for outfits: TypedGallery)"
        )
