"""Items, outfits, compatibility lines and fill-in-the-blank questions of Polyvore Outfits, validated.

Items are numbered per split by their first appearance in the split's outfits; everything else is turned
into these row numbers. Whatever names an item that is not there, or contradicts itself, is a ReleaseError
with the line of the text file or the record of the JSON file.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tfds_builders.release import ReleaseError, TextFile, decode, open_text, read_lines


class Item(NamedTuple):
    """An entry of the item metadata; texts are "" where the file has none."""

    kind: str  # the semantic category
    title: str
    url_name: str
    category_id: str


class Split(NamedTuple):
    """The outfits of a split. item[row] is an item id, first[row] the record it appears in first."""

    text: TextFile
    item: list[str]
    first: list[int]
    outfit: list[list[int]]
    outfit_id: list[str]
    row_of: dict[str, int]  # reference key '<set_id>_<index>' → row


class Record(NamedTuple):
    """A record of a JSON file, for messages."""

    text: TextFile
    name: str

    def error(self, message: str) -> ReleaseError:
        return self.text.error(None, f"{self.name}: {message}")


# ------------------------------------------------------------------------------ JSON
def read_json(text: TextFile, kind: type) -> Any:
    """The file's value, which must be of type `kind` (dict or list)."""
    try:
        value = json.loads(_content(text), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise text.error(error.lineno, f"not valid JSON ({error.msg})") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise text.error(None, f"not valid JSON ({str(error).split(';')[0]})") from error
    except RecursionError as error:
        raise text.error(None, "not valid JSON (nested too deeply)") from error
    except KeyError as error:
        raise text.error(None, f"duplicate key {error} in one object") from error
    if type(value) is not kind or not value:
        raise text.error(
            None, f"must hold {'a list' if kind is list else 'an object'} with at least one entry"
        )
    return value


def _content(text: TextFile) -> str:
    """The whole file."""
    try:
        with open_text(text) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise text.error(None, f"not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise text.error(None, f"cannot be read to its end ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise KeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))
    return found


def _name(record: Record, entry: Any, field: str) -> str:
    """An id: text, or a whole number where a copy has those. Ids are parts of file names."""
    value = entry.get(field) if isinstance(entry, dict) else None
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or not is_id(value):
        raise record.error(
            f"{field} is {_shown(value)}; an id without blanks, slashes and control characters is needed"
        )
    return value


def is_id(value: str) -> bool:
    """Printable letters (no surrogate, no control character) without blanks and slashes."""
    return value.isprintable() and value.split() == [value] and not {"/", "\\"} & set(value)


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


# ------------------------------------------------------------------------------ items
def read_items(text: TextFile, wanted: Iterable[str], kinds: Sequence[str]) -> dict[str, Item]:
    """`polyvore_item_metadata.json`: the entries of the wanted items that it has."""
    table = read_json(text, dict)
    return {item: _item(Record(text, f"item {item}"), table[item], kinds) for item in wanted if item in table}


def _item(record: Record, entry: Any, kinds: Sequence[str]) -> Item:
    if not isinstance(entry, dict):
        raise record.error("expected a JSON object")
    kind = entry.get("semantic_category")
    if kind not in kinds:
        known = ", ".join(kinds)
        raise record.error(f"semantic_category is {_shown(kind)}; typespaces.p knows {known}")
    texts = [entry.get(field) for field in ("title", "url_name", "category_id")]
    for field, value in zip(("title", "url_name", "category_id"), texts):
        if value is not None and type(value) not in (str, int):
            raise record.error(f"{field} is {_shown(value)}; a text is needed")
    return Item(kind, *("" if value is None else str(value) for value in texts))


class FineCategories(NamedTuple):
    """`categories.csv`: category id → its first fine-grained name, and notes about the file."""

    names: dict[str, str]
    notes: list[str]


def read_fine_categories(text: TextFile) -> FineCategories:
    """The file is optional and decorative: whatever is wrong with it is a note and never refuses the build.

    Rows are id, name, semantic category; the release lists some ids with several names.
    """
    try:
        rows = list(csv.reader(io.StringIO(_content(text), newline="")))
    except (ReleaseError, csv.Error) as error:
        reason = str(error).removeprefix(f"{text.label}: ")
        return FineCategories({}, [f"{text.label}: not used, fine_category is empty ({reason})"])
    names: dict[str, list[str]] = {}
    unread: list[int] = []
    for number, row in enumerate(rows, start=1):
        key, *name = [field.strip() for field in row[: max(2, len(row) - 1)]] or [""]
        if key.isdigit() and any(name):
            names.setdefault(key, []).append(",".join(name))  # a name may hold commas, not quoted
        elif any(field.strip() for field in row) and number > 1:  # the first row may be column names
            unread.append(number)
    several = sum(len(set(found)) > 1 for found in names.values())
    notes = []
    if several:
        notes.append(f"{text.label}: {several} of {len(names)} ids have several names; the first is taken")
    if unread:
        notes.append(
            f"{text.label}: {len(unread)} rows without id and name are not used (row {unread[0]}, …)"
        )
    return FineCategories({key: found[0] for key, found in names.items()}, notes)


