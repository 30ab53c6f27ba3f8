"""The outputs of a detector in pixels of the stored image, with masks as RLE; and what is cut out by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


def category_ids(labels: Mapping) -> list[int]:
    """The dataset's own ids of a checkpoint's categories, 1, 2, … where it gives none."""
    return [int(i) for i in labels.get("category_id") or range(1, len(labels["category"]) + 1)]


def listed(found: Found, names: Sequence[str], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Found → what JSON says of each instance, best first: category, category_id, score, box [x1, y1, x2, y2]
    and, of a model with masks, segmentation."""
    result = []
    for n in np.argsort(-found.score, kind="stable").tolist():
        category = int(found.category[n])
        entry = {
            "category": str(names[category]),
            "category_id": int(ids[category]),
            "score": round(float(found.score[n]), 6),
            "box": [round(float(side), 2) for side in found.box[n]],
        }
        result.append(entry if found.rle is None else entry | {"segmentation": masks.as_json(found.rle[n])})
    return result


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
