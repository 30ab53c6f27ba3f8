"""Instance annotations: the record that every dataset with masks has, and the checks of its fields.

A record is an image with a list of objects. `segmentation` is JSON text: a list of rings [x0, y0, x1, y1, …]
in pixels, or {"size": [height, width], "counts": "…"} with the counts in COCO's compressed string
(uncompressed ones are compressed), or [] for an object without a mask. Text, because TFDS writes no ragged
sequence within a sequence without TensorFlow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import pictures
from tfds_builders.benchmark import BenchmarkBuilder, Records
from tfds_builders.release import Location, ReleaseError, TextFile, open_text

ROUNDING = 0.05  # px by which a decimal box may leave its image; it is moved onto the edge
MOST_DIGITS = 7  # characters of a number of a compressed counts string: 35 bits


class Where(NamedTuple):
    """A place in a json file: the file, and the key in it ("" for the whole file)."""

    label: str
    key: str = ""

    def at(self, key: str | int) -> Where:
        """The place below this one, of an object's key or a list's index."""
        if isinstance(key, int):
            return Where(self.label, f"{self.key}[{key}]")
        return Where(self.label, f"{self.key}.{key}" if self.key else key)

    def error(self, message: str) -> ReleaseError:
        """`annos/000001.json: item2.landmarks: …`."""
        return ReleaseError(": ".join(part for part in (*self, message) if part))


# ------------------------------------------------------------------------------ features
def instance_features(categories: Sequence[str], **more: Any) -> dict[str, Any]:
    """The features of a record; `more` are further ones of an object.

    box [4] xyxy as given; area as given, or of the mask where it is not; iscrowd 0 or 1.
    """
    instance = {
        "category": tfds.features.ClassLabel(names=list(categories)),
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "segmentation": tfds.features.Text(),
        "area": tfds.features.Scalar(dtype=np.float32),
        "iscrowd": tfds.features.Scalar(dtype=np.uint8),
    }
    return {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image_id": tfds.features.Text(),
        "coco_id": tfds.features.Scalar(dtype=np.int64),
        "height": tfds.features.Scalar(dtype=np.int32),
        "width": tfds.features.Scalar(dtype=np.int32),
        "instance": tfds.features.Sequence(instance | more),
    }


# ------------------------------------------------------------------------------ JSON
def read_json(text: TextFile) -> Any:
    """The file's content; ReleaseError names the line where it stops being JSON."""
    with open_text(text) as file:
        try:
            data = file.read()
        except Exception as error:  # a damaged archive shows as many types
            raise text.error(None, f"cannot be read to its end ({error})") from error
    return parse_json(text.label, data)


def parse_json(label: str, data: bytes) -> Any:
    """As `read_json`, of bytes that are there already."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ReleaseError(f"{label}:{error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{label}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise ReleaseError(f"{label}: nested too deeply to be annotations") from error
    except ValueError as error:
        raise ReleaseError(f"{label}: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is not JSON")


def take(entry: dict[str, Any], key: str, where: Where) -> Any:
    """entry[key]; an error names the key that is not there."""
    if key not in entry:
        raise where.error(f"has no {key!r}")
    return entry[key]


def whole(value: Any, where: Where, low: int = 0, high: int = 2**62) -> int:
    """A whole number of a range; 3.0 counts as one, true does not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise where.error(f"{_shown(value)} is not a whole number")
    if not low <= value <= high:
        wanted = f"{low}…{high}" if high < 2**62 else f"{low} or more"
        raise where.error(f"{value} is not in {wanted}")
    return value


def numbers(value: Any, count: int | None, where: Where) -> np.ndarray:
    """A list of (`count`) finite numbers → [n] float64."""
    if not isinstance(value, list) or not all(type(v) in (int, float) for v in value):
        raise where.error(f"{_shown(value)} is not a list of numbers")
    if count is not None and len(value) != count:
        raise where.error(f"{len(value)} numbers instead of {count}")
    try:
        result = np.asarray(value, np.float64)
    except OverflowError:
        raise where.error("holds a number that is too large") from None
    if not (np.abs(result) < 1e9).all():
        raise where.error("holds a number that is too large")
    return result


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"


