"""ResNet: where the strides sit, early stop, statistics, compute dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_sums_close

from fashionjax.models.backbones.resnet import BLOCKS, ResNet

IMAGE = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small(drawn):
    module = ResNet(depth=18, width=4, num_classes=3)
    return module, drawn(module, IMAGE)


def test_pyramid_levels_halve_from_a_quarter(small):
    module, variables = small
    pyramid = jax.eval_shape(module.apply, variables, IMAGE)
    assert [level.shape for level in pyramid] == [(2, 8, 8, 4), (2, 4, 4, 8), (2, 2, 2, 16), (2, 1, 1, 32)]


def test_logits_are_the_linear_layer_of_the_mean_of_the_top(small):
    module, variables = small
    run = jax.jit(lambda v, x: (module.apply(v, x), module.apply(v, x, method="logits")))
    pyramid, logits = run(variables, IMAGE)
    fc = variables["params"]["fc"]
    want = np.asarray(pyramid[-1]).mean(axis=(1, 2)) @ fc["kernel"] + fc["bias"]
    assert_sums_close(logits, want, terms=32)


def test_training_moves_the_statistics_and_evaluation_does_not(small):
    module, variables = small

    def run(train):
        return jax.jit(lambda v, x: module.apply(v, x, train, mutable=["batch_stats"])[1])

    trained, evaluated = (run(train)(variables, IMAGE)["batch_stats"] for train in (True, False))
    jax.tree.map(np.testing.assert_array_equal, evaluated, variables["batch_stats"])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trained, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_bfloat16_computes_close_to_float32(small):
    module, variables = small
    exact = jax.jit(module.apply)(variables, IMAGE)[-1]
    rough = jax.jit(module.clone(dtype=jnp.bfloat16).apply)(variables, IMAGE)[-1]
    assert rough.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
    np.testing.assert_allclose(rough.astype(np.float32), exact, atol=0.05 * float(exact.max()))


def test_fewer_stage_strides_stop_early_and_stride_one_keeps_the_map():
    module = ResNet(depth=50, width=4, stage_strides=(1, 2, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), IMAGE)
    pyramid = jax.eval_shape(module.apply, variables, IMAGE)
    assert [level.shape[1:] for level in pyramid] == [(8, 8, 16), (4, 4, 32), (4, 4, 64)]
    assert "layer4_0" not in variables["params"]


def test_stride_in_the_first_1x1_has_the_same_parameters_and_samples_before_the_3x3():
    def block(stride_in_1x1):
        module = ResNet(depth=50, width=2, stage_strides=(1, 2), stride_in_1x1=stride_in_1x1)
        return module, jax.eval_shape(module.init, jax.random.key(0), IMAGE)

    (late, late_shapes), (early, early_shapes) = block(False), block(True)
    assert late_shapes == early_shapes

    def conv2_input(module, shapes):
        _, state = jax.eval_shape(
            lambda v, x: module.apply(v, x, capture_intermediates=lambda m, _: m.name == "conv1"),
            shapes,
            IMAGE,
        )
        return state["intermediates"]["layer2_0"]["conv1"]["__call__"][0].shape

    assert conv2_input(late, late_shapes)[1] == 8
    assert conv2_input(early, early_shapes)[1] == 4


def test_block_counts_add_up_to_the_depth():
    for depth, blocks in BLOCKS.items():
        assert sum(blocks) * (3 if depth >= 50 else 2) + 2 == depth
