"""Untrusted weight files → arrays. Nothing in them is executed.

`read` knows a file by its content: PyTorch's two formats (`torch_files`), Keras's .h5 (`keras_files`),
safetensors, and numpy's .npz (Google's ViT files). Sizes that a file declares are compared with the bytes it
has before memory is taken.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionjax.errors import UserError
from fashionjax.weights import keras_files, pickle_files, torch_files
from fashionjax.weights.checked_bytes import (
    BFLOAT16,
    Archive,
    Refused,
    decode,
    is_count,
    itemsize,
    open_zip,
    read_exactly,
    shaped,
)
from fashionjax.weights.safe_pickle import PickleRefused
from fashionjax.weights.selection import Entry, under, unwrapped

HEADER_LIMIT = 100 << 20  # bytes of JSON in a safetensors file, the limit of the format's own reader
SAFETENSORS_DTYPES = {
    **{"F32": "f4", "F64": "f8", "F16": "f2", "BF16": BFLOAT16, "BOOL": "?"},
    **{"I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1"},
}


class WeightFileError(UserError):
    """The file is damaged, hostile, or of a kind that holds no weights."""


class WeightFile(NamedTuple):
    """The tensors of a file, read-only, by name in file order; bfloat16 is float32 here."""

    tensors: dict[str, np.ndarray]
    remarks: tuple[str, ...] = ()  # which of the file's tensors these are, and what was taken off their names


def read(path: str | Path, entry: str | None = None, prefix: str | None = None) -> WeightFile:
    """Reads a weight file. Entries that are not tensors are left out. Raises WeightFileError.

    Of a checkpoint that holds several state dicts, `entry` names one ('state_dict_ema', 'state_dict.model');
    by default the plainest is taken. `prefix` takes the tensors whose names begin with it, without it; ''
    keeps names as they are. By default the prefixes of wrappers (`module.`, `_orig_mod.`, `model.`) are
    removed where every name has them. `selection` says how both are chosen.
    """

    def reader(file: io.BufferedReader, size: int) -> WeightFile:
        found = _by_content(file, size, entry)
        named = unwrapped(found.tensors) if prefix is None else under(found.tensors, prefix)
        return WeightFile(named.tensors, (*found.remarks(), *named.remarks()))

    return _reading(path, reader)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors that `read` takes by default."""
    return read(path).tensors


