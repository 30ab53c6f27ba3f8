"""Vision transformers (Dosovitskiy et al. 2020): ViT-S/B/L with 16-pixel patches, timm's layout and names.

Sources of the layout: timm/models/vision_transformer.py (pre-norm blocks, joint qkv projection, LayerNorm eps
1e-6, exact GELU); the array names of google-research/vision_transformer checkpoints for `NPZ_KEYS`.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.torch_keys import (
    CONV,
    SAME,
    KeyRule,
    Layout,
    linear_rules,
    norm_rules,
)

TORCH_KEYS = (
    KeyRule("cls_token", "params/cls_token", SAME),
    KeyRule("pos_embed", "params/pos_embed", SAME),
    KeyRule(r"patch_embed\.proj\.weight", "params/patch_embed_proj/kernel", CONV),
    KeyRule(r"patch_embed\.proj\.bias", "params/patch_embed_proj/bias", SAME),
    *norm_rules(r"blocks\.(\d+)\.norm(1|2)", r"blocks_\1/norm\2"),
    *linear_rules(r"blocks\.(\d+)\.attn\.(qkv|proj)", r"blocks_\1/attn_\2"),
    *linear_rules(r"blocks\.(\d+)\.mlp\.(fc1|fc2)", r"blocks_\1/mlp_\2"),
    *norm_rules("norm", "norm"),
    *linear_rules("head", "head"),
)


def _one_way(x):
    raise TypeError("Google checkpoints are read, never written")


# Google's arrays are laid out as here but for a separate axis of heads: [d 3 heads e] and [heads e d].
_HEADS_OUT = Layout(lambda x: x.reshape(x.shape[0], -1), _one_way)
_HEADS_IN = Layout(lambda x: x.reshape(-1, x.shape[-1]), _one_way)
_FLAT = Layout(lambda x: x.reshape(-1), _one_way)
_BLOCK = r"Transformer/encoderblock_(\d+)"
_ATTENTION = rf"{_BLOCK}/MultiHeadDotProductAttention_1"

# For arrays that went through `merge_qkv`, or for a model whose `joint_qkv` is False as they are.
NPZ_KEYS = (
    KeyRule("cls", "params/cls_token", SAME),
    KeyRule("Transformer/posembed_input/pos_embedding", "params/pos_embed", SAME),
    KeyRule("embedding/(kernel|bias)", r"params/patch_embed_proj/\1", SAME),
    KeyRule(rf"{_ATTENTION}/qkv/kernel", r"params/blocks_\1/attn_qkv/kernel", _HEADS_OUT),
    KeyRule(rf"{_ATTENTION}/qkv/bias", r"params/blocks_\1/attn_qkv/bias", _FLAT),
    KeyRule(rf"{_ATTENTION}/(query|key|value)/kernel", r"params/blocks_\1/attn_\2/kernel", _HEADS_OUT),
    KeyRule(rf"{_ATTENTION}/(query|key|value)/bias", r"params/blocks_\1/attn_\2/bias", _FLAT),
    KeyRule(rf"{_ATTENTION}/out/kernel", r"params/blocks_\1/attn_proj/kernel", _HEADS_IN),
    KeyRule(rf"{_ATTENTION}/out/bias", r"params/blocks_\1/attn_proj/bias", SAME),
    KeyRule(rf"{_BLOCK}/MlpBlock_3/Dense_0/(kernel|bias)", r"params/blocks_\1/mlp_fc1/\2", SAME),
    KeyRule(rf"{_BLOCK}/MlpBlock_3/Dense_1/(kernel|bias)", r"params/blocks_\1/mlp_fc2/\2", SAME),
    KeyRule(rf"{_BLOCK}/LayerNorm_0/(scale|bias)", r"params/blocks_\1/norm1/\2", SAME),
    KeyRule(rf"{_BLOCK}/LayerNorm_2/(scale|bias)", r"params/blocks_\1/norm2/\2", SAME),
    KeyRule("Transformer/encoder_norm/(scale|bias)", r"params/norm/\1", SAME),
    KeyRule("head/(kernel|bias)", r"params/head/\1", SAME),
)


def merge_qkv(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Google checkpoint arrays with each block's query, key and value joined to one 'qkv', as the model
    stores them.

    Kernels [d heads e] become [d 3 heads e], biases [heads e] become [3 heads e]. A block that lacks one of
    the three is left as it is, so that the key accounting reports it.
    """
    merged = dict(arrays)
    for name in arrays:
        match = re.fullmatch(rf"({_ATTENTION})/query/(kernel|bias)", name)
        if match is None:
            continue
        stem, kind = match[1], match[3]
        parts = [f"{stem}/{part}/{kind}" for part in ("query", "key", "value")]
        if all(part in merged for part in parts):
            merged[f"{stem}/qkv/{kind}"] = np.stack([merged.pop(part) for part in parts], axis=-3)
    return merged


