"""Attribute-aware embeddings: the region branch of RPF and of ASEN, and RPF's patch branch.

An image has one embedding for each attribute. The region branch looks at the whole image: a ResNet to its
third stage, and an attention over the map's cells that is conditioned on the attribute. The patch branch
looks at the crop that the attention points at: a vision transformer, and a cross attention whose one query is
made of the attribute.

Sources: HuiGuanLab/RPF (Region-to-Patch Framework), modules/models; Maryeon/asen (Attribute-Specific
Embedding Network, Ma et al. 2020). Submodules are named after the torch keys they receive.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.backbones.vit import ViT
from fashionjax.ops import attention_crop, augment
from fashionjax.ops.distances import unit

STRIDES = (1, 2, 2)  # a ResNet that stops after its third stage
VARIANTS = ("rpf", "asen")


def torch_linear(features: int, fan_in: int, name: str, *, bias: bool = True, dtype=jnp.float32) -> nn.Dense:
    """A linear layer with PyTorch's default initial values, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both."""
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        kernel_init=layers.TORCH_LINEAR,
        bias_init=_uniform(1 / math.sqrt(fan_in)),
        name=name,
    )


def _uniform(bound: float):
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


def _softmax(score):
    """score [b n] -> (p, (1 - p) / (n - 1)): attention, and attention to everything else."""
    p = jax.nn.softmax(score, axis=-1)
    return p, (1 - p) / max(score.shape[-1] - 1, 1)


class RegionAttention(nn.Module):
    """RPF's: f [b n c] cells, e [b m] attribute -> (region [b d], complement [b d], attention [b n]) f32.

    The complement is pooled by the attention to the other cells. `project_complement` sends it through
    `feature_fc` as well, which the original leaves out.
    """

    embedding: int = 1024
    common: int = 512
    hidden: int = 512
    dropout: float = 0.1
    project_complement: bool = False

    @nn.compact
    def __call__(self, f, e, train: bool = False):
        c = f.shape[-1]
        x = _norm("x_layer_norm")(f.astype(jnp.float32))
        conv = torch_linear(self.common, c, "conv")
        transform = torch_linear(self.common, e.shape[-1], "attr_transform1")
        mask = jnp.tanh(transform(_norm("a_layer_norm")(e)))
        score = jnp.einsum("bnc,bc->bn", jnp.tanh(conv(x)), mask) / math.sqrt(self.common)
        p, rest = _softmax(score)
        pooled, pooled_rest = (jnp.einsum("bn,bnc->bc", weight, x) for weight in (p, rest))
        project = torch_linear(self.embedding, c, "feature_fc")
        norm, mlp = _norm("mlp_layer_norm"), _MLP(self.hidden, self.embedding, self.dropout, name="mlp")

        def refined(h):
            return norm(h + mlp(norm(h), train))

        if self.project_complement:
            pooled_rest = project(pooled_rest)
        return refined(project(pooled)), refined(pooled_rest), p


class _MLP(nn.Module):
    """x [b c] -> [b width]: linear, ReLU, dropout, linear, dropout."""

    hidden: int
    width: int
    dropout: float
    gelu: bool = False
    torch_init: bool = True

    @nn.compact
    def __call__(self, x, train: bool):
        drop = nn.Dropout(self.dropout, deterministic=not train)
        layer = torch_linear if self.torch_init else _small
        y = layer(self.hidden, x.shape[-1], "fc1")(x)
        y = nn.gelu(y, approximate=False) if self.gelu else nn.relu(y)
        return drop(layer(self.width, self.hidden, "fc2")(drop(y)))


def _small(features: int, fan_in: int, name: str) -> nn.Dense:
    """A linear layer drawn from N(0, 0.02²) with a bias of zeros, as the original's transformer."""
    del fan_in
    return nn.Dense(features, kernel_init=nn.initializers.normal(0.02), name=name)


