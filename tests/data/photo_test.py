import contextlib
import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from fashionjax.data import photo
from fashionjax.data.photo import FORMATS, MAX_PIXELS, UPRIGHT, decode_record, read_photo, to_array
from fashionjax.errors import UserError


def gradient(height=40, width=60):
    """An image without symmetry: red grows to the right, green downwards, a blue corner top left."""
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
    "format, options",
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("JPEG2000", {"irreversible": False}),
        ("HEIF", {"quality": 95}),
    ],
)
def test_lossy_formats_are_close(format, options):
    if format == "HEIF":
        pillow_heif.register_heif_opener()
    got = read_photo(encode(gradient(), format, **options)).astype(int)
    assert np.abs(got - gradient()).mean() < 6


def test_mpo_gives_its_first_image():
    """Two JPEGs in one file, as 3D cameras and phones write them."""
    other = Image.new("RGB", (60, 40), "blue")
    data = encode(gradient(), "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    assert np.abs(read_photo(data).astype(int) - gradient()).mean() < 6


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_turned_phone_photos(format):
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(gradient()).transpose(Image.Transpose.ROTATE_90)
    got = read_photo(encode(stored, format, exif=exif.tobytes(), quality=95))
    assert got.shape == (40, 60, 3) and np.abs(got.astype(int) - gradient()).mean() < 6


def test_heic_without_its_decoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(photo, "_register_heif", photo._register_heif.__wrapped__)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(UserError, match=r"a.heic: is a HEIC image.*pip install 'fashionjax\[heic\]'"):
        read_photo(b"\x00\x00\x00\x18ftypheic" + bytes(50), name="a.heic")


def test_images_in_memory():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encode(Image.fromarray(gradient()), "PNG", exif=exif)
    np.testing.assert_array_equal(to_array(Image.open(io.BytesIO(stored)), "a"), read_photo(stored))
    np.testing.assert_array_equal(to_array(gradient(), "a"), gradient())
    assert (to_array(np.full((2, 3), 7, np.uint8), "a") == np.full((2, 3, 3), 7)).all()
    assert (to_array(np.zeros((2, 3, 4), np.uint8), "a") == 255).all()  # transparent, on white
    for wrong in (gradient() / 255, np.zeros((3, 4, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8), "none"):
        with pytest.raises(UserError, match=r"^a: expected a uint8 array \[h w 3\], got"):
            to_array(wrong, "a")


def test_reading_changes_no_warning_filter():
    """90 megapixels, at which Pillow's own opener warns, in a process whose filters others may rely on."""
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(UserError):
            read_photo(png_header(9_000, 10_000), name="a.png")
    assert not caught and list(warnings.filters) == before


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


def adobe_marker(data: bytes) -> tuple[int, int]:
    """Where the APP14 segment of a JPEG begins and ends."""
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    return at, at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def four_channels(stored, transform: int | None) -> bytes:
    """A JPEG of one colour that stores these four values a pixel, with Adobe's marker (transform 0: CMYK, 2:
    YCCK) or without any (None)."""
    ink = np.full((16, 16, 4), 255, np.uint8) - np.array(stored, np.uint8)  # Pillow stores 255 - ink
    data = encode(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    begin, end = adobe_marker(data)
    if transform is None:
        return data[:begin] + data[end:]
    return data[: end - 1] + bytes([transform]) + data[end:]


@pytest.mark.parametrize("transform", [0, None])
@pytest.mark.parametrize(
    ("stored", "colour"),
    [
        ((255, 0, 0, 255), (255, 0, 0)),
        ((0, 255, 255, 255), (0, 255, 255)),
        ((200, 100, 50, 128), (100, 50, 25)),
        ((255, 255, 255, 255), (255, 255, 255)),
    ],
)
def test_cmyk_jpegs_have_the_colours_of_browsers(stored, colour, transform):
    """R = C·K / 255 of the stored bytes, whether Adobe's marker is there or not: blink's JPEGImageDecoder
    (SetPixel<JCS_CMYK>) and Firefox's nsJPEGDecoder (cmyk_convert_bgra) never look for it."""
    got = read_photo(four_channels(stored, transform)).astype(int)
    assert np.abs(got - colour).max() <= 3


@pytest.mark.parametrize("red_of_ycc", [0, 255])
def test_ycck_jpegs_have_the_colours_of_browsers(red_of_ycc):
    """libjpeg gives C = 255 - R of the YCC part; the rest is as for CMYK."""
    r, g, b = red_of_ycc, 255 - red_of_ycc, 255 - red_of_ycc
    y = 0.299 * r + 0.587 * g + 0.114 * b
    stored = np.clip(np.rint([y, 128 + (b - y) * 0.564, 128 + (r - y) * 0.713, 255]), 0, 255)
    got = read_photo(four_channels(stored, 2)).astype(int)
    assert np.abs(got - [255 - r, 255 - g, 255 - b]).max() <= 4


def test_cmyk_tiffs_store_ink():
    ink = np.zeros((4, 4, 4), np.uint8)
    ink[..., 1] = ink[..., 2] = 255  # magenta and yellow: red
    assert (
        np.abs(read_photo(encode(Image.fromarray(ink, "CMYK"), "TIFF")).astype(int) - [255, 0, 0]).max() < 3
    )


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
    """Store the image turned the other way: the reader must give back the upright one."""
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


@pytest.mark.parametrize("format", FORMATS)
def test_truncated(format):
    pillow_heif.register_heif_opener()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, format)
    with pytest.raises(UserError, match=r"^cut.jpg: ") as error:
        read_photo(data[: len(data) // 2], name="cut.jpg")
    assert "\n" not in str(error.value)


def test_what_is_no_image(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not an image at all, only words in a file with the wrong name")
    (tmp_path / "empty.png").touch()
    film = tmp_path / "film.heic"
    film.write_bytes(b"\x00\x00\x00\x18ftypqt  " + bytes(50))
    dangling, loop = tmp_path / "dangling.jpg", tmp_path / "loop.jpg"
    dangling.symlink_to(tmp_path / "gone.jpg")
    loop.symlink_to(loop)
    cases = {
        text: "text.jpg: is not an image that can be read; give JPEG",
        tmp_path / "empty.png": "empty.png: is empty",
        tmp_path / "missing.png": "missing.png: no such file",
        tmp_path: "is a folder, expected an image file",
        film: r"film.heic: is a video or another ISO media file \(qt  \)",
        dangling: r"dangling.jpg: is a broken link, .*gone.jpg does not exist",
        loop: "loop.jpg: cannot be opened .Too many levels of symbolic links",
        tmp_path / ("n" * 300): "cannot be opened .File name too long",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            read_photo(path)
    with pytest.raises(UserError, match=r"record 'img/00001\.jpg': is not an image"):
        decode_record(b"junk", "img/00001.jpg")


@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_escapes_as_another_exception():
    rng = np.random.default_rng(1)
    pillow_heif.register_heif_opener()
    whole = {format: encode(gradient(), format) for format in FORMATS}
    for format, data in whole.items():
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, min(len(broken), 300), 4):
                broken[at] = rng.integers(256)
            with contextlib.suppress(UserError):
                assert read_photo(bytes(broken)).ndim == 3, format