class Block(nn.Module):
    """tokens [b t d] -> [b t d]: x + attention(norm(x)), then x + mlp(norm(x)).

    `joint_qkv`: one layer `attn_qkv` for query, key and value (timm), else three, `attn_query`, `attn_key`
    and `attn_value` (Google). `dropout`: rate behind both layers of the MLP, in training.
    """

    heads: int
    mlp_ratio: int = 4
    dtype: Any = jnp.float32
    joint_qkv: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        d = x.shape[-1]
        norm = lambda name: nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)  # noqa: E731
        linear = lambda width, name: _linear(width, name, self.dtype)  # noqa: E731
        drop = nn.Dropout(self.dropout, deterministic=not train)
        y = norm("norm1")(x)
        if self.joint_qkv:
            joint = linear(3 * d, "attn_qkv")(y)
            qkv = rearrange(joint, "b t (three h e) -> three b t h e", three=3, h=self.heads)
        else:
            parts = (linear(d, f"attn_{name}")(y) for name in ("query", "key", "value"))
            qkv = (rearrange(part, "b t (h e) -> b t h e", h=self.heads) for part in parts)
        mixed = jax.nn.dot_product_attention(*qkv)
        x = x + linear(d, "attn_proj")(rearrange(mixed, "b t h e -> b t (h e)"))
        y = nn.gelu(linear(self.mlp_ratio * d, "mlp_fc1")(norm("norm2")(x)), approximate=False)
        return x + drop(linear(d, "mlp_fc2")(drop(y)))


def _linear(width: int, name: str, dtype):
    return layers.linear(width, name, dtype=dtype, kernel_init=nn.initializers.truncated_normal(0.02))


def resize_positions(positions, h: int, w: int):
    """Position embedding [1 1+n*n d] of a class token and a square grid -> [1 1+h*w d], bicubic, antialiased.

    As timm's resample_abs_pos_embed; the class token's row is kept. The identity at h = w = n.
    """
    token, grid = positions[:, :1], positions[:, 1:]
    n = round(grid.shape[1] ** 0.5)
    if n == h == w:
        return positions
    grid = rearrange(grid, "1 (h w) d -> h w d", h=n)
    grid = jax.image.resize(grid, (h, w, grid.shape[-1]), "cubic")
    return jnp.concatenate([token, rearrange(grid, "h w d -> 1 (h w) d")], axis=1)


class ViT(nn.Module):
    """image [b h w 3] float -> pyramid of four patch maps [b h/16 w/16 d], after evenly spaced blocks, the
    last normalised.

    All four have one resolution; they are ordered by depth. `grid` is the side of the stored position
    embedding in patches (14: trained at 224), which is interpolated to the image's own. `method='tokens'`
    gives the normalised sequence [b 1+t d], class token first; with `num_classes`, `method='logits'` the
    classifier on the class token, [b num_classes] float32. Intermediates sown: `patch_embed` [b t d],
    `embedded` [b 1+t d] (with positions) and `blocks`, a tuple with each block's output [b 1+t d].

    `dropout` acts behind the position embedding and the layers of the MLPs, in training; without `final_norm`
    the last block's output is the sequence; `token_init` is the deviation of the initial class token and
    positions; `joint_qkv` as for `Block`.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    grid: int = 14
    num_classes: int | None = None
    dtype: Any = jnp.float32
    joint_qkv: bool = True
    final_norm: bool = True
    token_init: float = 0.02
    dropout: float = 0.0

    @nn.compact
    def _run(self, image, classify: bool, train: bool = False):
        conv = layers.Conv(
            self.width,
            self.patch,
            self.patch,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            name="patch_embed_proj",
        )
        patches = conv(image)
        _, h, w, _ = patches.shape
        patches = rearrange(patches, "b h w d -> b (h w) d")
        self.sow("intermediates", "patch_embed", patches)
        small = nn.initializers.truncated_normal(self.token_init)
        token = self.param("cls_token", small, (1, 1, self.width), jnp.float32)
        positions = self.param("pos_embed", small, (1, 1 + self.grid**2, self.width), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype), (image.shape[0], 1, self.width))
        x = jnp.concatenate([token, patches], axis=1)
        x = x + resize_positions(positions, h, w).astype(self.dtype)
        self.sow("intermediates", "embedded", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        stops = [round(self.depth * part / 4) for part in (1, 2, 3)]
        maps = []
        for i in range(self.depth):
            block = Block(
                self.heads,
                dtype=self.dtype,
                joint_qkv=self.joint_qkv,
                dropout=self.dropout,
                name=f"blocks_{i}",
            )
            x = block(x, train)
            self.sow("intermediates", "blocks", x)
            if i + 1 in stops:
                maps.append(x)
        if self.final_norm:
            x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        logits = None
        if self.num_classes is not None and (classify or self.is_initializing()):
            logits = layers.linear(self.num_classes, "head")(x[:, 0].astype(jnp.float32))
        pyramid = tuple(rearrange(m[:, 1:], "b (h w) d -> b h w d", h=h) for m in (*maps, x))
        return pyramid, x, logits

    def __call__(self, image, train: bool = False) -> tuple:
        return self._run(image, classify=False, train=train)[0]

    def tokens(self, image, train: bool = False):
        """image [b h w 3] float -> [b 1+t d]: the class token, then the patches row by row."""
        return self._run(image, classify=False, train=train)[1]

    def logits(self, image, train: bool = False):
        """image [b h w 3] float -> [b num_classes] float32."""
        if self.num_classes is None:
            raise ValueError("a ViT without num_classes has no classifier")
        return self._run(image, classify=True, train=train)[2]
