"""Feature pyramid network (Lin et al., arXiv:1612.03144) on the four maps of a backbone."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fashionjax.models import layers

# Caffe2's "Xavier": U(-sqrt(3 / fan_in), sqrt(3 / fan_in)), what detectron2 draws here and for linear layers
CAFFE2_XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
FIRST = 2  # the finest level is called p2


class FPN(nn.Module):
    """Maps c2..c5, strides 4..32 -> (p2, p3, p4, p5, p6), strides 4..64, all [b h w channels].

    1x1 lateral convolutions, nearest-neighbour upsampling by 2 and sums from coarse to fine, 3x3 output
    convolutions; p6 is every second cell of p5. Each map's sides must be twice those of the next. `norm`
    'group' normalises behind every convolution, None does not, as published. `cells` [b 2]: see `ResNet`;
    they count pixels of the image, a multiple of 32.
    """

    channels: int = 256
    norm: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps, cells=None) -> tuple:
        conv = partial(layers.Conv, dtype=self.dtype, use_bias=True, kernel_init=CAFFE2_XAVIER)
        outputs, above = [], None
        for level in range(FIRST + len(maps) - 1, FIRST - 1, -1):
            own = None if cells is None else cells // 2**level
            x = conv(self.channels, 1, name=f"lateral{level}")(maps[level - FIRST])
            x = self._normalised(f"lateral{level}_norm", x, own)
            if above is not None:
                x = x + above.repeat(2, axis=1).repeat(2, axis=2)
            above = x
            y = conv(self.channels, 3, name=f"output{level}")(layers.cut_to_image(x, own))
            outputs.insert(0, layers.cut_to_image(self._normalised(f"output{level}_norm", y, own), own))
        return (*outputs, outputs[-1][:, ::2, ::2])

    def _normalised(self, name: str, x, cells):
        if self.norm is None:
            return x
        if self.norm != "group":
            raise ValueError(f"norm must be None or 'group', not {self.norm!r}")
        per_group = max(self.channels // 32, 1)
        return layers.normalise(
            layers.group_norm(dtype=self.dtype, channels_per_group=per_group), name, x, cells
        )
