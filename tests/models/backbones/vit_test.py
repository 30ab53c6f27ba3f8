"""ViT: one block against numpy, position embeddings, the outputs' relation, Google's arrays."""

from math import erf

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned, assert_rounded, assert_sums_close

from fashionjax.models.backbones import vit
from fashionjax.models.backbones.vit import Block, ViT
from fashionjax.weights import key_maps

IMAGE = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
SMALL = {"width": 8, "depth": 4, "heads": 2, "grid": 2, "num_classes": 3}


def test_a_block_equals_its_definition():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    block = Block(heads=2)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(block.init, jax.random.key(0), x)["params"],
    )
    got = jax.jit(block.apply)({"params": params}, x)
    assert_conditioned(got, defined_block(params, x), defined_block, params, x, terms=4 * 8)


def defined_block(params, x):
    p, x = jax.tree.map(lambda leaf: leaf.astype(np.float64), (params, x))

    def norm(x, layer):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    def linear(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    qkv = linear(norm(x, p["norm1"]), p["attn_qkv"])
    q, k, v = qkv[..., :8], qkv[..., 8:16], qkv[..., 16:]
    mixed = np.zeros_like(x)
    for head in (slice(0, 4), slice(4, 8)):
        weight = np.exp(q[..., head] @ k[..., head].transpose(0, 2, 1) / np.sqrt(4))
        weight /= weight.sum(axis=-1, keepdims=True)
        mixed[..., head] = weight @ v[..., head]
    x = x + linear(mixed, p["attn_proj"])
    hidden = linear(norm(x, p["norm2"]), p["mlp_fc1"])
    hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
    return x + linear(hidden, p["mlp_fc2"])


def test_positions_keep_the_class_token_and_the_grid_of_their_own_size():
    positions = jax.random.normal(jax.random.key(0), (1, 1 + 9, 4))
    assert vit.resize_positions(positions, 3, 3) is positions
    resized = vit.resize_positions(positions, 5, 4)
    assert resized.shape == (1, 21, 4)
    np.testing.assert_array_equal(resized[:, 0], positions[:, 0])
    flat = jnp.concatenate([positions[:, :1], jnp.full((1, 9, 4), 2.5)], axis=1)
    # the weights of either axis, cubic polynomials of at most 3 places, are brought to the sum 1
    assert_rounded(vit.resize_positions(flat, 6, 2)[:, 1:], np.full((1, 12, 4), 2.5), operations=2 * (8 + 3))


def test_positions_are_resized_as_pytorchs_antialiased_bicubic(request):
    stored = np.load(request.path.parents[2] / "fixtures" / "vit_positions.npz")
    for name in ("larger", "smaller", "oblong"):
        h, w = stored[f"{name}_size"]
        got = vit.resize_positions(stored["positions"], int(h), int(w))
        # either axis: at most 8 taps, weights of a polynomial whose place is off by roundings of 5 cells
        assert_rounded(got, stored[name], operations=2 * (8 + 5 * 8))


def test_pyramid_tokens_and_logits_belong_together(drawn):
    module = ViT(**SMALL)
    variables = drawn(module, IMAGE)

    def run(v, x):
        return module.apply(v, x), *(module.apply(v, x, method=name) for name in ("tokens", "logits"))

    pyramid, tokens, logits = jax.jit(run)(variables, IMAGE)
    assert [level.shape for level in pyramid] == [(2, 2, 2, 8)] * 4
    assert_sums_close(pyramid[-1].reshape(2, 4, 8), tokens[:, 1:], 4 * 8)  # the last block is computed twice
    head = variables["params"]["head"]
    assert_sums_close(logits, tokens[:, 0] @ head["kernel"] + head["bias"], terms=8)
    # another image size: the same parameters, an interpolated grid
    larger = jax.eval_shape(module.apply, variables, np.zeros((1, 64, 48, 3), np.float32))
    assert larger[-1].shape == (1, 4, 3, 8)


def google_arrays(torch_tensors):
    """The same weights as a Google checkpoint holds them, from timm's names."""
    arrays = {}
    for key, x in torch_tensors.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            stem = f"Transformer/encoderblock_{parts[1]}"
            attention = f"{stem}/MultiHeadDotProductAttention_1"
            kind = {"weight": "kernel", "bias": "bias"}[parts[-1]]
            if parts[3] == "qkv":
                for name, part in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                    shape = (8, 2, 4) if kind == "kernel" else (2, 4)
                    arrays[f"{attention}/{name}/{kind}"] = part.T.reshape(shape)
            elif parts[3] == "proj":
                arrays[f"{attention}/out/{kind}"] = x.T.reshape(2, 4, 8) if kind == "kernel" else x
            elif parts[2] == "mlp":
                arrays[f"{stem}/MlpBlock_3/Dense_{int(parts[3][2]) - 1}/{kind}"] = x.T
            else:
                norm = {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}[parts[2]]
                arrays[f"{stem}/{norm}/{'scale' if kind == 'kernel' else 'bias'}"] = x
    arrays["cls"] = torch_tensors["cls_token"]
    arrays["Transformer/posembed_input/pos_embedding"] = torch_tensors["pos_embed"]
    arrays["embedding/kernel"] = torch_tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    arrays["embedding/bias"] = torch_tensors["patch_embed.proj.bias"]
    arrays["Transformer/encoder_norm/scale"] = torch_tensors["norm.weight"]
    arrays["Transformer/encoder_norm/bias"] = torch_tensors["norm.bias"]
    arrays["head/kernel"], arrays["head/bias"] = torch_tensors["head.weight"].T, torch_tensors["head.bias"]
    return arrays


def test_google_arrays_fill_the_same_leaves_as_timm_tensors():
    module = ViT(**SMALL)
    template = jax.eval_shape(module.init, jax.random.key(0), IMAGE)
    rng = np.random.default_rng(2)
    tensors = {
        key: rng.normal(size=shape).astype(np.float32)
        for key, shape in key_maps.torch_shapes(template, vit.TORCH_KEYS).items()
    }
    want, _ = key_maps.fill(template, tensors, vit.TORCH_KEYS)
    got, accounting = key_maps.fill(template, vit.merge_qkv(google_arrays(tensors)), vit.NPZ_KEYS)
    assert accounting.leaves == len(flax.traverse_util.flatten_dict(template))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_google_block_without_its_key_is_reported():
    stem = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    arrays = {f"{stem}/{name}/kernel": np.zeros((8, 2, 4), np.float32) for name in ("query", "value")}
    assert vit.merge_qkv(arrays).keys() == arrays.keys()


def test_google_layouts_are_only_read():
    layout = next(rule.layout for rule in vit.NPZ_KEYS if "qkv/kernel" in rule.flax)
    with pytest.raises(TypeError, match="never written"):
        layout.to_torch(np.zeros((8, 24)))
