"""Saving and restoring small states: last and best kept, inference, initialisation from another run."""

import json
import logging
import sys
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from experiments import common
from fashionjax.errors import UserError
from fashionjax.runtime import checkpoint, optim
from fashionjax.runtime.state import TrainState


def make_state(step=0, scale=1.0, width=3) -> TrainState:
    params = {
        "backbone": {"kernel": scale * jnp.ones((2, width))},
        "head": {"kernel": scale * jnp.ones((width, 4))},
    }
    tx = optax.trace(0.9)
    stats = {"backbone": {"mean": scale * jnp.arange(2.0)}}
    return TrainState(jnp.asarray(step, jnp.int32), params, stats, tx.init(params), jax.random.PRNGKey(1))


@pytest.fixture
def config():
    fields = common.base()
    fields.best = "accuracy"
    fields.labels = {"category": ["tee", "skirt"]}
    return fields


def save_all(folder, config, scores, mode="max"):
    config.best_mode = mode
    with checkpoint.open_manager(folder, config.best, mode) as manager:
        for step, score in scores.items():
            metrics = None if score is None else {config.best: score}
            checkpoint.save(manager, make_state(step, scale=step), config, metrics)
        manager.wait_until_finished()
        return sorted(manager.all_steps())


@pytest.mark.parametrize(
    ("scores", "mode", "kept"),
    [
        ({1: 0.2, 2: 0.9, 3: 0.1}, "max", [2, 3]),
        ({1: 0.2, 2: 0.9, 3: 0.1}, "min", [3]),
        ({1: 0.5, 2: None, 3: None}, "max", [1, 3]),
        ({1: 0.5, 2: 0.6, 3: 0.7}, "max", [3]),
    ],
)
def test_the_last_and_the_best_are_kept(tmp_path, config, scores, mode, kept):
    assert save_all(tmp_path, config, scores, mode) == kept


def test_the_best_survives_a_resume(tmp_path, config):
    """The scores are on disk: a manager opened later still knows which checkpoint was best."""
    save_all(tmp_path, config, {1: 0.9, 2: 0.2})
    assert save_all(tmp_path, config, {3: 0.3, 4: 0.1}) == [1, 4]


def test_metrics_stored_after_the_step_decide_which_is_best(tmp_path, config):
    """As after a resume whose final evaluation had failed."""
    save_all(tmp_path, config, {2: 0.1, 4: None})
    assert checkpoint.locate(tmp_path)[1] == 2
    with checkpoint.open_manager(tmp_path, config.best) as manager:
        checkpoint.add_metrics(manager, 4, {"accuracy": 0.9})
    assert checkpoint.locate(tmp_path)[1] == 4
    assert save_all(tmp_path, config, {6: 0.3}) == [4, 6]


def test_inference_takes_the_best_the_last_or_a_step(tmp_path, config):
    save_all(tmp_path, config, {1: 0.2, 2: 0.9, 3: 0.1})
    for which, step in (("best", 2), ("last", 3), ("2", 2)):
        restored = checkpoint.restore_for_inference(tmp_path, which)
        assert restored.step == step
        np.testing.assert_array_equal(restored.params["head"]["kernel"], step)
        np.testing.assert_array_equal(restored.model_state["backbone"]["mean"], step * np.arange(2))
        assert list(restored.config.labels.category) == ["tee", "skirt"]
    one = checkpoint.restore_for_inference(tmp_path / checkpoint.FOLDER / "3")
    assert one.step == 3


def test_whole_state_comes_back_bitwise(tmp_path, config):
    saved = make_state(7, scale=0.1)
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, saved, config)
        manager.wait_until_finished()
        restored = checkpoint.restore(manager, make_state())
    for old, new in zip(jax.tree.leaves(saved), jax.tree.leaves(restored), strict=True):
        assert old.dtype == new.dtype
        np.testing.assert_array_equal(np.asarray(old), np.asarray(new))


def test_a_state_of_another_shape_is_refused(tmp_path, config):
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, make_state(1), config)
        manager.wait_until_finished()
        with pytest.raises(UserError, match="does not fit this config"):
            checkpoint.restore(manager, make_state(width=5))


def test_initialise_from_another_run(tmp_path, config):
    save_all(tmp_path, config, {4: 0.5})
    started = checkpoint.initialise_from(make_state(scale=9.0), str(tmp_path), ("head",))
    np.testing.assert_array_equal(started.params["backbone"]["kernel"], 4.0)
    np.testing.assert_array_equal(started.params["head"]["kernel"], 9.0)
    assert int(started.step) == 0
    with pytest.raises(UserError, match=r"head/kernel is \(3, 4\) there, \(5, 4\) here"):
        checkpoint.initialise_from(make_state(width=5), str(tmp_path))
    wider = make_state()
    wider.params["extra"] = {"bias": jnp.zeros(2)}
    with pytest.raises(UserError, match="extra/bias is only in the model"):
        checkpoint.initialise_from(wider, str(tmp_path))
    wider = checkpoint.initialise_from(wider, str(tmp_path), ("extra",))
    np.testing.assert_array_equal(wider.params["head"]["kernel"], 4.0)


def test_a_save_that_was_killed_is_cleared_up(tmp_path, config):
    folder = saved(tmp_path, config)
    unfinished = folder.with_name("9.orbax-checkpoint-tmp-1")
    unfinished.mkdir()
    with checkpoint.open_manager(tmp_path) as manager:
        assert manager.latest_step() == 3 and not unfinished.exists()


