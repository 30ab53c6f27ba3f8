"""Item texts, and `train_hglmm_pca6000.txt`: a line `label,v1,…,v6000` per text, read where it lies.

The file has tens of kilobytes a line, more than memory in all: a first pass validates every line and keeps
where it is; a line is parsed again when a record with its text is written.
"""

from __future__ import annotations

import os
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tfds_builders.release import TextFile, open_text

WIDTH = 6000


def clean(title: str, url_name: str) -> str:
    """An item's text as the feature file labels it: the title, or the url_name where that is empty, without
    newlines and what is not ASCII, stripped, in small letters.
    """
    text = (title or url_name).replace("\n", "")
    return text.encode("ascii", "ignore").decode("ascii").strip().lower()


class Features(NamedTuple):
    """Where each text's line lies: label → (offset, bytes, 1-based line)."""

    text: TextFile
    place: dict[str, tuple[int, int, int]]
    merged: int

    def vector(self, label: str) -> np.ndarray:
        """The text's features, float32 [WIDTH]."""
        offset, length, number = self.place[label]
        with open(self.text.path, "rb") as file:
            file.seek(offset)
            return parse(self.text, number, file.read(length))[1]


def parse(text: TextFile, number: int, line: bytes) -> tuple[bytes, np.ndarray]:
    """`label,v1,…,v6000` → (label, float32 [WIDTH]); the label may hold commas. ReleaseError names what is
    wrong.
    """
    line = line.strip()
    commas = np.flatnonzero(np.frombuffer(line, np.uint8) == ord(","))
    if len(commas) < WIDTH:
        raise text.error(number, f"{len(commas)} values; a label and {WIDTH} numbers are needed")
    cut = int(commas[-WIDTH])
    label, numbers = line[:cut], line[cut + 1 :]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's word for text that is no number
            values = np.fromstring(numbers, np.float64, sep=",")
    except (DeprecationWarning, ValueError):
        values = np.empty(0)
    if len(values) != WIDTH:
        shown = label[:40].decode("utf-8", "replace")
        raise text.error(number, f"{_wrong(numbers)} among the {WIDTH} values of {shown!r}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise text.error(number, f"value {place + 1} is not a finite number")
    return label, values


def _wrong(numbers: bytes) -> str:
    for place, field in enumerate(numbers.split(b","), start=1):
        try:
            float(field)
        except ValueError:
            return f"value {place} ({field[:20].decode('utf-8', 'replace')!r}) is not a number"
    return "a field is not a number"


def scan(text: TextFile, progress: bool = False) -> Features:
    """Validate every line of an unpacked feature file; equal lines are merged. ReleaseError when a text has
    two different ones.
    """
    place: dict[str, tuple[int, int, int]] = {}
    sums: dict[str, int] = {}
    offset, merged = 0, 0
    total = os.path.getsize(text.path)
    bar = tqdm(desc="reading text features", total=total, unit="B", unit_scale=True, disable=not progress)
    with bar, open_text(text) as file:
        for number, raw in enumerate(file, start=1):
            start, offset = offset, offset + len(raw)
            bar.update(len(raw))
            if number == 1 and raw.startswith(b"\xef\xbb\xbf"):
                start, raw = start + 3, raw[3:]
            if not raw.strip():
                continue
            label, values = parse(text, number, raw)
            # bytes of another encoding keep labels apart; no item's text has them
            name, total = label.decode("utf-8", "surrogateescape"), zlib.crc32(values.tobytes())
            if name in place:
                if sums[name] != total:
                    shown = name[:40]
                    raise text.error(number, f"other values of {shown!r} than on line {place[name][2]}")
                merged += 1
                continue
            place[name], sums[name] = (start, len(raw), number), total
    if not place:
        raise text.error(None, "holds no text features")
    return Features(text, place, merged)
