"""COCO instances json: images, annotations and categories, read and checked whole.

Accepted: gaps in ids, images without annotations, polygons, run-length encodings (compressed or not), crowds,
annotations without area or (where they have a mask) without bbox. Refused with the file and the key
(`annotations[3].bbox`): whatever names an id that is not there, is listed twice, or contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfds_builders.instances import (
    NO_MASK,
    Mask,
    Objects,
    Places,
    Where,
    finite,
    numbers,
    read_json,
    read_mask,
    take,
    whole,
)
from tfds_builders.release import TextFile


class Category(NamedTuple):
    id: int
    name: str


class Coco(NamedTuple):
    """One json. Images are in file order; annotations in file order within `instance`."""

    text: TextFile
    categories: list[Category]  # by id
    image: list[str]  # file names
    image_id: np.ndarray  # [n] int64
    size: np.ndarray  # [n 2] width, height
    row: np.ndarray  # [m] the image of each annotation
    category: np.ndarray  # [m] place in `categories`
    box: np.ndarray  # [m 4] float64 xyxy
    area: np.ndarray  # [m]
    iscrowd: np.ndarray  # [m] uint8
    mask: list[str]  # [m] as stored
    notes: tuple[str, ...]


def is_instances(content: Any) -> bool:
    """Whether a json has the three tables."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read_coco(text: TextFile, content: Any = None) -> Coco:
    """Read a file (or take its parsed `content`) and check all of it."""
    content = read_json(text) if content is None else content
    if not is_instances(content):
        raise text.error(None, "not COCO instances: it must hold images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content[key], list):
            raise text.error(None, f"{key}: not a list")
    categories = _categories(text, content["categories"])
    names, ids, sizes = _images(text, content["images"])
    return _annotations(text, content["annotations"], categories, names, ids, sizes)


def _entries(text: TextFile, table: list, name: str) -> Iterator[tuple[int, dict[str, Any], Where]]:
    """(index, entry, its place) of each object of a table."""
    for i, entry in enumerate(table):
        where = Where(text.label, f"{name}[{i}]")
        if not isinstance(entry, dict):
            raise where.error("not an object")
        yield i, entry, where


def _text(entry: dict[str, Any], key: str, where: Where) -> str:
    value = take(entry, key, where)
    if not isinstance(value, str) or not value.strip():
        raise where.at(key).error("not a text")
    return value


def _whole(entry: dict[str, Any], key: str, where: Where, low: int = 0, high: int = 2**62) -> int:
    return whole(take(entry, key, where), where.at(key), low, high)


def _categories(text: TextFile, table: list) -> list[Category]:
    found: dict[int, int] = {}
    names: dict[str, int] = {}
    result = []
    for i, entry, where in _entries(text, table, "categories"):
        number, name = _whole(entry, "id", where), _text(entry, "name", where).strip()
        if found.setdefault(number, i) != i:
            raise where.at("id").error(f"{number} is the id of categories[{found[number]}] too")
        if names.setdefault(name.lower(), i) != i:
            raise where.at("name").error(f"{name!r} is the name of categories[{names[name.lower()]}] too")
        result.append(Category(number, name))
    if not result:
        raise text.error(None, "categories: none is listed")
    return sorted(result)


def _images(text: TextFile, table: list) -> tuple[list[str], dict[int, int], np.ndarray]:
    ids: dict[int, int] = {}
    first: dict[str, int] = {}
    names, sizes = [], []
    for i, entry, where in _entries(text, table, "images"):
        number = _whole(entry, "id", where)
        if ids.setdefault(number, i) != i:
            raise where.at("id").error(f"{number} is the id of images[{ids[number]}] too")
        name = _text(entry, "file_name", where)
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise where.at("file_name").error(f"{name!r} leaves the folder of images")
        if first.setdefault(name, i) != i:
            raise where.at("file_name").error(f"{name!r} is that of images[{first[name]}] too")
        names.append(name)
        sizes.append([_whole(entry, side, where, 1, 1 << 20) for side in ("width", "height")])
    if not names:
        raise text.error(None, "images: none is listed")
    return names, ids, np.asarray(sizes, np.int64).reshape(-1, 2)


def _annotations(
    text: TextFile,
    table: list,
    categories: list[Category],
    names: list[str],
    ids: dict[int, int],
    sizes: np.ndarray,
) -> Coco:
    place = {category.id: i for i, category in enumerate(categories)}
    seen: dict[int, int] = {}
    columns: dict[str, list] = {key: [] for key in ("row", "category", "box", "area", "iscrowd", "mask")}
    flat = bare = 0
    for i, entry, where in _entries(text, table, "annotations"):
        number = whole(entry.get("id", i), where.at("id"))
        if seen.setdefault(number, i) != i:
            raise where.at("id").error(f"{number} is the id of annotations[{seen[number]}] too")
        image, category = (_whole(entry, key, where) for key in ("image_id", "category_id"))
        if image not in ids:
            raise where.at("image_id").error(f"{image} is the id of no image")
        if category not in place:
            raise where.at("category_id").error(f"{category} is the id of no category")
        width, height = (int(v) for v in sizes[ids[image]])
        mask = read_mask(entry.get("segmentation") or [], (width, height), where.at("segmentation"))
        box = _box(entry, mask, where)
        flat += box[2] <= box[0] or box[3] <= box[1]
        bare += mask is NO_MASK
        area = entry.get("area")
        area = (mask.area or (box[2] - box[0]) * (box[3] - box[1])) if area is None else area
        values = (
            ids[image],
            place[category],
            box,
            finite(area, where.at("area")),
            whole(entry.get("iscrowd", 0), where.at("iscrowd"), 0, 1),
            mask.text,
        )
        for column, value in zip(columns.values(), values):
            column.append(value)
    notes = []
    if flat:
        notes.append(f"{text.label}: {flat} boxes have no area; they are kept, and left out in training")
    if bare:
        notes.append(f"{text.label}: {bare} annotations have a box but no mask")
    image_id = np.fromiter(ids, np.int64, len(ids))
    row, category, iscrowd = (np.asarray(columns[key], np.int64) for key in ("row", "category", "iscrowd"))
    box = np.asarray(columns["box"], np.float64).reshape(-1, 4)
    area = np.asarray(columns["area"], np.float64)
    return Coco(
        text,
        categories,
        names,
        image_id,
        sizes,
        row,
        category,
        box,
        area,
        iscrowd.astype(np.uint8),
        columns["mask"],
        tuple(notes),
    )


def _box(entry: dict[str, Any], mask: Mask, where: Where) -> tuple[float, float, float, float]:
    """bbox [x y width height] → xyxy; that of the mask where there is none."""
    if entry.get("bbox") is None:
        if mask.box is None:
            raise where.error("has neither a bbox nor a segmentation")
        return mask.box
    x, y, w, h = numbers(entry["bbox"], 4, where.at("bbox")).tolist()
    if w < 0 or h < 0:
        raise where.at("bbox").error(f"width {w:g} and height {h:g} must not be negative")
    return x, y, x + w, y + h


# ------------------------------------------------------------------------------ several files
class Joined(NamedTuple):
    """The splits' files, one after the other, for `Records`."""

    places: Places
    image: list[str]
    split: dict[str, np.ndarray]
    objects: Objects
    columns: dict[str, Any]
    notes: tuple[str, ...]


def match_categories(parts: Sequence[Coco], names: Sequence[str]) -> list[np.ndarray]:
    """For each file, place in its categories → place in `names` by name (capitals and _ for a blank do not
    count); ReleaseError for a name that is not among them.
    """
    wanted = {plain(name): i for i, name in enumerate(names)}
    result = []
    for part in parts:
        for category in part.categories:
            if plain(category.name) not in wanted:
                raise part.text.error(None, f"categories: {category.name!r} is not one of {', '.join(names)}")
        result.append(np.array([wanted[plain(c.name)] for c in part.categories], np.int64))
    return result


def plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


class Instances:
    """The objects of each image, made on demand from arrays over all of them, sorted by image."""

    def __init__(self, start: np.ndarray, fields: dict[str, Any]):
        self.start, self.fields = start, fields

    def fitted(self, box: np.ndarray, size: np.ndarray) -> Instances:
        """The same objects with other boxes [m 4]; size [n 2] does not matter, all is in pixels."""
        return Instances(self.start, self.fields | {"box": box})

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, row: int) -> list[dict[str, Any]]:
        span = range(int(self.start[row]), int(self.start[row + 1]))
        return [{key: values[i] for key, values in self.fields.items()} for i in span]


