"""Retrieval: MMFashion's GlobalRetriever and RoIRetriever, in-shop and consumer-to-shop.

Source: mmfashion/models/retriever/{global_retriever,roi_retriever}.py.
"""

from collections.abc import Mapping

import flax.linen as nn

from fashionjax.models import heads, pooled_features
from fashionjax.models.pooled_features import PooledFeatures

TORCH_KEYS = heads.TORCH_KEYS  # of everything but the backbone


class Retriever(PooledFeatures):
    """image [b h w 3] normalised float, landmark [b k 2] in [0, 1] -> dict of float32 arrays.

    Keys, as far as the model has the part: embedding [b embedding], id_logits [b ids], attribute_logits [b a]
    (read from the fused feature, not from the embedding), feature [b d], landmark [b k 2], visibility_logits
    [b k]. `PooledFeatures` has the pooling fields, `EmbedExtractor` `normalise` and `id_head`;
    the defaults are MMFashion's.
    """

    embedding: int = 256
    ids: int | None = None
    attributes: int | None = None
    normalise: bool = False
    id_head: str = "linear"

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
        extractor = heads.EmbedExtractor(
            self.embedding, self.ids, self.normalise, self.id_head, dtype=self.dtype, name="embed_extractor"
        )
        outputs["embedding"], id_logits = extractor(outputs["feature"])
        if id_logits is not None:
            outputs["id_logits"] = id_logits
        if self.attributes is not None:
            predictor = heads.AttrPredictor(self.attributes, dtype=self.dtype, name="attr_predictor")
            outputs["attribute_logits"] = predictor(outputs["feature"])
        return outputs


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Retriever:
    """{PyTorch name: shape} of an MMFashion retriever → its module; KeyError where a part is missing."""
    return Retriever(
        backbone,
        **pooled_features.fields_from_shapes(shapes),
        pooling=pooled_features.pooling(shapes),
        embedding=shapes[heads.PARTS["embedding head"]][0],
        ids=pooled_features.outputs_of(shapes, "id head"),
        attributes=pooled_features.outputs_of(shapes, "attribute head"),
    )
