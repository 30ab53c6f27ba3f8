"""Garments worn by a figure: their parts, details, and the DeepFashion landmarks.

Landmark slots by garment type: upper left/right collar, sleeve, hem; lower left/right waistline, hem; full
left/right collar, sleeve, waistline, hem. Left is the left of the image, so a horizontal flip swaps the
two of a pair. The points lie a little inside the cloth: what is drawn there decides whether they are
visible.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion import cut, details
from tfds_builders.synthetic_fashion.figure import Figure, along, warp
from tfds_builders.synthetic_fashion.world import Item

SLOTS = {"upper": 6, "lower": 4, "full": 8}
WAIST = 1.95


class Garment(NamedTuple):
    parts: list[cut.Part]
    marks: list[details.Mark]
    landmark: np.ndarray  # [8 2] posed body units, unused slots 0
    layer: tuple[str, ...]  # the layer each landmark must lie on to be seen; "" = slot not used


Point = tuple[np.ndarray, str]  # a landmark and its layer


def _pair(figure: Figure, x: float, y: float, layer: str = "body") -> list[Point]:
    return [(point, layer) for point in warp(figure, [(-x, y), (x, y)])]


def _collar(item: Item, figure: Figure) -> list[Point]:
    x, y = cut.neckline(item)[0]
    return _pair(figure, x + 0.07, y + 0.1, "hood" if item.neckline == "hood" else "body")


def _cuff(item: Item, figure: Figure) -> list[Point]:
    """Middle of each cuff; without sleeves the outer end of the strap."""
    if item.sleeve == "sleeveless":
        x, y = cut.shoulder(item)[0]
        return _pair(figure, x - 0.05, y + 0.1)
    reach = [max(item.reach - 0.025, 0.05)]
    return [(along(figure.arms[side].path, reach)[0], f"arm{side}") for side in (0, 1)]


def _trouser_hem(item: Item, figure: Figure) -> list[Point]:
    """On the hem of each leg, towards its outer corner."""
    points = []
    for side in (0, 1):
        outline = cut.trouser_leg(item, figure.legs[side], side).outline
        half = len(outline) // 2
        ends = outline[half - 1], outline[half]
        outer, inner = ends if (ends[0][0] > ends[1][0]) == bool(side) else ends[::-1]
        up = outline[half - 2] + outline[half + 1] - outer - inner
        points.append((outer * 0.8 + inner * 0.2 + 0.07 * up / max(np.hypot(*up), 1e-9), f"leg{side}"))
    return points


def _garment(parts, marks, points: list[Point]) -> Garment:
    slots = np.zeros((8, 2))
    slots[: len(points)] = [point for point, _ in points]
    layers = [layer for _, layer in points] + [""] * (8 - len(points))
    return Garment(parts, marks, slots, tuple(layers))


def _sleeves(item: Item, figure: Figure) -> list[cut.Part]:
    if item.sleeve == "sleeveless":
        return []
    return [cut.sleeve(item, figure.arms[side], side) for side in (0, 1)]


def _legs(item: Item, figure: Figure) -> list[cut.Part]:
    return [cut.trouser_leg(item, figure.legs[side], side) for side in (0, 1)]


def _upper(item: Item, figure: Figure) -> Garment:
    body, hem = cut.trunk(item, figure, item.hem_y, item.flare)
    points = _collar(item, figure) + _cuff(item, figure) + _pair(figure, hem - 0.09, item.hem_y - 0.07)
    return _garment([body, *_sleeves(item, figure)], details.above_waist(item, figure, hem), points)


def _lower(item: Item, figure: Figure) -> Garment:
    top = item.waist_y
    points = _pair(figure, float(cut.half_width(item, top + 0.08)) - 0.1, top + 0.1)
    if item.category == "skirt":
        body, hem = cut.skirt(item, figure, top)
        parts, points = [body], points + _pair(figure, hem - 0.1, item.hem_y - 0.07)
    else:
        parts = [*_legs(item, figure), cut.pelvis(item, figure, top)]
        points += _trouser_hem(item, figure)
    return _garment(parts, details.below_waist(item, figure, top), points)


def _full(item: Item, figure: Figure) -> Garment:
    if item.category == "jumpsuit":
        body, hem = cut.trunk(item, figure, 2.95, 0.0, seam=2)
        parts, hems = [*_legs(item, figure), body], _trouser_hem(item, figure)
    else:
        flare = item.flare * 1.5 + 0.02 if item.category == "dress" else item.flare * 0.5 + 0.03
        body, hem = cut.trunk(item, figure, item.hem_y, flare)
        parts, hems = [body], _pair(figure, hem - 0.12, item.hem_y - 0.08)
    waist = _pair(figure, float(cut.half_width(item, WAIST)) - 0.1, WAIST)
    marks = details.above_waist(item, figure, hem) + details.waist(item, figure, WAIST)
    points = _collar(item, figure) + _cuff(item, figure) + waist + hems
    return _garment([*parts, *_sleeves(item, figure)], marks, points)


def make_garment(item: Item, figure: Figure) -> Garment:
    """The item worn by the figure."""
    return {"upper": _upper, "lower": _lower, "full": _full}[item.garment_type](item, figure)
