"""The train step: equal under both compilers and on any number of devices, skips what is not finite."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from close import assert_rounded, assert_sums_close, relative_rounding

from experiments import common
from fashionjax import tasks
from fashionjax.runtime import optim, parallel, state
from fashionjax.task import Task
from fashionjax.tasks import supervised


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def relative(got, want) -> float:
    return float(np.linalg.norm(flat(got) - flat(want)) / np.linalg.norm(flat(want)))


def linear_task() -> Task:
    """y = x·w with squared error; cheap to compile."""
    model = nn.Dense(3)

    def loss(params, model_state, batch, rng):
        error = model.apply({"params": params}, batch["image"]) - batch["target"]
        per_example = jnp.mean(jnp.square(error), axis=-1)
        return supervised.weighted_mean(per_example, batch), (model_state, {})

    def init(rng, batch):
        return model.init(rng, batch["image"])["params"], {}

    return Task(None, init, loss, lambda p, m, b: {"y": model.apply({"params": p}, b["image"])}, None)


def linear_batch(size=16) -> dict:
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(size, 4)).astype(np.float32),
        "target": rng.normal(size=(size, 3)).astype(np.float32),
        "example_valid": np.ones(size, bool),
    }


def one_step(task, batch, *, mode="pmap", devices=None, accumulate=1, tx=None, steps=1):
    """(state before, state after, scalars)."""
    mesh = parallel.make_mesh(devices)
    tx = tx or optax.sgd(0.1)
    before = state.create_state(task, tx, 0, batch)
    step = parallel.compile_train_step(state.make_train_step(task, tx, accumulate=accumulate), mode, mesh)
    after = parallel.replicate(jax.tree.map(jnp.copy, before), mesh)
    for _ in range(steps):
        after, scalars = step(after, parallel.put_batch(batch, mode, mesh))
    return before, after, jax.device_get(scalars)


def test_linear_step_equals_numpy():
    batch = linear_batch()
    before, after, scalars = one_step(linear_task(), batch)
    weight, bias = (np.asarray(before.params[name], np.float64) for name in ("kernel", "bias"))
    error = batch["image"] @ weight + bias - batch["target"]
    assert_sums_close(scalars["loss"], np.mean(error**2), 5)  # errors of 5 products; their mean adds nothing
    gradient = 2 * batch["image"].T @ error / error.size
    assert_sums_close(after.params["kernel"], weight - 0.1 * gradient, 5 + 16)
    assert int(after.step) == 1


@pytest.mark.parametrize("mode", parallel.MODES)
def test_accumulation_is_the_same_step(mode):
    batch = linear_batch()
    batch["example_valid"][3] = False
    _, whole, _ = one_step(linear_task(), batch, mode=mode, devices=jax.devices()[:2])
    _, parts, _ = one_step(linear_task(), batch, mode=mode, devices=jax.devices()[:2], accumulate=4)
    assert relative(parts.params, whole.params) < relative_rounding(16)  # of 16 examples


def test_unreadable_examples_do_not_count():
    """The gradient is the mean over the readable ones, whatever device the others were on."""
    batch = linear_batch()
    batch["example_valid"][[0, 1, 9]] = False
    batch["image"][[0, 1, 9]] = 1e6
    readable = {name: np.delete(value, [0, 1, 9], axis=0) for name, value in batch.items()}
    _, damaged, scalars = one_step(linear_task(), batch)
    _, clean, expected = one_step(linear_task(), readable, devices=jax.devices()[:1])
    assert_sums_close(scalars["loss"], expected["loss"], 5)
    assert relative(damaged.params, clean.params) < relative_rounding(16)


def test_not_finite_changes_nothing_but_the_step():
    batch = linear_batch()
    batch["target"][5, 0] = np.nan
    before, after, scalars = one_step(linear_task(), batch, tx=optax.adam(0.1))
    assert scalars["nonfinite"] == 1 and int(after.step) == 1
    for old, new in zip(jax.tree.leaves(before.replace(step=0)), jax.tree.leaves(after.replace(step=0))):
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new))


def test_a_skipped_step_does_not_delay_the_schedule():
    """The second step's rate is 0.2, which is also what is logged, although the first one was skipped."""
    good, bad = linear_batch(), linear_batch()
    bad["target"][5, 0] = np.nan
    task, mesh, fields = linear_task(), parallel.make_mesh(), common.base().optim
    fields.momentum = 0.0
    run = parallel.replicate(state.create_state(task, optax.sgd(0.1), 0, good), mesh)
    tx = optim.make_optimizer(fields, run.params, lambda step: 0.1 * (1 + step))
    run = run.replace(opt_state=parallel.replicate(tx.init(run.params), mesh))
    before = np.asarray(run.params["kernel"])
    _, plain, _ = one_step(task, good, tx=optax.sgd(0.2))
    step = parallel.compile_train_step(state.make_train_step(task, tx), "pmap", mesh)
    run, _ = step(run, parallel.put_batch(bad, "pmap", mesh))
    np.testing.assert_array_equal(run.params["kernel"], before)
    run, _ = step(run, parallel.put_batch(good, "pmap", mesh))
    assert_rounded(run.params["kernel"], plain.params["kernel"], 8)


