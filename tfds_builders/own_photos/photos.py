"""Photos as their owners have them: found below a folder, inspected one by one, stored upright.

Free of TensorFlow Datasets, so that worker processes start quickly.
"""

from __future__ import annotations

import functools
import hashlib
import io
import unicodedata
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from tfds_builders import pictures
from tfds_builders.coco_instances import files
from tfds_builders.release import Location, is_companion, read_picture

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff",
            ".avif", ".jp2", ".heic", ".heif")  # fmt: skip
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
INSTALL_HEIC = "a HEIC image: pip install 'fashionjax[heic]', or export it as JPEG"
QUALITY = 95  # of photos that are stored smaller than they came


class Inspected(NamedTuple):
    """What decoding a photo shows: its size upright, a digest of its pixels, or why it cannot be read."""

    width: int
    height: int
    digest: bytes = b""
    damage: str | None = None


def find(root: str) -> dict[str, Location]:
    """Path below `root` (NFC) → where the photo lies, in a folder or a zip archive; sorted by path."""
    found = {}
    for places in files.index_images(root, SUFFIXES).values():
        for label, place in places:
            if not is_companion(PurePosixPath(label).name):
                found[nfc(label)] = place
    return dict(sorted(found.items()))


def nfc(text: str) -> str:
    """Composed Unicode: macOS spells é in file names with two characters, tables with one."""
    return unicodedata.normalize("NFC", text)


@functools.cache
def formats() -> tuple[str, ...]:
    """The builders' formats, and what phones write where this installation can decode it."""
    try:
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    except ImportError:
        pass
    Image.init()
    return (*pictures.FORMATS, *(name for name in ("AVIF", "JPEG2000", "HEIF") if name in Image.OPEN))


def inspect(location: Location) -> Inspected:
    """Decode the photo to its end. The digest is of the upright RGB pixels, so that copies with other
    metadata are found."""
    try:
        data = read_picture(location)
        rgb, _ = pictures.decode(data, upright=True, formats=formats(), most_pixels=pictures.MAX_PIXELS)
        pixels = hashlib.blake2b(repr(rgb.size).encode(), digest_size=16)
        pixels.update(rgb.tobytes())
        return Inspected(*rgb.size, pixels.digest())
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder throws at damaged bytes
        return Inspected(0, 0, damage=_why(location, error))


def _why(location: Location, error: Exception) -> str:
    try:
        head = read_picture(location, 32)
    except (OSError, ValueError):
        return pictures.reason(error)
    if not head:
        return "empty file"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and "HEIF" not in formats():
        return INSTALL_HEIC
    return pictures.reason(error)


def load(location: Location, longest: int) -> pictures.Picture:
    """The photo upright, its longer side at most `longest` pixels (0: as it is). RGB JPEG and PNG bytes that
    need neither come back unchanged."""
    try:
        data = read_picture(location)
        rgb, as_stored = pictures.decode(
            data, upright=True, formats=formats(), most_pixels=pictures.MAX_PIXELS
        )
        size = stored_size(rgb.size, longest)
        if size == rgb.size:
            return pictures.Picture(data if as_stored else pictures.png(rgb))
        out = io.BytesIO()
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        rgb.info.pop("exif", None)
        rgb.save(out, "JPEG", quality=QUALITY, subsampling=0)
        return pictures.Picture(out.getvalue())
    except MemoryError:
        raise
    except Exception as error:  # a file that changed since it was inspected
        return pictures.Picture(b"", pictures.reason(error))


def stored_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(width, height) as `load` stores an image of `size`."""
    width, height = size
    if not longest or max(width, height) <= longest:
        return width, height
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
