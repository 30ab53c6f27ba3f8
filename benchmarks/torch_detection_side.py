"""Mask R-CNN in PyTorch to time, stage by stage under the names of benchmarks.detection."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import detection, torch_detection
from fashionjax.tasks.detection import make_model


def make(case: str, batch: int) -> dict[str, Callable[[int], None]]:
    """{stage: steps -> None} of a case of benchmarks.detection."""
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config, given, _ = detection.make_case(case, batch)
    ours = make_model(config)
    model = torch_detection.Detector(ours)
    if ours.backbone.frozen_bn:
        model.eval()  # statistics stand still; nothing else depends on it
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)
    settings = model.settings
    pixels = torch.from_numpy(given["image"].astype(np.float32)).permute(0, 3, 1, 2)
    if ours.bgr:
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ours.pixel_mean, ours.pixel_std))
    height, width = given["size"][0].tolist()
    image = torch.zeros_like(pixels)
    image[:, :, :height, :width] = ((pixels - mean) / std)[:, :, :height, :width]
    truths = []
    for i, valid in enumerate(given["truth_valid"]):
        bitmap = np.unpackbits(given["truth_bitmap"][i][valid], axis=-1).astype(np.float32)
        label = given["truth_label"][i][valid].astype(np.int64)
        truths.append(tuple(map(torch.from_numpy, (given["truth_box"][i][valid], label, bitmap))))
    size = (height, width)
    make_optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[config.optim.optimizer]
    options = {"momentum": 0.9} if config.optim.optimizer == "sgd" else {}
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], lr=1e-4, **options)

    def repeated(function) -> Callable[[int], None]:
        def run(steps: int) -> None:
            with torch.no_grad():
                for _ in range(steps):
                    function()

        return run

    with torch.no_grad():
        maps = model.backbone(image)
        outputs, anchors = model.rpn(maps), torch_detection.all_anchors(settings, maps)
        propose = lambda i: torch_detection.propose(settings, anchors, outputs, size, i, True)  # noqa: E731
        boxes = [torch.cat([propose(i), truths[i][0]]) for i in range(len(image))]
        rois = [box[torch.randperm(len(box))[: settings.rois_sampled]] for box in boxes]
        most = max(int(settings.rois_sampled * settings.roi_foreground_share), 1)
        few = [box[:most] for box in rois]
        pooled, small = model.pool(maps, rois, settings.box_pool), model.pool(maps, few, settings.mask_pool)

    def backward() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(torch_detection.losses(model, image, truths).values()).backward()

    def train(steps: int) -> None:
        for _ in range(steps):
            backward()
            optimizer.step()

    return {
        "backbone + FPN": repeated(lambda: model.backbone(image)),
        "RPN head": repeated(lambda: model.rpn(maps)),
        "proposals, NMS": repeated(lambda: [propose(i) for i in range(len(image))]),
        "RoIAlign, boxes": repeated(lambda: model.pool(maps, rois, settings.box_pool)),
        "box head": repeated(lambda: model.box_outputs(pooled)),
        "RoIAlign, masks": repeated(lambda: model.pool(maps, few, settings.mask_pool)),
        "mask head": repeated(lambda: model.mask_logits(small)),
        "detect": repeated(lambda: torch_detection.detect(model, image)),
        "loss + backward": lambda steps: [backward() for _ in range(steps)] and None,
        "train step": train,
    }
