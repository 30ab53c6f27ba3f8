"""The dressed figure: body measures, a sampled pose, and the warp that carries front-view drawings onto it.

Body units: origin at the base of the neck, x to the right of the image, y down; shoulders at y 0.3, waist
1.9, hip 2.7, crotch 3.1, knee 4.8, ankle 6.7. Everything flat on the torso is drawn for an upright front
view and moved by `warp`; limbs are smooth paths with a width (`tube`). Side 0 is the left of the image,
side 1 the right, always.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.world import pick

BODY_Y = np.array([0.0, 0.28, 0.95, 1.45, 1.9, 2.3, 2.7, 3.1])
BODY_X = np.array([0.4, 0.93, 0.8, 0.73, 0.66, 0.75, 0.86, 0.86])
ARM = (1.35, 1.25)
LEG = (1.95, 1.9)
SKIN = ((247, 218, 196), (233, 190, 158), (205, 152, 114), (160, 108, 74), (108, 70, 48), (74, 48, 36))
HAIR = ((30, 24, 22), (66, 44, 30), (118, 78, 44), (196, 154, 88), (150, 60, 34), (128, 126, 124))


class Limb(NamedTuple):
    """path [n 2] from the joint on the torso to wrist or ankle; tip [2] the end of hand or foot."""

    path: np.ndarray
    tip: np.ndarray
    front: bool


class Figure(NamedTuple):
    width: float
    turn: float
    sway: float
    tilt: tuple[float, float]
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]
    nod: float
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    long_hair: int  # 0 short, 1 behind the shoulders, 2 over the front


def warp(figure: Figure, points) -> np.ndarray:
    """points [n 2] of the upright front view → [n 2] on the posed torso (and on a skirt below it)."""
    points = np.asarray(points, np.float64)
    x, y = points[..., 0], points[..., 1]
    depth = np.minimum(np.maximum(y / 3.0, 0), 1)
    smooth = depth * depth * (3 - 2 * depth)
    turned = x + 0.3 * figure.turn * np.minimum(np.maximum(1 - x * x, 0), 1)
    moved = np.empty(points.shape)
    moved[..., 0] = turned * figure.width * (1 - 0.22 * abs(figure.turn)) + figure.sway * smooth
    moved[..., 1] = y + x * (figure.tilt[0] * (1 - depth) + figure.tilt[1] * depth)
    return moved


def along(path: np.ndarray, fractions) -> np.ndarray:
    """Points at arc-length fractions of path [n 2] → [m 2]."""
    steps = np.hypot(*np.diff(path, axis=0).T)
    length = np.zeros(len(path))
    np.cumsum(steps, out=length[1:])
    at = np.asarray(fractions) * length[-1]
    points = np.empty((*at.shape, 2))
    for axis in (0, 1):
        points[..., axis] = np.interp(at, length, path[:, axis])
    return points


def normals(path: np.ndarray) -> np.ndarray:
    """Unit normals [n 2] of path [n 2], to the right-hand side of its direction in the image (y down)."""
    direction = np.gradient(path, axis=0)
    direction /= np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 1e-9)[:, None]
    return direction[:, ::-1] * (-1, 1)


def tube(path: np.ndarray, stops, widths, reach: float = 1.0, count: int = 9) -> np.ndarray:
    """Outline [2·count 2] around the first `reach` of a path; half widths given at fractions `stops` of the
    whole path.
    """
    fractions = np.linspace(0, reach, count)
    centre = along(path, fractions)
    side = normals(centre) * np.interp(fractions, stops, widths)[:, None]
    return np.concatenate([centre + side, (centre - side)[::-1]])


def _bent(a, b, c) -> np.ndarray:
    """A limb through a → b → c with a rounded joint, [13 2]."""
    path = along(np.stack([a, b, c]), np.linspace(0, 1, 13))
    for _ in range(2):
        path[1:-1] = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return path


def _direction(side: int, degrees: float) -> np.ndarray:
    """Unit vector that hangs down at 0 degrees and points away from the body at 90, for the given side."""
    angle = np.radians(degrees)
    return np.array([(1 if side else -1) * np.sin(angle), np.cos(angle)])


# upper arm, forearm (degrees away from hanging) and whether the arm is in front of the torso
ARM_POSES = {
    "down": ((6, 22), (0, 16), True),
    "away": ((28, 80), (15, 95), True),
    "hip": ((42, 58), (-48, -34), True),
    "across": ((6, 22), (-112, -70), True),
    "behind": ((22, 34), (-40, -22), False),
    "raised": ((105, 150), (150, 185), True),
    "pocket": ((20, 30), (-24, -10), True),
}
_ARM_ODDS = (
    ("down",) * 6 + ("away",) * 5 + ("hip",) * 3 + ("across",) * 2 + ("behind", "raised", "pocket", "pocket")
)


def _arm(rng, figure: Figure, side: int) -> Limb:
    upper, fore, front = ARM_POSES[pick(rng, _ARM_ODDS)]
    shoulder = warp(figure, [[(0.8 if side else -0.8), 0.44]])[0]
    elbow = shoulder + ARM[0] * _direction(side, rng.uniform(*upper))
    hand = _direction(side, rng.uniform(*fore))
    wrist = elbow + ARM[1] * hand
    return Limb(_bent(shoulder, elbow, wrist), wrist + 0.38 * hand, front)


def hanging_arm(figure: Figure, side: int, spread: float, bend: float) -> Limb:
    """An arm that hangs `spread` degrees away from the body, the forearm `bend` degrees."""
    shoulder = warp(figure, [[(0.8 if side else -0.8), 0.44]])[0]
    elbow = shoulder + ARM[0] * _direction(side, spread)
    hand = _direction(side, bend)
    wrist = elbow + ARM[1] * hand
    return Limb(_bent(shoulder, elbow, wrist), wrist + 0.38 * hand, True)


def hanging_leg(figure: Figure, side: int, spread: float) -> Limb:
    """A straight leg, `spread` degrees away from the vertical."""
    hip = warp(figure, [[(0.44 if side else -0.44), 2.85]])[0]
    down = _direction(side, spread)
    ankle = hip + (LEG[0] + LEG[1]) * down
    return Limb(_bent(hip, hip + LEG[0] * down, ankle), ankle + 0.3 * down, True)


def _leg(rng, figure: Figure, side: int, spread: float) -> Limb:
    hip = warp(figure, [[(0.44 if side else -0.44), 2.85]])[0]
    thigh = spread + rng.uniform(-3, 6)
    knee = hip + LEG[0] * _direction(side, thigh)
    ankle = knee + LEG[1] * _direction(side, thigh - rng.uniform(-4, 14))
    foot = ankle + np.array([(0.16 if side else -0.16) + 0.2 * figure.turn, 0.3])
    return Limb(_bent(hip, knee, ankle), foot, True)


def make_figure(rng: np.random.Generator) -> Figure:
    """A person in a pose."""
    bare = Figure(
        width=float(rng.uniform(0.88, 1.14)),
        turn=float(rng.uniform(-1, 1)),
        sway=float(rng.normal(0, 0.16)),
        tilt=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.07))),
        arms=(),
        legs=(),
        nod=float(rng.normal(0, 0.1)),
        skin=pick(rng, SKIN),
        hair=pick(rng, HAIR),
        long_hair=pick(rng, (0, 0, 0, 0, 0, 1, 1, 1, 1, 2)),
    )
    spread = float(rng.uniform(-1, 13))
    return bare._replace(
        arms=(_arm(rng, bare, 0), _arm(rng, bare, 1)),
        legs=(_leg(rng, bare, 0, spread), _leg(rng, bare, 1, spread)),
    )
