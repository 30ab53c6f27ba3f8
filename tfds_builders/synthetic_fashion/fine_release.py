"""The synthetic tops in the release layouts of FashionAI, DARN and DeepFashion with ASEN's index files.

Attributes and values are those of this world, which `meta.json` says. FashionAI: one attribute an image, two
parts, label tables with maybes, CRLF. DARN: several attributes an image, a list of links of which some are
dead. DeepFashion: all attributes of an image under five types, full labels beside the evaluated ones, a path
that is listed twice.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion import fine_grained
from tfds_builders.synthetic_fashion.fine_details import ATTRIBUTES, VALUES
from tfds_builders.synthetic_fashion.records import CHUNK, in_order
from tfds_builders.synthetic_fashion.world import rng_of

LAYOUTS = ("fashionai", "darn", "deepfashion_fine")
FILES = {"train": "train", "val": "valid", "test": "test"}
SIDE = 256
STREAM = 17
DEAD = 0.1  # share of DARN's links
MAYBE = 0.2  # share of label rows with a maybe
QUERIES = 0.2  # share of the evaluated images, as published
TYPES = 5  # DeepFashion's attribute types


class Image(NamedTuple):
    """One image: its split, path below the release's image folder, and labelled (attribute, value) pairs."""

    split: str
    index: int
    path: str
    labels: list[tuple[int, int]]


