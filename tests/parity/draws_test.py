"""The draw rule against numbers stored with the recorded outputs: first values, norms, spot checks."""

import json

import numpy as np
import pytest

from fashionjax.parity import draws


def manifests(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/manifest.json"))]


@pytest.fixture(scope="module")
def stored(request):
    found = manifests(request.path.parents[1] / "fixtures" / "parity")
    assert found
    return found


def test_inputs_reproduce_the_stored_norms_and_first_values(stored):
    specs = {json.dumps(spec): spec for manifest in stored for spec in manifest["inputs"]}
    for spec in specs.values():
        array = draws.model_input(spec)
        np.testing.assert_allclose(array.ravel()[:4], spec["check_first"], rtol=1e-6)
        assert np.linalg.norm(array.astype(np.float64)) == pytest.approx(spec["check_l2"], rel=1e-6)


def test_weights_reproduce_the_stored_first_values(stored):
    for manifest in stored:
        shapes = {key: shape for key, shape, _ in manifest["state_dict"]}
        for key, first in manifest["state_dict_spot"].items():
            array = draws.weight(key, shapes[key], manifest["salt"])
            np.testing.assert_allclose(array.ravel()[:4], first, rtol=1e-6)


def test_a_whole_state_dict_has_the_stored_norm(stored):
    manifest = next(m for m in stored if m["name"] == "plain_resnet18_features")
    tensors = draws.state_dict(manifest)
    total = sum(np.sum(x.astype(np.float64) ** 2) for x in tensors.values() if x.dtype == np.float32)
    assert np.sqrt(total) == pytest.approx(manifest["state_dict_l2"], rel=1e-6)
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64


# Values as numpy drew them when the folders were recorded.
@pytest.mark.parametrize(
    "key, shape, salt, first",
    [
        ("backbone.conv1.weight", (64, 3, 7, 7), "", (0.131265476, 0.0480351672, -0.0431040265)),
        ("backbone.bn1.running_var", (64,), "", (1.00204778, 0.994812012, 1.08973026)),
        ("backbone.bn1.weight", (64,), "", (0.564609706, 0.883563161, 0.485685229)),
        ("fc.bias", (1000,), "demo:", (-0.0372648239, -0.00170523138, 0.0242120922)),
        ("backbone.features.0.weight", (64, 3, 3, 3), "demo:", (0.145887673, -0.110783979, -0.138914704)),
        ("pos_embed", (1, 197, 768), "", (0.00342220953, 0.0176124349, 0.0375513807)),
        ("type_specific_net.masks.weight", (66, 256), "", (1.1469847, 1.50384593, 1.19534779)),
    ],
)
def test_the_salt_enters_the_stream_and_the_key_the_scale(key, shape, salt, first):
    np.testing.assert_allclose(draws.weight(key, shape, salt).ravel()[:3], first, rtol=1e-6)


@pytest.mark.parametrize(
    "key, shape, deviation",
    [
        ("backbone.features.0.weight", (64, 3, 3, 3), 0.9 * (2 / 27) ** 0.5),
        ("attr_predictor.linear_attr.weight", (1000, 64), 0.5 * (2 / 64) ** 0.5),
        ("global_pool.global_layers.0.weight", (48, 25088), (2 / 25088) ** 0.5),
        ("fc.bias", (10,), 0.05),
        ("cls_token", (1, 1, 768), 0.02),
    ],
)
def test_recipes(key, shape, deviation):
    assert draws.recipe(key, shape) == ("normal", 0, pytest.approx(deviation))


def test_other_inputs_keep_their_ranges():
    def draw(how, shape, **spec):
        return draws.model_input({"name": "x", "key": "input:x", "shape": shape, "draw": how, **spec})

    integers = draw("integers", (500,), low=0, high=4, dtype="int64")
    assert set(integers) == {0, 1, 2, 3} and integers.dtype == np.int64
    pixels = draw("pixels", (3, 40, 50))
    assert pixels.min() >= 0 and pixels.max() <= 255 and np.all(pixels == np.floor(pixels))
    boxes = draw("boxes", (9, 4), width=100, height=60, append=[[1, 2, 3, 4]])
    assert np.all(boxes[:, 2:] > boxes[:, :2]) and np.all(boxes[:, 2] <= 100) and np.all(boxes[:, 3] <= 60)
    np.testing.assert_array_equal(boxes[-1], [1, 2, 3, 4])
    landmark = draw("landmarks", (2, 6), low=8, high=216, zero=[[1, 2]])
    np.testing.assert_array_equal(landmark[1, 4:], 0)
    assert landmark[0].min() >= 8
    assert draw("bernoulli", (1000,), p=0.3).mean() == pytest.approx(0.3, abs=0.05)
    assert draw("normal", (1000,), mean=2, std=3).std() == pytest.approx(3, rel=0.1)
    np.testing.assert_array_equal(draw("literal", (2, 2), values=[1, 2, 3, 4]), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="unknown recipe 'cauchy'"):
        draw("cauchy", (2,))
