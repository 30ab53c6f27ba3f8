"""DeepFashion2's annotation format: a json per image beside a folder of images.

`SPLIT/image/000001.jpg` and `SPLIT/annos/000001.json`: {"source", "pair_id", "item1": {"category_id", …}, …}.
K-Fashion uses it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfds_builders.annotations import CUT_OFF, OCCLUDED, VISIBLE
from tfds_builders.instances import Mask, Where, numbers, parse_json, read_mask, take, whole
from tfds_builders.release import Location, ReleaseError, read_picture

SOURCES = ("shop", "user", "unknown")
LEVELS = ("scale", "occlusion", "zoom_in", "viewpoint")  # 1–3 each; 0: not given
NO_PAIR = -1  # pair_id of an image that names none
ITEM = re.compile(r"item[0-9]+")
VISIBILITY = {2: VISIBLE, 1: OCCLUDED, 0: CUT_OFF}  # the format's code → this project's


class Format(NamedTuple):
    """What differs between the benchmarks. landmarks: points per category, None where they are not kept."""

    categories: tuple[str, ...]
    first_id: int
    landmarks: tuple[int, ...] | None = None
    levels_given: bool = True
    named: bool = False  # colour and style as texts


class Item(NamedTuple):
    """One garment. points [k 3] x, y, v as given, None where there are none."""

    category: int
    box: np.ndarray
    mask: Mask
    style: int
    level: tuple[int, ...]
    points: np.ndarray | None
    color: str
    style_name: str


class Annotation(NamedTuple):
    source: int
    pair_id: int
    items: dict[str, Item]  # by key, item2 before item10


# ------------------------------------------------------------------------------ one json
def read_annotation(place: Location, form: Format) -> Annotation:
    """Read and check one file."""
    try:
        data = read_picture(place)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"{place.label}: cannot be read ({error})") from error
    return parse_annotation(Where(place.label), parse_json(place.label, data), form)


def parse_annotation(where: Where, content: Any, form: Format) -> Annotation:
    """Check what a file holds."""
    if not isinstance(content, dict):
        raise where.error("not an object with source, pair_id and items")
    source = take(content, "source", where)
    if source not in SOURCES[:2]:
        raise where.at("source").error(f"{source!r} is neither 'shop' nor 'user'")
    pair = whole(take(content, "pair_id", where), where.at("pair_id"))
    keys = sorted((key for key in content if ITEM.fullmatch(key)), key=lambda key: (int(key[4:]), key))
    items = {}
    for key in keys:
        if not isinstance(content[key], dict):
            raise where.at(key).error("not an object")
        items[key] = _item(where.at(key), content[key], content, form)
    return Annotation(SOURCES.index(source), pair, items)


def _item(where: Where, entry: dict[str, Any], image: dict[str, Any], form: Format) -> Item:
    category = _category(where, entry, form)
    box = numbers(take(entry, "bounding_box", where), 4, where.at("bounding_box"))
    if (box[:2] >= box[2:]).any():
        corners = " ".join(f"{v:g}" for v in box)
        raise where.at("bounding_box").error(f"box {corners} is inverted or empty")
    level = []
    for name in LEVELS:
        if name in entry or form.levels_given:
            level.append(whole(take(entry, name, where), where.at(name), 1, 3))
        else:
            level.append(0)
    style, style_name = _style(where, entry.get("style", image.get("style", 0)), form)
    return Item(
        category,
        box,
        read_mask(take(entry, "segmentation", where), None, where.at("segmentation")),
        style,
        tuple(level),
        _points(where.at("landmarks"), entry.get("landmarks"), category, form),
        _name(where, entry, image, ("color", "colour", "category_color")) if form.named else "",
        style_name,
    )


def _category(where: Where, entry: dict[str, Any], form: Format) -> int:
    last = form.first_id + len(form.categories) - 1
    number = whole(take(entry, "category_id", where), where.at("category_id"), form.first_id, last)
    name = entry.get("category_name", form.categories[number - form.first_id])
    wanted = form.categories[number - form.first_id]
    if not isinstance(name, str) or " ".join(name.lower().replace("_", " ").split()) != wanted:
        raise where.at("category_name").error(f"{name!r}, but category_id {number} is {wanted!r}")
    return number - form.first_id


def _style(where: Where, value: Any, form: Format) -> tuple[int, str]:
    """A number, or where the benchmark names styles a text."""
    if form.named and isinstance(value, str):
        return 0, value.strip()
    return whole(value, where.at("style")), ""


def _name(where: Where, entry: dict[str, Any], image: dict[str, Any], keys: Sequence[str]) -> str:
    """The first of `keys` that the item has, or else the image."""
    for holder in (entry, image):
        for key in keys:
            if holder.get(key) is not None:
                if not isinstance(holder[key], str | int):
                    raise where.at(key).error("not a text")
                return str(holder[key]).strip()
    return ""


def _points(where: Where, value: Any, category: int, form: Format) -> np.ndarray | None:
    if form.landmarks is None or value is None or value == []:
        return None
    count = form.landmarks[category]
    points = numbers(value, None, where)
    if len(points) != 3 * count:
        raise where.error(
            f"{len(points)} values instead of {3 * count} (x, y, visibility of {count} points of a "
            f"{form.categories[category]})"
        )
    points = points.reshape(-1, 3)
    wrong = ~np.isin(points[:, 2], (0, 1, 2))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise where.at(3 * k + 2).error(f"visibility {points[k, 2]:g} is not 0, 1 or 2")
    return points
