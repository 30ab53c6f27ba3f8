"""The images of a gallery embedded by a model: those of a folder, of a split, or given one by one; with what
leads back to them, and the model's fingerprint.

`collection.py` makes of them what `fashionjax search` looks through, `outfit/typed_gallery.py` adds types.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from fashionjax.data import photo, preprocess, source
from fashionjax.data.pairs import LISTS as PAIR_LISTS
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.metrics import collect
from fashionjax.runtime import progress

DATASET = "dataset:"  # --gallery=dataset:NAME/CONFIG:SPLIT
# the config fields beside the parameters that an embedding or a type's number depends on, the random crops of
# quirk S1 apart, which `photos.load` turns off
FINGERPRINTED = ("task", "model", "image_size", "dtype", "normalisation", "crop_box", "box_margin", "labels")


class Embedded(NamedTuple):
    """Images that could be read, in order: outputs of the model and labels of the dataset {name: [g …]},
    id [g]; source and record [g] i32 lead back to them: {"folder": path}, where ids are paths in it, or
    {"dataset", "split", "data_dir"}. unread: how many could not be read."""

    outputs: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    id: tuple[str, ...]
    source: dict[str, str]
    record: np.ndarray
    unread: int


def fingerprint(model: inference.Model) -> str:
    """Hex digits that two models share only if they embed alike."""
    digest = hashlib.sha256()
    config = model.config.to_dict()
    fields = {name: config.get(name) for name in FINGERPRINTED}
    if "test_canvases" in config:  # of models that crop
        fields["test_canvases"] = config["test_canvases"]
    fields["quirks"] = sorted(config.get("quirks", ()))
    digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((model.params, model.model_state)):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf)
    return digest.hexdigest()


def check_model(own: str, given: str, path: str) -> None:
    """A UserError unless the fingerprint in the file `path` is that of the model at hand."""
    if own != given:
        raise UserError(
            f"{path}: was embedded by another model, or another step of this one; build it again from the "
            "images with --gallery=FOLDER --save_gallery=FILE"
        )


# ------------------------------------------------------------------------------ embedding images
def folder_ids(folder: str) -> list[str]:
    """The images in a folder and its subfolders: their paths in the folder, sorted. Hidden files and folders
    are passed over, and what macOS's archiver adds (`__MACOSX`)."""
    root = Path(folder)
    entries = sorted(entry for entry in root.rglob("*") if not _is_companion(entry.relative_to(root)))
    photos.note_unread(folder, entries)
    ids = [entry.relative_to(root).as_posix() for entry in entries if photos.is_picture(entry)]
    if not ids:
        raise UserError(f"{folder}: no image files in this folder (supported: {photo.FORMAT_NAMES})")
    return sorted(ids)


def _is_companion(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def embed_folder(folder: str, ids: Sequence[str], predictor: photos.Predictor) -> Embedded:
    """The images `ids` of a folder; those that cannot be read are named on standard error."""
    root = Path(folder)
    sources = [photos.Source(str(root / item), root / item) for item in ids]
    return embed_images(sources, ids, root, predictor)


def embed_images(
    sources: Sequence[photos.Source], ids: Sequence[str], root: Path, predictor: photos.Predictor
) -> Embedded:
    """Images one by one; ids that are paths are relative to `root`. Those that cannot be read are named on
    standard error; UserError where none can."""
    kept, rows, started = [], [], time.monotonic()
    outputs = photos.outputs(sources, predictor)
    for number, (item, (read, output)) in enumerate(zip(ids, outputs, strict=True), 1):
        if output is None:
            print(f"error: {read}; left out of the gallery", file=sys.stderr)
        else:
            kept.append(item)
            rows.append(output)
        show_progress(number, len(ids), predictor.batch_size, started)
    if not kept:
        raise UserError(f"{root}: none of {len(ids)} images can be read; a gallery needs at least one")
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    where, record = {"folder": str(root.resolve())}, np.arange(len(kept), dtype=np.int32)
    return Embedded(stacked, {}, tuple(kept), where, record, len(ids) - len(kept))


def open_split(name: str, model: inference.Model, data_dir: str = "") -> tuple[source.Split, dict[str, str]]:
    """`dataset:NAME/CONFIG:SPLIT`, prepared in `data_dir` (default: the config's) → (split, its source)."""
    dataset, _, split_name = name.removeprefix(DATASET).rpartition(":")
    if not dataset or not split_name:
        raise UserError(f"--gallery={name}: write {DATASET}NAME/CONFIG:SPLIT")
    data_dir = data_dir or model.config.data_dir
    split = source.open_split(dataset, split_name, data_dir, pairs=False)
    where = {"dataset": dataset, "split": split_name, "data_dir": str(Path(data_dir).resolve())}
    return split, where


def embed_split(
    split: source.Split, where: dict[str, str], model: inference.Model, given: Mapping | None = None
) -> Embedded:
    """The records of a split, seen as an evaluation sees them but for the quirks that are off here: cut to
    their boxes and pooled at their landmarks where they have them. `given`: as for `photos.predictor`."""
    if photos.takes_landmarks(model.config) and "landmark" not in split.features:
        raise UserError(
            f"{split.dataset}: has no landmarks, at which this checkpoint's model pools; give its images "
            "as a folder, where --landmarks detects them"
        )
    if given:  # in place of what records say of their own attributes
        keep, of_task = set(split.features) - set(PAIR_LISTS), model.task.preprocess

        def as_asked(record: dict, rng: None) -> dict:
            return of_task({name: record[name] for name in keep if name in record} | given, rng)

        model = model._replace(task=model.task._replace(preprocess=as_asked))
    outputs, labels = collect.collect(inference.predictions(model, split, allow_missing=True))
    record = labels["index"]
    if not len(record):
        raise UserError(f"{split.dataset}/{split.name}: none of its {len(split)} records can be read")
    names = split.column("image_id") if "image_id" in split.features else np.arange(len(split))
    ids = tuple(str(name) for name in names[record])
    return Embedded(outputs, labels, ids, where, record.astype(np.int32), len(split) - len(record))


def show_progress(seen: int, total: int, every: int, started: float, what: str = "embedded") -> None:
    """A line with rate and remaining time, after each `every` of `total` images."""
    if total > every and (seen % every == 0 or seen == total):
        elapsed = max(time.monotonic() - started, 1e-9)
        left = progress.clock(elapsed / seen * (total - seen))
        line = f"{what} {seen}/{total}  {seen / elapsed:.0f} img/s  left {left}"
        progress.show(line, last=seen == total, every=False)


# ------------------------------------------------------------------------------ its images
class Candidate(NamedTuple):
    """A ranked image of a gallery, for a page; picture uint8 [h w 3], None where its file is gone."""

    rank: int
    id: str
    score: float
    picture: np.ndarray | None


def pictures(
    where: Mapping[str, str], ids: Sequence[str], record: np.ndarray
) -> Callable[[int], np.ndarray | None]:
    """row → its image, uint8 [h w 3]; None where the file or the dataset is not available any more."""
    if "folder" in where:
        return lambda row: _or_none(lambda: photo.read_photo(Path(where["folder"]) / ids[row]))
    place = (where["dataset"], where["split"], where["data_dir"])
    split = _or_none(lambda: source.open_split(*place, pairs=False))
    if split is None:
        return lambda row: None
    return lambda row: _or_none(lambda: preprocess.picture(split[int(record[row])]))


def _or_none(read: Callable):
    try:
        return read()
    except (UserError, source.DamagedRecord, IndexError):
        return None
