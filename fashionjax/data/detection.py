"""One record with instances → the arrays of a detector: the image resized, its objects moved along; and the
batch of such examples, padded to a bucket.

Examples keep their own height and width. `collate` pads the images of a batch at the bottom and right to the
smallest bucket that holds all of them, so that a run compiles one program per bucket. Nothing in the models
depends on that padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fashionjax.data import instances, masks, preprocess
from fashionjax.data.samplers import Sampler
from fashionjax.errors import UserError

ALIGNMENT = 32  # sides of a bucket are multiples of the coarsest stride of a backbone
BITS = 8
MASK_FORMS = ("polygon", "bitmap", "none")
SMALLEST = 1e-5  # px; an object with a shorter side after clipping is left out
WINDOW = 32  # batches among which images of one orientation are brought together


class Padding(NamedTuple):
    """Sizes of the padded ground truth. rings and points: of an object, where `mask_form` is polygon."""

    objects: int
    mask_form: str
    rings: int
    points: int


# ------------------------------------------------------------------------------ one example
def resized_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) with the shorter side `short`, or the longer one `longest` where it would exceed that;
    aspect kept, rounded half up, at least 1.

    detectron2's ResizeShortestEdge; mmcv's imrescale to the scale (longest, short) gives the same.
    """
    scale = min(short / min(height, width), longest / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def make_preprocess(
    resize: Mapping[str, Any], padding: Padding, *, truth: Mapping[str, bool], inclusive: bool = False
) -> Callable[[dict, np.random.Generator | None], dict]:
    """(record, rng | None) → the example of a detector.

    image u8 [h w 3] (bilinear with Pillow's antialiasing), size i32 [2] (h, w), original_size i32 [2]. In
    training (`rng` given) the shorter side is drawn from `resize.short_train` and the image is flipped with
    probability `resize.flip`; the example also has truth_box f32 [g 4] in pixels of the resized image,
    truth_label i32 [g], truth_valid bool [g], truth_masked bool [g] (whether the object has a mask), and by
    `padding.mask_form` truth_ring f32 [g r p 2] with truth_ring_length i32 [g r], or truth_bitmap
    u8 [g h w/8]. Crowds and objects outside the image are left
    out; of more than g objects a random part is taken. `truth`: arguments of `instances.instances`.
    `inclusive`: the far corner of a box is its last pixel.
    """

    def run(record: dict, rng: np.random.Generator | None) -> dict:
        image = preprocess.picture(record)
        height, width = image.shape[:2]
        short = resize["short_test"] if rng is None else int(rng.choice(np.asarray(resize["short_train"])))
        size = resized_size(height, width, short, resize["longest"])
        flip = rng is not None and bool(rng.random() < resize["flip"])
        example = {
            "image": _resized(image, size, flip),
            "size": np.asarray(size, np.int32),
            "original_size": np.asarray((height, width), np.int32),
        }
        if rng is None:
            return example
        stored = (int(record["height"]), int(record["width"]))
        if stored != (height, width):
            raise UserError(f"the image has {height} x {width} pixels, its annotations are of {stored}")
        found = instances.instances(record, **truth)
        return example | _padded_truth(found, (height, width), size, flip, padding, inclusive, rng)

    return run


def _resized(image: np.ndarray, size: tuple[int, int], flip: bool) -> np.ndarray:
    if image.shape[:2] != size:
        image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    return np.ascontiguousarray(image[:, ::-1]) if flip else image


def _padded_truth(found, original, size, flip: bool, padding: Padding, inclusive: bool, rng) -> dict:
    height, width = size
    scale = np.asarray([width / original[1], height / original[0]])
    edge = np.asarray([width, height, width, height], np.float64) - inclusive
    box = (found.box.astype(np.float64) - [0, 0, inclusive, inclusive]) * np.tile(scale, 2)
    box = np.clip(box, 0, edge)
    kept = np.flatnonzero((box[:, 2:] - box[:, :2] + inclusive > SMALLEST).all(axis=1) & ~found.iscrowd)
    if len(kept) > padding.objects:
        kept = np.sort(rng.choice(kept, padding.objects, replace=False))
    if flip:
        box = np.stack([edge[0] - box[:, 2], box[:, 1], edge[0] - box[:, 0], box[:, 3]], axis=1)
    example = {
        "truth_box": _padded(box[kept].astype(np.float32), padding.objects),
        "truth_label": _padded(found.category[kept].astype(np.int32), padding.objects),
        "truth_valid": np.arange(padding.objects) < len(kept),
    }
    if padding.mask_form == "none":
        return example
    chosen = [found.segmentation[k] for k in kept]
    masked = np.asarray([masks.is_mask(segmentation) for segmentation in chosen], bool)
    example["truth_masked"] = _padded(masked, padding.objects)
    if padding.mask_form == "polygon":
        return example | _padded_rings(chosen, scale, width, flip, padding)
    return example | {"truth_bitmap": _padded(_bitmaps(chosen, original, size, flip), padding.objects)}


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((count - len(rows), *rows.shape[1:]), rows.dtype)])


