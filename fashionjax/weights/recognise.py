"""Which model a state dict belongs to, told from its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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

# parts of compatibility models, in MMFashion's names
OUTFIT_PARTS = {
    "type masks": "type_specific_net.masks.weight",
    "type layers": "type_specific_net.masks.0.weight",
    "learned metric": "triplet_net.metric_branch.weight",
    "set transformer": "set_scorer.logit.weight",
    "text features": "triplet_net.text_branch.fc2.weight",
    "text words": "triplet_net.text_branch.words.weight",
    "type head": "type_head.weight",
}
# the original author's names → MMFashion's, the first that fits
ORIGIN_NAMES = (
    ("embeddingnet.embeddingnet.fc_embed.", "global_pool.fc_embed."),
    ("embeddingnet.embeddingnet.", "backbone."),
    ("embeddingnet.masks.", "type_specific_net.masks."),
    ("text_branch.", "triplet_net.text_branch."),
    ("metric_branch.", "triplet_net.metric_branch."),
)

# classifiers of ImageNet models, which nothing here has a place for
IMAGENET_HEADS = r"(fc|classifier|head|head_dist|fc_norm|pre_logits)[./].*"


class Family(NamedTuple):
    """A model as its keys tell it; `backbone` is '' where none is recognised."""

    backbone: str
    pooling: str  # global or roi; flatten or average of a compatibility model
    heads: tuple[str, ...]
    imagenet: bool  # a backbone's own file: no 'backbone.' prefix

    def __str__(self) -> str:
        backbone = self.backbone or "an unknown backbone"
        if self.imagenet:
            return f"a plain {backbone}"
        if set(self.heads) & set(OUTFIT_PARTS):
            return f"{backbone}, {self.pooling} pooling, {' + '.join(self.heads)}"
        pooled = "landmark pooling" if self.pooling == "roi" else "global pooling"
        return f"{backbone}, {pooled}, {' + '.join(self.heads) or 'no'} head{'s' * (len(self.heads) > 1)}"


def describe(shapes: Shapes) -> Family:
    """The family of a state dict {torch key: shape}."""
    shapes = in_zoo_names(shapes)
    imagenet = not any(key.startswith("backbone.") for key in shapes)
    heads = tuple(name for name, key in HEADS.items() if key in shapes)
    pooling = "roi" if any(key.startswith("roi_pool.") for key in shapes) else "global"
    parts = tuple(name for name, key in OUTFIT_PARTS.items() if key in shapes)
    if parts:
        heads = tuple(part for part in parts if part != "text features" or "text words" not in parts)
        pooling = "average" if "global_pool.fc_embed.weight" in shapes else "flatten"
    return Family(_backbone("" if imagenet else "backbone.", shapes), pooling, heads, imagenet)


def names_of_origin(keys: Iterable[str]) -> bool:
    """Whether a compatibility model has the names of the original author's code."""
    return any(key.startswith("embeddingnet.") for key in keys)


def in_zoo_names(shapes: Shapes) -> Shapes:
    """The shapes with the original author's names replaced by MMFashion's; others as they are."""
    if not names_of_origin(shapes):
        return shapes

    def renamed(key: str) -> str:
        for theirs, ours in ORIGIN_NAMES:
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        return key

    return {renamed(key): shape for key, shape in shapes.items()}


class OutfitSizes(NamedTuple):
    """What a compatibility model's file says of its sizes; None: it does not."""

    spaces: int | None  # type spaces
    types: int | None  # outputs of the type head, or rows of the set transformer's types
    text: int | None  # length of a text feature


def outfit_sizes(shapes: Shapes) -> OutfitSizes:
    """Read off the shapes of a state dict, whether or not they are possible."""
    shapes = in_zoo_names(shapes)

    def side(key: str, axis: int) -> int | None:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) == 2 else None

    masks = [re.fullmatch(r"type_specific_net\.masks\.(\d+)\.\w+", key) for key in shapes]
    layers = len({match[1] for match in masks if match})
    types = side("type_head.weight", 0), side("set_scorer.type.weight", 0)
    words = OUTFIT_PARTS["text words"] in shapes
    return OutfitSizes(
        layers or side(OUTFIT_PARTS["type masks"], 0),
        types[1] if types[0] is None else types[0],
        None if words else side("triplet_net.text_branch.fc1.0.weight", 1),
    )


def head_widths(shapes: Shapes) -> dict[str, int]:
    """Head name → number of outputs, for the heads that the file has."""
    return {name: shapes[key][0] for name, key in HEADS.items() if len(shapes.get(key, ())) == 2}


def fitting_config(family: Family) -> str:
    """What a config must say to build this family."""
    if set(family.heads) & set(OUTFIT_PARTS):
        return _fitting_outfit_config(family)
    if {"embedding", "id"} & set(family.heads):
        # the experiments' argument, and what it says where an experiment has none
        full = "loss=full (config.loss has attribute)"
        alone = "loss=id or loss=triplet (config.loss has no attribute)"
        task, learns = "retrieval", f" {full if 'attribute' in family.heads else alone}"
    elif family.heads and not {"attribute", "category"} & set(family.heads):
        task, learns = "landmarks", ""
    else:
        task = "attributes"
        heads = [head for head in family.heads if head in ("attribute", "category")]
        learns = f" model.labels_predicted=({', '.join(heads)})"
    return f"task={task} model.backbone={family.backbone or '?'} model.pooling={family.pooling}{learns}"


def _fitting_outfit_config(family: Family) -> str:
    parts = set(family.heads)
    texts = {"text features": "features", "text words": "words"}
    text = next((texts[part] for part in family.heads if part in texts), "none")
    if "set transformer" in parts:
        return f"task=compatibility model.kind=set_transformer model.pool={family.pooling} model.text={text}"
    recipe = "origin" if family.pooling == "average" else "zoo"
    projection = "fc" if "type layers" in parts else "mask"
    types = "true" if "type head" in parts else "false"
    arguments = f"recipe={recipe},projection={projection},text={text},types={types}"
    if ("learned metric" in parts) != (projection == "fc"):
        arguments += f" and model.metric={'learned metric' in parts}"
    return f"experiments/compatibility.py:{arguments}"


def _backbone(prefix: str, shapes: Shapes) -> str:
    own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    if "conv1.weight" in own:
        blocks = [re.fullmatch(r"layer([1-4])\.(\d+)\.conv1\.weight", key) for key in own]
        counts = [sum(m is not None and m[1] == str(stage) for m in blocks) for stage in (1, 2, 3, 4)]
        while counts and not counts[-1]:  # a network that stops early
            counts.pop()
        bottleneck = "layer1.0.conv3.weight" in own
        known = [name for (depths, kind), name in RESNETS.items()
                 if kind == bottleneck and counts and depths[: len(counts)] == tuple(counts)]  # fmt: skip
        return known[0] if known else ""
    convs = [key for key, shape in own.items() if key.startswith("features.") and len(shape) == 4]
    if convs:
        suffix = "_bn" if "features.1.running_mean" in own else ""
        name = VGGS.get(len(convs), "")
        return name and name + suffix
    token = own.get("cls_token", own.get("cls", ()))
    return VITS.get(token[-1], "") if token else ""
