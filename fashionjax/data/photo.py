"""Photos as they come → RGB arrays, and every way in which a file is no photo → one line that says so."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from fashionjax.errors import UserError

MAX_PIXELS = 100_000_000
# Pillow warns from 89 megapixels on and refuses twice that; the exact limit is checked here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Only decoders of photos: Pillow's full list also starts external programs (EPS) and parses rare formats.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP or TIFF"

# EXIF tag 0x0112 → what turns the stored picture upright (EXIF 2.32, 4.6.4)
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
    """A photo (a path, or the bytes of a file) → the picture as a viewer shows it, uint8 [h w 3] RGB.

    EXIF rotation is applied, transparency is laid on white, an animation gives its first frame, 16-bit
    grayscale is scaled to 8 bits, CMYK is converted without a colour profile. `name` stands for the
    file in errors (default: the path). A file that is missing, a folder, empty, no picture, cut off or larger
    than `MAX_PIXELS` is a UserError; size is judged from the header, before anything is decoded.
    """
    if isinstance(source, bytes):
        label = name or "the picture"
        return _to_rgb(_load(io.BytesIO(source), source[:32], label), label, upright=True)
    path = Path(source)
    label = name or str(path)
    with _open_file(path, label) as file:
        head = file.read(32)
        file.seek(0)
        return _to_rgb(_load(file, head, label), label, upright=True)


def decode_record(data: bytes, record_id: str) -> np.ndarray:
    """The encoded picture of a dataset record → uint8 [h w 3] RGB in stored orientation.

    EXIF rotation is ignored because boxes and landmarks are in the pixels as stored. Raises UserError naming
    the record, in the same cases as `read_photo`.
    """
    label = f"record {record_id!r}"
    return _to_rgb(_load(io.BytesIO(data), data[:32], label), label, upright=False)


def _open_file(path: Path, label: str):
    if path.is_dir():
        raise UserError(f"{label}: is a folder; name the picture files in it")
    if not path.exists():
        raise UserError(f"{label}: no such file; check the path")
    if not path.is_file():
        raise UserError(f"{label}: is not a regular file; give a picture file")
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{label}: cannot be opened ({error.strerror}); check its permissions") from error


def _load(file, head: bytes, label: str) -> Image.Image:
    """Header, size check, then pixels. Pillow's decoders raise almost any exception on hostile bytes."""
    if not head:
        raise UserError(f"{label}: is empty; replace it by a picture")
    try:
        with (
            warnings.catch_warnings()
        ):  # Pillow warns from 89 megapixels on; the limit below is the exact one
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(label, f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f}")) from error
    except Exception as error:
        raise UserError(f"{label}: {_not_a_picture(head)}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(_too_large(label, f"{width} x {height} = {width * height / 1e6:.1f}"))
    try:
        image.load()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{label}: is damaged or cut off ({reason}); fetch or export it again") from error
    return image


def _too_large(label: str, megapixels: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{label}: has {megapixels} megapixels, the limit is {limit}; make it smaller first"


def _not_a_picture(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        kind = head[8:12].decode("ascii", "replace")
        return f"is a HEIC, AVIF or video file ({kind}); export it as {FORMAT_NAMES}"
    return f"is not a picture that can be read; give {FORMAT_NAMES}"


def _to_rgb(image: Image.Image, label: str, *, upright: bool) -> np.ndarray:
    try:
        orientation = _orientation(image) if upright else 1
        image = _eight_bit_rgb(image)
    except Exception as error:  # a palette or profile that does not fit its pixels
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
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_gray_levels(image)).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow inverts every CMYK JPEG, which is right for files with Adobe's marker alone
        image = Image.eval(image, lambda level: 255 - level)
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
    """image uint8 [h w 3] → the same picture whose longer side has `side` pixels (Lanczos, up or down)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
