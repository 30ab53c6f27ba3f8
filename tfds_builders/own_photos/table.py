"""A CSV or TSV of photos, read and checked whole.

Columns: `image` (a path below the table's folder) and any of `category`, `attributes` (separated by `;`),
`item`, `view` (shop, consumer), `split` (train, val, test; query and gallery with items), `x0 y0 x1 y1`,
`landmark_NAME_x`, `landmark_NAME_y` and `landmark_NAME_v` (0 visible, 1 occluded, 2 cut off). Other columns
are not read, and reported.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from tfds_builders.annotations import CUT_OFF, NOT_USED, OCCLUDED, VISIBLE, lines_of
from tfds_builders.own_photos.listing import SPLIT_NAMES, SPLITS, Listing, check_spelling
from tfds_builders.own_photos.photos import nfc
from tfds_builders.release import Location, ReleaseError, TextFile, open_text

BOX = ("x0", "y0", "x1", "y1")
COLUMNS = ("image", "category", "attributes", "item", "view", "split", *BOX)
LANDMARK = re.compile(r"landmark_(.+)_([xyv])")
VIEWS = ("shop", "consumer")
ROLES = ("query", "gallery")
SUFFIXES = (".csv", ".tsv")


class Rows(NamedTuple):
    """The table's cells by column, stripped and NFC; `line` [n] is where each row begins."""

    text: TextFile
    line: list[int]
    cells: dict[str, list[str]]

    def error(self, i: int, message: str) -> ReleaseError:
        return self.text.error(self.line[i], message)


def find_table(texts: Sequence[TextFile], name: str, root: str) -> TextFile:
    """The table called `name`, or the only one there is."""
    tables = [text for text in texts if text.label.lower().endswith(SUFFIXES)]
    if name:
        wanted = [text for text in tables if nfc(text.label) == nfc(name.removeprefix("./"))]
        if not wanted:
            raise ReleaseError(f"--set=table={name}: no such file below {root}")
        return wanted[0]
    if not tables:
        raise ReleaseError(f"{root}: no .csv or .tsv lies below it; expected a table with a column `image`")
    if len(tables) > 1:
        names = ", ".join(text.label for text in tables[:5])
        raise ReleaseError(f"{root}: holds {len(tables)} tables ({names}); choose one with --set=table=FILE")
    return tables[0]


def read_table(text: TextFile, root: str, found: dict[str, Location]) -> Listing:
    """The table's photos; `found` are those below the folder, by path."""
    rows, notes = _read(text)
    cells, lines = rows.cells, lines_of(text, rows.line)
    labels = [_resolve(rows, i, name, root, found) for i, name in enumerate(cells["image"])]
    split, role = _splits(rows)
    landmark, visibility, names = _landmarks(rows)
    box = _boxes(rows)
    _check_repeats(rows, labels, box)
    for column in ("category", "item"):
        if column in cells:
            _filled(rows, column)
    if "category" in cells:
        check_spelling(cells["category"], lambda n, m: rows.error(cells["category"].index(n), m))
    return Listing(
        lines,
        labels,
        [found[label] for label in labels],
        split,
        cells.get("category"),
        _attributes(rows),
        cells.get("item"),
        _choices(rows, "view", VIEWS) if "view" in cells else None,
        role,
        box,
        landmark,
        visibility,
        names,
        notes,
    )


# ------------------------------------------------------------------------------ cells
def _read(text: TextFile) -> tuple[Rows, tuple[str, ...]]:
    content = _decoded(text)
    head = content.split("\n", 1)[0]
    delimiter = "\t" if text.label.lower().endswith(".tsv") else max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    line, header, table = [], None, []
    try:
        before = 0
        for fields in reader:
            fields = [nfc(field).strip() for field in fields]
            if any(fields) and header is None:
                header = _header(text, before + 1, [field.lower() for field in fields])
            elif any(fields):
                if len(fields) != len(header):
                    raise text.error(before + 1, f"{len(fields)} fields, the header has {len(header)}")
                line.append(before + 1)
                table.append(fields)
            before = reader.line_num
    except csv.Error as error:
        raise text.error(reader.line_num, f"not a readable table ({error})") from error
    if header is None or not table:
        raise text.error(None, "no row of photos; expected a header with `image` and a row for each photo")
    columns = {name: [fields[i] for fields in table] for i, name in enumerate(header) if name}
    unread = [name for name in columns if name not in COLUMNS and not LANDMARK.fullmatch(name)]
    notes = (f"{text.label}: columns that are not read: {', '.join(unread)}",) if unread else ()
    return Rows(text, line, columns), notes


