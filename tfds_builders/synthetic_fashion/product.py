"""Product images: one piece alone on a plain ground, as shops show what they sell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfds_builders.synthetic_fashion import accessories, cut, fabric, figure, garments, ground, paint
from tfds_builders.synthetic_fashion.details import shade
from tfds_builders.synthetic_fashion.records import CHUNK, in_order
from tfds_builders.synthetic_fashion.scene import encode
from tfds_builders.synthetic_fashion.world import Item, rng_of

LAYERS = ("leg0", "leg1", "body", "hood", "arm0", "arm1")  # of garments, back to front
MARGIN = (0.72, 0.9)  # share of the image that the piece spans
TURN = 4.0  # degrees, spread
SQUEEZE = 0.06  # spread of width against height


def _hanging(rng: np.random.Generator) -> figure.Figure:
    """The upright front view with both sides alike, as clothes hang on a stand."""
    bare = figure.Figure(1.0, 0.0, 0.0, (0.0, 0.0), (), (), 0.0, figure.SKIN[0], figure.HAIR[0], 0)
    spread, bend, stance = rng.uniform(12, 30), rng.uniform(2, 12), rng.uniform(1, 6)
    arms = tuple(figure.hanging_arm(bare, side, spread, bend) for side in (0, 1))
    legs = tuple(figure.hanging_leg(bare, side, stance) for side in (0, 1))
    return bare._replace(arms=arms, legs=legs)


def _matrix(rng: np.random.Generator, outlines: np.ndarray, size: int) -> np.ndarray:
    """Matrix [2 3] body units → canvas pixels: outlines [n 2] turned a little and fitted into the image."""
    angle = np.radians(rng.normal(0, TURN))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotation = rotation * (1, np.exp(rng.normal(0, SQUEEZE)))
    turned = outlines @ rotation.T
    low, high = turned.min(0), turned.max(0)
    side = size * paint.SUPERSAMPLE
    scale = rng.uniform(*MARGIN) * side / (high - low).max()
    room = (side - (high - low) * scale) / 2
    centre = side / 2 + rng.uniform(-0.6, 0.6, 2) * room
    return np.concatenate([rotation * scale, (centre - (low + high) / 2 * scale)[:, None]], 1)


def _points(drawing: garments.Garment | accessories.Drawing) -> np.ndarray:
    marks = [m.points + np.array([[-m.size], [m.size]]) for m in drawing.marks if m.shape == "dot"]
    marks += [m.points for m in drawing.marks if m.shape != "dot"]
    return np.concatenate([*(part.outline for part in drawing.parts), *marks])


def _inside_of_neck(item: Item) -> np.ndarray:
    """What of the back is seen through the neckline."""
    edge = np.asarray(cut.neckline(item))
    back = [(edge[0, 0], edge[0, 1]), (edge[0, 0] * 0.5, edge[0, 1] - 0.06), (0.0, edge[0, 1] - 0.08)]
    return cut.mirror([(0.0, back[-1][1]), *back[::-1][1:], *edge[1:]])


def product(seed: int, item: Item, size: int) -> bytes:
    """JPEG bytes of the piece, size x size pixels, a function of (seed, item) alone."""
    rng = rng_of(seed, 33, item.number)
    accessory = item.category in accessories.SHAPES
    if accessory:
        drawing, layers = accessories.SHAPES[item.category](item), accessories.LAYERS
    else:
        drawing, layers = garments.make_garment(item, _hanging(rng)), LAYERS
    side = size * paint.SUPERSAMPLE
    on = paint.canvas(ground.plain(rng, (side, side)))
    matrix = _matrix(rng, _points(drawing), size)
    if accessory and rng.random() < 0.5:  # seen from the other side
        matrix[:, :2] = matrix[:, :2] @ np.diag([-1, 1])
        matrix[0, 2] = side - matrix[0, 2]
    if not accessory and item.neckline not in ("", "hood"):
        paint.fill(on, paint.to_pixels(matrix, _inside_of_neck(item)), shade(item.base, 0.5))
    paint.wear(on, paint.Worn(item, drawing, 1), layers, fabric.item_tile(item), matrix, rng)
    return encode(ground.photograph(rng, on.image.reduce(paint.SUPERSAMPLE), consumer=False))


def _chunk(seed: int, items: list[Item], size: int) -> list[bytes]:
    return [product(seed, item, size) for item in items]


def products(seed: int, items: list[Item], size: int, processes: int) -> Iterator[bytes]:
    """The images of all items in order; the same bytes for any number of processes."""
    calls = [(seed, items[start : start + CHUNK], size) for start in range(0, len(items), CHUNK)]
    if len(calls) < 8:
        processes = 1  # starting processes costs more than a few hundred images
    for chunk in in_order(_chunk, calls, processes):
        yield from chunk
