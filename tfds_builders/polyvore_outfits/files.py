"""The files of a Polyvore Outfits copy: tables, images in a folder, in zip archives, or in parquet files.

The result is a `release.Release` whose images are named 'images/<item>.jpg', whatever they lie in.
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
    is_companion,
    nested_archives,
    open_release,
    open_text,
    picture_location,
)

FOLDER = "images"  # never walked: a quarter of a million files
OTHER = {"disjoint": "nondisjoint", "nondisjoint": "disjoint"}  # the versions of the release
TABLES = (".txt", ".json", ".csv", ".p", ".parquet")


def open_outfits(manual_dir: str | os.PathLike[str], version: str) -> Release:
    """List the tables, parquet files and zip members below `manual_dir`; plain images are looked up later.

    Images in the folder of the other version count where this version has none of the item. Raises
    ReleaseError when the folder is missing or an archive cannot be read.
    """
    return open_release(
        manual_dir,
        tables=TABLES,
        folders=(FOLDER,),
        has_pictures=lambda folder: not _holds_parquet(folder),
        last=OTHER[version],
    )


def _holds_parquet(folder: str) -> bool:
    with os.scandir(folder) as entries:
        first = next((entry.name for entry in entries if not is_companion(entry.name)), "")
    return first.lower().endswith(".parquet")


def own_table(release: Release, name: str, version: str) -> TextFile:
    """A file of a version's folder."""
    return _found(release, f"{version}/{name}", find_text(release, name, (version,), only=True))


def shared_table(release: Release, name: str, version: str) -> TextFile:
    """`find_shared`, raising ReleaseError where the file is not there."""
    return _found(release, name, find_shared(release, name, version))


def find_shared(release: Release, name: str, version: str) -> TextFile | None:
    """A file that both versions may share: the version's own where its folder has one, else one that is in
    neither folder. The other version's is never read."""
    return find_text(release, name, (version, "polyvore_outfits"), never=(OTHER[version],))


def _found(release: Release, where: str, text: TextFile | None) -> TextFile:
    if text is None:
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


# ------------------------------------------------------------------------------ images in parquet files
def missing(release: Release, items: Collection[str]) -> list[str]:
    """The items of `items` that have no image in a folder or zip archive."""
    return [item for item in items if picture_location(release, f"{FOLDER}/{item}.jpg") is None]


def spool(release: Release, items: Collection[str], folder: Path, version: str) -> list[str]:
    """Copy the images of `items` from the parquet files into one file of `folder`, where they can be read
    one by one, and enter them into `release.archived`. Returns notes. Rows that repeat an image are merged;
    ReleaseError when their images differ.

    Files in the other version's folder are opened for items only that no other file has.
    """
    packs = [text for text in release.texts if text.label.lower().endswith(".parquet")]
    others = [pack for pack in packs if _is_of(pack, OTHER[version])]
    repeated, taken = 0, set()
    store = folder / "pictures"
    if packs and items:
        with zipfile.ZipFile(store, "w", zipfile.ZIP_STORED) as archive:
            for group in ([pack for pack in packs if pack not in others], others):
                wanted = set(items) - taken
                for pack in group if wanted else []:
                    repeated += _copy_pictures(release, unpacked(pack, folder), wanted, archive, taken)
    return [f"{repeated} rows of the parquet files repeat an image and were merged"] if repeated else []


def _is_of(pack: TextFile, version: str) -> bool:
    parents = pack.label.lower().split("/")[:-1]
    return version in (part.removesuffix(".zip") for part in parents)


def _copy_pictures(
    release: Release, pack: TextFile, wanted: Collection[str], archive: zipfile.ZipFile, taken: set[str]
) -> int:
    """Append a parquet file's images of the `wanted` items to `archive`; → rows that repeat one. The items
    are added to `taken`.
    """
    repeated = 0
    for row, item, data in _rows(pack, wanted):
        key = f"{FOLDER}/{item}.jpg"
        if item in taken:
            before = release.archived[key]
            if (before.crc, before.size) != (zipfile.crc32(data), len(data)):
                raise pack.error(None, f"row {row}: another image of item {item} than {before.label}")
            repeated += 1
            continue
        entry, size = zipfile.ZipInfo(item), len(data)
        archive.writestr(entry, data)
        place = (str(archive.filename), entry.header_offset, size, entry.compress_type, entry.CRC, size)
        release.archived[key] = Location(f"{pack.label} row {row}", *place)
        taken.add(item)
    return repeated


def _rows(pack: TextFile, wanted: Collection[str]) -> Iterator[tuple[int, str, bytes]]:
    """(0-based row, item, image bytes) of the wanted rows of a parquet file, a few hundred at a time."""
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
        raise pack.error(None, f"row {row}: holds no image")
    return data
