"""Attribute-aware models against their definitions, and their PyTorch names."""

from functools import partial
from math import erf

import jax
import numpy as np
import pytest
from close import assert_conditioned, rounding

from fashionjax.models import region_patch, region_patch_keys
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.region_patch import ASENAttention, PatchBranch, RegionAttention, RegionPatch
from fashionjax.weights import key_maps

RNG = np.random.default_rng(0)


def norm(x, layer):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def linear(x, layer):
    return x @ layer["kernel"] + layer.get("bias", 0)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def wide(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def refined(h, p):
    inner = np.maximum(linear(norm(h, p["mlp_layer_norm"]), p["mlp"]["fc1"]), 0)
    return norm(h + linear(inner, p["mlp"]["fc2"]), p["mlp_layer_norm"])


def region_attention(params, f, e, projected):
    p, f, e = wide((params, f, e))
    x = norm(f, p["x_layer_norm"])
    mask = np.tanh(linear(norm(e, p["a_layer_norm"]), p["attr_transform1"]))
    weight = softmax((np.tanh(linear(x, p["conv"])) * mask[:, None]).sum(axis=-1) / np.sqrt(6))
    rest = (1 - weight) / 8
    pooled, pooled_rest = ((w[..., None] * x).sum(axis=1) for w in (weight, rest))
    if projected:
        pooled_rest = linear(pooled_rest, p["feature_fc"])
    return refined(linear(pooled, p["feature_fc"]), p), refined(pooled_rest, p), weight


@pytest.mark.parametrize("projected", [False, True])
def test_region_attention(drawn, projected):
    model = RegionAttention(8, 6, 5, project_complement=projected)
    f, e = RNG.normal(size=(2, 9, 8)).astype(np.float32), RNG.normal(size=(2, 4)).astype(np.float32)
    variables = drawn(model, f, e)
    definition = partial(region_attention, projected=projected)
    got, arguments = jax.jit(model.apply)(variables, f, e), (variables["params"], f, e)
    assert_conditioned(got, definition(*arguments), definition, *arguments, terms=9)


def asen_attention(params, f, a):
    p, f, a = wide((params, f, a))
    mask = np.tanh(linear(a, p["mask_fc1"]))
    weight = softmax(np.tanh(linear(np.tanh(linear(f, p["conv1"])) * mask[:, None], p["conv2"]))[..., 0])
    z = (weight[..., None] * f).sum(axis=1)
    gate = np.concatenate([z, np.maximum(linear(a, p["mask_fc2"]), 0)], axis=-1)
    gate = 1 / (1 + np.exp(-linear(np.maximum(linear(gate, p["fc1"]), 0), p["fc2"])))
    embedding = linear(z * gate, p["feature_fc"])
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True), weight


def test_asen_attention(drawn):
    model = ASENAttention(8, 6, 5)
    f, a = RNG.normal(size=(2, 9, 8)).astype(np.float32), np.eye(3, dtype=np.float32)[[2, 0]]
    variables = drawn(model, f, a)
    embedding, nothing, attention = jax.jit(model.apply)(variables, f, a)
    assert nothing is None
    arguments = variables["params"], f, a
    want = asen_attention(*arguments)
    assert_conditioned((embedding, attention), want, asen_attention, *arguments, terms=16)


def patch_behind(params, tokens, e):
    p, tokens, e = wide((params, tokens, e))
    kind = p["type_embed"][0]
    query = norm(linear(e, p["attr2query"]) + kind[0], p["cross_attention_norm"])
    tokens = norm(tokens[:, 1:] + kind[1], p["cross_attention_norm"])
    q = linear(query, p["cross_query"])
    k, v = (linear(tokens, p[f"cross_{name}"]) for name in ("key", "value"))
    mixed = np.zeros((2, 8))
    for head in (slice(0, 4), slice(4, 8)):
        weight = softmax((q[:, None, head] * k[..., head]).sum(axis=-1) / 2)
        mixed[:, head] = (weight[..., None] * v[..., head]).sum(axis=1)
    h = linear(linear(mixed, p["cross_out"]), p["fc"])
    inner = linear(norm(h, p["ffn_norm"]), p["ffn"]["fc1"])
    inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
    return norm(h + linear(inner, p["ffn"]["fc2"]), p["norm"])


def test_patch_branch_behind_the_transformer(drawn):
    vit = region_patch_keys.make_vit(width=8, depth=1, heads=2, patch=4, grid=2)
    model = PatchBranch(vit, 6, 5)
    crop, e = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32), RNG.normal(size=(2, 4)).astype(np.float32)
    variables = drawn(model, crop, e)
    run = jax.jit(lambda v: model.apply(v, crop, e, mutable=["intermediates"]))
    patch, state = run({"params": variables["params"]})
    arguments = variables["params"], np.asarray(state["intermediates"]["vit_tokens"][0]), e
    assert_conditioned(patch, patch_behind(*arguments), patch_behind, *arguments, terms=8)


def test_fused_embedding_mixes_cosines():
    a, b, c, d = RNG.normal(size=(4, 1, 5)).astype(np.float32).astype(np.float64)
    one, other = region_patch.fused(a, b, 0.3), region_patch.fused(c, d, 0.3)
    cosine = lambda x, y: float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))  # noqa: E731
    bound = rounding(5 + 8 + 1 + 10)  # unit rows of 5, their share, a sum of 10 products below 1
    assert float((one * other).sum()) == pytest.approx(0.3 * cosine(a, c) + 0.7 * cosine(b, d), abs=bound)
    assert float((one * one).sum()) == pytest.approx(1, abs=bound)


def small(variant="rpf", patch=False, **fields):
    backbone = ResNet(depth=18, width=2, stage_strides=region_patch.STRIDES)
    branch = None
    if patch:
        vit = region_patch_keys.make_vit(width=64, depth=2, heads=1, patch=4, grid=2)
        branch = PatchBranch(vit, 8, 5)
    widths = {"embedding": 8, "attribute_width": 6, "common": 4, "hidden": 5}
    return RegionPatch(backbone, 3, branch, variant, **(widths | fields))


@pytest.mark.parametrize(("variant", "patch"), [("rpf", False), ("rpf", True), ("asen", False)])
def test_names_are_a_bijection_and_say_which_model(drawn, variant, patch):
    """Variables → PyTorch's names → the model they need → the same variables."""
    from fashionjax.weights import recognise

    model = small(variant, patch)
    variables = drawn(model, np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.int32))
    tensors = key_maps.unfill(variables, region_patch_keys.torch_keys(model))
    found, rules = recognise.model_of({key: array.shape for key, array in tensors.items()})
    assert (found.variant, found.attributes, found.embedding) == (variant, 3, 8)
    assert (found.patch is None) == (not patch) and rules == region_patch_keys.torch_keys(found)
    template = jax.eval_shape(
        found.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.int32)
    )
    filled, _ = key_maps.fill(template, tensors, rules)
    jax.tree.map(np.testing.assert_array_equal, filled, variables)
