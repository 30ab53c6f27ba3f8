"""Instance masks on the host: polygons, COCO run-length encoding, rasterising and pasting.

An RLE is {"size": [height, width], "counts": bytes}: column-major run lengths, zeros first, in COCO's
compressed string. Polygons are lists of rings [x0, y0, x1, y1, …] in pixels, a pixel i covering [i, i + 1].
Rasterising, encoding and overlaps are those of hotcoco, equal to pycocotools (common/maskApi.c).
"""

from collections.abc import Sequence

import numpy as np
from hotcoco import mask as coco_mask

from fashionjax.errors import UserError

FAR = 1e5  # px; points beyond are moved here: the rasteriser walks every pixel of an edge
THRESHOLD = 0.5  # of a mask probability


def checked_rings(polygons, where: str = "polygon") -> list[np.ndarray]:
    """Rings of an annotation -> those that enclose anything, each float64 [p 2].

    A ring of fewer than 3 points has no area and is left out. An odd number of values or a value that is not
    finite is a UserError that names `where`.
    """
    rings = []
    for number, ring in enumerate(polygons):
        try:
            values = np.asarray(ring, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{where}: ring {number} of the segmentation is not a list of numbers") from None
        if values.ndim != 1:
            raise UserError(f"{where}: ring {number} must be a flat list x0, y0, x1, y1, …")
        if len(values) % 2:
            raise UserError(
                f"{where}: ring {number} has {len(values)} values; x and y alternate, expected even"
            )
        if not np.isfinite(values).all():
            raise UserError(f"{where}: ring {number} holds a value that is not finite")
        if len(values) >= 6:
            rings.append(values.reshape(-1, 2))
    return rings


def is_mask(segmentation) -> bool:
    """Whether a COCO `segmentation` encloses anything: annotations may have a box alone."""
    if isinstance(segmentation, list | tuple):
        return any(len(ring) >= 6 for ring in segmentation)
    return area(segmentation) > 0


def polygon_area(rings: Sequence) -> float:
    """Rings (flat lists or [p 2] arrays) -> sum of their areas in square pixels (shoelace formula)."""
    total = 0.0
    for ring in rings:
        x, y = np.asarray(ring, np.float64).reshape(-1, 2).T
        total += 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return total


def polygon_bounds(rings: Sequence) -> np.ndarray:
    """Rings -> smallest box xyxy [4] float64 around their points; zeros without a point."""
    points = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    if not points:
        return np.zeros(4)
    points = np.concatenate(points)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def rle_from_polygons(polygons, height: int, width: int, where: str = "polygon") -> dict:
    """Polygons -> RLE of their union, as pycocotools' frPyObjects and merge; empty without a ring."""
    rings = checked_rings(polygons, where)
    if not rings:
        return encode(np.zeros((height, width), bool))
    parts = [coco_mask.frPoly(np.clip(ring, -FAR, FAR).ravel().tolist(), height, width) for ring in rings]
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def rle(segmentation, height: int, width: int, where: str = "annotation") -> dict:
    """A COCO `segmentation` -> compressed RLE of an image of that size.

    Takes polygons, uncompressed counts and compressed counts (str or bytes). A size other than the image's,
    counts that do not fill it, or damaged counts are a UserError that names `where`.
    """
    if isinstance(segmentation, list | tuple):
        return rle_from_polygons(segmentation, height, width, where)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise UserError(f"{where}: segmentation must be polygons or an object with size and counts")
    size = segmentation["size"]
    if not isinstance(size, list | tuple | np.ndarray) or [*map(int, size)] != [height, width]:
        raise UserError(f"{where}: RLE size {size} but the image is {height} high and {width} wide")
    counts = segmentation["counts"]
    if isinstance(counts, str | bytes):
        runs = counts_from_string(counts, where)
    else:
        try:
            runs = np.asarray(counts, np.int64).reshape(-1)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{where}: RLE counts are neither a string nor a list of integers") from None
    if (runs < 0).any() or runs.sum() != height * width:
        raise UserError(f"{where}: RLE counts add up to {runs.sum()}, expected {height} * {width}")
    return {"size": [height, width], "counts": string_from_counts(runs)}


def counts_from_string(counts: str | bytes, where: str = "RLE") -> np.ndarray:
    """COCO's compressed string -> run lengths int64, zeros first.

    6 bits a character from 48 on: 5 of the value, lowest first, and one that says that more follow. From the
    fourth run on the value is the difference to the run two before.
    """
    try:
        raw = np.frombuffer(counts.encode("ascii") if isinstance(counts, str) else bytes(counts), np.uint8)
    except UnicodeEncodeError:
        raise UserError(f"{where}: the compressed RLE holds a character outside ASCII") from None
    if not len(raw):
        return np.zeros(0, np.int64)
    digit = raw.astype(np.int64) - 48
    ends = np.flatnonzero((digit & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (
        ((digit < 0) | (digit > 63)).any()
        or not len(ends)
        or ends[-1] != len(raw) - 1
        or (ends - starts).max() > 9
    ):
        raise UserError(f"{where}: the compressed RLE is damaged")
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    value = np.add.reduceat((digit & 0x1F) << (5 * place), starts)
    value -= np.where(digit[ends] & 0x10, np.int64(1) << (5 * (ends - starts + 1)), 0)
    value[1::2] = np.cumsum(value[1::2])
    value[2::2] = np.cumsum(value[2::2])
    return value


def string_from_counts(runs) -> bytes:
    """Run lengths, zeros first -> COCO's compressed string."""
    runs = np.asarray(runs, np.int64)
    value = runs.copy()
    value[3:] -= runs[1:-2]
    digits, more = [], np.ones(len(value), bool)
    while more.any():
        low, value = value & 0x1F, value >> 5
        following = more & ~(((value == 0) & (low & 0x10 == 0)) | ((value == -1) & (low & 0x10 != 0)))
        digits.append(np.where(more, low + 48 + 0x20 * following, 0))
        more = following
    text = np.stack(digits, axis=1).ravel() if digits else np.zeros(0, np.int64)
    return text[text > 0].astype(np.uint8).tobytes()


def encode(mask) -> dict:
    """mask [h w] bool or 0/1 -> RLE."""
    return coco_mask.encode(np.ascontiguousarray(mask, np.uint8))


def decode(encoded: dict) -> np.ndarray:
    """RLE -> mask [h w] bool."""
    return np.ascontiguousarray(coco_mask.decode(encoded)).astype(bool)


def as_json(encoded: dict) -> dict:
    """An encoding -> {"size": [h, w], "counts": text}, as JSON takes it."""
    counts = encoded["counts"]
    counts = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in encoded["size"]], "counts": counts}


def area(encoded: dict) -> int:
    """RLE -> number of its pixels."""
    return int(coco_mask.area(encoded))


def bounds(encoded: dict) -> np.ndarray:
    """RLE -> box xyxy [4] float64 around its pixels; zeros for an empty mask."""
    x, y, w, h = coco_mask.to_bbox(encoded)
    return np.array([x, y, x + w, y + h])


def iou(rles: Sequence[dict], others: Sequence[dict], crowd=None) -> np.ndarray:
    """n and m RLEs -> overlaps [n m] float64; against a crowd (crowd [m]) the share of the first's area."""
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    crowd = np.zeros(len(others), bool) if crowd is None else np.asarray(crowd, bool)
    return np.asarray(coco_mask.iou(list(rles), list(others), crowd.tolist()))


def polygon_target(rings: Sequence, box, size: int) -> np.ndarray:
    """Rings of one instance, box xyxy [4] -> mask target [size size] bool, rasterised in the box's frame.

    detectron2's PolygonMasks.crop_and_resize: shifted by the corner, scaled per axis by size / max(side,
    0.1).
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    scale = size / np.maximum([x2 - x1, y2 - y1], 0.1)
    moved = [((np.asarray(ring, np.float64).reshape(-1, 2) - [x1, y1]) * scale).ravel() for ring in rings]
    return decode(rle_from_polygons(moved, size, size))


def paste(probability, box, height: int, width: int, *, legacy: bool = False, threshold: float = THRESHOLD):
    """Mask probability [m m] of a box xyxy [4] -> mask [height width] bool of the image.

    detectron2's paste_masks_in_image: at every pixel centre the map is sampled bilinearly with zeros outside
    and compared with >= threshold. `legacy` is mmdetection 1.x's FCNMaskHead.get_seg_masks: corners truncated
    to integers and inclusive, the map resized to them, compared with >. An empty, non-finite or outside box
    gives an empty mask.
    """
    mask = np.zeros((height, width), bool)
    box = np.asarray(box, np.float64)
    m = len(probability)
    if not np.isfinite(box).all():
        return mask
    weights, spans = [], []
    for low, high, extent in ((box[1], box[3], height), (box[0], box[2], width)):
        if legacy:
            low, high = float(int(low)), float(int(low) + max(int(high) - int(low) + 1, 1))
            first, last = int(low), int(high)
        else:
            if high <= low:
                return mask
            first, last = int(np.floor(low)) - 1, int(np.ceil(high)) + 1
        first, last = max(first, 0), min(last, extent)
        if last <= first:
            return mask
        position = (np.arange(first, last) + 0.5 - low) / (high - low) * m - 0.5
        if legacy:
            position = np.clip(position, 0, m - 1)
        weights.append(np.maximum(1 - np.abs(position[:, None] - np.arange(m)), 0).astype(np.float32))
        spans.append(slice(first, last))
    value = weights[0] @ np.asarray(probability, np.float32) @ weights[1].T
    mask[spans[0], spans[1]] = value > threshold if legacy else value >= threshold
    return mask
