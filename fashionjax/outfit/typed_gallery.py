"""A gallery with types: general embeddings of items, their types, ids and where their images are.

It is made from a folder of images, from a split of a prepared dataset, or read from the one safetensors file
that `save` writes. General embeddings are kept, one row an item, and projected into the spaces of a pair of
types when an outfit asks: all projections would be 67 times as large. The file names the model
(`embed.fingerprint`), and a gallery of another model is refused.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.gallery import embed
from fashionjax.gallery import index as gallery
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.inference.photo_model import PhotoModel

FORMAT = "fashionjax-wardrobe-1"
UNKNOWN = -1  # until the given type is filled in


class TypedGallery(NamedTuple):
    """embedding [g d] float32, category [g] i32 into `types`, id [g]; source and record [g] i32 lead to the
    images: {"folder": path}, where ids are paths in it, or {"dataset", "split", "data_dir"}."""

    embedding: np.ndarray
    category: np.ndarray
    id: tuple[str, ...]
    types: tuple[str, ...]
    source: Mapping[str, str]
    record: np.ndarray
    model: str

    @classmethod
    def build(
        cls,
        model: PhotoModel,
        source: str | os.PathLike,
        *,
        types: Mapping[str, str] | None = None,
        data_dir: str | os.PathLike = "",
    ) -> TypedGallery:
        """The gallery of a folder and its subfolders, or of `dataset:NAME/CONFIG:SPLIT` prepared in
        `data_dir`. `types` {id: type} come before predicted and stored ones."""
        check_task(model.config, "the model")
        given = {}
        for name, kind in (types or {}).items():
            check_type(kind, list(model.config.labels.category), f"type of {name}")
            given[name] = list(model.config.labels.category).index(kind)
        predictor = model.predictor(model.batch_size)
        return open_typed_gallery(os.fspath(source), model.model, predictor, given, os.fspath(data_dir))[0]

    @classmethod
    def load(cls, path: str | os.PathLike, model: PhotoModel) -> TypedGallery:
        """A saved gallery; UserError where another model embedded it."""
        return load(os.fspath(path), embed.fingerprint(model.model))

    def save(self, path: str | os.PathLike) -> None:
        """One file, written atomically; `TypedGallery.load` and `fashionjax outfit complete` read it."""
        save(self, os.fspath(path))

    def __repr__(self) -> str:
        return f"<TypedGallery of {len(self.id)} items, {len(np.unique(self.category))} types>"


def check_task(config: ConfigDict, name: str) -> None:
    """A UserError unless `config` is that of a compatibility model."""
    if config.task != "compatibility":
        raise UserError(
            f"{name}: a checkpoint of the task {config.task}; outfits need one of compatibility "
            "(experiments/compatibility.py)"
        )


def check_type(name: str, known: Sequence[str], where: str) -> None:
    """A UserError unless the model knows the type."""
    if name not in known:
        listed = ", ".join(known)
        raise UserError(f"{where}: {name!r} is not a type of this checkpoint; its types are {listed}")


def has_type_head(config: ConfigDict) -> bool:
    """Whether a compatibility model predicts the types of bare photos."""
    return config.model.kind == "set_transformer" or "category" in config.loss


# ------------------------------------------------------------------------------ making one
def open_typed_gallery(
    name: str,
    model: inference.Model,
    predictor: photos.Predictor,
    given: Mapping[str, int],
    data_dir: str = "",
) -> tuple[TypedGallery, int]:
    """`--gallery` (a folder, `dataset:NAME:SPLIT` or a saved file) → (gallery, number of unreadable items).

    `given` are types by id, before predicted and stored ones; unreadable items are named on standard error
    and left out.
    """
    if name.startswith(embed.DATASET):
        found, unread = from_dataset(name, model, data_dir)
    elif os.path.isdir(name):
        found, unread = from_folder(name, model, predictor, given)
    else:
        found, unread = load(name, embed.fingerprint(model)), 0
    unknown = sorted(given.keys() - set(found.id))
    if unknown:
        print(
            f"--gallery_types: {len(unknown)} of {len(given)} ids are not in {name} (first: {unknown[0]})",
            file=sys.stderr,
        )
    category = [given.get(item, own) for item, own in zip(found.id, found.category.tolist(), strict=True)]
    return found._replace(category=np.asarray(category, np.int32)), unread


def from_folder(
    folder: str, model: inference.Model, predictor: photos.Predictor, given: Mapping[str, int]
) -> tuple[TypedGallery, int]:
    """The images in a folder and its subfolders; ids are paths in the folder, sorted."""
    ids = embed.folder_ids(folder)
    untyped = [item for item in ids if item not in given]
    if untyped and not has_type_head(model.config):
        raise UserError(
            f"{folder}: this checkpoint has no type head and no type is given for {len(untyped)} images "
            f"(first: {untyped[0]}); --gallery_types=FILE.csv gives them"
        )
    found = embed.embed_folder(folder, ids, predictor)
    category = np.full(len(found.id), UNKNOWN)
    if "category_logits" in found.outputs:
        category = found.outputs["category_logits"].argmax(axis=1)
    return _made(model, found, category), found.unread


def from_dataset(name: str, model: inference.Model, data_dir: str = "") -> tuple[TypedGallery, int]:
    """A split of a prepared dataset with its own types."""
    split, where = embed.open_split(name, model, data_dir)
    types = list(model.config.labels.category)
    strange = sorted(set(split.labels.get("category", ())) - set(types))
    if "category" not in split.features or strange:
        has = f"types {', '.join(strange)}" if strange else "no category"
        raise UserError(f"{split.dataset}: has {has}; this checkpoint's types are {', '.join(types)}")
    found = embed.embed_split(split, where, model)
    place = np.asarray([types.index(own) for own in split.labels["category"]], np.int32)
    return _made(model, found, place[found.labels["category"]]), found.unread


def _made(model: inference.Model, found: embed.Embedded, category: np.ndarray) -> TypedGallery:
    embedding = np.asarray(found.outputs["embedding"], np.float32)
    gallery.check_rows(embedding, found.id, next(iter(found.source.values())))
    types, own = tuple(model.config.labels.category), embed.fingerprint(model)
    return TypedGallery(
        embedding, category.astype(np.int32), found.id, types, found.source, found.record, own
    )


def read_types(path: str, types: Sequence[str]) -> dict[str, int]:
    """A CSV file with the columns id and type → {id: number of its type}."""
    given: dict[str, int] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"id", "type"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}, line 1: the columns must be id,type")
            for row in rows:
                line = f"{path}, line {rows.line_num}"
                if not row["id"] or row["type"] not in types:
                    raise UserError(f"{line}: {row['type']!r} is not a type; use one of {', '.join(types)}")
                number = types.index(row["type"])
                if given.setdefault(row["id"], number) != number:
                    raise UserError(f"{line}: {row['id']} is {types[given[row['id']]]} in a line above")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); write id,type lines") from error
    return given


# ------------------------------------------------------------------------------ its file
def save(typed: TypedGallery, path: str) -> None:
    """Write it as one file; what was there before stays until the new one is whole."""
    metadata = {
        "format": FORMAT,
        "types": json.dumps(typed.types),
        "source": json.dumps(dict(typed.source)),
        "model": typed.model,
    }
    arrays = {"category": typed.category, "record": typed.record}
    try:
        gallery.write_rows(path, typed.embedding, typed.id, metadata, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another file") from error


def load(path: str, model: str) -> TypedGallery:
    """Read what `save` wrote; `model` is the fingerprint that it must have."""
    metadata, ids, (embedding, category, record) = gallery.read_rows(path, FORMAT, "category", "record")
    gallery.check_rows(embedding, ids, path)
    try:
        types, where = json.loads(metadata["types"]), json.loads(metadata["source"])
        own = metadata["model"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged gallery ({error!r}); build it again") from error
    embed.check_model(own, model, path)
    numbers = (category, record)
    if (
        any(x.dtype != np.int32 or x.shape != (len(ids),) for x in numbers)
        or not ((category >= 0) & (category < len(types))).all()
    ):
        raise UserError(f"{path}: damaged gallery (types or records do not fit its rows); build it again")
    return TypedGallery(embedding, category, tuple(ids), tuple(types), where, record, own)


def pictures(typed: TypedGallery) -> Callable[[int], np.ndarray | None]:
    """row → its image, uint8 [h w 3]; None where the file or the dataset is not available any more."""
    return embed.pictures(typed.source, typed.id, typed.record)
