"""Anchors of a feature pyramid (Ren et al., Faster R-CNN, 2015; Lin et al., FPN, 2017), as numpy constants.

Order within a level: row, column, aspect ratio; a ratio is height / width.
"""

from collections.abc import Sequence

import numpy as np

RATIOS = (0.5, 1.0, 2.0)


def cell_anchors(size: float, ratios: Sequence[float] = RATIOS) -> np.ndarray:
    """Anchors of the cell at the origin [ratio 4] float32: area size^2, centred at (0, 0) (detectron2)."""
    ratio = np.asarray(ratios, np.float64)
    half_width = np.sqrt(size**2 / ratio) / 2
    half_height = ratio * half_width
    return np.stack([-half_width, -half_height, half_width, half_height], axis=1).astype(np.float32)


def legacy_cell_anchors(stride: int, scale: float = 8, ratios: Sequence[float] = RATIOS) -> np.ndarray:
    """mmdetection 1.x [ratio 4] float32: sides stride * scale, inclusive pixels around (stride - 1) / 2,
    corners rounded to whole pixels (halves to even).
    """
    root = np.sqrt(np.asarray(ratios, np.float64))
    half = (np.stack([stride * scale / root, stride * scale * root], axis=1) - 1) / 2
    centre = (stride - 1) / 2
    return np.round(np.concatenate([centre - half, centre + half], axis=1)).astype(np.float32)


def grid(cell: np.ndarray, h: int, w: int, stride: int) -> np.ndarray:
    """cell [a 4] -> anchors of a map of h x w cells [(h w a) 4] float32, the cell's moved by whole
    strides.
    """
    y, x = np.meshgrid(np.arange(h) * stride, np.arange(w) * stride, indexing="ij")
    shift = np.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (shift[:, :, None] + cell).reshape(-1, 4)


def inside(anchor, size):
    """anchor [n 4], size (height, width) -> whether the anchor lies within the image [n] bool
    (mmdetection's allowed_border = 0).
    """
    h, w = size[0], size[1]
    return (anchor[:, 0] >= 0) & (anchor[:, 1] >= 0) & (anchor[:, 2] < w) & (anchor[:, 3] < h)
