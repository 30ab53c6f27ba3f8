"""Variables with every value away from its default, drawn by numpy: no compilation, and a bias or scale left
out shows.
"""

import zlib

import flax
import jax
import numpy as np
import pytest


def draw(path: str, shape, dtype) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    if path.endswith(("/scale", "/var")):
        return rng.uniform(0.5, 1.5, shape).astype(dtype)
    deviation = np.sqrt(2 / np.prod(shape[:-1])) if path.endswith("/kernel") else 0.1
    return rng.normal(0, deviation, shape).astype(dtype)


@pytest.fixture(scope="session")
def drawn():
    """drawn(module, *arguments) -> variables of the module, numpy."""

    def variables(module, *arguments):
        template = jax.eval_shape(module.init, jax.random.key(0), *arguments)
        flat = flax.traverse_util.flatten_dict(template, sep="/")
        filled = {path: draw(path, leaf.shape, leaf.dtype) for path, leaf in flat.items()}
        return flax.traverse_util.unflatten_dict(filled, sep="/")

    return variables
