"""A prepared TFDS dataset as a random-access split; the only reader of tensorflow-datasets."""

from __future__ import annotations

import bisect
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from fashionjax.data import columns
from fashionjax.data.pairs import Pairs, has_pairs
from fashionjax.errors import UserError

READING = "reading labels from records (no label columns)"


class DamagedRecord(Exception):
    """A record that cannot be read; `record_id` names it."""

    def __init__(self, record_id: str, reason: str):
        super().__init__(f"{record_id}: {reason}")
        self.record_id = record_id
        self.reason = reason


class Split:
    """One split of a prepared dataset: `len`, `split[i]`, whole columns, label names.

    `split[i]` is a dict of numpy values as the builder stored them (docs/datasets/ has a card for each
    dataset); images stay encoded bytes. Records are read on demand; the object can be sent to worker
    processes.
    """

    def __init__(self, folder: Path, name: str):
        self.folder = Path(folder)
        self.name = name
        info = _builder(self.folder).info
        if name not in info.splits:
            raise UserError(
                f"{self.folder}: no split {name!r}; this dataset has {', '.join(sorted(info.splits))}"
            )
        self.dataset = info.full_name
        self.labels = _labels(info)
        self.synthetic = bool(_metadata(info, "synthetic"))  # drawn, in the files of a benchmark's release
        self.features = tuple(info.features)
        self.tables = tuple(_tables(info, name))
        self._texts = {n for n, f in info.features.items() if isinstance(f, tfds.features.Text)}
        self._length = info.splits[name].num_examples
        self._records = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The record; raises DamagedRecord when its stored bytes are broken."""
        try:
            record = self._source()[int(index)]
            return {name: v.decode() if name in self._texts else v for name, v in record.items()}
        except Exception as error:  # the readers raise many types for broken bytes
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DamagedRecord(f"{self.dataset}/{self.name}[{index}]", reason[0][:200]) from error

    def column(self, name: str) -> np.ndarray:
        """One feature of every record, in order: an array, or for lists an array of objects with an array per
        record. A field of a list of objects is named `instance/box`.

        Read from the file of label columns; no record is opened. Datasets that were prepared without such a
        file, and features that are too large for it, are read from the records. There a damaged record
        counts as "", -1 (NaN for floats, 0 for unsigned integers) or an empty list for texts, numbers and
        lists of them; for other features DamagedRecord is raised.

        `name` may also be a table of the split (the outfits and questions of a compatibility benchmark): the
        builder's `metadata["tables"][split][name]`, a list with a row per outfit or question.
        """
        if name in self.tables and name not in self.features:
            return _column(_tables(_builder(self.folder).info, self.name)[name])
        if name not in self.features and name not in _columns(self.folder):
            nested = [column for column in _columns(self.folder) if column not in self.features]
            has = ", ".join((*self.features, *nested, *self.tables))
            raise UserError(f"{self.dataset}: has no feature {name!r}; it has {has}")
        return _read_column(self.folder, self.name, name)

    def _source(self):
        if self._records is None:
            image_features = [name for name in self.features if name == "image"]
            self._records = _builder(self.folder).as_data_source(
                split=self.name, decoders={name: tfds.decode.SkipDecoding() for name in image_features}
            )
        return self._records

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_records": None}


class Joined:
    """Splits of one dataset one after the other, as `Split`; each record has `role`, the number of its
    split, where it has none of its own."""

    def __init__(self, parts: list[Split] | list[Pairs]):
        self.parts = parts
        self.folder, self.dataset, self.labels = parts[0].folder, parts[0].dataset, parts[0].labels
        self.features, self.synthetic = parts[0].features, parts[0].synthetic
        self.tables = tuple(dict.fromkeys(name for part in parts for name in part.tables))
        self.name = "+".join(part.name for part in parts)
        self._ends = np.cumsum([len(part) for part in parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        role = bisect.bisect_right(self._ends, index)
        part = self.parts[role]
        return {"role": role} | part[index - self._ends[role] + len(part)]

    def column(self, name: str) -> np.ndarray:
        """As `Split.column`; a table is of one split, whose records its rows count."""
        if name in self.tables and name not in self.features:
            raise UserError(f"{self.dataset}: {name!r} is a table of one split; {self.name} joins several")
        return np.concatenate([part.column(name) for part in self.parts])


def open_split(
    dataset: str, split: str, data_dir: str | Path, *, pairs: bool = True
) -> Split | Joined | Pairs:
    """`dataset` is NAME or NAME/CONFIG as given to `fashionjax prepare`; `split` a split's name, or several
    joined by "+" (query+gallery). Splits of attribute-specific retrieval come as their pairs, or without
    `pairs` as records like any other."""
    folder = find(dataset, data_dir)
    parts = [Split(folder, name) for name in split.split("+")]
    if pairs:
        parts = [Pairs(part) if has_pairs(part.features) else part for part in parts]
    return parts[0] if len(parts) == 1 else Joined(parts)


def item_names(folder: Path) -> list[str]:
    """The items as a classifier numbers them: the release's item list, or the items of all splits, sorted,
    of a dataset that has none. The list may hold items without images."""
    listed = _metadata(_builder(Path(folder)).info, "item_names")
    if listed is not None:
        return list(listed)
    names: set[str] = set()
    for split in _builder(Path(folder)).info.splits:
        names |= set(Split(folder, split).column("item_id").tolist())
    return sorted(names - {""})  # of records that cannot be read


def find(dataset: str, data_dir: str | Path) -> Path:
    """The folder of the newest prepared version of a dataset."""
    base = Path(data_dir) / dataset
    found = sorted(base.glob("**/dataset_info.json"), key=lambda p: _version(p.parent.name))
    found = [p for p in found if ".incomplete" not in str(p)]
    if not found:
        raise UserError(
            f"{base}: no prepared dataset; build it with "
            f"`fashionjax prepare {dataset} --data_dir={data_dir}` (add --manual_dir for a benchmark)"
        )
    configs = {p.parent.parent for p in found}
    if len(configs) > 1:
        names = ", ".join(sorted(str(c.relative_to(data_dir)) for c in configs))
        raise UserError(f"{base}: several configs are prepared ({names}); name one in config.dataset")
    return found[-1].parent


@functools.lru_cache(maxsize=8)
def _columns(folder: Path) -> dict[str, columns.Column]:
    return columns.columns_of(_builder(folder).info.features)


@functools.lru_cache(maxsize=64)
def _read_column(folder: Path, split: str, name: str) -> np.ndarray:
    """A feature of every record, from the label columns or else from the records."""
    known, length = _columns(folder), _builder(folder).info.splits[split].num_examples
    if name in known:
        found = columns.read(columns.file_of(folder, split), name, known[name], length)
        if found is not None:
            return found
        if _is_small(known[name]):
            return _small_columns(folder, split)[name]
    records = Split(folder, split)
    if name in known:
        return known[name].stack([known[name].pick(records[i]) for i in _progress(records, READING)])
    return np.asarray([records[i][name] for i in _progress(records, READING)])


def _is_small(column: columns.Column) -> bool:
    return not column.shape and len(column.path) == 1


@functools.lru_cache(maxsize=8)
def _small_columns(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Every text, class, number and list of these of a split, in one pass over its records."""
    records = Split(folder, split)
    small = {name: column for name, column in _columns(folder).items() if _is_small(column)}
    rows: list[list | None] = []
    for i in _progress(records, READING):
        try:
            record = records[i]
            rows.append([column.pick(record) for column in small.values()])
        except DamagedRecord:  # reported where the record itself is needed
            rows.append(None)
    if all(row is None for row in rows):
        raise UserError(f"{records.dataset}/{split}: no record can be read; prepare the dataset again")
    nothing = [_nothing(column) for column in small.values()]
    filled = zip(*(nothing if row is None else row for row in rows))
    return {name: column.stack(list(values)) for (name, column), values in zip(small.items(), filled)}


