"""Images of a release come into records with the colours that predict reads from the same file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fashionjax.data import photo
from tfds_builders import pictures
from tfds_builders.release import Location

NOISE = np.random.default_rng(5).integers(0, 256, (9, 7, 4)).astype(np.uint8)
RGB, RGBA = Image.fromarray(NOISE[..., :3]), Image.fromarray(NOISE)
ROTATED = 6  # EXIF orientation: turned by 90 degrees when shown


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def without_adobe(jpeg: bytes) -> bytes:
    """The JPEG without its APP14 segment."""
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4]) :]


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[photo.ORIENTATION_TAG] = orientation
    return exif


def files() -> dict[str, bytes]:
    deep = (NOISE[..., 0].astype(np.uint16) * 251) + 13
    # a colour behind full transparency
    clear = Image.new("RGBA", (7, 9), (200, 200, 200, 0))
    palette = RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    cmyk = encoded(RGB.convert("CMYK"), "JPEG")
    assert b"Adobe" in cmyk
    return {
        "rgb.jpg": encoded(RGB, "JPEG"),
        "rgb.png": encoded(RGB, "PNG"),
        "rgb_transparent.png": encoded(RGB, "PNG", transparency=tuple(NOISE[0, 0, :3].tolist())),
        "gray.jpg": encoded(RGB.convert("L"), "JPEG"),
        "gray_transparent.png": encoded(RGB.convert("L"), "PNG", transparency=int(NOISE[0, 0, 0])),
        "cmyk_adobe.jpg": cmyk,
        "cmyk.jpg": without_adobe(cmyk),
        "cmyk.tif": encoded(RGB.convert("CMYK"), "TIFF"),
        "rgba.png": encoded(RGBA, "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "la.png": encoded(RGBA.convert("LA"), "PNG"),
        "palette.png": encoded(palette, "PNG"),
        "palette_transparent.png": encoded(palette, "PNG", transparency=3),
        "palette.gif": encoded(palette, "GIF", transparency=2),
        "gray16.png": encoded(Image.fromarray(deep), "PNG"),
        "gray_float.tif": encoded(Image.fromarray(deep.astype(np.float32) / 7), "TIFF"),
        "bits.png": encoded(RGB.convert("1"), "PNG"),
        "webp.jpg": encoded(RGB, "WEBP"),
        "webp_clear.webp": encoded(RGBA, "WEBP", lossless=True),
        "rotated.jpg": encoded(RGB, "JPEG", exif=with_exif(ROTATED)),
        "rotated_gray.jpg": encoded(RGB.convert("L"), "JPEG", exif=with_exif(ROTATED)),
        "rotated.webp": encoded(RGB, "WEBP", exif=with_exif(ROTATED)),
    }


@pytest.mark.parametrize("name", files())
def test_colours_are_those_of_predict(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(files()[name])
    picture = pictures.load_rgb(Location(name, str(path)))
    assert picture.damage is None
    record = photo.decode_record(picture.data, name)
    shown = photo.read_photo(path)
    assert pictures.probe(Location(name, str(path))) == (record.shape[1], record.shape[0], None)
    if "rotated" in name:  # predict turns a photo upright; records keep the pixels that boxes refer to
        shown = np.asarray(Image.fromarray(shown).transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_array_equal(record, shown)
    if name == "clear.png":
        assert (record == 255).all()


def test_only_decoders_of_photos_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    assert pictures.load_rgb(Location("a.jpg", str(path))).damage == "not an image"
    assert pictures.probe(Location("a.jpg", str(path))).damage == "not an image"
