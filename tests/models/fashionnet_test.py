"""FashionNet against a transcription in numpy, its pooling as meant and as executed, sizes and names."""

import fashionnet_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_conditioned, rounding

from fashionjax.models import backbones, fashionnet
from fashionjax.models.fashionnet import FashionNet, RoISettings
from fashionjax.models.torch_keys import prefixed
from fashionjax.weights.key_maps import fill, torch_shapes

pool = jax.jit(fashionnet.pool_rois, static_argnums=2)
LITERAL = RoISettings(True, True, True, True)
TERMS = 9 * 16  # products of the longest sum of the tiny model


def rules(model):
    return (*prefixed(backbones.keras_keys(model.backbone), "", "backbone"), *fashionnet.KERAS_KEYS)


def tiny(**fields) -> FashionNet:
    backbone = backbones.build("vgg16", width=2, stages=4)
    return FashionNet(backbone, categories=3, attributes=5, fc=8, green=4, **fields)


def template(model, side=32):
    image = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), image))


@pytest.fixture(scope="module")
def variables():
    model = tiny()
    filled, accounting = fill(template(model), fashionnet_numpy.draw(), rules(model))
    assert not accounting.problems() and accounting.leaves == accounting.tensors == len(
        fashionnet_numpy.shapes()
    )
    return filled


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("literal", [False, True])
def test_equals_the_transcription(variables, image, literal):
    def transcribed(weights, image):
        found = fashionnet_numpy.forward(weights, image, literal)
        lands = found["blue_lands"].reshape(3, 8, 5)
        return {
            "landmark_logits": lands,
            "landmark": 1 / (1 + np.exp(-lands[..., 3:])),
            "state_logits": lands[..., :3],
            "blue_category_logits": found["blue_cates"],
            "embedding": found["concate_activation"],
            "category_logits": found["concate_category"],
            "attribute_logits": found["attribute"],
        }

    got = jax.jit(tiny(roi=LITERAL if literal else RoISettings()).apply)(variables, image)
    arguments = fashionnet_numpy.draw(), image
    want = transcribed(*arguments)
    got.pop("roi")
    assert_conditioned(got, want, transcribed, *arguments, terms=TERMS)


def test_parts_compute_their_share_of_the_whole(variables, image):
    run, *parts = (jax.jit(tiny(part=part).apply) for part in ("whole", "blue", "red_green"))
    whole, blue, red_green = (part(variables, image) for part in (run, *parts))
    assert set(blue) == {"blue_category_logits", "landmark_logits", "landmark", "state_logits"}
    assert set(red_green) == {"category_logits", "attribute_logits", "embedding", "roi"}
    assert set(whole) == set(blue) | set(red_green)
    assert_conditioned(blue | red_green, whole, run, variables, image, terms=TERMS)
    with pytest.raises(ValueError, match="part must be one of"):
        tiny(part="green").apply(variables, image)


def test_as_executed_an_image_is_pooled_on_the_first_of_its_batch():
    rng = np.random.default_rng(2)
    feature = jnp.asarray(rng.standard_normal((2, 8, 8, 3)), jnp.float32)
    xy = jnp.asarray(rng.random((2, 4, 2)), jnp.float32)
    other = feature.at[1].set(0)
    for settings, same in ((LITERAL, True), (RoISettings(), False)):
        before, after = (pool(maps, xy, settings)[1] for maps in (feature, other))
        assert np.array_equal(before, after) == same


def test_pooling_by_hand():
    """A plane of 8 x 8 cells that holds 10 row + column; the landmark in its middle."""
    plane = (10.0 * jnp.arange(8)[:, None] + jnp.arange(8))[None, :, :, None]
    xy = jnp.full((1, 1, 2), 0.5)
    # centre at 3.5: samples at 2, 3 | 4, 5 of either axis
    assert pool(plane, xy)[0, 0, :, :, 0].tolist() == [[33, 35], [53, 55]]
    # corner at 0.5 * 7, side 4/8 * 7: 3.5 and 7
    read = RoISettings(two_points=True, corner=True)
    assert pool(plane, xy, read)[0, 0, :, :, 0].tolist() == [[38.5, 42], [73.5, 77]]
    outside = pool(plane, jnp.full((1, 1, 2), 0.6), read)[0, 0, :, :, 0]
    assert float(outside[0, 0]) == pytest.approx(4.2 * 11, abs=rounding(16, scale=77))
    assert outside[1].tolist() == [0, 0]
    assert fashionnet.rois(xy, (8, 8)).tolist() == [[[0.25, 0.25, 0.75, 0.75]]]


@pytest.mark.parametrize("settings", [RoISettings(), LITERAL])
def test_coordinates_get_a_gradient(settings):
    with jax.enable_x64(True):
        feature = jax.random.normal(jax.random.PRNGKey(0), (1, 8, 8, 2), jnp.float32).astype(jnp.float64)
        xy, step = jnp.asarray([[[0.31, 0.37]]], jnp.float64), 2.0**-20
        pooled = jax.jit(lambda xy: fashionnet.pool_rois(feature, xy, settings).sum())
        slope = jax.jit(jax.grad(pooled))(xy)
        for axis in range(2):
            ahead, behind = (pooled(xy.at[..., axis].add(sign * step)) for sign in (1, -1))
            # bilinear, so that differences are exact but for float64's 1e-15 over the step
            assert float(slope[0, 0, axis]) == pytest.approx(float(ahead - behind) / (2 * step), abs=1e-6)


def test_running_statistics_are_those_of_keras():
    x = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32) * 3 + 1
    norm = fashionnet.BatchNorm()
    variables = {"params": {"scale": np.ones(4, "f4"), "bias": np.zeros(4, "f4")}}
    variables["batch_stats"] = {"mean": np.zeros(4, "f4"), "var": np.ones(4, "f4")}
    apply = jax.jit(
        lambda running: norm.apply(variables, x, running, mutable=["batch_stats"]), static_argnums=0
    )

    def definition(x):
        x = x.astype(np.float64)
        mean, variance = x.mean(axis=0), x.var(axis=0)
        stats = {"mean": 0.01 * mean, "var": 0.99 + 0.01 * variance * 6 / (6 - 1.001)}
        return (x - mean) / np.sqrt(variance + 1e-3), {"batch_stats": stats}

    assert_conditioned(apply(False), definition(x), definition, x, terms=6)
    still = apply(True)[1]["batch_stats"]
    assert not np.any(still["mean"])


def test_sizes_and_names_of_the_original():
    model = FashionNet(backbones.build("vgg16", stages=4), categories=23, attributes=463)
    shapes = template(model, 224)
    sizes = {kind: sum(leaf.size for leaf in jax.tree.leaves(shapes[kind])) for kind in shapes}
    trunk = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]["backbone"]))
    assert sum(sizes.values()) == 263_682_917 and trunk + sizes["batch_stats"] == 7_661_888
    want = fashionnet_numpy.shapes(64, 4096, 1024, 23, 463, side=224)
    assert torch_shapes(shapes, rules(model)) == want
    assert want["green_fc1/kernel"] == (16384, 1024) and want["red_fc1/kernel"] == (25088, 4096)


def test_half_precision_is_inside_only():
    model = tiny(dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = template(model)
    outputs = jax.eval_shape(model.apply, variables, image)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs))} == {jnp.dtype("float32")}
