"""Whole models on a tiny backbone: what they return, where landmarks come from, which gradients flow."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_sums_close

from fashionjax.models import heads
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.predictor import Predictor
from fashionjax.models.retriever import Retriever

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(4, 8, 8, 3)).astype(np.float32)
LANDMARK = RNG.uniform(0.2, 0.8, size=(4, 8, 2)).astype(np.float32)


class Tiny(nn.Module):
    """Two maps, strides 2 and 4: a backbone that compiles in no time."""

    @nn.compact
    def __call__(self, image, train: bool = False):
        x = nn.relu(nn.Conv(6, (2, 2), (2, 2), name="a")(image))
        return x, nn.relu(nn.Conv(8, (2, 2), (2, 2), name="b")(x))


ROI = {"pooling": "roi", "hidden": 9, "features": 10, "attributes": 5, "categories": 3}


def test_outputs_are_float32_of_the_parts_that_the_model_has(drawn):
    model = Predictor(backbone=Tiny(), **ROI, dtype=jnp.bfloat16)
    outputs = jax.eval_shape(model.apply, drawn(model, IMAGE, LANDMARK), IMAGE, LANDMARK)
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes == {"feature": (4, 10), "attribute_logits": (4, 5), "category_logits": (4, 3)}
    assert all(x.dtype == jnp.float32 for x in outputs.values())

    model = Retriever(backbone=Tiny(), hidden=9, features=10, embedding=7, ids=11, attributes=5)
    outputs = jax.eval_shape(model.apply, drawn(model, IMAGE), IMAGE)
    shapes = {name: x.shape for name, x in outputs.items()}
    assert shapes == {
        "feature": (4, 10),
        "embedding": (4, 7),
        "id_logits": (4, 11),
        "attribute_logits": (4, 5),
    }

    model = LandmarkDetector(backbone=Tiny(), hidden=9, features=10, landmark_features=6)
    outputs = jax.eval_shape(model.apply, drawn(model, IMAGE), IMAGE)
    assert outputs["landmark"].shape == (4, 8, 2) and outputs["visibility_logits"].shape == (4, 8)


def test_without_landmarks_a_roi_model_returns_its_global_feature(drawn):
    model = Predictor(backbone=Tiny(), **ROI)
    variables = drawn(model, IMAGE, LANDMARK)
    outputs, state = model.apply(variables, IMAGE, capture_intermediates=lambda m, _: m.name == "global_pool")
    pooled = state["intermediates"]["global_pool"]["__call__"][0]
    np.testing.assert_array_equal(outputs["feature"], pooled)
    with pytest.raises(ValueError, match="initialised with landmarks"):
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)


def test_scrambled_groups_mix_images_and_single_images_do_not(drawn):
    model = Predictor(backbone=Tiny(), **ROI)
    variables = drawn(model, IMAGE, LANDMARK)
    feature = jax.jit(
        lambda landmark, group: model.apply(variables, IMAGE, landmark, roi_group=group)["feature"],
        static_argnums=1,
    )
    own, alone, mixed = feature(LANDMARK, None), feature(LANDMARK, 1), feature(LANDMARK, 4)
    assert_sums_close(own, alone, terms=64)
    other = LANDMARK.copy()
    other[3] = 1 - other[3]  # the last image's landmarks move; the first image sees it only when mixed
    assert not np.allclose(own, mixed)
    np.testing.assert_array_equal(feature(other, None)[:3], own[:3])
    assert not np.allclose(feature(other, 4)[:3], mixed[:3])


def joint(**fields):
    settings = {
        "global_pooling": "average",
        "landmark_source": "predicted",
        "landmark_head": heads.HeatmapHead(features=6, levels=2),
        "roi_levels": (0,),
    }
    return Predictor(backbone=Tiny(), **{**ROI, **settings, **fields})


def test_the_joint_model_pools_at_its_own_landmarks(drawn):
    model = joint()
    variables = drawn(model, IMAGE)
    given_model = jax.jit(joint(landmark_source="given").apply)
    outputs = jax.jit(model.apply)(variables, IMAGE)
    given = given_model(variables, IMAGE, outputs["landmark"])
    assert_sums_close(outputs["attribute_logits"], given["attribute_logits"], terms=64)
    elsewhere = given_model(variables, IMAGE, LANDMARK)
    assert not np.allclose(outputs["attribute_logits"], elsewhere["attribute_logits"])
    np.testing.assert_array_equal(elsewhere["landmark"], outputs["landmark"])


def test_no_gradient_flows_from_the_attributes_into_the_coordinates(drawn):
    model = joint()
    variables = drawn(model, IMAGE)

    def gradient(output):
        loss = lambda params: jnp.square(  # noqa: E731
            model.apply({**variables, "params": params}, IMAGE)[output]
        ).sum()
        return jax.jit(jax.grad(loss))(variables["params"])

    by_attribute, by_landmark = gradient("attribute_logits"), gradient("landmark")
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(by_attribute["landmark_head"]))
    assert np.any(by_attribute["backbone"]["a"]["kernel"] != 0)
    assert np.any(by_landmark["landmark_head"]["heatmap"]["kernel"] != 0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"pooling": "local"}, "pooling must be"),
        ({"global_pooling": "max"}, "global_pooling must be"),
        ({"landmark_source": "guessed"}, "landmark_source must be"),
        ({"landmark_head": None}, "needs a landmark_head"),
        ({"features": None}, "features may be None"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(joint(**fields).init, jax.random.key(0), IMAGE)
