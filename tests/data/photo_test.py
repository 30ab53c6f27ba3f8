import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fashionjax.data.photo import FORMATS, MAX_PIXELS, UPRIGHT, decode_record, read_photo
from fashionjax.errors import UserError


def gradient(height=40, width=60):
    """A picture without symmetry: red grows to the right, green downwards, a blue corner top left."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x], -1).astype(np.uint8)
    image[: height // 4, : width // 4, 2] = 255
    return image


def encode(image, format, **options):
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width, height, bit_depth=8, colour=2):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def jpeg_header(width, height):
    """A real small JPEG whose frame header claims another size."""
    data = bytearray(encode(gradient(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(format, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encode(gradient(), format))
    got = read_photo(path)
    assert got.dtype == np.uint8 and got.flags.writeable
    np.testing.assert_array_equal(got, gradient())
    np.testing.assert_array_equal(read_photo(path.read_bytes()), got)


@pytest.mark.parametrize(
    "format, options", [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95})]
)
def test_lossy_formats_are_close(format, options):
    got = read_photo(encode(gradient(), format, **options)).astype(int)
    assert np.abs(got - gradient()).mean() < 6


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_photo(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grayscale(mode):
    picture = Image.fromarray(gradient()).convert(mode)
    expected = np.repeat(np.array(picture.convert("L"))[..., None], 3, -1)
    np.testing.assert_array_equal(read_photo(encode(picture, "PNG")), expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grayscale_uses_its_full_range(format):
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    np.testing.assert_array_equal(read_photo(encode(levels, format))[0, :, 0], [0, 1, 128, 255])


def test_float_and_white_is_zero_tiff():
    np.testing.assert_array_equal(
        read_photo(encode(np.array([[0.0, 0.5, np.nan, 1.0]], np.float32), "TIFF"))[0, :, 1], [0, 128, 0, 255]
    )
    levels = np.array([[0, 65535]], np.uint16)
    np.testing.assert_array_equal(read_photo(encode(levels, "TIFF", tiffinfo={262: 0}))[0, :, 0], [255, 0])


def test_cmyk_with_and_without_adobe_marker():
    """The same colours whether the file stores ink (no marker) or 255 − ink (Adobe's marker)."""
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1] = ink[..., 2] = 255  # magenta and yellow: red
    adobe = encode(Image.fromarray(ink, "CMYK"), "JPEG", quality=95)
    assert b"Adobe" in adobe
    at = adobe.index(b"\xff\xee")
    length = struct.unpack(">H", adobe[at + 2 : at + 4])[0]
    inverted = encode(Image.fromarray(255 - ink, "CMYK"), "JPEG", quality=95)
    plain = inverted[:at] + inverted[at + 2 + length :]
    assert b"Adobe" not in plain
    for data in (adobe, plain, encode(Image.fromarray(ink, "CMYK"), "TIFF")):
        assert np.abs(read_photo(data).astype(int) - [255, 0, 0]).max() < 12


def test_transparency_is_laid_on_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 128, 255]
    expected = [255, 127, 0]
    np.testing.assert_array_equal(read_photo(encode(rgba, "PNG"))[0, :, 0], expected)
    gray = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(read_photo(encode(gray, "PNG"))[0, :, 0], expected)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putdata([0, 1])
    shown = read_photo(encode(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(shown[0], [[255, 255, 255], [200, 0, 0]])
    solid = Image.new("RGB", (2, 1), (1, 2, 3))
    assert (read_photo(encode(solid, "PNG", transparency=(1, 2, 3))) == 255).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format, orientation):
    """Store the picture turned the other way: the reader must give back the upright one."""
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    upright = Image.fromarray(gradient())
    stored = upright
    if orientation in UPRIGHT:
        stored = upright.transpose(undo.get(orientation, UPRIGHT[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    got = read_photo(encode(stored, format, exif=exif, **options))
    assert got.shape == (40, 60, 3)
    assert np.abs(got.astype(int) - gradient()).mean() < 3
    if format in ("JPEG", "PNG"):  # annotations are in stored pixels
        assert decode_record(encode(stored, format, exif=exif), "a").shape == np.array(stored).shape


def test_broken_exif_leaves_the_picture_readable():
    got = read_photo(encode(gradient(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff", quality=95))
    assert got.shape == (40, 60, 3)


@pytest.mark.parametrize(
    "data", [png_header(10_001, 10_000), jpeg_header(65_500, 2_000), png_header(2**31 - 1, 2**31 - 1)]
)
def test_enormous_pictures_are_refused_from_the_header(data, monkeypatch):
    decoded = []
    for plugin in ("PngImagePlugin.PngImageFile", "JpegImagePlugin.JpegImageFile"):
        monkeypatch.setattr(f"PIL.{plugin}.load", lambda self: decoded.append(self))
    with pytest.raises(UserError, match=r"huge.png: has .* megapixels, the limit is 100; make it smaller"):
        read_photo(data, name="huge.png")
    assert not decoded


def test_the_limit_itself_is_allowed(monkeypatch):
    monkeypatch.setattr("fashionjax.data.photo.MAX_PIXELS", 2_400)
    assert read_photo(encode(gradient(40, 60), "PNG")).shape == (40, 60, 3)
    with pytest.raises(UserError, match="60 x 41"):
        read_photo(encode(gradient(41, 60), "PNG"))


@pytest.mark.full
def test_a_hundred_megapixels_are_read():
    assert MAX_PIXELS == 100_000_000
    picture = Image.new("1", (10_000, MAX_PIXELS // 10_000), 1)
    got = read_photo(encode(picture, "PNG", compress_level=1))
    assert got.shape == (10_000, 10_000, 3) and got[-1, -1, 0] == 255


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated(format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, format)
    with pytest.raises(UserError, match=r"^cut.jpg: ") as error:
        read_photo(data[: len(data) // 2], name="cut.jpg")
    assert "\n" not in str(error.value)


def test_what_is_no_picture(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not a picture at all, only words in a file with the wrong name")
    (tmp_path / "empty.png").touch()
    phone = tmp_path / "phone.heic"
    phone.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(50))
    cases = {
        text: "text.jpg: is not a picture that can be read; give JPEG",
        tmp_path / "empty.png": "empty.png: is empty",
        tmp_path / "missing.png": "missing.png: no such file",
        tmp_path: "is a folder; name the picture files",
        phone: r"phone.heic: is a HEIC, AVIF or video file \(heic\); export it as JPEG",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            read_photo(path)
    with pytest.raises(UserError, match=r"record 'img/00001\.jpg': is not a picture"):
        decode_record(b"junk", "img/00001.jpg")


def test_random_damage_never_escapes_as_another_exception():
    rng = np.random.default_rng(1)
    whole = {format: encode(gradient(), format) for format in FORMATS}
    for format, data in whole.items():
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(broken), 300), 4):
                broken[at] = rng.integers(256)
            with contextlib.suppress(UserError):
                assert read_photo(bytes(broken)).ndim == 3, format