def _progress(records: Split, what: str, *, shown: bool = True) -> tqdm:
    """The record numbers, with rate and time left on stderr where it takes longer than a moment."""
    interval = 0.2 if sys.stderr.isatty() else 30
    numbers = range(len(records))
    return tqdm(numbers, what, unit=" records", delay=2, mininterval=interval, disable=not shown)


def write_columns(folder: Path, progress: bool = False, *, missing_ok: bool = False) -> None:
    """Write the label columns of every split of a finished dataset that has none.

    With `missing_ok`, splits with damaged records and folders that cannot be written stay without.
    """
    for split in _builder(Path(folder)).info.splits:
        path = columns.file_of(folder, split)
        if path.exists():
            continue
        records = Split(folder, split)
        bar = _progress(records, f"label columns of {split}", shown=progress)
        try:
            columns.write(path, columns.stored(_columns(Path(folder))), (records[i] for i in bar))
        except (OSError, DamagedRecord):
            if not missing_ok:
                raise


def _nothing(column: columns.Column) -> Any:
    """What stands for the value of a record that cannot be read."""
    if column.ragged:
        return []
    if column.dtype is None:
        return ""
    return {"i": -1, "f": np.nan}.get(column.dtype.kind, 0)


def _column(rows: list) -> np.ndarray:
    """A table of the metadata: an array, or for lists an array of objects."""
    if not rows or not isinstance(rows[0], list):
        return np.asarray(rows)
    column = np.empty(len(rows), object)
    for row, value in enumerate(rows):
        column[row] = np.asarray(value)
    return column


@functools.lru_cache(maxsize=8)
def _builder(folder: Path):
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # a half-copied folder shows as many types
        raise UserError(f"{folder}: not a readable TFDS dataset ({error})") from error


def _version(name: str) -> tuple:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))


def _labels(info) -> dict[str, list]:
    """Names of every class feature, of the attributes, the values of each attribute and the landmark slots,
    the left and right slots that a flip exchanges, and the type spaces ([type, type] each), as plain
    lists."""
    labels = {
        name: list(feature.names)
        for features in (info.features, _instance_features(info))
        for name, feature in features.items()
        if isinstance(feature, tfds.features.ClassLabel)
    }
    for key, target in (
        ("attribute_names", "attribute"),
        ("attribute_groups", "attribute_group"),
        ("attribute_values", "attribute_value"),
        ("type_spaces", "type_space"),
        ("category_ids", "category_id"),
        ("landmark_counts", "landmark_count"),
        ("landmark_names", "landmark"),
        ("landmark_names_of_type", "landmark_of_type"),
        ("landmark_flip", "landmark_flip"),
    ):
        value = _metadata(info, key)
        if value is not None:
            labels[target] = [list(v) if isinstance(v, (list, tuple)) else v for v in value]
    return labels


def _instance_features(info) -> dict:
    """The features of the objects of an image, {} where records have none."""
    found = dict(info.features.items()).get("instance")
    return dict(found.feature.items()) if isinstance(found, tfds.features.Sequence) else {}


def _tables(info, split: str) -> dict[str, list]:
    """The tables of a split by name, {} where it has none."""
    return (_metadata(info, "tables") or {}).get(split, {})


def _metadata(info, key: str):
    """An entry of the builder's metadata, which may be stored as JSON text; None where there is none."""
    value = (info.metadata or {}).get(key)
    return json.loads(value) if isinstance(value, str) else value
