"""Backbones by name: the two tables agree and the published parameter counts hold."""

import jax
import jax.numpy as jnp
import pytest

from fashionjax.models import backbones


def test_every_backbone_has_a_published_count():
    assert backbones.BACKBONES.keys() == backbones.PARAMETER_COUNTS.keys()


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_parameter_count_is_the_published_one(name):
    module = backbones.build(name, num_classes=1000)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == backbones.PARAMETER_COUNTS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_backbone_returns_a_pyramid_and_float32_logits(name):
    module = backbones.build(name, num_classes=10, dtype=jnp.bfloat16)
    image = jnp.zeros((2, 224, 224, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    pyramid = jax.eval_shape(module.apply, variables, image)
    assert isinstance(pyramid, tuple) and all(level.shape[0] == 2 for level in pyramid)
    sides = [level.shape[1] for level in pyramid]
    assert sides == sorted(sides, reverse=True)
    assert len(pyramid) == (5 if name.startswith("vgg") else 4)
    logits = jax.eval_shape(lambda v, x: module.apply(v, x, method="logits"), variables, image)
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet19.*resnet18"):
        backbones.build("resnet19")
