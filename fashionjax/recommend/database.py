"""The feature database of a segmented-image database: embeddings of its garments, in parts that a killed run
goes on with.

DIR is what `fashionjax segment --database=DIR` wrote (index.jsonl, NAME/CATEGORY_RANK.png). DIR/features/
gets features.json (which model, which pairs), part-00000.safetensors … (embedding [g d] float32 and the
garments as JSON) and, with PCA, pca.safetensors. A part appears whole or not at all; a photo is embedded when
a part lists it, so later photos are embedded by running the command again.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fashionjax import files, segment
from fashionjax.errors import UserError
from fashionjax.gallery import embed as gallery
from fashionjax.gallery import index
from fashionjax.ops import pca
from fashionjax.recommend import garments as embedding_of
from fashionjax.recommend.garments import Embedder, Entry
from fashionjax.recommend.rules import Garment, first_box_features

FOLDER, ORIGIN, PCA_FILE = "features", "features.json", "pca.safetensors"
FORMAT, PCA_FORMAT = "fashionjax-garments-1", "fashionjax-pca-1"
PART = 32  # photos in a part, unless --part says otherwise
PAIR_FIELDS = ("pair_id", "color", "style")


class Database(NamedTuple):
    """garments [g] and their embedding [g d] float32 of unit length; origin: features.json; whitening, where
    a PCA was fitted."""

    folder: Path
    garments: list[Garment]
    embedding: np.ndarray
    origin: dict[str, Any]
    whitening: pca.PCA | None


# ------------------------------------------------------------------------------ pairs
def read_pairs(path: str) -> dict[str, dict[str, str]]:
    """--pairs → {image's file name, or its stem: {"pair_id", "color", "style"}}.

    A CSV file with the columns image, pair_id and where known color, style; or the `annos` folder of a
    release with a JSON of each image (DeepFashion2, K-Fashion), whose `pair_id`, `color` and `style` are
    taken, those of its first item where the image has none.
    """
    if os.path.isdir(path):
        found = {}
        for file in sorted(Path(path).glob("*.json")):
            content = _json(file)
            first = next((v for k, v in content.items() if k.startswith("item") and isinstance(v, dict)), {})
            merged = first | {name: content[name] for name in PAIR_FIELDS if name in content}
            if "pair_id" not in merged:
                raise UserError(f"{file}: has no pair_id")
            color = merged.get("color") or merged.get("colour") or merged.get("category_color") or ""
            found[file.stem] = {"pair_id": str(merged["pair_id"]), "color": str(color)}
            found[file.stem]["style"] = str(merged.get("style") or "")
        if not found:
            raise UserError(f"--pairs={path}: no .json file in this folder")
        return found
    found = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if not row.get("image") or not row.get("pair_id"):
                    raise UserError(f"{path}, line {number}: needs the columns image and pair_id")
                found[Path(row["image"]).stem] = {name: row.get(name) or "" for name in PAIR_FIELDS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--pairs={path}: cannot be read as CSV ({error})") from error
    if not found:
        raise UserError(f"--pairs={path}: holds no pair")
    return found


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object")
    return content


# ------------------------------------------------------------------------------ writing
def build(
    folder: Path,
    embedder: Embedder,
    origin: Mapping[str, Any],
    pairs: Mapping[str, Mapping[str, str]],
    part: int = PART,
) -> Iterator[tuple[int, list[UserError]]]:
    """Embeds the photos of index.jsonl that no part lists; after each part → how many photos it holds, and
    what is wrong with those that could not be read.

    `origin` stands in features.json with the model's fingerprint; a folder of another is refused. UserError
    where `pairs` are given and lack a photo.
    """
    listed = segment.read_index(folder)
    if not listed:
        raise UserError(f"{folder}: holds no segmented image; run `fashionjax segment … --database={folder}`")
    missing = [image for image in listed if pairs and Path(image).stem not in pairs]
    if missing:
        raise UserError(f"--pairs: {len(missing)} of {len(listed)} photos have no pair, first: {missing[0]}")
    target = folder / FOLDER
    _check_origin(target, {"model": gallery.fingerprint(embedder.model), **origin})
    done = embedded_images(folder)
    left = [line for image, line in listed.items() if image not in done]
    number = 1 + max((int(path.stem.split("-")[1]) for path in _parts(target)), default=-1)
    for start in range(0, len(left), part):
        chunk = left[start : start + part]
        errors = _write_part(target / f"part-{number:05d}.safetensors", chunk, folder, embedder, pairs)
        number += 1
        yield len(chunk), errors


def embedded_images(folder: Path) -> set[str]:
    """The photos that the parts list."""
    return {image for path in _parts(folder / FOLDER) for image in _read_part(path)[2]}


def _write_part(
    path: Path, lines: Sequence[Mapping], root: Path, embedder: Embedder, pairs
) -> list[UserError]:
    entries = [Entry(line["image"], line["objects"], root) for line in lines]
    rows, kept, images, errors = [], [], [], []
    filled = [(line, entry) for line, entry in zip(lines, entries) if entry.objects]
    images += [line["image"] for line, entry in zip(lines, entries) if not entry.objects]
    found = embedding_of.embedded([entry for _, entry in filled], embedder)
    for (line, _), result in zip(filled, found, strict=True):
        if isinstance(result, UserError):
            errors.append(result)
            continue
        images.append(line["image"])
        rows.append(result)
        kept += garments_of(line, pairs)
    if not images:
        return errors
    width = rows[0].shape[1] if rows else 0
    tensors = {"embedding": np.concatenate(rows) if rows else np.zeros((0, width), np.float32)}
    told = {"format": FORMAT, "garments": json.dumps([g._asdict() for g in kept], ensure_ascii=False)}
    told["images"] = json.dumps(images, ensure_ascii=False)
    files.write_atomically(path, lambda temporary: save_file(tensors, temporary, told))
    return errors


def garments_of(line: Mapping[str, Any], pairs: Mapping[str, Mapping[str, str]]) -> list[Garment]:
    """The garments of a line of index.jsonl; without `pairs` every photo shows a product of its own."""
    image, name = line["image"], line["name"]
    told = pairs.get(Path(image).stem, {"pair_id": name})
    ranks: dict[str, int] = {}
    found = []
    for garment in line["objects"]:
        category = garment["category"]
        ranks[category] = garment.get("rank") or ranks.get(category, 0) + 1
        own = f"{name}/{category}_{ranks[category]}.png".replace("//", "/")
        place = garment.get("file") or own
        box = tuple(float(v) for v in garment["box"])
        found.append(Garment(place, image, name, told["pair_id"], category, float(garment["score"]), box,
                             told.get("color", ""), told.get("style", "")))  # fmt: skip
    return found


def _check_origin(target: Path, origin: Mapping[str, Any]) -> None:
    path = target / ORIGIN
    if not path.is_file():
        files.write_text(path, json.dumps(origin, indent=1, ensure_ascii=False) + "\n")
        return
    before = _json(path)
    changed = [name for name in ("model", "pairs", "quirks") if before.get(name) != origin.get(name)]
    if changed:
        raise UserError(
            f"{target}: was written with another {', '.join(changed)}; remove the folder to build it again, "
            "or give the same flags to go on with it"
        )


def fit_pca(folder: Path, count: int, *, randomised: int | None = None) -> pca.PCA:
    """Fits PCA on every garment of the database and stores it beside the features."""
    database = read(folder)
    found = pca.fit(database.embedding, count, randomised=randomised)
    told = {"format": PCA_FORMAT, "rows": str(len(database.garments))}
    files.write_atomically(
        folder / FOLDER / PCA_FILE, lambda temporary: save_file(found._asdict(), temporary, told)
    )
    return found


# ------------------------------------------------------------------------------ reading
def read(folder: str | Path) -> Database:
    """The feature database of a folder; UserError where there is none or a part is damaged."""
    folder = Path(folder)
    target = folder / FOLDER
    parts = _parts(target)
    if not (target / ORIGIN).is_file() or not parts:
        raise UserError(
            f"{folder}: has no features; run `fashionjax embed --database={folder} --checkpoint=…`"
        )
    rows, garments = [], []
    for part in parts:
        embedding, found, _ = _read_part(part)
        rows += [embedding] if len(embedding) else []
        garments += found
    if not rows:
        raise UserError(f"{folder}: no garment was found in any of its photos")
    embedding, origin = np.concatenate(rows), _json(target / ORIGIN)
    index.check_rows(embedding, [garment.id for garment in garments], target)
    if "k1_first_box_features" in origin.get("quirks", ()):
        garments, embedding = first_box_features(garments, embedding)
    return Database(folder, garments, embedding, origin, _read_pca(target))


def _parts(target: Path) -> list[Path]:
    return sorted(target.glob("part-[0-9]*.safetensors"))


def _read_part(path: Path) -> tuple[np.ndarray, list[Garment], list[str]]:
    """(embedding, garments, images) of a part."""
    try:
        with safe_open(path, framework="numpy") as file:
            told = file.metadata() or {}
            if told.get("format") != FORMAT:
                raise UserError(f"{path}: format {told.get('format')!r}, expected {FORMAT!r}")
            embedding = file.get_tensor("embedding")
        garments = [Garment(**{**line, "box": tuple(line["box"])}) for line in json.loads(told["garments"])]
        return embedding, garments, json.loads(told["images"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged part ({error}); remove it and run `fashionjax embed` again"
        ) from error


def _read_pca(target: Path) -> pca.PCA | None:
    path = target / PCA_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return pca.PCA(*(file.get_tensor(name) for name in pca.PCA._fields))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); run `fashionjax embed --pca=N` again") from error


def whitened(database: Database, features: np.ndarray) -> np.ndarray:
    """features [n d] through the database's PCA; UserError where it has none."""
    if database.whitening is None:
        raise UserError(f"{database.folder}: no PCA was fitted; run `fashionjax embed … --pca=256`")
    return pca.transform(database.whitening, features)


def picture(database: Database, image_of: Callable[[str], np.ndarray], garment: Garment) -> np.ndarray | None:
    """The garment's picture of the segmented database, else its box in the photo; None where both are
    gone."""
    for read_it in (
        lambda: image_of(str(database.folder / garment.id)),
        lambda: embedding_of.cut(image_of(garment.image), {"box": garment.box}),
    ):
        try:
            return read_it()
        except UserError:
            continue
    return None
