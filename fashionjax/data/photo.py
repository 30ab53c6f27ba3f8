"""Image files and image objects → upright RGB arrays; whatever cannot be read → one line that says why."""

from __future__ import annotations

import functools
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from fashionjax.errors import UserError

MAX_PIXELS = 100_000_000
# Decoders of photos alone: Pillow's full list also starts external programs (EPS) and parses rare formats.
# JPEG includes MPO, whose first image is read; HEIF needs the package pillow-heif.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "HEIF")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or HEIC"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
INSTALL_HEIC = "reading HEIC needs pillow-heif: pip install 'fashionjax[heic]', or export it as JPEG"

# EXIF tag 0x0112 → what turns the stored image upright (EXIF 2.32, 4.6.4)
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_photo(source: str | os.PathLike | bytes, name: str | None = None) -> np.ndarray:
    """A photo (a path, or the bytes of a file) → the image as a viewer shows it, uint8 [h w 3] RGB.

    EXIF rotation is applied, transparency is composited on white, an animation gives its first frame, 16-bit
    grayscale is scaled to 8 bits, CMYK is converted without a colour profile. `name` stands for the
    file in errors (default: the path). A file that is missing, a folder, a broken link, empty, no image,
    truncated or larger than `MAX_PIXELS` is a UserError; the size is read from the header, before anything
    is decoded.
    """
    if isinstance(source, bytes):
        label = name or "the image"
        return _to_rgb(_load(io.BytesIO(source), source[:32], label), label, upright=True)
    path = Path(source)
    label = name or str(path)
    with _open_file(path, label) as file:
        head = file.read(32)
        file.seek(0)
        return _to_rgb(_load(file, head, label), label, upright=True)


def to_array(image: Image.Image | np.ndarray, name: str) -> np.ndarray:
    """A PIL image, or an array uint8 [h w], [h w 3] or [h w 4] → upright uint8 [h w 3] RGB, as `read_photo`.

    Raises UserError (naming `name`) for any other type, shape or dtype, and for more than `MAX_PIXELS`.
    """
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise UserError(f"{name}: expected a uint8 array [h w 3], got {array.dtype} {list(array.shape)}")
        if 0 in array.shape:
            raise UserError(f"{name}: expected a uint8 array [h w 3], got an empty one {list(array.shape)}")
        image = Image.fromarray(array)
    _check_size(image, name)
    return _to_rgb(_decoded(image, name), name, upright=True)


def decode_record(data: bytes, record_id: str) -> np.ndarray:
    """The encoded image of a dataset record → uint8 [h w 3] RGB in stored orientation.

    EXIF rotation is ignored because boxes and landmarks are in the pixels as stored. Raises UserError naming
    the record, in the same cases as `read_photo`.
    """
    label = f"record {record_id!r}"
    return _to_rgb(_load(io.BytesIO(data), data[:32], label), label, upright=False)


def _open_file(path: Path, label: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            target = os.readlink(path)
            raise UserError(
                f"{label}: is a broken link, {target} does not exist; restore or remove it"
            ) from None
        raise UserError(f"{label}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long, a null byte
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{label}: cannot be opened ({why}); check the path") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{label}: is a folder, expected an image file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{label}: is not a regular file; give an image file")
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{label}: cannot be opened ({error.strerror}); check its permissions") from error


def _load(file: BinaryIO, head: bytes, label: str) -> Image.Image:
    """Header, size check, then pixels. Pillow's decoders raise almost any exception on hostile bytes."""
    if not head:
        raise UserError(f"{label}: is empty; replace it by an image")
    image = _decoder(file, head)
    if image is None:
        raise UserError(f"{label}: {_not_an_image(head)}")
    _check_size(image, label)
    return _decoded(image, label)


def _decoded(image: Image.Image, label: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{label}: is damaged or truncated ({reason}); fetch or export it again") from error
    return image


def _decoder(file: BinaryIO, head: bytes) -> Image.Image | None:
    """The image whose header one of `FORMATS` can parse, not decoded yet; None where none can.

    `PIL.Image.open` does the same, and then warns from 89 megapixels on; suppressing that would change the
    warning filters of the whole process under the feet of other threads.
    """
    Image.init()
    if _is_heic(head):
        _register_heif()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or (accept is not None and accept(head[:16]) is not True):
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except Exception:  # another format may still fit
            continue
    return None


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS


@functools.cache
def _register_heif() -> bool:
    """Add pillow-heif's decoder to Pillow's; whether there is one."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _check_size(image: Image.Image, label: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{label}: has {width} x {height} = {width * height / 1e6:.1f} megapixels, the limit is "
            f"{MAX_PIXELS // 1_000_000}; make it smaller first"
        )


def _not_an_image(head: bytes) -> str:
    if _is_heic(head) and not _register_heif():
        return f"is a HEIC image, and {INSTALL_HEIC}"
    if head[4:8] == b"ftyp" and not _is_heic(head) and head[8:12] not in (b"avif", b"avis"):
        kind = head[8:12].decode("ascii", "replace")
        return f"is a video or another ISO media file ({kind}); give {FORMAT_NAMES}"
    return f"is not an image that can be read; give {FORMAT_NAMES}"


def _to_rgb(image: Image.Image, label: str, *, upright: bool) -> np.ndarray:
    try:
        orientation = _orientation(image) if upright else 1
        image = _eight_bit_rgb(image)
    except Exception as error:  # a palette that does not fit its pixels
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{label}: its colours cannot be converted ({reason}); export it again") from error
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return np.array(image)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Read after decoding: Pillow turns TIFF upright itself and then drops the tag."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels: show them as stored, as viewers do
        return 1


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    """CMYK of a JPEG arrives from Pillow inverted, with Adobe's marker and without it: what Chromium
    (blink JPEGImageDecoder) and Firefox (nsJPEGDecoder) show, R = C·K / 255 of the stored bytes."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_gray_levels(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Deep grayscale → uint8 [h w]. 16-bit by its full range; 32-bit and float, whose range no header states,
    by the range that they use."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32) / 257.0
    else:
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        low, high = values.min(), values.max()
        levels = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # PhotometricInterpretation: white is zero
        levels = 255.0 - levels
    return np.rint(levels).astype(np.uint8)


def display(image: np.ndarray, side: int = 320) -> np.ndarray:
    """image uint8 [h w 3] → the same image whose longer side has `side` pixels (Lanczos, up or down)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
