"""Parametric garments on a posed figure: outlines per part, drawn details, and the DeepFashion landmarks.

Landmark slots by garment type: upper left/right collar, sleeve, hem; lower left/right waistline, hem; full left/right
collar, sleeve, waistline, hem. Left is the left of the picture, so a horizontal flip swaps the two of a pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.figure import (
    BODY_X,
    BODY_Y,
    Figure,
    Limb,
    along,
    normals,
    tube,
    warp,
)
from tfds_builders.synthetic_fashion.world import Item

LEG_TOP, LEG_BOTTOM = 2.85, 6.7  # y of hip joint and ankle: a hem at y lies at this part of the leg
SLOTS = {"upper": 6, "lower": 4, "full": 8}


class Part(NamedTuple):
    """A piece of cloth. outline [n 2] posed body units; layer says when it is drawn; angle turns the pattern."""

    layer: str  # "body", "leg0", "leg1", "arm0", "arm1", "hood"
    outline: np.ndarray
    origin: np.ndarray
    angle: float


class Mark(NamedTuple):
    """A detail on a layer. owner: True belongs to the garment, False uncovers what is beneath, None only paint."""

    layer: str
    shape: str  # "line", "polygon", "dot"
    points: np.ndarray
    color: tuple
    size: float = 0.0
    owner: bool | None = None


class Garment(NamedTuple):
    parts: list[Part]
    marks: list[Mark]
    landmark: np.ndarray  # [8 2] posed body units
    layer: tuple[str, ...]  # the part each landmark must lie on to be seen; "" = slot not used


def _mirror(right) -> np.ndarray:
    """A half outline from top centre down the right side → closed outline, right side then left side upwards."""
    right = np.asarray(right, np.float64)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def half_width(item: Item, y) -> np.ndarray:
    """Half width of a garment at torso height y: body plus ease, less waist the looser it is."""
    y = np.asarray(y, np.float64)
    body = np.interp(y, BODY_Y, BODY_X)
    straight = np.interp(y, [0.95, 2.7], [0.82, 0.9])
    loose = {"slim": 0.0, "regular": 0.5, "loose": 0.95}[item.fit]
    return body + loose * np.maximum(straight - body, 0) + item.ease


def _neckline(item: Item) -> tuple[float, float, list]:
    """Half width and height of the collar point, and the edge from the right collar point to the centre front."""
    wide, deep = item.neck
    if item.neckline == "high":
        return 0.37, -0.3, [(0.37, -0.3), (0.2, -0.24), (0.0, -0.22)]
    if item.neckline == "v_neck":
        return 0.44 * wide, 0.02, [(0.44 * wide, 0.02), (0.0, 0.95 * deep)]
    if item.neckline == "lapel":
        return 0.42, 0.0, [(0.42, 0.0), (0.0, 1.35 * deep)]
    if item.neckline == "collar":
        return 0.4, 0.0, [(0.4, 0.0), (0.0, 0.42 * deep)]
    if item.neckline == "square":
        return 0.56 * wide, 0.1, [(0.56 * wide, 0.1), (0.53 * wide, 0.62 * deep), (0.0, 0.62 * deep)]
    depth, half = {"crew": (0.3, 0.42), "scoop": (0.82, 0.56), "hood": (0.36, 0.44)}[item.neckline]
    half, depth = half * wide, depth * deep
    arc = np.linspace(0, np.pi / 2, 6)
    edge = [(half * np.cos(t), 0.04 + depth * np.sin(t)) for t in arc]
    return half, 0.04, edge


def _shoulder(item: Item) -> list:
    """Right side from collar point to armpit."""
    if item.sleeve == "sleeveless":
        strap = max(0.68, _neckline(item)[0] + 0.16)
        return [(strap, 0.14), (strap - 0.02, 0.42), (0.7, 0.7), (0.82 + item.ease * 0.5, 0.98)]
    drop = item.ease * 0.3
    return [(0.76, 0.16), (0.93 + drop, 0.28), (0.99 + drop, 0.5), (half_width(item, 0.98), 0.98)]


def _side(item: Item, hem_y: float, flare_from: float) -> list:
    """Right side from below the armpit to the hem corner."""
    ys = np.linspace(1.2, hem_y, max(4, int((hem_y - 1.2) * 3)))
    widths = half_width(item, ys) + item.flare * np.maximum(ys - flare_from, 0)
    return list(zip(widths, ys))


def _torso(item: Item, figure: Figure, hem_y: float, flare_from: float) -> tuple[Part, float]:
    """The part that covers the trunk, and the half width of its hem."""
    _, _, neck = _neckline(item)
    side = _side(item, hem_y, flare_from)
    right = neck[::-1] + _shoulder(item) + side
    sag = 0.07 if item.category not in ("shirt",) else -0.16
    right += [(side[-1][0] * 0.5, hem_y + abs(sag)), (0.0, hem_y + 0.07)] if sag > 0 else [
        (side[-1][0] * 0.6, hem_y + 0.2), (0.0, hem_y + 0.24)
    ]  # fmt: skip
    return Part("body", warp(figure, _mirror(right)), warp(figure, [[0, 0]])[0], 0.0), float(side[-1][0])


def _sleeve(item: Item, limb: Limb, side: int) -> Part:
    wide = item.ease
    cuff = 0.21 + wide * (0.5 if item.category != "robe" else 1.1)
    widths = [0.36 + wide * 0.35, 0.3 + wide * 0.6, cuff]
    if item.sleeve == "short":
        widths = [0.38 + wide * 0.4, 0.38 + wide * 0.7, 0.3]
    outline = tube(limb.path, [0.0, 0.45, 1.0], widths, item.reach)
    heading = limb.path[4] - limb.path[0]
    return Part(f"arm{side}", outline, limb.path[0], float(np.arctan2(-heading[0], heading[1])))


def _sleeve_landmark(item: Item, figure: Figure, side: int) -> tuple[np.ndarray, str]:
    """Middle of the cuff; without sleeves the shoulder end of the strap."""
    if item.sleeve == "sleeveless":
        strap = _shoulder(item)[0]
        sign = 1 if side else -1
        return warp(figure, [[sign * (strap[0] - 0.05), strap[1] + 0.1]])[0], "body"
    reach = max(item.reach - 0.025, 0.05)
    return along(figure.arms[side].path, [reach])[0], f"arm{side}"


def _pant_leg(item: Item, limb: Limb, side: int) -> Part:
    reach = np.clip((item.hem_y - LEG_TOP) / (LEG_BOTTOM - LEG_TOP), 0.08, 0.99)
    wide = item.ease
    knee = 0.33 + wide * 0.6
    bottom = 0.22 + wide * 0.55 + item.flare * 0.55
    if item.category == "leggings":
        knee, bottom = 0.29, 0.18
    outline = tube(
        limb.path,
        [0.0, 0.14, 0.5, 1.0],
        [0.44 + wide * 0.4, 0.47 + wide * 0.5, knee, bottom],
        float(reach),
        10,
    )
    heading = limb.path[6] - limb.path[0]
    return Part(f"leg{side}", outline, limb.path[0], float(np.arctan2(-heading[0], heading[1])))


def _leg_landmark(item: Item, figure: Figure, side: int) -> np.ndarray:
    """On the hem of a trouser leg, towards its outer corner."""
    part = _pant_leg(item, figure.legs[side], side)
    half = len(part.outline) // 2
    one, other = part.outline[half - 1], part.outline[half]
    above = (part.outline[half - 2] + part.outline[half + 1]) / 2
    outer, inner = (one, other) if (one[0] > other[0]) == bool(side) else (other, one)
    point = outer * 0.8 + inner * 0.2
    step = above - (one + other) / 2
    return point + 0.07 * step / max(np.hypot(*step), 1e-9)


def _pelvis(item: Item, figure: Figure, top: float, bottom: float = 3.3) -> Part:
    """Waistband to crotch of trousers."""
    ys = np.linspace(top, 2.85, 5)
    right = [(0.0, top + 0.05), *zip(half_width(item, ys) - 0.02 * (item.category == "leggings"), ys)]
    right += [(0.8 + item.ease * 0.5, 3.0), (0.3, 3.12), (0.0, bottom)]
    return Part("body", warp(figure, _mirror(right)), warp(figure, [[0, 0]])[0], 0.0)


def _pair(figure: Figure, x: float, y: float) -> list[np.ndarray]:
    return [warp(figure, [[-x, y]])[0], warp(figure, [[x, y]])[0]]


def _line(figure, layer, points, color, size=0.045, owner=None) -> Mark:
    return Mark(layer, "line", warp(figure, points), color, size, owner)


def _both(figure, layer, shape, points, color, size=0.045, owner=None) -> list[Mark]:
    """A detail and its mirror image."""
    points = np.asarray(points, np.float64)
    return [Mark(layer, shape, warp(figure, points * (sign, 1)), color, size, owner) for sign in (-1, 1)]


def _dark(color, factor=0.62) -> tuple:
    return tuple(float(v) * factor for v in color)


def _neck_details(item: Item, figure: Figure) -> list[Mark]:
    half, top, edge = _neckline(item)
    trim = item.trim
    if item.neckline == "collar":
        tip = [(0.1, 0.36), (0.4, -0.12), (0.56, 0.1), (0.42, 0.62)]
        light = tuple(min(255.0, v * 0.92 + 20) for v in item.base)
        return _both(figure, "body", "polygon", tip, light, owner=True)
    if item.neckline == "lapel":
        bottom = edge[-1][1]
        flap = [
            (0.38, -0.08),
            (0.52, 0.1),
            (0.62, 0.52),
            (0.42, 0.58),
            (0.5, 0.72),
            (0.04, bottom + 0.06),
            (0.0, bottom),
        ]
        return _both(figure, "body", "polygon", flap, _dark(item.base, 0.8), owner=True)
    if item.neckline == "hood":
        hood = [(0.0, 0.5), (0.42, 0.26), (0.78, 0.12), (0.8, -0.3), (0.55, -0.42), (0.36, -0.1)]
        marks = _both(figure, "hood", "polygon", hood, _dark(item.base, 0.85), owner=True)
        cord = (235.0, 235.0, 230.0)
        return marks + _both(figure, "body", "line", [(0.17, 0.42), (0.2, 1.15)], cord, 0.06)
    if item.neckline == "high":
        band = [(-0.37, 0.02), (0.0, 0.1), (0.37, 0.02)]
        return [
            _line(figure, "body", band, _dark(item.base)),
            _line(figure, "body", np.add(band, (0, -0.16)), _dark(item.base, 0.75)),
        ]
    ribbing = [(-x, y) for x, y in edge] + edge[::-1]
    return [_line(figure, "body", ribbing, trim, 0.1 if item.category in ("sweater", "tee") else 0.06)]


def _closure_details(item: Item, figure: Figure, start: float, stop: float, wrap: float = 0.0) -> list[Mark]:
    line = _dark(item.base)
    if item.closure == "zip":
        metal = (214.0, 214.0, 206.0) if sum(item.base) < 480 else (70.0, 70.0, 74.0)
        return [
            _line(figure, "body", [(0, start), (0, stop)], metal, 0.1),
            _line(figure, "body", [(0, start), (0, stop)], line, 0.03),
        ]
    if item.closure != "button":
        return []
    button = (245.0, 242.0, 230.0) if sum(item.base) < 420 else (58.0, 48.0, 44.0)
    marks = [_line(figure, "body", [(0.12 - wrap, start), (0.12 + wrap, stop)], line, 0.035)]
    columns = (-0.3, 0.3) if item.category == "coat" else (0.0,)
    count = {"blazer": 2, "coat": 3}.get(item.category, 5)
    last = (
        stop - 0.2
        if item.category not in ("blazer", "coat")
        else start + (0.55 if item.category == "blazer" else 1.1)
    )
    for y in np.linspace(start + 0.12, last, count):
        marks += [Mark("body", "dot", warp(figure, [[x, y]]), button, 0.075) for x in columns]
    return marks


def _cuffs(item: Item, figure: Figure, size: float) -> list[Mark]:
    """A band at the end of each sleeve."""
    marks = []
    for side in (0, 1):
        outline = _sleeve(item, figure.arms[side], side).outline
        half = len(outline) // 2
        a, b = outline[half - 1], outline[half]
        back = along(figure.arms[side].path, [max(item.reach - size, 0.0)])[0] - (a + b) / 2
        marks.append(Mark(f"arm{side}", "polygon", np.stack([a, b, b + back, a + back]), item.trim))
    return marks


def _belt(item: Item, figure: Figure, y: float, knot: bool) -> list[Mark]:
    width = float(half_width(item, y)) + 0.02
    band = [(-width, y - 0.11), (width, y - 0.11), (width, y + 0.11), (-width, y + 0.11)]
    marks = [Mark("body", "polygon", warp(figure, band), item.trim)]
    if knot:
        for x in (0.1, 0.3):
            marks.append(_line(figure, "body", [(0.16, y), (x, y + 0.95)], item.trim, 0.13))
        marks.append(Mark("body", "dot", warp(figure, [[0.16, y]]), _dark(item.trim, 0.8), 0.16))
    else:
        marks.append(
            Mark(
                "body",
                "polygon",
                warp(figure, [(-0.12, y - 0.13), (0.12, y - 0.13), (0.12, y + 0.13), (-0.12, y + 0.13)]),
                (206.0, 176.0, 92.0),
            )
        )
    return marks


def _upper_details(item: Item, figure: Figure, hem: float) -> list[Mark]:
    dark = _dark(item.base)
    marks = _neck_details(item, figure)
    _, _, edge = _neckline(item)
    if item.neckline == "lapel":
        inner = [(-0.42, 0.0), (0.42, 0.0), (0.0, edge[-1][1])]
        shade = (242.0, 240.0, 236.0) if sum(item.base) < 500 else (70.0, 78.0, 96.0)
        marks.insert(0, Mark("body", "polygon", warp(figure, inner), shade, owner=False))
    marks += _closure_details(item, figure, edge[-1][1] + 0.05, item.hem_y - 0.02)
    if item.category in ("sweater", "jacket", "hoodie"):
        band = [
            (-hem, item.hem_y - 0.2),
            (hem, item.hem_y - 0.2),
            (hem, item.hem_y + 0.02),
            (0, item.hem_y + 0.08),
            (-hem, item.hem_y + 0.02),
        ]
        marks.append(Mark("body", "polygon", warp(figure, band), item.trim))
        marks += _cuffs(item, figure, 0.08)
    if item.category == "shirt":
        pocket = [(0.24, 0.95), (0.58, 0.95), (0.58, 1.3), (0.41, 1.38), (0.24, 1.3), (0.24, 0.95)]
        marks.append(_line(figure, "body", pocket, dark, 0.04))
        if item.sleeve == "long":
            marks += _cuffs(item, figure, 0.06)
    if item.category == "hoodie":
        pouch = [
            (-0.55, item.hem_y - 0.25),
            (-0.32, item.hem_y - 0.75),
            (0.32, item.hem_y - 0.75),
            (0.55, item.hem_y - 0.25),
        ]
        marks.append(_line(figure, "body", [*pouch, pouch[0]], dark, 0.06))
    if item.category == "jacket":
        marks += _both(
            figure, "body", "line", [(0.36, item.hem_y - 0.42), (0.6, item.hem_y - 0.78)], dark, 0.07
        )
    if item.category in ("blazer", "coat"):
        at = min(item.hem_y - 0.35, 2.35 if item.category == "blazer" else 2.7)
        marks += _both(
            figure,
            "body",
            "polygon",
            [(0.34, at), (0.74, at), (0.74, at + 0.16), (0.34, at + 0.16)],
            _dark(item.base, 0.75),
        )
    return marks


def _lower_details(item: Item, figure: Figure, top: float, legs: bool) -> list[Mark]:
    dark = _dark(item.base)
    width = float(half_width(item, top))
    high = 0.34 if item.category == "leggings" else 0.2
    below = float(half_width(item, top + high))
    band = [
        (-width, top),
        (0, top + 0.05),
        (width, top),
        (below, top + high),
        (0, top + high + 0.05),
        (-below, top + high),
    ]
    marks = [
        Mark(
            "body",
            "polygon",
            warp(figure, band),
            _dark(item.base, 0.78) if item.category != "leggings" else item.trim,
        )
    ]
    if item.category == "jeans":
        seam = (226.0, 170.0, 84.0)
        marks += _both(
            figure,
            "body",
            "line",
            [(0.3, top + 0.24), (0.42, top + 0.55), (below + 0.02, top + 0.66)],
            seam,
            0.055,
        )
        marks.append(
            _line(figure, "body", [(0.0, top + 0.25), (0.13, top + 0.8), (0.0, top + 1.0)], seam, 0.05)
        )
        for side in (0, 1):
            marks.append(
                Mark(
                    f"leg{side}",
                    "line",
                    along(figure.legs[side].path, np.linspace(0.1, 0.9, 6))
                    + normals(figure.legs[side].path)[[0]] * 0,
                    seam,
                    0.0,
                )
            )
        marks = [m for m in marks if m.shape != "line" or m.size > 0]
    if item.category in ("trousers", "shorts"):
        marks += _both(figure, "body", "line", [(0.42, top + 0.22), (0.68, top + 0.7)], dark, 0.055)
        marks.append(_line(figure, "body", [(0.0, top + 0.22), (0.0, top + 0.95)], dark, 0.04))
    if item.category == "trousers":
        reach = (item.hem_y - LEG_TOP) / (LEG_BOTTOM - LEG_TOP)
        for side in (0, 1):
            marks.append(
                Mark(
                    f"leg{side}",
                    "line",
                    along(figure.legs[side].path, np.linspace(0.05, reach, 6)),
                    dark,
                    0.045,
                )
            )
    if item.category == "skirt":
        marks += _closure_details(item, figure, top + 0.25, item.hem_y - 0.05)
        if item.fit == "loose":
            for x in (-0.6, -0.2, 0.25, 0.62):
                end = x * (1 + item.flare * (item.hem_y - top) / 0.9)
                marks.append(
                    _line(figure, "body", [(x, top + 0.4), (end, item.hem_y)], _dark(item.base, 0.78), 0.045)
                )
    elif item.closure == "button":
        marks.append(Mark("body", "dot", warp(figure, [[0.0, top + 0.14]]), (216.0, 190.0, 120.0), 0.09))
    if item.closure == "belt":
        marks += _belt(
            item._replace(trim=(84.0, 56.0, 36.0) if sum(item.base) > 260 else (190.0, 150.0, 96.0)),
            figure,
            top + 0.12,
            False,
        )
    return marks


def _upper(item: Item, figure: Figure) -> Garment:
    torso, hem = _torso(item, figure, item.hem_y, 1.9)
    parts = [torso]
    if item.sleeve != "sleeveless":
        parts += [_sleeve(item, figure.arms[side], side) for side in (0, 1)]
    half, top, _ = _neckline(item)
    points = _pair(figure, half + 0.07, top + 0.1)
    layers = ["body", "body"]
    for side in (0, 1):
        point, layer = _sleeve_landmark(item, figure, side)
        points.append(point)
        layers.append(layer)
    points += _pair(figure, hem - 0.09, item.hem_y - 0.07)
    layers += ["body", "body"]
    return Garment(parts, _upper_details(item, figure, hem), _slots(points), (*layers, "", ""))


def _slots(points) -> np.ndarray:
    slots = np.zeros((8, 2))
    slots[: len(points)] = points
    return slots


def _lower(item: Item, figure: Figure) -> Garment:
    top = item.waist_y
    waist = _pair(figure, float(half_width(item, top + 0.08)) - 0.08, top + 0.09)
    if item.category == "skirt":
        ys = np.linspace(top, item.hem_y, 8)
        body = np.interp(ys, BODY_Y, BODY_X) + item.ease * 0.4 + item.flare * 1.5 * np.maximum(ys - top, 0)
        if item.fit == "slim":
            body = np.minimum(body, 0.92) - 0.05 * np.maximum(ys - 3.0, 0)
        right = [
            (0.0, top + 0.05),
            *zip(body, ys),
            (body[-1] * 0.5, item.hem_y + 0.1),
            (0.0, item.hem_y + 0.13),
        ]
        parts = [Part("body", warp(figure, _mirror(right)), warp(figure, [[0, 0]])[0], 0.0)]
        hems, layer = _pair(figure, float(body[-1]) - 0.1, item.hem_y - 0.07), ("body", "body")
    else:
        parts = [_pant_leg(item, figure.legs[side], side) for side in (0, 1)] + [_pelvis(item, figure, top)]
        hems, layer = [_leg_landmark(item, figure, side) for side in (0, 1)], ("leg0", "leg1")
    details = _lower_details(item, figure, top, item.category != "skirt")
    return Garment(parts, details, _slots([*waist, *hems]), ("body", "body", *layer, "", "", "", ""))


def _full(item: Item, figure: Figure) -> Garment:
    half, top, _ = _neckline(item)
    fitted = item.category in ("dress", "jumpsuit")
    waist = 1.95
    if item.category == "jumpsuit":
        torso, _ = _torso(item._replace(hem_y=2.95), figure, 2.95, 9.0)
        parts = [_pant_leg(item, figure.legs[side], side) for side in (0, 1)] + [torso]
        hems, hem_layers = [_leg_landmark(item, figure, side) for side in (0, 1)], ["leg0", "leg1"]
        hem = 0.9
    else:
        cut = (
            item._replace(flare=item.flare * 1.5 + 0.02)
            if fitted
            else item._replace(flare=item.flare * 0.5 + 0.03)
        )
        torso, hem = _torso(cut, figure, item.hem_y, waist)
        parts, hems, hem_layers = [torso], _pair(figure, hem - 0.12, item.hem_y - 0.08), ["body", "body"]
    if item.sleeve != "sleeveless":
        parts += [_sleeve(item, figure.arms[side], side) for side in (0, 1)]
    points, layers = _pair(figure, half + 0.07, top + 0.1), ["body", "body"]
    for side in (0, 1):
        point, layer = _sleeve_landmark(item, figure, side)
        points.append(point)
        layers.append(layer)
    points += _pair(figure, float(half_width(item, waist)) - 0.1, waist) + hems
    marks = _upper_details(item, figure, hem)
    if item.closure == "belt":
        marks += _belt(item, figure, waist, item.category in ("robe", "coat"))
    elif fitted:
        width = float(half_width(item, waist))
        marks.append(
            _line(
                figure, "body", [(-width, waist), (0, waist + 0.05), (width, waist)], _dark(item.base), 0.06
            )
        )
    if item.category == "robe":
        edge = _neckline(item)[2][-1][1]
        marks.append(_line(figure, "body", [(-0.44, 0.02), (0.0, edge), (0.3, item.hem_y)], item.trim, 0.16))
        marks.append(_line(figure, "body", [(0.44, 0.02), (0.0, edge)], item.trim, 0.16))
        marks += _cuffs(item, figure, 0.07)
    if item.category == "coat" and item.closure == "belt":
        marks.append(_line(figure, "body", [(0.1, edge_y(item)), (0.1, item.hem_y)], _dark(item.base), 0.05))
    return Garment(parts, marks, _slots(points), tuple(layers + ["body", "body"] + hem_layers))


def edge_y(item: Item) -> float:
    """Height of the lowest point of the neckline."""
    return float(_neckline(item)[2][-1][1])


def make_garment(item: Item, figure: Figure) -> Garment:
    """The item worn by the figure."""
    return {"upper": _upper, "lower": _lower, "full": _full}[item.garment_type](item, figure)
