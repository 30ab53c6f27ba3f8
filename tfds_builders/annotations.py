"""DeepFashion's annotation tables: partitions, boxes, landmarks.

Every reader consumes its whole table, raises ReleaseError with file and line at the first contradiction,
and returns arrays whose rows follow the image list it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfds_builders.release import ReleaseError, Row, Table, TextFile, integers, read_table

SLOTS = 8
GARMENT_TYPES = ("upper", "lower", "full")
POINTS = {1: 6, 2: 4, 3: 8}  # clothes type → number of landmarks
LANDMARK_FLIP = ((0, 1), (2, 3), (4, 5), (6, 7))  # left and right slot of each pair
_PARTS = {  # garment type → the body part of each pair of slots
    "upper": ("collar", "sleeve", "hem"),
    "lower": ("waistline", "hem"),
    "full": ("collar", "sleeve", "waistline", "hem"),
}
VISIBLE, OCCLUDED, CUT_OFF, NOT_USED = 0, 1, 2, 3  # 3 is ours: the garment type has no such landmark


def _sides(parts: Sequence[str]) -> list[str]:
    return [f"{side} {part}" for part in parts for side in ("left", "right")]


def landmark_metadata(*, paired: bool = True) -> dict[str, list]:
    """What the metadata of a dataset with DeepFashion's eight landmark slots say of them.

    landmark_names: a name per slot. A slot is another body part for another garment type, and is named by all
    of them ("left collar/waistline"). landmark_names_of_type: the exact names, a list for each of
    GARMENT_TYPES. landmark_flip: [left, right] slots that a horizontal flip exchanges; empty, and without
    names, where the slots have no fixed meaning (`paired` False).
    """
    if not paired:
        return {"landmark_flip": []}
    slots = [
        "/".join(dict.fromkeys(parts[pair] for parts in _PARTS.values() if pair < len(parts)))
        for pair in range(SLOTS // 2)
    ]
    return {
        "landmark_names": _sides(slots),
        "landmark_names_of_type": [_sides(_PARTS[kind]) for kind in GARMENT_TYPES],
        "landmark_flip": [list(pair) for pair in LANDMARK_FLIP],
    }


class Partition(NamedTuple):
    """Images in file order with their split."""

    text: TextFile
    image: list[str]
    split: list[str]
    line: list[int]
    item: list[str]  # identities; empty strings where the benchmark has none
    merged: int = 0  # identical rows that were dropped


class Lines(NamedTuple):
    """The file and line that each of n records comes from."""

    texts: tuple[TextFile, ...]
    text: np.ndarray  # [n], index into texts
    line: np.ndarray  # [n], 1-based

    def error(self, i: int, message: str) -> ReleaseError:
        return self.texts[self.text[i]].error(int(self.line[i]), message)


class Boxes(NamedTuple):
    """box [n 4] int32 xyxy pixels, with the line each comes from."""

    lines: Lines
    box: np.ndarray
    code: np.ndarray | None = None  # [n], the column before the box where there is one (pose, or source)
    garment_type: np.ndarray | None = None  # [n], the clothes type (1–3) where the table has it


def lines_of(text: TextFile, line: Sequence[int] | np.ndarray) -> Lines:
    """Lines of a single file."""
    return Lines((text,), np.zeros(len(line), np.int32), np.asarray(line, np.int32))


def join_lines(parts: Sequence[Lines]) -> Lines:
    """The records of several files, one after the other."""
    starts = np.cumsum([0] + [len(part.texts) for part in parts])
    return Lines(
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.text + start for part, start in zip(parts, starts)]),
        np.concatenate([part.line for part in parts]),
    )


class Landmarks(NamedTuple):
    """landmark [n 8 2] float32 pixels, visibility [n 8] int32, clothes type [n] (1–3) and variation [n]."""

    text: TextFile
    landmark: np.ndarray
    visibility: np.ndarray
    garment_type: np.ndarray
    variation: np.ndarray | None


# ------------------------------------------------------------------------------ rows by image
def fields_of(text: TextFile, row: Row, number: int, what: str) -> list[str]:
    """The row's fields, which must be exactly `number` many."""
    if len(row.fields) != number:
        raise text.error(row.line, f"{len(row.fields)} fields instead of {number} ({what})")
    return row.fields


