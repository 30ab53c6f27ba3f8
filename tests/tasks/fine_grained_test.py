"""Attribute-specific retrieval: losses over devices, statistics by role, the crop, files of weights."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned, rounding
from einops import rearrange

from experiments import rpf
from fashionjax import losses, tasks
from fashionjax.errors import UserError
from fashionjax.task import AXIS
from fashionjax.tasks import fine_grained as task_module

NAMES = ["sleeve length", "neckline", "pattern"]
LABELS = {
    "attribute": NAMES,
    "attribute_value": [["short", "long"], ["v", "crew", "boat"], ["plain", "dots"]],
}


def config_of(argument="", *quirks, **fields):
    config = rpf.get_config(f"tiny=true,{argument}".rstrip(","))
    config.labels = LABELS
    if quirks:
        config.quirks = quirks
    config.update(fields)
    return config


def terms_of(config, outputs, labels):
    one = functools.partial(task_module.loss_terms, config)
    per_device = jax.jit(jax.vmap(one, axis_name=AXIS))
    lifted = jax.tree.map(lambda x: jnp.asarray(x)[None], (outputs, labels))
    return {name: float(value[0]) for name, value in per_device(*lifted).items()}


def test_terms_are_those_of_whole_triplets_with_the_published_weights():
    config = config_of("stage=2")
    config.loss = rpf.get_config("stage=2").loss
    rng = np.random.default_rng(2)
    outputs = {name: rng.normal(size=(6, 4)).astype(np.float32) for name in ("region", "patch", "complement")}
    labels = {  # by role: two anchors, two positives, two negatives
        "attribute": np.asarray([0, 1] * 3, np.int32),
        "value": np.asarray([2, 0, 2, 0, 1, 1], np.int32),
        "example_weight": np.asarray([1.2, 1.2, 1.2, 1.2, 0, 1.2], np.float32),
    }
    terms = terms_of(config, outputs, labels)
    anchor, positive, negative = (outputs["region"][i] for i in (1, 3, 5))
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    want = max(0, cosine(anchor, negative) - cosine(anchor, positive) + 0.2)
    # two cosines of four values: products, norms, roots; their difference
    assert terms["loss_triplet"] == pytest.approx(want, abs=rounding(2 * (3 * 4 + 8 + 2) + 2))
    rows = losses.AttributeRows(*outputs.values(), labels["attribute"], labels["value"])
    rows = jax.tree.map(lambda x: x[[0, 1, 2, 3, 5]], rows)
    want = 0.04 * float(losses.foreground_background(rows, rows, config.fine_grained.temperature).mean())
    # cosines over a temperature, exp and log of sums over the rows, their mean
    scale = 0.04 / config.fine_grained.temperature
    assert terms["loss_contrast"] == pytest.approx(want, abs=rounding(3 * 4 + 8 + 2 * 8 + 3 * 6, scale=scale))


@pytest.mark.slow
@pytest.mark.parametrize(("argument", "parameters"), [("", 11_439_680), ("stage=2", 101_837_888)])
def test_published_parameter_counts(argument, parameters):
    config = rpf.get_config(argument)
    config.labels = {"attribute": [str(i) for i in range(8)]}
    params, _ = jax.eval_shape(tasks.make(config).init, jax.random.key(0), {})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_arguments():
    for dataset in rpf.DATASETS:
        for stage, negatives in itertools.product((1, 2), ("triplet", "in_batch")):
            config = rpf.get_config(f"dataset={dataset},stage={stage},negatives={negatives}")
            config.labels = LABELS
            tasks.make(config)
            assert config.dataset.split("/")[0] == dataset and config.model.patch == (stage == 2)
    for argument in ("variant=asen", "conditioned=false", "small=true", "small=true,stage=2"):
        config = rpf.get_config(argument)
        config.labels = LABELS
        tasks.make(config)
    with pytest.raises(ValueError, match="second stage"):
        rpf.get_config("variant=asen,stage=2")


def test_every_row_needs_its_own_attribute():
    with pytest.raises(UserError, match="choose --attribute from sleeve length, neckline, pattern"):
        config = config_of()
        jax.eval_shape(tasks.make(config).predict, {}, {}, {"image": np.zeros((1, 32, 32, 3), np.uint8)})


@pytest.mark.parametrize(
    ("argument", "fields", "message"),
    [
        ("", {"loss": {"contrast": 1.0}}, "need the patch branch"),
        ("negatives=in_batch", {"loss": {"triplet": 1.0}}, "sampler=triplet"),
        ("", {"loss": {"other": 1.0}}, "use triplet, patch_triplet"),
        ("stage=2", {"canvas_size": 8}, "canvas_size=8"),
        ("", {"accumulate": 2}, "accumulate"),
    ],
)
def test_configs_that_do_not_fit(argument, fields, message):
    config = config_of(argument)
    if "loss" in fields:
        config.loss = fields.pop("loss")
    config.update(fields)
    with pytest.raises(UserError, match=message):
        tasks.make(config)


def test_losses_see_the_batch_of_all_devices():
    """Two devices with whole triplets each: the mean of their terms is the term of one device."""
    config = config_of("stage=2")
    config.loss = {"triplet": 1.0, "patch_triplet": 0.1, "contrast": 0.04, "align": 0.1, "in_batch": 1.0}
    rng, names = np.random.default_rng(3), ("region", "patch", "complement")
    outputs = {name: rng.normal(size=(12, 4)).astype(np.float32) for name in names}
    labels = {  # triplets at consecutive rows
        "attribute": np.repeat(np.asarray([0, 1, 0, 1], np.int32), 3),
        "value": np.asarray([2, 2, 1, 0, 0, 1, 1, 1, 0, 1, 1, 2], np.int32),
        "example_weight": np.ones(12, np.float32),
    }

    def terms(devices):
        def by_device(x):
            return rearrange(x, "(d b t) ... -> d (t b) ...", d=devices, t=3)

        one = functools.partial(task_module.loss_terms, config)
        found = jax.jit(jax.vmap(one, axis_name=AXIS))(*jax.tree.map(by_device, (outputs, labels)))
        return {name: float(value.mean()) for name, value in found.items()}

    one, two = terms(1), terms(2)
    assert set(one) == {f"loss_{name}" for name in config.loss} and all(one.values())
    # cosines of four values over a temperature, exp and log of sums over twelve rows, their mean
    bound = rounding(3 * 4 + 8 + 2 * 8 + 3 * 12, scale=1 / config.fine_grained.temperature)
    assert two == pytest.approx(one, abs=bound)


class Region(nn.Module):
    """A region branch that is nothing but a batch normalisation."""

    @nn.compact
    def region(self, image, attribute, train):
        return {"region": nn.BatchNorm(use_running_average=not train, name="bn")(image)}


def test_statistics_by_role_are_those_of_three_passes():
    model = Region()
    image = np.random.default_rng(4).normal(2, 3, size=(12, 5)).astype(np.float32)
    attribute, keys = np.zeros(12, np.int32), {"dropout": jax.random.key(0)}
    variables = model.init(keys["dropout"], image, attribute, False, method="region")
    outputs, running = task_module._region(model, variables, image, attribute, keys, 3)

    def passes(image):
        outputs, statistics = [], variables["batch_stats"]
        for part in image.reshape(3, 4, 5):
            passed, changed = model.apply(
                variables | {"batch_stats": statistics},
                part,
                None,
                True,
                method="region",
                mutable=["batch_stats"],
            )
            statistics = changed["batch_stats"]
            outputs.append(passed["region"])
        return np.concatenate(outputs), statistics

    assert_conditioned((outputs["region"], running), passes(image), passes, image, terms=4)
    joint, _ = task_module._region(model, variables, image, attribute, keys, 1)
    assert np.abs(joint["region"] - outputs["region"]).max() > 0.01
