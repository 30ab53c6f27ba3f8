"""Heads of the MMFashion models, under their PyTorch names, and a heat-map landmark head.

Sources: mmfashion/models/{global_pool,roi_pool,concat,attr_predictor,cate_predictor,embed_extractor,
landmark_feature_extractor,visibility_classifier,landmark_regression}. Initial values are those the originals
ask for: normal with deviation 0.01 behind the pooled maps, Xavier-uniform with bias 0.01 everywhere else. All
heads return float32 and compute in `dtype`.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models import layers
from fashionjax.models.torch_keys import (
    CONV,
    SAME,
    Ignore,
    KeyRule,
    batch_norm_rules,
    chw_linear,
    linear_rules,
)
from fashionjax.ops.distances import unit
from fashionjax.ops.landmark_pool import landmark_pool, scramble_centres

POOL_SIDE = 7  # the plane every MMFashion head works on
FRAME = 224.0  # pixels; MMFashion regresses landmarks in a frame of this side

TORCH_KEYS = (
    *linear_rules(r"global_pool\.global_layers\.0", "global_pool/global_layers_0", chw_linear(7, 7)),
    *linear_rules(r"global_pool\.global_layers\.3", "global_pool/global_layers_3"),
    *linear_rules(r"global_pool\.linear", "global_pool/linear"),
    *linear_rules(r"roi_pool\.linear\.0", "roi_pool/linear_0"),
    *batch_norm_rules(r"(global_pool|roi_pool)\.norm", r"\1/norm"),
    *linear_rules(r"concat\.fc_fusion", "concat/fc_fusion"),
    *linear_rules(r"attr_predictor\.linear_attr", "attr_predictor/linear_attr"),
    *linear_rules(r"cate_predictor\.linear_cate", "cate_predictor/linear_cate"),
    *linear_rules(r"embed_extractor\.(embed|id)_linear", r"embed_extractor/\1_linear"),
    KeyRule(r"embed_extractor\.proxies", "params/embed_extractor/proxies", SAME),
    Ignore(r"embed_extractor\.bn\.(.*)", "a normalisation that the original stores and never applies"),
    *linear_rules(r"landmark_feature_extractor\.linear", "landmark_feature_extractor/linear"),
    *linear_rules(r"visibility_classifier\.linear", "visibility_classifier/linear"),
    *linear_rules(r"landmark_regression\.linear", "landmark_regression/linear"),
    KeyRule(r"landmark_head\.(lateral\d|merge|heatmap)\.weight", r"params/landmark_head/\1/kernel", CONV),
    KeyRule(r"landmark_head\.(lateral\d|merge|heatmap)\.bias", r"params/landmark_head/\1/bias", SAME),
    *batch_norm_rules(r"landmark_head\.merge_bn", "landmark_head/merge_bn"),
    *linear_rules(r"landmark_head\.(context|visibility)", r"landmark_head/\1"),
    KeyRule(r"landmark_head\.log_sharpness", "params/landmark_head/log_sharpness", SAME),
)
# heads by name → the weight whose first side is the number of outputs
PARTS = {
    "attribute head": "attr_predictor.linear_attr.weight",
    "category head": "cate_predictor.linear_cate.weight",
    "embedding head": "embed_extractor.embed_linear.weight",
    "id head": "embed_extractor.id_linear.weight",
    "landmark head": "landmark_regression.linear.weight",
    "heatmap head": "landmark_head.heatmap.weight",
}

NORMAL = nn.initializers.normal(0.01)
XAVIER = nn.initializers.xavier_uniform()
pooled_linear = partial(layers.linear, kernel_init=NORMAL, bias=0.0)
head_linear = partial(layers.linear, kernel_init=XAVIER, bias=0.01)


def flat_average(x, side: int):
    """x [b h w c] -> [b side side c]: averages over a grid of cells, flat."""
    return layers.flatten_map(layers.adaptive_average_pool(x, side, side))


class GlobalPooling(nn.Module):
    """top map [b h w c], or its averages [b 49 c] -> [b features]: average to 7 x 7, then two linear layers,
    ReLU and dropout."""

    hidden: int
    features: int
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        if x.ndim == 4:
            x = flat_average(x, POOL_SIDE)
        for width, name in ((self.hidden, "global_layers_0"), (self.features, "global_layers_3")):
            x = nn.relu(pooled_linear(width, name, dtype=self.dtype)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return x.astype(jnp.float32)


class AverageGlobalPooling(nn.Module):
    """means [b d] (`means`) -> [b d], or [b features] through one linear layer with ReLU where `features`
    is given.

    The light alternative to `GlobalPooling`, whose first kernel alone has 49 c x hidden values. `norm`
    (train -> constructor) normalises the means: those of early maps vary little around a large value.
    `dropout` acts on the means.
    """

    features: int | None = None
    norm: Any = None
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @staticmethod
    def means(maps, cells: int = 1):
        """maps [b h w c] -> [b sum of cells cells c]: the mean of a map, or of each cell of a grid."""
        if cells == 1:
            return jnp.concatenate([jnp.mean(x.astype(jnp.float32), axis=(1, 2)) for x in maps], axis=-1)
        return jnp.concatenate([flat_average(x.astype(jnp.float32), cells) for x in maps], axis=-1)

    @nn.compact
    def __call__(self, x, train: bool = False):
        if self.norm is not None:
            x = self.norm(train=train)(name="norm")(x)
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.features is not None:
            x = nn.relu(layers.linear(self.features, "linear", dtype=self.dtype)(x))
        return x.astype(jnp.float32)


class RoIPooling(nn.Module):
    """maps [b h w c], landmark [b k 2] in [0, 1] -> [b features]: pooled around landmarks, one linear layer.

    The pooled vectors (of several maps: joined per landmark) are concatenated landmark-major.

    `crop` is the side of the plane in cells, the window around a landmark spans 2 of them; `samples` points
    per axis. `group` (quirk S3) mixes the centres of that many images as the original does, None keeps each
    image's own. `align_corners` (S5) selects the sampling rule of PyTorch before 1.3. Missing landmarks are
    fed as (0, 0) and pool the corner. `norm` as in `AverageGlobalPooling`.
    """

    features: int
    crop: int = 7
    samples: int = 2
    dropout: float = 0.5
    norm: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        maps,
        landmark,
        train: bool = False,
        group: int | None = None,
        align_corners: bool = False,
        count=None,
    ):
        if group is not None:
            landmark = scramble_centres(landmark, group, count)
        pool = partial(landmark_pool, samples=self.samples, crop=self.crop, align_corners=align_corners)
        pooled = jnp.concatenate([jax.vmap(pool)(x, landmark) for x in maps], axis=-1)
        x = rearrange(pooled, "b k c -> b (k c)").astype(jnp.float32)
        if self.norm is not None:
            x = self.norm(train=train)(name="norm")(x)
        x = nn.relu(pooled_linear(self.features, "linear_0", dtype=self.dtype)(x))
        return nn.Dropout(self.dropout, deterministic=not train)(x).astype(jnp.float32)


class Concat(nn.Module):
    """global [b d], local [b e] -> [b features]: one linear layer over both, no activation."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, global_feature, local_feature):
        x = jnp.concatenate([global_feature, local_feature], axis=-1)
        return head_linear(self.features, "fc_fusion", dtype=self.dtype)(x).astype(jnp.float32)


