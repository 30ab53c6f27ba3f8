"""Tiny untrained compatibility models and photos for the tests of outfits; labels set by hand, no dataset."""

import itertools
from pathlib import Path

import numpy as np
from checkpoints import save_drawn
from PIL import Image

from experiments import compatibility

TYPES = [
    *("accessories", "all-body", "bags", "bottoms", "hats", "jewellery"),
    *("outerwear", "scarves", "shoes", "sunglasses", "tops"),
]
PAIRS = [list(pair) for pair in itertools.combinations_with_replacement(TYPES, 2)]
KINDS = {
    "mask": "projection=mask",
    "fc": "projection=fc",
    "set": "recipe=set",
    "headless": "projection=mask,types=false",
}


def save_model(workdir: Path, kind: str, seed: int = 0, **fields) -> Path:
    """A checkpoint with random weights (drawn by numpy, which need not be compiled), 32 px, width 4."""
    config = compatibility.get_config(f"text=words,tiny=true,{KINDS[kind]}")
    config.image_size = config.canvas_size = 32
    config.model.backbone_fields.width = 4
    config.labels = {"category": TYPES, "type_space": PAIRS}
    config.update(fields)
    return save_drawn(workdir, config, seed)


def photo(path: Path, seed: int) -> str:
    """An image of random soft blobs, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    blobs.resize((60, 80), Image.Resampling.BICUBIC).save(path)
    return str(path)
