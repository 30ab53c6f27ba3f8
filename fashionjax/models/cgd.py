"""Combined global descriptors (Jun et al., arXiv:1903.10663) on pooled detector features, K-Fashion's
variant.

Source: Donghwa-KIM/fashion-recommendation, src/cgd/model.py: three power means of fixed exponents.
"""

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import layers
from fashionjax.models.torch_keys import BATCH_COUNTER, LINEAR, KeyRule, Rules, batch_norm_rules, linear_rules

EXPONENTS = (1.0, 2.0, 3.0)
FLOOR = 1e-6  # pooled maps are clamped to this, for the mean (exponent 1) as well
NORM_FLOOR = 1e-12

TORCH_KEYS: Rules = (
    KeyRule(r"main_modules\.(\d)\.0\.weight", r"params/branch_\1/kernel", LINEAR),
    *batch_norm_rules(r"auxiliary_module\.0", "auxiliary_bn"),
    *linear_rules(r"auxiliary_module\.1", "auxiliary"),
    BATCH_COUNTER,
)


def power_mean(feature, exponent: float):
    """feature [n h w c] -> [n c] float32: (mean over the cells of max(x, 1e-6)^p)^(1/p)."""
    x = jnp.maximum(feature.astype(jnp.float32), FLOOR)
    return (x**exponent).mean(axis=(1, 2)) ** (1 / exponent)


def unit(x):
    """x [n d] -> rows of length 1; shorter ones than 1e-12 are divided by that."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), NORM_FLOOR)


class CGDHead(nn.Module):
    """feature [n h w c] -> (embedding [n 3 * width] of length 1, class logits [n classes] or None),
    float32.

    Each power mean goes through a linear layer without bias and is normalised; the concatenation is
    normalised again. The auxiliary classifier reads the first power mean behind a batch normalisation.
    """

    classes: int | None = None
    width: int = 256
    exponents: tuple[float, ...] = EXPONENTS

    @nn.compact
    def __call__(self, feature, train: bool = False):
        pooled = [power_mean(feature, p) for p in self.exponents]
        branches = []
        for i, x in enumerate(pooled):
            self.sow("intermediates", "pooled", x)
            linear = nn.Dense(self.width, use_bias=False, kernel_init=layers.TORCH_LINEAR, name=f"branch_{i}")
            branches.append(unit(linear(x)))
        embedding = unit(jnp.concatenate(branches, axis=-1))
        if self.classes is None:
            return embedding, None
        norm = layers.batch_norm(train=train, frozen=False, axis_name=None, dtype=jnp.float32)
        return embedding, layers.linear(self.classes, "auxiliary")(norm(name="auxiliary_bn")(pooled[0]))


def is_cgd_head(keys) -> bool:
    """Whether the names are those of the K-Fashion variant: a head without a backbone."""
    keys = set(keys)
    return "main_modules.0.0.weight" in keys and not any(key.startswith("features.") for key in keys)


def head_of(shapes) -> CGDHead:
    """Keys with their shapes -> the head that they fit."""
    branches = sum(f"main_modules.{i}.0.weight" in shapes for i in range(len(EXPONENTS)))
    auxiliary = shapes.get("auxiliary_module.1.weight")
    return CGDHead(
        classes=None if auxiliary is None else auxiliary[0],
        width=shapes["main_modules.0.0.weight"][0],
        exponents=EXPONENTS[:branches],
    )
