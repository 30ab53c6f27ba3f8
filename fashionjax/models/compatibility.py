"""Outfit compatibility: the type-aware embedding and a set transformer, over one general embedding per item.

Sources: mmfashion/models/{fashion_recommender,type_specific_net,triplet_net,global_pool} and Vasileva et al.
2018 (whose own code stops the backbone after the third stage and averages); the set transformer follows the
idea of Sarkar et al. 2022 (OutfitTransformer).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.heads import NORMAL, XAVIER, pooled_linear
from fashionjax.ops.distances import unit
from fashionjax.ops.type_spaces import NORM_EPSILON, Spaces

PROJECTIONS = ("mask", "fc")
POOLS = ("flatten", "average")
TEXTS = ("none", "features", "words")
VOCABULARY = 4096  # hash buckets of the "words" text encoder; 0 is padding
SIDE = 7  # the plane that "flatten" reads


class GeneralEmbedding(nn.Module):
    """top map [b h w c] -> [b d] float32, one linear layer on the 7 x 7 plane (MMFashion) or its mean."""

    features: int
    pool: str = "flatten"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        if self.pool == "flatten":
            x = layers.flatten_map(layers.adaptive_average_pool(x, SIDE, SIDE))
            return pooled_linear(self.features, "global_layers", dtype=self.dtype)(x).astype(jnp.float32)
        if self.pool != "average":
            raise ValueError(f"pool must be one of {POOLS}, not {self.pool!r}")
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return layers.linear(self.features, "fc_embed")(x)


class TypeSpaces(nn.Module):
    """The parameters of the type-specific spaces; `ops.type_spaces` says what is done with them."""

    spaces: int
    features: int
    projection: str

    @nn.compact
    def __call__(self) -> Spaces:
        c, d = self.spaces, self.features
        if self.projection == "mask":
            return Spaces(mask=self.param("mask", _mask_init, (c, d), jnp.float32))
        if self.projection != "fc":
            raise ValueError(f"projection must be one of {PROJECTIONS}, not {self.projection!r}")
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=0)
        return Spaces(
            kernel=self.param("kernel", xavier, (c, d, d), jnp.float32),
            bias=self.param("bias", nn.initializers.constant(0.01), (c, d), jnp.float32),
        )


def _mask_init(key, shape, dtype):
    return 0.9 + 0.7 * nn.initializers.normal(1.0)(key, shape, dtype)


class TextBranch(nn.Module):
    """text [b f] float -> [b d] float32 rows of length 1; or word ids [b t] i32 (0: padding), whose learned
    vectors are averaged first.
    """

    features: int
    words: bool = False
    bn_axis_name: str | None = None

    @nn.compact
    def __call__(self, text, train: bool = False):
        if self.words:
            known = (text > 0).astype(jnp.float32)[..., None]
            vectors = nn.Embed(VOCABULARY, self.features, name="words")(text)
            text = jnp.sum(vectors * known, axis=1) / jnp.maximum(known.sum(axis=1), 1)
        norm = layers.batch_norm(train=train, frozen=False, axis_name=self.bn_axis_name, dtype=jnp.float32)
        x = layers.linear(self.features, "fc1_0")(text)
        x = nn.relu(norm(name="fc1_1", epsilon=1e-3, momentum=0.99)(x))
        x = layers.linear(self.features, "fc2")(x)
        return unit(x, added=NORM_EPSILON)


class Embedder(nn.Module):
    """image [b h w 3] normalised float -> embedding [b d] and, with `types`, category_logits [b types].

    pool  'flatten' or 'average', see GeneralEmbedding
    text  one of TEXTS, what the text branch of training reads, see `encode_text`
    """

    backbone: nn.Module
    embedding: int = 256
    pool: str = "flatten"
    types: int | None = None
    text: str = "none"
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        if self.text not in TEXTS:
            raise ValueError(f"text must be one of {TEXTS}, not {self.text!r}")
        self.global_pool = GeneralEmbedding(self.embedding, self.pool, self.dtype)
        if self.types is not None:
            self.type_head = layers.linear(self.types, kernel_init=XAVIER)
        if self.text != "none":
            self.text_branch = TextBranch(self.embedding, self.text == "words", self.bn_axis_name)

    def __call__(self, image, train: bool = False, text=None) -> dict:
        """`text` is only looked at while the model is initialised."""
        outputs = {"embedding": self.global_pool(self.backbone(image, train)[-1])}
        if self.types is not None:
            outputs["category_logits"] = self.type_head(outputs["embedding"])
        if self.is_initializing():
            self.scoring()
            if self.text != "none":
                self.encode_text(text)
        return outputs

    def encode_text(self, text, train: bool = False):
        """What `text` says it is (see TextBranch) -> [b d] float32, rows of length 1."""
        return self.text_branch(text, train)

    def scoring(self):
        """Creates the parameters that score sets of embeddings."""
        raise NotImplementedError


class TypeAware(Embedder):
    """The type-aware embedding: a general embedding, a space per pair of types, a distance in it.

    spaces      number of pairs of types
    projection  'mask' or 'fc', see TypeSpaces
    metric      a learned bias-free weight of the products instead of the Euclidean distance; starts at zero
    """

    spaces: int = 66
    projection: str = "mask"
    metric: bool = False

    def setup(self):
        super().setup()
        self.type_specific_net = TypeSpaces(self.spaces, self.embedding, self.projection)
        if self.metric:
            zeros = nn.initializers.zeros
            self.metric_weight = self.param("metric_branch", zeros, (self.embedding,), jnp.float32)

    def scoring(self, rectify: bool = True) -> Spaces:
        """The spaces; `rectify` sets negative entries of masks to 0."""
        spaces = self.type_specific_net()
        if rectify and spaces.mask is not None:
            spaces = spaces._replace(mask=nn.relu(spaces.mask))
        return spaces._replace(metric=self.metric_weight) if self.metric else spaces


class SetTransformer(Embedder):
    """Scores whole sets of items by self-attention over their embeddings and types, without an order."""

    depth: int = 2
    heads: int = 4
    width: int = 128

    def setup(self):
        super().setup()
        self.set_scorer = SetScorer(self.types, self.depth, self.heads, self.width)

    def scoring(self):
        pair = jnp.zeros((1, 2), jnp.int32)
        self.score_sets(jnp.zeros((1, 2, self.embedding)), pair, pair == 0)

    def score_sets(self, embedding, category, valid):
        """embedding [s m d], category [s m] i32, valid [s m] bool -> logit [s] that the items go together."""
        return self.set_scorer(embedding, category, valid)


class SetScorer(nn.Module):
    """embedding [s m d], category [s m] i32, valid [s m] bool -> logit [s] float32."""

    types: int
    depth: int
    heads: int
    width: int

    @nn.compact
    def __call__(self, embedding, category, valid):
        x = layers.linear(self.width, "item")(nn.LayerNorm(name="input_norm")(embedding))
        x = x + nn.Embed(self.types, self.width, name="type")(category)
        start = self.param("start", NORMAL, (self.width,), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(start, (len(x), 1, self.width)), x], axis=1)
        seen = jnp.concatenate([jnp.ones((len(x), 1), bool), valid], axis=1)
        for i in range(self.depth):
            y = nn.LayerNorm(name=f"layer{i}_norm1")(x)
            if i == self.depth - 1:
                x = x[:, :1]  # the logit is read off the start token alone
            x = x + self._attend(f"layer{i}", y[:, : x.shape[1]], y, seen)
            y = layers.linear(2 * self.width, f"layer{i}_up")(nn.LayerNorm(name=f"layer{i}_norm2")(x))
            x = x + layers.linear(self.width, f"layer{i}_down")(nn.gelu(y))
        return layers.linear(1, "logit")(nn.LayerNorm(name="output_norm")(x[:, 0]))[:, 0]

    def _attend(self, name: str, asking, x, seen):
        """asking [s m d] reads from x [s n d] where seen [s n] -> [s m d]."""
        query, key, value = (
            rearrange(layers.linear(self.width, f"{name}_{part}")(y), "s m (h e) -> s h m e", h=self.heads)
            for part, y in (("query", asking), ("key", x), ("value", x))
        )
        weight = jnp.einsum("shme,shne->shmn", query, key) / (self.width // self.heads) ** 0.5
        weight = nn.softmax(jnp.where(seen[:, None, None], weight, -1e9))
        mixed = rearrange(jnp.einsum("shmn,shne->shme", weight, value), "s h m e -> s m (h e)")
        return layers.linear(self.width, f"{name}_out")(mixed)