class AttrPredictor(nn.Module):
    """feature [b d] -> attribute logits [b a]."""

    attributes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return head_linear(self.attributes, "linear_attr", dtype=self.dtype)(x).astype(jnp.float32)


class CatePredictor(nn.Module):
    """feature [b d] -> category logits [b categories]."""

    categories: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return head_linear(self.categories, "linear_cate", dtype=self.dtype)(x).astype(jnp.float32)


class EmbedExtractor(nn.Module):
    """feature [b d] -> (embedding [b embedding], identity logits [b ids] or None).

    `id_head` 'linear' is the original's: a linear layer on the raw embedding. 'proxy' gives the cosine
    between the embedding and one learned vector per identity, for proxy losses (Movshovitz-Attias et al.
    2017, Kim et al. 2020). `normalise` returns unit embeddings; the original's are raw.
    """

    embedding: int
    ids: int | None
    normalise: bool = False
    id_head: str = "linear"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = head_linear(self.embedding, "embed_linear", dtype=self.dtype)(x).astype(jnp.float32)
        if self.normalise:
            x = unit(x)
        if self.ids is None:
            return x, None
        if self.id_head == "linear":
            return x, head_linear(self.ids, "id_linear", dtype=self.dtype)(x).astype(jnp.float32)
        if self.id_head != "proxy":
            raise ValueError(f"id_head must be 'linear' or 'proxy', not {self.id_head!r}")
        proxies = self.param("proxies", nn.initializers.normal(1.0), (self.ids, self.embedding), jnp.float32)
        return x, jnp.einsum("bd,nd->bn", unit(x), unit(proxies))