@pytest.mark.slow
def test_devices_and_compilers_agree(tiny_config, tiny_batch):
    """The demo's model with synchronised batch-norm, augmentation on, float32: relative L2 of the update."""
    tiny_config.model.sync_bn = True
    task = tasks.make(tiny_config)
    updates = {}
    for name, mode, devices in (
        ("pmap8", "pmap", None),
        ("shard_map8", "shard_map", None),
        ("pmap1", "pmap", jax.devices()[:1]),
    ):
        before, after, _ = one_step(without_dropout(task), tiny_batch, mode=mode, devices=devices)
        updates[name] = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, before.params)
        for leaf in jax.tree.leaves(after):
            shards = [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]
            assert len(set(shards)) == 1
    # eight layers of sums over at most 16 x 32 x 32 positions; the two compilers run the same program
    assert relative(updates["shard_map8"], updates["pmap8"]) <= relative_rounding(1)
    assert relative(updates["pmap1"], updates["pmap8"]) <= relative_rounding(16 * 32 * 32, layers=8)


def without_dropout(task: Task) -> Task:
    """Dropout draws per device on purpose; zero it to compare device counts."""
    keep_all = pytest.MonkeyPatch()

    def loss(*args):
        with keep_all.context() as patch:
            patch.setattr(nn.Dropout, "__call__", lambda self, x, **_: x)
            return task.loss(*args)

    return task._replace(loss=loss)


@pytest.mark.slow
def test_replicas_stay_equal_without_sync(tiny_config, tiny_batch):
    """Per-device batch statistics: running statistics are averaged before they leave the step."""
    task = tasks.make(tiny_config)
    tx = optim.make_optimizer(tiny_config.optim, {"w": jnp.zeros((2, 2))}, lambda step: 0.01)
    _, after, _ = one_step(task, tiny_batch, tx=tx, steps=2)
    for leaf in jax.tree.leaves(after):
        assert len({np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}) == 1


def test_initial_values_name_their_generator():
    """A backend that chose its own would start from other values for the same seed."""
    lowered = jax.jit(jax.random.normal, static_argnums=1).lower(state.initial_key(3), (4, 2)).as_text()
    assert "PHILOX" in lowered and "algorithm = DEFAULT" not in lowered
    drawn = jax.random.bits(state.initial_key(3), (3,), "uint32")
    assert drawn.tolist() == [3146934739, 3391003311, 1891301882]


def test_dropout_masks_differ_between_the_parts_of_an_accumulated_step():
    """The loss is the mean of (mask of the part)·x; equal masks would drop the same places in every part."""

    def loss(params, model_state, batch, rng):
        mask = jax.random.bernoulli(rng, 0.5, (8,))
        part = batch["slot"][0]  # examples i, i + 4, …: 0 … 3 on one device
        masks = jnp.zeros((4, 8)).at[part].set(4 * mask)
        return jnp.sum(params["w"] * masks), (model_state, {})

    task = Task(None, lambda rng, batch: ({"w": jnp.zeros((4, 8))}, {}), loss, None, None)
    _, after, _ = one_step(task, linear_batch(), accumulate=4, devices=jax.devices()[:1], tx=optax.sgd(1.0))
    masks = -np.asarray(after.params["w"])
    assert set(masks.ravel()) == {0.0, 1.0} and len({row.tobytes() for row in masks}) == 4


def test_the_average_of_weights_is_that_of_its_definition():
    """Over five steps: decay · average + (1 - decay) · params, the decay at most (1 + t) / (10 + t)."""
    task, batch, mesh = linear_task(), linear_batch(), parallel.make_mesh()
    run = parallel.replicate(state.create_state(task, optax.sgd(0.1), 0, batch, averaged=True), mesh)
    np.testing.assert_array_equal(flat(run.average), flat(run.params))
    step = parallel.compile_train_step(
        state.make_train_step(task, optax.sgd(0.1), average=0.3), parallel.MODES[0], mesh
    )
    want = np.float64(flat(run.params))
    for t in range(5):
        run, _ = step(run, parallel.put_batch(batch, parallel.MODES[0], mesh))
        decay = min(0.3, (1 + t) / (10 + t))
        want = decay * want + (1 - decay) * flat(run.params)
        # of a step: the decay, two products, a sum
        scale = float(np.abs(flat(run.params)).max() + np.abs(want).max())
        assert_rounded(flat(run.average), want, operations=5 * (t + 1), scale=scale)
    assert run.used is run.average and relative(run.average, run.params) > 1e-3


def test_frozen_parameters_get_no_gradient():
    plain = lambda params, scale: params["a"]["w"] * params["b"]["w"] * scale  # noqa: E731
    stopped = state._stopped(plain, lambda path: path == "a/w")
    slope = jax.grad(stopped)({"a": {"w": 3.0}, "b": {"w": 5.0}}, 2.0)
    assert float(slope["a"]["w"]) == 0 and float(slope["b"]["w"]) == 6