def finite(value: Any, where: Where) -> float:
    """A finite number that is not negative."""
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise where.error(f"{_shown(value)} is not a number of 0 or more")
    return float(value)


# ------------------------------------------------------------------------------ masks
class Mask(NamedTuple):
    """segmentation as it is stored, its area in square pixels, its bounds xyxy (None without a point)."""

    text: str
    area: float
    box: tuple[float, float, float, float] | None


NO_MASK = Mask("[]", 0.0, None)


def read_mask(value: Any, size: tuple[int, int] | None, where: Where) -> Mask:
    """A COCO `segmentation` → Mask. size (width, height) of the image; None: only polygons are allowed."""
    if isinstance(value, dict) and size is not None:
        return _read_rle(value, size, where)
    return _read_rings(value, where)


def _read_rings(value: Any, where: Where) -> Mask:
    if not isinstance(value, list):
        raise where.error(f"{_shown(value)} is neither a list of polygons nor a run-length encoding")
    rings = []
    for k, ring in enumerate(value):
        points = numbers(ring, None, where.at(k))
        if len(points) % 2:
            raise where.at(k).error(f"{len(points)} values; x and y alternate, so the number must be even")
        rings.append(points)
    if not any(len(ring) for ring in rings):
        return NO_MASK
    area = 0.0
    for ring in rings:
        x, y = ring[::2], ring[1::2]
        area += 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    points = np.concatenate(rings).reshape(-1, 2)
    text = json.dumps([[_short(v) for v in ring.tolist()] for ring in rings], separators=(",", ":"))
    return Mask(text, area, (*points.min(0).tolist(), *points.max(0).tolist()))