# ------------------------------------------------------------------------------ outfits
def read_split(text: TextFile) -> Split:
    """`<split>.json`: outfits of {"item_id", "index"}, the index from 1 to their number."""
    split = Split(text, [], [], [], [], {})
    row_of_item: dict[str, int] = {}
    seen: dict[str, int] = {}
    for number, entry in enumerate(read_json(text, list), start=1):
        record = Record(text, f"record {number}")
        set_id = _name(record, entry, "set_id")
        if "_" in set_id:
            raise record.error(f"set_id {set_id!r} holds a '_', which separates set and index in references")
        if seen.setdefault(set_id, number) != number:
            raise record.error(f"set_id {set_id} is that of record {seen[set_id]} too")
        record = Record(text, f"record {number} (set_id {set_id})")
        items = entry.get("items")
        if type(items) is not list or not items:
            raise record.error("items must be a list with at least one item")
        rows = []
        for entry_item in items:
            item = _name(record, entry_item, "item_id")
            index = entry_item.get("index")
            if type(index) is not int or not 1 <= index <= len(items):
                raise record.error(
                    f"index {_shown(index)} of item {item}: the {len(items)} items are numbered from 1"
                )
            if f"{set_id}_{index}" in split.row_of:
                raise record.error(f"index {index} of item {item} is that of another item too")
            row = row_of_item.setdefault(item, len(split.item))
            if row == len(split.item):
                split.item.append(item)
                split.first.append(number)
            split.row_of[f"{set_id}_{index}"] = row
            rows.append(row)
        split.outfit.append(rows)
        split.outfit_id.append(set_id)
    return split


def check_items(split: Split, items: dict[str, Item], metadata: TextFile) -> None:
    """Every item of the outfits has metadata."""
    for item, number in zip(split.item, split.first):
        if item not in items:
            raise Record(split.text, f"record {number}").error(f"item {item} is not in {metadata.label}")


def check_titles(text: TextFile) -> None:
    """`polyvore_outfit_titles.json`: set id → an object with texts. Nothing of it gets into records."""
    for set_id, entry in read_json(text, dict).items():
        record = Record(text, f"set {_shown(set_id)}")
        if not is_id(set_id):
            raise record.error("is not the id of a set")
        if not isinstance(entry, dict):
            raise record.error("expected a JSON object")
        for field in ("title", "url_name"):
            if type(entry.get(field)) not in (str, int, type(None)):
                raise record.error(f"{field} is {_shown(entry[field])}; a text is needed")


# ------------------------------------------------------------------------------ what is asked
def read_compatibility(text: TextFile, split: Split) -> dict[str, list]:
    """`compatibility_<split>.txt`: label 1 (an outfit) or 0 (an artificial one), then references."""
    rows, labels = [], []
    for number, line in read_lines(text):
        label, *refs = decode(text, number, line).split()
        if label not in ("0", "1"):
            raise text.error(number, f"label {label[:40]!r} must be 0 or 1")
        if len(refs) < 2:
            raise text.error(number, f"{len(refs)} items; a line is a label and at least two references")
        wrong = next((ref for ref in refs if ref not in split.row_of), None)
        if wrong is not None:
            raise text.error(number, f"reference {wrong[:60]} is not an item of {split.text.label}")
        rows.append([split.row_of[ref] for ref in refs])
        labels.append(int(label))
    if not rows:
        raise text.error(None, "is empty")
    return {"compatibility": rows, "compatibility_label": labels}


