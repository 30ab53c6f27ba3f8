"""One record → fixed-size arrays, in numpy: the picture and everything that is placed in it move together.

A frame is the region of the picture that the model sees, xyxy in pixels of the stored picture. Boxes are in
pixels, landmarks in [0, 1]; after `place` both refer to the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from fashionjax.data.photo import decode_record

Example = dict[str, Any]
VISIBLE = 0  # DeepFashion's code; 1 occluded, 2 cut off, 3 no such landmark on this garment


def picture(record: Example) -> np.ndarray:
    """The record's picture, uint8 [h w 3], from encoded bytes or as it is."""
    image = record["image"]
    if isinstance(image, np.ndarray) and image.ndim == 3:
        return image
    return decode_record(image, str(record.get("image_id", "")))


def whole_frame(image: np.ndarray) -> np.ndarray:
    return np.asarray([0, 0, image.shape[1], image.shape[0]], np.float32)


def box_frame(image: np.ndarray, box: np.ndarray, margin: float) -> np.ndarray:
    """The box grown by `margin` pixels on each side and clipped to the picture (MMFashion: 10 pixels for
    attributes and landmarks, 20 for retrieval); the whole picture when nothing is left."""
    grown = np.asarray(box, np.float32) + np.asarray([-margin, -margin, margin, margin], np.float32)
    height, width = image.shape[:2]
    frame = np.clip(grown, 0, [width, height, width, height]).astype(np.float32)
    return frame if np.all(frame[2:] - frame[:2] >= 1) else whole_frame(image)


def resize_frame(image: np.ndarray, frame: np.ndarray, size: int) -> np.ndarray:
    """The frame stretched to uint8 [size size 3], bilinear with PIL's antialiasing."""
    source = Image.fromarray(image)
    return np.asarray(source.resize((size, size), Image.Resampling.BILINEAR, box=tuple(map(float, frame))))


def landmarks_in_frame(landmark: np.ndarray, image: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """[k 2] in [0, 1] of the picture → of the frame; points outside get coordinates outside [0, 1]."""
    size = np.asarray([image.shape[1], image.shape[0]], np.float32)
    return ((np.asarray(landmark, np.float32) * size - frame[:2]) / (frame[2:] - frame[:2])).astype(
        np.float32
    )


def place(record: Example, frame: np.ndarray, image: np.ndarray, size: int) -> Example:
    """The frame as a picture of one size, and the record's landmarks and box in it.

    → image u8 [size size 3], frame f32 [4], and where the record has them landmark f32 [k 2],
    visibility f32 [k] (1 = visible and inside the frame), box f32 [4] in pixels of the new picture.
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
