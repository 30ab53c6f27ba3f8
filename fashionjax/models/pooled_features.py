"""What predictors and retrievers share: one feature per image, global or landmark-pooled, and key rules."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fashionjax.models import backbones, heads, layers
from fashionjax.models.torch_keys import Rules, prefixed

POOLINGS = ("global", "roi")
GLOBAL_POOLS = ("mlp", "average")
LANDMARK_SOURCES = ("given", "predicted")


class PooledFeatures(nn.Module):
    """Fields and the feature of a model that looks at the whole image and, with 'roi' pooling, around
    landmarks.

    pooling          'global', or 'roi': the pooled landmarks are fused with the global feature
    global_pooling   'mlp': 7 x 7 average, two linear layers (MMFashion); 'average': mean, one linear layer
    hidden           width of the first of the two linear layers ('mlp')
    features         width of the global, the local and the fused feature; None keeps the backbone's channels
                     (only with pooling='global' and global_pooling='average')
    landmark_source  'given': landmarks are an input; 'predicted': they come from `landmark_head`, and no
                     gradient flows from the pooled features back into the coordinates
    landmark_head    pyramid -> (landmark, visibility logits); with 'given' it only adds its own outputs
    roi_levels       indices into the pyramid of the maps that are pooled around landmarks, concatenated
    global_levels    and of those that are averaged ('average' only; 'mlp' reads the last)
    dropout          rate behind the pooled linear layers (MMFashion: 0.5)
    cells            the means of 'average' are those of a grid of cells x cells
    dropout_pooled   rate on the pooled vector of 'average'
    normalise_pooled batch normalisation of the pooled vectors ('average' and 'roi'), over `bn_axis_name` too
    roi_crop, roi_samples   the plane's side in cells (the window spans 2) and points per axis, see RoIPooling
    """

    backbone: nn.Module
    pooling: str = "global"
    global_pooling: str = "mlp"
    hidden: int = 4096
    features: int | None = 4096
    landmark_source: str = "given"
    landmark_head: nn.Module | None = None
    roi_levels: tuple[int, ...] = (-1,)
    global_levels: tuple[int, ...] = (-1,)
    roi_crop: int = 7
    roi_samples: int = 2
    dropout: float = 0.5
    cells: int = 1
    dropout_pooled: float = 0.0
    normalise_pooled: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    def check(self):
        """Raises ValueError for fields that do not fit together."""
        for field, known in (
            ("pooling", POOLINGS),
            ("global_pooling", GLOBAL_POOLS),
            ("landmark_source", LANDMARK_SOURCES),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {known}, not {getattr(self, field)!r}")
        if self.landmark_source == "predicted" and self.landmark_head is None:
            raise ValueError("landmark_source='predicted' needs a landmark_head")
        if self.features is None and (self.pooling == "roi" or self.global_pooling == "mlp"):
            raise ValueError("features may be None only with pooling='global' and global_pooling='average'")

    def reduced(self, image, train: bool = False):
        """image [b h w 3] -> [b d] float32: what the model reads of its backbone, before the first layer that
        is not the backbone's. Only of a model that looks at nothing else (ValueError)."""
        self.check()
        if self.pooling != "global" or self.landmark_head is not None:
            raise ValueError("only a model with pooling='global' and no landmark_head reads one vector")
        return self._reduce(self.backbone(image, train)).astype(jnp.float32)

    def _reduce(self, pyramid):
        if self.global_pooling == "mlp":
            return heads.flat_average(pyramid[-1], heads.POOL_SIDE)
        return heads.AverageGlobalPooling.means([pyramid[level] for level in self.global_levels], self.cells)

    def feature(
        self,
        image,
        landmark,
        train: bool,
        roi_group: int | None,
        align_corners: bool,
        roi_count,
        reduced=None,
    ):
        """image [b h w 3], landmark [b k 2] | None -> {'feature': [b d], and of a landmark head: 'landmark',
        'visibility_logits'}.

        A 'roi' model that is given no landmarks returns the global feature without fusion, as MMFashion does;
        it cannot be initialised that way. `reduced` [b d] stands for the image (`PooledFeatures.reduced`).
        """
        self.check()
        if reduced is not None:
            return {"feature": self._global(reduced.astype(self.dtype), train)}
        pyramid = self.backbone(image, train)
        outputs = {}
        if self.landmark_head is not None:
            outputs["landmark"], outputs["visibility_logits"] = self.landmark_head(pyramid, train)
        if self.landmark_source == "predicted":
            landmark = jax.lax.stop_gradient(outputs["landmark"])
        x = self._global(self._reduce(pyramid), train)
        if self.pooling == "roi":
            if landmark is None and self.is_initializing():
                raise ValueError("a model with pooling='roi' must be initialised with landmarks")
            if landmark is not None:
                maps = [pyramid[level] for level in self.roi_levels]
                pool = heads.RoIPooling(
                    self.features,
                    self.roi_crop,
                    self.roi_samples,
                    self.dropout,
                    self._pooled_norm(),
                    dtype=self.dtype,
                    name="roi_pool",
                )
                local = pool(maps, landmark, train, roi_group, align_corners, roi_count)
                x = heads.Concat(self.features, dtype=self.dtype, name="concat")(x, local)
        return {"feature": x, **outputs}

    def _pooled_norm(self):
        if not self.normalise_pooled:
            return None
        return partial(layers.batch_norm, frozen=False, axis_name=self.bn_axis_name, dtype=jnp.float32)

    def _global(self, reduced, train: bool):
        if self.global_pooling == "mlp":
            pool = heads.GlobalPooling(
                self.hidden, self.features, self.dropout, dtype=self.dtype, name="global_pool"
            )
            return pool(reduced, train)
        pool = heads.AverageGlobalPooling(
            self.features, self._pooled_norm(), self.dropout_pooled, dtype=self.dtype, name="global_pool"
        )
        return pool(reduced, train)


def torch_keys(model) -> Rules:
    """Key rules of a Predictor, Retriever or LandmarkDetector with its backbone's under 'backbone.'."""
    return prefixed(backbones.torch_keys(model.backbone), "backbone.", "backbone") + heads.TORCH_KEYS


def pooling(shapes: Mapping) -> str:
    """'roi' or 'global', of a state dict {PyTorch name: shape}."""
    return "roi" if any(key.startswith("roi_pool.") for key in shapes) else "global"


def fields_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict:
    """{PyTorch name: shape} of an MMFashion model → the widths that its feature has; KeyError where the
    two-layer global pooling is missing."""
    hidden, features = (shapes[f"global_pool.global_layers.{i}.weight"][0] for i in (0, 3))
    return {"hidden": hidden, "features": features}


def outputs_of(shapes: Mapping[str, tuple[int, ...]], part: str) -> int | None:
    """The number of outputs of a head of `heads.PARTS`; None where there is none."""
    return shapes[heads.PARTS[part]][0] if heads.PARTS[part] in shapes else None
