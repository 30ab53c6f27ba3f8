"""FashionNet (Liu et al., CVPR 2016) as Jasonsey/FashionNet built it in Keras: landmarks, category,
attributes and an embedding from one VGG-16 trunk.

Source: src/FashionNet.ipynb of that repository. Layers carry its names. The trunk ends with `block4_conv3`.
*Blue* finds landmarks (with a first opinion on the category), *red* looks at the whole image, *green* at
small regions (RoIs) of the trunk's map around blue's landmarks; red and green are concatenated.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.models import backbones, layers
from fashionjax.models.torch_keys import SAME, KeyRule, Rules, prefixed
from fashionjax.ops.cpu import norm
from fashionjax.ops.landmark_pool import interpolation_matrix

BLUE, RED_GREEN, WHOLE = PARTS = ("blue", "red_green", "whole")
STATES = 3  # of a landmark: visible, occluded, truncated; the first STATES outputs of a landmark
POINT = STATES + 2  # outputs of `blue_lands` for a landmark: states, x, y
CELLS, BINS = 4, 2  # side of a RoI in cells of the map, and of what is pooled from it
EPSILON, MOMENTUM = 1e-3, 0.99  # of Keras's batch normalisation

HE_NORMAL = nn.initializers.he_normal()


class RoISettings(NamedTuple):
    """How the green branch pools. The defaults pool what was meant: the maximum of each quarter of a square
    around the landmark, on the image's own map. Each field set repeats one step of the original."""

    first_image: bool = False  # every image is pooled on the map of the first image of the batch
    raw_logits: bool = False  # coordinates are the outputs before the sigmoid that the loss trains
    corner: bool = False  # the landmark is the square's upper left corner
    two_points: bool = False  # the square's four corners are read, 0 outside the map; nothing is pooled


