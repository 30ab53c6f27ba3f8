"""Shoes, bags, hats, scarves and sunglasses as product images: outlines of cloth, and details on them.

Drawn in a frame of about [-1, 1] with y down, `SCALE` body units to one, so that patterns and edges are as
wide as on garments. Parts are painted in the order of their layers: "back", then "body", then "front".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.cut import Part, mirror
from tfds_builders.synthetic_fashion.details import BRASS, METAL, Mark, shade
from tfds_builders.synthetic_fashion.world import Item

SCALE = 2.6
LAYERS = ("back", "body", "front")
LENS = (58.0, 60.0, 72.0)
SOLE = (236.0, 234.0, 228.0)


class Drawing(NamedTuple):
    """As `garments.Garment`, without landmarks."""

    parts: list[Part]
    marks: list[Mark]


# ------------------------------------------------------------------------------ outlines
def soft(points, rounds: int = 2) -> np.ndarray:
    """A closed outline with its corners cut off `rounds` times, [n·2^rounds 2]."""
    points = np.asarray(points, np.float64)
    for _ in range(rounds):
        following = np.roll(points, -1, 0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        points = points.reshape(-1, 2)
    return points


def oval(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> np.ndarray:
    """Points of an ellipse from one angle to another, degrees, 0 to the right and 90 down."""
    turn = np.radians(np.linspace(start, stop, 24))
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], -1)


def cloth(points, layer: str = "body", turn: float = 0.0) -> Part:
    """A piece of patterned cloth."""
    outline = np.asarray(points, np.float64) * SCALE
    return Part(layer, outline, outline.mean(0), np.radians(turn), np.concatenate([outline, outline[:1]]))


def area(points, color, layer: str = "body") -> Mark:
    return Mark(layer, "polygon", np.asarray(points, np.float64) * SCALE, color, 0.0, True)


def stroke(points, color, width: float, layer: str = "body") -> Mark:
    return Mark(layer, "line", np.asarray(points, np.float64) * SCALE, color, width * SCALE, True)


def dot(x: float, y: float, color, radius: float, layer: str = "body") -> Mark:
    return Mark(layer, "dot", np.array([[x, y]]) * SCALE, color, radius * SCALE, True)


# ------------------------------------------------------------------------------ bags
def _tote(item: Item) -> Drawing:
    dark = shade(item.base, 0.7)
    body = [(-0.74, -0.2), (0.74, -0.2), (0.86, 0.95), (-0.86, 0.95)]
    return Drawing(
        [cloth(body)],
        [stroke(oval(0, -0.2, 0.36, 0.75, 180, 360), dark, 0.07, "back")]
        + [stroke([(-0.74, -0.12), (0.74, -0.12)], dark, 0.04)]
        + [stroke([(x, -0.17), (x, 0.06)], dark, 0.12) for x in (-0.34, 0.34)],
    )


def _clutch(item: Item) -> Drawing:
    body = soft([(-1, -0.42), (1, -0.42), (1, 0.5), (-1, 0.5)], 1)
    flap = np.array([(-0.97, -0.42), (0.97, -0.42), (0.06, 0.2), (-0.06, 0.2)])
    return Drawing(
        [cloth(body)],
        [area(flap, shade(item.base, 0.82)), dot(0, 0.13, BRASS, 0.08)],
    )


def _backpack(item: Item) -> Drawing:
    dark = shade(item.base, 0.72)
    body = soft([(-0.72, -0.35), (-0.5, -0.9), (0.5, -0.9), (0.72, -0.35), (0.76, 0.95), (-0.76, 0.95)])
    pocket = soft([(-0.5, 0.2), (0.5, 0.2), (0.54, 0.86), (-0.54, 0.86)], 1)
    return Drawing(
        [cloth(body)],
        [stroke(oval(0, -0.8, 0.2, 0.26, 180, 360), dark, 0.08, "back")]
        + [stroke([(s * 0.6, -0.4), (s * 0.95, 0.1), (s * 0.72, 0.75)], dark, 0.11, "back") for s in (-1, 1)]
        + [stroke(oval(0, -0.12, 0.6, 0.42, 180, 360), METAL, 0.035), area(pocket, shade(item.base, 0.84))]
        + [stroke([(-0.48, 0.34), (0.48, 0.34)], METAL, 0.035)],
    )


def _satchel(item: Item) -> Drawing:
    dark = shade(item.base, 0.66)
    body = soft([(-0.95, -0.3), (0.95, -0.3), (0.95, 0.85), (-0.95, 0.85)], 1)
    flap = soft([(-0.98, -0.34), (0.98, -0.34), (0.94, 0.36), (-0.94, 0.36)], 1)
    straps = []
    for x in (-0.5, 0.5):
        straps.append(area([(x - 0.09, -0.3), (x + 0.09, -0.3), (x + 0.09, 0.62), (x - 0.09, 0.62)], dark))
        straps.append(dot(x, 0.46, BRASS, 0.08))
    return Drawing(
        [cloth(body), cloth(flap)], [stroke(oval(0, -0.32, 0.3, 0.34, 180, 360), dark, 0.09, "back"), *straps]
    )


def _round_bag(item: Item) -> Drawing:
    dark = shade(item.base, 0.66)
    return Drawing(
        [cloth(oval(0, 0.34, 0.7, 0.66))],
        [stroke([(-0.62, 0.1), (-0.3, -1.0), (0.3, -1.0), (0.62, 0.1)], dark, 0.05, "back")]
        + [stroke(oval(0, 0.34, 0.6, 0.56, 205, 335), METAL, 0.04), dot(0, 0.55, BRASS, 0.09)],
    )


# ------------------------------------------------------------------------------ shoes, seen from the side
def _sneaker(item: Item) -> Drawing:
    upper = soft(
        [(-0.92, -0.42), (-0.3, -0.5), (0.05, -0.16), (0.6, 0.08), (1.0, 0.2), (1.02, 0.48), (-0.96, 0.48)], 1
    )
    eyes = (-0.12, -0.24), (0.04, -0.1), (0.22, -0.02)
    laces = [stroke([(x - 0.1, y + 0.08), (x + 0.06, y - 0.06)], SOLE, 0.05) for x, y in eyes]
    sole = soft([(-1.0, 0.36), (1.06, 0.36), (1.08, 0.62), (-0.98, 0.62)], 1)
    cap = soft([(0.62, 0.1), (1.0, 0.2), (1.04, 0.44), (0.6, 0.44)], 1)
    return Drawing([cloth(upper)], [area(cap, SOLE), area(sole, SOLE), *laces])


def _boot(item: Item) -> Drawing:
    upper = soft(
        [(-0.72, -1.0), (0.02, -1.0), (0.0, -0.05), (0.4, 0.12), (0.92, 0.34), (0.94, 0.6), (-0.76, 0.6)], 1
    )
    dark = shade(item.base, 0.45)
    sole = [(-0.74, 0.54), (0.96, 0.54), (0.96, 0.66), (-0.3, 0.66), (-0.3, 0.84), (-0.74, 0.84)]
    return Drawing([cloth(upper)], [area(sole, dark), stroke([(-0.7, -0.86), (0.0, -0.86)], dark, 0.06)])


def _pump(item: Item) -> Drawing:
    upper = soft(
        [
            (-0.95, -0.42),
            (-0.7, -0.3),
            (-0.2, 0.22),
            (0.3, 0.12),
            (1.08, 0.5),
            (1.0, 0.62),
            (0.4, 0.6),
            (-0.1, 0.5),
            (-0.6, 0.1),
            (-0.92, 0.05),
        ],
        1,
    )
    heel = [(-0.93, -0.02), (-0.66, 0.06), (-0.8, 0.84), (-0.9, 0.84)]
    return Drawing([cloth(upper)], [area(heel, shade(item.base, 0.6))])


def _flat(item: Item) -> Drawing:
    upper = soft(
        [
            (-0.98, 0.0),
            (-0.72, 0.02),
            (-0.4, 0.3),
            (0.2, 0.28),
            (0.4, 0.08),
            (0.98, 0.3),
            (1.02, 0.54),
            (-0.98, 0.54),
        ],
        1,
    )
    bow = [(0.2, 0.08), (0.42, 0.2), (0.64, 0.06), (0.62, 0.32), (0.42, 0.22), (0.22, 0.34)]
    sole = shade(item.base, 0.5)
    return Drawing([cloth(upper)], [stroke([(-0.96, 0.55), (1.0, 0.55)], sole, 0.07), area(bow, item.trim)])


def _sandal(item: Item) -> Drawing:
    sole = soft([(-1.0, 0.36), (1.05, 0.44), (1.05, 0.62), (-1.0, 0.66)], 1)
    toe = [(0.25, 0.46), (0.42, 0.08), (0.72, 0.12), (0.86, 0.48)]
    middle = [(-0.3, 0.46), (-0.12, -0.06), (0.16, -0.02), (0.1, 0.46)]
    ankle = [(-0.98, 0.4), (-0.98, -0.4), (-0.3, -0.46), (-0.28, -0.22), (-0.74, -0.18), (-0.74, 0.4)]
    return Drawing(
        [cloth(sole, "back"), cloth(ankle), cloth(middle), cloth(toe)],
        [area([(-1.0, 0.56), (1.05, 0.54), (1.05, 0.64), (-1.0, 0.7)], (120.0, 92.0, 62.0), "back")]
        + [dot(-0.4, -0.33, BRASS, 0.07)],
    )


# ------------------------------------------------------------------------------ hats
def _cap(item: Item) -> Drawing:
    dome = [(-0.75, 0.3), *oval(-0.05, 0.25, 0.7, 0.85, 180, 360), (0.65, 0.3)]
    visor = soft([(0.2, 0.18), (0.75, 0.14), (1.2, 0.4), (1.1, 0.52), (0.3, 0.42)], 1)
    dark = shade(item.base, 0.7)
    seams = [stroke([(-0.05, -0.58), (x, -0.1), (x * 1.05, 0.28)], dark, 0.03) for x in (-0.3, 0.3)]
    return Drawing([cloth(dome)], [area(visor, dark), *seams, dot(-0.05, -0.6, dark, 0.07)])


def _beanie(item: Item) -> Drawing:
    dome = [(-0.68, 0.4), *oval(0, 0.2, 0.68, 0.9, 180, 360), (0.68, 0.4)]
    band = soft([(-0.76, 0.28), (0.76, 0.28), (0.74, 0.76), (-0.74, 0.76)], 1)
    dark = shade(item.base, 0.72)
    ribs = [stroke([(x, 0.34), (x, 0.72)], dark, 0.03) for x in np.linspace(-0.62, 0.62, 8)]
    return Drawing(
        [cloth(dome)], [dot(0, -0.84, shade(item.trim, 1.1), 0.22), area(band, shade(item.base, 0.9)), *ribs]
    )


def _sun_hat(item: Item) -> Drawing:
    brim = oval(0, 0.42, 1.15, 0.36)
    crown = [(-0.52, 0.4), *oval(0, 0.2, 0.5, 0.72, 180, 360), (0.52, 0.4)]
    ribbon = [(-0.53, 0.12), (0.53, 0.12), (0.55, 0.36), (0.0, 0.46), (-0.55, 0.36)]
    return Drawing([cloth(brim, "back"), cloth(crown)], [area(ribbon, item.trim)])


def _beret(item: Item) -> Drawing:
    body = soft(
        [(-1.0, 0.1), (-0.7, -0.42), (0.1, -0.6), (0.85, -0.36), (0.9, 0.1), (0.5, 0.36), (-0.5, 0.36)]
    )
    dark = shade(item.base, 0.66)
    band = soft([(-0.52, 0.26), (0.52, 0.26), (0.48, 0.48), (-0.48, 0.48)], 1)
    return Drawing([cloth(body)], [area(band, dark), stroke([(0.0, -0.5), (0.08, -0.72)], dark, 0.09)])


def _bucket_hat(item: Item) -> Drawing:
    crown = soft([(-0.5, -0.62), (0.5, -0.62), (0.62, 0.15), (-0.62, 0.15)], 1)
    brim = [(-0.62, 0.06), (0.62, 0.06), (1.0, 0.62), (0.5, 0.74), (-0.5, 0.74), (-1.0, 0.62)]
    dark = shade(item.base, 0.7)
    rows = [stroke([(-w, y), (w, y)], dark, 0.025) for w, y in ((0.74, 0.26), (0.84, 0.42))]
    return Drawing([cloth(crown), cloth(brim)], [stroke([(-0.62, 0.08), (0.62, 0.08)], dark, 0.05), *rows])


# ------------------------------------------------------------------------------ scarves
def _fringe(left: float, right: float, y: float, color, layer: str = "body") -> list[Mark]:
    places = np.linspace(left + 0.04, right - 0.04, round(12 * (right - left)))
    return [stroke([(x, y), (x, y + 0.16)], color, 0.03, layer) for x in places]


def _scarf(item: Item) -> Drawing:
    """Around a neck, both ends hanging."""
    loop = soft([(-0.6, -0.75), (0.6, -0.75), (0.72, -0.3), (0.0, 0.0), (-0.72, -0.3)])
    hole = oval(0, -0.62, 0.3, 0.14)
    left = [(-0.45, -0.3), (-0.05, -0.15), (-0.1, 0.85), (-0.6, 0.85)]
    right = [(0.02, -0.15), (0.42, -0.3), (0.62, 0.62), (0.14, 0.62)]
    color = shade(item.base, 0.8)
    return Drawing(
        [cloth(left, "back", 6), cloth(right, "back", -8), cloth(loop, turn=90)],
        [
            *_fringe(-0.6, -0.1, 0.85, color),
            *_fringe(0.14, 0.62, 0.62, color),
            area(hole, shade(item.base, 0.45)),
        ],
    )


def _shawl(item: Item) -> Drawing:
    """Folded once, the lower layer looking out."""
    lower = [(-0.9, -0.5), (0.9, -0.5), (0.9, 0.72), (-0.9, 0.72)]
    upper = [(-0.9, -0.62), (0.9, -0.62), (0.86, 0.42), (-0.94, 0.48)]
    color = shade(item.base, 0.8)
    return Drawing([cloth(lower, "back"), cloth(upper)], _fringe(-0.9, 0.9, 0.72, color, "back"))


def _bandana(item: Item) -> Drawing:
    """A square folded to a triangle, its ends knotted above."""
    cloths = [(-0.85, -0.4), (0.85, -0.4), (0.0, 0.95)]
    ends = [[(0, -0.42), (s * 0.5, -0.9), (s * 0.62, -0.62)] for s in (-1, 1)]
    border = [(-0.68, -0.3), (0.68, -0.3), (0.0, 0.76), (-0.68, -0.3)]
    return Drawing(
        [*(cloth(end, "back") for end in ends), cloth(cloths)],
        [stroke(border, item.accent, 0.04), dot(0, -0.44, shade(item.base, 0.75), 0.14)],
    )


# ------------------------------------------------------------------------------ sunglasses
def _glasses(item: Item, right_rim, right_lens, bridge: float, arms: float = -0.2) -> Drawing:
    """Two rims that mirror each other, a bridge at height `bridge`, temples going back."""
    rim, lens = np.asarray(right_rim, np.float64), np.asarray(right_lens, np.float64)
    rims = [cloth(rim * (s, 1)) for s in (-1, 1)]
    glass = [area(lens * (s, 1), LENS) for s in (-1, 1)]
    shine = [stroke([(x - 0.1, 0.12), (x + 0.1, -0.1)], (150.0, 156.0, 172.0), 0.05) for x in (-0.52, 0.52)]
    outer, dark = float(rim[:, 0].max()), shade(item.base, 0.8)
    temples = [
        stroke([(s * (outer - 0.06), arms), (s * (outer + 0.1), arms - 0.34)], dark, 0.12, "back")
        for s in (-1, 1)
    ]
    middle = stroke([(-0.22, bridge), (0, bridge - 0.08), (0.22, bridge)], item.base, 0.12)
    return Drawing(rims, [*temples, middle, *glass, *shine])


def _round_glasses(item: Item) -> Drawing:
    return _glasses(item, oval(0.54, 0, 0.5, 0.5), oval(0.54, 0, 0.3, 0.3), -0.08)


def _square_glasses(item: Item) -> Drawing:
    rim = [(0.06, -0.44), (1.02, -0.44), (1.02, 0.42), (0.06, 0.42)]
    lens = [(0.24, -0.25), (0.84, -0.25), (0.84, 0.24), (0.24, 0.24)]
    return _glasses(item, rim, lens, -0.2)


def _cat_eye(item: Item) -> Drawing:
    rim = soft([(0.06, -0.18), (0.5, -0.32), (1.16, -0.78), (1.0, 0.2), (0.6, 0.5), (0.16, 0.36)], 1)
    lens = soft([(0.26, -0.06), (0.54, -0.12), (0.88, -0.3), (0.8, 0.12), (0.56, 0.28), (0.32, 0.2)], 1)
    return _glasses(item, rim, lens, -0.06, -0.4)


def _aviator(item: Item) -> Drawing:
    rim = soft([(0.05, -0.42), (1.04, -0.42), (1.06, 0.0), (0.74, 0.66), (0.44, 0.66), (0.1, 0.15)])
    lens = soft([(0.2, -0.27), (0.86, -0.27), (0.88, 0.0), (0.68, 0.46), (0.48, 0.46), (0.24, 0.1)])
    drawing = _glasses(item, rim, lens, -0.12)
    return drawing._replace(marks=[*drawing.marks, stroke([(-0.5, -0.46), (0.5, -0.46)], item.base, 0.1)])


def _shield(item: Item) -> Drawing:
    frame = mirror([(0, -0.4), (0.7, -0.42), (1.1, -0.2), (1.02, 0.28), (0.5, 0.46), (0.18, 0.3), (0, 0.16)])
    lens = mirror([(0, -0.2), (0.66, -0.22), (0.88, -0.06), (0.82, 0.14), (0.5, 0.25), (0.2, 0.1), (0, 0.0)])
    temples = [
        stroke([(s * 1.02, -0.1), (s * 1.16, -0.4)], shade(item.base, 0.8), 0.14, "back") for s in (-1, 1)
    ]
    return Drawing([cloth(frame)], [*temples, area(lens, LENS)])


SHAPES: dict[str, Callable[[Item], Drawing]] = {
    **{"tote": _tote, "clutch": _clutch, "backpack": _backpack, "satchel": _satchel, "round_bag": _round_bag},
    **{"sneaker": _sneaker, "boot": _boot, "pump": _pump, "flat": _flat, "sandal": _sandal},
    **{"cap": _cap, "beanie": _beanie, "sun_hat": _sun_hat, "beret": _beret, "bucket_hat": _bucket_hat},
    **{"scarf": _scarf, "shawl": _shawl, "bandana": _bandana},
    **{"round_glasses": _round_glasses, "square_glasses": _square_glasses, "cat_eye": _cat_eye},
    **{"aviator": _aviator, "shield": _shield},
}
