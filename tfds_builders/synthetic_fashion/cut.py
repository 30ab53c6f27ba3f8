"""How clothes are cut: the outlines of trunk, sleeve, trouser leg and pelvis on a posed figure.

Outlines of the trunk are given by their right half in the upright front view, mirrored, and warped onto the
pose.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.figure import BODY_X, BODY_Y, Figure, Limb, tube, warp
from tfds_builders.synthetic_fashion.world import Item

LEG_TOP, LEG_BOTTOM = 2.85, 6.7  # y of hip joint and ankle: a hem at y lies at this part of the leg


class Part(NamedTuple):
    """A piece of cloth. outline [n 2] posed body units; edge [m 2] the line drawn, the outline without
    seams.
    """

    layer: str  # "body", "leg0", "leg1", "arm0", "arm1": when it is drawn
    outline: np.ndarray
    origin: np.ndarray
    angle: float  # of the pattern, radians
    edge: np.ndarray


def mirror(right) -> np.ndarray:
    """A half outline, top centre down the right side to the bottom centre → the closed outline."""
    right = np.asarray(right, np.float64)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def front(figure: Figure, right, seam: int | None = None) -> Part:
    """A part on the trunk; `seam` = how many last points of the half outline are sewn on and not an edge."""
    outline = warp(figure, mirror(right))
    half = len(outline) // 2
    if seam is None:
        edge = np.concatenate([outline, outline[:1]])
    else:
        edge = np.concatenate([outline[half + seam :], outline[: half - seam]])
    return Part("body", outline, warp(figure, [[0, 0]])[0], 0.0, edge)


def half_width(item: Item, y) -> np.ndarray:
    """Half width of a garment at torso height y: body plus ease, less waist the looser it is."""
    body = np.interp(y, BODY_Y, BODY_X)
    straight = np.interp(y, [0.95, 2.7], [0.82, 0.9])
    loose = {"slim": 0.0, "regular": 0.5, "loose": 0.95}[item.fit]
    return body + loose * np.maximum(straight - body, 0) + item.ease


def neckline(item: Item) -> list[tuple[float, float]]:
    """The edge from the right collar point to the centre front."""
    wide, deep = item.neck
    corners = {
        "high": [(0.37, -0.3), (0.2, -0.24), (0.0, -0.22)],
        "v_neck": [(0.44 * wide, 0.02), (0.0, 0.95 * deep)],
        "lapel": [(0.42, 0.0), (0.0, 1.35 * deep)],
        "collar": [(0.4, 0.0), (0.0, 0.42 * deep)],
        "square": [(0.56 * wide, 0.1), (0.53 * wide, 0.62 * deep), (0.0, 0.62 * deep)],
    }
    if item.neckline in corners:
        return corners[item.neckline]
    half, depth = {"crew": (0.42, 0.3), "scoop": (0.56, 0.82), "hood": (0.44, 0.36)}[item.neckline]
    turn = np.linspace(0, np.pi / 2, 6)
    return [(half * wide * np.cos(t), 0.04 + depth * deep * np.sin(t)) for t in turn]


def shoulder(item: Item) -> list[tuple[float, float]]:
    """Right side from collar point to armpit."""
    if item.sleeve == "sleeveless":
        strap = max(0.68, neckline(item)[0][0] + 0.16)
        return [(strap, 0.14), (strap - 0.02, 0.42), (0.7, 0.7), (0.82 + item.ease * 0.5, 0.98)]
    drop = item.ease * 0.3
    return [(0.76, 0.16), (0.93 + drop, 0.28), (0.99 + drop, 0.5), (half_width(item, 0.98), 0.98)]


def trunk(
    item: Item, figure: Figure, hem_y: float, flare: float, seam: int | None = None
) -> tuple[Part, float]:
    """Neck to hem in one piece, wider by `flare` per unit below the waist → the part, half width of its
    hem.
    """
    ys = np.linspace(1.2, hem_y, max(4, int((hem_y - 1.2) * 3)))
    widths = half_width(item, ys) + flare * np.maximum(ys - 1.9, 0)
    hem = float(widths[-1])
    sag = 0.2 if item.category == "shirt" else 0.07  # shirt tails
    bottom = [(hem * 0.55, hem_y + sag), (0.0, hem_y + sag + 0.02)]
    right = [*neckline(item)[::-1], *shoulder(item), *zip(widths, ys), *bottom]
    return front(figure, right, seam), hem


def _limb_part(name: str, limb: Limb, outline: np.ndarray) -> Part:
    heading = limb.path[len(limb.path) // 2] - limb.path[0]
    angle = float(np.arctan2(-heading[0], heading[1]))
    return Part(name, outline, limb.path[0], angle, outline[1:-1])


def sleeve(item: Item, limb: Limb, side: int) -> Part:
    wide = item.ease
    cuff = 0.21 + wide * (1.1 if item.category == "robe" else 0.5)
    widths = [0.2, 0.33 + wide * 0.4, 0.3 + wide * 0.6, cuff]
    if item.sleeve == "short":
        widths = [0.2, 0.36 + wide * 0.45, 0.38 + wide * 0.7, 0.3]
    outline = tube(limb.path, [0.0, 0.12, 0.45, 1.0], widths, item.reach, 12)
    return _limb_part(f"arm{side}", limb, outline)


def leg_reach(item: Item) -> float:
    """Part of the leg that trousers of this hem cover."""
    return float(np.clip((item.hem_y - LEG_TOP) / (LEG_BOTTOM - LEG_TOP), 0.08, 0.99))


def trouser_leg(item: Item, limb: Limb, side: int) -> Part:
    wide = item.ease
    knee, bottom = 0.33 + wide * 0.6, 0.22 + wide * 0.55 + item.flare * 0.55
    if item.category == "leggings":
        knee, bottom = 0.29, 0.18
    widths = [0.44 + wide * 0.4, 0.47 + wide * 0.5, knee, bottom]
    return _limb_part(f"leg{side}", limb, tube(limb.path, [0.0, 0.14, 0.5, 1.0], widths, leg_reach(item), 10))


def pelvis(item: Item, figure: Figure, top: float) -> Part:
    """Waistband to crotch of trousers."""
    ys = np.linspace(top, 2.85, 5)
    right = [
        (0.0, top + 0.05),
        *zip(half_width(item, ys), ys),
        (0.8 + item.ease * 0.5, 3.0),
        (0.3, 3.12),
        (0.0, 3.3),
    ]
    return front(figure, right, seam=3)


def skirt(item: Item, figure: Figure, top: float) -> tuple[Part, float]:
    """Waistband to hem → the part, half width of its hem."""
    ys = np.linspace(top, item.hem_y, 8)
    widths = np.interp(ys, BODY_Y, BODY_X) + item.ease * 0.4 + item.flare * 1.5 * np.maximum(ys - top, 0)
    if item.fit == "slim":
        widths = np.minimum(widths, 0.92) - 0.05 * np.maximum(ys - 3.0, 0)
    hem = float(widths[-1])
    right = [(0.0, top + 0.05), *zip(widths, ys), (hem * 0.5, item.hem_y + 0.1), (0.0, item.hem_y + 0.13)]
    return front(figure, right), hem
