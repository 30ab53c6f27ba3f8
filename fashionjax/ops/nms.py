"""Exact greedy non-maximum suppression on static shapes: by score, a kept box suppresses all later ones
whose IoU with it is above the threshold. One image.

Two ways to the same result. The loop takes the boxes in order and is the faster one on a CPU; on an
accelerator, where each of its thousand steps would be a launch, the greedy rule is iterated on all boxes
at once until nothing changes, which takes as many rounds as the longest chain of boxes that suppress each
other (few in practice).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fashionjax.ops import boxes

METHODS = ("auto", "loop", "rounds")


class Selected(NamedTuple):
    """The best boxes of all classes by score, `count` slots."""

    box: jax.Array  # [count 4], 0 where not valid
    score: jax.Array  # [count], descending, 0 where not valid
    label: jax.Array  # [count] int32 class
    index: jax.Array  # [count] int32, the candidate (row) it comes from
    valid: jax.Array  # [count] bool


def nms(box, score, valid, *, threshold: float, legacy: bool = False, group=None, method: str = "auto"):
    """box [n 4], score [n], valid [n] bool -> keep [n] bool.

    Of equal scores the first comes first. Boxes of different `group` [n] int never suppress each other
    (classes, pyramid levels); boxes that are not valid are neither kept nor suppress.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    n = box.shape[0]
    if n == 0:
        return jnp.zeros(0, bool)
    order = jnp.argsort(jnp.where(valid, -score, jnp.inf), stable=True)
    ranked = box[order]
    above = boxes.iou(ranked, ranked, legacy) > threshold
    if group is not None:
        above &= group[order][:, None] == group[order][None, :]
    suppresses = above & (jnp.arange(n)[:, None] < jnp.arange(n)[None, :])  # row suppresses column
    start = valid[order]
    if method == "auto":  # by the platform that the program is lowered for
        kept = jax.lax.platform_dependent(suppresses, start, cpu=_loop, default=_rounds)
    else:
        kept = (_loop if method == "loop" else _rounds)(suppresses, start)
    return jnp.zeros(n, bool).at[order].set(kept)


def _loop(suppresses, start):
    def step(i, keep):
        return keep & ~(keep[i] & suppresses[i])

    return jax.lax.fori_loop(0, start.shape[0], step, start)


def _rounds(suppresses, start):
    """A box is kept iff no kept earlier box suppresses it. Each round settles at least the first box that
    is not settled yet, so the fixed point is the greedy result.
    """

    def step(carry):
        keep, _ = carry
        again = start & ~jnp.any(keep[:, None] & suppresses, axis=0)
        return again, jnp.any(again != keep)

    return jax.lax.while_loop(lambda carry: carry[1], step, (start, jnp.array(True)))[0]


def select(
    box, score, valid, *, score_threshold: float, threshold: float, count: int, legacy: bool = False
) -> Selected:
    """Class-wise NMS and the best `count` of what is left, over all classes.

    box [n 4] (shared by the classes) or [n k 4], score [n k], valid [n] bool. Candidates are the (box, class)
    pairs with a score above `score_threshold` and a finite box; empty boxes take part as they do in the
    originals. Greedy suppression of each class followed by the top `count` is the same as taking the best
    remaining pair `count` times, which needs no matrix over all pairs.
    """
    n, k = score.shape
    each = jnp.broadcast_to(box[:, None] if box.ndim == 2 else box, (n, k, 4)).astype(jnp.float32)
    usable = valid[:, None] & (score > score_threshold) & jnp.isfinite(each).all(axis=-1)
    empty = Selected(
        jnp.zeros((count, 4), jnp.float32),
        jnp.zeros(count, jnp.float32),
        jnp.zeros(count, jnp.int32),
        jnp.zeros(count, jnp.int32),
        jnp.zeros(count, bool),
    )
    if n == 0 or k == 0:
        return empty
    by_class = jnp.swapaxes(jnp.where(jnp.isfinite(each), each, 0.0), 0, 1)  # [k n 4]
    left = jnp.where(usable, score.astype(jnp.float32), -jnp.inf)

    def step(i, carry):
        left, chosen = carry
        flat = jnp.argmax(left)
        row, label = flat // k, flat % k
        found = left[row, label] > -jnp.inf
        rivals = by_class[label]
        best = rivals[row]
        overlap = boxes.iou(best[None], rivals, legacy)[0]
        gone = (overlap > threshold) | (jnp.arange(n) == row)
        left = left.at[:, label].set(jnp.where(gone, -jnp.inf, left[:, label]))
        new = Selected(best, score[row, label].astype(jnp.float32), label, row, found)
        new = Selected(*(jnp.where(found, x, jnp.zeros_like(x)) for x in new))
        return left, jax.tree.map(lambda all_, one: all_.at[i].set(one.astype(all_.dtype)), chosen, new)

    return jax.lax.fori_loop(0, count, step, (left, empty))[1]
