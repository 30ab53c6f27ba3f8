"""ResNet-18/34/50/101 (He et al. 2015) and ResNeXt (Xie et al. 2017) with torchvision's layout and names.

Source of the layout: torchvision/models/resnet.py (v1.5: the stride of a bottleneck sits in its 3x3
convolution); with `stride_in_1x1` it sits in the first 1x1, as in the Caffe and Detectron models.
"""

from collections.abc import Container, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fashionjax.models import layers
from fashionjax.models.torch_keys import (
    BATCH_COUNTER,
    CONV,
    SAME,
    Ignore,
    KeyRule,
    Rules,
    batch_norm_rules,
    linear_rules,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTHS = (50, 101)
EPSILON = 1e-5  # of the batch normalisations

TORCH_KEYS = (
    KeyRule(r"conv1\.weight", "params/conv1/kernel", CONV),
    *batch_norm_rules("bn1", "bn1"),
    KeyRule(r"layer(\d)\.(\d+)\.conv(\d)\.weight", r"params/layer\1_\2/conv\3/kernel", CONV),
    *batch_norm_rules(r"layer(\d)\.(\d+)\.bn(\d)", r"layer\1_\2/bn\3"),
    KeyRule(r"layer(\d)\.(\d+)\.downsample\.0\.weight", r"params/layer\1_\2/downsample_0/kernel", CONV),
    *batch_norm_rules(r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1_\2/downsample_1"),
    *linear_rules("fc", "fc"),
    BATCH_COUNTER,
)


def _stage_rules(stage: int) -> Rules:
    """detectron2's names of stage 2..5, which is layer 1..4 here."""
    theirs, ours = rf"res{stage}\.(\d+)", rf"layer{stage - 1}_\1"
    return (
        KeyRule(rf"{theirs}\.conv(\d)\.weight", rf"params/{ours}/conv\2/kernel", CONV),
        *batch_norm_rules(rf"{theirs}\.conv(\d)\.norm", rf"{ours}/bn\2"),
        KeyRule(rf"{theirs}\.shortcut\.weight", f"params/{ours}/downsample_0/kernel", CONV),
        *batch_norm_rules(rf"{theirs}\.shortcut\.norm", f"{ours}/downsample_1"),
    )


DETECTRON2_KEYS: Rules = (
    KeyRule(r"stem\.conv1\.weight", "params/conv1/kernel", CONV),
    *batch_norm_rules(r"stem\.conv1\.norm", "bn1"),
    *(rule for stage in (2, 3, 4, 5) for rule in _stage_rules(stage)),
)


def _caffe2_norm(torch: str, flax: str) -> Rules:
    places = {"s": "params/{}/scale", "b": "params/{}/bias"}
    places |= {"rm": "batch_stats/{}/mean", "riv": "batch_stats/{}/var"}
    return tuple(KeyRule(rf"{torch}_bn_{name}", place.format(flax), SAME) for name, place in places.items())


def _caffe2_stage_rules(stage: int) -> Rules:
    theirs, ours = rf"res{stage}_(\d+)", rf"layer{stage - 1}_\1"
    branches = {"branch2a": ("conv1", "bn1"), "branch2b": ("conv2", "bn2"), "branch2c": ("conv3", "bn3")}
    branches["branch1"] = ("downsample_0", "downsample_1")
    return tuple(
        rule
        for branch, (conv, norm) in branches.items()
        for rule in (
            KeyRule(rf"{theirs}_{branch}_w", f"params/{ours}/{conv}/kernel", CONV),
            *_caffe2_norm(f"{theirs}_{branch}", f"{ours}/{norm}"),
        )
    )


# Detectron's ImageNet files (MSRA/R-50.pkl, R-101.pkl); `with_statistics` completes them.
CAFFE2_KEYS: Rules = (
    KeyRule("conv1_w", "params/conv1/kernel", CONV),
    Ignore("conv1_b", "detectron2 does not read it either: a normalisation follows"),
    *_caffe2_norm("res_conv1", "bn1"),
    *(rule for stage in (2, 3, 4, 5) for rule in _caffe2_stage_rules(stage)),
)


def with_statistics(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Detectron's tensors with a mean and variance for every normalisation: the files hold a scale and a bias
    alone, into which the statistics were folded, so mean 0 and variance 1 (less the epsilon) change nothing.
    """
    norms = [key.removesuffix("_bn_s") for key in tensors if key.endswith("_bn_s")]
    added = {}
    for norm in norms:
        scale = tensors[f"{norm}_bn_s"]
        added[f"{norm}_bn_rm"] = np.zeros(scale.shape, np.float32)
        added[f"{norm}_bn_riv"] = np.full(scale.shape, 1 - EPSILON, np.float32)
    return added | dict(tensors)


# which names a file has, by one that it must hold
SPELLINGS = {
    "layer1.0.conv1.weight": TORCH_KEYS,
    "res2.0.conv1.weight": DETECTRON2_KEYS,
    "res2_0_branch2a_w": CAFFE2_KEYS,
}


def keys_of(names: Container[str]) -> Rules:
    """The rules of a ResNet's file: torchvision's names, detectron2's or Detectron's."""
    return next((rules for mark, rules in SPELLINGS.items() if mark in names), TORCH_KEYS)


class BasicBlock(nn.Module):
    """x [b h w c] -> [b h/s w/s width]: two 3x3 convolutions and the shortcut."""

    width: int
    stride: int
    conv: Any
    norm: Any
    # no 1x1 on the main path, no groups; here so that both blocks are built alike
    stride_in_1x1: bool = False
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, x, cells=None):
        x, after = layers.cut_to_image(x, cells), _strided(cells, self.stride)
        norm = partial(layers.normalise, self.norm, cells=after)
        y = nn.relu(norm("bn1", self.conv(self.width, 3, self.stride, name="conv1")(x)))
        y = norm("bn2", self.conv(self.width, 3, name="conv2")(layers.cut_to_image(y, after)))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = norm("downsample_1", self.conv(self.width, 1, self.stride, name="downsample_0")(x))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """x [b h w c] -> [b h/s w/s 4*width]: 1x1, 3x3 (in `groups`), 1x1 convolutions and the shortcut."""

    width: int
    stride: int
    conv: Any
    norm: Any
    stride_in_1x1: bool = False
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, x, cells=None):
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        inner, after = _strided(cells, first), _strided(cells, self.stride)
        norm = partial(layers.normalise, self.norm)
        between = self.width * self.group_width // 64 * self.groups
        y = nn.relu(norm("bn1", self.conv(between, 1, first, name="conv1")(x), inner))
        y = layers.cut_to_image(y, inner)
        grouped = self.conv(between, 3, second, groups=self.groups, name="conv2")
        y = nn.relu(norm("bn2", grouped(y), after))
        y = norm("bn3", self.conv(4 * self.width, 1, name="conv3")(y), after)
        if self.stride != 1 or x.shape[-1] != 4 * self.width:
            shortcut = self.conv(4 * self.width, 1, self.stride, name="downsample_0")(x)
            x = norm("downsample_1", shortcut, after)
        return nn.relu(x + y)


def _strided(cells, stride: int):
    return None if cells is None else -(-cells // stride)


class ResNet(nn.Module):
    """image [b h w 3] float -> pyramid of layer1..layer4, strides 4, 8, 16, 32, fine to coarse.

    `width` is the channel count of the stem (64 as published). The 3x3 convolutions of bottlenecks work in
    `groups` of `group_width` channels in the first stage at width 64 (ResNeXt). `stage_strides` gives the
    first stride of each stage; fewer than four entries stop the network early. With `num_classes`,
    `method='logits'` gives the classifier's output [b num_classes] float32. `norm` is 'batch' or 'group'. No
    gradient reaches the stem and the first `frozen_stages` stages when that is not None (0: the stem alone).
    Intermediates sown: `stem` (after bn1 and ReLU) and `maxpool`.

    With `cells` [b 2] int, rows and columns of each image that are not padding at the bottom and right,
    the features of an image are those that it has without the padding.
    """

    depth: int = 50
    width: int = 64
    num_classes: int | None = None
    groups: int = 1
    group_width: int = 64
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    stride_in_1x1: bool = False
    frozen_bn: bool = False
    bn_axis_name: str | None = None
    norm: str = "batch"
    frozen_stages: int | None = None
    dtype: Any = jnp.float32
    pointwise: str = "auto"

    @nn.compact
    def _run(self, image, train: bool, classify: bool, cells=None):
        conv = partial(layers.Conv, dtype=self.dtype, pointwise=self.pointwise)
        norm = self._norm(train)
        block = Bottleneck if self.depth in BOTTLENECK_DEPTHS else BasicBlock
        image, cells = layers.cut_to_image(image, cells), _strided(cells, 2)
        x = nn.relu(layers.normalise(norm, "bn1", conv(self.width, 7, 2, name="conv1")(image), cells))
        self.sow("intermediates", "stem", x)
        # No value is negative: the zeros of the padding never exceed a window's own cells.
        x, cells = layers.max_pool(layers.cut_to_image(x, cells), 3, 2, padding=1), _strided(cells, 2)
        self.sow("intermediates", "maxpool", x)
        x = self._stopped(x, 0)
        pyramid = []
        for stage, (count, stride) in enumerate(zip(BLOCKS[self.depth], self.stage_strides, strict=False)):
            for i in range(count):
                width, stride = self.width * 2**stage, stride if i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                fields = (self.stride_in_1x1, self.groups, self.group_width)
                x = block(width, stride, conv, norm, *fields, name=name)(x, cells)
                cells = _strided(cells, stride)
            x = self._stopped(x, stage + 1)
            pyramid.append(x)
        logits = None
        if self.num_classes is not None and (classify or self.is_initializing()):
            pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
            logits = layers.linear(self.num_classes, "fc")(pooled)
        return tuple(pyramid), logits

    def _norm(self, train: bool):
        if self.norm == "group":
            return layers.group_norm(dtype=self.dtype, channels_per_group=max(self.width // 4, 1))
        if self.norm != "batch":
            raise ValueError(f"norm must be 'batch' or 'group', not {self.norm!r}")
        return layers.batch_norm(
            train=train, frozen=self.frozen_bn, axis_name=self.bn_axis_name, dtype=self.dtype
        )

    def _stopped(self, x, stage: int):
        return jax.lax.stop_gradient(x) if self.frozen_stages == stage else x

    def __call__(self, image, train: bool = False, cells=None) -> tuple:
        return self._run(image, train, classify=False, cells=cells)[0]

    def logits(self, image, train: bool = False):
        """image [b h w 3] float -> [b num_classes] float32."""
        if self.num_classes is None:
            raise ValueError("a ResNet without num_classes has no classifier")
        return self._run(image, train, classify=True)[1]
