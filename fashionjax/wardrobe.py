"""A wardrobe: the general embeddings of a gallery of garments, their types, ids and where their pictures are.

It is made from a folder of photos, from a split of a prepared dataset, or read from the one safetensors file
that `save` writes. General embeddings are kept, one row a garment, and projected into the spaces of a pair of
types when an outfit asks: all projections would be 67 times as large. The file names the model (a fingerprint
of its parameters and config), and a wardrobe of another model is refused.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from fashionjax import gallery, inference, photos, progress
from fashionjax.data import photo, preprocess, source
from fashionjax.errors import UserError
from fashionjax.metrics import stream

FORMAT = "fashionjax-wardrobe-1"
DATASET = "dataset:"  # --gallery=dataset:NAME/CONFIG:SPLIT
UNKNOWN = -1  # a type that is told, not predicted
# the config fields beside the parameters that an embedding or a type's number depends on
FINGERPRINTED = ("task", "model", "image_size", "dtype", "crop_box", "box_margin", "faithful", "labels")


class Wardrobe(NamedTuple):
    """embedding [g d] float32, category [g] i32 into `types`, id [g]; source and record [g] i32 lead to the
    pictures: {"folder": path}, where ids are paths in it, or {"dataset", "split", "data_dir"}."""

    embedding: np.ndarray
    category: np.ndarray
    id: tuple[str, ...]
    types: tuple[str, ...]
    source: Mapping[str, str]
    record: np.ndarray
    model: str


def fingerprint(model: inference.Model) -> str:
    """Hex digits that two models share only if they embed alike."""
    digest = hashlib.sha256()
    config = model.config.to_dict()
    told = {name: config.get(name) for name in FINGERPRINTED}
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((model.params, model.model_state)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf)
    return digest.hexdigest()


def has_type_head(config: ConfigDict) -> bool:
    """Whether a compatibility model predicts the types of bare photos."""
    return config.model.kind == "set_transformer" or "category" in config.loss


# ------------------------------------------------------------------------------ making one
def open_wardrobe(
    name: str,
    model: inference.Model,
    predictor: photos.Predictor,
    told: Mapping[str, int],
    data_dir: str = "",
) -> tuple[Wardrobe, int]:
    """`--gallery` (a folder, `dataset:NAME:SPLIT` or a saved file) → (wardrobe, number of unreadable items).

    `told` are types by id, before predicted and stored ones; unreadable items are named on standard error and
    left out.
    """
    if name.startswith(DATASET):
        found, unread = from_dataset(name, model, data_dir)
    elif os.path.isdir(name):
        found, unread = from_folder(name, model, predictor, told)
    else:
        found, unread = load(name, fingerprint(model)), 0
    strangers = sorted(told.keys() - set(found.id))
    if strangers:
        print(
            f"--gallery_types: {len(strangers)} of {len(told)} ids are not in {name} (first: {strangers[0]})",
            file=sys.stderr,
        )
    category = [told.get(item, own) for item, own in zip(found.id, found.category.tolist(), strict=True)]
    return found._replace(category=np.asarray(category, np.int32)), unread


def from_folder(
    folder: str, model: inference.Model, predictor: photos.Predictor, told: Mapping[str, int]
) -> tuple[Wardrobe, int]:
    """The pictures in a folder and the folders in it, ids are paths in the folder, sorted."""
    root = Path(folder)
    ids = sorted(entry.relative_to(root).as_posix() for entry in root.rglob("*") if photos.is_picture(entry))
    if not ids:
        raise UserError(f"{folder}: holds no picture ({', '.join(photos.SUFFIXES)}); --gallery needs some")
    untold = [item for item in ids if item not in told]
    if untold and not has_type_head(model.config):
        raise UserError(
            f"{folder}: this checkpoint has no type head and --gallery_types has no type for {len(untold)} "
            f"photos (first: {untold[0]})"
        )
    kept, rows, category, started = [], [], [], time.monotonic()
    outputs = photos.outputs([str(root / item) for item in ids], predictor)
    for number, (item, (read, output)) in enumerate(zip(ids, outputs, strict=True), 1):
        if output is None:
            print(f"error: {read}; left out of the gallery", file=sys.stderr)
        else:
            kept.append(item)
            rows.append(output["embedding"])
            logits = output.get("category_logits")
            category.append(UNKNOWN if logits is None else int(np.argmax(logits)))
        _progress(number, len(ids), predictor.batch_size, started)
    if not kept:
        raise UserError(f"{folder}: none of its {len(ids)} pictures can be read; --gallery needs some")
    where = {"folder": str(root.resolve())}
    return _made(model, np.stack(rows), category, kept, where, range(len(kept))), len(ids) - len(kept)


def from_dataset(name: str, model: inference.Model, data_dir: str = "") -> tuple[Wardrobe, int]:
    """A split of a prepared dataset with its own types."""
    dataset, _, split_name = name.removeprefix(DATASET).rpartition(":")
    if not dataset or not split_name:
        raise UserError(f"--gallery={name}: write {DATASET}NAME/CONFIG:SPLIT")
    data_dir = data_dir or model.config.data_dir
    split = source.open_split(dataset, split_name, data_dir)
    types = list(model.config.labels.category)
    strange = sorted(set(split.labels.get("category", ())) - set(types))
    if "category" not in split.features or strange:
        has = f"types {', '.join(strange)}" if strange else "no category"
        raise UserError(f"{split.dataset}: has {has}; this checkpoint knows {', '.join(types)}")
    predicted, truth = stream.collect(inference.predictions(model, split, allow_missing=True))
    place = np.asarray([types.index(own) for own in split.labels["category"]], np.int32)
    record = truth["index"]
    ids = split.column("image_id") if "image_id" in split.features else np.arange(len(split))
    where = {"dataset": dataset, "split": split_name, "data_dir": str(Path(data_dir).resolve())}
    found = _made(model, predicted["embedding"], place[truth["category"]], ids[record], where, record)
    return found, len(split) - len(record)


def _made(model: inference.Model, embedding, category, ids, where: dict, record) -> Wardrobe:
    embedding, ids = np.asarray(embedding, np.float32), tuple(map(str, ids))
    gallery.check_rows(embedding, ids, next(iter(where.values())))
    category, record = (np.asarray(list(values), np.int32) for values in (category, record))
    types = tuple(model.config.labels.category)
    return Wardrobe(embedding, category, ids, types, where, record, fingerprint(model))


def _progress(seen: int, total: int, every: int, started: float) -> None:
    if total > every and (seen % every == 0 or seen == total):
        elapsed = max(time.monotonic() - started, 1e-9)
        left = progress.clock(elapsed / seen * (total - seen))
        line = f"embedded {seen}/{total}  {seen / elapsed:.0f} img/s  left {left}"
        progress.show(line, last=seen == total, every=False)


def read_types(path: str, types: Sequence[str]) -> dict[str, int]:
    """A CSV file with the columns id and type → {id: number of its type}."""
    told: dict[str, int] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"id", "type"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path}, line 1: the columns must be id,type")
            for row in rows:
                line = f"{path}, line {rows.line_num}"
                if not row["id"] or row["type"] not in types:
                    raise UserError(f"{line}: {row['type']!r} is no type; use {', '.join(types)}")
                number = types.index(row["type"])
                if told.setdefault(row["id"], number) != number:
                    raise UserError(f"{line}: {row['id']} is {types[told[row['id']]]} in a line above")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); write id,type lines") from error
    return told


# ------------------------------------------------------------------------------ its file
def save(wardrobe: Wardrobe, path: str) -> None:
    """Write it as one file; what was there before stays until the new one is whole."""
    metadata = {
        "format": FORMAT,
        "types": json.dumps(wardrobe.types),
        "source": json.dumps(dict(wardrobe.source)),
        "model": wardrobe.model,
    }
    arrays = {"category": wardrobe.category, "record": wardrobe.record}
    try:
        gallery.write_rows(path, wardrobe.embedding, wardrobe.id, metadata, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another file") from error


def load(path: str, model: str) -> Wardrobe:
    """Read what `save` wrote; `model` is the fingerprint that it must have."""
    metadata, ids, (embedding, category, record) = gallery.read_rows(path, FORMAT, "category", "record")
    gallery.check_rows(embedding, ids, path)
    try:
        types, where = json.loads(metadata["types"]), json.loads(metadata["source"])
        own = metadata["model"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged gallery ({error!r}); build it again") from error
    if own != model:
        raise UserError(
            f"{path}: was embedded by another model or another step of it; build it again from the "
            "pictures with --gallery=FOLDER --save_gallery=FILE"
        )
    numbers = (category, record)
    if (
        any(x.dtype != np.int32 or x.shape != (len(ids),) for x in numbers)
        or not ((category >= 0) & (category < len(types))).all()
    ):
        raise UserError(f"{path}: damaged gallery (types or records do not fit its rows); build it again")
    return Wardrobe(embedding, category, tuple(ids), tuple(types), where, record, own)


# ------------------------------------------------------------------------------ its pictures
def pictures(wardrobe: Wardrobe) -> Callable[[int], np.ndarray | None]:
    """row → its picture, uint8 [h w 3]; None where the file or the dataset is not at hand any more."""
    where = wardrobe.source
    if "folder" in where:
        return lambda row: _or_none(lambda: photo.read_photo(Path(where["folder"]) / wardrobe.id[row]))
    split = _or_none(lambda: source.open_split(where["dataset"], where["split"], where["data_dir"]))
    if split is None:
        return lambda row: None
    return lambda row: _or_none(lambda: preprocess.picture(split[int(wardrobe.record[row])]))


def _or_none(read: Callable):
    try:
        return read()
    except (UserError, source.DamagedRecord, IndexError):
        return None
