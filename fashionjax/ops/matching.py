"""Assigning boxes to ground truth by IoU, and drawing a balanced sample of fixed size. One image, static
shapes.

Labels: 1 foreground, 0 background, -1 neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    index: jax.Array  # [n] int32, the ground truth a box is matched with; 0 where there is none
    label: jax.Array  # [n] int32, FOREGROUND, BACKGROUND or IGNORED


class Sample(NamedTuple):
    """Foreground comes first; slots behind the drawn boxes are not `valid`."""

    index: jax.Array  # [count] int32, into the boxes that were sampled from
    foreground: jax.Array  # [count] bool
    valid: jax.Array  # [count] bool


def match(
    iou,
    truth_valid,
    *,
    high: float,
    low: float,
    box_valid=None,
    low_quality: float | None = None,
    claim: bool = False,
) -> Matches:
    """iou [n g], truth_valid [g] bool, box_valid [n] bool (None: all) -> Matches of n boxes.

    A box goes to the ground truth of its highest IoU (the first among equals): foreground from `high` on,
    background below `low`, ignored between. With `low_quality` every ground truth also makes foreground
    of all boxes tied for its best IoU, if that is positive and at least `low_quality`; they keep their
    own best ground truth (detectron2), or with `claim` take the claiming one, the last if several claim
    (mmdetection 1.x). Invalid ground truth matches nothing, invalid boxes are ignored and are nobody's
    best.
    """
    usable = jnp.where(truth_valid[None, :], iou, -1.0)
    if box_valid is not None:
        usable = jnp.where(box_valid[:, None], usable, -1.0)
    best = usable.max(axis=1, initial=-1.0)
    index = usable.argmax(axis=1).astype(jnp.int32) if iou.shape[1] else jnp.zeros(iou.shape[0], jnp.int32)
    label = jnp.where(best >= high, FOREGROUND, jnp.where(best < low, BACKGROUND, IGNORED))
    if low_quality is not None and iou.shape[1]:
        best_of_truth = usable.max(axis=0, initial=-1.0)
        claims = (usable == best_of_truth) & (best_of_truth > 0) & (best_of_truth >= low_quality)
        label = jnp.where(claims.any(axis=1), FOREGROUND, label)
        if claim:
            last = iou.shape[1] - 1 - claims[:, ::-1].argmax(axis=1)
            index = jnp.where(claims.any(axis=1), last, index).astype(jnp.int32)
    if box_valid is not None:
        label = jnp.where(box_valid, label, IGNORED)
    return Matches(index, label.astype(jnp.int32))


def priorities(rng, identity):
    """A random number per box [n] int32, not negative, that depends on `rng` and the box's `identity` [n] int
    alone: a sample stays the same when boxes of padding are added.
    """
    bits = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(rng, i)).reshape(-1)[0])(identity)
    return (bits >> 1).astype(jnp.int32)


def sample(label, priority, *, count: int, foreground_share: float) -> Sample:
    """label [n] as of `match`, priority [n] int32 as of `priorities` -> a random sample of `count` boxes.

    At most int(count * foreground_share) of them are foreground; the rest is background as far as there
    is any.
    """
    most = int(count * foreground_share)
    missing = max(count - label.shape[0], 0)
    label = jnp.pad(label, (0, missing), constant_values=IGNORED)
    priority = jnp.pad(priority, (0, missing))

    def draw(kind, k):
        order = jax.lax.top_k(jnp.where(label == kind, priority, -1), k)[1]
        return order, jnp.minimum(jnp.sum(label == kind), k)

    foreground, of_foreground = draw(FOREGROUND, max(most, 1))
    of_foreground = jnp.minimum(of_foreground, most)
    background, of_background = draw(BACKGROUND, count)
    slot = jnp.arange(count)
    is_foreground = slot < of_foreground
    index = jnp.where(
        is_foreground,
        foreground[jnp.minimum(slot, foreground.shape[0] - 1)],
        background[jnp.clip(slot - of_foreground, 0, count - 1)],
    )
    valid = slot < of_foreground + jnp.minimum(of_background, count - of_foreground)
    return Sample(jnp.where(valid, index, 0).astype(jnp.int32), is_foreground & valid, valid)
