"""Outlines of a mask as polygons along the edges of its pixels."""

from __future__ import annotations

import numpy as np


def outlines(mask: np.ndarray) -> list[list[int]]:
    """mask [h w] bool → rings [x0, y0, x1, y1, …] around its 4-connected parts, largest first.

    A pixel i covers [i, i + 1]. Holes are filled, as polygons of the annotation formats cannot have any; a
    part inside a hole is therefore lost in it. No part, no ring.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    inside = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # clockwise as seen in the image, so that the mask lies to the right; neighbour, start, end of the edge
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, (ax, ay), (bx, by) in sides:
        ys, xs = np.nonzero(inside & ~neighbour)
        for x, y in zip(xs.tolist(), ys.tolist()):
            following.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    rings = []
    while following:
        ring = _walk(following)
        x, y = np.array(ring).T
        area = 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
        if area > 0:  # a hole runs the other way
            rings.append((area, [value for point in ring for value in point]))
    return [ring for _, ring in sorted(rings, key=lambda entry: -entry[0])]


def _walk(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Take one closed ring of edges out of `following` → its corners."""
    start = at = next(iter(following))
    heading, ring = None, []
    while True:
        ends = following[at]
        steps = [(x - at[0], y - at[1]) for x, y in ends]
        choice = 0
        if len(ends) > 1 and heading is not None:  # where two parts touch: turn right, along the same part
            choice = steps.index((-heading[1], heading[0]))
        if steps[choice] != heading:
            ring.append(at)
        heading, step = steps[choice], ends.pop(choice)
        if not ends:
            del following[at]
        at = step
        if at == start:
            return ring
