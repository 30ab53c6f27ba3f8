"""Which model a state dict belongs to, read off its keys and shapes alone.

`backbone_of` is the one recogniser of backbones; what stands beside a backbone is known by the parts that the
tasks list (`task.Weights`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.models import backbones, cgd
from fashionjax.models.backbones import resnet, vgg
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.backbones.vgg import VGG
from fashionjax.models.backbones.vit import ViT
from fashionjax.models.torch_keys import Rules
from fashionjax.task import Weights

Shapes = Mapping[str, tuple[int, ...]]

BACKBONE = "backbone."  # before the backbone's names in every model
# a name that each kind of backbone has: ResNet in several spellings, VGG in torchvision's names and in
# Keras's, timm's ViT, Google's ViT
KERAS_VGG = "block1_conv1/kernel"
SIGNATURES = (
    *(*resnet.SPELLINGS, "features.0.weight", KERAS_VGG),
    *("patch_embed.proj.weight", "embedding/kernel"),
)
# what lies beside a backbone: classifiers of ImageNet models, for which no model here has a place, and the
# pyramid that detectron2 files under the same prefix
BESIDE_BACKBONES = (
    r"(fc|classifier|head|head_dist|fc_norm|pre_logits)[./].*|(fc1000|pred)_[wb]|fpn_(lateral|output)\d[.].*"
)
HEAD_SIZE = 64  # channels of one attention head in every published ViT


class Recognised(NamedTuple):
    """What a state dict holds."""

    task: str | None  # None: no task has such parts
    backbone: str  # its name in BACKBONES, '' where it is none of them
    pooling: str  # the task's word for it, '' without a task
    parts: tuple[str, ...]  # of the task's parts
    plain: bool  # a backbone's own file, without a prefix

    def __str__(self) -> str:
        if self.plain:
            return f"a plain {self.backbone}" if self.backbone else "a model that is not recognised"
        backbone = self.backbone or "an unrecognised backbone"
        if self.task is None:
            return f"{backbone} and no part of a known model"
        return f"{backbone}, {self.pooling} pooling, {' + '.join(self.parts)}"


def weights_of(task: str) -> Weights:
    """How a task's weights are imported; UserError where it has no PyTorch names."""
    spec = tasks.entry(task).weights
    if spec is None:
        known = [name for name, entry in tasks.TASKS.items() if entry.weights]
        raise UserError(f"config.task={task!r} has no PyTorch names; there are {', '.join(known)}")
    return spec


def describe(shapes: Shapes) -> Recognised:
    """What a state dict {PyTorch name: shape} holds."""
    shapes = canonical(shapes)
    prefix, task = backbone_prefix(shapes), task_of(shapes)
    plain = not prefix and (task is None or KERAS_VGG not in shapes)
    module = backbone_of(shapes, prefix)
    name = "" if module is None else backbones.name_of(module)
    if task is None:
        return Recognised(None, name, "", (), plain)
    spec = weights_of(task)
    parts = tuple(part for part, key in spec.parts.items() if key in shapes)
    return Recognised(task, name, spec.pooling(shapes), parts, plain)


def backbone_prefix(keys: Iterable[str]) -> str:
    """What stands before the backbone's names in a model's file; nothing in Keras's and a backbone's own."""
    return BACKBONE if any(key.startswith(BACKBONE) for key in keys) else ""


def task_of(shapes: Shapes) -> str | None:
    """The task whose parts a state dict in canonical names has: of those with a defining part, the one that
    covers most of the file's parts with the fewest of its own."""
    best, chosen = (0, 0), None
    for name, spec in _specs():
        found = {part for part, key in spec.parts.items() if key in shapes}
        if found & set(spec.defining) and (score := (len(found), -len(spec.parts))) > best:
            best, chosen = score, name
    return chosen


def fitting_config(found: Recognised) -> str:
    """What a config must say to build what was recognised; its task is known."""
    return weights_of(found.task).fitting_config(found.backbone or "?", found.pooling, found.parts)


