"""Box and mask heads on pooled RoIs, the RoIs they are trained on, their losses. The functions take one
image.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.backbones.fpn import CAFFE2_XAVIER
from fashionjax.models.detection.rpn import Proposals, smooth_l1
from fashionjax.models.detection.settings import Settings
from fashionjax.ops import boxes, matching

TRUTH_IDENTITY = 1 << 20  # ground truth among the proposals is numbered from here on when RoIs are drawn


class RoIs(NamedTuple):
    """Boxes that a head is trained on, with what they are matched to."""

    box: jax.Array  # [n 4]
    truth: jax.Array  # [n] int32, index of the ground truth
    label: jax.Array  # [n] int32, class, or the number of classes for background
    foreground: jax.Array  # [n] bool
    valid: jax.Array  # [n] bool


class BoxLoss(NamedTuple):
    """Sums over the RoIs of one image, and how many there are."""

    entropy: jax.Array
    box: jax.Array
    rois: jax.Array


class BoxHead(nn.Module):
    """pooled [n h w c] -> [n width]: two linear layers with ReLU."""

    width: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled):
        x = layers.flatten_map(pooled)
        for name in ("fc1", "fc2"):
            x = nn.relu(layers.linear(self.width, name, dtype=self.dtype, kernel_init=CAFFE2_XAVIER)(x))
        return x


class BoxPredictor(nn.Module):
    """feature [n width] -> (class logits [n classes + 1] float32, background last; deltas [n classes 4]
    float32, or [n 1 4] with `class_agnostic`).

    With `background_first` the parameters have the background in front, also among the deltas.
    """

    classes: int
    class_agnostic: bool = False
    background_first: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feature):
        def linear(features, name, deviation):
            init = nn.initializers.normal(deviation)
            return layers.linear(features, name, dtype=self.dtype, kernel_init=init)(feature).astype(
                jnp.float32
            )

        regressed = 1 if self.class_agnostic else self.classes + self.background_first
        logits = linear(self.classes + 1, "cls_score", 0.01)
        delta = rearrange(linear(4 * regressed, "bbox_pred", 0.001), "n (k xywh) -> n k xywh", xywh=4)
        if self.background_first:
            logits = jnp.roll(logits, -1, axis=-1)
            delta = delta if self.class_agnostic else delta[:, 1:]
        return logits, delta


class MaskHead(nn.Module):
    """pooled [n h w c] -> mask logits [n 2h 2w classes] float32: 3x3 convolutions, a transposed 2x2 one,
    a 1x1.
    """

    classes: int
    channels: int = 256
    convolutions: int = 4
    background_first: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pooled):
        x = pooled
        for i in range(self.convolutions):
            conv = layers.Conv(self.channels, 3, use_bias=True, dtype=self.dtype, name=f"mask_fcn{i + 1}")
            x = nn.relu(conv(x))
        x = nn.relu(Deconv(self.channels, dtype=self.dtype, name="deconv")(x))
        predictor = layers.Conv(
            self.classes + self.background_first,
            1,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(0.001),
            name="predictor",
        )
        logits = predictor(x).astype(jnp.float32)
        return logits[..., 1:] if self.background_first else logits


class Deconv(nn.Module):
    """x [n h w c] -> [n 2h 2w features], a transposed convolution of window and stride 2:
    out[2i + a, 2j + b] = bias + x[i, j] kernel[:, a, b].
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1], 2, 2, self.features)
        # fan-out form of He et al. 2015; each output cell sees one input cell
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal", in_axis=0, out_axis=(1, 2, 3))
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        y = jnp.einsum("nhwc,cabo->nhawbo", x.astype(self.dtype), kernel)
        return rearrange(y, "n h a w b o -> n (h a) (w b) o") + bias