def _padded_rings(segmentations: Sequence, scale, width: int, flip: bool, padding: Padding) -> dict:
    """Of more rings than fit the largest are taken; a ring of too many points loses those that change its
    area least."""
    ring = np.zeros((padding.objects, padding.rings, padding.points, 2), np.float32)
    length = np.zeros((padding.objects, padding.rings), np.int32)
    for g, segmentation in enumerate(segmentations):
        if isinstance(segmentation, dict):
            raise UserError("a mask is run-length encoded; train with config.model.mask_form=bitmap")
        rings = sorted(masks.checked_rings(segmentation), key=lambda points: -masks.polygon_area([points]))
        for r, points in enumerate(rings[: padding.rings]):
            points = simplified(points, padding.points) * scale
            if flip:
                points[:, 0] = width - points[:, 0]
            ring[g, r, : len(points)], length[g, r] = points, len(points)
    return {"truth_ring": ring, "truth_ring_length": length}


def simplified(points: np.ndarray, most: int) -> np.ndarray:
    """Ring [n 2] → at most `most` of its points: the one whose triangle with its neighbours is smallest goes
    first (Visvalingam & Whyatt 1993)."""
    points = np.array(points, np.float64)
    while len(points) > most:
        before, after = np.roll(points, 1, axis=0) - points, np.roll(points, -1, axis=0) - points
        triangle = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])
        points = np.delete(points, int(triangle.argmin()), axis=0)
    return points


def _bitmaps(segmentations: Sequence, original, size: tuple[int, int], flip: bool) -> np.ndarray:
    """Masks of the resized image, 8 columns a byte: u8 [n h ceil(w / 8)]. Resized by the nearest pixel, as
    detectron2's BitMasks and mmdetection 1.x do."""
    height, width = size
    found = np.zeros((len(segmentations), height, -(-width // BITS)), np.uint8)
    for n, segmentation in enumerate(segmentations):
        mask = masks.decode(masks.rle(segmentation, *original))
        if mask.shape != size:
            resized = Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
            mask = np.asarray(resized).astype(bool)
        found[n] = np.packbits(mask[:, ::-1] if flip else mask, axis=1)
    return found


# ------------------------------------------------------------------------------ batches
def check_buckets(buckets: Sequence, longest: int) -> tuple[tuple[int, int], ...]:
    """The buckets (h, w), smallest first; UserError unless the largest holds every image whose longer side is
    `longest`."""
    found = sorted((tuple(int(side) for side in bucket) for bucket in buckets), key=lambda b: b[0] * b[1])
    if not found or any(side < 1 or side % ALIGNMENT for bucket in found for side in bucket):
        raise UserError(f"config.resize.buckets={found}: (height, width), multiples of {ALIGNMENT}")
    if min(found[-1]) < longest:
        raise UserError(
            f"config.resize.buckets: the largest, {found[-1]}, must hold images of "
            f"config.resize.longest={longest} either way up"
        )
    return tuple(found)


def collate(examples: Sequence[dict], buckets: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Examples → a batch [b …]: image and truth_bitmap padded to the first bucket that holds all images."""
    sides = np.asarray([example["image"].shape[:2] for example in examples]).max(axis=0)
    bucket = next((bucket for bucket in buckets if (sides <= bucket).all()), None)
    if bucket is None:
        raise UserError(f"images of {sides[0]} x {sides[1]} exceed every bucket of config.resize.buckets")
    batch = {}
    for name, first in examples[0].items():
        values = [example[name] for example in examples]
        if name == "image":
            values = [_on_canvas(value, (*bucket, 3)) for value in values]
        elif name == "truth_bitmap":
            values = [_on_canvas(value, (len(first), bucket[0], bucket[1] // BITS)) for value in values]
        batch[name] = np.stack(values)
    return batch


def _on_canvas(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    padded = np.zeros(shape, value.dtype)
    padded[tuple(slice(0, side) for side in value.shape)] = value
    return padded


def by_orientation(order: Sampler, landscape: np.ndarray, batch_size: int) -> Sampler:
    """`order` with the images of `WINDOW` batches brought together by orientation (landscape [n] bool): at
    most one batch of a window mixes the two and needs the bucket that holds both.

    The batches of a window come in a random order. Each position of `order` is used once.
    """
    size = WINDOW * batch_size
    kept: dict[tuple[int, int], np.ndarray] = {}  # threads read it; each of its operations is atomic

    def window(seed: int, number: int) -> np.ndarray:
        rows = np.asarray([order.at(seed, number * size + place) for place in range(size)])
        rows = rows[np.argsort(landscape[rows], kind="stable")].reshape(WINDOW, batch_size)
        return np.random.default_rng((seed, 4, number)).permutation(rows).reshape(-1)

    def at(seed: int, position: int) -> int:
        number, place = divmod(position, size)
        rows = kept.get((seed, number))
        if rows is None:
            rows = kept[seed, number] = window(seed, number)
            for old in list(kept)[:-4]:
                kept.pop(old, None)
        return int(rows[place])

    return Sampler(order.epoch, at)
