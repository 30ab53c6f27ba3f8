"""Combined global descriptors (Jun et al., arXiv:1903.10663): several poolings of one feature map, each
projected and normalised, joined to one unit embedding.

Sources: leftthomas/CGD, model.py (a ResNet whose third stage keeps its resolution; descriptors by letter);
Donghwa-KIM/fashion-recommendation, src/cgd/model.py (power means of fixed exponents on the box features of a
detector).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import layers
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.torch_keys import (
    BATCH_COUNTER,
    CONV,
    LINEAR,
    KeyRule,
    Rules,
    batch_norm_rules,
    linear_rules,
)
from fashionjax.ops.distances import unit

# letters of the descriptors: SPoC (mean), MAC (maximum), GeM (power mean), by their exponent
DESCRIPTORS = {"S": 1.0, "M": math.inf, "G": 3.0}
# a file does not tell which descriptors its equal branches belong to: the original's default of that number
USUAL = {1: "S", 2: "SG", 3: "SMG"}
STAGE_STRIDES = (1, 2, 1, 2)  # 14 x 14 cells of a 224 px image, where a ResNet has 7 x 7
KFASHION_EXPONENTS = (1.0, 2.0, 3.0)
KFASHION_FLOOR = 1e-6  # the pooled maps are clamped to this, for the mean (exponent 1) as well

BRANCH, AUXILIARY = "main_modules.0.0.weight", "auxiliary_module.1.weight"
HEAD_KEYS: Rules = (
    KeyRule(r"main_modules\.(\d)\.0\.weight", r"params/branch_\1/kernel", LINEAR),
    *batch_norm_rules(r"auxiliary_module\.0", "auxiliary_bn"),
    *linear_rules(r"auxiliary_module\.1", "auxiliary"),
    BATCH_COUNTER,
)
STAGES = (1, 2, 3, 4)
FIRST_STAGE = 4  # `features` is a Sequential of a ResNet's children: layer1 is number 4
HEAD = "head."  # before the head's names in `canonical`
MARK = "features.4.0.conv1.weight"  # a name of the image model's file that no other model has


def exponents_of(letters: str) -> tuple[float, ...]:
    """ "SMG" → the exponents of its descriptors; ValueError for an unknown or repeated letter."""
    if not letters or set(letters) - set(DESCRIPTORS) or len(set(letters)) < len(letters):
        raise ValueError(f"descriptors {letters!r}: different letters of {', '.join(DESCRIPTORS)}")
    return tuple(DESCRIPTORS[letter] for letter in letters)


def power_mean(feature, exponent: float, floor: float | None = None):
    """feature [n h w c] → [n c] float32: (mean over the cells of x^p)^(1/p).

    p = 1 is the mean (SPoC), p = inf the maximum (MAC). The root of a negative mean keeps its sign, and a
    channel that is 0 everywhere has gradient 0. With `floor` x is max(x, floor).
    """
    x = feature.astype(jnp.float32)
    if floor is not None:
        x = jnp.maximum(x, floor)
    if math.isinf(exponent):
        return x.max(axis=(1, 2))
    if exponent == 1:
        return x.mean(axis=(1, 2))
    mean = (x**exponent).mean(axis=(1, 2))
    size = jnp.where(mean == 0, 1.0, jnp.abs(mean))  # the root has no gradient at 0
    return jnp.sign(mean) * size ** (1 / exponent)


class CGDHead(nn.Module):
    """feature [n h w c] → (embedding [n descriptors * width] of length 1, class logits [n classes] or None),
    float32.

    Each pooled vector goes through a linear layer without bias and is normalised; the concatenation is
    normalised again. The auxiliary classifier reads the first descriptor through a batch normalisation,
    whose statistics leave out rows where `valid` [n] is False.
    """

    classes: int | None = None
    width: int = 256
    exponents: tuple[float, ...] = KFASHION_EXPONENTS
    floor: float | None = KFASHION_FLOOR
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, feature, train: bool = False, valid=None):
        pooled = [power_mean(feature, p, self.floor) for p in self.exponents]
        branches = []
        for i, x in enumerate(pooled):
            self.sow("intermediates", "pooled", x)
            linear = nn.Dense(self.width, use_bias=False, kernel_init=layers.TORCH_LINEAR, name=f"branch_{i}")
            branches.append(unit(linear(x)))
        embedding = unit(jnp.concatenate(branches, axis=-1))
        if self.classes is None:
            return embedding, None
        norm = layers.batch_norm(train=train, frozen=False, axis_name=self.bn_axis_name, dtype=jnp.float32)(
            name="auxiliary_bn"
        )
        x = norm(pooled[0]) if valid is None else norm(pooled[0], mask=valid[:, None])
        return embedding, layers.linear(self.classes, "auxiliary")(x)


class CGD(nn.Module):
    """image [b h w 3] normalised float → {"embedding": [b embedding] of length 1, "id_logits": [b ids] (of a
    model with `ids`), "feature": [b c] the first descriptor}, float32."""

    backbone: nn.Module
    descriptors: str = "SG"
    embedding: int = 1536
    ids: int | None = None
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, image, train: bool = False) -> dict:
        exponents = exponents_of(self.descriptors)
        if self.embedding % len(exponents):
            raise ValueError(f"{self.embedding} values are not {len(exponents)} equal parts")
        feature = self.backbone(image, train)[-1]
        self.sow("intermediates", "feature", feature)
        width = self.embedding // len(exponents)
        head = CGDHead(self.ids, width, exponents, None, self.bn_axis_name, name="head")
        embedding, logits = head(feature, train)
        return {"embedding": embedding} | ({} if logits is None else {"id_logits": logits})


# ------------------------------------------------------------------------------ PyTorch names
def torch_keys(model: CGD) -> Rules:
    """The image model's names in leftthomas/CGD: `features` numbers the children of a torchvision ResNet."""
    del model
    rules = [
        KeyRule(r"features\.0\.weight", "params/backbone/conv1/kernel", CONV),
        *batch_norm_rules(r"features\.1", "backbone/bn1"),
    ]
    for stage in STAGES:
        theirs, ours = rf"features\.{stage + FIRST_STAGE - 1}\.(\d+)", rf"backbone/layer{stage}_\1"
        rules += [
            KeyRule(rf"{theirs}\.conv(\d)\.weight", rf"params/{ours}/conv\2/kernel", CONV),
            *batch_norm_rules(rf"{theirs}\.bn(\d)", rf"{ours}/bn\2"),
            KeyRule(rf"{theirs}\.downsample\.0\.weight", f"params/{ours}/downsample_0/kernel", CONV),
            *batch_norm_rules(rf"{theirs}\.downsample\.1", f"{ours}/downsample_1"),
        ]
    return (*rules, *head_keys("head"))


