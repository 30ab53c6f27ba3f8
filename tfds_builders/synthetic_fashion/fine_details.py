"""Six small details of a top, each in a few values: what `fine_grained` retrieves by.

A detail is a list of marks on the garment of `fine_grained.py`; its colours and the cloth beneath are drawn
independently of its value. Motifs recur on several parts (dots on an armband and on a hem): a value is
known only together with its place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfds_builders.synthetic_fashion.cut import half_width
from tfds_builders.synthetic_fashion.details import Mark, dot, line, shade
from tfds_builders.synthetic_fashion.figure import Figure, along, normals, warp
from tfds_builders.synthetic_fashion.world import Item

VALUES = {
    "collar": ("point", "round", "band", "bow", "lapel"),
    "closure": ("buttons", "zip", "toggles", "laces"),
    "pocket": ("square", "pointed", "round", "flap"),
    "emblem": ("disc", "ring", "star", "cross", "triangle"),
    "armband": ("plain", "stripes", "dots"),
    "hem": ("scallops", "zigzag", "dots", "stripes"),
}
ATTRIBUTES = tuple(VALUES)


def _shape(figure: Figure, points, color, edge: bool = True) -> list[Mark]:
    """A filled outline with a darker edge."""
    points = np.asarray(points, np.float64)
    marks = [Mark("body", "polygon", warp(figure, points), color)]
    closed = np.concatenate([points, points[:1]])
    return marks + [line(figure, closed, shade(color, 0.55), 0.045)] * edge


def _turned(centre, radius: float, corners: int, start: float = -90.0) -> np.ndarray:
    angle = np.radians(start + 360 * np.arange(corners) / corners)
    return np.asarray(centre) + radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def _mirrored(figure: Figure, points, color) -> list[Mark]:
    points = np.asarray(points, np.float64)
    return [mark for sign in (-1, 1) for mark in _shape(figure, points * (sign, 1), color)]


def collar(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """Around the neck."""
    if value == "point":
        return _mirrored(figure, [(0.06, 0.4), (0.42, -0.1), (0.55, 0.08), (0.36, 0.72)], ink)
    if value == "round":
        turn = np.linspace(-0.5, 1.25, 9) * np.pi / 2
        outer = [(0.3 + 0.3 * np.cos(t), 0.3 + 0.3 * np.sin(t)) for t in turn]
        return _mirrored(figure, [(0.04, 0.36), (0.4, -0.1), *outer], ink)
    if value == "band":
        rows = [[(-0.4, y), (0.0, y + 0.22), (0.4, y)] for y in (0.02, 0.14)]
        return [line(figure, row, ink, 0.1) for row in rows]
    if value == "bow":
        loops = _mirrored(figure, [(0.04, 0.4), (0.42, 0.2), (0.46, 0.62), (0.04, 0.5)], ink)
        return [*loops, dot(figure, 0.0, 0.45, shade(ink, 0.7), 0.09)]
    flap = [(0.4, -0.06), (0.56, 0.12), (0.6, 0.5), (0.4, 0.5), (0.5, 0.66), (0.03, 1.0), (0.03, 0.72)]
    return _mirrored(figure, flap, ink)


def closure(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """Down the middle, from below any collar to above the hem."""
    top, bottom = 1.12, item.hem_y - 0.5
    rows = np.linspace(top, bottom, 4)
    if value == "buttons":
        return [dot(figure, 0.0, y, ink, 0.085) for y in rows]
    if value == "zip":
        teeth = np.linspace(top, bottom, 12)
        ladder = [line(figure, [(-0.09, y), (0.09, y)], ink, 0.05) for y in teeth]
        return [line(figure, [(0.0, top), (0.0, bottom)], ink, 0.05), *ladder]
    if value == "toggles":
        bars = [line(figure, [(-0.17, y), (0.17, y)], ink, 0.08) for y in rows]
        return bars + [dot(figure, x, y, ink, 0.08) for x in (-0.17, 0.17) for y in rows]
    steps = np.linspace(top, bottom, 6)
    ways = [[(x * (-1) ** n, y) for n, y in enumerate(steps)] for x in (-0.14, 0.14)]
    return [line(figure, way, ink, 0.05) for way in ways]


def pocket(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """On the chest, on `side`."""
    left, right, top = 0.27, 0.7, 0.94
    bottom = {
        "square": [(right, 1.42), (left, 1.42)],
        "pointed": [(right, 1.16), (0.485, 1.54), (left, 1.16)],
        "round": [(0.485 + 0.215 * np.cos(t), 1.2 + 0.25 * np.sin(t)) for t in np.linspace(0, np.pi, 8)],
        "flap": [(right, 1.42), (left, 1.42)],
    }[value]
    points = np.asarray([(left, top), (right, top), *bottom]) * (side, 1)
    marks = _shape(figure, points, ink)
    if value == "flap":
        lid = np.asarray([(left - 0.04, top - 0.05), (right + 0.04, top - 0.05), (0.485, 1.26)]) * (side, 1)
        marks += _shape(figure, lid, shade(ink, 0.6))
    return marks


def emblem(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """On the other side of the chest."""
    centre, size = np.array([-side * 0.48, 1.16]), 0.25
    if value == "disc":
        return [dot(figure, *centre, ink, size * 0.9)]
    if value == "ring":
        rim = _turned(centre, size * 0.8, 16)
        return [line(figure, np.concatenate([rim, rim[:2]]), ink, 0.1)]
    if value == "cross":
        arms = [[centre - d, centre + d] for d in (np.array([size, 0]), np.array([0, size]))]
        return [line(figure, arm, ink, 0.15) for arm in arms]
    if value == "triangle":
        return _shape(figure, _turned(centre + (0, 0.04), size * 1.15, 3), ink, edge=False)
    outer, inner = _turned(centre, size * 1.15, 5), _turned(centre, size * 0.45, 5, -54.0)
    return _shape(figure, np.stack([outer, inner], 1).reshape(-1, 2), ink, edge=False)


def armband(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """Around the upper arm on `side`."""
    arm = int(side > 0)
    path = figure.arms[arm].path
    start, stop, wide = 0.2, 0.37, 0.36 + 0.6 * item.ease

    def across(at: float, width: float = wide) -> np.ndarray:
        fractions = np.array([at - 0.02, at, at + 0.02])
        centre = along(path, fractions)
        turn = normals(centre)[1] * width
        return np.stack([centre[1] - turn, centre[1] + turn])

    first, last = across(start), across(stop)
    layer, paper = f"arm{arm}", (236.0, 234.0, 226.0) if sum(ink) < 384 else (44.0, 44.0, 50.0)
    band = np.concatenate([first, last[::-1]])
    if value == "plain":
        return [Mark(layer, "polygon", band, ink)]
    marks = [Mark(layer, "polygon", band, paper)]
    if value == "stripes":
        at = np.linspace(start + 0.025, stop - 0.025, 3)
        return marks + [Mark(layer, "line", across(f), ink, 0.07) for f in at]
    middle = across((start + stop) / 2)
    places = [middle[0] + t * (middle[1] - middle[0]) for t in (0.2, 0.5, 0.8)]
    return marks + [Mark(layer, "dot", np.stack([place]), ink, 0.1) for place in places]


def hem(value: str, item: Item, figure: Figure, ink, side: int) -> list[Mark]:
    """Along the lower edge."""
    y = item.hem_y - 0.18
    half = float(half_width(item, y) + item.flare * max(y - 1.9, 0)) - 0.1
    x = np.linspace(-half, half, 9)
    if value == "dots":
        return [dot(figure, at, y, ink, 0.09) for at in x]
    if value == "zigzag":
        way = [(at, y + 0.11 * (-1) ** n) for n, at in enumerate(np.linspace(-half, half, 13))]
        return [line(figure, way, ink, 0.065)]
    if value == "stripes":
        return [line(figure, [(-half, y + d), (half, y + d)], ink, 0.055) for d in (-0.12, 0.0, 0.12)]
    turn = np.linspace(0, np.pi, 6)
    step = 2 * half / 6
    waves = [
        [(left + step / 2 - step / 2 * np.cos(t), y - 0.1 + 0.2 * np.sin(t)) for t in turn]
        for left in -half + step * np.arange(6)
    ]
    return [mark for wave in waves for mark in _shape(figure, wave, ink, edge=False)]


DETAILS: dict[str, Callable] = {
    "collar": collar,
    "closure": closure,
    "pocket": pocket,
    "emblem": emblem,
    "armband": armband,
    "hem": hem,
}


def reach(marks: list[Mark]) -> np.ndarray:
    """[n 2] posed body units: the corners of what the marks paint."""
    corners = []
    for mark in marks:
        spread = mark.size / 2 if mark.shape == "line" else mark.size if mark.shape == "dot" else 0.0
        corners += [mark.points - spread, mark.points + spread]
    return np.concatenate(corners)
