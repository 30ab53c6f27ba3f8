"""A program holds the forms of the platform it is lowered for, wherever it is traced."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned
from jax import lax

from fashionjax.models import backbones, layers

OPERATIONS = ("convolution", "dot_general", "select_and_scatter", "optimization_barrier")


def counted(traced, platform: str) -> dict[str, int]:
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return {name: len(re.findall(rf"stablehlo\.{name}\b", text)) for name in OPERATIONS}


def scalar(model, params, statistics, image):
    output, _ = model.apply(
        {"params": params, "batch_stats": statistics}, image, train=True, mutable=["batch_stats"]
    )
    return sum(jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(output))


@pytest.fixture(scope="module")
def resnet():
    """(model, shapes of its variables and image): a ResNet-50, 53 convolutions, of width 8."""
    model, image = backbones.build("resnet50", width=8), jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return model, shapes["params"], shapes["batch_stats"], image


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_predict_with_convolutions(resnet, platform):
    model, params, statistics, image = resnet
    traced = jax.jit(lambda p, s, x: model.apply({"params": p, "batch_stats": s}, x)).trace(
        params, statistics, image
    )
    assert counted(traced, platform)["convolution"] == 53 and not counted(traced, platform)["dot_general"]
    assert (counted(traced, "cpu")["convolution"], counted(traced, "cpu")["dot_general"]) == (17, 36)


def test_accelerators_train_with_convolutions(resnet):
    """Forward, input and kernel gradient of each; the image needs no gradient."""
    model, *shapes = resnet
    traced = jax.jit(jax.grad(lambda *x: scalar(model, *x))).trace(*shapes)
    cuda, cpu = counted(traced, "cuda"), counted(traced, "cpu")
    assert cuda["convolution"] == 3 * 53 - 1 and cuda["select_and_scatter"] == 1
    assert not cuda["dot_general"] and not cuda["optimization_barrier"]
    assert cpu["convolution"] < 53 and cpu["dot_general"] >= 36 and cpu["optimization_barrier"]
    assert not cpu["select_and_scatter"]


def small(params, x):
    """Every layer that has two forms: 3x3, strided, tiled and 1x1 convolutions, batch norm, max pooling."""
    for number, (kernel, stride, padding) in enumerate([(3, 1, 1), (1, 2, 0), (2, 2, 0)]):
        layer = layers.Conv(8, kernel, stride, padding)
        x = layer.apply({"params": params[number]}, x)
    norm = layers.batch_norm(train=True, frozen=False, axis_name=None, dtype=jnp.float32)(name="bn")
    x, _ = norm.apply({"params": params[3], "batch_stats": params[4]}, x, mutable=["batch_stats"])
    return jnp.sum(jnp.sin(layers.max_pool(x, 2, 1)))


@pytest.mark.slow
def test_both_forms_have_the_same_gradient(monkeypatch):
    """Sums of at most 2 * 32 * 32 products, in another order."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    params = [
        {"kernel": rng.normal(size=shape).astype(np.float32) / 4}
        for shape in ((3, 3, 3, 8), (1, 1, 8, 8), (2, 2, 8, 8))
    ]
    params += [{"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}]
    params += [{"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}]
    gradient = jax.jit(lambda *arguments: jax.grad(small)(*arguments)[:4])
    on_cpu = gradient(params, x)
    jax.clear_caches()
    with monkeypatch.context() as patch:
        patch.setattr(lax, "platform_dependent", lambda *args, default, **_: default(*args))
        elsewhere = jax.jit(lambda params, x: jax.grad(small)(params, x)[:4])(params, x)
    assert_conditioned(on_cpu, elsewhere, gradient, params, x, terms=2 * 32 * 32)
