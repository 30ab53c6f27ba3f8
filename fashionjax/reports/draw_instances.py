"""Instances drawn on images: masks in translucent colour with their outline, boxes, category and score."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from fashionjax.data import masks, photo
from fashionjax.reports import draw

COVER = 0.45  # share of the colour inside a mask
GOLDEN = 0.618034  # of a turn between the hues of consecutive categories


def colour_of(category: int) -> tuple[int, int, int]:
    """RGB of a category: hues a golden section apart, in three brightnesses."""
    red, green, blue = colorsys.hsv_to_rgb(category * GOLDEN % 1, 0.75, (0.95, 0.75, 0.6)[category // 8 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def instances(
    image: np.ndarray,
    box: np.ndarray,
    category: Sequence[int],
    names: Sequence[str] | Mapping[int, str],
    rle: Sequence[dict] | None = None,
    score: Sequence[float] | None = None,
    side: int | None = None,
) -> np.ndarray:
    """image u8 [h w 3], boxes [n 4] xyxy in its pixels, category [n] of `names`, masks as RLE of any size,
    score [n] → the image with the instances drawn, the highest score on top; its longer side is `side` pixels
    where that is given."""
    shown = image if side is None else photo.display(image, side)
    scale = np.tile([shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]], 2)
    order = list(range(len(category)) if score is None else np.argsort(score, kind="stable"))
    if rle is not None:
        for n in order:
            shown = _covered(shown, masks.decode(rle[n]), colour_of(int(category[n])))
    labels = [names[category[n]] + ("" if score is None else f" {score[n]:.2f}") for n in order]
    boxes = np.asarray(box, np.float64).reshape(-1, 4)[order] * scale
    return draw.boxes(shown, boxes, labels, [colour_of(int(category[n])) for n in order])


def _covered(image: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
    if mask.shape != image.shape[:2]:
        resized = Image.fromarray(mask).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        mask = np.asarray(resized, bool)
    inside = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inside &= np.roll(mask, step, axis)
    share = np.where(mask, COVER, 0)[..., None] + np.where(mask & ~inside, 0.9 - COVER, 0)[..., None]
    return np.round(image * (1 - share) + share * np.asarray(colour)).astype(np.uint8)