def sample(
    settings: Settings, classes: int, proposals: Proposals, truth_box, truth_label, truth_valid, rng
) -> RoIs:
    """Proposals and the ground truth (truth_box [g 4], truth_label [g] int, truth_valid [g]) itself,
    matched at the first stage's IoU -> `settings.rois_sampled` RoIs, foreground first.
    """
    box = jnp.concatenate([proposals.box, truth_box])
    usable = jnp.concatenate([proposals.valid, truth_valid])
    identity = jnp.concatenate(
        [jnp.arange(proposals.box.shape[0]), TRUTH_IDENTITY + jnp.arange(truth_box.shape[0])]
    )
    matches = _match(settings, 0, box, usable, truth_box, truth_valid)
    drawn = matching.sample(
        matches.label,
        matching.priorities(rng, identity),
        count=settings.rois_sampled,
        foreground_share=settings.roi_foreground_share,
    )
    truth = matches.index[drawn.index]
    label = _label(classes, truth, drawn.foreground, truth_label)
    chosen = jnp.where(drawn.valid[:, None], box[drawn.index], 0.0)
    return jax.lax.stop_gradient(RoIs(chosen, truth, label, drawn.foreground, drawn.valid))


def rematch(
    settings: Settings, classes: int, stage: int, box, valid, truth_box, truth_label, truth_valid
) -> RoIs:
    """Boxes [n 4] refined by the stage before -> RoIs of `stage`: all of them, matched at its IoU; empty
    boxes are left out.
    """
    box = jax.lax.stop_gradient(box)
    valid = valid & boxes.nonempty(box, settings.geometry.inclusive_boxes)
    matches = _match(settings, stage, box, valid, truth_box, truth_valid)
    foreground = matches.label == matching.FOREGROUND
    label = _label(classes, matches.index, foreground, truth_label)
    return RoIs(box, matches.index, label, foreground, valid)


def _match(settings: Settings, stage: int, box, valid, truth_box, truth_valid) -> matching.Matches:
    threshold, geometry = settings.stage_iou[stage], settings.geometry
    return matching.match(
        boxes.iou(box, truth_box, geometry.inclusive_boxes),
        truth_valid,
        high=threshold,
        low=threshold,
        box_valid=valid,
        low_quality=threshold if geometry.last_claim_wins else None,
        claim=geometry.last_claim_wins,
    )


def _label(classes: int, truth, foreground, truth_label):
    if not truth_label.shape[0]:
        return jnp.full(truth.shape, classes, jnp.int32)
    return jnp.where(foreground, truth_label[truth], classes).astype(jnp.int32)


def box_loss(settings: Settings, stage: int, logits, delta, rois: RoIs, truth_box) -> BoxLoss:
    """logits [n k + 1], delta [n k 4] or [n 1 4] -> cross-entropy over all RoIs, smooth L1 over the
    foreground on the deltas of its class.
    """
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.take_along_axis(log_p, rois.label[:, None], axis=1)[:, 0]
    box_sum = jnp.zeros(())
    if truth_box.shape[0]:
        column = jnp.minimum(rois.label, delta.shape[1] - 1)
        own = jnp.take_along_axis(delta, column[:, None, None], axis=1)[:, 0]
        target = boxes.encode(
            rois.box,
            truth_box[rois.truth],
            settings.stage_weights[stage],
            settings.geometry.inclusive_boxes,
        )
        distance = smooth_l1(own - target, settings.roi_beta).sum(axis=-1)
        box_sum = jnp.sum(jnp.where(rois.foreground, distance, 0.0))
    return BoxLoss(jnp.sum(jnp.where(rois.valid, entropy, 0.0)), box_sum, jnp.sum(rois.valid))


def mask_loss(logits, target, label, counted):
    """logits [n m m k], target [n m m] in 0..1, label [n] int, counted [n] bool -> (sum over the counted RoIs
    of the mean binary cross-entropy of the mask of its class, number of counted RoIs).
    """
    column = jnp.minimum(label, logits.shape[-1] - 1)
    own = jnp.take_along_axis(logits, column[:, None, None, None], axis=-1)[..., 0]
    entropy = jax.nn.softplus(own) - target.astype(jnp.float32) * own
    per_roi = entropy.mean(axis=(1, 2))
    return jnp.sum(jnp.where(counted, per_roi, 0.0)), jnp.sum(counted)


@jax.custom_vjp
def scale_gradient(x, factor):
    """x itself; its gradient times `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, factor), lambda factor, g: ((g * factor).astype(g.dtype), None))
