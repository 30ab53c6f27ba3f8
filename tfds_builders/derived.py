"""The split lists in MMFashion's form: `train_img.txt`, `train_bbox.txt`, … aligned line by line, without
header lines.

`Anno_fine` of the attribute benchmark ships in this form; for the other benchmarks MMFashion's prepare
scripts write it. The files are read as they are, with what those scripts lost: see the cards in
docs/datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfds_builders.annotations import (
    CUT_OFF,
    NOT_USED,
    OCCLUDED,
    POINTS,
    SLOTS,
    VISIBLE,
    Boxes,
    Lines,
    Placed,
    fields_of,
    join_lines,
    lines_of,
    parse_box,
    picture_name,
)
from tfds_builders.benchmark import Records
from tfds_builders.labels import label_error, parse_category, parse_labels
from tfds_builders.release import WHOLE_NUMBER, Row, TextFile, integers, read_lines

MANY = 1_000_000  # items; larger numbers are no rows of a list


def read_plain(text: TextFile) -> list[Row]:
    """All rows of a file without header lines."""
    rows = [Row(number, line.decode("utf-8", "replace").split()) for number, line in read_lines(text)]
    if not rows:
        raise text.error(1, "the file is empty")
    return rows


def aligned_with(text: TextFile, rows: Sequence[object], pictures: TextFile, count: int) -> None:
    """Raise ReleaseError unless `text` has one row for each of the `count` rows of `images`."""
    if len(rows) != count:
        raise text.error(
            min(len(rows), count) + 1, f"{len(rows)} rows for the {count} rows of {pictures.label}"
        )


def read_pictures(text: TextFile, *, unique: bool = True) -> tuple[list[str], list[int]]:
    """A file of one image path per line → (paths, lines)."""
    names: list[str] = []
    first: dict[str, int] = {}
    rows = read_plain(text)
    for row in rows:
        (name,) = fields_of(text, row, 1, "image")
        picture_name(text, row, name)
        if unique and name in first:
            raise text.error(row.line, f"image {name} is listed again (first on line {first[name]})")
        first.setdefault(name, row.line)
        names.append(name)
    return names, [row.line for row in rows]


def read_aligned_boxes(text: TextFile, pictures: TextFile, count: int) -> Boxes:
    """A file of four corners per line."""
    rows = read_plain(text)
    aligned_with(text, rows, pictures, count)
    box = [parse_box(text, row, fields_of(text, row, 4, "x1, y1, x2, y2")) for row in rows]
    return Boxes(lines_of(text, [row.line for row in rows]), np.asarray(box, np.int32))


def read_aligned_values(text: TextFile, pictures: TextFile, count: int, width: int, what: str) -> np.ndarray:
    """A file of `width` whole numbers per line → [count width] int32."""
    rows = read_plain(text)
    aligned_with(text, rows, pictures, count)
    values = [integers(text, row, fields_of(text, row, width, what), what) for row in rows]
    return np.asarray(values, np.int32)


def read_aligned_labels(text: TextFile, pictures: TextFile, count: int, width: int) -> np.ndarray:
    """A file of `width` 0/1 labels per line → [count width] uint8."""
    labels = np.zeros((count, width), np.uint8)
    at = 0
    for number, line in read_lines(text):
        values = parse_labels(line)
        if values is None or len(values) != width:
            raise label_error(text, number, line.split(), width)
        if at < count:
            labels[at] = values
        at += 1
    aligned_with(text, range(at), pictures, count)
    return labels


def read_aligned_categories(text: TextFile, pictures: TextFile, count: int, number: int) -> np.ndarray:
    """A file of one 1-based category per line → [count] int32, 0-based."""
    rows = read_plain(text)
    aligned_with(text, rows, pictures, count)
    values = [parse_category(text, row, fields_of(text, row, 1, "category")[0], number) for row in rows]
    return np.asarray(values, np.int32)


class ItemNames(NamedTuple):
    """The item list: names by row, and rows by name."""

    names: list[str]
    rows: dict[str, int]


def read_aligned_items(text: TextFile, pictures: TextFile, count: int, items: ItemNames | None) -> list[str]:
    """A file of one identity per line, its 0-based row in the item list or its name → item ids."""
    rows = read_plain(text)
    aligned_with(text, rows, pictures, count)
    return [parse_item(text, row, fields_of(text, row, 1, "item")[0], items) for row in rows]


def parse_item(text: TextFile, row: Row, field: str, items: ItemNames | None) -> str:
    """The item's name where the item list is there, else the field as it stands."""
    if items is None or field in items.rows:
        return field
    if not field.isdecimal() or int(field) >= len(items.names):
        raise text.error(row.line, f"item {field} is neither a name nor a row of the item list")
    return items.names[int(field)]


def item_list(ids: Sequence[str], items: ItemNames | None) -> list[str] | None:
    """The item list; where it is not there, all its rows up to the last one in use, or None where ids are no
    rows."""
    if items is not None:
        return items.names
    if not all(WHOLE_NUMBER.fullmatch(item) and item == str(abs(int(item))) for item in ids):
        return None
    last = max(map(int, ids))
    return [str(row) for row in range(last + 1)] if last < MANY else None


