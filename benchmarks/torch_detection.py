"""Mask R-CNN in plain PyTorch with detectron2's names, to time and to compare with `models.detection`.

RoIAlign samples a fixed grid per bin (`grid_sample` on the RoIs of a level): the adaptive one has no form in
PyTorch's own operators. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fashionjax.models.backbones.resnet import BLOCKS, BOTTLENECK_DEPTHS
from fashionjax.models.detection.rcnn import RCNN
from fashionjax.models.detection.settings import Settings
from fashionjax.ops import anchors as anchor_boxes

CLAMP = float(np.log(1000 / 16))
SAMPLES = 2  # of a bin and axis


class Conv(nn.Conv2d):
    """A convolution with its normalisation as `norm`."""

    def __init__(self, c: int, d: int, k: int, stride: int = 1, norm=None):
        super().__init__(c, d, k, stride, (k - 1) // 2, bias=norm is None)
        self.norm = norm(d) if norm else None

    def forward(self, x):
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)


class Block(nn.Module):
    def __init__(self, c: int, width: int, stride: int, bottleneck: bool, first: bool, norm):
        super().__init__()
        d = 4 * width if bottleneck else width
        if bottleneck:
            strides = (stride, 1) if first else (1, stride)
            self.conv1, self.conv2 = (
                Conv(c, width, 1, strides[0], norm),
                Conv(width, width, 3, strides[1], norm),
            )
            self.conv3 = Conv(width, d, 1, 1, norm)
        else:
            self.conv1, self.conv2 = Conv(c, d, 3, stride, norm), Conv(d, d, 3, 1, norm)
        if stride != 1 or c != d:
            self.shortcut = Conv(c, d, 1, stride, norm)

    def forward(self, x):
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        if hasattr(self, "conv3"):
            y = self.conv3(F.relu(y, inplace=True))
        return F.relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x), inplace=True)


class ResNetFPN(nn.Module):
    """x [b 3 h w] -> p2..p6."""

    def __init__(self, model: RCNN):
        super().__init__()
        net, width = model.backbone, model.backbone.width
        bottleneck = net.depth in BOTTLENECK_DEPTHS
        norm = nn.BatchNorm2d
        if net.norm == "group":
            norm = partial(_group_norm, per_group=max(width // 4, 1))
        self.bottom_up, c = nn.Module(), width
        self.bottom_up.stem = nn.Module()
        self.bottom_up.stem.conv1 = Conv(3, width, 7, 2, norm)
        self.frozen = net.frozen_stages
        widths = []
        for stage, count in enumerate(BLOCKS[net.depth]):
            blocks = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                blocks.append(Block(c, width * 2**stage, stride, bottleneck, net.stride_in_1x1, norm))
                c = width * 2**stage * (4 if bottleneck else 1)
            setattr(self.bottom_up, f"res{stage + 2}", nn.Sequential(*blocks))
            widths.append(c)
        over = partial(_group_norm, per_group=max(model.channels // 32, 1)) if model.norm else None
        for level, c in zip((2, 3, 4, 5), widths):
            setattr(self, f"fpn_lateral{level}", Conv(c, model.channels, 1, 1, over))
            setattr(self, f"fpn_output{level}", Conv(model.channels, model.channels, 3, 1, over))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bottom_up.stem.conv1(x), inplace=True), 3, 2, 1)
        maps = []
        for stage in range(4):
            if self.frozen == stage:
                x = x.detach()
            x = getattr(self.bottom_up, f"res{stage + 2}")(x)
            maps.append(x)
        above, outputs = None, []
        for level in (5, 4, 3, 2):
            x = getattr(self, f"fpn_lateral{level}")(maps[level - 2])
            above = x if above is None else x + F.interpolate(above, scale_factor=2.0)
            outputs.insert(0, getattr(self, f"fpn_output{level}")(above))
        return [*outputs, outputs[-1][:, :, ::2, ::2]]


def _group_norm(channels: int, per_group: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // per_group, channels)


class Detector(nn.Module):
    """The PyTorch twin of an RCNN of one stage in detectron2's conventions."""

    def __init__(self, model: RCNN):
        super().__init__()
        settings, c, k = model.settings, model.channels, model.classes
        self.settings: Settings = settings
        self.backbone = ResNetFPN(model)
        self.proposal_generator = nn.Module()
        head = self.proposal_generator.rpn_head = nn.Module()
        head.conv = nn.Conv2d(c, c, 3, padding=1)
        head.objectness_logits = nn.Conv2d(c, len(settings.ratios), 1)
        head.anchor_deltas = nn.Conv2d(c, 4 * len(settings.ratios), 1)
        roi = self.roi_heads = nn.Module()
        roi.box_head, roi.box_predictor, roi.mask_head = nn.Module(), nn.Module(), nn.Module()
        roi.box_head.fc1 = nn.Linear(c * settings.box_pool**2, model.box_width)
        roi.box_head.fc2 = nn.Linear(model.box_width, model.box_width)
        roi.box_predictor.cls_score = nn.Linear(model.box_width, k + 1)
        roi.box_predictor.bbox_pred = nn.Linear(model.box_width, 4 * k)
        for i in range(model.mask_convolutions):
            setattr(roi.mask_head, f"mask_fcn{i + 1}", nn.Conv2d(c, c, 3, padding=1))
        roi.mask_head.deconv = nn.ConvTranspose2d(c, c, 2, 2)
        roi.mask_head.predictor = nn.Conv2d(c, k, 1)

    def rpn(self, maps):
        """-> (logits [b n], deltas [b n 4]) of each level, order row, column, ratio."""
        head, found = self.proposal_generator.rpn_head, []
        for x in maps:
            x = F.relu(head.conv(x))
            logit, delta = head.objectness_logits(x), head.anchor_deltas(x)
            b, _, h, w = delta.shape
            delta = delta.view(b, -1, 4, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, 4)
            found.append((logit.permute(0, 2, 3, 1).reshape(b, -1), delta))
        return found

    def pool(self, maps, boxes, side: int):
        """boxes of each image [n 4] -> pooled [sum n c side side]."""
        return torch.cat(
            [
                pyramid([m[i] for m in maps[:4]], box, side, self.settings.roi_strides)
                for i, box in enumerate(boxes)
            ]
        )

    def box_outputs(self, pooled):
        head, out = self.roi_heads.box_head, self.roi_heads.box_predictor
        x = F.relu(head.fc2(F.relu(head.fc1(pooled.flatten(1)))))
        return out.cls_score(x), out.bbox_pred(x).view(len(x), -1, 4)

    def mask_logits(self, pooled):
        head, x, i = self.roi_heads.mask_head, pooled, 1
        while hasattr(head, f"mask_fcn{i}"):
            x = F.relu(getattr(head, f"mask_fcn{i}")(x))
            i += 1
        return head.predictor(F.relu(head.deconv(x)))


