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
