"""One record → fixed-size arrays, in numpy: the image and everything that is placed in it move together.

A frame is the region of the image that the model sees, xyxy in pixels of the stored image. Boxes are in
pixels, landmarks in [0, 1]; after `place` both refer to the frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from fashionjax.data.photo import decode_record

Example = dict[str, Any]
VISIBLE = 0  # DeepFashion's code; 1 occluded, 2 cut off, 3 no such landmark on this garment


def picture(record: Example) -> np.ndarray:
    """The record's image, uint8 [h w 3], from encoded bytes or as it is."""
    image = record["image"]
    if isinstance(image, np.ndarray) and image.ndim == 3:
        return image
    return decode_record(image, str(record.get("image_id", "")))


def whole_frame(image: np.ndarray) -> np.ndarray:
    return np.asarray([0, 0, image.shape[1], image.shape[0]], np.float32)


def box_frame(image: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """The box grown by `margin` pixels on each side and clipped to the image (MMFashion: 10 pixels for
    attributes and landmarks, 20 for retrieval); the whole image when nothing is left."""
    grown = np.asarray(box, np.float32) + np.asarray([-margin, -margin, margin, margin], np.float32)
    height, width = image.shape[:2]
    frame = np.clip(grown, 0, [width, height, width, height]).astype(np.float32)
    return frame if np.all(frame[2:] - frame[:2] >= 1) else whole_frame(image)


def resize_frame(image: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """The frame stretched to uint8 [size size 3], bilinear with PIL's antialiasing."""
    source = Image.fromarray(image)
    return np.asarray(source.resize((size, size), Image.Resampling.BILINEAR, box=tuple(map(float, frame))))


def landmarks_in_frame(landmark: np.ndarray, image: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """[k 2] in [0, 1] of the image → of the frame; points outside get coordinates outside [0, 1]."""
    size = np.asarray([image.shape[1], image.shape[0]], np.float32)
    return ((np.asarray(landmark, np.float32) * size - frame[:2]) / (frame[2:] - frame[:2])).astype(
        np.float32
    )


def place(record: Example, frame: np.ndarray, image: np.ndarray, size: int) -> Example:
    """The frame as an image of one size, and the record's landmarks and box in it.

    → image u8 [size size 3], frame f32 [4], and where the record has them landmark f32 [k 2],
    visibility f32 [k] (1 = visible and inside the frame), box f32 [4] in pixels of the new image.
    """
    example = {"image": resize_frame(image, frame, size), "frame": frame.astype(np.float32)}
    if "landmark" in record:
        landmark = landmarks_in_frame(record["landmark"], image, frame)
        inside = np.all((landmark >= 0) & (landmark <= 1), axis=-1)
        example["visibility"] = ((np.asarray(record["visibility"]) == VISIBLE) & inside).astype(np.float32)
        example["landmark"] = np.maximum(landmark, 0.0)  # upstream's lower clip; no upper one
    if "box" in record:
        scale = size / (frame[2:] - frame[:2])
        corners = (np.asarray(record["box"], np.float32).reshape(2, 2) - frame[:2]) * scale
        example["box"] = np.clip(corners, 0, size).reshape(4).astype(np.float32)
    return example


# ------------------------------------------------------------------------------ MMFashion's own preprocessing
CROP_SCALE, CROP_RATIO, CROP_TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's RandomResizedCrop


def rng_of(seed: int, record: Example) -> np.random.Generator:
    """A generator that belongs to a record, so that random crops at evaluation (quirk S1) replay."""
    return np.random.default_rng((seed, zlib.crc32(str(record.get("image_id", "")).encode())))


def zoo_frame(image: np.ndarray, box: np.ndarray, margin: float, *, clip: bool) -> np.ndarray:
    """The box grown by `margin` in whole pixels, clipped at 0 and, with `clip`, at the far edges.

    Without `clip` (all of MMFashion's datasets but consumer-to-shop) it may reach outside the image.
    """
    x1, y1, x2, y2 = (int(side) for side in box)
    margin = int(margin)
    frame = np.asarray([max(0, x1 - margin), max(0, y1 - margin), x2 + margin, y2 + margin], np.float32)
    if clip:
        frame[2:] = np.minimum(frame[2:], [image.shape[1], image.shape[0]])
    return frame if np.all(frame[2:] - frame[:2] >= 1) else whole_frame(image)


def random_resized_crop(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) by torchvision's RandomResizedCrop: area, log ratio, ten tries, centre."""
    for _ in range(CROP_TRIES):
        area = width * height * rng.uniform(*CROP_SCALE)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    w = width if width / height <= CROP_RATIO[1] else round(height * CROP_RATIO[1])
    h = height if width / height >= CROP_RATIO[0] else round(width / CROP_RATIO[0])
    return (width - w) // 2, (height - h) // 2, w, h


def place_at_random(
    record: Example,
    frame: np.ndarray,
    image: np.ndarray,
    size: int,
    rng: np.random.Generator,
    *,
    move: bool,
    shrink: bool = True,
    flip_order: Callable[[int], np.ndarray] | None = None,
) -> Example:
    """MMFashion's chain for every image, in training as in evaluation (quirk S1): crop the frame (black
    outside the image), shrink it to fit `size` (Lanczos, aspect kept, never enlarged), random resized crop
    (bilinear), flip.

    → image, frame, landmark and visibility as `place`; with `move` False (quirk S2) the landmarks stay in
    the frame as if it had been stretched to the image; with `shrink` False (outfits) the crop is taken from
    the frame as it is. `flip_order` (number of slots → slot that each takes its value from) exchanges left
    and right landmarks; None: neighbours. Source: mmfashion/datasets/attr_dataset.py.
    """
    picture = Image.fromarray(image).crop(tuple(int(side) for side in frame))
    if shrink:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    left, top, width, height = crop = random_resized_crop(rng, *picture.size)
    flip = bool(rng.random() < 0.5)
    whole = picture.size
    picture = picture.crop((left, top, left + width, top + height))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    example = {"image": np.asarray(picture), "frame": frame.astype(np.float32)}
    if "landmark" in record:
        landmark = np.maximum(landmarks_in_frame(record["landmark"], image, frame), 0.0)
        visibility = (np.asarray(record["visibility"]) == VISIBLE).astype(np.float32)
        if move:
            landmark, visibility = _move_points(landmark, visibility, whole, crop, flip, flip_order)
        example |= {"landmark": landmark, "visibility": visibility}
    return example


def _move_points(landmark, visibility, whole, crop, flip: bool, flip_order=None):
    """Points in [0, 1] of the shrunk frame → of the crop; pairs exchange on a flip, outside is invisible."""
    left, top, width, height = crop
    used = np.any(landmark != 0, axis=-1, keepdims=True)
    moved = (landmark * np.asarray(whole) - [left, top]) / [width, height]
    if flip:
        moved[:, 0] = 1 - moved[:, 0]
    seen = visibility * np.all((moved >= 0) & (moved <= 1), axis=-1)
    moved = np.where(used, moved, 0.0)
    slots = len(moved)
    exchanged = np.arange(slots) ^ 1 if flip_order is None else flip_order(slots)
    order = exchanged if flip else slice(None)
    return np.maximum(moved[order], 0.0).astype(np.float32), seen[order].astype(np.float32)


def twice_scaled(record: Example, frame: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Switch S4: landmarks [k 2] relative to the frame's corner over the size of the whole image, scaled to
    the 7-cell plane and then, as if they were pixels of 224, to the plane again. Points that are not visible
    are 0 0, as the original's prepare scripts write them."""
    size = np.asarray([image.shape[1], image.shape[0]], np.float32)
    seen = np.asarray(record["visibility"]) == VISIBLE
    points = np.where(seen[:, None], np.asarray(record["landmark"], np.float32) * size, 0)
    return (np.maximum(points - frame[:2], 0.0) / size * (7 / 224)).astype(np.float32)


def shifted_landmarks(record: Example, image: np.ndarray) -> Example:
    """Switch S6: the record with its landmarks as MMFashion's in-shop list holds them.

    Pair j has the coordinates of point j - 1 if point j is visible; pair 0 is (garment type, variation);
    pairs of other points are removed and the rest moves left. A record without garment_type comes from such a
    list already. Source: mmfashion/data/prepare_in_shop.py.
    """
    if "garment_type" not in record:
        return record
    size = np.asarray([image.shape[1], image.shape[0]], np.float32)
    points = np.asarray(record["landmark"], np.float32) * size
    first = [[int(record["garment_type"]) + 1, int(record.get("variation", 0))]]
    kept = np.concatenate([first, points[:-1]])[np.asarray(record["visibility"]) == VISIBLE]
    landmark = np.zeros_like(points)
    landmark[: len(kept)] = kept / size
    visibility = np.where(np.arange(len(points)) < len(kept), VISIBLE, 3)
    return record | {"landmark": landmark, "visibility": visibility}