# ------------------------------------------------------------------------------ boxes
def iou(box, other):
    low, high = torch.maximum(box[:, None, :2], other[:, :2]), torch.minimum(box[:, None, 2:], other[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (box, other)]
    return both / (area[0][:, None] + area[1] - both).clamp(min=1e-9)


def encode(box, target, weights=(1.0, 1.0, 1.0, 1.0)):
    size, other = box[:, 2:] - box[:, :2], target[:, 2:] - target[:, :2]
    centre, theirs = box[:, :2] + size / 2, target[:, :2] + other / 2
    return torch.cat([(theirs - centre) / size, torch.log(other / size)], 1) * torch.tensor(weights)


def decode(box, delta, size, weights=(1.0, 1.0, 1.0, 1.0)):
    """box [n 4], delta [n 4], size (h, w) -> boxes clipped to the image."""
    delta = delta / torch.tensor(weights)
    side = box[:, 2:] - box[:, :2]
    centre = box[:, :2] + side / 2 + delta[:, :2] * side
    half = torch.exp(delta[:, 2:].clamp(max=CLAMP)) * side / 2
    limit = torch.tensor([size[1], size[0]], dtype=box.dtype)
    corners = [(centre + sign * half).clamp(min=0).minimum(limit) for sign in (-1, 1)]
    return torch.cat(corners, 1)


def nms(box, score, threshold: float):
    """Greedy -> kept rows, best first."""
    order = score.argsort(descending=True)
    above = (iou(box[order], box[order]) > threshold).numpy()
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~above[i, i + 1 :]
    return order[torch.from_numpy(np.flatnonzero(alive))]


def roi_align(feature, box, side: int, stride: float):
    """feature [c h w], box [n 4] -> [n c side side], aligned, SAMPLES per bin and axis."""
    c, h, w = feature.shape
    n, steps = len(box), side * SAMPLES
    step = (torch.arange(steps) + 0.5) / steps
    low, length = box[:, :2] / stride - 0.5, (box[:, 2:] - box[:, :2]) / stride
    x, y = (low[:, a : a + 1] + step * length[:, a : a + 1] for a in (0, 1))  # [n steps] in cells
    x, y = (2 * x + 1) / w - 1, (2 * y + 1) / h - 1
    grid = torch.stack([x[:, None, :].expand(n, steps, steps), y[:, :, None].expand(n, steps, steps)], -1)
    grid = grid.reshape(1, n * steps, steps, 2)
    sampled = F.grid_sample(feature[None], grid, padding_mode="border", align_corners=False)[0]
    return sampled.view(c, n, side, SAMPLES, side, SAMPLES).mean((3, 5)).transpose(0, 1)


def pyramid(maps, box, side: int, strides):
    area = (box[:, 2:] - box[:, :2]).prod(1).clamp(min=0)
    level = torch.floor(2 + torch.log2(area.sqrt() / (56 * strides[0]) + 1e-8)).clamp(0, len(maps) - 1)
    pooled = maps[0].new_zeros((len(box), len(maps[0]), side, side))
    for i, (feature, stride) in enumerate(zip(maps, strides)):
        rows = torch.nonzero(level == i)[:, 0]
        if len(rows):
            pooled = pooled.index_copy(0, rows, roi_align(feature, box[rows], side, stride))
    return pooled


# ------------------------------------------------------------------------------ proposals and samples
def all_anchors(settings: Settings, maps) -> list:
    found = []
    for stride, x in zip(settings.strides, maps):
        cell = anchor_boxes.cell_anchors(stride * settings.anchor_scale, settings.ratios)
        found.append(torch.from_numpy(anchor_boxes.grid(cell, *x.shape[2:], stride)))
    return found


def propose(settings: Settings, anchors, outputs, size, i: int, train: bool):
    """Proposals [n 4] of image i."""
    most = settings.candidates_train if train else settings.candidates_test
    boxes, scores = [], []
    for anchor, (logit, delta) in zip(anchors, outputs):
        score, rows = logit[i].detach().topk(min(most, len(anchor)))
        box = decode(anchor[rows], delta[i].detach()[rows], size)
        usable = (box[:, 2:] > box[:, :2]).all(1)
        box, score = box[usable], score[usable]
        kept = nms(box, score, settings.proposal_nms)
        boxes.append(box[kept])
        scores.append(score[kept])
    count = settings.proposals_train if train else settings.proposals_test
    box, score = torch.cat(boxes), torch.cat(scores)
    return box[score.topk(min(count, len(score)))[1]]


def sample(label, count: int, share: float):
    """label [n] 1, 0, -1 -> rows of a random sample, foreground first, and how many are foreground."""
    foreground, background = (torch.nonzero(label == kind)[:, 0] for kind in (1, 0))
    foreground = foreground[torch.randperm(len(foreground))[: int(count * share)]]
    background = background[torch.randperm(len(background))[: count - len(foreground)]]
    return torch.cat([foreground, background]), len(foreground)


def anchor_labels(settings: Settings, anchor, truth):
    """-> (label [n], matched ground truth [n])."""
    overlap = iou(anchor, truth)
    best, index = overlap.max(1)
    label = torch.full((len(anchor),), -1)
    label[best < settings.anchor_background] = 0
    label[best >= settings.anchor_foreground] = 1
    label[((overlap == overlap.max(0)[0]) & (overlap > 0)).any(1)] = 1
    return label, index


# ------------------------------------------------------------------------------ losses
def rpn_losses(settings: Settings, anchor, logit, delta, rows, foreground: int, matched):
    """Of one image: sums over the sampled anchors `rows`, foreground first; matched [foreground 4]."""
    target = torch.zeros(len(rows))
    target[:foreground] = 1
    objectness = F.binary_cross_entropy_with_logits(logit[rows], target, reduction="sum")
    wanted = encode(anchor[rows[:foreground]], matched)
    return objectness, (delta[rows[:foreground]] - wanted).abs().sum()


def roi_losses(settings: Settings, logits, delta, boxes, label, matched):
    """Sums over RoIs: logits [n k+1], delta [n k 4], label [n] (k: background), matched [n 4]."""
    entropy = F.cross_entropy(logits, label, reduction="sum")
    rows = torch.nonzero(label < delta.shape[1])[:, 0]
    wanted = encode(boxes[rows], matched[rows], settings.stage_weights[0])
    return entropy, (delta[rows, label[rows]] - wanted).abs().sum()


def mask_loss(logits, label, target):
    """logits [n k m m], target [n m m] -> sum over RoIs of the mean over pixels."""
    own = logits[torch.arange(len(label)), label]
    return F.binary_cross_entropy_with_logits(own, target, reduction="none").mean((1, 2)).sum()


def losses(model: Detector, image, truths) -> dict:
    """image [b 3 h w] normalised, truths of each image (box [g 4], label [g], bitmap [g h w]) -> terms."""
    settings, size = model.settings, tuple(image.shape[2:])
    maps = model.backbone(image)
    outputs, anchors = model.rpn(maps), all_anchors(model.settings, maps)
    anchor = torch.cat(anchors)
    logits, deltas = (torch.cat(x, 1) for x in zip(*outputs))
    total = dict.fromkeys(("rpn_cls", "rpn_loc", "cls", "box_reg", "mask"), 0.0)
    rois, labels, matched, mask_rois, mask_labels, targets = [], [], [], [], [], []
    for i, (box, label, bitmap) in enumerate(truths):
        kind, index = anchor_labels(settings, anchor, box)
        rows, foreground = sample(kind, settings.anchors_sampled, settings.anchor_foreground_share)
        terms = rpn_losses(
            settings, anchor, logits[i], deltas[i], rows, foreground, box[index[rows[:foreground]]]
        )
        total["rpn_cls"], total["rpn_loc"] = total["rpn_cls"] + terms[0], total["rpn_loc"] + terms[1]
        proposals = torch.cat([propose(settings, anchors, outputs, size, i, True), box])
        best, index = iou(proposals, box).max(1)
        kind = (best >= settings.stage_iou[0]).long()
        rows, foreground = sample(kind, settings.rois_sampled, settings.roi_foreground_share)
        classes = torch.full((len(rows),), model.roi_heads.mask_head.predictor.out_channels)
        classes[:foreground] = label[index[rows[:foreground]]]
        rois.append(proposals[rows])
        labels.append(classes)
        matched.append(box[index[rows]])
        mask_rois.append(proposals[rows[:foreground]])
        mask_labels.append(classes[:foreground])
        crops = [
            roi_align(bitmap[g][None], b[None], 2 * settings.mask_pool, 1.0)[0, 0] >= 0.5
            for b, g in zip(mask_rois[-1], index[rows[:foreground]].tolist())
        ]
        targets += crops
    boxes = torch.cat(rois)
    scores, delta = model.box_outputs(model.pool(maps, rois, settings.box_pool))
    terms = roi_losses(settings, scores, delta, boxes, torch.cat(labels), torch.cat(matched))
    anchors_counted = settings.anchors_sampled * len(truths)
    total = {name: value / anchors_counted for name, value in total.items()}
    total["cls"], total["box_reg"] = terms[0] / len(boxes), terms[1] / len(boxes)
    if targets:
        masks = model.mask_logits(model.pool(maps, mask_rois, settings.mask_pool))
        total["mask"] = mask_loss(masks, torch.cat(mask_labels), torch.stack(targets).float()) / len(targets)
    return total


def detect(model: Detector, image) -> list:
    """-> (box, score, label, mask logits) of each image."""
    settings, size = model.settings, tuple(image.shape[2:])
    maps = model.backbone(image)
    outputs, anchors = model.rpn(maps), all_anchors(model.settings, maps)
    found = []
    for i in range(len(image)):
        box = propose(settings, anchors, outputs, size, i, False)
        own = [m[i : i + 1] for m in maps]
        logits, delta = model.box_outputs(model.pool(own, [box], settings.box_pool))
        score = logits.softmax(1)[:, :-1]
        rows, label = torch.nonzero(score > settings.score_threshold, as_tuple=True)
        moved = decode(box[rows], delta[rows, label], size, settings.stage_weights[0])
        apart = moved + label[:, None] * float(max(size) + 1)  # classes do not meet
        kept = nms(apart, score[rows, label], settings.detection_nms)[: settings.detections]
        moved, label, value = moved[kept], label[kept], score[rows, label][kept]
        masks = model.mask_logits(model.pool(own, [moved], settings.mask_pool))
        found.append((moved, value, label, masks[torch.arange(len(label)), label]))
    return found