class BatchNorm(nn.Module):
    """Keras's batch normalisation of [b c] float32: eps 1e-3, new = 0.99 old + 0.01 batch, the running
    variance from the batch's times n / (n - 1.001) (Keras 2.2.4). `axis_name`: statistics of all devices."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, running: bool):
        c = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (c,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        if running or self.is_initializing():
            return (x - mean.value) * (jax.lax.rsqrt(var.value + EPSILON) * scale) + bias
        y, centre, spread = norm.batch_norm(x, scale, bias, EPSILON, self.axis_name)
        count = x.shape[0] * (1 if self.axis_name is None else jax.lax.axis_size(self.axis_name))
        spread = spread * (count / (count - 1 - EPSILON) if count > 1 else 1.0)
        mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * centre
        var.value = MOMENTUM * var.value + (1 - MOMENTUM) * spread
        return y


class FashionNet(nn.Module):
    """image [b h w 3] normalised float -> dict of float32 arrays.

    blue_category_logits [b c], landmark_logits [b k 5] (three states, x, y: the coordinates before their
    sigmoid), landmark [b k 2] in [0, 1], state_logits [b k 3]; roi [b k 4] xyxy in image sides, what green
    pools; category_logits [b c], attribute_logits [b a], embedding [b red + green] (`concate_activation`,
    not normalised).

    part          'blue' computes blue alone, 'red_green' leaves out blue's second layer of categories and
                  needs blue for its landmarks; training and initialising always compute the whole
    backbone      a VGG of four stages
    fc, green     widths of the fully connected layers: of blue and red, and of green
    blue_running  blue's batch normalisations use running statistics in training too (a frozen blue)
    """

    backbone: nn.Module
    categories: int
    attributes: int
    landmarks: int = 8
    fc: int = 4096
    green: int = 1024
    roi: RoISettings = RoISettings()
    part: str = WHOLE
    blue_running: bool = False
    bn_axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image, train: bool = False) -> dict:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {PARTS}, not {self.part!r}")
        part = WHOLE if train or self.is_initializing() else self.part
        trunk = self.backbone.conv_maps(image, train)[-1]
        outputs = self._blue(trunk, train)
        if part == BLUE:
            return outputs
        outputs |= self._red_green(trunk, outputs["landmark_logits"][..., STATES:], train)
        if part == RED_GREEN:
            kept = ("category_logits", "attribute_logits", "embedding", "roi")
            return {name: outputs[name] for name in kept}
        return outputs

    def _blue(self, trunk, train: bool) -> dict:
        x = layers.flatten_map(self._convolutions(trunk, "blue"))
        for i in (1, 2):
            x = self._linear(self.fc, f"blue_fc{i}", x)
            x = nn.relu(self._norm(f"blue_normal{i}", x, self.blue_running or not train))
        lands = self._linear(POINT * self.landmarks, "blue_lands", x)
        lands = rearrange(lands, "b (k p) -> b k p", p=POINT)
        return {
            "blue_category_logits": self._linear(self.categories, "blue_cates", x),
            "landmark_logits": lands,
            "landmark": nn.sigmoid(lands[..., STATES:]),
            "state_logits": lands[..., :STATES],
        }

    def _red_green(self, trunk, xy_logits, train: bool) -> dict:
        red = self._linear(self.fc, "red_fc1", layers.flatten_map(self._convolutions(trunk, "red")))
        xy = xy_logits if self.roi.raw_logits else nn.sigmoid(xy_logits)
        pooled = rearrange(pool_rois(trunk, xy, self.roi), "b k i j c -> b (k i j c)")
        green = self._linear(self.green, "green_fc1", pooled)
        x = self._norm("concate_normal", jnp.concatenate([red, green], axis=-1), not train)
        x = nn.relu(x)
        return {
            "roi": rois(xy, trunk.shape[1:3], self.roi),
            "embedding": x,
            "category_logits": self._linear(self.categories, "concate_category", x),
            "attribute_logits": self._linear(self.attributes, "attribute", x),
        }

    def _convolutions(self, x, branch: str):
        x = layers.max_pool(x, 2, 2)
        for i in (1, 2, 3):
            conv = layers.Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name=f"{branch}_conv{i}")
            x = nn.relu(conv(x))
        return layers.max_pool(x, 2, 2)

    def _linear(self, width: int, name: str, x):
        return layers.linear(width, name, dtype=self.dtype, kernel_init=HE_NORMAL)(x).astype(jnp.float32)

    def _norm(self, name: str, x, running: bool):
        return BatchNorm(self.bn_axis_name, name=name)(x, running)


# ------------------------------------------------------------------------------ landmark pooling
def rois(xy, hw: tuple[int, int], settings: RoISettings = RoISettings()):  # noqa: B008
    """xy [b k 2] in image sides, hw of the map -> squares of `CELLS` cells [b k 4] xyxy in image sides."""
    side = CELLS / jnp.asarray(hw[::-1], jnp.float32)
    start = xy if settings.corner else xy - side / 2
    return jnp.concatenate([start, start + side], axis=-1)


def pool_rois(feature, xy, settings: RoISettings = RoISettings()):  # noqa: B008
    """feature [b h w c], xy [b k 2] in image sides -> [b k BINS BINS c], dtype of `feature`.

    A RoI of `CELLS` x `CELLS` cells is cut into `BINS` x `BINS` bins; each takes the maximum of bilinear
    samples a cell apart, held at the map's border. With `two_points` as TensorFlow's crop_and_resize to
    2 x 2: the corners of the square, coordinates from 0 to 1 spanning the centres of the outer cells, 0
    outside. Differentiable in both arguments.
    """
    h, w = feature.shape[1:3]
    square = rois(xy, (h, w), settings)
    along_x, along_y = (
        _weights(square[..., axis], square[..., axis + 2], size, settings.two_points)
        for axis, size in ((0, w), (1, h))
    )
    wide = feature.astype(jnp.float32)
    if settings.first_image:
        wide = jnp.broadcast_to(wide[:1], wide.shape)
    rows = jnp.einsum("bkyh,bhwc->bkywc", along_y, wide, precision="highest")
    sample = jnp.einsum("bkxw,bkywc->bkyxc", along_x, rows, precision="highest")
    binned = rearrange(sample, "b k (i y) (j x) c -> b k i j (y x) c", i=BINS, j=BINS)
    return jnp.max(binned, axis=-2).astype(feature.dtype)


def _weights(start, stop, size: int, two_points: bool):
    """start, stop [b k] in image sides -> interpolation matrices [b k samples size]."""
    if two_points:
        position = jnp.stack([start, stop], axis=-1) * (size - 1)
        inside = (position >= 0) & (position <= size - 1)
        return interpolation_matrix(position, size) * inside[..., None]
    share = (np.arange(CELLS, dtype=np.float32) + 0.5) / CELLS
    position = (start[..., None] + (stop - start)[..., None] * share) * size - 0.5
    held = jnp.clip(position, 0, size - 1)
    return interpolation_matrix(jnp.where(position == held, position, jax.lax.stop_gradient(held)), size)


# ------------------------------------------------------------------------------ files of Keras
CONVOLUTIONS = "blue_conv[123]|red_conv[123]"
WEIGHTED = f"{CONVOLUTIONS}|blue_fc[12]|blue_cates|blue_lands|red_fc1|green_fc1|concate_category|attribute"
NORMS = "blue_normal[12]|concate_normal"
KERAS_KEYS = (  # of everything but the backbone; Keras's layouts are flax's
    KeyRule(rf"({WEIGHTED})/kernel", r"params/\1/kernel", SAME),
    KeyRule(rf"({WEIGHTED})/bias", r"params/\1/bias", SAME),
    KeyRule(rf"({NORMS})/gamma", r"params/\1/scale", SAME),
    KeyRule(rf"({NORMS})/beta", r"params/\1/bias", SAME),
    KeyRule(rf"({NORMS})/moving_mean", r"batch_stats/\1/mean", SAME),
    KeyRule(rf"({NORMS})/moving_variance", r"batch_stats/\1/var", SAME),
)
FILE_PARTS = {  # the weight whose last side is the number of outputs
    "landmark head": "blue_lands/kernel",
    "blue category head": "blue_cates/kernel",
    "category head": "concate_category/kernel",
    "attribute head": "attribute/kernel",
}
# what the branches start from in VGG-16's file: its fifth stage, in torchvision's names and in Keras's
FIFTH_STAGE = {
    f"{branch}_conv{i}": (f"features.{number}", f"block5_conv{i}")
    for branch in ("blue", "red")
    for i, number in ((1, 24), (2, 26), (3, 28))
}


def keras_keys(model: FashionNet) -> Rules:
    """`KERAS_KEYS` and those of the trunk, which Keras names without a prefix."""
    return prefixed(backbones.keras_keys(model.backbone), "", "backbone") + KERAS_KEYS


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> FashionNet:
    """{Keras name: shape} of a FashionNet → its module; KeyError where a part is missing."""
    return FashionNet(
        backbone,
        categories=shapes[FILE_PARTS["category head"]][1],
        attributes=shapes[FILE_PARTS["attribute head"]][1],
        landmarks=shapes[FILE_PARTS["landmark head"]][1] // POINT,
        fc=shapes["red_fc1/kernel"][1],
        green=shapes["green_fc1/kernel"][1],
    )