class LandmarkFeatureExtractor(nn.Module):
    """feature [b d] -> one vector per landmark [b k features], landmark-major, no activation."""

    landmarks: int = 8
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = head_linear(self.landmarks * self.features, "linear", dtype=self.dtype)(x)
        return rearrange(x, "b (k d) -> b k d", k=self.landmarks).astype(jnp.float32)


class VisibilityClassifier(nn.Module):
    """landmark vectors [b k d] -> visibility logits [b k]; one linear layer shared by the landmarks."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return head_linear(1, "linear", dtype=self.dtype)(x)[..., 0].astype(jnp.float32)


class LandmarkRegression(nn.Module):
    """landmark vectors [b k d] -> xy [b k 2] in [0, 1]; one linear layer shared by the landmarks.

    The original's layer predicts pixels of a 224 x 224 frame, and so does this one: the division by 224 below
    is the only place where the two conventions meet. Values are not clipped.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        return head_linear(2, "linear", dtype=self.dtype)(x).astype(jnp.float32) / FRAME


def soft_argmax(heatmap):
    """heatmap logits [b h w k] -> (weight [b h w k] summing to 1 over the map, xy [b k 2] in [0, 1]).

    The expectation of the cell centres ((i + 1/2) / w, (j + 1/2) / h) under a softmax over the map.
    """
    _, h, w, _ = heatmap.shape
    flat = rearrange(heatmap.astype(jnp.float32), "b h w k -> b (h w) k")
    weight = rearrange(nn.softmax(flat, axis=1), "b (h w) k -> b h w k", h=h)
    # HIGHEST: products of 10 bits would round coordinates to a quarter of a pixel at 224.
    x = jnp.einsum("bhwk,w->bk", weight, (jnp.arange(w) + 0.5) / w, precision="highest")
    y = jnp.einsum("bhwk,h->bk", weight, (jnp.arange(h) + 0.5) / h, precision="highest")
    return weight, jnp.stack([x, y], axis=-1)


class HeatmapHead(nn.Module):
    """pyramid -> (landmark [b k 2] in [0, 1], visibility logits [b k]).

    The last `levels` maps are brought to `features` channels and merged top-down (each added to the next
    finer one after nearest up-sampling), the pooled top map is added everywhere as context, one 3x3
    convolution, one heat map per landmark, spatial expectation of its softmax. Visibility is read from the
    merged map averaged under each heat map, together with the context. Soft-argmax as in Luvizon et al. 2017;
    merging as in feature pyramids, Lin et al. 2017.
    """

    landmarks: int = 8
    features: int = 64
    levels: int = 3
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32
    pointwise: str = "auto"

    @nn.compact
    def __call__(self, pyramid, train: bool = False):
        conv = partial(layers.Conv, use_bias=True, dtype=self.dtype, pointwise=self.pointwise)
        context = jnp.mean(pyramid[-1].astype(jnp.float32), axis=(1, 2))
        context = nn.relu(layers.linear(self.features, "context", dtype=self.dtype)(context))
        merged = None
        for i, level in enumerate(reversed(pyramid[-self.levels :])):
            lateral = conv(self.features, 1, name=f"lateral{i}")(level)
            if merged is not None:
                lateral = lateral + jax.image.resize(merged, lateral.shape, "nearest")
            merged = lateral
        merged = nn.relu(merged + context[:, None, None])
        merged = conv(self.features, 3, use_bias=False, name="merge")(merged)
        norm = layers.batch_norm(train=train, frozen=False, axis_name=self.bn_axis_name, dtype=self.dtype)
        merged = nn.relu(norm(name="merge_bn")(merged))
        heatmap = conv(self.landmarks, 1, kernel_init=NORMAL, name="heatmap")(merged).astype(jnp.float32)
        sharpness = jnp.exp(self.param("log_sharpness", nn.initializers.zeros, (self.landmarks,)))
        weight, landmark = soft_argmax(heatmap * sharpness)
        points = jnp.einsum("bhwk,bhwc->bkc", weight.astype(self.dtype), merged)
        points = jnp.concatenate([rearrange(points, "b k c -> b (k c)"), context], axis=-1)
        visibility = layers.linear(self.landmarks, "visibility", dtype=self.dtype)(points)
        return landmark, visibility.astype(jnp.float32)
