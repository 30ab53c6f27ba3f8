"""Boxes [n 4] as x1 y1 x2 y2 in pixels: area, IoU, coding against anchors, clipping.

Two conventions. The current one (detectron2, He et al. 2017) takes coordinates as points of the plane: a
side is x2 - x1. `legacy` (mmdetection 1.x, Girshick 2015) takes them as inclusive pixel indices: a side
is x2 - x1 + 1.
"""

import math

import jax.numpy as jnp

# exp of a larger log-scale is cut off: a box grows to at most 1000 / 16 times its anchor in one step
SCALE_CLAMP = math.log(1000 / 16)


def sides(box, legacy: bool = False):
    """box [... 4] -> width and height [... 2]; negative for boxes turned inside out."""
    return box[..., 2:] - box[..., :2] + (1.0 if legacy else 0.0)


def area(box, legacy: bool = False):
    """box [... 4] -> [...], 0 where a side is negative."""
    side = jnp.maximum(sides(box, legacy), 0)
    return side[..., 0] * side[..., 1]


def iou(a, b, legacy: bool = False):
    """a [n 4], b [m 4] -> intersection over union [n m] float32; 0 for pairs without a common area."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    common = area(jnp.concatenate([low, high], axis=-1), legacy)
    union = area(a, legacy)[:, None] + area(b, legacy)[None, :] - common
    return jnp.where(common > 0, common / jnp.where(union > 0, union, 1), 0.0)


def encode(anchor, target, weights=(1.0, 1.0, 1.0, 1.0), legacy: bool = False):
    """anchor, target [... 4] -> deltas [... 4]: wx (cx_t - cx_a) / w_a, wy ..., ww log(w_t / w_a), wh ...

    (Girshick et al., R-CNN, 2014.) mmdetection's target standard deviations are 1 / weights. A side that
    is not positive, of padding for instance, is taken as tiny, so that deltas stay finite.
    """
    anchor, target = anchor.astype(jnp.float32), target.astype(jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    from_side, to_side = (jnp.maximum(sides(box, legacy), 1e-6) for box in (anchor, target))
    shift = ((target[..., :2] + target[..., 2:]) - (anchor[..., :2] + anchor[..., 2:])) / 2 / from_side
    return jnp.concatenate([shift, jnp.log(to_side / from_side)], axis=-1) * weights


def decode(anchor, delta, weights=(1.0, 1.0, 1.0, 1.0), legacy: bool = False):
    """anchor [... 4], delta [... 4] (broadcast against each other) -> boxes [... 4] float32, the inverse of
    `encode`.

    Log-scales are cut off at log(1000 / 16); `legacy` cuts at its negative as well, as mmdetection 1.x does.
    """
    anchor = anchor.astype(jnp.float32)
    delta = delta.astype(jnp.float32) / jnp.asarray(weights, jnp.float32)
    side = sides(anchor, legacy)
    if legacy:
        centre, scale = (anchor[..., :2] + anchor[..., 2:]) / 2, jnp.clip(delta[..., 2:], -SCALE_CLAMP)
    else:
        centre, scale = anchor[..., :2] + side / 2, delta[..., 2:]
    centre = centre + delta[..., :2] * side
    half = side * jnp.exp(jnp.minimum(scale, SCALE_CLAMP)) / 2
    edge = half - 0.5 if legacy else half
    return jnp.concatenate([centre - edge, centre + edge], axis=-1)


def clip(box, size, legacy: bool = False):
    """box [... 4], size (height, width), which may be traced -> the box inside [0, width] x [0, height];
    `legacy`: [0, width - 1] x [0, height - 1].
    """
    limit = jnp.asarray(size, jnp.float32)[..., ::-1] - (1.0 if legacy else 0.0)  # x, y
    limit = jnp.concatenate([limit, limit], axis=-1)
    return jnp.clip(box, 0, limit)


def nonempty(box, legacy: bool = False):
    """box [... 4] -> whether it is finite and both sides are positive [...] bool."""
    return jnp.isfinite(box).all(axis=-1) & (sides(box, legacy) > 0).all(axis=-1)
