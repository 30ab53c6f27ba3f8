"""Schedules and parameter groups by hand-written values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from close import assert_rounded
from ml_collections import ConfigDict

from experiments import common, compatibility, retrieval
from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.runtime import optim

ONES = jnp.ones((2, 2))
PARAMS = {"backbone": {"conv": {"kernel": ONES, "bias": jnp.ones(2)}}, "head": {"kernel": ONES}}
GRADS = PARAMS  # ten ones


def config(**changes) -> ConfigDict:
    fields = common.base().optim
    fields.update(changes)
    return fields


def update(fields, steps=1):
    tx = optim.make_optimizer(fields, PARAMS, lambda step: fields.lr)
    state, params = tx.init(PARAMS), PARAMS
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_upstream_step_schedule_with_warm_up():
    """mmcv 0.5.1: t=0 → 0.1·lr, t=250 → 0.55·lr, t=500 → lr, epoch 10 → 0.1·lr, epoch 20 → 0.01·lr."""
    fields = config(lr=1e-3, schedule="step", boundaries=(10, 20), warmup_steps=500, warmup_ratio=0.1)
    rate = optim.make_schedule(fields, 30 * 100, 100)
    expected = {0: 1e-4, 250: 5.5e-4, 500: 1e-3, 999: 1e-3, 1000: 1e-4, 1999: 1e-4, 2000: 1e-5}
    for step, value in expected.items():
        assert_rounded(rate(step), value, 8)


def test_cosine_ends_at_zero():
    rate = optim.make_schedule(config(lr=0.2, schedule="cosine"), 100, 10)
    assert_rounded([rate(0), rate(50), rate(100)], [0.2, 0.1, 0.0], 16)


def test_momentum_is_torchs():
    """v ← μv + g, p ← p − lr·v: 1 − 0.1·1 = 0.9, then 0.9 − 0.1·1.9 = 0.71."""
    params = update(config(lr=0.1, momentum=0.9), steps=2)
    assert_rounded(params["head"]["kernel"], np.full((2, 2), 0.71), 8, scale=1)


def test_decay_spares_vectors():
    params = update(config(lr=0.1, momentum=0.0, weight_decay=0.5))
    assert_rounded(params["head"]["kernel"], np.full((2, 2), 1 - 0.1 * 1.5), 8, scale=1)
    assert_rounded(params["backbone"]["conv"]["bias"], np.full(2, 0.9), 8, scale=1)


def test_groups_and_frozen():
    params = update(config(lr=0.1, momentum=0.0, groups=(("backbone", 0.1),)))
    assert_rounded(params["backbone"]["conv"]["kernel"], np.full((2, 2), 0.99), 8, scale=1)
    assert_rounded(params["head"]["kernel"], np.full((2, 2), 0.9), 8, scale=1)
    params = update(config(lr=0.1, momentum=0.0, frozen=("backbone/conv",), weight_decay=0.5))
    np.testing.assert_array_equal(params["backbone"]["conv"]["kernel"], 1.0)


def test_clipping_by_the_global_norm():
    """Ten ones have norm √10; clipped to 1 each is 1/√10."""
    params = update(config(lr=1.0, momentum=0.0, clip_norm=1.0))
    assert_rounded(params["head"]["kernel"], np.full((2, 2), 1 - 10**-0.5), 10 + 8 + 8, scale=1)


def test_pattern_without_a_parameter_is_reported():
    with pytest.raises(UserError, match=r"optim\.frozen: 'bacbone' matches no parameter"):
        update(config(frozen=("bacbone",)))


def test_steps_of_a_run():
    run = common.base()
    run.batch_size, run.epochs = 10, 3
    assert optim.total_steps(run, 101) == (33, 11)
    run.steps = 5
    with pytest.raises(UserError, match=r"config\.steps and config\.epochs"):
        optim.total_steps(run, 101)


@pytest.mark.parametrize("field", ["schedule", "optimizer"])
def test_unknown_names_list_the_known(field):
    fields = config(**{field: "magic"})
    with pytest.raises(UserError, match="magic"):
        optim.make_optimizer(fields, PARAMS, optim.make_schedule(fields, 10, 10))


def test_what_weight_decay_acts_on():
    """Products and proxies; never positions, class tokens, embeddings, masks and biases of type spaces."""
    acted, left = set(), set()
    for experiment, argument, batch in (
        (retrieval, "backbone=vit_s16,tiny=true", {}),
        (compatibility, "tiny=true", {"text": np.zeros((1, 6000), np.float32)}),
        (compatibility, "tiny=true,projection=fc,text=words", {"text": np.zeros((1, 16), np.int32)}),
        (compatibility, "tiny=true,recipe=set", {}),
    ):
        fields = experiment.get_config(argument)
        types = ["tops", "shoes", "bags"]
        spaces = [[a, b] for i, a in enumerate(types) for b in types[i:]]
        fields.labels = {"item_id": ["a", "b"], "category": types, "type_space": spaces}
        batch |= {"image": np.zeros((1, 64, 64, 3), np.uint8)}
        params, _ = jax.eval_shape(tasks.make(fields).init, jax.random.PRNGKey(0), batch)
        acts = jax.tree_util.tree_leaves_with_path(optim.decayed(params))
        for (path, act), leaf in zip(acts, jax.tree.leaves(params), strict=True):
            name = optim.path_name(path).split("/")[-1]
            (acted if act else left).add((name, leaf.ndim > 1))
    assert acted == {("kernel", True), ("proxies", True)}
    apart = {name for name, matrix in left if matrix}
    assert apart == {"pos_embed", "cls_token", "mask", "bias", "embedding"}
    assert {name for name, matrix in left if not matrix} >= {"bias", "scale"}
