"""Mask R-CNN and Cascade Mask R-CNN: the module, its losses and its detections, on static shapes.

    model = rcnn.mask_rcnn(classes=13)
    losses, batch_stats = rcnn.losses(model, variables, image, size, truth, rng, mask_target)
    detections = rcnn.detect(model, variables, image, size)

Images of a batch are padded at the bottom and right to one shape whose sides are multiples of 32. Neither
that padding nor padded ground truth nor the other images of a batch change what is computed for an image:
its features are those of the image padded to the next multiple of 32 alone, and random draws depend on
its own key.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models.backbones.fpn import FPN
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.detection import roi_heads, rpn
from fashionjax.models.detection.settings import CASCADE, MASK_RCNN, Settings
from fashionjax.ops import boxes, nms, roi_align

ALIGNMENT = 32
# detectron2's pixels: blue, green, red in 0..255, means as of Caffe's ResNets
BGR_MEAN, BGR_STD = (103.530, 116.280, 123.675), (1.0, 1.0, 1.0)
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Truth(NamedTuple):
    """Ground truth of a batch, padded to g objects."""

    box: jax.Array  # [b g 4] xyxy in pixels of the padded image
    label: jax.Array  # [b g] int, 0-based class
    valid: jax.Array  # [b g] bool
    mask: Any = None  # arrays [b ...] that mask_target reads
    masked: Any = None  # [b g] bool, objects that have a mask; None: all


class Detections(NamedTuple):
    """Detections of a batch, n slots per image, best first. Slots that are not valid hold zeros."""

    box: jax.Array  # [b n 4] xyxy in pixels of the image as it was given
    score: jax.Array  # [b n]
    label: jax.Array  # [b n] int32, 0-based class
    valid: jax.Array  # [b n] bool
    mask_logits: jax.Array  # [b n m m] of the detected class, over the box


class RCNN(nn.Module):
    """Backbone, pyramid, RPN, one box head for each stage, mask head (`masks` False: none).

    `pixel_mean` and `pixel_std` are in the order of the channels that the weights expect, blue first with
    `bgr`; images are given as RGB in 0..255.
    """

    backbone: nn.Module
    classes: int
    settings: Settings = MASK_RCNN
    channels: int = 256
    box_width: int = 1024
    mask_convolutions: int = 4
    masks: bool = True
    norm: str | None = None
    bgr: bool = True
    pixel_mean: tuple[float, float, float] = BGR_MEAN
    pixel_std: tuple[float, float, float] = BGR_STD
    dtype: Any = jnp.float32

    def setup(self):
        settings, first = self.settings, self.settings.geometry.background_first
        self.fpn = FPN(self.channels, self.norm, self.dtype)
        self.rpn_head = rpn.RPNHead(self.channels, len(settings.ratios), self.dtype)
        stages = range(len(settings.stage_iou))
        self.box_head = [roi_heads.BoxHead(self.box_width, self.dtype) for _ in stages]
        self.box_predictor = [
            roi_heads.BoxPredictor(self.classes, settings.class_agnostic, first, self.dtype) for _ in stages
        ]
        if self.masks:
            self.mask_head = roi_heads.MaskHead(
                self.classes, self.channels, self.mask_convolutions, first, self.dtype
            )

    def __call__(self, image, size):
        """Every part once, for the parameters: see `losses` and `detect`."""
        maps = self.maps(image, size)
        self.propose(maps, size, train=False)
        box = jnp.zeros((image.shape[0], 1, 4)) + jnp.array([0.0, 0, 32, 32])
        outputs = [self.box_outputs(maps, box, size, k) for k in range(len(self.settings.stage_iou))]
        return outputs, self.mask_logits(maps, box, size) if self.masks else None

    def normalise(self, image, size):
        """image [b h w 3] RGB in 0..255, size [b 2] = (h, w) of each -> network input, 0 beyond the image."""
        x = image.astype(jnp.float32)
        x = x[..., ::-1] if self.bgr else x
        x = (x - jnp.array(self.pixel_mean)) / jnp.array(self.pixel_std)
        row = jnp.arange(x.shape[1])[None, :] < size[:, :1]
        column = jnp.arange(x.shape[2])[None, :] < size[:, 1:]
        return jnp.where((row[:, :, None] & column[:, None, :])[..., None], x, 0.0)

    def bottom_up(self, image, size, train: bool = False) -> tuple:
        """The backbone's four maps."""
        return self.backbone(self.normalise(image, size), train=train, cells=aligned(size))

    def maps(self, image, size, train: bool = False) -> tuple:
        """image [b h w 3] RGB, size [b 2] -> p2..p6 [b h_l w_l channels]."""
        if image.shape[1] % ALIGNMENT or image.shape[2] % ALIGNMENT:
            raise ValueError(f"sides must be multiples of {ALIGNMENT}: image {image.shape}")
        return self.fpn(self.bottom_up(image, size, train), aligned(size))

    def rpn_outputs(self, maps) -> list:
        """p2..p6 -> (logits [b h w a], deltas [b h w a 4]) of each level."""
        return self.rpn_head(maps)

    def rpn_flat(self, maps):
        """p2..p6 -> (anchors of each level, logits [b n_l] of each, deltas [b n_l 4] of each)."""
        found = rpn.levels(self.settings, [x.shape[1:3] for x in maps])
        outputs = self.rpn_outputs(maps)
        logits = [rearrange(logit, "b h w a -> b (h w a)") for logit, _ in outputs]
        deltas = [rearrange(delta, "b h w a xywh -> b (h w a) xywh") for _, delta in outputs]
        return found, logits, deltas

    def propose(self, maps, size, train: bool) -> rpn.Proposals:
        """p2..p6 -> Proposals [b n ...]."""
        found, logits, deltas = self.rpn_flat(maps)
        propose = partial(rpn.propose, self.settings, found, train=train)
        return jax.vmap(propose)(logits, deltas, size, level_cells(self.settings.strides, size))

    def pool(self, maps, box, size, side: int):
        """p2.., box [b n 4] -> pooled [b n side side channels]."""
        settings, geometry = self.settings, self.settings.geometry
        pool = partial(
            roi_align.pyramid,
            size=side,
            strides=settings.roi_strides,
            samples=geometry.roi_samples,
            aligned=geometry.aligned_rois,
            inclusive=geometry.inclusive_rois,
            limit=geometry.roi_sample_limit,
            legacy_levels=geometry.inclusive_boxes,
        )
        cells = level_cells(settings.roi_strides, size)
        return jax.vmap(lambda m, b, c: pool(m, b, cells=c))(maps[: len(settings.roi_strides)], box, cells)

    def box_head_feature(self, pooled, stage: int):
        """pooled [n side side channels] -> [n box_width]."""
        return self.box_head[stage](pooled)

    def box_outputs(self, maps, box, size, stage: int):
        """box [b n 4] -> (class logits [b n k + 1], background last; deltas [b n k 4] or [b n 1 4])."""
        pooled = self.pool(maps, box, size, self.settings.box_pool)
        if len(self.settings.stage_iou) > 1:
            pooled = roi_heads.scale_gradient(pooled, 1 / len(self.settings.stage_iou))
        flat = rearrange(pooled, "b n ... -> (b n) ...")
        logits, delta = self.box_predictor[stage](self.box_head[stage](flat))
        return tuple(rearrange(x, "(b n) ... -> b n ...", b=box.shape[0]) for x in (logits, delta))

    def refined(self, box, delta, size, stage: int):
        """box [b n 4], delta [b n k 4] -> boxes [b n k 4], clipped."""
        legacy = self.settings.geometry.inclusive_boxes
        moved = boxes.decode(box[:, :, None], delta, self.settings.stage_weights[stage], legacy)
        return boxes.clip(moved, size[:, None, None], legacy)

    def classify(self, maps, box, size):
        """All stages on box [b n 4] -> (boxes of the last stage [b n k 4] or [b n 1 4], clipped;
        probabilities [b n k + 1], the mean over the stages).
        """
        probability, moved = 0.0, box[:, :, None]
        for stage in range(len(self.settings.stage_iou)):
            box = moved[:, :, 0]
            logits, delta = self.box_outputs(maps, box, size, stage)
            probability = probability + jax.nn.softmax(logits)
            moved = self.refined(box, delta, size, stage)
        return moved, probability / len(self.settings.stage_iou)

    def mask_logits(self, maps, box, size):
        """box [b n 4] -> [b n 2s 2s k]."""
        pooled = self.pool(maps, box, size, self.settings.mask_pool)
        logits = self.mask_head(rearrange(pooled, "b n ... -> (b n) ..."))
        return rearrange(logits, "(b n) ... -> b n ...", b=box.shape[0])

    def find(self, image, size):
        """-> (nms.Selected [b n ...] boxes without masks, p2..p6); see the function `detect`."""
        settings, legacy = self.settings, self.settings.geometry.inclusive_boxes
        maps = self.maps(image, size)
        proposals = self.propose(maps, size, train=False)
        box, probability = self.classify(maps, proposals.box, size)
        shared = box[:, :, 0] if settings.class_agnostic else box
        select = partial(
            nms.select,
            score_threshold=settings.score_threshold,
            threshold=settings.detection_nms,
            count=settings.detections,
            legacy=legacy,
        )
        return jax.vmap(select)(shared, probability[..., :-1], proposals.valid), maps

    def detect(self, image, size):
        """-> (Detections, p2..p6); see the function `detect`."""
        best, maps = self.find(image, size)
        side = 2 * self.settings.mask_pool
        if self.masks:
            logits = self.mask_logits(maps, best.box, size)
            own = jnp.take_along_axis(logits, best.label[:, :, None, None, None], axis=-1)[..., 0]
            own = jnp.where(best.valid[:, :, None, None], own, 0.0)
        else:
            own = jnp.zeros((*best.label.shape, side, side))
        return Detections(best.box, best.score, best.label, best.valid, own), maps

    def loss_sums(self, image, size, truth: Truth, rng, mask_target, train: bool = True) -> dict:
        """-> {name: (sum [b], what it is divided by [b])}; see the function `losses`."""
        settings = self.settings
        maps = self.maps(image, size, train)
        found, logits, deltas = self.rpn_flat(maps)
        cells = level_cells(settings.strides, size)
        keys = jax.vmap(lambda key: jax.random.split(key, 2))(rng)
        loss = partial(rpn.loss, settings, found)
        first = jax.vmap(loss)(logits, deltas, truth.box, truth.valid, size, cells, keys[:, 0])
        anchors = jnp.full(size.shape[:1], settings.anchors_sampled, jnp.float32)
        sums = {"rpn_cls": (first.objectness, anchors), "rpn_loc": (first.box, anchors)}
        propose = partial(rpn.propose, settings, found, train=True)
        proposals = jax.vmap(propose)(logits, deltas, size, cells)
        sample = partial(roi_heads.sample, settings, self.classes)
        rois = jax.vmap(sample)(proposals, truth.box, truth.label, truth.valid, keys[:, 1])
        sums |= self._box_sums(maps, rois, truth, size)
        if self.masks:
            sums["mask"] = self._mask_sums(maps, rois, truth, size, mask_target)
        return sums

    def _box_sums(self, maps, rois: roi_heads.RoIs, truth: Truth, size) -> dict:
        settings, sums, moved = self.settings, {}, rois.box
        stages = len(settings.stage_iou)
        for stage in range(stages):
            if stage:
                rematch = partial(roi_heads.rematch, settings, self.classes, stage)
                rois = jax.vmap(rematch)(moved, rois.valid, truth.box, truth.label, truth.valid)
            logits, delta = self.box_outputs(maps, rois.box, size, stage)
            loss = partial(roi_heads.box_loss, settings, stage)
            found = jax.vmap(loss)(logits, delta, rois, truth.box)
            suffix = f"_stage{stage}" if stages > 1 else ""
            sums[f"cls{suffix}"] = (found.entropy, found.rois)
            sums[f"box_reg{suffix}"] = (found.box, found.rois)
            moved = self.refined(rois.box, delta, size, stage)[:, :, 0]
        return sums

    def _mask_sums(self, maps, rois: roi_heads.RoIs, truth: Truth, size, mask_target):
        # Foreground comes first and is never more than this.
        most = max(int(self.settings.rois_sampled * self.settings.roi_foreground_share), 1)
        rois = jax.tree.map(lambda x: x[:, :most], rois)
        logits = self.mask_logits(maps, rois.box, size)
        target = jax.lax.stop_gradient(jax.vmap(mask_target)(truth.mask, rois.truth, rois.box))
        counted = rois.foreground
        if truth.masked is not None and truth.masked.shape[1]:
            counted &= jnp.take_along_axis(truth.masked, rois.truth, axis=1)
        return jax.vmap(roi_heads.mask_loss)(logits, target, rois.label, counted)


