"""Painting a person on a canvas: layers from back to front, and beside the colours a map of what is seen
where.

The canvas is `SUPERSAMPLE` times the image. Its second plane holds, per pixel, the code of the garment
part that is seen there (16 · garment + part), one of `BODY` (below 16), or 0 for things and ground: masks,
boxes and landmark visibility are read from this plane, so they cannot disagree with the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from tfds_builders.synthetic_fashion import fabric
from tfds_builders.synthetic_fashion.cut import Part
from tfds_builders.synthetic_fashion.details import Mark
from tfds_builders.synthetic_fashion.figure import Figure, tube, warp
from tfds_builders.synthetic_fashion.garments import Garment
from tfds_builders.synthetic_fashion.world import Item

SUPERSAMPLE = 2
BODY = {"skin": 1, "hair": 2, "face": 3, "footwear": 4, "bag": 5}
SKIN, HAIR, FACE, FOOTWEAR = (BODY[name] for name in ("skin", "hair", "face", "footwear"))
PART_CODE = {"body": 1, "leg0": 2, "leg1": 3, "arm0": 4, "arm1": 5, "hood": 6, "back": 7, "front": 8}


class Canvas(NamedTuple):
    image: Image.Image
    codes: Image.Image
    draw: ImageDraw.ImageDraw
    draw_codes: ImageDraw.ImageDraw


class Worn(NamedTuple):
    """A garment of an image; number is its place in the image, from 1."""

    item: Item
    garment: Garment
    number: int


class Person(NamedTuple):
    """worn in painting order; matrix [2 3] maps body units to canvas pixels."""

    figure: Figure
    worn: tuple[Worn, ...]
    matrix: np.ndarray


def canvas(ground: Image.Image) -> Canvas:
    """A canvas on a painted ground."""
    codes = Image.new("L", ground.size)
    return Canvas(ground, codes, ImageDraw.Draw(ground), ImageDraw.Draw(codes))


def to_pixels(matrix: np.ndarray, points) -> np.ndarray:
    """points [n 2] body units → [n 2] canvas pixels."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]


def _flat(points: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points.tolist()]


def _color(color) -> tuple[int, int, int]:
    return tuple(min(255, max(0, int(v))) for v in color)


def _scale(matrix: np.ndarray) -> float:
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def fill(on: Canvas, points: np.ndarray, color, code: int | None = 0) -> None:
    """A polygon [n 2] in pixels in one colour; code None leaves the map as it is."""
    flat = _flat(points)
    on.draw.polygon(flat, fill=_color(color))
    if code is not None:
        on.draw_codes.polygon(flat, fill=code)


def line(on: Canvas, points: np.ndarray, color, width: float, code: int | None = None) -> None:
    flat, pixels = _flat(points), max(1, round(width))
    on.draw.line(flat, fill=_color(color), width=pixels, joint="curve")
    if code is not None:
        on.draw_codes.line(flat, fill=code, width=pixels)


def disc(on: Canvas, centre: np.ndarray, radius: float, color, code: int | None = None) -> None:
    x, y = centre.tolist()
    bounds = (x - radius, y - radius, x + radius, y + radius)
    on.draw.ellipse(bounds, fill=_color(color))
    if code is not None:
        on.draw_codes.ellipse(bounds, fill=code)


