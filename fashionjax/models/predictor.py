"""Attribute and category prediction: MMFashion's Global/RoI (Attr/Cate) predictors, and the joint model with
landmarks.

Sources: mmfashion/models/predictor/{global_predictor,roi_predictor}.py and their attr_cate variants.
"""

from collections.abc import Mapping

import flax.linen as nn

from fashionjax.models import heads, pooled_features
from fashionjax.models.pooled_features import PooledFeatures

TORCH_KEYS = heads.TORCH_KEYS  # of everything but the backbone


class Predictor(PooledFeatures):
    """image [b h w 3] normalised float, landmark [b k 2] in [0, 1] -> dict of float32 arrays.

    Keys, as far as the model has the part: attribute_logits [b a], category_logits [b categories], feature [b
    d], landmark [b k 2] in [0, 1], visibility_logits [b k]. `PooledFeatures` has the pooling fields.
    `roi_group` is quirk S3 (None: correct; `roi_count` images at the front are real, the rest padding),
    `align_corners` S5. Dropout draws from the 'dropout' stream in training.
    """

    attributes: int | None = None
    categories: int | None = None

    @nn.compact
    def __call__(
        self,
        image,
        landmark=None,
        train: bool = False,
        roi_group: int | None = None,
        align_corners: bool = False,
        roi_count=None,
        reduced=None,
    ) -> dict:
        outputs = self.feature(image, landmark, train, roi_group, align_corners, roi_count, reduced)
        x = outputs["feature"]
        if self.attributes is not None:
            predictor = heads.AttrPredictor(self.attributes, dtype=self.dtype, name="attr_predictor")
            outputs["attribute_logits"] = predictor(x)
        if self.categories is not None:
            predictor = heads.CatePredictor(self.categories, dtype=self.dtype, name="cate_predictor")
            outputs["category_logits"] = predictor(x)
        return outputs


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Predictor:
    """{PyTorch name: shape} of an MMFashion predictor → its module; KeyError where a part is missing."""
    return Predictor(
        backbone,
        **pooled_features.fields_from_shapes(shapes),
        pooling=pooled_features.pooling(shapes),
        attributes=pooled_features.outputs_of(shapes, "attribute head"),
        categories=pooled_features.outputs_of(shapes, "category head"),
    )