def _decoded(text: TextFile) -> str:
    with open_text(text) as file:
        data = file.read()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise text.error(line, f"not UTF-8 text ({error.reason}); save the table as UTF-8") from error


def _header(text: TextFile, line: int, names: list[str]) -> list[str]:
    """The column names, checked: `image` is there, none twice, boxes and landmarks whole, none misspelt."""
    if "image" not in names:
        raise text.error(line, f"no column `image` (columns: {', '.join(names)[:200]})")
    for name in names:
        if name and names.count(name) > 1:
            raise text.error(line, f"duplicate column {name!r}")
        close = difflib.get_close_matches(name, COLUMNS[:6], 1, 0.8)
        if name not in COLUMNS and close and close[0] not in names:
            raise text.error(line, f"unknown column {name!r}; did you mean {close[0]!r}?")
    boxes = [name for name in BOX if name in names]
    if boxes and len(boxes) < len(BOX):
        raise text.error(line, f"a box needs the columns {', '.join(BOX)}; found {', '.join(boxes)}")
    for name in names:
        match = LANDMARK.fullmatch(name)
        if match is None and name.startswith("landmark"):
            raise text.error(line, f"unknown column {name!r}; landmarks are landmark_NAME_x, landmark_NAME_y")
        for axis in "xy" if match else "":
            if f"landmark_{match[1]}_{axis}" not in names:
                raise text.error(line, f"landmark {match[1]!r} has no column landmark_{match[1]}_{axis}")
    return names


def _filled(rows: Rows, column: str) -> None:
    if "" in rows.cells[column]:
        raise rows.error(rows.cells[column].index(""), f"{column} is empty")


def _choices(rows: Rows, column: str, known: Sequence[str]) -> list[str]:
    for i, value in enumerate(rows.cells[column]):
        if value.lower() not in known:
            raise rows.error(i, f"{column} {value!r} is not one of {', '.join(known)}")
    return [value.lower() for value in rows.cells[column]]


