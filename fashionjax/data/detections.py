"""The outputs of a detector in pixels of the stored image, with masks as RLE; and what is cut out by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fashionjax.data import masks


class Found(NamedTuple):
    """The detections in one image, best first, in pixels of the image as it is stored."""

    box: np.ndarray  # [n 4] float64 xyxy
    score: np.ndarray  # [n]
    category: np.ndarray  # [n] int
    rle: list[dict] | None  # [n]; None of a model without masks


def found_in(prediction: Mapping[str, np.ndarray], size, original_size, *, legacy: bool = False) -> Found:
    """The outputs of one image (arrays without the batch axis) → Found. `size`, `original_size` (h, w) of the
    image as the model saw it and as it is stored; legacy: far corners are inclusive (mmdetection 1.x)."""
    valid = np.asarray(prediction["detection_valid"], bool)
    height, width = (int(side) for side in original_size)
    scale = np.asarray([size[1] / width, size[0] / height], np.float64)
    box = np.asarray(prediction["box"], np.float64)[valid] / np.tile(scale, 2)
    rle = None
    if "mask_logits" in prediction:
        logits = np.asarray(prediction["mask_logits"], np.float64)[valid]
        probability = np.exp(-np.logaddexp(0.0, -logits))
        rle = [
            masks.encode(masks.paste(p, b, height, width, legacy=legacy)) for p, b in zip(probability, box)
        ]
    if legacy:
        box = box + [0, 0, 1, 1]
    box = np.clip(box, 0, [width, height, width, height])
    score, category = (np.asarray(prediction[name])[valid] for name in ("score", "category"))
    return Found(box, score.astype(np.float64), category.astype(np.int64), rle)


def cutout(image: np.ndarray, rle: Mapping) -> np.ndarray | None:
    """image u8 [h w 3], a mask of it → u8 [h' w' 4], the smallest crop that holds the mask with the mask as
    alpha; None for an empty mask."""
    mask = masks.decode(dict(rle))
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    region = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return np.concatenate([image[region], np.where(mask[region], 255, 0).astype(np.uint8)[..., None]], axis=2)


def on_white(cut: np.ndarray) -> np.ndarray:
    """A cut-out u8 [h w 4] → u8 [h w 3] with white around the mask."""
    return np.where(cut[..., 3:] > 0, cut[..., :3], np.uint8(255))
