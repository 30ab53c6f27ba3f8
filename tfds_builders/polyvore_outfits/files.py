"""The files of a Polyvore Outfits copy: tables, pictures in a folder, in zip archives, or in parquet files.

The result is a `release.Release` whose pictures are named 'images/<item>.jpg', whatever they lie in.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tfds_builders.release import (
    Location,
    Release,
    ReleaseError,
    TextFile,
    find_text,
    nested_archives,
    open_release,
    open_text,
    picture_location,
)

FOLDER = "images"  # never walked: a quarter of a million files
TABLES = (".txt", ".json", ".csv", ".p", ".parquet")


def open_outfits(manual_dir: str | os.PathLike[str]) -> Release:
    """List the tables, parquet files and zip members below `manual_dir`; plain pictures are looked up later.

    Raises ReleaseError when the folder is missing or an archive cannot be read.
    """
    return open_release(
        manual_dir, tables=TABLES, folders=(FOLDER,), has_pictures=lambda folder: not _holds_parquet(folder)
    )


def _holds_parquet(folder: str) -> bool:
    with os.scandir(folder) as entries:
        first = next((entry.name for entry in entries if not entry.name.startswith(".")), "")
    return first.lower().endswith(".parquet")


def table(release: Release, name: str, folder: str | None = None) -> TextFile:
    """The file called `name`, in `folder` where it belongs to one of the two sets."""
    if folder is None:
        text = find_text(release, name, ("polyvore_outfits",))
    else:
        text = find_text(release, name, (folder,), only=True)
    if text is None:
        where = f"{folder}/{name}" if folder else name
        raise ReleaseError(
            f"{where}: not found below {release.root}, neither unpacked nor in a zip archive"
            + nested_archives(release)
        )
    return text


def unpacked(text: TextFile, folder: Path) -> TextFile:
    """The file itself, or a copy of the zip member in `folder`: some files are read at many places."""
    if text.member is None:
        return text
    target = folder / text.label.replace("/", "_")
    with open_text(text) as source, target.open("wb") as copy:
        try:
            shutil.copyfileobj(source, copy, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise text.error(None, f"cannot be read to its end ({error})") from error
    return TextFile(text.label, str(target))


# ------------------------------------------------------------------------------ pictures in parquet files
def missing(release: Release, items: Collection[str]) -> list[str]:
    """The items of `items` that have no picture in a folder or zip archive."""
    return [item for item in items if picture_location(release, f"{FOLDER}/{item}.jpg") is None]


def spool(release: Release, items: Collection[str], folder: Path) -> list[str]:
    """Copy the pictures of `items` from the parquet files into one file of `folder`, where they can be read
    one by one, and enter them into `release.archived`. Returns notes. Rows that repeat a picture are merged;
    ReleaseError when their pictures differ.
    """
    wanted, repeated = set(items), 0
    packs = [text for text in release.texts if text.label.lower().endswith(".parquet")]
    if not packs or not wanted:
        return []
    store = folder / "pictures"
    with zipfile.ZipFile(store, "w", zipfile.ZIP_STORED) as archive:
        for pack in packs:
            for row, item, data in _rows(unpacked(pack, folder), wanted):
                key = f"{FOLDER}/{item}.jpg"
                before = release.archived.get(key)
                if before is not None and before.path == str(store):
                    if (before.crc, before.size) != (zipfile.crc32(data), len(data)):
                        raise pack.error(
                            None, f"row {row}: another picture of item {item} than {before.label}"
                        )
                    repeated += 1
                    continue
                entry = zipfile.ZipInfo(item)
                archive.writestr(entry, data)
                label, size = f"{pack.label} row {row}", len(data)
                release.archived[key] = Location(
                    label, str(store), entry.header_offset, size, entry.compress_type, entry.CRC, size
                )
    return [f"{repeated} rows of the parquet files repeat a picture and were merged"] if repeated else []


def _rows(pack: TextFile, wanted: Collection[str]) -> Iterator[tuple[int, str, bytes]]:
    """(0-based row, item, picture bytes) of the wanted rows of a parquet file, a few hundred at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(pack.path) as file:
            columns = file.schema_arrow.names
            if "item_id" not in columns or "image" not in columns:
                return  # another table of the release
            start = 0
            for batch in file.iter_batches(256, columns=["item_id", "image"]):
                for offset, (item, image) in enumerate(zip(batch["item_id"], batch["image"])):
                    name = str(item.as_py())
                    if name in wanted:
                        yield start + offset, name, _picture(pack, start + offset, image.as_py())
                start += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise pack.error(None, f"not a readable parquet file ({reason})") from error


def _picture(pack: TextFile, row: int, image: Any) -> bytes:
    """The bytes themselves, or those of a {bytes, path} record."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise pack.error(None, f"row {row}: holds no picture")
    return data
