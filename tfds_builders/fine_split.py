"""What attribute-specific retrieval benchmarks share: the record features and the published index files.

An image is listed with attributes and the value of each. The index files are those of ASEN++'s archive:
`filenames_S.txt` (a path per line; its 0-based line is the image's id within the split), `label_train.txt`
(`id attr val [attr val …]`), `query_S.txt` and `candidate_S.txt` (`id attr val`), S = train, valid, test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.annotations import Lines, join_lines, lines_of, picture_name
from tfds_builders.release import (
    Release,
    Row,
    TextFile,
    decode,
    find_text,
    integers,
    open_text,
    read_lines,
    require_text,
)

LABEL, QUERY, CANDIDATE = 0, 1, 2  # values of `role`; LABEL: known of the image, but not evaluated
SPLITS = {"train": "train", "val": "valid", "test": "test"}  # our name → the files'


class Names(NamedTuple):
    """Attribute names and, per attribute, the names of its values."""

    attribute: list[str]
    value: list[list[str]]


class Listed(NamedTuple):
    """One split: images with the line each is named on, and per image parallel lists of labelled pairs."""

    lines: Lines
    image: list[str]
    attribute: list[list[int]]
    value: list[list[int]]
    role: list[list[int]]
    notes: tuple[str, ...] = ()


def features() -> dict[str, Any]:
    """The features of every such dataset: `attribute`, `value`, `role` are parallel lists."""
    return {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image_id": tfds.features.Text(),
        "attribute": tfds.features.Sequence(np.int32),
        "value": tfds.features.Sequence(np.int32),
        "role": tfds.features.Sequence(np.int32),
    }


# ------------------------------------------------------------------------------ names
def read_meta(
    release: Release, dataset: str, folders: Sequence[str], never: Sequence[str] = ()
) -> Names | None:
    """Names of `meta.json` of the archive, None where there is none: `{dataset: {"ATTRIBUTES": [name],
    "ATTRIBUTES_NUM": {name: count}, "ATTRIBUTES_VALUES": {name: [value name]}}}`, or the inner object alone.
    The last key may be absent."""
    text = find_text(release, "meta.json", folders, never=never)
    if text is None:
        return None
    with open_text(text) as file:
        try:
            content = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, OSError) as error:
            raise text.error(None, f"not readable as JSON ({' '.join(str(error).split())[:80]})") from error
    if isinstance(content, dict) and "ATTRIBUTES" not in content:
        content = content.get(dataset)
    if not isinstance(content, dict):
        raise text.error(None, f"no entry {dataset!r} with ATTRIBUTES and ATTRIBUTES_NUM")
    names, counts = content.get("ATTRIBUTES"), content.get("ATTRIBUTES_NUM")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise text.error(None, f"{dataset}: ATTRIBUTES is not a list of names")
    values = content.get("ATTRIBUTES_VALUES", {})
    found = []
    for name in names:
        count = counts.get(name) if isinstance(counts, dict) else None
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise text.error(None, f"{dataset}: ATTRIBUTES_NUM has no number of values of {name!r}")
        listed = values.get(name) if isinstance(values, dict) else None
        if listed is not None and (not isinstance(listed, list) or len(listed) != count):
            raise text.error(None, f"{dataset}: ATTRIBUTES_VALUES of {name!r} are not {count} names")
        found.append([str(value) for value in listed] if listed else numbered(count))
    return Names(names, found)


def numbered(count: int) -> list[str]:
    """Names of values that the release does not name."""
    return [f"value {i}" for i in range(count)]


# ------------------------------------------------------------------------------ index files
def read_split(
    release: Release,
    split: str,
    names: Names,
    folders: Sequence[str],
    never: Sequence[str] = (),
    numbers: list[list[int]] | None = None,
) -> Listed:
    """The lists of one split. `numbers`: per attribute the numbers that its values have among those of all
    attributes; then `label_valid.txt` and `label_test.txt` are read too, where they are there."""
    stem = SPLITS[split]

    def file(name: str) -> TextFile:
        return require_text(release, name, folders, never=never)

    text = file(f"filenames_{stem}.txt")
    image, lines, first, repeated = [], [], {}, 0
    for number, raw in read_lines(text):
        name = picture_name(text, Row(number, []), decode(text, number, raw))
        repeated += name in first
        first.setdefault(name, number)
        image.append(name)
        lines.append(number)
    if not image:
        raise text.error(None, "lists no image")
    pairs: list[dict[tuple[int, int], int]] = [{} for _ in image]
    notes = (f"{text.label}: {repeated} paths are listed twice (kept as listed)",) if repeated else ()
    if split == "train":
        notes += _read_labels(file("label_train.txt"), pairs, names)
    else:
        notes += _read_evaluated(file, stem, pairs, names)
        full = find_text(release, f"label_{stem}.txt", folders, never=never)
        if numbers is not None and full is not None:
            notes += _read_full(full, pairs, numbers)
    attribute, value, role = (
        [[key[0] for key in of] for of in pairs],
        [[key[1] for key in of] for of in pairs],
        [list(of.values()) for of in pairs],
    )
    return Listed(lines_of(text, lines), image, attribute, value, role, notes)


def _label(text: TextFile, row: Row, fields: Sequence[str], names: Names) -> tuple[int, int]:
    """An attribute and its value, both in range."""
    attribute, value = integers(text, row, fields, "attribute, value")
    if not 0 <= attribute < len(names.attribute):
        raise text.error(row.line, f"attribute {attribute} is not in 0…{len(names.attribute) - 1}")
    count = len(names.value[attribute])
    if not 0 <= value < count:
        name = names.attribute[attribute]
        raise text.error(row.line, f"value {value} of {name} is not in 0…{count - 1}")
    return attribute, value


def _image(text: TextFile, row: Row, field: str, count: int) -> int:
    (number,) = integers(text, row, [field], "image")
    if not 0 <= number < count:
        raise text.error(row.line, f"image {number} is not in 0…{count - 1}, the lines of the list of images")
    return number


def _read_labels(text: TextFile, pairs: list[dict], names: Names) -> tuple[str, ...]:
    """`label_train.txt`. An image may be named on several lines; a repeated label counts once."""
    repeated = 0
    for number, raw in read_lines(text):
        row = Row(number, decode(text, number, raw).split())
        if len(row.fields) < 3 or len(row.fields) % 2 == 0:
            raise text.error(
                number, f"{len(row.fields)} fields; expected: image, then attribute and value pairs"
            )
        image = _image(text, row, row.fields[0], len(pairs))
        for at in range(1, len(row.fields), 2):
            label = _label(text, row, row.fields[at : at + 2], names)
            repeated += label in pairs[image]
            pairs[image][label] = LABEL
    bare = sum(not of for of in pairs)
    notes = (f"{text.label}: {repeated} labels repeat earlier ones and were merged",) if repeated else ()
    return notes + ((f"{text.label}: {bare} images have no label",) if bare else ())


def _read_evaluated(
    file: Callable[[str], TextFile], stem: str, pairs: list[dict], names: Names
) -> tuple[str, ...]:
    """`query_S.txt` and `candidate_S.txt`: every image at most once for an attribute."""
    seen: dict[tuple[int, int], tuple[TextFile, int]] = {}
    valued: dict[tuple[int, int], set[int]] = {(QUERY, a): set() for a in range(len(names.attribute))}
    valued |= {(CANDIDATE, a): set() for a in range(len(names.attribute))}
    queries: list[tuple[int, int]] = []
    for role, kind in ((QUERY, "query"), (CANDIDATE, "candidate")):
        text = file(f"{kind}_{stem}.txt")
        number = 0
        for number, raw in read_lines(text):
            row = Row(number, decode(text, number, raw).split())
            if len(row.fields) != 3:
                raise text.error(number, f"{len(row.fields)} fields instead of 3 (image, attribute, value)")
            image = _image(text, row, row.fields[0], len(pairs))
            label = _label(text, row, row.fields[1:], names)
            if (image, label[0]) in seen:
                where, line = seen[image, label[0]]
                name = names.attribute[label[0]]
                raise text.error(number, f"image {image} is listed again for {name} ({where.label}:{line})")
            seen[image, label[0]] = text, number
            pairs[image][label] = role
            valued[role, label[0]].add(label[1])
            if role == QUERY:
                queries.append(label)
        if not number:
            raise text.error(None, "lists no pair")
    alone = sum(value not in valued[CANDIDATE, attribute] for attribute, value in queries)
    unused = sum(not of for of in pairs)
    notes = (f"{stem}: {alone} of {len(queries)} queries have no candidate of their value",) if alone else ()
    return notes + ((f"{stem}: {unused} images are neither query nor candidate",) if unused else ())


def _read_full(text: TextFile, pairs: list[dict], numbers: list[list[int]]) -> tuple[str, ...]:
    """`label_valid.txt`, `label_test.txt` of the archive copies that have them: `id attr val [attr val …]`,
    attributes from 1, values by their number among the values of all attributes. They must hold every
    evaluated pair; the others become pairs of role LABEL."""
    local = {(a, number): v for a, of in enumerate(numbers) for v, number in enumerate(of)}
    line_of, more = {}, 0
    for number, raw in read_lines(text):
        row = Row(number, decode(text, number, raw).split())
        if len(row.fields) < 3 or len(row.fields) % 2 == 0:
            raise text.error(
                number, f"{len(row.fields)} fields; expected: image, then attribute and value pairs"
            )
        image = _image(text, row, row.fields[0], len(pairs))
        line_of[image] = number
        known = set()
        for at in range(1, len(row.fields), 2):
            attribute, value = integers(text, row, row.fields[at : at + 2], "attribute, value")
            if (attribute - 1, value) not in local:
                raise text.error(number, f"value {value} is not of attribute {attribute}")
            known.add((attribute - 1, local[attribute - 1, value]))
        for label in pairs[image]:
            if label not in known:
                raise text.error(
                    number,
                    f"image {image} lacks value {label[1]} of attribute {label[0] + 1}, which is evaluated",
                )
        for label in sorted(known - pairs[image].keys()):
            pairs[image][label] = LABEL
            more += 1
    missing = next((i for i, of in enumerate(pairs) if of and i not in line_of), None)
    if missing is not None:
        raise text.error(None, f"no row of image {missing}")
    return (f"{text.label}: {more} further labels of evaluated images",)


def join(parts: dict[str, Listed]) -> tuple[Lines, list[str], dict[str, np.ndarray], dict[str, list]]:
    """Splits one after the other → (lines, images, rows of each split, columns)."""
    starts = np.cumsum([0, *(len(part.image) for part in parts.values())])
    rows = {split: np.arange(starts[i], starts[i + 1]) for i, split in enumerate(parts)}
    columns = {
        name: [np.asarray(of, np.int32) for part in parts.values() for of in getattr(part, name)]
        for name in ("attribute", "value", "role")
    }
    image = [name for part in parts.values() for name in part.image]
    return join_lines([part.lines for part in parts.values()]), image, rows, columns
