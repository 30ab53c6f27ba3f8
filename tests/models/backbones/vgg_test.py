"""VGG: torchvision's layer numbers, and normalisation that does nothing changes nothing."""

import jax
import numpy as np
from close import relative_rounding

from fashionjax.models.backbones import vgg
from fashionjax.models.backbones.vgg import VGG

IMAGE = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def flat(stages):
    return [i for stage in stages for i in stage]


def test_convolutions_have_torchvisions_numbers():
    assert flat(vgg.conv_indices(11, False)) == [0, 3, 6, 8, 11, 13, 16, 18]
    assert flat(vgg.conv_indices(11, True)) == [0, 4, 8, 11, 15, 18, 22, 25]
    assert flat(vgg.conv_indices(16, False)) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert flat(vgg.conv_indices(16, True)) == [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]


def test_an_identity_normalisation_changes_nothing(drawn):
    plain, normed = VGG(depth=11, width=2), VGG(depth=11, width=2, batch_norm=True)
    variables = drawn(plain, IMAGE)
    template = jax.eval_shape(normed.init, jax.random.key(0), IMAGE)
    params = {}
    for before, after in zip(
        flat(vgg.conv_indices(11, False)), flat(vgg.conv_indices(11, True)), strict=True
    ):
        params[f"features_{after}"] = variables["params"][f"features_{before}"]
        width = params[f"features_{after}"]["bias"].shape
        # running variance 1: the scale undoes eps
        params[f"features_{after + 1}"] = {
            "scale": np.full(width, np.sqrt(1 + 1e-5), np.float32),
            "bias": np.zeros(width, np.float32),
        }
    stats = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template["batch_stats"])
    stats = {name: {"mean": leaf["mean"], "var": leaf["var"] + 1} for name, leaf in stats.items()}
    want = jax.jit(plain.apply)(variables, IMAGE)
    got = jax.jit(normed.apply)({"params": params, "batch_stats": stats}, IMAGE)
    assert [level.shape[1] for level in got] == [16, 8, 4, 2, 1]
    for a, b in zip(got, want, strict=True):
        # kernels of 3 x 3 over at most 16 channels, eight of them
        assert np.linalg.norm(a - b) <= relative_rounding(9 * 16, layers=8) * np.linalg.norm(b)
