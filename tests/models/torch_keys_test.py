"""Key rules: layouts are inverse, every model's map is a bijection, key and parameter counts are the
published ones.
"""

import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fashionjax.models import backbones, pooled_features
from fashionjax.models.heads import HeatmapHead
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.predictor import Predictor
from fashionjax.models.retriever import Retriever
from fashionjax.models.torch_keys import (
    CONV,
    LINEAR,
    SAME,
    Ignore,
    KeyRule,
    chw_linear,
    prefixed,
    torch_key_of,
)


@pytest.mark.parametrize(
    "layout, shape",
    [(SAME, (5,)), (LINEAR, (3, 4)), (CONV, (6, 5, 3, 2)), (chw_linear(2, 3), (4, 5 * 2 * 3))],
)
def test_layouts_are_inverse(layout, shape):
    torch_array = np.arange(np.prod(shape)).reshape(shape)
    assert np.array_equal(layout.to_torch(layout.to_flax(torch_array)), torch_array)


def test_a_linear_layer_behind_a_flattened_map_gives_the_same_product():
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(5, 2, 3)), rng.normal(size=(4, 5 * 2 * 3))  # [c h w], [o chw]
    ours = image.transpose(1, 2, 0).ravel() @ chw_linear(2, 3).to_flax(weight)
    np.testing.assert_allclose(ours, weight @ image.ravel())


def test_a_convolution_kernel_moves_to_height_width_in_out():
    kernel = np.zeros((6, 5, 3, 2))
    kernel[4, 1, 2, 0] = 1
    assert CONV.to_flax(kernel)[2, 0, 1, 4] == 1


def test_prefixed_rules_keep_the_collection_in_front():
    rules = (KeyRule(r"a(\d)\.w", r"batch_stats/a\1/mean", SAME), Ignore("junk", "nothing"))
    rule, ignore = prefixed(rules, "back.bone.", "body/inner")
    assert re.fullmatch(rule.torch, "back.bone.a7.w").expand(rule.flax) == "batch_stats/body/inner/a7/mean"
    assert re.fullmatch(rule.torch, "backXbone.a7.w") is None
    assert re.fullmatch(ignore.torch, "back.bone.junk")
    assert torch_key_of(rule, "batch_stats/body/inner/a7/mean") == "back.bone.a7.w"
    assert torch_key_of(rule, "params/body/inner/a7/mean") is None


def test_a_group_used_twice_must_agree():
    rule = KeyRule(r"x(\d)\.w", r"params/x\1/y\1", SAME)
    assert torch_key_of(rule, "params/x3/y3") == "x3.w"
    assert torch_key_of(rule, "params/x3/y4") is None


def leaves_of(model, side=32):
    variables = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)), jnp.zeros((1, 8, 2))
    )
    return flax.traverse_util.flatten_dict(variables, sep="/")


def torch_keys_of(model, leaves):
    """Every leaf's torch key, after checking that exactly one rule gives it and that it leads back to the
    leaf.
    """
    rules = [rule for rule in pooled_features.torch_keys(model) if isinstance(rule, KeyRule)]
    keys = {}
    for path in leaves:
        found = [
            (rule, key)
            for rule in rules
            if (key := torch_key_of(rule, path)) is not None and re.fullmatch(rule.torch, key)
        ]
        assert len(found) == 1, path
        rule, key = found[0]
        assert re.fullmatch(rule.torch, key).expand(rule.flax) == path
        keys[path] = key
    assert len(set(keys.values())) == len(leaves)
    return keys


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_leaf_of_every_backbone_has_one_torch_key(name):
    width = 16 if name.startswith("resnext") else 4  # ResNeXt's 32 groups have a channel each
    small = {"grid": 2} if name.startswith("vit") else {"width": width}
    model = Predictor(backbone=backbones.build(name, **small), hidden=5, features=6, attributes=3)
    torch_keys_of(model, leaves_of(model))


def test_every_leaf_of_the_projects_own_heads_has_one_torch_key():
    backbone = backbones.build("resnet18", width=4)
    model = Retriever(
        backbone=backbone,
        pooling="roi",
        global_pooling="average",
        features=8,
        landmark_source="predicted",
        landmark_head=HeatmapHead(features=8),
        roi_levels=(1,),
        ids=5,
        attributes=3,
        id_head="proxy",
    )
    keys = torch_keys_of(model, leaves_of(model))
    assert keys["params/landmark_head/merge/kernel"] == "landmark_head.merge.weight"
    assert keys["params/embed_extractor/proxies"] == "embed_extractor.proxies"


COARSE = {"hidden": 4096, "features": 4096, "attributes": 1000}
FINE_VGG = {"hidden": 1024, "features": 1024, "attributes": 26, "categories": 50}
FINE_RESNET = {**FINE_VGG, "features": 2048}
IN_SHOP = {"ids": 7982, "attributes": 463}
COUNTERS = 53  # num_batches_tracked of a ResNet-50
UNUSED_NORM = 5  # embed_extractor.bn.*
# model, backbone, fields -> keys of the published checkpoint that carry values, parameters in millions
PUBLISHED = [
    (Predictor, "vgg16", COARSE, 32, 138.36),
    (Predictor, "resnet50", COARSE, 324 - COUNTERS, 455.43),
    (Predictor, "vgg16", {**COARSE, "pooling": "roi"}, 36, 188.70),
    (Predictor, "resnet50", {**COARSE, "pooling": "roi"}, 328 - COUNTERS, 556.10),
    (Predictor, "vgg16", {**COARSE, "pooling": "roi", "attributes": 463}, 36, 186.50),
    (Predictor, "vgg16", FINE_VGG, 34, 41.53),
    (Predictor, "resnet50", FINE_RESNET, 326 - COUNTERS, 128.52),
    (Predictor, "vgg16", {**FINE_VGG, "pooling": "roi"}, 38, 47.83),
    (Predictor, "resnet50", {**FINE_RESNET, "pooling": "roi"}, 330 - COUNTERS, 170.47),
    (Retriever, "vgg16", IN_SHOP, 41 - UNUSED_NORM, 139.26),
    (Retriever, "vgg16", {"ids": 7982}, 39 - UNUSED_NORM, 137.36),
    (Retriever, "resnet50", IN_SHOP, 333 - COUNTERS - UNUSED_NORM, 456.33),
    (Retriever, "vgg16", {**IN_SHOP, "pooling": "roi"}, 45 - UNUSED_NORM, 189.60),
    (Retriever, "resnet50", {**IN_SHOP, "pooling": "roi"}, 337 - COUNTERS - UNUSED_NORM, 557.00),
    (Retriever, "vgg16", {"ids": 33881, "attributes": 303, "pooling": "roi"}, 45 - UNUSED_NORM, 195.60),
    (LandmarkDetector, "vgg16", {}, 36, 142.65),
    (LandmarkDetector, "resnet50", {}, 328 - COUNTERS, 459.73),
]


@pytest.mark.parametrize("kind, backbone, fields, keys, millions", PUBLISHED)
def test_zoo_models_have_the_published_keys_and_parameters(kind, backbone, fields, keys, millions):
    model = kind(backbone=backbones.build(backbone), **fields)
    leaves = leaves_of(model)
    assert len(torch_keys_of(model, leaves)) == keys
    count = sum(leaf.size for path, leaf in leaves.items() if path.startswith("params/"))
    assert count / 1e6 == pytest.approx(millions, abs=0.0051)