def _resolve(rows: Rows, i: int, name: str, root: str, found: dict[str, Location]) -> str:
    """The label in `found` of a path that the table gives, relative to the table's folder or to `root`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or ".." in path.parts:
        raise rows.error(i, f"image {name!r} is not a path below {root}")
    beside = str(PurePosixPath(rows.text.label).parent / path)
    for label in (beside, str(path)):
        if label in found:
            return label
    alike = {label.casefold(): label for label in found}.get(beside.casefold())
    hint = f"; there is {alike}" if alike else ""
    raise rows.error(i, f"image {name} is missing below {root}{hint}")


def _splits(rows: Rows) -> tuple[list[str] | None, list[str] | None]:
    """(split, role) of each row; query and gallery are the roles of the split test."""
    if "split" not in rows.cells:
        return None, None
    known = (*SPLIT_NAMES, *ROLES) if "item" in rows.cells else tuple(SPLIT_NAMES)
    values = [value.lower() for value in rows.cells["split"]]
    for i, value in enumerate(values):
        if value not in known:
            named = (*SPLITS, *(ROLES if "item" in rows.cells else ()))
            raise rows.error(i, f"split {rows.cells['split'][i]!r} is not one of {', '.join(named)}")
    split = ["test" if value in ROLES else SPLIT_NAMES[value] for value in values]
    if not set(ROLES) & set(values):
        return split, None
    if "test" in values or "testing" in values:
        row = next(i for i, value in enumerate(values) if value in ROLES)
        raise rows.error(row, "query and gallery are the split test, which other rows name; use either")
    return split, [value if value in ROLES else "gallery" for value in values]


def _attributes(rows: Rows) -> list[tuple[str, ...]] | None:
    if "attributes" not in rows.cells:
        return None
    result = []
    for i, cell in enumerate(rows.cells["attributes"]):
        names = tuple(name.strip() for name in cell.split(";") if name.strip())
        if len(set(names)) < len(names):
            raise rows.error(i, f"attributes {cell!r}: duplicate attribute")
        result.append(names)
    names = [name for row in result for name in row]
    if not names:
        raise rows.text.error(None, "column attributes: every row is empty")
    check_spelling(names, lambda n, m: rows.error(next(i for i, row in enumerate(result) if n in row), m))
    return result


def _numbers(rows: Rows, columns: Sequence[str]) -> np.ndarray:
    """[n columns] float64, NaN for empty cells; a row has all of them or none."""
    values = np.full((len(rows.line), len(columns)), np.nan)
    for j, column in enumerate(columns):
        for i, cell in enumerate(rows.cells[column]):
            if not cell:
                continue
            try:
                values[i, j] = float(cell)
            except ValueError:
                raise rows.error(i, f"{column} {cell!r} is not a number") from None
            if not math.isfinite(values[i, j]) or abs(values[i, j]) > 1e9:
                raise rows.error(i, f"{column} {cell!r} is not a number of pixels")
    empty = np.isnan(values)
    part = empty.any(1) & ~empty.all(1)
    if part.any():
        i = int(np.argmax(part))
        raise rows.error(
            i, f"{columns[int(np.argmax(empty[i]))]} is empty and {columns[int(np.argmin(empty[i]))]} is not"
        )
    return values


def _boxes(rows: Rows) -> np.ndarray | None:
    if "x0" not in rows.cells:
        return None
    box = _numbers(rows, BOX)
    wrong = (box[:, 2:] <= box[:, :2]).any(1)
    if wrong.any():
        i = int(np.argmax(wrong))
        corners = " ".join(f"{v:g}" for v in box[i])
        raise rows.error(i, f"box {corners} is inverted or empty (x0 y0 x1 y1 in pixels)")
    return None if np.isnan(box).all() else box


def _landmarks(rows: Rows) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    names = tuple(
        dict.fromkeys(match[1] for match in map(LANDMARK.fullmatch, rows.cells) if match is not None)
    )
    if not names:
        return None, None, ()
    points = np.stack([_numbers(rows, [f"landmark_{name}_{axis}" for axis in "xy"]) for name in names], 1)
    visibility = np.where(np.isnan(points).any(-1), NOT_USED, VISIBLE).astype(np.int32)
    codes = (VISIBLE, OCCLUDED, CUT_OFF, NOT_USED)
    for k, name in enumerate(names):
        for i, cell in enumerate(rows.cells.get(f"landmark_{name}_v", ())):
            if cell and cell not in map(str, codes):
                raise rows.error(
                    i, f"landmark_{name}_v {cell!r} is not 0 (visible), 1 (occluded) or 2 (cut off)"
                )
            if cell in ("0", "1") and visibility[i, k] == NOT_USED:
                raise rows.error(i, f"landmark {name!r} is visible or occluded and has no position")
            if cell:
                visibility[i, k] = int(cell)
    return np.nan_to_num(points).astype(np.float32), visibility, names


def _check_repeats(rows: Rows, labels: Sequence[str], box: np.ndarray | None) -> None:
    """A photo may be in several rows for several boxes, and not otherwise."""
    first: dict[tuple, int] = {}
    for i, label in enumerate(labels):
        key = (label, None if box is None else tuple(np.nan_to_num(box[i], nan=-1).tolist()))
        before = first.setdefault(key, i)
        if before != i:
            raise rows.error(i, f"image {label} is listed again (first on line {rows.line[before]})")
