"""Synthetic weights and inputs of the parity folders: every array is a function of its key, shape and the
folder's salt.

Each array has a generator of its own, PCG64 seeded with crc32(salt + key), and one float32 draw from it,
scaled in float32. The scale of a weight follows from its key and rank (`recipe`), so that activations stay of
order one through deep networks; that of an input is written in the manifest. Arrays are in PyTorch's layout.
"""

import math
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Recipe(NamedTuple):
    """'normal': mean a, deviation b; 'uniform': from a to b; 'zero': integer zeros."""

    distribution: str
    a: float = 0.0
    b: float = 0.0


# Kernels have deviation gain * sqrt(2 / fan_in); the first pattern found in the key gives the gain, else 1.
GAINS = (
    (r"(^|\.)linear_(attr|cate)\.weight$", 0.5),
    (r"(^|\.)visibility_classifier\.linear\.weight$", 0.5),
    (r"(^|\.)metric_branch\.weight$", 0.1),
    (r"bottom_up\.stem\.conv1\.weight$", 1 / 64),
    (r"bottom_up\.res4\.([6-9]|\d\d)\.conv3\.weight$", 0.3),
    (r"\.fpn_lateral\d\.weight$", 0.7),
    (r"\.fpn_output\d\.weight$", 0.7),
    (r"\.objectness_logits\.weight$", 0.5),
    (r"\.anchor_deltas\.weight$", 0.1),
    (r"\.(cls_score|bbox_pred)\.weight$", 0.4),
    (r"(^|\.)features\.\d+\.weight$", 0.9),
)


def generator(key: str, salt: str = "") -> np.random.Generator:
    """The random stream of one array."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}{key}".encode())))


def recipe(key: str, shape: tuple[int, ...]) -> Recipe:
    """How the state-dict entry `key` is drawn."""
    rank = len(shape)
    if key.endswith("num_batches_tracked"):
        return Recipe("zero")
    if key.endswith("running_mean"):
        return Recipe("normal", 0, 0.1)
    if key.endswith("running_var"):
        return Recipe("uniform", 0.5, 1.5)
    if rank == 1 and key.endswith(("weight", "/scale")):
        return Recipe("uniform", 0.4, 0.9)
    if key.endswith("bias"):
        return Recipe("normal", 0, 0.05)
    if rank == 2 and key.endswith("masks.weight"):
        return Recipe("normal", 0.9, 0.7)
    if rank == 2 and key.endswith("attr_embedding.weight"):
        return Recipe("normal", 0, 0.02)
    if rank >= 2 and key.endswith("weight"):
        gain = next((gain for pattern, gain in GAINS if re.search(pattern, key)), 1.0)
        return Recipe("normal", 0, gain * math.sqrt(2 / math.prod(shape[1:])))
    return Recipe("normal", 0, 0.02)


def weight(key: str, shape, salt: str = "") -> np.ndarray:
    """One state-dict entry: float32, or int64 zeros for a counter."""
    shape = tuple(shape)
    how = recipe(key, shape)
    if how.distribution == "zero":
        return np.zeros(shape, np.int64)
    draw = _normal if how.distribution == "normal" else _uniform
    return draw(generator(key, salt), shape, how.a, how.b)


def state_dict(manifest: dict) -> dict[str, np.ndarray]:
    """Every entry of a manifest's state dict, in file order."""
    salt = manifest.get("salt") or ""
    return {key: weight(key, shape, salt) for key, shape, _ in manifest["state_dict"]}


def npz_arrays(manifest: dict) -> dict[str, np.ndarray]:
    """The arrays of the Google checkpoint that a manifest's model was initialised from, by name."""
    salt = manifest.get("salt") or ""
    return {key: weight(key, shape, salt) for key, shape, _ in manifest["npz_entries"]}


def inputs(manifest: dict) -> dict[str, np.ndarray]:
    """Every input of a manifest by name."""
    salt = manifest.get("salt") or ""
    return {spec["name"]: model_input(spec, salt) for spec in manifest["inputs"]}


def model_input(spec: dict, salt: str = "") -> np.ndarray:
    """One input from its manifest entry: its key, shape, dtype and the name of its recipe in `INPUTS`."""
    draw = INPUTS.get(spec["draw"])
    if draw is None:
        raise ValueError(f"input {spec['name']}: unknown recipe {spec['draw']!r}, known: {', '.join(INPUTS)}")
    array = draw(generator(spec.get("key", ""), salt), tuple(spec["shape"]), spec)
    return np.ascontiguousarray(array).astype(spec.get("dtype", "float32"), copy=False)


def _normal(rng, shape, mean, deviation):
    # In place and in float32 throughout: the largest kernels take 1.6 GB.
    array = np.asarray(rng.standard_normal(shape, np.float32))
    array *= np.float32(deviation)
    if mean:
        array += np.float32(mean)
    return array


def _uniform(rng, shape, low, high):
    array = np.asarray(rng.random(shape, np.float32))
    array *= np.float32(high - low)
    array += np.float32(low)
    return array


def _cells_and_noise(rng, shape):
    """Normal values constant over cells of 32 x 32 pixels, then normal noise of deviation 1/2, both of
    `shape`.
    """
    *lead, h, w = shape
    cells = _normal(rng, (*lead, math.ceil(h / 32), math.ceil(w / 32)), 0, 1)
    cells = cells.repeat(32, axis=-2).repeat(32, axis=-1)[..., :h, :w]
    return cells, _normal(rng, shape, 0, 0.5)


def _image(rng, shape, spec):
    cells, noise = _cells_and_noise(rng, shape)
    return cells + noise


def _pixels(rng, shape, spec):
    cells, noise = _cells_and_noise(rng, shape)
    value = np.float32(128) + np.float32(70) * cells + np.float32(40) * noise
    return np.floor(np.clip(value, 0, 255))


def _integers(rng, shape, spec):
    value = np.floor(_uniform(rng, shape, spec["low"], spec["high"]))
    return np.minimum(value, spec["high"] - 1)


def _landmarks(rng, shape, spec):
    value = _uniform(rng, shape, spec["low"], spec["high"])
    for image, point in spec.get("zero", ()):
        value[image, 2 * point : 2 * point + 2] = 0
    return value


def _boxes(rng, shape, spec):
    fixed = np.asarray(spec.get("append", ()), np.float32).reshape(-1, 4)
    side = np.array([spec["width"], spec["height"]], np.float32)
    corner = np.asarray(rng.random((shape[0] - len(fixed), 2, 2), np.float32)) * side
    near, far = corner.min(axis=1), corner.max(axis=1)
    far = np.minimum(np.maximum(far, near + np.float32(4)), side)
    return np.concatenate([np.concatenate([near, far], axis=1), fixed])


INPUTS: dict[str, Callable] = {
    "literal": lambda rng, shape, spec: np.asarray(spec["values"]).reshape(shape),
    "normal": lambda rng, shape, spec: _normal(rng, shape, spec.get("mean", 0), spec.get("std", 1)),
    "uniform": lambda rng, shape, spec: _uniform(rng, shape, spec["low"], spec["high"]),
    "bernoulli": lambda rng, shape, spec: rng.random(shape, np.float32) < np.float32(spec["p"]),
    "integers": _integers,
    "image": _image,
    "pixels": _pixels,
    "landmarks": _landmarks,
    "boxes": _boxes,
}
