"""Instance records (docs/datasets) as padded arrays; polygons and run-length encodings stay on the host.

Where boxes and masks come from is an argument: by default the given box and all polygons. `FR` is what
fashion-recommendation (src/utils.py) takes, and what its published figures were measured with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import masks
from fashionjax.errors import UserError

SHOP = 0  # class of the feature `source`
NOT_USED = 3  # visibility of a slot that is not the category's
FR = {"first_polygon": True, "box_from_mask": True, "drop_origin": True, "half_pixel": True}


class Instances(NamedTuple):
    """The objects of an image, padded to n. box is xyxy in pixels; area in square pixels, as annotated."""

    box: np.ndarray  # [n 4] float32
    category: np.ndarray  # [n] int32
    instance_valid: np.ndarray  # [n] bool
    iscrowd: np.ndarray  # [n] bool
    area: np.ndarray  # [n] float32
    segmentation: list  # of the valid ones: rings, or {"size", "counts"}
    source: np.ndarray  # [n] int32, place in the record, -1 for padding


def instances(
    record: Mapping[str, Any],
    n: int | None = None,
    *,
    first_polygon: bool = False,
    box_from_mask: bool = False,
    drop_origin: bool = False,
    half_pixel: bool = False,
    smallest_side: float = 1e-5,
) -> Instances:
    """A record's objects, padded to `n` (None: as many as there are).

    first_polygon keeps an object's first ring alone. box_from_mask takes the extremes of the rings (of the
    pixels of a run-length encoding) instead of the given box. drop_origin removes ring points at (0, 0).
    half_pixel adds 0.5 to ring coordinates after the box was taken; the area is then that of the rings.
    Objects whose box has a side of at most `smallest_side` pixels are left out, and so are, under
    first_polygon, those whose first ring has fewer than 3 points. Of more than `n` objects, crowds are left
    out first and then those of the smallest boxes.
    """
    fields, where = record["instance"], str(record.get("image_id", "record"))
    found = [read_segmentation(text, where) for text in fields["segmentation"]]
    count = len(found)
    box = np.asarray(fields["box"], np.float32).reshape(count, 4).copy()
    area = np.asarray(fields["area"], np.float32).reshape(count).copy()
    crowd = np.asarray(fields["iscrowd"], bool).reshape(count)
    keep = np.ones(count, bool)
    for i, segmentation in enumerate(found):
        if isinstance(segmentation, list):
            rings = _chosen(segmentation, first_polygon, drop_origin)
            keep[i] = bool(rings) or not first_polygon
            if box_from_mask and rings:
                box[i] = masks.polygon_bounds(rings)
            if half_pixel:
                rings = [[v + 0.5 for v in ring] for ring in rings]
                area[i] = masks.polygon_area(rings)
            found[i] = rings
        elif box_from_mask:
            box[i] = masks.bounds(segmentation)
    keep &= (box[:, 2:] - box[:, :2] > smallest_side).all(1)
    rows = np.flatnonzero(keep)
    if n is not None and len(rows) > n:
        size = np.prod(box[rows, 2:] - box[rows, :2], axis=1)
        rows = np.sort(rows[np.lexsort((rows, -size, crowd[rows]))[:n]])
    category = np.asarray(fields["category"], np.int32).reshape(count)
    return Instances(
        _padded(box[rows], n),
        _padded(category[rows], n),
        _padded(np.ones(len(rows), bool), n),
        _padded(crowd[rows], n),
        _padded(area[rows], n),
        [found[i] for i in rows],
        _padded(rows.astype(np.int32), n, -1),
    )


def read_segmentation(text: str | bytes, where: str = "record") -> list | dict:
    """The stored text of an object → rings [x0, y0, x1, y1, …] or {"size": [h, w], "counts": str}."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: damaged segmentation ({error}); prepare the dataset again") from error
    return found


def _chosen(rings: list, first_polygon: bool, drop_origin: bool) -> list:
    """The rings that are used; under first_polygon the first one or, if it is no polygon, none."""
    if first_polygon:
        rings = rings[:1]
    if drop_origin:
        pairs = ([(x, y) for x, y in zip(ring[::2], ring[1::2]) if x or y] for ring in rings)
        rings = [[value for point in ring for value in point] for ring in pairs]
    return [ring for ring in rings if len(ring) >= 6]


def _padded(values: np.ndarray, n: int | None, fill: Any = 0) -> np.ndarray:
    if n is None or len(values) == n:
        return values
    result = np.full((n, *values.shape[1:]), fill, values.dtype)
    result[: len(values)] = values
    return result


def landmark_slots(record: Mapping[str, Any], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The landmarks of an image's m objects in the slots of all categories, one after the other.

    counts: landmarks per category (the dataset's label `landmark_count`; 294 in all for DeepFashion2) →
    landmark [m s 2] float32 in [0, 1], visibility [m s] (3: not the category's slot).
    """
    start = np.cumsum([0, *counts])
    category = np.asarray(record["instance"]["category"], np.int64).reshape(-1)
    landmark = np.zeros((len(category), start[-1], 2), np.float32)
    visibility = np.full((len(category), start[-1]), NOT_USED, np.int32)
    for i, c in enumerate(category.tolist()):
        at = slice(start[c], start[c + 1])
        landmark[i, at] = record["instance"]["landmark"][i][: counts[c]]
        visibility[i, at] = record["instance"]["visibility"][i][: counts[c]]
    return landmark, visibility


def used_rows(
    category: Sequence[Sequence[int]],
    source: Sequence[int] | None = None,
    *,
    shop_only: bool = False,
    with_objects: bool = True,
) -> np.ndarray:
    """Records to train on, from columns of a split: those with objects (category lists them per record), and
    with `shop_only` the shop's alone (fashion-recommendation's filter of DeepFashion2)."""
    keep = np.array([len(labels) > 0 or not with_objects for labels in category], bool)
    if shop_only:
        if source is None:
            raise UserError("shop_only: this dataset does not say which images are a shop's")
        keep &= np.asarray(source) == SHOP
    return np.flatnonzero(keep)