class ASENAttention(nn.Module):
    """ASEN's spatial and channel attention: f [b n c], attribute [b a] one-hot -> (embedding [b d] of unit
    length, None, attention [b n]) f32.
    """

    embedding: int = 1024
    common: int = 512
    reduced: int = 512

    @nn.compact
    def __call__(self, f, attribute, train: bool = False):
        del train
        f, c, a = f.astype(jnp.float32), f.shape[-1], attribute.shape[-1]
        mask = jnp.tanh(torch_linear(self.common, a, "mask_fc1", bias=False)(attribute))
        mapped = jnp.tanh(torch_linear(self.common, c, "conv1")(f))
        score = jnp.tanh(torch_linear(1, self.common, "conv2")(mapped * mask[:, None]))[..., 0]
        p, _ = _softmax(score)
        pooled = jnp.einsum("bn,bnc->bc", p, f)
        channel = nn.relu(torch_linear(c, a, "mask_fc2", bias=False)(attribute))
        gate = jnp.concatenate([pooled, channel], axis=-1)
        gate = nn.relu(torch_linear(self.reduced, 2 * c, "fc1")(gate))
        gate = nn.sigmoid(torch_linear(c, self.reduced, "fc2")(gate))
        return unit(torch_linear(self.embedding, c, "feature_fc")(pooled * gate)), None, p


class PatchBranch(nn.Module):
    """crop [b h w 3] normalised, e [b m] attribute -> patch [b d] f32.

    The class token is dropped behind the transformer; the attribute's query attends to the patches through
    one normalisation for both sides and without a residual. Intermediates sown: `vit_tokens` [b 1+t d],
    `mapped` [b d].
    """

    vit: ViT
    embedding: int = 1024
    hidden: int = 512
    dropout: float = 0.1

    @nn.compact
    def __call__(self, crop, e, train: bool = False):
        d, heads = self.vit.width, self.vit.heads
        tokens = self.vit.tokens(crop, train).astype(jnp.float32)
        self.sow("intermediates", "vit_tokens", tokens)
        kind = self.param("type_embed", nn.initializers.normal(0.02), (1, 2, d), jnp.float32)
        query = _small(d, e.shape[-1], "attr2query")(e)[:, None] + kind[:, :1]
        tokens = tokens[:, 1:] + kind[:, 1:]
        norm = _norm("cross_attention_norm")
        query, tokens = norm(query), norm(tokens)
        parts = zip(("query", "key", "value"), (query, tokens, tokens), strict=True)
        qkv = (_small(d, d, f"cross_{name}")(x) for name, x in parts)
        qkv = (rearrange(x, "b t (h e) -> b t h e", h=heads) for x in qkv)
        mixed = rearrange(jax.nn.dot_product_attention(*qkv), "b 1 h e -> b (h e)")
        h = _small(self.embedding, d, "fc")(_small(d, d, "cross_out")(mixed))
        mlp = _MLP(self.hidden, self.embedding, self.dropout, gelu=True, torch_init=False, name="ffn")
        h = h + mlp(_norm("ffn_norm")(h), train)
        self.sow("intermediates", "mapped", h)
        return _norm("norm")(h)