def _cloth(on: Canvas, part: Part, worn: Worn, tile: np.ndarray, matrix: np.ndarray, rng) -> None:
    """One part of a garment, with its pattern turned into the part's own frame."""
    outline = to_pixels(matrix, part.outline)
    left, top = np.maximum(np.floor(outline.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, on.image.size)
    width, height = int(right - left), int(bottom - top)
    if width < 2 or height < 2:
        return
    inverse = np.linalg.inv(matrix[:, :2])
    cos, sin = np.cos(part.angle), np.sin(part.angle)
    frame = np.array([[cos, sin], [-sin, cos]]) @ inverse
    start = (
        frame @ (np.array([left, top]) + 0.5 - matrix[:, 2])
        - np.array([[cos, sin], [-sin, cos]]) @ part.origin
    )
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    frame, start = frame.astype(np.float32), start.astype(np.float32)
    u = (frame[0, 0] * columns + start[0])[None, :] + (frame[0, 1] * rows)[:, None]
    v = (frame[1, 0] * columns + start[1])[None, :] + (frame[1, 1] * rows)[:, None]
    light = fabric.folds(rng, width, height, 0.05 if worn.item.fit == "slim" else 0.07)
    color = fabric.cloth(worn.item, tile, u, v, light)
    mask = Image.new("L", (width, height))
    flat = _flat(outline - (left, top))
    ImageDraw.Draw(mask).polygon(flat, fill=255)
    on.image.paste(Image.fromarray(color), (int(left), int(top)), mask)
    full = _flat(outline)
    on.draw_codes.polygon(full, fill=16 * worn.number + PART_CODE[part.layer])
    edge = _color(np.multiply(worn.item.base, 0.55))
    on.draw.line(_flat(to_pixels(matrix, part.edge)), fill=edge, width=max(1, round(0.03 * _scale(matrix))))


def _mark(on: Canvas, mark: Mark, number: int, matrix: np.ndarray) -> None:
    code = {True: 16 * number + PART_CODE[mark.layer], False: 0, None: None}[mark.owner]
    points, scale = to_pixels(matrix, mark.points), _scale(matrix)
    if mark.shape == "polygon":
        fill(on, points, mark.color, code)
        if mark.owner:
            edge = np.multiply(mark.color, 0.6)
            line(on, np.concatenate([points, points[:1]]), edge, 0.035 * scale)
    elif mark.shape == "line":
        line(on, points, mark.color, mark.size * scale, code)
    else:
        disc(on, points[0], max(1.0, mark.size * scale), mark.color, code)


def wear(on: Canvas, worn: Worn, layers, tile: np.ndarray, matrix: np.ndarray, rng) -> None:
    """The given layers of a garment, cloth first, then its details."""
    for layer in layers:
        for part in worn.garment.parts:
            if part.layer == layer:
                _cloth(on, part, worn, tile, matrix, rng)
        for mark in worn.garment.marks:
            if mark.layer == layer:
                _mark(on, mark, worn.number, matrix)


def _arm(on: Canvas, person: Person, side: int, tiles, rng) -> None:
    limb, matrix, skin = person.figure.arms[side], person.matrix, person.figure.skin
    arm = tube(limb.path, [0, 0.15, 0.5, 1], [0.2, 0.25, 0.19, 0.13])
    fill(on, to_pixels(matrix, arm), skin, SKIN)
    middle = limb.path[-1] * 0.5 + limb.tip * 0.5
    hand = np.stack([limb.path[-1], middle, limb.tip])
    palm = tube(hand, [0, 0.5, 1], [0.13, 0.18, 0.09], count=5)
    fill(on, to_pixels(matrix, palm), np.multiply(skin, 0.95), SKIN)
    for worn, tile in zip(person.worn, tiles):
        wear(on, worn, (f"arm{side}",), tile, matrix, rng)


def _legs(on: Canvas, person: Person) -> None:
    for limb in person.figure.legs:
        leg = tube(limb.path, [0, 0.2, 0.5, 0.75, 1], [0.38, 0.41, 0.25, 0.25, 0.14])
        fill(on, to_pixels(person.matrix, leg), person.figure.skin, SKIN)
        ankle, tip = limb.path[-1], limb.tip
        shoe = np.array(
            [
                ankle + (-0.16, -0.06),
                ankle + (0.16, -0.06),
                tip + (0.2, 0.02),
                tip + (0.1, 0.12),
                tip + (-0.2, 0.1),
            ]
        )
        fill(on, to_pixels(person.matrix, shoe), (52, 46, 46), FOOTWEAR)


def _ellipse(centre, radii, count: int = 18) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radii[0] * np.cos(turn), centre[1] + radii[1] * np.sin(turn)], -1)


