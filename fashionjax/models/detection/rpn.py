"""Region proposal network (Ren et al. 2015) on a pyramid: head, proposals, loss. The functions take one
image.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.detection.settings import Settings
from fashionjax.ops import anchors, boxes, matching
from fashionjax.ops.nms import nms

NORMAL_INIT = nn.initializers.normal(0.01)
GRID_LIMIT = 4096  # cells per side of a map, for the numbers of anchors: images up to 16,384 px


class RPNHead(nn.Module):
    """Maps [b h w c] -> (objectness logits [b h w a], deltas [b h w a 4]) of each level, one set of
    weights.
    """

    channels: int = 256
    anchors: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps) -> list:
        def conv(features, size, name):
            return layers.Conv(
                features, size, use_bias=True, dtype=self.dtype, kernel_init=NORMAL_INIT, name=name
            )

        shared = conv(self.channels, 3, "conv")
        objectness, delta = conv(self.anchors, 1, "objectness"), conv(4 * self.anchors, 1, "deltas")
        outputs = []
        for x in maps:
            x = nn.relu(shared(x))
            split = rearrange(delta(x), "b h w (a xywh) -> b h w a xywh", xywh=4)
            outputs.append((objectness(x).astype(jnp.float32), split.astype(jnp.float32)))
        return outputs


class Level(NamedTuple):
    """Anchors of one level, numpy, order (row, column, ratio)."""

    anchor: np.ndarray  # [n 4] float32
    row: np.ndarray  # [n] int32, of the anchor's cell
    column: np.ndarray
    identity: np.ndarray  # [n] int32, the same number in maps of any size


class Proposals(NamedTuple):
    box: jax.Array  # [n 4] xyxy in pixels, clipped to the image; 0 where not valid
    logit: jax.Array  # [n], descending
    valid: jax.Array  # [n] bool


class RPNLoss(NamedTuple):
    """Sums over the sampled anchors of one image, and what they are to be divided by."""

    objectness: jax.Array
    box: jax.Array
    sampled: jax.Array


def levels(settings: Settings, shapes) -> list[Level]:
    """Anchors of maps with the given (h, w), one for each stride of the settings."""
    found = []
    for number, (stride, (h, w)) in enumerate(zip(settings.strides, shapes, strict=True)):
        if settings.geometry.rounded_anchors:
            cell = anchors.legacy_cell_anchors(stride, settings.anchor_scale, settings.ratios)
        else:
            cell = anchors.cell_anchors(stride * settings.anchor_scale, settings.ratios)
        row, column, ratio = (x.ravel() for x in np.indices((h, w, len(cell)), dtype=np.int32))
        identity = ((number * GRID_LIMIT + row) * GRID_LIMIT + column) * len(cell) + ratio
        found.append(Level(anchors.grid(cell, h, w, stride), row, column, identity))
    return found


def belongs(level: Level, cells):
    """Whether the anchors of a level lie on cells of the image, `cells` = (rows, columns) -> [n] bool."""
    return (level.row < cells[0]) & (level.column < cells[1])


def propose(settings: Settings, level_anchors, logits, deltas, size, cells, train: bool) -> Proposals:
    """logits [n_l], deltas [n_l 4] of each level, size (h, w) of the image, cells [l 2] -> Proposals.

    The best of each level, decoded, clipped, without the empty ones, NMS within the level, then the best
    of all levels. No gradient flows through the boxes.
    """
    legacy = settings.geometry.inclusive_boxes
    candidates = settings.candidates_train if train else settings.candidates_test
    most = min(candidates, max(len(level.anchor) for level in level_anchors))
    best = []
    for i, level in enumerate(level_anchors):
        usable = belongs(level, cells[i]) & jnp.isfinite(logits[i]) & jnp.isfinite(deltas[i]).all(axis=-1)
        logit, place = jax.lax.top_k(
            jnp.where(usable, logits[i], -jnp.inf), min(candidates, len(level.anchor))
        )
        box = boxes.decode(jnp.asarray(level.anchor)[place], deltas[i][place], legacy=legacy)
        box = boxes.clip(box, size, legacy)
        valid = (logit > -jnp.inf) & boxes.nonempty(box, legacy)
        missing = most - len(logit)
        best.append(
            (
                jnp.pad(box, ((0, missing), (0, 0))),
                jnp.pad(logit, (0, missing), constant_values=-jnp.inf),
                jnp.pad(valid, (0, missing)),
            )
        )
    box, logit, valid = jax.lax.stop_gradient(tuple(jnp.stack(x) for x in zip(*best)))
    keep = jax.vmap(lambda b, s, v: nms(b, s, v, threshold=settings.proposal_nms, legacy=legacy))(
        box, logit, valid
    )
    box, logit, keep = (rearrange(x, "l n ... -> (l n) ...") for x in (box, logit, keep))
    count = settings.proposals_train if train else settings.proposals_test
    logit = jnp.pad(
        jnp.where(keep, logit, -jnp.inf), (0, max(count - len(logit), 0)), constant_values=-jnp.inf
    )
    logit, place = jax.lax.top_k(logit, count)
    valid = logit > -jnp.inf
    box = jnp.where(valid[:, None], box[jnp.minimum(place, len(box) - 1)], 0.0)
    return Proposals(box, jnp.where(valid, logit, 0.0), valid)


def loss(
    settings: Settings, level_anchors, logits, deltas, truth_box, truth_valid, size, cells, rng
) -> RPNLoss:
    """As `propose`, with truth_box [g 4], truth_valid [g] bool and a key `rng` -> sums over sampled anchors.

    Binary cross-entropy of all sampled anchors, smooth L1 of the foreground among them.
    """
    geometry = settings.geometry
    anchor = jnp.concatenate([level.anchor for level in level_anchors])
    identity = jnp.concatenate([level.identity for level in level_anchors])
    usable = jnp.concatenate([belongs(level, cells[i]) for i, level in enumerate(level_anchors)])
    if geometry.anchors_inside:
        usable &= anchors.inside(anchor, size)
    matches = matching.match(
        boxes.iou(anchor, truth_box, geometry.inclusive_boxes),
        truth_valid,
        high=settings.anchor_foreground,
        low=settings.anchor_background,
        box_valid=usable,
        low_quality=settings.anchor_low_quality,
        claim=geometry.last_claim_wins,
    )
    drawn = matching.sample(
        matches.label,
        matching.priorities(rng, identity),
        count=settings.anchors_sampled,
        foreground_share=settings.anchor_foreground_share,
    )
    logit = jnp.concatenate(logits)[drawn.index]
    entropy = jax.nn.softplus(logit) - drawn.foreground * logit
    box_sum = jnp.zeros(())
    if truth_box.shape[0]:
        target = boxes.encode(
            anchor[drawn.index], truth_box[matches.index[drawn.index]], legacy=geometry.inclusive_boxes
        )
        distance = smooth_l1(jnp.concatenate(deltas)[drawn.index] - target, settings.anchor_beta).sum(axis=-1)
        box_sum = jnp.sum(jnp.where(drawn.foreground, distance, 0.0))
    return RPNLoss(jnp.sum(jnp.where(drawn.valid, entropy, 0.0)), box_sum, jnp.sum(drawn.valid))


def smooth_l1(difference, beta: float):
    """|d| - beta / 2 from beta on, d^2 / (2 beta) below; beta 0 is the L1 distance. Elementwise."""
    size = jnp.abs(difference)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * jnp.square(size) / beta, size - 0.5 * beta)