def picture_name(text: TextFile, row: Row, name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise text.error(row.line, f"image path {name!r} leaves the benchmark's folder")
    if "/" not in name:
        raise text.error(row.line, f"{name!r} is not an image path")
    return name


class Placed:
    """Which position of the image list each row of a table belongs to; exactly one row per image.

    `merge`: identical repetitions are counted in `merged` instead of refused. `unlisted`: so are rows of
    images outside the list (in `strange`), as long as every image of the list has its row.
    """

    def __init__(self, text: TextFile, partition: Partition, *, merge: bool, unlisted: bool = False):
        self.text, self.partition, self.merge, self.unlisted = text, partition, merge, unlisted
        self.merged = self.strange = 0
        self.stranger: ReleaseError | None = None
        self.index = {name: i for i, name in enumerate(partition.image)}
        self.line = np.zeros(len(partition.image), np.int32)
        self.seen: dict[int, int] = {}  # position → hash of the row, kept only while merging

    def place(self, row: Row, name: str) -> int | None:
        """Position of `name`; None for a row that is not used."""
        picture_name(self.text, row, name)
        position = self.index.get(name)
        if position is None:
            error = self.text.error(row.line, f"image {name} is not in {self.partition.text.label}")
            if not self.unlisted:
                raise error
            self.stranger = self.stranger or error
            self.strange += 1
            return None
        key = hash(tuple(row.fields))
        if self.line[position]:
            first = self.line[position]
            if not self.merge:
                raise self.text.error(row.line, f"image {name} is listed again (first on line {first})")
            if self.seen[position] != key:
                raise self.text.error(row.line, f"image {name} has other values than on line {first}")
            self.merged += 1
            return None
        self.line[position] = row.line
        if self.merge:
            self.seen[position] = key
        return position

    def finish(self) -> np.ndarray:
        """The line of every image; ReleaseError when an image has no row."""
        missing = np.flatnonzero(self.line == 0)
        if missing.size:
            i = int(missing[0])
            raise self.stranger or self.partition.text.error(
                self.partition.line[i], f"image {self.partition.image[i]} has no row in {self.text.label}"
            )
        return self.line

    def notes(self) -> tuple[str, ...]:
        """What the user should know about the table."""
        notes = []
        if self.merged:
            notes.append(f"{self.text.label}: {self.merged} rows repeat earlier ones and were merged")
        if self.strange:
            notes.append(f"{self.text.label}: {self.strange} rows of images that no split uses")
        return tuple(notes)


# ------------------------------------------------------------------------------ tables
def read_partition(
    text: TextFile, splits: Sequence[str], *, items: bool = False, merge: bool = False
) -> Partition:
    """`Eval/list_eval_partition.txt`: image, item id if `items`, split."""
    number, what = (3, "image, item id, split") if items else (2, "image, split")
    image, split, lines, item = [], [], [], []
    first: dict[str, int] = {}
    merged = 0
    for row in read_table(text).rows():
        fields = fields_of(text, row, number, what)
        name = picture_name(text, row, fields[0])
        if fields[-1] not in splits:
            raise text.error(row.line, f"split {fields[-1]!r} is not one of {', '.join(splits)}")
        identity = fields[1] if items else ""
        if name in first:
            before = first[name]
            same = (split[before], item[before]) == (fields[-1], identity)
            if not (merge and same):
                kind = "is listed again" if same else "is listed again with another split or item"
                raise text.error(row.line, f"image {name} {kind} (first on line {lines[before]})")
            merged += 1
            continue
        first[name] = len(image)
        image.append(name)
        split.append(fields[-1])
        lines.append(row.line)
        item.append(identity)
    check_splits(text, split, splits)
    return Partition(text, image, split, lines, item, merged)


def check_splits(text: TextFile, found: Sequence[str], splits: Sequence[str]) -> None:
    """Every split has rows: a list without one is cut off, and the set would lack what it is measured on."""
    there = set(found)
    missing = next((split for split in splits if split not in there), None)
    if missing is not None:
        raise text.error(None, f"no row of split {missing}; the list must hold {', '.join(splits)}")


def read_boxes(text: TextFile, placed: Placed, *, extra: int = 0) -> Boxes:
    """`list_bbox*.txt`: image, `extra` columns (clothes type; pose or source), x1 y1 x2 y2.

    Whether a box lies inside its image is checked later, when the sizes are known.
    """
    n = len(placed.partition.image)
    box, code, garment = np.zeros((n, 4), np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    columns = ", ".join(["image", *("clothes type", "code")[:extra], "x1, y1, x2, y2"])
    for row in read_table(text).rows():
        fields = fields_of(text, row, 5 + extra, columns)
        position = placed.place(row, fields[0])
        if extra:
            kind = clothes_type(text, row, fields[1])
            (number,) = integers(text, row, [fields[2]], "code")
            if position is not None:
                code[position], garment[position] = number, kind
        if position is not None:  # boxes of images that no split uses are not checked
            box[position] = parse_box(text, row, fields[-4:])
    lines = lines_of(text, placed.finish())
    return Boxes(lines, box, code, garment) if extra else Boxes(lines, box)


def check_clothes_types(boxes: Boxes, marks: Landmarks, partition: Partition) -> None:
    """The table of boxes and that of landmarks say the same of every image."""
    other = np.flatnonzero(boxes.garment_type != marks.garment_type)
    if other.size:
        i = int(other[np.argmin(boxes.lines.line[other])])
        raise boxes.lines.error(
            i,
            f"clothes type {boxes.garment_type[i]} of image {partition.image[i]}; it is "
            f"{marks.garment_type[i]} in {marks.text.label}",
        )


def parse_box(text: TextFile, row: Row, fields: Sequence[str]) -> list[int]:
    x1, y1, x2, y2 = integers(text, row, fields, "box")
    if x2 <= x1 or y2 <= y1:
        raise text.error(row.line, f"box {x1} {y1} {x2} {y2} is inverted or empty")
    return [x1, y1, x2, y2]


def clothes_type(text: TextFile, row: Row, field: str) -> int:
    (value,) = integers(text, row, [field], "clothes type")
    if value not in POINTS:
        raise text.error(row.line, f"clothes type {value} is not 1 (upper), 2 (lower) or 3 (full)")
    return value


def read_landmarks(text: TextFile, placed: Placed) -> Landmarks:
    """`list_landmarks*.txt`: image, clothes type, variation type (where the header has it), visibility x
    y per point.

    6, 4 or 8 points by clothes type. Points that the clothes type has not may be given as zeros; the
    coordinates of points that are cut off (visibility 2) may be zero or left out.
    """
    table = read_table(text)
    varied = _has_variation(text, table)
    n = len(placed.partition.image)
    landmark = np.zeros((n, SLOTS, 2), np.float32)
    visibility = np.full((n, SLOTS), NOT_USED, np.int32)
    garment, variation = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for row in table.rows():
        if len(row.fields) < 3 + varied:
            raise text.error(row.line, f"{len(row.fields)} fields; the row ends before its first landmark")
        position = placed.place(row, row.fields[0])
        kind = clothes_type(text, row, row.fields[1])
        number = integers(text, row, row.fields[2 : 2 + varied], "variation type")
        if varied and number[0] < 0:
            raise text.error(row.line, f"variation type {number[0]} is negative")
        values = integers(text, row, row.fields[2 + varied :], "landmark")
        points = np.asarray(_points(text, row, kind, values), np.int32)
        if position is None:
            continue
        garment[position] = kind
        variation[position] = number[0] if varied else 0
        visibility[position, : POINTS[kind]] = points[:, 0]
        landmark[position, : POINTS[kind]] = points[:, 1:]
    placed.finish()
    return Landmarks(text, landmark, visibility, garment, variation if varied else None)


def _has_variation(text: TextFile, table: Table) -> bool:
    """Whether a variation column stands between the clothes type and the points, by the column names."""
    names = [column.lower() for column in table.columns]
    if any("variation" in name for name in names):
        return True
    if any("visib" in name or "location" in name for name in names):
        return False
    raise text.error(2, "the column names do not say where the landmarks begin")


def _points(text: TextFile, row: Row, kind: int, values: list[int]) -> list[tuple[int, int, int]]:
    """(visibility, x, y) per point of the clothes type."""
    wanted = POINTS[kind]
    triplets = list(zip(values[0::3], values[1::3], values[2::3]))
    if len(values) == 3 * SLOTS and not any(x or y for _, x, y in triplets[wanted:]):
        triplets = triplets[:wanted]
    elif len(values) != 3 * wanted:
        triplets = _without_hidden_coordinates(values, wanted)
        if triplets is None:
            have = len(values) // 3 if len(values) % 3 == 0 else round(len(values) / 3, 2)
            type_name = GARMENT_TYPES[kind - 1]
            raise text.error(
                row.line, f"{have} landmarks instead of {wanted} for clothes type {kind} ({type_name})"
            )
    for code, _, _ in triplets:
        if code not in (VISIBLE, OCCLUDED, CUT_OFF):
            raise text.error(row.line, f"visibility {code} is not 0, 1 or 2")
    return triplets


def _without_hidden_coordinates(values: list[int], wanted: int) -> list[tuple[int, int, int]] | None:
    """Read points whose coordinates are left out when they are cut off; None when the row is not of that
    form.
    """
    points, at = [], 0
    for _ in range(wanted):
        if at < len(values) and values[at] == CUT_OFF:
            points.append((CUT_OFF, 0, 0))
            at += 1
        elif at + 3 <= len(values):
            points.append((values[at], values[at + 1], values[at + 2]))
            at += 3
        else:
            return None
    return points if at == len(values) else None