def _reading(path: str | Path, reader: Callable[[io.BufferedReader, int], Any]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise WeightFileError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return reader(file, path.stat().st_size)
    except PickleRefused as error:
        advice = "tensors are read without running code: save model.state_dict() in PyTorch"
        raise WeightFileError(f"{path}: its pickle is refused: {error} ({advice})") from error
    except Refused as error:
        raise WeightFileError(f"{path}: {error}") from error
    except MemoryError as error:
        raise WeightFileError(f"{path}: not enough memory for its tensors") from error
    except OSError as error:
        raise WeightFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def _by_content(file: io.BufferedReader, size: int, wanted: str | None) -> Entry:
    head = file.read(512)
    file.seek(0)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _read_zip(file, size, wanted)
    if head.startswith(torch_files.LEGACY_START):
        return torch_files.read_legacy(file, size, wanted)
    if len(head) > 8 and head[8:9] == b"{":
        return _whole(_read_safetensors(file, size), wanted)
    if head.startswith(pickle_files.STARTS):
        return pickle_files.read(file, size, wanted)
    if head[257:262] == b"ustar":
        raise Refused(
            "a tar archive, PyTorch's format before 0.1.7: load it once in PyTorch and save it again"
        )
    if head.startswith(b"\x89HDF"):
        return _whole(keras_files.read(file, size), wanted)
    if not head:
        raise Refused("an empty file")
    raise Refused("not a PyTorch, safetensors, npz, Keras or pickle file (unknown first bytes)")


def _whole(tensors: dict[str, np.ndarray], wanted: str | None) -> Entry:
    """A file of a format that holds tensors and nothing around them."""
    if wanted:
        raise Refused(f"holds one set of tensors and no entries; leave --entry={wanted!r} out")
    return Entry("", tensors)


def _read_zip(file: io.BufferedReader, size: int, wanted: str | None) -> Entry:
    archive = open_zip(file, size)
    pickles = [name for name in archive.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) == 1:
        return torch_files.read_zip(archive, pickles[0].removesuffix("data.pkl"), wanted)
    if archive.entries and all(name.endswith(".npy") for name in archive.entries):
        return _whole(_read_npz(archive), wanted)
    raise Refused("a zip archive that is neither a PyTorch file (no data.pkl) nor an npz file")


def _read_npz(archive: Archive) -> dict[str, np.ndarray]:
    out = {}
    for name in archive.entries:
        raw = archive.read(name)
        stream = io.BytesIO(raw[: 1 << 16].tobytes())
        try:
            version = np.lib.format.read_magic(stream)
            if version not in ((1, 0), (2, 0)):
                raise Refused(f"array {name[:80]!r} has npy version {version}")
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(stream)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
            raise Refused(
                f"array {name[:80]!r} has a damaged header ({' '.join(str(error).split())[:120]})"
            ) from error
        if dtype.hasobject or dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise Refused(f"array {name[:80]!r} holds {dtype}, not numbers (pickled objects are never read)")
        body = raw[stream.tell() :]
        if not all(map(is_count, shape)) or math.prod(shape) * dtype.itemsize != body.size:
            raise Refused(f"array {name[:80]!r} declares shape {shape} and has {body.size:,} bytes")
        flat = (
            decode(body, "?")
            if dtype.kind == "b"
            else body.view(dtype).astype(dtype.newbyteorder("="), copy=False)
        )
        array = shaped(flat, shape[::-1] if fortran else shape, name)
        out[name.removesuffix(".npy")] = array.T if fortran else array
    return out


def _read_safetensors(file: io.BufferedReader, size: int) -> dict[str, np.ndarray]:
    """Header length (8 bytes), JSON header {name: {dtype, shape, data_offsets}}, one buffer without holes."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(HEADER_LIMIT, size - 8):
        raise Refused(f"its header declares {length:,} bytes, the file has {size:,}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refused(f"its header is not valid JSON ({str(error)[:120]})") from error
    if type(header) is not dict:
        raise Refused("its header is not a JSON object")
    entries, end, buffer = [], 0, size - 8 - length
    for name, entry in header.items():
        if name != "__metadata__":
            entries.append((*_safetensors_entry(name, entry), name))
    for start, stop, _, _, name in sorted(entries, key=lambda e: e[:2]):
        if start != end:
            raise Refused(f"tensor {name[:80]!r} overlaps another one or leaves a hole")
        end = stop
    if end != buffer or not entries:
        raise Refused(f"its tensors declare {end:,} bytes, the file has {buffer:,}")
    out = {}
    for start, stop, kind, shape, name in entries:
        file.seek(8 + length + start)
        out[name] = shaped(decode(read_exactly(file, stop - start), kind), shape, name)
    return out


def _safetensors_entry(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    kind = (
        SAFETENSORS_DTYPES.get(entry["dtype"])
        if type(entry) is dict and type(entry.get("dtype")) is str
        else None
    )
    if kind is None:
        raise Refused(
            f"tensor {name[:80]!r} has an unsupported dtype, expected one of {', '.join(SAFETENSORS_DTYPES)}"
        )
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for numbers in (shape, offsets):
        if type(numbers) is not list or not all(map(is_count, numbers)):
            raise Refused(f"tensor {name[:80]!r} has a shape or offsets that are not counts")
    if len(offsets) != 2 or len(shape) > 32 or offsets[1] - offsets[0] != math.prod(shape) * itemsize(kind):
        raise Refused(f"tensor {name[:80]!r} declares offsets that do not fit its shape")
    return offsets[0], offsets[1], kind, tuple(shape)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)
