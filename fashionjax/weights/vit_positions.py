"""Position embeddings of a vision transformer that was trained at another resolution than a config's model.

The model has one embedding per cell of its grid and resizes them to the grid of an image when it is applied,
so a file's grid of any size is kept, unless the config names the grid that it wants: then the embeddings are
resized once, here, by the same function (bicubic with antialiasing, as timm's `resample_abs_pos_embed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.models import backbones
from fashionjax.models.backbones import vit

NAME = re.compile(r"(?:.*\.)?(?:pos_embed|Transformer/posembed_input/pos_embedding)")  # timm's, Google's
FIELD = "config.model.backbone_fields.grid"


def fit(config: ConfigDict, tensors: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], list[str]]:
    """→ (the tensors, their positions [1 1+n*n d] resized where the config wants another grid; remarks).

    Where `backbone_fields.grid` is not set it becomes the file's. A UserError for positions that are no class
    token and square grid. Other backbones are left alone.
    """
    if config.model.get("backbone") not in backbones.BACKBONES:
        return tensors, []  # an unknown backbone is reported when it is built
    model = backbones.build(config.model.backbone)
    found = {
        key: x for key, x in tensors.items() if NAME.fullmatch(key) and x.ndim == 3 and x.dtype.kind == "f"
    }
    if not isinstance(model, vit.ViT) or not found:
        return tensors, []
    fields = config.model.backbone_fields
    chosen = fields.get("grid")
    grids = {key: _side(key, x.shape[1]) for key, x in found.items()}
    side = next(iter(grids.values()))
    if chosen is None:
        if side == model.grid:
            return tensors, []
        with config.unlocked():
            fields.grid = side
        trained, size = side * model.patch, config.image_size
        rest = "" if size == trained else f"; the model resizes it for images of {size} pixels"
        grid = f"{side} x {side} grid of position embeddings"
        return tensors, [f"kept the file's {grid}, of {trained}-pixel images ({FIELD}={side}){rest}"]
    if set(grids.values()) == {chosen}:
        return tensors, []
    resized = {key: _resized(x, chosen) for key, x in found.items()}
    grids = f"from {side} x {side} to the {chosen} x {chosen} grid of {FIELD}"
    return {**tensors, **resized}, [f"resized position embeddings {grids} (bicubic)"]


def _resized(positions: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(vit.resize_positions(positions.astype(np.float32), side, side))


def _side(key: str, tokens: int) -> int:
    side = math.isqrt(max(tokens - 1, 0))
    if side < 1 or side * side != tokens - 1:
        raise UserError(
            f"{key} has {tokens} rows, which are not a class token and a square grid; models with further "
            "tokens (distilled ones) or without a class token are not supported"
        )
    return side