def join(parts: dict[str, Coco], names: Sequence[str], *, unique: bool = True) -> Joined:
    """Split → file, as one; with `unique`, an image that two splits list is a ReleaseError."""
    where: list[Where] = []
    image: list[str] = []
    splits, first = {}, {}
    for split, part in parts.items():
        splits[split] = np.arange(len(image), len(image) + len(part.image))
        for i, name in enumerate(part.image):
            here = Where(part.text.label, f"images[{i}]")
            if first.setdefault(name, here) is not here and unique:
                raise here.at("file_name").error(f"{name!r} is that of {': '.join(first[name])} too")
            where.append(here)
        image += part.image
    maps = match_categories(list(parts.values()), names)
    offsets = np.cumsum([0] + [len(part.image) for part in parts.values()])
    row = np.concatenate([part.row + at for part, at in zip(parts.values(), offsets)]).astype(np.int64)
    category = np.concatenate([of[part.category] for part, of in zip(parts.values(), maps)]).astype(np.int64)
    keys = [f"annotations[{i}]" for part in parts.values() for i in range(len(part.row))]
    mask = [text for part in parts.values() for text in part.mask]
    order = np.argsort(row, kind="stable")
    box, area, iscrowd = (
        np.concatenate([getattr(part, field) for part in parts.values()])[order]
        for field in ("box", "area", "iscrowd")
    )
    fields = {
        "category": category[order],
        "box": box.astype(np.float32),
        "segmentation": [mask[i] for i in order],
        "area": area.astype(np.float32),
        "iscrowd": iscrowd,
    }
    size = np.concatenate([part.size for part in parts.values()])
    columns = {
        "instance": Instances(np.searchsorted(row[order], np.arange(len(image) + 1)), fields),
        "coco_id": np.concatenate([part.image_id for part in parts.values()]),
        "width": size[:, 0],
        "height": size[:, 1],
    }
    notes = tuple(note for part in parts.values() for note in part.notes)
    objects = Objects(row[order], box, [f"{keys[i]}.bbox" for i in order])
    return Joined(Places(where), image, splits, objects, columns, notes)
