"""Heads: layouts, conversions, the heat-map head's geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded, assert_sums_close, rounding

from fashionjax.models import heads
from fashionjax.ops.landmark_pool import landmark_pool

RNG = np.random.default_rng(0)


def test_global_pooling_flattens_height_width_channels(drawn):
    x = RNG.normal(size=(2, 7, 7, 3)).astype(np.float32)
    module = heads.GlobalPooling(hidden=5, features=4)
    variables = drawn(module, x)
    first, last = (variables["params"][name] for name in ("global_layers_0", "global_layers_3"))
    hidden = np.maximum(x.reshape(2, -1) @ first["kernel"] + first["bias"], 0)
    want = np.maximum(hidden @ last["kernel"] + last["bias"], 0)
    assert_sums_close(jax.jit(module.apply)(variables, x), want, terms=147 + 5)


def test_dropout_is_drawn_in_training_only(drawn):
    x = RNG.normal(size=(2, 7, 7, 3)).astype(np.float32)
    module = heads.GlobalPooling(hidden=32, features=64)
    variables = drawn(module, x)
    calm = jax.jit(module.apply)(variables, x)
    rough = jax.jit(lambda key: module.apply(variables, x, True, rngs={"dropout": key}))(jax.random.key(1))
    assert ((rough == 0) & (calm > 0)).any() and (rough > 0).any()


def test_roi_pooling_is_landmark_major(drawn):
    x = RNG.normal(size=(2, 7, 7, 3)).astype(np.float32)
    landmark = RNG.uniform(size=(2, 8, 2)).astype(np.float32)
    module = heads.RoIPooling(features=4)
    variables = drawn(module, [x], landmark)
    pooled = np.stack([jax.jit(landmark_pool)(x[i], landmark[i]) for i in range(2)]).reshape(2, 24)
    layer = variables["params"]["linear_0"]
    want = np.maximum(pooled @ layer["kernel"] + layer["bias"], 0)
    assert_sums_close(jax.jit(module.apply)(variables, [x], landmark), want, terms=24)


@pytest.mark.slow
def test_several_maps_are_joined_per_landmark(drawn):
    maps = [RNG.normal(size=(2, side, side, c)).astype(np.float32) for side, c in ((12, 2), (6, 3))]
    landmark = RNG.uniform(size=(2, 8, 2)).astype(np.float32)
    module = heads.RoIPooling(features=4)
    variables = drawn(module, maps, landmark)
    pooled = [
        np.concatenate([landmark_pool(x[i], landmark[i]) for x in maps], axis=-1).reshape(-1)
        for i in range(2)
    ]
    layer = variables["params"]["linear_0"]
    want = np.maximum(np.stack(pooled).reshape(2, -1) @ layer["kernel"] + layer["bias"], 0)
    assert_sums_close(module.apply(variables, maps, landmark), want, terms=40)


def test_initial_values_are_the_originals():
    x = jnp.zeros((1, 512))
    attr = jax.jit(heads.AttrPredictor(1000).init)(jax.random.key(0), x)["params"]["linear_attr"]
    assert np.all(attr["bias"] == np.float32(0.01))
    limit = np.sqrt(6 / (512 + 1000))
    assert np.abs(attr["kernel"]).max() <= limit and np.abs(attr["kernel"]).max() > 0.99 * limit
    pool = jax.jit(heads.GlobalPooling(64, 8).init)(jax.random.key(0), jnp.zeros((1, 7, 7, 8)))["params"]
    assert np.std(pool["global_layers_0"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    assert np.all(pool["global_layers_0"]["bias"] == 0)


def test_landmark_regression_divides_its_pixels_by_224(drawn):
    x = RNG.normal(size=(2, 8, 6)).astype(np.float32)
    module = heads.LandmarkRegression()
    variables = drawn(module, x)
    layer = variables["params"]["linear"]
    want = (x @ layer["kernel"] + layer["bias"]) / 224
    assert_sums_close(jax.jit(module.apply)(variables, x), want, terms=6)


def test_landmark_vectors_are_landmark_major(drawn):
    x = RNG.normal(size=(2, 6)).astype(np.float32)
    module = heads.LandmarkFeatureExtractor(landmarks=8, features=3)
    variables = drawn(module, x)
    layer = variables["params"]["linear"]
    got = jax.jit(module.apply)(variables, x)
    assert got.shape == (2, 8, 3)
    want = x @ layer["kernel"][:, 5 * 3 + 1] + layer["bias"][5 * 3 + 1]
    assert_sums_close(got[:, 5, 1], want, terms=6)


def test_embedding_is_raw_by_default_and_identities_read_it(drawn):
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    module = heads.EmbedExtractor(embedding=4, ids=5)
    variables = drawn(module, x)
    embed, identity = (variables["params"][name] for name in ("embed_linear", "id_linear"))
    want = x @ embed["kernel"] + embed["bias"]
    got, logits = jax.jit(module.apply)(variables, x)
    assert_sums_close(got, want, terms=6)
    assert_sums_close(logits, want @ identity["kernel"] + identity["bias"], terms=6 + 4)


def test_proxies_give_cosines_of_unit_embeddings(drawn):
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    module = heads.EmbedExtractor(embedding=4, ids=5, normalise=True, id_head="proxy")
    variables = drawn(module, x)
    got, logits = jax.jit(module.apply)(variables, x)
    assert_rounded(np.linalg.norm(np.float64(got), axis=1), np.ones(3), operations=4 + 8 + 1)
    proxies = variables["params"]["proxies"]
    want = got @ (proxies / np.linalg.norm(proxies, axis=1, keepdims=True)).T
    assert_sums_close(logits, want, terms=4)
    with pytest.raises(ValueError, match="id_head"):
        jax.eval_shape(module.clone(id_head="arc").init, jax.random.key(0), x)
    assert jax.eval_shape(module.clone(ids=None).apply, variables, x)[1] is None


def test_soft_argmax_of_a_peak_is_its_cell_and_of_nothing_the_centre():
    heatmap = np.zeros((1, 4, 8, 2), np.float32)
    heatmap[0, 3, 1, 0] = 100
    weight, xy = heads.soft_argmax(jnp.asarray(heatmap))
    cells = 4 * 8 + 8 + 1  # a softmax: a sum over the map, exp, a quotient
    assert_rounded(xy[0], [[1.5 / 8, 3.5 / 4], [0.5, 0.5]], operations=cells + 32, scale=1)
    assert_rounded(np.float64(weight).sum(axis=(1, 2)), np.ones((1, 2)), operations=cells)
    assert weight[0, 3, 1, 0] == pytest.approx(1, abs=rounding(cells))


def test_soft_argmax_of_two_equal_peaks_is_their_middle():
    heatmap = np.zeros((1, 4, 4, 1), np.float32)
    heatmap[0, 0, 0], heatmap[0, 2, 3] = 100, 100
    _, xy = heads.soft_argmax(jnp.asarray(heatmap))
    assert_rounded(xy[0, 0], [(0.5 + 3.5) / 2 / 4, (0.5 + 2.5) / 2 / 4], operations=16 + 8 + 1 + 16, scale=1)


def test_heatmap_head_works_on_the_finest_of_its_levels(drawn):
    pyramid = tuple(RNG.normal(size=(2, s, s, c)).astype(np.float32) for s, c in ((12, 3), (6, 4), (3, 5)))
    module = heads.HeatmapHead(landmarks=8, features=6, levels=2)
    variables = drawn(module, pyramid)
    assert variables["params"]["lateral1"]["kernel"].shape == (1, 1, 4, 6)

    @jax.jit
    def run(variables, pyramid):
        return module.apply(variables, pyramid, capture_intermediates=lambda m, _: m.name == "heatmap")

    (xy, visibility), state = run(variables, pyramid)
    assert xy.shape == (2, 8, 2) and visibility.shape == (2, 8)
    assert state["intermediates"]["heatmap"]["__call__"][0].shape == (2, 6, 6, 8)
    assert np.all((xy > 0) & (xy < 1))
