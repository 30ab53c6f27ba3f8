"""VGG-11 and VGG-16 (Simonyan & Zisserman 2014), with or without batch normalisation, torchvision's layout
and names.

Source of the layout: torchvision/models/vgg.py, configurations A and D. The layers are numbered along the
sequence of convolution, [normalisation,] ReLU and pooling, so the numbers of the convolutions depend on the
depth and on `batch_norm`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import layers
from fashionjax.models.torch_keys import (
    BATCH_COUNTER,
    CONV,
    SAME,
    KeyRule,
    Rules,
    batch_norm_rules,
    chw_linear,
    linear_rules,
)

# Convolutions per stage; the stages have 1, 2, 4, 8, 8 times the base width.
STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
STAGE_WIDTHS = (1, 2, 4, 8, 8)

_CLASSIFIER_KEYS = (
    *linear_rules(r"classifier\.0", "classifier_0", chw_linear(7, 7)),
    *linear_rules(r"classifier\.([36])", r"classifier_\1"),
)
TORCH_KEYS = (*linear_rules(r"features\.(\d+)", r"features_\1", CONV), *_CLASSIFIER_KEYS)


def conv_indices(depth: int, batch_norm: bool) -> tuple[tuple[int, ...], ...]:
    """The number of each convolution in torchvision's sequence, stage by stage."""
    step, index, stages = 3 if batch_norm else 2, 0, []
    for count in STAGES[depth]:
        stages.append(tuple(index + step * i for i in range(count)))
        index += step * count + 1
    return tuple(stages)


def torch_keys(depth: int, batch_norm: bool) -> Rules:
    """`TORCH_KEYS`, or with normalisation the same with convolutions and normalisations told apart by their
    numbers.
    """
    if not batch_norm:
        return TORCH_KEYS
    convs = [i for stage in conv_indices(depth, True) for i in stage]
    conv, norm = ("|".join(map(str, numbers)) for numbers in (convs, [i + 1 for i in convs]))
    return (
        KeyRule(rf"features\.({conv})\.weight", r"params/features_\1/kernel", CONV),
        KeyRule(rf"features\.({conv})\.bias", r"params/features_\1/bias", SAME),
        *batch_norm_rules(rf"features\.({norm})", r"features_\1"),
        *_CLASSIFIER_KEYS,
        BATCH_COUNTER,
    )


def keras_keys(depth: int, batch_norm: bool) -> Rules:
    """Rules for the convolutions' names in Keras's applications (block3_conv1/kernel), whose layout is
    flax's; () with normalisation, which Keras's models do not have."""
    return tuple(
        KeyRule(f"block{stage}_conv{number}/{leaf}", f"params/features_{i}/{leaf}", SAME)
        for stage, numbers in enumerate(() if batch_norm else conv_indices(depth, False), 1)
        for number, i in enumerate(numbers, 1)
        for leaf in ("kernel", "bias")
    )


class VGG(nn.Module):
    """image [b h w 3] float -> pyramid of the pooled maps of its stages, strides 2, 4, 8, 16, 32, fine to
    coarse. `method='conv_maps'` gives the maps before they are pooled, strides 1 to 16.

    `stages`: how many of the five there are; the classifier needs all.
    `width` is the channel count of the first stage (64 as published). Convolutions keep their bias with and
    without normalisation, as torchvision does. With `num_classes`, `method='logits'` gives the classifier's
    output [b num_classes] float32 (hidden width 64 * width; dropout 0.5 in training from the 'dropout'
    stream).
    """

    depth: int = 16
    batch_norm: bool = False
    width: int = 64
    stages: int = 5
    num_classes: int | None = None
    frozen_bn: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def _run(self, image, train: bool, classify: bool):
        norm = layers.batch_norm(
            train=train, frozen=self.frozen_bn, axis_name=self.bn_axis_name, dtype=self.dtype
        )
        x, maps, pyramid = image, [], []
        convolutions = conv_indices(self.depth, self.batch_norm)[: self.stages]
        for indices, factor in zip(convolutions, STAGE_WIDTHS, strict=False):
            for i in indices:
                conv = layers.Conv(self.width * factor, use_bias=True, dtype=self.dtype, name=f"features_{i}")
                x = conv(x)
                if self.batch_norm:
                    x = norm(name=f"features_{i + 1}")(x)
                x = nn.relu(x)
            maps.append(x)
            x = layers.max_pool(x, 2, 2)
            pyramid.append(x)
        logits = None
        if self.num_classes is not None and (classify or self.is_initializing()):
            logits = self._classify(x, train)
        return tuple(maps), tuple(pyramid), logits

    def _classify(self, x, train: bool):
        x = layers.flatten_map(layers.adaptive_average_pool(x, 7, 7))
        for name in ("classifier_0", "classifier_3"):
            x = nn.relu(layers.linear(64 * self.width, name, dtype=self.dtype)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return layers.linear(self.num_classes, "classifier_6")(x.astype(jnp.float32))

    def beyond(self) -> tuple[str, ...]:
        """How names in files begin of the convolutions of stages that this one leaves out."""
        later = list(enumerate(conv_indices(self.depth, self.batch_norm), 1))[self.stages :]
        torch = (f"features.{i}." for _, numbers in later for i in numbers)
        keras = (f"block{stage}_conv{n}/" for stage, numbers in later for n in range(1, len(numbers) + 1))
        return (*torch, *keras)

    def __call__(self, image, train: bool = False) -> tuple:
        return self._run(image, train, classify=False)[1]

    def conv_maps(self, image, train: bool = False) -> tuple:
        """image [b h w 3] float -> the last convolution's map of each stage, after its ReLU."""
        return self._run(image, train, classify=False)[0]

    def logits(self, image, train: bool = False):
        """image [b h w 3] float -> [b num_classes] float32."""
        if self.num_classes is None:
            raise ValueError("a VGG without num_classes has no classifier")
        return self._run(image, train, classify=True)[2]
