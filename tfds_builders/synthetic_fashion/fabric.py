"""Cloth: pattern tiles (solid, stripe, check, dot, floral), fabric relief, light over a part of a garment.

A tile is one period of a pattern, 64 x 64, looked up at the cloth coordinates of each pixel, so a pattern
follows the part it lies on (a sleeve turns its stripes with the arm) at the cost of one table look-up.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from tfds_builders.synthetic_fashion.world import Item, luminance

TILE = 64
# period of the relief in body units: narrower than any pattern
RELIEF_PERIOD = {"cotton": 1.0, "denim": 0.5, "knit": 0.3, "satin": 1.7, "quilted": 0.55}


def _soft(distance: np.ndarray) -> np.ndarray:
    """1 inside (negative distance), 0 outside, one tile cell of transition."""
    return np.clip(0.5 - distance * TILE, 0, 1)


@cache
def pattern_tile(pattern: str) -> np.ndarray:
    """[64 64 2] float: weight of the accent colour, weight of the centre of a flower."""
    v, u = np.mgrid[0:TILE, 0:TILE] / TILE + 0.5 / TILE
    first, second = np.zeros((TILE, TILE)), np.zeros((TILE, TILE))
    if pattern == "stripe":
        first = _soft(np.abs(v - 0.5) - 0.21)
    elif pattern == "check":
        across, down = _soft(np.abs(u - 0.5) - 0.2), _soft(np.abs(v - 0.5) - 0.2)
        first = 0.55 * np.maximum(across, down) + 0.45 * across * down
    elif pattern == "dot":
        for cu in (0.25, 0.75):
            first = np.maximum(first, _soft(np.hypot(u - cu, v - cu) - 0.155))
    elif pattern == "floral":
        for cu, cv, size, turn in (
            (0.3, 0.28, 0.19, 0.3),
            (0.78, 0.72, 0.23, 1.0),
            (0.8, 0.2, 0.1, 0.0),
            (0.28, 0.76, 0.12, 0.6),
        ):
            radius = np.hypot(u - cu, v - cv)
            petal = size * (0.72 + 0.38 * np.cos(5 * (np.arctan2(v - cv, u - cu) + turn)))
            first = np.maximum(first, _soft(radius - petal))
            second = np.maximum(second, _soft(radius - size * 0.33))
    return np.stack([first, second], -1)


@cache
def relief_tile(fabric: str) -> np.ndarray:
    """[64 64] float32: how light the surface is, about 1."""
    v, u = np.mgrid[0:TILE, 0:TILE] / TILE
    if fabric == "knit":
        relief = 1 - 0.3 * np.abs(np.cos(np.pi * u)) ** 2 * (
            0.7 + 0.3 * np.cos(2 * np.pi * (2 * v + np.abs(u - 0.5)))
        )
    elif fabric == "denim":
        noise = np.random.Generator(np.random.PCG64(5)).normal(0, 1, (TILE, TILE))
        smooth = (
            noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(np.roll(noise, 1, 0), 1, 1)
        ) / 2
        relief = 1 + 0.13 * smooth + 0.05 * np.cos(2 * np.pi * 8 * (u + v))
    elif fabric == "satin":
        relief = 0.9 + 0.42 * np.clip(np.cos(2 * np.pi * (u + 0.5 * v)), 0, 1) ** 4
    elif fabric == "quilted":
        relief = 0.72 + 0.42 * np.sin(np.pi * v) ** 0.6
    else:
        relief = np.ones((TILE, TILE))
    return relief.astype(np.float32)


def item_tile(item: Item) -> np.ndarray:
    """[4096 3] float32 colours of one period of the item's pattern."""
    weight = pattern_tile(item.pattern)
    base, accent = np.asarray(item.base), np.asarray(item.accent)
    centre = np.array([244.0, 226.0, 120.0]) if luminance(accent) < 0.6 else np.array([170.0, 60.0, 60.0])
    tile = base + weight[..., :1] * (accent - base)
    tile = tile + weight[..., 1:] * (centre - tile)
    return tile.reshape(-1, 3).astype(np.float32)


def cloth(item: Item, tile: np.ndarray, u: np.ndarray, v: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Cloth coordinates u, v [h w] float32 in body units → colour [h w 3] uint8; folds [h w] multiplies."""
    scale = np.float32(TILE / item.period)
    cell_u = (u * scale + np.float32(item.phase[0] * TILE + 64 * TILE)).astype(np.int32) & (TILE - 1)
    cell_v = (v * scale + np.float32(item.phase[1] * TILE + 64 * TILE)).astype(np.int32) & (TILE - 1)
    color = tile[cell_v * TILE + cell_u]
    if item.fabric != "cotton":
        scale = np.float32(TILE / RELIEF_PERIOD[item.fabric])
        cell_u = (u * scale + np.float32(64 * TILE)).astype(np.int32) & (TILE - 1)
        cell_v = (v * scale + np.float32(64 * TILE)).astype(np.int32) & (TILE - 1)
        folds = folds * relief_tile(item.fabric)[cell_v, cell_u]
    color *= folds[..., None]
    return np.minimum(color, 255).astype(np.uint8)


def folds(rng: np.random.Generator, width: int, height: int, depth: float) -> np.ndarray:
    """Soft irregular light [h w] float32 about 1."""
    coarse = rng.normal(1.0, depth, (5, 4)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