def read_named(text: TextFile, placed: Placed, width: int, what: str) -> tuple[np.ndarray, list[Row]]:
    """A file of an image and `width` numbers per line, in any order → values [n width] and the row used
    for each image.

    A count line and a line of column names are skipped where they are there.
    """
    rows = read_plain(text)
    while rows and "/" not in rows[0].fields[0] and rows[0].line <= 2:
        rows = rows[1:]
    values = np.zeros((len(placed.partition.image), width), np.int32)
    used: list[Row | None] = [None] * len(values)
    for row in rows:
        fields = fields_of(text, row, 1 + width, f"image, {what}")
        numbers = integers(text, row, fields[1:], what)
        position = placed.place(row, fields[0])
        if position is not None:
            values[position], used[position] = numbers, row
    placed.finish()
    return values, used


def read_named_boxes(text: TextFile, placed: Placed) -> Boxes:
    """A file of an image and four corners per line."""
    _, rows = read_named(text, placed, 4, "x1, y1, x2, y2")
    box = [parse_box(text, row, row.fields[1:]) for row in rows]
    return Boxes(lines_of(text, placed.line), np.asarray(box, np.int32))


def read_named_points(text: TextFile, placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """A file of an image and eight x y pairs per line → landmark and visibility as `points_of_pairs`."""
    values, _ = read_named(text, placed, 16, "x and y of 8 landmarks")
    return points_of_pairs(values)


def points_of_pairs(
    values: np.ndarray, garment_type: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """[n 16] x y pairs → landmark [n 8 2] float32 pixels, visibility [n 8].

    The pairs keep no visibility: a pair other than (0, 0) counts as visible. (0, 0) is "cut off" in a slot
    that the clothes type (1–3) has, and "not used" in the others or when the type is unknown.
    """
    landmark = values.reshape(len(values), SLOTS, 2)
    given = (landmark != 0).any(-1)
    if garment_type is None:
        empty = np.full(given.shape, NOT_USED)
    else:
        used = np.arange(SLOTS) < np.array([0, *POINTS.values()])[garment_type][:, None]
        empty = np.where(used, CUT_OFF, NOT_USED)
    return landmark.astype(np.float32), np.where(given, VISIBLE, empty).astype(np.int32)


def points_of_triplets(
    text: TextFile, lines: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[n 24] v x y triplets, v = 1 for visible → landmark [n 8 2] float32 pixels, visibility [n 8].

    Occluded and cut-off points are not told apart: a point with v = 0 and coordinates counts as occluded, one
    without as not used.
    """
    triplets = values.reshape(len(values), SLOTS, 3)
    wrong = ~np.isin(triplets[..., 0], (0, 1))
    if wrong.any():
        i, k = np.argwhere(wrong)[0]
        raise text.error(lines[i], f"visibility {triplets[i, k, 0]} is not 0 or 1")
    landmark = triplets[..., 1:]
    hidden = np.where((landmark != 0).any(-1), OCCLUDED, NOT_USED)
    visibility = np.where(triplets[..., 0] == 1, VISIBLE, hidden)
    return landmark.astype(np.float32), visibility.astype(np.int32)


class Part(NamedTuple):
    """What the lists of one split hold."""

    split: str
    lines: Lines  # of the image names
    image: list[str]
    boxes: Boxes
    columns: dict[str, Any]


def merge_repeats(part: Part) -> Part:
    """Drop identical repetitions of an image; ReleaseError when its rows differ."""
    first: dict[str, int] = {}
    keep = []
    for i, name in enumerate(part.image):
        before = first.setdefault(name, i)
        if before == i:
            keep.append(i)
            continue
        values = [part.boxes.box, *part.columns.values()]
        if any(not np.array_equal(column[i], column[before]) for column in values):
            raise part.lines.error(i, f"image {name} has other values than on line {part.lines.line[before]}")
    return part._replace(
        lines=take_lines(part.lines, keep),
        image=[part.image[i] for i in keep],
        boxes=Boxes(take_lines(part.boxes.lines, keep), part.boxes.box[keep]),
        columns={
            key: [column[i] for i in keep] if isinstance(column, list) else column[keep]
            for key, column in part.columns.items()
        },
    )


def take_lines(lines: Lines, keep: Sequence[int]) -> Lines:
    """The lines of some records."""
    return lines._replace(text=lines.text[keep], line=lines.line[keep])


def join(parts: Sequence[Part], *, unique: bool = True, **more: Any) -> Records:
    """The splits' lists as one set of records; with `unique`, an image in two splits is a ReleaseError."""
    image = [name for part in parts for name in part.image]
    lines = join_lines([part.lines for part in parts])
    if unique:
        first: dict[str, int] = {}
        for i, name in enumerate(image):
            if first.setdefault(name, i) != i:
                where = lines.texts[lines.text[first[name]]].label
                raise lines.error(
                    i, f"image {name} is listed again (first in {where}:{lines.line[first[name]]})"
                )
    ends = np.cumsum([0] + [len(part.image) for part in parts])
    return Records(
        lines=lines,
        image=image,
        split={part.split: np.arange(start, end) for part, start, end in zip(parts, ends, ends[1:])},
        columns={key: _concatenate([part.columns[key] for part in parts]) for key in parts[0].columns},
        boxes=Boxes(
            join_lines([part.boxes.lines for part in parts]),
            np.concatenate([part.boxes.box for part in parts]),
        ),
        **more,
    )


def _concatenate(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], list):
        return [value for column in columns for value in column]
    return np.concatenate(columns)
