"""Landmark detection: MMFashion's detector by regression, and the heat-map detector.

Source of the first: mmfashion/models/landmark_detector/landmark_detector.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import heads, pooled_features

TORCH_KEYS = heads.TORCH_KEYS  # of everything but the backbone


class LandmarkDetector(nn.Module):
    """image [b h w 3] normalised float -> {'landmark' [b k 2] in [0, 1], 'visibility_logits' [b k]} float32.

    Without `landmark_head` the original: global feature [b features], one vector of `landmark_features` per
    landmark, coordinates and visibility by linear layers that the landmarks share; 'feature' is returned too.
    With a `landmark_head` (`heads.HeatmapHead`) that head alone reads the pyramid. `landmark`, `roi_group`
    and `align_corners` are accepted and unused, so that every model is called alike.
    """

    backbone: nn.Module
    hidden: int = 4096
    features: int = 4096
    landmarks: int = 8
    landmark_features: int = 256
    landmark_head: nn.Module | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image,
        landmark=None,
        train: bool = False,
        roi_group: int | None = None,
        align_corners: bool = False,
        roi_count=None,
    ) -> dict:
        pyramid = self.backbone(image, train)
        if self.landmark_head is not None:
            xy, visibility = self.landmark_head(pyramid, train)
            return {"landmark": xy, "visibility_logits": visibility}
        pool = heads.GlobalPooling(self.hidden, self.features, dtype=self.dtype, name="global_pool")
        x = pool(pyramid[-1], train)
        vectors = heads.LandmarkFeatureExtractor(
            self.landmarks, self.landmark_features, dtype=self.dtype, name="landmark_feature_extractor"
        )(x)
        return {
            "feature": x,
            "landmark": heads.LandmarkRegression(dtype=self.dtype, name="landmark_regression")(vectors),
            "visibility_logits": heads.VisibilityClassifier(dtype=self.dtype, name="visibility_classifier")(
                vectors
            ),
        }


def landmarks_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many landmarks a file {PyTorch name: shape} detects; None where it has no landmark head."""
    heatmap, head = shapes.get(heads.PARTS["heatmap head"]), shapes.get(heads.PARTS["landmark head"])
    extractor = shapes.get("landmark_feature_extractor.linear.weight")
    if heatmap:
        return heatmap[0]
    return extractor[0] // head[1] if extractor and head and len(head) == 2 else None


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> LandmarkDetector:
    """{PyTorch name: shape} of MMFashion's detector → its module; KeyError where a part is missing."""
    vector = shapes[heads.PARTS["landmark head"]][1]
    total = shapes["landmark_feature_extractor.linear.weight"][0]
    return LandmarkDetector(
        backbone,
        **pooled_features.fields_from_shapes(shapes),
        landmarks=total // vector,
        landmark_features=vector,
    )
