"""DeepFashion's names and labels: attributes, categories, item lists.

Every reader consumes its whole table and raises ReleaseError with file and line at the first contradiction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tfds_builders.annotations import Partition, Placed, fields_of
from tfds_builders.release import ReleaseError, Row, Table, TextFile, decode, integers, read_table

HAN = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")  # full-width too
BRACKETED = re.compile(r"[(\[].*[)\]]")
ATTRIBUTE_TYPES = {  # attribute type number → group, per benchmark variant
    "coarse": ("texture", "fabric", "shape", "part", "style"),
    "fine": ("texture", "sleeve", "length", "neckline", "fabric", "fit"),
}


def read_names(
    text: TextFile, *, typed: bool | None = None, unique: bool = True
) -> tuple[list[str], list[int]]:
    """`list_attr_cloth.txt`, `list_category_cloth.txt`: names, which may hold blanks, and their type numbers.

    The type is the row's last field. `typed` None decides by the column names; untyped names get type 0. Of
    names in Chinese and English the English one is taken.
    """
    table = read_table(text)
    bilingual = any("chinese" in column.lower() for column in table.columns)
    if typed is None:
        typed = any("type" in column.lower() for column in table.columns[1:])
    names, kinds, lines = [], [], {}
    for row in table.rows():
        if typed and len(row.fields) < 2:
            raise text.error(row.line, "a name without its type number")
        name = english(row.fields[:-1] if typed else row.fields, bilingual)
        if unique and name in lines:
            raise text.error(row.line, f"the name {name!r} is listed again (first on line {lines[name]})")
        lines[name] = row.line
        names.append(name)
        kinds.append(integers(text, row, row.fields[-1:], "type")[0] if typed else 0)
    return names, kinds


def english(fields: Sequence[str], bilingual: bool) -> str:
    """The English part of "中文(备注) english name", whose Chinese part may hold blanks, digits and brackets.
    A name without Chinese letters is taken whole; in a `bilingual` table without its first word, which is
    the Chinese column's ("POLO polo collar").
    """
    last = max((i for i, field in enumerate(fields) if HAN.search(field)), default=-1)
    rest = list(fields[last + 1 :])
    if last < 0 and bilingual and len(rest) > 1:
        rest = rest[1:]
    if last >= 0 and len(rest) > 1 and BRACKETED.fullmatch(rest[0]):  # a remark on the Chinese name
        rest = rest[1:]
    return " ".join(rest or fields)


def read_type_names(text: TextFile) -> list[str]:
    """`list_attr_type.txt`: row count, column names, the name of each attribute type, from type 1 on."""
    table = read_table(text)
    bilingual = any("chinese" in column.lower() for column in table.columns)
    return [english(row.fields, bilingual) for row in table.rows()]


def type_names(text: TextFile, kinds: Sequence[int], groups: Sequence[str]) -> list[str]:
    """The group of every type number 1…; ReleaseError for a number without group (line = position + 3)."""
    for i, kind in enumerate(kinds):
        if not 1 <= kind <= len(groups):
            raise text.error(i + 3, f"type {kind} is not in 1…{len(groups)}")
    return [groups[kind - 1] for kind in kinds]


def read_labels(table: Table, width: int, place: Callable[[Row, str], int | None], rows: int) -> np.ndarray:
    """A table of a name and `width` labels (1, 0, -1) per row → [rows width] uint8, 1 where the label is 1.

    The coarse benchmark has 289 million labels: a row's digits are looked at as bytes.
    """
    labels = np.zeros((rows, width), np.uint8)
    for number, line in table.lines:
        name, rest = (*line.split(None, 1), b"")[:2]
        row = Row(number, [decode(table.text, number, name)])
        values = parse_labels(rest)
        if values is None or len(values) != width:
            raise label_error(table.text, number, line.split()[1:], width)
        row.fields.append(str(hash(values.tobytes())))
        position = place(row, row.fields[0])
        if position is not None:
            labels[position] = values
    return labels


def parse_labels(data: bytes) -> np.ndarray | None:
    """Blank-separated labels of the alphabet {-1, 0, 1} → bool array, which are 1; None when anything else
    is there.
    """
    raw = np.frombuffer(b" " + data + b" ", np.uint8)
    blank = raw <= ord(" ")
    last = np.flatnonzero(blank[1:] > blank[:-1])  # the last byte of each label
    digit = raw[last]
    minus = raw[last - 1] == ord("-")
    one = digit == ord("1")
    known = np.count_nonzero(one) + np.count_nonzero(digit == ord("0")) == len(last)
    written = len(raw) - np.count_nonzero(blank)
    if not known or written != len(last) + np.count_nonzero(minus):
        return None
    return one & ~minus


def label_error(text: TextFile, number: int, fields: Sequence[bytes], width: int) -> ReleaseError:
    """What is wrong with a row that is not `width` labels."""
    if len(fields) != width:
        return text.error(number, f"{len(fields)} labels instead of {width}")
    wrong = next((field for field in fields if field not in (b"1", b"0", b"-1")), b"?")
    return text.error(number, f"label {wrong[:40].decode('utf-8', 'replace')!r} is not one of 1, 0, -1")


def read_categories(text: TextFile, partition: Partition, number: int) -> np.ndarray:
    """`list_category_img.txt`: image and 1-based category → [n] int32, 0-based."""
    placed = Placed(text, partition, merge=False)
    category = np.zeros(len(partition.image), np.int32)
    for row in read_table(text).rows():
        fields = fields_of(text, row, 2, "image, category")
        category[placed.place(row, fields[0])] = parse_category(text, row, fields[1], number)
    placed.finish()
    return category


def parse_category(text: TextFile, row: Row, field: str, number: int) -> int:
    (value,) = integers(text, row, [field], "category")
    if not 1 <= value <= number:
        raise text.error(row.line, f"category {value} is not in 1…{number}")
    return value - 1


def read_items(text: TextFile) -> dict[str, int]:
    """`list_item_*.txt`: row count, then one item id per row → id: 0-based row."""
    items: dict[str, int] = {}
    for row in read_table(text, names=False).rows():
        (item,) = fields_of(text, row, 1, "item id")
        if item in items:
            raise text.error(row.line, f"item {item} is listed again")
        items[item] = len(items)
    return items


def check_items(partition: Partition, items: dict[str, int], list_text: TextFile) -> None:
    """Every image's item is in the item list and agrees with its folder (img/…/id_00000001/01.jpg)."""
    for name, item, line in zip(partition.image, partition.item, partition.line):
        if item not in items:
            raise partition.text.error(line, f"item {item} is not in {list_text.label}")
        folder = name.split("/")[-2]
        if folder.startswith("id_") and folder != item:
            raise partition.text.error(line, f"image {name} lies in the folder of {folder}, not of {item}")


def read_item_labels(text: TextFile, items: dict[str, int], list_text: TextFile, width: int) -> np.ndarray:
    """`list_attr_items.txt`: item id and `width` labels (1, -1, 0) → [items width] uint8, rows as in the
    item list.
    """
    lines = np.zeros(len(items), np.int32)

    def place(row: Row, item: str) -> int:
        if item not in items:
            raise text.error(row.line, f"item {item} is not in {list_text.label}")
        position = items[item]
        if lines[position]:
            raise text.error(row.line, f"item {item} is listed again (first on line {lines[position]})")
        lines[position] = row.line
        return position

    labels = read_labels(read_table(text), width, place, len(items))
    if (lines == 0).any():
        item = list(items)[int(np.argmin(lines))]
        raise text.error(1, f"item {item} of {list_text.label} has no row")
    return labels


def folder_category(name: str) -> str:
    """'WOMEN/Dresses' of img/WOMEN/Dresses/id_00000001/01.jpg; 'unknown' for other paths."""
    parts = name.split("/")
    return "/".join(parts[1:-2]) or "unknown"