class RegionPatch(nn.Module):
    """image [b h w 3] normalised float, attribute [b] i32 -> dict of float32 arrays. With attribute [b a],
    every output has b * a rows, the attributes of an image one after the other.

    region [b d] and attention [b h' w'] (sums to 1); of RPF complement [b d]; with `values` (of an attribute,
    at most) value_logits [b values], read from the region by a linear layer for each attribute (ours). With a
    patch branch, `canvas` [b c c 3] u8 and `pixels` [b s+2] i32 (`ops.attention_crop`) also patch [b d] and
    box [b 4] i32, the crop in pixels of the canvas's square.

    `variant` rpf or asen. Not `conditioned`: no attribute, the mean of the map through one linear layer, for
    comparison. `crop`: 'attention', or 'none' for the whole square. `clamp` as for `crop_box`, at evaluation;
    in training crops are always clamped. No gradient passes from the patch to the region through the crop.
    """

    backbone: nn.Module
    attributes: int
    patch: PatchBranch | None = None
    variant: str = "rpf"
    conditioned: bool = True
    embedding: int = 1024
    attribute_width: int = 512
    common: int = 512
    hidden: int = 512
    dropout: float = 0.1
    project_complement: bool = False
    threshold: float = 0.1
    crop_size: int = 224
    crop: str = "attention"
    clamp: bool = True
    values: int | None = None
    dtype: Any = jnp.float32  # of the normalised crop

    def setup(self):
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {VARIANTS}, not {self.variant!r}")
        if self.patch is not None and not (self.conditioned and self.variant == "rpf"):
            raise ValueError("only the conditioned rpf variant has a patch branch")
        if self.values is not None:
            shape, small = (self.attributes, self.embedding, self.values), nn.initializers.normal(0.02)
            self.value_kernel = self.param("value_kernel", small, shape, jnp.float32)
            self.value_bias = self.param("value_bias", nn.initializers.zeros, shape[::2], jnp.float32)
        if not self.conditioned:
            self.attention_net = MeanEmbedding(self.embedding)
        elif self.variant == "asen":
            self.attention_net = ASENAttention(self.embedding, self.common, self.hidden)
        else:
            self.attr_embedding = nn.Embed(
                self.attributes, self.attribute_width, embedding_init=nn.initializers.normal(1.0)
            )
            self.attention_net = RegionAttention(
                self.embedding, self.common, self.hidden, self.dropout, self.project_complement
            )

    def __call__(self, image, attribute, canvas=None, pixels=None, train: bool = False) -> dict:
        outputs = self.region(image, attribute, train)
        if attribute.ndim == 2:
            canvas, pixels = (_repeated(x, attribute.shape[1]) for x in (canvas, pixels))
        attribute = attribute.reshape(-1)
        if self.patch is None:
            return outputs
        if canvas is None:  # for parameters alone
            return outputs | {"patch": self.of_crop(image, attribute, train)}
        return outputs | self.at_attention(outputs["attention"], attribute, canvas, pixels, train)

    def at_attention(self, attention, attribute, canvas, pixels, train: bool = False) -> dict:
        """The patch branch on the crop that `attention` points at: patch, box."""
        box = self.boxes(attention, pixels, clamp=self.clamp or train)
        crop = augment.normalise(attention_crop.crops(canvas, box, self.crop_size), self.dtype)
        return {"patch": self.of_crop(crop, attribute, train), "box": box}

    def region(self, image, attribute, train: bool = False) -> dict:
        """The region branch alone."""
        level = self.backbone(image, train=train)[-1]
        h, w = level.shape[1:3]
        cells = rearrange(level, "b h w c -> b (h w) c")
        if attribute.ndim == 2:  # the backbone runs once for all of them
            cells, attribute = _repeated(cells, attribute.shape[1]), attribute.reshape(-1)
        region, complement, attention = self.attention_net(cells, self._condition(attribute), train)
        outputs = {"region": region, "attention": rearrange(attention, "b (h w) -> b h w", h=h, w=w)}
        if self.values is not None:
            logits = jnp.einsum("bd,bdv->bv", region, self.value_kernel[attribute])
            outputs["value_logits"] = logits + self.value_bias[attribute]
        return outputs if complement is None else outputs | {"complement": complement}

    def of_crop(self, crop, attribute, train: bool = False):
        """The patch branch alone: crop [b h w 3] normalised -> [b d]."""
        return self.patch(crop, self.attr_embedding(attribute), train)

    def boxes(self, attention, pixels, *, clamp: bool):
        """attention [b h w], pixels [b s+2] -> boxes [b 4] i32 of the crops."""
        if self.crop == "none":
            attention = jnp.ones_like(attention)  # a constant map stands for the whole square
        attention = jax.lax.stop_gradient(attention)
        return attention_crop.crop_boxes(attention, pixels, self.threshold, clamp=clamp)

    def _condition(self, attribute):
        if self.conditioned and self.variant == "rpf":
            return self.attr_embedding(attribute)
        return jax.nn.one_hot(attribute, self.attributes)


def _repeated(x, times: int):
    return None if x is None else jnp.repeat(x, times, axis=0)


class MeanEmbedding(nn.Module):
    """f [b n c] -> (embedding [b d] of the cells' mean, None, equal attention [b n]); the attribute is not
    read."""

    embedding: int

    @nn.compact
    def __call__(self, f, attribute, train: bool = False):
        del attribute, train
        mean = f.astype(jnp.float32).mean(axis=1)
        p = jnp.full(f.shape[:2], 1 / f.shape[1], jnp.float32)
        return torch_linear(self.embedding, f.shape[-1], "feature_fc")(mean), None, p


def fused(region, patch, beta: float):
    """region, patch [b d] -> [b 2d] of unit length, whose inner products are
    beta * cos(region) + (1 - beta) * cos(patch)."""
    return jnp.concatenate([math.sqrt(beta) * unit(region), math.sqrt(1 - beta) * unit(patch)], axis=-1)