def head_centre(figure: Figure) -> np.ndarray:
    return np.array([figure.nod + 0.08 * figure.turn, -0.92])


def _trunk(on: Canvas, person: Person) -> None:
    """Neck and bare torso."""
    figure, matrix = person.figure, person.matrix
    right = [
        (0.0, 0.05),
        (0.3, 0.1),
        (0.76, 0.2),
        (0.92, 0.36),
        (0.8, 0.95),
        (0.66, 1.9),
        (0.85, 2.7),
        (0.84, 3.0),
        (0, 3.2),
    ]
    trunk = np.concatenate([right, np.multiply(right[::-1], (-1, 1))])
    fill(on, to_pixels(matrix, warp(figure, trunk)), figure.skin, SKIN)
    head = head_centre(figure)
    neck = np.array([(-0.27, 0.2), (0.27, 0.2), head + (0.22, 0.3), head + (-0.22, 0.3)])
    fill(on, to_pixels(matrix, neck), np.multiply(figure.skin, 0.93), SKIN)


def _head(on: Canvas, person: Person) -> None:
    figure, matrix = person.figure, person.matrix
    centre, look = head_centre(figure), 0.12 * figure.turn
    fill(on, to_pixels(matrix, _ellipse(centre + (0, -0.12), (0.53, 0.6))), figure.hair, HAIR)
    fill(on, to_pixels(matrix, _ellipse(centre + (look * 0.6, 0.06), (0.42, 0.53))), figure.skin, FACE)
    fringe = centre + np.array(
        [(-0.46, -0.05), (-0.36, -0.5), (0.0, -0.66), (0.36, -0.5), (0.46, -0.05), (0.2 + look, -0.3)]
    )
    fill(on, to_pixels(matrix, fringe), figure.hair, HAIR)
    scale = _scale(matrix)
    for x in (-0.16, 0.16):
        disc(on, to_pixels(matrix, [centre + (x + look, 0.06)])[0], 0.05 * scale, (40, 32, 30))
    mouth = centre + np.array([(-0.12 + look, 0.34), (look, 0.38), (0.12 + look, 0.34)])
    line(on, to_pixels(matrix, mouth), (150, 62, 62), 0.06 * scale)
    if figure.long_hair == 2:
        for side in (-1, 1):
            lock = centre + np.array(
                [
                    (0.5 * side, -0.3),
                    (0.34 * side, 0.1),
                    (0.3 * side, 1.7),
                    (0.56 * side, 1.75),
                    (0.66 * side, 0.6),
                ]
            )
            fill(on, to_pixels(matrix, lock), figure.hair, HAIR)


def paint_person(on: Canvas, person: Person, rng: np.random.Generator) -> None:
    """The person, back to front."""
    figure, matrix = person.figure, person.matrix
    tiles = [fabric.item_tile(worn.item) for worn in person.worn]
    if figure.long_hair:
        back = head_centre(figure) + np.array(
            [(-0.5, -0.2), (0.5, -0.2), (0.68, 1.2), (0.4, 1.5), (-0.4, 1.5), (-0.68, 1.2)]
        )
        fill(on, to_pixels(matrix, back), np.multiply(figure.hair, 0.85), HAIR)
    for side in (0, 1):
        if not figure.arms[side].front:
            _arm(on, person, side, tiles, rng)
    _legs(on, person)
    _trunk(on, person)
    for worn, tile in zip(person.worn, tiles):
        wear(on, worn, ("leg0", "leg1", "body", "hood"), tile, matrix, rng)
    _head(on, person)
    for side in (0, 1):
        if figure.arms[side].front:
            _arm(on, person, side, tiles, rng)