def test_what_is_no_checkpoint_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        checkpoint.locate(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.locate(tmp_path)
    (tmp_path / checkpoint.FOLDER / "3" / "state").mkdir(parents=True)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.restore_for_inference(tmp_path, "last")


def saved(tmp_path, config, step=3):
    """A workdir with one checkpoint; → its folder."""
    save_all(tmp_path, config, {step: 0.5})
    return tmp_path / checkpoint.FOLDER / str(step)


@pytest.mark.parametrize("tx", [optax.adam(0.1), optax.sgd(0.1)])
def test_another_optimizer_is_reported_by_its_leaves(tmp_path, config, tx):
    saved(tmp_path, config)
    other = make_state()
    other = other.replace(opt_state=tx.init(other.params))
    with (
        checkpoint.open_manager(tmp_path) as manager,
        pytest.raises(UserError, match=r"does not fit.*opt_state/trace/head/kernel is only in the chec"),
    ):
        checkpoint.restore(manager, other)


@pytest.mark.parametrize("frozen", [(), ("backbone",)])
@pytest.mark.parametrize("optimizer", optim.OPTIMIZERS)
def test_every_optimizer_fits_its_own_checkpoint(tmp_path, config, optimizer, frozen):
    config.optim.update(
        {"optimizer": optimizer, "frozen": frozen, "clip_norm": 1.0, "groups": (("head", 2.0),)}
    )
    state = make_state(2)
    tx = optim.make_optimizer(config.optim, state.params, lambda step: 0.1)
    state = state.replace(opt_state=tx.init(state.params))
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, state, config)
        manager.wait_until_finished()
        assert jax.tree.structure(checkpoint.restore(manager, state)) == jax.tree.structure(state)


def test_cut_off_arrays_are_reported_with_their_step(tmp_path, config):
    folder = saved(tmp_path, config)
    for file in filter(Path.is_file, folder.glob("state/**/d/*")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(UserError, match=f"{folder}: not a readable checkpoint"):
        checkpoint.restore_for_inference(tmp_path)
    with (
        checkpoint.open_manager(tmp_path) as manager,
        pytest.raises(UserError, match=f"{folder}: cannot be read"),
    ):
        checkpoint.restore(manager, make_state())


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text('{"best": "acc')])
def test_a_checkpoint_without_its_config_is_reported(tmp_path, config, damage):
    folder = saved(tmp_path, config)
    damage(folder / "config" / "metadata")
    for which in ("best", "last"):
        with pytest.raises(UserError, match=f"{folder}/config/metadata: not a readable checkpoint"):
            checkpoint.restore_for_inference(tmp_path, which)
    with (
        checkpoint.open_manager(tmp_path) as manager,
        pytest.raises(UserError, match="config/metadata: not a readable checkpoint"),
    ):
        checkpoint.tell_changes(manager, config)


def test_only_messages_of_orbax_are_dropped():
    def record(path, level, name="absl", exc_info=None):
        return logging.LogRecord(name, level, path, 1, "text", (), exc_info)

    inside = "/site-packages/orbax/checkpoint/x.py"
    assert not checkpoint._not_orbax(record(inside, logging.WARNING))
    assert checkpoint._not_orbax(record(inside, logging.ERROR))
    assert checkpoint._not_orbax(record("/home/user/train.py", logging.INFO))
    assert checkpoint._not_orbax(record(inside, logging.ERROR, "asyncio"))
    before = logging.getLogger("absl").level, sys.unraisablehook
    with checkpoint._quiet():
        assert logging.getLogger("absl").level == before[0]
    assert (logging.getLogger("absl").level, sys.unraisablehook) == before
    assert checkpoint._not_orbax not in logging.getLogger("absl").filters


def test_a_run_with_averaged_weights(tmp_path, config):
    """The average is saved, restored, used for inference, and starts another run's weights and average."""
    averaged = make_state(4, scale=2.0)
    averaged = averaged.replace(average=jax.tree.map(lambda x: 3 * x, averaged.params))
    with checkpoint.open_manager(tmp_path) as manager:
        checkpoint.save(manager, averaged, config)
        manager.wait_until_finished()
        again = checkpoint.restore(manager, jax.tree.map(jnp.zeros_like, averaged))
    np.testing.assert_array_equal(again.average["head"]["kernel"], averaged.average["head"]["kernel"])
    np.testing.assert_array_equal(again.params["head"]["kernel"], averaged.params["head"]["kernel"])
    used = checkpoint.restore_for_inference(tmp_path)
    np.testing.assert_array_equal(used.params["head"]["kernel"], np.full((3, 4), 6.0))
    plain = make_state()
    started = checkpoint.initialise_from(plain.replace(average=plain.params), str(tmp_path))
    for tree in (started.params, started.average):
        np.testing.assert_array_equal(tree["head"]["kernel"], np.full((3, 4), 6.0))
    assert checkpoint.initialise_from(plain, str(tmp_path)).average is None


def test_a_checkpoint_from_before_averages(tmp_path, config):
    """A saved state without the field is that of a run that keeps none."""

    @flax.struct.dataclass
    class Before:
        step: object
        params: object
        model_state: object
        opt_state: object
        rng: object

    state = make_state(2, scale=5.0)
    before = Before(state.step, state.params, state.model_state, state.opt_state, state.rng)
    with checkpoint.open_manager(tmp_path) as manager:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(before), config=ocp.args.JsonSave(json.loads(config.to_json()))
        )
        manager.save(2, args=items)
        manager.wait_until_finished()
        again = checkpoint.restore(manager, make_state())
    assert again.average is None and int(again.step) == 2
    np.testing.assert_array_equal(again.params["head"]["kernel"], np.full((3, 4), 5.0))
    used = checkpoint.restore_for_inference(tmp_path)
    np.testing.assert_array_equal(used.params["head"]["kernel"], np.full((3, 4), 5.0))
