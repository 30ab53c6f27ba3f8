"""Which model a state dict belongs to, told from its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]

# residual blocks per stage, whether blocks are bottlenecks → name
RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
VGGS = {8: "vgg11", 13: "vgg16"}  # convolutions
VITS = {384: "vit_s16", 768: "vit_b16", 1024: "vit_l16"}  # width

# heads by name, in the order they are told; a head's width is the first side of its weight
HEADS = {
    "attribute": "attr_predictor.linear_attr.weight",
    "category": "cate_predictor.linear_cate.weight",
    "embedding": "embed_extractor.embed_linear.weight",
    "id": "embed_extractor.id_linear.weight",
    "landmark": "landmark_regression.linear.weight",
    "heatmap": "landmark_head.heatmap.weight",
}

# classifiers of ImageNet models, which nothing here has a place for
IMAGENET_HEADS = r"(fc|classifier|head|head_dist|fc_norm|pre_logits)[./].*"


class Family(NamedTuple):
    """A model as its keys tell it; `backbone` is '' where none is recognised."""

    backbone: str
    pooling: str  # global or roi
    heads: tuple[str, ...]
    imagenet: bool  # a backbone's own file: no 'backbone.' prefix

    def __str__(self) -> str:
        backbone = self.backbone or "an unknown backbone"
        if self.imagenet:
            return f"a plain {backbone}"
        pooled = "landmark pooling" if self.pooling == "roi" else "global pooling"
        return f"{backbone}, {pooled}, {' + '.join(self.heads) or 'no'} head{'s' * (len(self.heads) > 1)}"


def describe(shapes: Shapes) -> Family:
    """The family of a state dict {torch key: shape}."""
    imagenet = not any(key.startswith("backbone.") for key in shapes)
    heads = tuple(name for name, key in HEADS.items() if key in shapes)
    pooling = "roi" if any(key.startswith("roi_pool.") for key in shapes) else "global"
    return Family(_backbone("" if imagenet else "backbone.", shapes), pooling, heads, imagenet)


def head_widths(shapes: Shapes) -> dict[str, int]:
    """Head name → number of outputs, for the heads that the file has."""
    return {name: shapes[key][0] for name, key in HEADS.items() if len(shapes.get(key, ())) == 2}


def fitting_config(family: Family) -> str:
    """What a config must say to build this family."""
    if {"embedding", "id"} & set(family.heads):
        task, learns = "retrieval", ""
    elif family.heads and not {"attribute", "category"} & set(family.heads):
        task, learns = "landmarks", ""
    else:
        task = "attributes"
        learns = f" model.learns=({', '.join(h for h in family.heads if h in ('attribute', 'category'))})"
    return f"task={task} model.backbone={family.backbone or '?'} model.pooling={family.pooling}{learns}"


def _backbone(prefix: str, shapes: Shapes) -> str:
    own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    if "conv1.weight" in own:
        blocks = [re.fullmatch(r"layer([1-4])\.(\d+)\.conv1\.weight", key) for key in own]
        counts = tuple(sum(m is not None and m[1] == str(stage) for m in blocks) for stage in (1, 2, 3, 4))
        return RESNETS.get((counts, "layer1.0.conv3.weight" in own), "")
    convs = [key for key, shape in own.items() if key.startswith("features.") and len(shape) == 4]
    if convs:
        suffix = "_bn" if "features.1.running_mean" in own else ""
        name = VGGS.get(len(convs), "")
        return name and name + suffix
    token = own.get("cls_token", own.get("cls", ()))
    return VITS.get(token[-1], "") if token else ""