def aligned(size):
    """size [b 2] -> rounded up to multiples of 32."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def level_cells(strides, size):
    """Rows and columns of each level that belong to images of size [b 2] -> [b l 2] int32."""
    return -(-aligned(size)[:, None] // jnp.array(strides, jnp.int32)[None, :, None])


def losses(
    model: RCNN,
    variables: dict,
    image,
    size,
    truth: Truth,
    rng,
    mask_target: Callable,
    *,
    weight: jax.Array | None = None,
    axis_name: str | None = None,
    train: bool = True,
) -> tuple[dict, dict]:
    """image [b h w 3] RGB in 0..255 (uint8 or float), size [b 2] int (h, w of each image without
    padding), Truth, rng [b] keys -> ({name: scalar float32}, batch_stats after the step).

    The names are detectron2's without 'loss_': rpn_cls, rpn_loc, cls, box_reg and mask, of a cascade
    cls_stage0, box_reg_stage0, ...; the loss of the model is their sum. RPN losses are divided by 256
    anchors per image, box losses by the sampled RoIs of the batch, the mask loss by its foreground RoIs whose
    object has a mask;
    with `axis_name` these counts are averaged over the devices, so that the mean of the devices'
    gradients is the gradient of the whole batch. Keys should be drawn per example (folded with its
    number), so that a draw does not depend on where an image lies in a batch. An image whose `weight` [b]
    is 0 is in neither sums nor counts.

    mask_target (mask of one image, instance [n] int, box [n 4]) -> [n m m] in 0..1, m = 2 *
    settings.mask_pool, e.g. `functools.partial(ops.masks.bitmap_targets, size=28)`. Pixels of padding,
    padded ground truth, images without objects and objects that no anchor overlaps contribute nothing.
    """
    names = ["batch_stats"] if train and variables.get("batch_stats") else False
    result = model.apply(
        variables, image, size, truth, rng, mask_target, train, method="loss_sums", mutable=names
    )
    sums, state = result if names else (result, {})
    total = {}
    for name, (value, count) in sums.items():
        count, devices = count.astype(jnp.float32), 1
        if weight is not None:
            value, count = jnp.where(weight > 0, value, 0.0), jnp.where(weight > 0, count, 0.0)
        count = jnp.sum(count)
        if axis_name is not None:
            count, devices = jax.lax.psum((count, 1), axis_name)
        # At least one: a batch without any foreground has no mask loss.
        total[name] = jnp.sum(value) * devices / jnp.maximum(count, 1)
    return total, state.get("batch_stats", variables.get("batch_stats", {}))


def detect(model: RCNN, variables: dict, image, size) -> Detections:
    """image [b h w 3] RGB in 0..255, size [b 2] int (h, w without padding) -> Detections.

    Scores above settings.score_threshold after class-wise NMS, at most settings.detections per image;
    masks are logits over each box, for `ops.masks.paste` after a sigmoid.
    """
    return model.apply(variables, image, size, method="detect")[0]


def mask_rcnn(classes: int, depth: int = 50, settings: Settings = MASK_RCNN, **fields) -> RCNN:
    """Mask R-CNN with a ResNet-FPN as detectron2 publishes it: bottleneck stride in the first 1x1
    convolution, batch normalisation and the first stages frozen. `backbone` among the fields replaces the
    ResNet.
    """
    dtype = fields.get("dtype", jnp.float32)
    frozen = ResNet(depth=depth, stride_in_1x1=True, frozen_bn=True, frozen_stages=1, dtype=dtype)
    return RCNN(**{"backbone": frozen, "classes": classes, "settings": settings, **fields})


def cascade_mask_rcnn(classes: int, depth: int = 101, settings: Settings = CASCADE, **fields) -> RCNN:
    """Cascade Mask R-CNN (Cai & Vasconcelos 2018): three stages of rising IoU, one box regression for all
    classes.
    """
    return mask_rcnn(classes, depth, settings, **fields)


def frozen_parameters(model: RCNN) -> tuple[str, ...]:
    """Patterns of the parameter paths that a fine-tuning run must not update, for `config.optim.frozen`:
    the stem and stages that get no gradient, and the scales and biases of frozen batch normalisations.
    """
    backbone, patterns = model.backbone, []
    if getattr(backbone, "frozen_stages", None) is not None:
        patterns += [
            r"backbone/(conv1|bn1)/",
            *(rf"backbone/layer{k + 1}_" for k in range(backbone.frozen_stages)),
        ]
    if getattr(backbone, "frozen_bn", False) and backbone.norm == "batch":
        patterns += [r"backbone/bn1/", r"backbone/layer\d_\d+/(bn\d|downsample_1)/"]
    return tuple(dict.fromkeys(patterns))
