"""A detector that embeds the garments it finds: the box features of each detection through a CGD head.

Source: Donghwa-KIM/fashion-recommendation, src/cgd/{pooler,model}.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange

from fashionjax.models import cgd
from fashionjax.models.cgd import CGDHead
from fashionjax.models.detection.rcnn import RCNN
from fashionjax.models.detection.torch_keys import torch_keys as detector_keys
from fashionjax.models.torch_keys import Rules

HEAD = "cgd"  # the submodule; the others are the detector's, under the names that it has alone


class GarmentEmbedder(RCNN):
    """A detector with a head on its RoI features [n s s channels], which sees no gradient through them.

    `pairs` counts the classes of the auxiliary classifier, None: it has none.
    """

    pairs: int | None = None
    head_width: int = 256
    exponents: tuple[float, ...] = cgd.KFASHION_EXPONENTS
    floor: float | None = cgd.KFASHION_FLOOR
    head_axis_name: str | None = None

    def setup(self):
        super().setup()
        self.cgd = CGDHead(self.pairs, self.head_width, self.exponents, self.floor, self.head_axis_name)

    def __call__(self, image, size):
        """Every part once, for the parameters."""
        super().__call__(image, size)
        box = jnp.zeros((image.shape[0], 1, 4)) + jnp.array([0.0, 0, 32, 32])
        return self.embed(self.maps(image, size), box, size)

    def embed(self, maps, box, size, valid=None, train: bool = False):
        """p2.., box [b n 4] in pixels of the image as it was given, valid [b n] → (embedding [b n d] of
        length 1, class logits [b n pairs] or None)."""
        pooled = jax.lax.stop_gradient(self.pool(maps, box, size, self.settings.box_pool))
        flat = rearrange(pooled, "b n ... -> (b n) ...")
        kept = None if valid is None else valid.reshape(-1)
        embedding, logits = self.cgd(flat, train, kept)
        count = box.shape[0]
        split = lambda x: rearrange(x, "(b n) d -> b n d", b=count)  # noqa: E731
        return split(embedding), None if logits is None else split(logits)


def torch_keys(model: GarmentEmbedder) -> Rules:
    """The detector's names and, beside them, those of fashion-recommendation's head file."""
    return (*detector_keys(model), *cgd.head_keys(HEAD))
