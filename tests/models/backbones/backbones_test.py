"""Backbones by name: the two tables agree and the published parameter counts hold."""

import jax
import jax.numpy as jnp
import pytest

from fashionjax.models import backbones


def test_every_backbone_has_a_published_count():
    assert backbones.BACKBONES.keys() == backbones.PARAMETER_COUNTS.keys()


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_parameter_count_and_pyramid(name):
    module = backbones.build(name, num_classes=1000, dtype=jnp.bfloat16)
    image = jnp.zeros((2, 224, 224, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == backbones.PARAMETER_COUNTS[name]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))

    pyramid = jax.eval_shape(module.apply, variables, image)
    sides = {"vgg": [112, 56, 28, 14, 7], "res": [56, 28, 14, 7], "vit": [14, 14, 14, 14]}[name[:3]]
    assert [level.shape[:3] for level in pyramid] == [(2, side, side) for side in sides]
    assert all(level.dtype == jnp.bfloat16 for level in pyramid)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet19.*resnet18"):
        backbones.build("resnet19")


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "vit_s16"])
def test_logits_are_float32_whatever_the_compute_dtype(name):
    module = backbones.build(name, num_classes=10, dtype=jnp.bfloat16)
    image = jnp.zeros((2, 224, 224, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    logits = jax.eval_shape(lambda v, x: module.apply(v, x, method="logits"), variables, image)
    assert logits.shape == (2, 10) and logits.dtype == jnp.float32
    with pytest.raises(ValueError, match="without num_classes"):
        module.clone(num_classes=None).apply({}, image, method="logits")