def head_keys(place: str) -> Rules:
    """The names of a head that is the submodule `place`."""

    def lifted(rule):
        if not isinstance(rule, KeyRule):
            return rule
        collection, path = rule.flax.split("/", 1)
        return rule._replace(flax=f"{collection}/{place}/{path}")

    return tuple(lifted(rule) for rule in HEAD_KEYS)


def canonical(shapes: Mapping) -> dict:
    """A mapping by PyTorch names; where they are the image model's, `features.…` becomes torchvision's names
    under `backbone.`, as other models have them, and the head's names begin with `head.`."""
    if MARK not in shapes:
        return dict(shapes)
    places = {"0": "conv1", "1": "bn1"} | {str(s + FIRST_STAGE - 1): f"layer{s}" for s in STAGES}
    renamed = {}
    for key, value in shapes.items():
        first, number, *rest = key.split(".")
        if first == "features" and number in places:
            key = ".".join(["backbone", places[number], *rest])
        elif first in ("main_modules", "auxiliary_module"):
            key = HEAD + key
        renamed[key] = value
    return renamed


def is_head(keys: Iterable[str]) -> bool:
    """Whether the names are those of K-Fashion's file: a head without a backbone."""
    keys = set(keys)
    return BRANCH in keys and not any(key.startswith(("features.", "backbone.")) for key in keys)


def head_of(shapes: Mapping[str, tuple[int, ...]]) -> CGDHead:
    """Keys with their shapes → K-Fashion's head of these widths; KeyError where the first branch is
    missing."""
    auxiliary = shapes.get(AUXILIARY)
    return CGDHead(
        classes=None if auxiliary is None else auxiliary[0],
        width=shapes[BRANCH][0],
        exponents=KFASHION_EXPONENTS[: _branches(shapes)],
    )


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> CGD:
    """{name: shape} of an image model by `canonical` names → its module, with the usual descriptors of that
    number; KeyError where a part is missing, ValueError for a backbone that is no ResNet."""
    shapes = {key.removeprefix(HEAD): shape for key, shape in shapes.items() if key.startswith(HEAD)}
    count = _branches(shapes)
    if not isinstance(backbone, ResNet) or count not in USUAL:
        raise ValueError(f"a CGD model with {count} branches on a {type(backbone).__name__}")
    auxiliary = shapes.get(AUXILIARY)
    return CGD(
        backbone.clone(stage_strides=STAGE_STRIDES, num_classes=None),
        USUAL[count],
        embedding=shapes[BRANCH][0] * count,
        ids=None if auxiliary is None else auxiliary[0],
    )


def _branches(shapes: Mapping) -> int:
    return sum(key.startswith("main_modules.") and key.endswith(".0.weight") for key in shapes)
