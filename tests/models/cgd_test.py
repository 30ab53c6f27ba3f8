"""Combined global descriptors: their pooling, shapes, gradients, and which files hold them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned, assert_rounded

from fashionjax.models import cgd
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.weights import recognise
from fashionjax.weights.key_maps import fill, torch_shapes, unfill


def test_descriptors_by_hand():
    feature = jnp.asarray([[[[1.0, 0.0], [2.0, 0.0]], [[3.0, 0.0], [2.0, -4.0]]]])
    spoc, mac, gem = (cgd.power_mean(feature, p)[0] for p in cgd.exponents_of("SMG"))
    np.testing.assert_array_equal(spoc, [2.0, -1.0])
    np.testing.assert_array_equal(mac, [3.0, 0.0])
    # a mean of four cubes, exact, and a power: exp and log of it
    assert_rounded(gem, [11.0 ** (1 / 3), -(16.0 ** (1 / 3))], operations=2 * 8 + 2)
    floored = cgd.power_mean(feature, 2.0, 1e-6)[0]  # negative values are raised to the floor
    assert_rounded(floored[:1], [(18 / 4) ** 0.5], operations=4 + 2 * 8 + 2)
    assert_rounded(floored[1:], [1e-6], operations=4 + 2 * 8 + 2)


def test_the_gradient_of_a_silent_channel_is_zero():
    gradient = jax.grad(lambda x: cgd.power_mean(x, 3.0).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.zeros((1, 2, 2, 1)))


@pytest.mark.parametrize("letters", ["", "X", "SS", "S M"])
def test_unknown_descriptors(letters):
    with pytest.raises(ValueError, match="descriptors"):
        cgd.exponents_of(letters)


def test_rows_that_are_not_valid_leave_the_statistics_alone():
    """Padding enters neither the batch statistics nor the logits of others."""
    head = cgd.CGDHead(classes=3, width=4)
    feature = jax.random.normal(jax.random.key(1), (6, 2, 2, 5))
    variables = head.init(jax.random.key(0), feature)

    @jax.jit
    def run(variables, x, valid):
        (_, logits), kept = head.apply(variables, x, True, valid, mutable=["batch_stats"])
        return logits[:4], kept

    alone = lambda *arguments: run(*arguments, jnp.ones(4, bool))  # noqa: E731
    got, arguments = run(variables, feature, jnp.arange(6) < 4), (variables, feature[:4])
    assert_conditioned(got, alone(*arguments), alone, *arguments, terms=5)


def tiny(descriptors="SG", ids=5) -> cgd.CGD:
    backbone = ResNet(depth=18, width=4, stage_strides=cgd.STAGE_STRIDES)
    return cgd.CGD(backbone, descriptors, embedding=12, ids=ids)


def template(model):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    return {name: variables[name] for name in ("params", "batch_stats")}


@pytest.mark.parametrize("descriptors", ["S", "SG", "SMG"])
def test_a_file_is_recognised_and_written_back(descriptors):
    model = tiny(descriptors)
    shapes = torch_shapes(template(model), cgd.torch_keys(model))
    assert shapes["features.0.weight"] == (4, 3, 7, 7) and "features.7.1.bn2.running_var" in shapes
    found, rules = recognise.model_of(shapes)
    assert found == model.copy(name=None) and found.backbone.stage_strides == (1, 2, 1, 2)
    assert recognise.task_of(recognise.canonical(shapes)) == "retrieval"
    found = recognise.describe(shapes)
    assert found.backbone == "resnet18" and found.pooling == "descriptor"
    rng = np.random.default_rng(0)
    tensors = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    filled, _ = fill(template(model), tensors, rules)
    written = unfill(filled, rules)
    assert written.keys() == tensors.keys()
    assert all(np.array_equal(written[key], tensors[key]) for key in tensors)


def test_the_head_of_the_recommendation_system_is_distinguished_from_the_image_model():
    model = cgd.CGDHead(classes=7, width=4)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 7, 7, 6))))
    shapes = torch_shapes({n: variables[n] for n in ("params", "batch_stats")}, cgd.HEAD_KEYS)
    assert sorted(key for key in shapes if key.startswith("main")) == [
        f"main_modules.{i}.0.weight" for i in range(3)
    ]
    assert shapes["auxiliary_module.1.weight"] == (7, 6) and len(shapes) == 9
    assert recognise.model_of(shapes) == (model, cgd.HEAD_KEYS)
