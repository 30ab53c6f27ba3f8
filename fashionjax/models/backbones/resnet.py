"""ResNet-18/34/50/101 (He et al. 2015) with torchvision's layout and names.

Source of the layout: torchvision/models/resnet.py (v1.5: the stride of a bottleneck sits in its 3x3
convolution); with `stride_in_1x1` it sits in the first 1x1, as in the Caffe and Detectron models.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import layers
from fashionjax.models.torch_keys import BATCH_COUNTER, CONV, KeyRule, batch_norm_rules, linear_rules

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK_DEPTHS = (50, 101)

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


class BasicBlock(nn.Module):
    """x [b h w c] -> [b h/s w/s width]: two 3x3 convolutions and the shortcut."""

    width: int
    stride: int
    conv: Any
    norm: Any
    stride_in_1x1: bool = False  # has no 1x1 on the main path; here so that both blocks are built alike

    @nn.compact
    def __call__(self, x):
        y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 3, self.stride, name="conv1")(x)))
        y = self.norm(name="bn2")(self.conv(self.width, 3, name="conv2")(y))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = self.norm(name="downsample_1")(self.conv(self.width, 1, self.stride, name="downsample_0")(x))
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """x [b h w c] -> [b h/s w/s 4*width]: 1x1, 3x3, 1x1 convolutions and the shortcut."""

    width: int
    stride: int
    conv: Any
    norm: Any
    stride_in_1x1: bool = False

    @nn.compact
    def __call__(self, x):
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        y = nn.relu(self.norm(name="bn1")(self.conv(self.width, 1, first, name="conv1")(x)))
        y = nn.relu(self.norm(name="bn2")(self.conv(self.width, 3, second, name="conv2")(y)))
        y = self.norm(name="bn3")(self.conv(4 * self.width, 1, name="conv3")(y))
        if self.stride != 1 or x.shape[-1] != 4 * self.width:
            x = self.norm(name="downsample_1")(
                self.conv(4 * self.width, 1, self.stride, name="downsample_0")(x)
            )
        return nn.relu(x + y)


class ResNet(nn.Module):
    """image [b h w 3] float -> pyramid of layer1..layer4, strides 4, 8, 16, 32, fine to coarse.

    `width` is the channel count of the stem (64 as published). `stage_strides` gives the first stride of each
    stage; fewer than four entries stop the network early. With `num_classes`, `method='logits'` gives the
    classifier's output [b num_classes] float32. Intermediates sown: `stem` (after bn1 and ReLU) and
    `maxpool`.
    """

    depth: int = 50
    width: int = 64
    num_classes: int | None = None
    stage_strides: tuple[int, ...] = (1, 2, 2, 2)
    stride_in_1x1: bool = False
    frozen_bn: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32
    pointwise: str = "auto"

    @nn.compact
    def _run(self, image, train: bool, classify: bool):
        conv = partial(layers.Conv, dtype=self.dtype, pointwise=self.pointwise)
        norm = layers.batch_norm(
            train=train, frozen=self.frozen_bn, axis_name=self.bn_axis_name, dtype=self.dtype
        )
        block = Bottleneck if self.depth in BOTTLENECK_DEPTHS else BasicBlock
        x = nn.relu(norm(name="bn1")(conv(self.width, 7, 2, name="conv1")(image)))
        self.sow("intermediates", "stem", x)
        x = layers.max_pool(x, 3, 2, padding=1)
        self.sow("intermediates", "maxpool", x)
        pyramid = []
        for stage, (count, stride) in enumerate(zip(BLOCKS[self.depth], self.stage_strides, strict=False)):
            for i in range(count):
                x = block(
                    self.width * 2**stage,
                    stride if i == 0 else 1,
                    conv,
                    norm,
                    self.stride_in_1x1,
                    name=f"layer{stage + 1}_{i}",
                )(x)
            pyramid.append(x)
        logits = None
        if self.num_classes is not None and (classify or self.is_initializing()):
            pooled = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
            logits = layers.linear(self.num_classes, "fc")(pooled)
        return tuple(pyramid), logits

    def __call__(self, image, train: bool = False) -> tuple:
        return self._run(image, train, classify=False)[0]

    def logits(self, image, train: bool = False):
        """image [b h w 3] float -> [b num_classes] float32."""
        if self.num_classes is None:
            raise ValueError("a ResNet without num_classes has no classifier")
        return self._run(image, train, classify=True)[1]
