"""The recommendation task on a tiny detector: what trains, what is left out, quirks, given garments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import relative_rounding, rounding

from experiments import recommendation
from fashionjax import tasks
from fashionjax.data import samplers
from fashionjax.errors import UserError
from fashionjax.task import AXIS
from fashionjax.tasks import recommendation as task_module

NAMES = [f"c{i}" for i in range(4)]


def tiny(argument="tiny=true", **fields):
    config = recommendation.get_config(argument)
    config.labels = {"category": NAMES, "item_id": ["3", "8", "9"]}
    config.model.backbone_fields.width, config.model.channels, config.model.box_width = 4, 8, 16
    config.model.mask_convolutions, config.model.head_width = 1, 4
    config.model.settings.update({"detections": 4, "proposals_test": 8, "candidates_test": 8})
    config.update(fields)
    return config


def images(config, count=4) -> dict:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8),
        "size": np.full((count, 2), 64, np.int32),
        "item_id": np.asarray([0, 1, 0, -1], np.int32)[:count],
        "example_weight": np.ones(count, np.float32),
        "slot": np.arange(count, dtype=np.int32),
    }


def of_one_device(task, params, state, batch):
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    run = jax.vmap(lambda b: task.loss(params, state, b, jax.random.PRNGKey(0)), axis_name=AXIS)
    return jax.tree.map(lambda x: x[0], run(one))


def test_descriptors_on_box_features():
    kfashion = task_module.make_model(tiny())
    assert (kfashion.exponents, kfashion.floor) == ((1.0, 2.0, 3.0), 1e-6)
    combined = task_module.make_model(tiny("tiny=true,descriptors=SM"))
    assert (combined.exponents, combined.floor) == ((1.0, np.inf), None)
    config = tiny()
    config.model.descriptors = "SX"
    with pytest.raises(UserError, match=r"config\.model\.descriptors: descriptors 'SX'"):
        task_module.make_model(config)


@pytest.mark.slow
def test_the_head_alone_trains_and_given_boxes_are_embedded():
    config = tiny()
    task = tasks.make(config)
    params, state = jax.jit(task.init)(jax.random.PRNGKey(1), {})
    batch = images(config)
    gradient = jax.jit(lambda p: jax.grad(lambda p: of_one_device(task, p, state, batch)[0])(p))(params)
    size = {
        name: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(part))
        for name, part in gradient.items()
    }
    assert size.pop("cgd") > 0 and set(size.values()) == {0.0}

    seen = {name: batch[name] for name in ("image", "size")}
    predict = jax.jit(task.predict)
    found = predict(params, state, seen)
    assert found["embedding"].shape == (4, 4, 12)
    again = predict(
        params, state, seen | {"given_box": found["box"], "given_valid": found["detection_valid"]}
    )
    valid = np.asarray(found["detection_valid"])
    assert valid.any()
    bound = relative_rounding(9 * 64, layers=18)  # of unit embeddings, the network in another program
    np.testing.assert_allclose(again["embedding"][valid], found["embedding"][valid], rtol=0, atol=bound)


def terms(config, item, valid, devices=1, seed=0):
    """loss_terms of 4 images with 3 garments each, on so many devices."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(4, 3, 6))
    embedding /= np.linalg.norm(embedding, axis=-1, keepdims=True)
    logits = rng.normal(size=(4, 3, 3))
    arrays = [np.asarray(a) for a in (embedding.astype(np.float32), logits.astype(np.float32), item, valid)]
    split = [jnp.asarray(a.reshape(devices, 4 // devices, *a.shape[1:])) for a in arrays]
    run = jax.vmap(lambda *b: jax.lax.pmean(task_module.loss_terms(config, *b), AXIS), axis_name=AXIS)
    return {name: float(value[0]) for name, value in run(*split).items()}


ITEM = np.asarray([0, 1, 0, -1], np.int32)


def test_padding_and_unknown_pairs_take_no_part_and_devices_agree():
    config = tiny()
    valid = np.asarray([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]], bool)
    one, two = (terms(config, ITEM, valid, devices) for devices in (1, 2))
    assert one["loss_id"] > 0 and one["loss_batch_hard"] > 0
    for name in one:
        # distances of rows of six values (a² - 2ab + b²), exp and log of three logits, means of twelve
        assert one[name] == pytest.approx(two[name], abs=rounding(3 * 6 + 2 * 8 + 3 + 12, scale=4))
    assert terms(config, ITEM, np.zeros((4, 3), bool)) == {"loss_id": 0.0, "loss_batch_hard": 0.0}


def test_k2_a_stranger_stands_for_the_positive_that_is_missing():
    """Three garments of three pairs: no triplet, unless the first garment is taken for the positive."""
    valid = np.asarray([[1, 0, 0]] * 3 + [[0, 0, 0]], bool)
    item = np.asarray([0, 1, 2, -1], np.int32)
    assert terms(tiny(), item, valid)["loss_batch_hard"] == 0
    assert terms(tiny(quirks=("k2_no_positive_index0",)), item, valid)["loss_batch_hard"] > 0


@pytest.mark.slow
def test_k3_the_normalisation_stops_after_the_first_evaluation():
    config = tiny(quirks=("k3_frozen_after_evaluation",), eval_every=1)
    task = tasks.make(config)
    params, state = jax.jit(task.init)(jax.random.PRNGKey(1), {})
    batch = images(config)
    step = jax.jit(lambda state: of_one_device(task, params, state, batch)[1][0])
    first = step(state)
    second = step(first)
    statistics = lambda s: np.asarray(s["cgd"]["auxiliary_bn"]["mean"])  # noqa: E731
    assert not np.array_equal(statistics(first), statistics(state))
    np.testing.assert_array_equal(statistics(second), statistics(first))
    assert float(second[task_module.SEEN]) == 2


def column(name):
    objects = np.empty(5, object)
    for row, count in enumerate((1, 0, 2, 1, 1)):
        objects[row] = np.zeros(count, int)
    return {"instance/category": objects, "pair_id": np.asarray([3, 3, 3, -1, 8])}[name]


def test_images_without_garments_or_pair_are_never_drawn():
    order = tasks.make(tiny()).sampler(column)
    drawn = [order.at(0, position) for position in range(40)]
    assert set(drawn) == {0, 2, 4}
    pairs = column("pair_id")[drawn].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()  # two images of a pair after each other
    shuffled = tasks.make(tiny("tiny=true,sampler=shuffle")).sampler(column)
    assert isinstance(shuffled, samplers.Sampler) and shuffled.epoch == 3


def test_what_a_config_may_not_say():
    with pytest.raises(UserError, match="sampler='triplet'"):
        tasks.make(tiny(retrieval={"sampler": "triplet"}))
    with pytest.raises(UserError, match=r"config\.loss has pair"):
        config = tiny()
        config.loss = {"pair": 1.0}
        tasks.make(config)
