"""Blended images in the loss: labels count by their share, and shares of one change nothing."""

import jax
import numpy as np
import pytest
from close import rounding

from experiments import own
from fashionjax import tasks
from fashionjax.runtime import state
from fashionjax.task import AXIS
from fashionjax.tasks import attributes, supervised


def test_labels_count_by_their_share():
    """By hand: two pairs, cross-entropies of each example with its own label and with its partner's."""
    table = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]], np.float32)  # [example, label] → loss
    batch = {"category": np.array([0, 1, 1, 0]), "example_weight": np.array([1.0, 1, 2, 0], np.float32)}
    share, partner = np.array([0.25, 1.0, 0.5, 1.0], np.float32), np.array([1, 0, 3, 2])

    def terms_of(batch):
        per_example = table[np.arange(4), batch["category"]]
        return {"loss_category": (per_example * batch["example_weight"]).mean()}

    got = supervised.mixed_terms(terms_of, batch, share, partner)["loss_category"]
    want = ((0.25 * 1 + 0.75 * 10) + 20 + 2 * (0.5 * 30 + 0.5 * 3)) / 4
    assert got == pytest.approx(want)


@pytest.mark.full
def test_the_loss_with_blends(tiny_batch):
    """Finite and not that without blends; without an own label the loss is the partner's."""
    config = own.get_config("labels=category+attribute,backbone=vgg11_bn,tiny=true")
    config.labels = {"category": [f"c{i}" for i in range(5)], "attribute": [f"a{i}" for i in range(7)]}
    batch = tiny_batch | {"slot": np.arange(16), "example_weight": np.ones(16, np.float32)}
    losses = {}
    for name, blend in {"none": (0.0, 0.0), "mixup": (1.0, 0.0), "cutmix": (0.0, 1.0)}.items():
        config.blend.update({"mixup": blend[0], "cutmix": blend[1]})
        task = tasks.make(config)
        params, stats = task.init(state.initial_key(0), {"image": batch["image"][:1, :32, :32]})
        loss = jax.vmap(task.loss, in_axes=(None, None, 0, None), axis_name=AXIS)
        value, (_, terms) = jax.jit(loss)(
            params, stats, jax.tree.map(lambda x: np.asarray(x)[None], batch), jax.random.PRNGKey(0)
        )
        assert set(terms) == {"loss_category", "loss_attribute"} and np.isfinite(value).all()
        losses[name] = float(value[0])
    assert len(set(losses.values())) == 3


def test_smoothed_labels_in_the_loss():
    """By hand: a tenth of a category's weight goes to all of them evenly, attributes go towards one half."""
    config = own.get_config("labels=category+attribute,backbone=vgg11_bn,tiny=true")
    config.loss.attribute = 1.0
    logits = {"category_logits": np.array([[2.0, 0, -1]]), "attribute_logits": np.array([[1.0, -2.0]])}
    batch = {"category": np.array([1]), "attribute": np.array([[1, 0]]), "example_weight": np.ones(1)}
    terms = attributes.loss_terms(config, logits, batch, {})
    log_softmax = logits["category_logits"][0] - np.log(np.exp(logits["category_logits"][0]).sum())
    want = -(np.array([1, 28, 1]) / 30 * log_softmax).sum()
    assert float(terms["loss_category"]) == pytest.approx(want, abs=rounding(3 + 2 * 8 + 6, scale=4))
    target, probability = np.array([0.95, 0.05]), 1 / (1 + np.exp(-logits["attribute_logits"][0]))
    bce = -(target * np.log(probability) + (1 - target) * np.log(1 - probability))
    assert float(terms["loss_attribute"]) == pytest.approx(bce.mean(), abs=rounding(2 * 8 + 6, scale=3))
