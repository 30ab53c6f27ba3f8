"""Bytes of an untrusted file → numbers: nothing is allocated or unpacked beyond what the file holds."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

INFLATION_LIMIT = 20  # declared bytes of a zip per byte of the file, beyond SLACK: weights hardly compress
SLACK = 16 << 20
CHUNK = 16 << 20
BFLOAT16 = "bfloat16"  # numpy has none: read as uint16, returned as float32


class Refused(ValueError):
    """Why a file is refused; the reader adds its name."""


def itemsize(kind: str) -> int:
    return 2 if kind == BFLOAT16 else np.dtype(kind).itemsize


def decode(raw: np.ndarray, kind: str, order: str = "<") -> np.ndarray:
    """raw [n] uint8 → [n / itemsize] numbers in this machine's byte order."""
    if kind == BFLOAT16:
        halves = raw.view(np.dtype("u2").newbyteorder(order))
        return (halves.astype(np.uint32) << 16).view(np.float32)
    if kind == "?":  # any other byte than 0 and 1 would be an invalid bool
        return raw != 0
    return raw.view(np.dtype(kind).newbyteorder(order)).astype(np.dtype(kind), copy=False)


def shaped(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`array` in a shape of as many numbers, read-only."""
    try:
        array = array.reshape(shape)
    except (
        ValueError,
        OverflowError,
    ) as error:  # an empty array may still claim sides that no array can have
        raise Refused(f"tensor {name[:80]!r} has an impossible shape") from error
    array.flags.writeable = False
    return array


def read_exactly(stream, count: int) -> np.ndarray:
    """The next `count` bytes [count] uint8; the caller has compared `count` with the size of the file."""
    raw = np.empty(count, np.uint8)
    view, done = memoryview(raw), 0
    while done < count:
        got = stream.readinto(view[done : done + CHUNK])
        if not got:
            raise Refused(f"ends early: {count:,} bytes are declared where {done:,} are left")
        done += got
    return raw


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


class Archive(NamedTuple):
    zip: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]

    def read(self, name: str, limit: int | None = None) -> np.ndarray:
        """An entry's bytes [n] uint8."""
        entry = self.entries[name]
        if limit is not None and entry.file_size > limit:
            raise Refused(f"{name[:80]!r} has {entry.file_size:,} bytes, expected at most {limit:,}")
        try:
            with self.zip.open(entry) as stream:
                raw = read_exactly(stream, entry.file_size)
                if stream.read(1):
                    raise Refused(f"{name[:80]!r} is longer than it declares")
                return raw
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, struct.error, UnicodeError) as error:
            raise Refused(f"{name[:80]!r} in it is damaged ({error})") from error


def open_zip(file: io.BufferedReader, size: int) -> Archive:
    """Opens a zip and looks at its directory: plain names, honest sizes, entries that do not overlap."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, RuntimeError) as error:
        raise Refused(f"a damaged zip archive ({error})") from error
    entries: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
        name = entry.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise Refused(f"the archive has an entry outside of itself: {name[:80]!r}")
        if name in entries:
            raise Refused(f"the archive has two entries {name[:80]!r}")
        if entry.flag_bits & 0x1:
            raise Refused(f"the archive is encrypted ({name[:80]!r})")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(
                f"{name[:80]!r} uses compression method {entry.compress_type}, expected stored or deflated"
            )
        if entry.header_offset < end:
            raise Refused(f"the entries of the archive overlap ({name[:80]!r})")
        end = entry.header_offset + 30 + len(name) + entry.compress_size
        if end > size:
            raise Refused(f"{name[:80]!r} reaches beyond the end of the file")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise Refused(f"{name[:80]!r} declares two different sizes")
        entries[name] = entry
    declared = sum(entry.file_size for entry in entries.values())
    if declared > INFLATION_LIMIT * size + SLACK:
        raise Refused(f"a zip bomb: {size:,} bytes declare {declared:,}")
    return Archive(archive, entries)
