"""Images of a release: their sizes from the header, the decode test, and RGB bytes, in several processes.

Free of TensorFlow Datasets, so that worker processes start quickly.
"""

from __future__ import annotations

import collections
import io
import itertools
import multiprocessing
import multiprocessing.connection
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from tfds_builders.release import Location, read_picture

# Only decoders of photos: Pillow's full list also starts external programs (EPS) and parses rare formats.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000  # the limit of fashionjax/data/photo.py, which reads the records
HEADER_BYTES = 1 << 16  # enough for the size of nearly every JPEG and PNG; the rest is read whole
ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {  # its value → how to turn the stored pixels
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CHUNK = 32  # images per message to a worker
PARALLEL_FROM = 2048  # below this many images, starting processes costs more than it saves
MAX_PROCESSES = 16

In = TypeVar("In")
Out = TypeVar("Out")


class Probe(NamedTuple):
    """An image's size in stored pixels (EXIF orientation not applied), or why it has none."""

    width: int
    height: int
    damage: str | None = None


class Picture(NamedTuple):
    """RGB JPEG or PNG bytes, or why there are none."""

    data: bytes
    damage: str | None = None


def probe(location: Location) -> Probe:
    """Width and height from the image's header, without decoding it."""
    why = ""
    for limit in (HEADER_BYTES, None):
        try:
            with Image.open(io.BytesIO(read_picture(location, limit)), formats=FORMATS) as image:
                return Probe(*image.size)
        except Exception as error:  # whatever a decoder throws at damaged bytes
            why = reason(error)
    return Probe(0, 0, why)


def probe_upright(location: Location) -> Probe:
    """As `probe`, of the image as its EXIF orientation shows it."""
    found = probe(location)
    if found.damage is not None:
        return found
    try:
        with Image.open(io.BytesIO(read_picture(location)), formats=FORMATS) as image:
            turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)  # those that swap the sides
    except Exception as error:  # whatever a decoder throws at damaged bytes
        return Probe(0, 0, reason(error))
    return Probe(found.height, found.width) if turned else found


def load_rgb(location: Location) -> Picture:
    """Decode the image to its end. RGB JPEG and PNG bytes come back unchanged, all else as an RGB PNG.

    Colours are those that predict reads from the same file (`read_photo` of fashionjax/data/photo.py): a
    model must meet the images that it was trained on. Stored pixels keep their orientation (EXIF rotation
    is not applied), because boxes and landmarks refer to them.
    """
    return _load(location, upright=False)


def load_upright_rgb(location: Location) -> Picture:
    """As `load_rgb`, with EXIF orientation applied: for annotations made on the image as it is shown. A
    rotated image becomes an RGB PNG without the tag.
    """
    return _load(location, upright=True)


def _load(location: Location, *, upright: bool) -> Picture:
    try:
        data = read_picture(location)
        rgb, as_stored = decode(data, upright=upright)
        return Picture(data if as_stored else png(rgb))
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder throws at damaged bytes
        return Picture(b"", reason(error))


def decode(
    data: bytes, *, upright: bool, formats: Sequence[str] = FORMATS, most_pixels: int | None = None
) -> tuple[Image.Image, bool]:
    """(the image as 8-bit RGB, decoded to its end; whether `data` are an RGB JPEG or PNG of these very
    pixels). Raises whatever Pillow's decoders throw at damaged bytes, and ValueError above `most_pixels`,
    before anything is decoded.
    """
    with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=formats) as image:
        warnings.simplefilter("ignore")  # large images and odd metadata are no damage
        if most_pixels is not None and image.width * image.height > most_pixels:
            raise ValueError(
                f"{image.width} x {image.height} pixels, more than {most_pixels // 10**6} million"
            )
        image.load()
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION)) if upright else None
        if image.format in ("JPEG", "PNG") and image.mode == "RGB" and turn is None:
            return image.copy(), True
        rgb = _eight_bit_rgb(image)
        if turn is not None:
            rgb = rgb.transpose(turn)
            rgb.info.pop("exif", None)
        return rgb, False


def png(rgb: Image.Image) -> bytes:
    """The image as a PNG."""
    out = io.BytesIO()
    rgb.save(out, "PNG")
    return out.getvalue()


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    """The rules of `read_photo`: CMYK JPEGs as in browsers, transparency on white, deep grayscale scaled."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_gray_levels(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGB", layer.size, "white")
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return image.convert("RGB")


def _gray_levels(image: Image.Image) -> np.ndarray:
    """Deep grayscale → uint8 [h w]: 16-bit by its full range, 32-bit and float by the range that they use."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float32) / 257.0
    else:
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        low, high = values.min(), values.max()
        levels = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # PhotometricInterpretation: white is zero
        levels = 255.0 - levels
    return np.rint(levels).astype(np.uint8)


def reason(error: Exception) -> str:
    """Why an image cannot be decoded, in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def worker_count(pictures: int, processes: int | None) -> int:
    """How many processes handle so many images: as asked, or one per core once there are enough of them."""
    if processes is not None:
        return max(1, processes)
    if pictures < PARALLEL_FROM:
        return 1
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


def ordered_map(
    function: Callable[[In], Out], items: Iterable[In], executor: ProcessPoolExecutor | None
) -> Iterator[Out]:
    """`map(function, items)` in order, in the executor's processes if given, with a bounded number of items
    under way.
    """
    if executor is None:
        yield from map(function, items)
        return
    window = 3 * executor._max_workers
    iterator = iter(items)
    pending: collections.deque[Future[list[Out]]] = collections.deque()
    try:
        while True:
            while len(pending) < window and (chunk := list(itertools.islice(iterator, CHUNK))):
                pending.append(executor.submit(_apply, function, chunk))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _apply(function: Callable[[In], Out], chunk: list[In]) -> list[Out]:
    return [function(item) for item in chunk]


def start_workers(processes: int) -> ProcessPoolExecutor | None:
    """A pool of fresh processes (None for one), each of which ends as soon as this process is gone, however
    it ended.
    """
    if processes <= 1:
        return None
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