def _short(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def _read_rle(value: dict[str, Any], size: tuple[int, int], where: Where) -> Mask:
    counts = take(value, "counts", where)
    height, width = (int(v) for v in numbers(take(value, "size", where), 2, where.at("size")))
    if (width, height) != size:
        raise where.at("size").error(f"[{height}, {width}], but the image has [{size[1]}, {size[0]}]")
    if isinstance(counts, str):
        runs = runs_of_text(counts)
        if runs is None:
            raise where.at("counts").error("not a compressed run-length encoding")
    else:
        given = numbers(counts, None, where.at("counts"))
        runs = given.astype(np.int64)
        if (runs != given).any():
            raise where.at("counts").error("holds a number that is not whole")
    if (runs < 0).any() or runs.sum() != height * width:
        raise where.at("counts").error(f"runs of {int(runs.sum())} pixels for an image of {height * width}")
    text = json.dumps({"size": [height, width], "counts": text_of_runs(runs)}, separators=(",", ":"))
    return Mask(text, float(runs[1::2].sum()), _bounds(runs, height))


def _bounds(runs: np.ndarray, height: int) -> tuple[float, float, float, float] | None:
    """Of column-major run lengths, zeros first; far edges exclusive."""
    ends = np.cumsum(runs)
    first, last = ends[:-1:2], ends[1::2]
    first, last = first[last > first], last[last > first]
    if not len(first):
        return None
    x1, x2 = first // height, (last - 1) // height
    crossing = (x2 > x1).any()  # a run that ends in a later column covers the image's lower and upper edge
    y1 = 0 if crossing else int((first % height).min())
    y2 = height if crossing else int(((last - 1) % height).max()) + 1
    return float(x1.min()), float(y1), float(x2.max()) + 1, float(y2)


def text_of_runs(runs: np.ndarray) -> str:
    """Run lengths, zeros first → COCO's compressed counts (common/maskApi.c, rleToString).

    From the fourth run on the difference to the run before the last is written; each number in groups of 5
    bits, low first, bit 5 set when more follow, bit 4 of the last group its sign, 48 added to make it a
    printable character.
    """
    values, text = [int(v) for v in runs], []
    for place, run in enumerate(values):
        rest = run - values[place - 2] if place > 2 else run
        more = True
        while more:
            group = rest & 31
            rest >>= 5
            more = rest != (-1 if group & 16 else 0)
            text.append(chr((group | 32 if more else group) + 48))
    return "".join(text)


def runs_of_text(text: str) -> np.ndarray | None:
    """COCO's compressed counts → run lengths int64, zeros first; None where they are damaged."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift >= 5 * MOST_DIGITS:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift or not runs else np.asarray(runs, np.int64)


# ------------------------------------------------------------------------------ builder
class Places(NamedTuple):
    """Where each of n images is named, for errors."""

    where: Sequence[Where]

    def error(self, i: int, message: str) -> ReleaseError:
        return self.where[i].error(message)


class Objects(NamedTuple):
    """The boxes of all objects, to be checked against the images' sizes."""

    row: np.ndarray  # [n], of the image
    box: np.ndarray  # [n 4] float64 xyxy
    key: Sequence[str]  # what errors call it: "item2.bounding_box"


class InstanceBuilder(BenchmarkBuilder, skip_registration=True):
    """A builder of images with instance annotations; EXIF orientation is applied, as the detectors' readers
    do.

    `records` sets `objects` and gives the columns `coco_id`, `height` and `width` where the annotations state
    them, and `instance`: `[row]` is a list of dicts, `fitted(box [m 4], size [n 2])` the same objects with
    the boxes of `objects` after the check, in images of those sizes.
    """

    probe = staticmethod(pictures.probe_upright)
    load = staticmethod(pictures.load_upright_rgb)
    objects: Objects
    HINT: ClassVar[str] = ""  # what to do when sizes differ

    def _fit(
        self, records: Records, located: dict[str, Location], probes: dict[str, pictures.Probe]
    ) -> tuple[Records, dict[str, str]]:
        records, damaged = super()._fit(records, located, probes)
        size = np.array([probes[name][:2] for name in records.image], np.int64).reshape(-1, 2)
        if "width" in records.columns:
            given = np.stack([records.columns[key] for key in ("width", "height")], 1)
            wrong = np.flatnonzero((size[:, 0] > 0) & (size != given).any(1))
            if wrong.size:
                i = int(wrong[0])
                raise records.lines.error(
                    i,
                    f"says {given[i, 0]} x {given[i, 1]} pixels, but {located[records.image[i]].label} has "
                    f"{size[i, 0]} x {size[i, 1]}{self.HINT}",
                )
        columns = records.columns | {
            "width": size[:, 0].astype(np.int32),
            "height": size[:, 1].astype(np.int32),
        }
        box = self._checked_boxes(records, size)
        columns["instance"] = columns["instance"].fitted(box, size)
        return records._replace(columns=columns), damaged

    def _checked_boxes(self, records: Records, size: np.ndarray) -> np.ndarray:
        row, box, key = self.objects
        if not len(row):
            return np.zeros((0, 4), np.float32)
        limit = np.tile(size[row], 2).astype(np.float64)
        known = limit[:, 0] > 0
        outside = known & ((box < -ROUNDING) | (box > limit + ROUNDING)).any(1)
        if outside.any() and not self.builder_config.clip_boxes:
            i = int(np.flatnonzero(outside)[0])
            corners = " ".join(f"{v:g}" for v in box[i])
            raise records.lines.error(
                row[i],
                f"{key[i]}: box {corners} leaves its image of {size[row[i], 0]} x {size[row[i], 1]} pixels "
                "(--set=clip_boxes=true clips)",
            )
        moved = np.where(known[:, None], np.clip(box, 0, limit), box)
        empty = known & (box[:, :2] < box[:, 2:]).all(1) & (moved[:, :2] >= moved[:, 2:]).any(1)
        if empty.any():
            i = int(np.flatnonzero(empty)[0])
            raise records.lines.error(row[i], f"{key[i]}: box lies outside its image")
        return moved.astype(np.float32)