def model_of(shapes: Shapes) -> tuple[Any, Rules] | None:
    """A state dict → (the module of its widths, its key rules); None where its backbone is unknown.

    KeyError, IndexError or ValueError where parts of a known model are missing or have impossible shapes.
    """
    if cgd.is_head(shapes):
        return cgd.head_of(shapes), cgd.HEAD_KEYS
    known = canonical(shapes)
    task = task_of(known)
    prefix = backbone_prefix(known)
    backbone = backbone_of(known, prefix)
    if backbone is None:
        return None
    if not prefix and (task is None or KERAS_VGG not in known):
        return backbone, backbones.torch_keys(backbone)
    if task is None:
        raise KeyError("a head that belongs to the backbone")
    spec = weights_of(task)
    model = spec.from_shapes(backbone, known)
    return model, spec.key_rules(model, shapes)


# ------------------------------------------------------------------------------ names
def canonical(shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with names of other codebases replaced by those that the tasks' parts have."""
    for _, spec in _specs():
        shapes = shapes if spec.renamed is None else spec.renamed(shapes)
    return {canonical_key(key): value for key, value in shapes.items()}


def canonical_key(key: str) -> str:
    for _, spec in _specs():
        for theirs, ours in spec.aliases:
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
    return key


def wrapper(keys: Iterable[str]) -> str:
    """The prefix that all names have before those of a known model, whatever it is called; '' for none."""
    keys, prefix = list(keys), ""
    while keys and task_of(canonical(dict.fromkeys(keys))) is None:
        first = keys[0].partition(".")[0] + "."
        if first == "." or not all(key.startswith(first) and key != first for key in keys):
            return ""
        keys, prefix = [key.removeprefix(first) for key in keys], prefix + first
    return prefix if keys else ""


def inner_prefixes(keys: Iterable[str]) -> list[str]:
    """Prefixes that some names have before the defining part of a known model, '' left out."""
    marks = {spec.parts[part] for _, spec in _specs() for part in spec.defining}
    found = {key.removesuffix(mark) for key in keys for mark in marks if key.endswith(f".{mark}")}
    return sorted(found)


def backbone_prefixes(keys: Iterable[str]) -> list[str]:
    """The prefixes under which backbones lie: '' for a backbone's own file."""
    found = {key.removesuffix(mark) for key in keys for mark in SIGNATURES if key.endswith(mark)}
    return sorted(prefix for prefix in found if not prefix or prefix.endswith((".", "/")))


def _specs() -> list[tuple[str, Weights]]:
    return [(name, entry.weights) for name, entry in tasks.TASKS.items() if entry.weights is not None]


# ------------------------------------------------------------------------------ backbones
def backbone_of(shapes: Shapes, prefix: str = "") -> Any | None:
    """The backbone that lies under `prefix`, with its widths and classifier; None where there is none.

    Names: of a ResNet torchvision's, detectron2's or Detectron's, of a VGG torchvision's, of a ViT timm's or
    Google's.
    """
    own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    for build in (_resnet, _detectron2_resnet, _caffe2_resnet, _vgg, _keras_vgg, _vit, _google_vit):
        try:
            module = build(own)
        except (KeyError, IndexError, ValueError, ZeroDivisionError):  # parts missing, or of a wrong rank
            continue
        if module is not None:
            return module
    return None


def same_kind(module: Any, tensors: Iterable[str]) -> bool:
    """Whether a plain file's names are those of a network of the module's kind, in any of its namings."""
    kinds = {ResNet: SIGNATURES[:1], VGG: SIGNATURES[1:2], ViT: SIGNATURES[2:]}
    return any(mark in tensors for mark in kinds[type(module)])


def _classes(shapes: Shapes, key: str) -> int | None:
    return shapes[key][0] if key in shapes else None


def _resnet(shapes: Shapes) -> ResNet | None:
    return _any_resnet(shapes, "conv1.weight", r"layer(\d)\.(\d+)\.conv1\.weight", "layer1.0.conv3.weight", 1)


def _detectron2_resnet(shapes: Shapes) -> ResNet | None:
    return _any_resnet(
        shapes, "stem.conv1.weight", r"res(\d)\.(\d+)\.conv1\.weight", "res2.0.conv3.weight", 2
    )


def _caffe2_resnet(shapes: Shapes) -> ResNet | None:
    return _any_resnet(shapes, "conv1_w", r"res(\d)_(\d+)_branch2a_w", "res2_0_branch2c_w", 2)


def _any_resnet(shapes: Shapes, stem: str, block: str, bottleneck: str, first: int) -> ResNet | None:
    """The ResNet of one spelling: names of its stem, of a block (stage, number) and of a bottleneck's last
    convolution, and the number of its first stage."""
    if len(shapes[stem]) != 4:
        return None
    matches = [re.fullmatch(block, key) for key in shapes]
    blocks = {(int(match[1]) - first, int(match[2])) for match in matches if match}
    counts = [sum(stage == number for stage, _ in blocks) for number in range(4)]
    while counts and not counts[-1]:  # a network that stops early
        counts.pop()
    for depth, known in resnet.BLOCKS.items() if counts else ():
        same_blocks = list(known[: len(counts)]) == counts
        if same_blocks and (depth in resnet.BOTTLENECK_DEPTHS) == (bottleneck in shapes):
            width = shapes[stem][0]
            return ResNet(
                depth=depth,
                width=width,
                **_groups(shapes, width),
                stage_strides=(1, 2, 2, 2)[: len(counts)],
                num_classes=_classes(shapes, "fc.weight"),
            )
    return None


def _groups(shapes: Shapes, width: int) -> dict[str, int]:
    """The fields of a ResNeXt, whose 3x3 kernels read fewer channels than they have; {} of a ResNet."""
    out, read = shapes.get("layer1.0.conv2.weight", (0, 0))[:2]
    return {"groups": out // read, "group_width": 64 * read // width} if 0 < read < out else {}


def _vgg(shapes: Shapes) -> VGG | None:
    matches = [re.fullmatch(r"features\.(\d+)\.weight", key) for key in shapes]
    convs = {int(match[1]) for match in matches if match and len(shapes[match[0]]) == 4}
    for depth in vgg.STAGES:
        for batch_norm in (False, True):
            if convs == {i for stage in vgg.conv_indices(depth, batch_norm) for i in stage}:
                return VGG(
                    depth=depth,
                    batch_norm=batch_norm,
                    width=shapes["features.0.weight"][0],
                    num_classes=_classes(shapes, "classifier.6.weight"),
                )
    return None


def _keras_vgg(shapes: Shapes) -> VGG | None:
    """A VGG, or its first stages."""
    matches = [re.fullmatch(r"block(\d)_conv\d/kernel", key) for key in shapes]
    counts = Counter(int(match[1]) for match in matches if match)
    for depth, known in vgg.STAGES.items():
        if counts and counts == dict(enumerate(known[: len(counts)], 1)):
            return VGG(depth=depth, width=shapes[KERAS_VGG][3], stages=len(counts))
    return None


def _vit(shapes: Shapes) -> ViT | None:
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    _, tokens, _ = shapes["pos_embed"]
    return ViT(
        width=width,
        depth=1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
        heads=max(1, width // HEAD_SIZE),
        patch=patch,
        grid=math.isqrt(max(tokens - 1, 0)),
        num_classes=_classes(shapes, "head.weight"),
    )


def _google_vit(shapes: Shapes) -> ViT | None:
    patch, _, _, width = shapes["embedding/kernel"]
    _, tokens, _ = shapes["Transformer/posembed_input/pos_embedding"]
    blocks = [re.match(r"Transformer/encoderblock_(\d+)/", key) for key in shapes]
    return ViT(
        width=width,
        depth=1 + max(int(match[1]) for match in blocks if match),
        heads=max(1, width // HEAD_SIZE),
        patch=patch,
        grid=math.isqrt(max(tokens - 1, 0)),
        num_classes=shapes["head/kernel"][1] if "head/kernel" in shapes else None,
    )
