"""Label columns of a prepared dataset, one Parquet file per split beside its records.

Samplers, metrics and label lists need a few numbers of every record and none of the images. The columns hold
everything but images and values of more than `LARGEST` bytes: texts, classes, numbers, arrays of a fixed
shape, and lists of these. The fields of a list of objects are columns of their own (`instance/box`), where
they are small: outlines and landmarks of every object would be a second copy of the annotation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import tensorflow_datasets as tfds
from pyarrow import parquet

from fashionjax import files
from fashionjax.errors import UserError

LARGEST = 4096  # bytes of a value of fixed shape; text features of 24 kB a record stay in the records
OF_OBJECT = 64  # bytes of a value of one object; its texts, such as outlines, stay in the records too
ROWS = 4096  # per row group: what is held in memory while a file is written
AGAIN = "delete the file and run `fashionjax prepare` again, which writes it anew"


class Column(NamedTuple):
    """What a column holds per record: a value of `dtype` (None: text) and `shape`, or a list of them."""

    path: tuple[str, ...]  # keys into the record
    dtype: np.dtype | None
    shape: tuple[int, ...]
    ragged: bool

    def pick(self, record: Mapping[str, Any]) -> Any:
        """The column's value of a record."""
        value: Any = record
        for key in self.path:
            value = value[key]
        return value

    def array(self, values: Any) -> np.ndarray:
        """The values of a ragged record, or of all records of a fixed column, as one array [n *shape]."""
        if self.dtype is None:
            texts = [value.decode() if isinstance(value, bytes) else value for value in values]
            return np.asarray(texts, str)
        return np.asarray(values, self.dtype).reshape(-1, *self.shape)

    def stack(self, values: list) -> np.ndarray:
        """The values of all records, in order: one array, or an array of objects with an array per record."""
        if not self.ragged:
            return self.array(values)
        column = np.empty(len(values), object)
        for row, value in enumerate(values):
            column[row] = self.array(value)
        return column


def columns_of(features: Mapping[str, Any]) -> dict[str, Column]:
    """The columns of a dataset's features, by name."""
    found: dict[str, Column] = {}
    for name, feature in features.items():
        if not isinstance(feature, tfds.features.Sequence):
            found[name] = _column((name,), feature, ragged=False)
        elif isinstance(feature.feature, tfds.features.FeaturesDict):
            for field, inner in feature.feature.items():
                found[f"{name}/{field}"] = _column((name, field), inner, ragged=True)
        else:
            found[name] = _column((name,), feature.feature, ragged=True)
    return {name: column for name, column in found.items() if column is not None}


def stored(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Those that are written; the others are read from the records."""
    return {name: column for name, column in columns.items() if len(column.path) == 1 or _of_object(column)}


def _of_object(column: Column) -> bool:
    size = math.inf if column.dtype is None else math.prod(column.shape) * column.dtype.itemsize
    return size <= OF_OBJECT


def _column(path: tuple[str, ...], feature: Any, *, ragged: bool) -> Column | None:
    if isinstance(feature, tfds.features.Text):
        return Column(path, None, (), ragged)
    if not isinstance(feature, tfds.features.Tensor):  # scalars and classes are tensors, images are not
        return None
    shape, dtype = tuple(feature.shape), np.dtype(feature.np_dtype)
    if None in shape or dtype.kind not in "biuf" or not 0 < math.prod(shape) * dtype.itemsize <= LARGEST:
        return None
    return Column(path, dtype, shape, ragged)


# ------------------------------------------------------------------------------ files
def file_of(folder: Path, split: str) -> Path:
    return Path(folder) / f"columns-{split}.parquet"


def write(path: Path, columns: Mapping[str, Column], records: Iterable[Mapping[str, Any]]) -> None:
    """Write the columns of `records`, which are read once, in order. The file appears when it is complete."""
    schema = pa.schema([pa.field(name, _arrow_type(column)) for name, column in columns.items()])
    rows = iter(records)

    def write_to(temporary: Path) -> None:
        with parquet.ParquetWriter(temporary, schema) as writer:
            while batch := list(itertools.islice(rows, ROWS)):
                arrays = [
                    _to_arrow(column, [column.pick(record) for record in batch])
                    for column in columns.values()
                ]
                writer.write_batch(pa.record_batch(arrays, schema=schema))

    files.write_atomically(path, write_to)


def read(path: Path, name: str, column: Column, length: int) -> np.ndarray | None:
    """A column as `Column.stack` gives it; None where the file, or the column in it, is not there.

    UserError where it cannot be read or does not hold `length` records.
    """
    try:
        with parquet.ParquetFile(path) as file:
            if name not in file.schema_arrow.names:
                return None
            chunks = file.read(columns=[name])[name].chunks
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not readable ({reason}); prepare the dataset again with --overwrite"
        ) from error
    found = sum(map(len, chunks))
    if found != length:
        raise UserError(f"{path}: holds {found} records, the split has {length}; {AGAIN}")
    parts = [_from_arrow(column, chunk) for chunk in chunks]
    return np.concatenate(parts) if parts else column.stack([])


def _arrow_type(column: Column) -> pa.DataType:
    element = pa.string() if column.dtype is None else pa.from_numpy_dtype(column.dtype)
    if column.ragged:
        return pa.list_(element)
    return pa.list_(element, math.prod(column.shape)) if column.shape else element


def _to_arrow(column: Column, values: list) -> pa.Array:
    kind = _arrow_type(column)
    if not column.ragged:
        array = column.array(values)
        if not column.shape:
            return pa.array(array, kind)
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), kind.list_size)
    rows = [column.array(value).ravel() for value in values]
    ends = np.cumsum([0] + [len(row) for row in rows], dtype=np.int64)
    flat = np.concatenate(rows) if ends[-1] else column.array([]).ravel()
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat, kind.value_type))


def _from_arrow(column: Column, chunk: pa.Array) -> np.ndarray:
    if not column.ragged:
        if column.dtype is None:
            return column.array(chunk.to_pylist())
        values = chunk.flatten() if column.shape else chunk
        return column.array(values.to_numpy(zero_copy_only=False))
    ends = chunk.offsets.to_numpy()
    values = chunk.flatten()
    flat = values.to_pylist() if column.dtype is None else values.to_numpy(zero_copy_only=False)
    return column.stack([flat[start:end] for start, end in itertools.pairwise(ends - ends[0])])