def read_questions(text: TextFile, split: Split) -> dict[str, list]:
    """`fill_in_blank_<split>.json`; an answer is right when its set is that of the question's first item."""
    found: dict[str, list] = {name: [] for name in ("question", "answer", "correct", "blank")}
    for number, entry in enumerate(read_json(text, list), start=1):
        record = Record(text, f"record {number}")
        if not isinstance(entry, dict):
            raise record.error("expected a JSON object")
        question, answers = (_references(record, entry, field, split) for field in ("question", "answers"))
        choices = len(found["answer"][0]) if found["answer"] else len(answers)
        if len(answers) < 2 or len(answers) != choices:
            raise record.error(f"{len(answers)} answers; every question must have {max(choices, 2)}")
        blank = entry.get("blank_position")
        if type(blank) is not int or not 0 <= blank <= len(question) + 1:
            raise record.error(
                f"blank_position is {_shown(blank)}; it must be a place among {len(question) + 1} items"
            )
        asked = question[0].split("_")[0]
        correct = [int(answer.split("_")[0] == asked) for answer in answers]
        if not any(correct):
            raise record.error(f"no answer is of the question's set {asked}")
        found["question"].append([split.row_of[ref] for ref in question])
        found["answer"].append([split.row_of[ref] for ref in answers])
        found["correct"].append(correct)
        found["blank"].append(blank)
    return found


def _references(record: Record, entry: dict, field: str, split: Split) -> list[str]:
    refs = entry.get(field)
    if type(refs) is not list or not refs:
        raise record.error(f"{field} must be a list with at least one reference")
    for ref in refs:
        if not isinstance(ref, str) or ref not in split.row_of:
            raise record.error(f"{field}: reference {_shown(ref)} is not an item of {split.text.label}")
    return refs


# ------------------------------------------------------------------------------ type spaces
def check_spaces(spaces: Sequence[tuple[str, str]], label: str, split: Split, kinds: list[str],
                 compatibility: TextFile, questions: TextFile, asked: dict[str, list]) -> None:  # fmt: skip
    """Every two types that meet in an outfit, a line or a question have a space. kinds: type of every row."""
    known = {frozenset(pair) for pair in spaces}
    checked: set[tuple[str, ...]] = set()

    def lacking(rows: Iterable[int]) -> frozenset[str] | None:
        key = tuple(sorted(kinds[row] for row in rows))
        if key in checked:
            return None
        checked.add(key)
        return next((frozenset(p) for p in itertools.combinations(key, 2) if frozenset(p) not in known), None)

    def meetings() -> Iterator[tuple[TextFile, str, list[int]]]:
        for number, rows in enumerate(split.outfit, start=1):
            yield split.text, f"record {number}", rows
        for number, rows in enumerate(asked["compatibility"], start=1):
            yield compatibility, f"line {number}", rows
        for number, (rows, answers) in enumerate(zip(asked["question"], asked["answer"]), start=1):
            for answer in answers:
                yield questions, f"record {number}", [*rows, answer]

    for text, place, rows in meetings():
        pair = lacking(rows)
        if pair is not None:
            types = " and ".join(sorted(pair)) if len(pair) == 2 else f"{next(iter(pair))} and itself"
            raise text.error(None, f"{place}: {label} has no space for {types}")


# ------------------------------------------------------------------------------ damaged images
def without(tables: dict[str, list], gone: set[int], rows: int) -> tuple[dict[str, list], dict[str, int]]:
    """The tables of a split whose records `gone` were left out → tables of the records that remain, and how
    many outfits, lines and questions went with them. An outfit loses the item, and goes with its last but
    one; lines and questions that name the item go.
    """
    new = dict(zip((row for row in range(rows) if row not in gone), itertools.count()))
    outfit = [[new[row] for row in rows if row in new] for rows in tables["outfit"]]
    kept = [place for place, rows in enumerate(outfit) if len(rows) >= min(2, len(tables["outfit"][place]))]
    lines = [place for place, rows in enumerate(tables["compatibility"]) if gone.isdisjoint(rows)]
    asked = [
        place
        for place, (question, answers) in enumerate(zip(tables["question"], tables["answer"]))
        if gone.isdisjoint(question) and gone.isdisjoint(answers)
    ]
    renamed = {name: [[new[row] for row in tables[name][p]] for p in places] for name, places in
               (("compatibility", lines), ("question", asked), ("answer", asked))}  # fmt: skip
    found = {
        "outfit": [outfit[place] for place in kept],
        "outfit_id": [tables["outfit_id"][place] for place in kept],
        "compatibility": renamed["compatibility"],
        "compatibility_label": [tables["compatibility_label"][place] for place in lines],
        "question": renamed["question"],
        "answer": renamed["answer"],
        "correct": [tables["correct"][place] for place in asked],
        "blank": [tables["blank"][place] for place in asked],
    }
    lost = {name: len(tables[name]) - len(found[name]) for name in ("outfit", "compatibility", "question")}
    return found, lost
