"""What makes a cut a garment: collars, plackets, zips, pockets, cuffs, waistbands, belts, seams."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion import cut
from tfds_builders.synthetic_fashion.cut import half_width
from tfds_builders.synthetic_fashion.figure import Figure, along, warp
from tfds_builders.synthetic_fashion.world import Item

METAL = (214.0, 214.0, 206.0)
BRASS = (214.0, 184.0, 104.0)


class Mark(NamedTuple):
    """A detail drawn on a layer, posed body units. owner: True belongs to the garment (a collar), False
    shows what is beneath (the shirt under a blazer), None only paints.
    """

    layer: str
    shape: str  # "line", "polygon", "dot"
    points: np.ndarray
    color: tuple
    size: float = 0.0
    owner: bool | None = None


def shade(color, factor: float) -> tuple:
    return tuple(min(255.0, float(v) * factor) for v in color)


def _light(item: Item) -> bool:
    return sum(item.base) > 430


def _polygon(figure, points, color, owner=None) -> Mark:
    return Mark("body", "polygon", warp(figure, points), color, 0.0, owner)


def line(figure: Figure, points, color, size: float, layer: str = "body") -> Mark:
    """A line of the front view, `size` wide in body units."""
    return Mark(layer, "line", warp(figure, points), color, size)


def dot(figure: Figure, x: float, y: float, color, size: float) -> Mark:
    return Mark("body", "dot", warp(figure, [[x, y]]), color, size)


def _both(figure, shape, points, color, size=0.0, owner=None, layer="body") -> list[Mark]:
    """A detail and its mirror image."""
    points = np.asarray(points, np.float64)
    return [Mark(layer, shape, warp(figure, points * (sign, 1)), color, size, owner) for sign in (-1, 1)]


def _strip(half_top: float, top: float, half_bottom: float, bottom: float, sag: float = 0.05) -> list:
    """A band around the body, hanging a little at the front."""
    upper = [(-half_top, top), (0.0, top + sag), (half_top, top)]
    return [*upper, (half_bottom, bottom), (0.0, bottom + sag), (-half_bottom, bottom)]


def neck(item: Item, figure: Figure) -> list[Mark]:
    """Collar, lapels, hood or the ribbing of a neckline."""
    edge = cut.neckline(item)
    if item.neckline == "collar":
        flap = [(0.1, 0.36), (0.4, -0.12), (0.56, 0.1), (0.42, 0.62)]
        return _both(figure, "polygon", flap, tuple(min(255.0, v * 0.92 + 20) for v in item.base), owner=True)
    if item.neckline == "lapel":
        low = edge[-1][1]
        beneath = (242.0, 240.0, 236.0) if not _light(item) else (70.0, 78.0, 96.0)
        flap = [
            (0.38, -0.08),
            (0.52, 0.1),
            (0.62, 0.52),
            (0.42, 0.58),
            (0.5, 0.72),
            (0.04, low + 0.06),
            (0.0, low),
        ]
        marks = [_polygon(figure, [(-0.42, 0.0), (0.42, 0.0), (0.0, low)], beneath, owner=False)]
        return marks + _both(figure, "polygon", flap, shade(item.base, 0.8), owner=True)
    if item.neckline == "hood":
        hood = [(0.0, 0.5), (0.42, 0.26), (0.78, 0.12), (0.8, -0.3), (0.55, -0.42), (0.36, -0.1)]
        marks = _both(figure, "polygon", hood, shade(item.base, 0.85), owner=True, layer="hood")
        return marks + _both(figure, "line", [(0.17, 0.42), (0.2, 1.15)], (235.0, 235.0, 230.0), 0.08)
    if item.neckline == "high":
        band = np.array([(-0.37, 0.02), (0.0, 0.1), (0.37, 0.02)])
        return [line(figure, band - (0, up), shade(item.base, 0.65), 0.06) for up in (0.0, 0.16)]
    ribbing = [(-x, y) for x, y in edge] + edge[::-1]
    return [line(figure, ribbing, item.trim, 0.13 if item.category in ("sweater", "tee") else 0.08)]


def closure(item: Item, figure: Figure, start: float, stop: float) -> list[Mark]:
    """A zip or a row of buttons down the front; other closures draw themselves (`belt`)."""
    seam = shade(item.base, 0.6)
    if item.closure == "zip":
        metal = (66.0, 66.0, 70.0) if _light(item) else METAL
        path = [(0.0, start), (0.0, stop)]
        return [line(figure, path, metal, 0.14), line(figure, path, seam, 0.035)]
    if item.closure != "button":
        return []
    color = (54.0, 46.0, 42.0) if _light(item) else (245.0, 242.0, 230.0)
    marks = [line(figure, [(0.12, start), (0.12, stop)], seam, 0.04)]
    count, last = {"blazer": (2, start + 0.55), "coat": (3, start + 1.1)}.get(item.category, (5, stop - 0.2))
    for y in np.linspace(start + 0.12, last, count):
        marks += [
            dot(figure, x, y, color, 0.095) for x in ((-0.3, 0.3) if item.category == "coat" else (0.0,))
        ]
    return marks


def cuffs(item: Item, figure: Figure, size: float) -> list[Mark]:
    """A band at the end of each sleeve, `size` of the arm's length."""
    marks = []
    for side in (0, 1):
        path = figure.arms[side].path
        outline = cut.sleeve(item, figure.arms[side], side).outline
        a, b = outline[len(outline) // 2 - 1], outline[len(outline) // 2]
        back = along(path, [max(item.reach - size, 0.0)])[0] - (a + b) / 2
        marks.append(Mark(f"arm{side}", "polygon", np.stack([a, b, b + back, a + back]), item.trim))
    return marks


def belt(item: Item, figure: Figure, y: float, color, knot: bool) -> list[Mark]:
    """A belt with a buckle, or a sash with a knot and hanging ends."""
    width = float(half_width(item, y)) + 0.02
    marks = [_polygon(figure, _strip(width, y - 0.11, width, y + 0.11, 0.0), color)]
    if not knot:
        return [
            *marks,
            _polygon(
                figure, [(-0.12, y - 0.13), (0.12, y - 0.13), (0.12, y + 0.13), (-0.12, y + 0.13)], BRASS
            ),
        ]
    ends = [line(figure, [(0.16, y), (x, y + 0.95)], color, 0.13) for x in (0.1, 0.3)]
    return [*marks, *ends, dot(figure, 0.16, y, shade(color, 0.8), 0.16)]


def _pockets(item: Item, figure: Figure) -> list[Mark]:
    seam, hem = shade(item.base, 0.6), item.hem_y
    if item.category == "shirt":
        pocket = [(0.24, 0.95), (0.58, 0.95), (0.58, 1.3), (0.41, 1.38), (0.24, 1.3), (0.24, 0.95)]
        return [line(figure, pocket, seam, 0.055)]
    if item.category == "hoodie":
        pouch = [
            (-0.55, hem - 0.25),
            (-0.32, hem - 0.75),
            (0.32, hem - 0.75),
            (0.55, hem - 0.25),
            (-0.55, hem - 0.25),
        ]
        return [line(figure, pouch, seam, 0.075)]
    if item.category == "jacket":
        return _both(figure, "line", [(0.36, hem - 0.42), (0.6, hem - 0.78)], seam, 0.09)
    if item.category in ("blazer", "coat"):
        at = min(hem - 0.35, 2.35 if item.category == "blazer" else 2.7)
        flap = [(0.34, at), (0.74, at), (0.74, at + 0.16), (0.34, at + 0.16)]
        return _both(figure, "polygon", flap, shade(item.base, 0.72))
    return []


def above_waist(item: Item, figure: Figure, hem: float) -> list[Mark]:
    """Details of everything that hangs from the shoulders; hem: half width of its hem."""
    bottom = item.hem_y if item.category != "jumpsuit" else 3.0
    marks = neck(item, figure) + closure(item, figure, cut.neckline(item)[-1][1] + 0.05, bottom - 0.02)
    if item.category in ("sweater", "jacket", "hoodie"):
        marks.append(_polygon(figure, _strip(hem, item.hem_y - 0.2, hem, item.hem_y + 0.02), item.trim))
    if item.category in ("sweater", "jacket", "hoodie", "robe") or (item.category, item.sleeve) == (
        "shirt",
        "long",
    ):
        marks += cuffs(item, figure, 0.07)
    return marks + _pockets(item, figure)


def below_waist(item: Item, figure: Figure, top: float) -> list[Mark]:
    """Waistband, pockets, seams and creases of lower garments."""
    seam, high = shade(item.base, 0.6), 0.34 if item.category == "leggings" else 0.2
    width, below = float(half_width(item, top)), float(half_width(item, top + high))
    color = item.trim if item.category == "leggings" else shade(item.base, 0.78)
    marks = [_polygon(figure, _strip(width, top, below, top + high), color)]
    if item.category == "jeans":
        thread = (228.0, 172.0, 84.0)
        marks += _both(
            figure, "line", [(0.3, top + 0.24), (0.42, top + 0.55), (below, top + 0.66)], thread, 0.08
        )
        marks.append(line(figure, [(0.0, top + 0.25), (0.13, top + 0.8), (0.0, top + 1.0)], thread, 0.07))
    if item.category in ("trousers", "shorts"):
        marks += _both(figure, "line", [(0.42, top + 0.22), (0.68, top + 0.7)], seam, 0.07)
        marks.append(line(figure, [(0.0, top + 0.22), (0.0, top + 0.95)], seam, 0.055))
    if item.category == "trousers":
        crease = np.linspace(0.05, cut.leg_reach(item), 6)
        marks += [
            Mark(f"leg{side}", "line", along(figure.legs[side].path, crease), seam, 0.055) for side in (0, 1)
        ]
    if item.category == "skirt":
        marks += closure(item, figure, top + 0.25, item.hem_y - 0.05)
        if item.fit == "loose":
            spread = 1 + item.flare * (item.hem_y - top) / 0.9
            pleats = [[(x, top + 0.3), (x * spread, item.hem_y)] for x in (-0.6, -0.2, 0.25, 0.62)]
            marks += [line(figure, pleat, shade(item.base, 0.72), 0.055) for pleat in pleats]
    elif item.closure == "button":
        marks.append(dot(figure, 0.0, top + 0.14, BRASS, 0.11))
    if item.closure == "belt":
        leather = (190.0, 150.0, 96.0) if not _light(item) else (84.0, 56.0, 36.0)
        marks += belt(item, figure, top + 0.12, leather, knot=False)
    return marks


def waist(item: Item, figure: Figure, y: float) -> list[Mark]:
    """Belt, sash or waist seam of full garments, and the overlap of a robe."""
    if item.category == "robe":
        low = cut.neckline(item)[-1][1]
        edges = [[(-0.44, 0.02), (0.0, low), (0.3, item.hem_y)], [(0.44, 0.02), (0.0, low)]]
        return [line(figure, edge, item.trim, 0.17) for edge in edges] + belt(
            item, figure, y, item.trim, knot=True
        )
    if item.closure == "belt":
        return belt(item, figure, y, item.trim, knot=item.category == "coat")
    if item.category == "coat":
        return []
    width = float(half_width(item, y))
    return [line(figure, [(-width, y), (0, y + 0.05), (width, y)], shade(item.base, 0.6), 0.07)]