def _images(name: str, seed: int, count: int) -> list[Image]:
    """8 : 1 : 1, at least ten evaluated images a split."""
    held = max(10, count // 10)
    sizes = {"train": max(count - 2 * held, 20), "val": held, "test": held}
    found = []
    for split, number in sizes.items():
        for index in range(number):
            pairs = list(enumerate(fine_grained.values(seed, split, index)))
            rng = rng_of(seed, STREAM, list(sizes).index(split), index)
            digest = hashlib.md5(f"{seed}/{split}/{index}".encode()).hexdigest()
            if name == "fashionai":
                pairs = [pairs[index % len(pairs)]]
                part = 1 + int(rng.integers(2))
                folder = f"{ATTRIBUTES[pairs[0][0]]}_labels"
                path = f"fashionAI_attributes_train{part}/Images/{folder}/{digest}.jpg"
            elif name == "darn":
                kept = sorted(rng.permutation(len(pairs))[: int(rng.integers(2, len(pairs) + 1))].tolist())
                pairs = [pairs[a] for a in kept]
                path = f"pic/{len(found) + 1:06d}/{digest[:8]}.jpg"
            else:
                pairs = pairs[:TYPES]
                path = f"img/Synthetic_Top_{index % 7}/img_{len(found) + 1:08d}.jpg"
            found.append(Image(split, index, path, pairs))
    return found


def _take(seed: int, size: int, images: list[Image]) -> list[bytes]:
    taken = []
    for image in images:
        rng = rng_of(seed, STREAM, 3 + list(FILES).index(image.split), image.index)
        value = fine_grained.values(seed, image.split, image.index)
        number = fine_grained.FIRST_ITEM[image.split] + 4 * image.index
        taken.append(fine_grained.draw(rng, seed, number, value, size, bool(rng.random() < 0.3))[0])
    return taken


def write_fine(
    name: str, root: Path, images: int, seed: int, size: int | None, packed: bool, processes: int
) -> dict:
    """Write the release `name` (one of LAYOUTS) → what was written."""
    listed = _images(name, seed, images)
    dead = {
        image.path
        for number, image in enumerate(listed)
        if name == "darn" and rng_of(seed, STREAM, 9, number).random() < DEAD
    }
    kept = [image for image in listed if image.path not in dead]
    calls = [(seed, size or SIDE, kept[at : at + CHUNK]) for at in range(0, len(kept), CHUNK)]
    rendered = (data for part in in_order(_take, calls, processes if len(kept) >= 64 else 1) for data in part)
    pictures = {image.path: data for image, data in zip(kept, rendered, strict=True)}
    _store(name, root, pictures, packed)
    texts = _index_files(name, listed) | _own_files(name, seed, listed, dead)
    newline = "\r\n" if name == "fashionai" else "\n"
    for path, lines in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("".join(line + newline for line in lines), newline="")
    splits = {split: sum(image.split == split for image in kept) for split in FILES}
    return {"release": name, "dir": str(root), "images": len(kept), "splits": splits, "missing": len(dead)}


def _store(name: str, root: Path, pictures: dict[str, bytes], packed: bool) -> None:
    """Images as folders, or as the archives that the benchmark comes in."""
    base = root / "Img" if name == "deepfashion_fine" else root
    archives: dict[Path, list[str]] = {}
    for path, data in pictures.items():
        if packed:
            archives.setdefault(base / f"{path.split('/')[0]}.zip", []).append(path)
            continue
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(data)
    for archive, paths in archives.items():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
            for path in paths:  # a fixed date, so that the same seed gives the same archive
                file.writestr(zipfile.ZipInfo(path), pictures[path])


# ------------------------------------------------------------------------------ texts
def _folder(name: str) -> str:
    return {"fashionai": "FashionAI", "darn": "DARN", "deepfashion_fine": "DeepFashion"}[name]


def _names(name: str) -> list[str]:
    return list(ATTRIBUTES[:TYPES] if name == "deepfashion_fine" else ATTRIBUTES)


def _index_files(name: str, listed: list[Image]) -> dict[str, list[str]]:
    """ASEN's eight files and meta.json: each evaluated image for one attribute, a fifth of them queries (the
    last ones, but mixed in FashionAI)."""
    folder, texts = _folder(name), {}
    counts = {attribute: len(VALUES[attribute]) for attribute in _names(name)}
    meta = {folder: {"ATTRIBUTES": list(counts), "ATTRIBUTES_NUM": counts}}
    if name == "fashionai":
        meta[folder]["ATTRIBUTES_VALUES"] = {attribute: list(VALUES[attribute]) for attribute in counts}
    texts[f"{folder}/meta.json"] = [json.dumps(meta, indent=1)]
    for split, stem in FILES.items():
        own = [image for image in listed if image.split == split]
        twice = [own[0].path] if name == "deepfashion_fine" and split == "val" else []
        texts[f"{folder}/filenames_{stem}.txt"] = [image.path for image in own] + twice
        if split == "train":
            rows = [" ".join(map(str, (i, *sum(image.labels, ())))) for i, image in enumerate(own)]
            texts[f"{folder}/label_train.txt"] = rows
            continue
        chosen = [image.labels[i % len(image.labels)] for i, image in enumerate(own)]
        chosen += [own[0].labels[0]] * len(twice)
        asking = max(1, round(QUERIES * len(chosen)))
        last = len(chosen) - asking
        query = [i % 5 == 2 if name == "fashionai" else i >= last for i in range(len(chosen))]
        rows = [f"{i} {attribute} {value}" for i, (attribute, value) in enumerate(chosen)]
        for kind, wanted in (("query", True), ("candidate", False)):
            texts[f"{folder}/{kind}_{stem}.txt"] = [row for row, of in zip(rows, query) if of == wanted]
    return texts


def _own_files(name: str, seed: int, listed: list[Image], dead: set[str]) -> dict[str, list[str]]:
    """What comes with the images."""
    return OWN[name](seed, listed, dead)


def _label_tables(seed: int, listed: list[Image], dead: set[str]) -> dict[str, list[str]]:
    """A label table for each part, and the questions of the rank part, which no list names."""
    tables: dict[str, list[str]] = {}
    for number, image in enumerate(listed):
        rng = rng_of(seed, STREAM, 10, number)
        part, _, path = image.path.partition("/")
        attribute, value = image.labels[0]
        letters = np.full(len(VALUES[ATTRIBUTES[attribute]]), "n")
        if rng.random() < MAYBE:
            letters[int(rng.integers(len(letters)))] = "m"
        letters[value] = "y"
        row = f"{path},{path.split('/')[1]},{''.join(letters)}"
        tables.setdefault(f"{part}/Annotations/label.csv", []).append(row)
    key = f"{ATTRIBUTES[0]}_labels"
    tables["rank/Tests/question.csv"] = [f"Images/{key}/{n:032x}.jpg,{key}," for n in range(3)]
    return tables


def _links(seed: int, listed: list[Image], dead: set[str]) -> dict[str, list[str]]:
    stems = [image.path.removeprefix("pic/").removesuffix(".jpg") for image in listed]
    return {"DARN/darn_url.txt": [f"{stem} http://images.example/{stem}.jpg" for stem in stems]}


def _full_labels(seed: int, listed: list[Image], dead: set[str]) -> dict[str, list[str]]:
    """The release's names with their types, and the archive's label files: attributes from 1, global values,
    tabs with empty columns behind."""
    kinds = [kind for kind, a in enumerate(_names("deepfashion_fine"), 1) for _ in VALUES[a]]
    kinds = rng_of(seed, STREAM, 11).permutation(kinds).tolist()  # types are mixed in the release
    rows_of = {kind: [row for row, own in enumerate(kinds) if own == kind] for kind in set(kinds)}
    local = {(kind, value): row for kind, rows in rows_of.items() for value, row in enumerate(rows)}
    place = {row: key for key, row in local.items()}
    names = [(_value_name(*place[row]), kind) for row, kind in enumerate(kinds)]
    rows = [str(len(names)), "attribute_name  attribute_type", *(f"{n:<30} {k}" for n, k in names)]
    texts = {"Anno_coarse/list_attr_cloth.txt": rows}
    for split in ("val", "test"):
        own = [image for image in listed if image.split == split]
        own += own[:1] if split == "val" else []
        texts[f"DeepFashion/label_{FILES[split]}.txt"] = [
            "\t".join(map(str, (i, *(n for a, v in image.labels for n in (a + 1, local[a + 1, v]))))) + "\t\t"
            for i, image in enumerate(own)
        ]
    return texts


def _value_name(kind: int, value: int) -> str:
    attribute = ATTRIBUTES[kind - 1]
    return f"{attribute} {VALUES[attribute][value]}"


OWN: dict[str, Callable[[int, list[Image], set[str]], dict[str, list[str]]]] = {
    "fashionai": _label_tables,
    "darn": _links,
    "deepfashion_fine": _full_labels,
}
