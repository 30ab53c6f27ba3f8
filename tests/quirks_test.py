"""Every quirk does what docs/faithful.md says, and nothing while it is off."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments import attributes, common, landmarks
from fashionjax import quirks, tasks
from fashionjax.data import preprocess
from fashionjax.errors import UserError
from fashionjax.metrics import collect
from fashionjax.ops.landmark_pool import landmark_pool
from fashionjax.task import Context
from fashionjax.tasks import supervised

PLANE = np.add.outer(10 * np.arange(7.0), np.arange(7.0))[..., None].astype(np.float32)  # F[y, x] = 10 y + x


def picture(width=300, height=200) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(**fields) -> dict:
    """An upper garment: six slots used, the last two not."""
    landmark = np.zeros((8, 2), np.float32)
    landmark[:6] = np.linspace(0.2, 0.7, 12).reshape(6, 2)
    visibility = np.asarray([0, 1, 0, 0, 2, 0, 3, 3], np.int32)
    return {
        "image": picture(),
        "image_id": "img/a.jpg",
        "box": np.asarray([60, 40, 240, 170], np.float32),
        "landmark": landmark,
        "visibility": visibility,
        "attribute": np.asarray([1, 0, 1], np.uint8),
    } | fields


def config_with(*names, module=attributes, group=0):
    config = module.get_config()
    config.labels = {"attribute": ["a", "b", "c"]}
    config.quirks, config.images_per_gpu = names, group
    return config


def prepared(*names, rng=None, example=None) -> dict:
    return tasks.make(config_with(*names)).preprocess(example or record(), rng)


def test_tables_of_systems():
    assert len(quirks.QUIRKS) == sum(map(len, quirks.SYSTEMS.values()))  # no name in two tables
    assert set(quirks.METRIC_QUIRKS) <= set(quirks.QUIRKS)
    page = Path("docs/faithful.md").read_text()
    assert [name for name in quirks.QUIRKS if f"`{name}`" not in page] == []
    off = common.base()
    assert quirks.names_on(off) == [] and quirks.headline_prefix(off) == "standard/"
    del off.quirks  # as in configs of other projects
    assert quirks.names_on(off) == []
    with pytest.raises(KeyError):
        quirks.on(off, "s99")


@pytest.mark.parametrize("size", [0, -2])
def test_s3_needs_its_group(size):
    with pytest.raises(UserError, match=f"config.images_per_gpu={size}: s3_roi_scramble_group needs"):
        tasks.make(config_with("s3_roi_scramble_group", group=size))


@pytest.mark.parametrize("names", [("s99",), ("s1_random_crop_at_test", "s99"), (3,), "s99"])
def test_unknown_quirks_are_refused(names):
    config = config_with()
    config = ConfigDict(config.to_dict() | {"quirks": names})
    with pytest.raises(UserError, match=r"config\.quirks"):
        tasks.make(config)


# ------------------------------------------------------------------------------ S1, S2: the random chain
def test_off_evaluation_is_one_plain_resize():
    example = prepared()
    frame = (50.0, 30.0, 250.0, 180.0)
    plain = Image.fromarray(picture()).resize((224, 224), Image.Resampling.BILINEAR, box=frame)
    np.testing.assert_array_equal(example["image"], np.asarray(plain))
    points = (record()["landmark"][:6] * [300, 200] - frame[:2]) / [200, 150]
    np.testing.assert_allclose(example["landmark"][:6], points, atol=1e-6)


def test_s1_crops_at_random_and_replays():
    one, again = (prepared("s1_random_crop_at_test") for _ in range(2))
    np.testing.assert_array_equal(one["image"], again["image"])
    other = prepared("s1_random_crop_at_test", example=record(image_id="img/b.jpg"))
    assert not np.array_equal(one["image"], other["image"])
    config = config_with("s1_random_crop_at_test")
    config.seed = 1
    assert not np.array_equal(one["image"], tasks.make(config).preprocess(record(), None)["image"])


def test_s1_is_thumbnail_crop_resize_flip(monkeypatch):
    """The chain of PIL calls written out: (300 x 200) shrinks to (224 x 149), the frame may reach outside."""
    monkeypatch.setattr(preprocess, "random_resized_crop", lambda rng, w, h: (10, 20, 100, 90))
    rng = np.random.default_rng(0)
    frame = preprocess.zoo_frame(picture(), np.asarray([5, 0, 299, 195]), 10, clip=False)
    assert frame.tolist() == [0, 0, 309, 205]
    example = preprocess.place_at_random(record(), frame, picture(), 224, rng, move=False)
    want = Image.fromarray(picture()).crop((0, 0, 309, 205))
    want.thumbnail((224, 224), Image.Resampling.LANCZOS, reducing_gap=None)
    assert want.size == (224, 149)
    want = want.crop((10, 20, 110, 110)).resize((224, 224), Image.Resampling.BILINEAR)
    if np.random.default_rng(0).random() < 0.5:
        want = want.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    np.testing.assert_array_equal(example["image"], np.asarray(want))
    small = preprocess.place_at_random(
        record(), preprocess.whole_frame(picture(120, 110)), picture(120, 110), 224, rng, move=False
    )
    assert small["image"].shape == (224, 224, 3)  # not enlarged before the crop, 100 x 90 fits into 120 x 110


def test_random_resized_crop_is_torchvisions_rule():
    rng = np.random.default_rng(1)
    crops = np.array([preprocess.random_resized_crop(rng, 200, 150) for _ in range(4000)], float)
    left, top, width, height = crops.T
    assert (left >= 0).all() and (top >= 0).all()
    assert (left + width <= 200).all() and (top + height <= 150).all()
    area, ratio = width * height / 30000, np.log(width / height)
    assert 0.075 < area.min() < 0.1 and area.max() > 0.9
    assert abs(ratio).max() < np.log(4 / 3) + 0.05
    # a strip that no crop fits into: the largest central one within the ratios
    assert preprocess.random_resized_crop(rng, 1000, 3) == (498, 0, 4, 3)


def test_s1_moves_landmarks_with_the_picture_unless_s2(monkeypatch):
    monkeypatch.setattr(preprocess, "random_resized_crop", lambda rng, w, h: (0, 0, w // 2, h))
    still = prepared("s1_random_crop_at_test", "s2_landmark_not_moved")
    np.testing.assert_allclose(still["landmark"], prepared()["landmark"], atol=1e-6)
    moved = prepared("s1_random_crop_at_test")
    flipped = moved["landmark"][0, 0] != pytest.approx(2 * still["landmark"][0, 0], rel=1e-2)
    order = np.arange(8) ^ 1 if flipped else np.arange(8)
    for slot in range(6):
        x, y = still["landmark"][slot]
        x = 1 - 2 * x if flipped else 2 * x
        got = moved["landmark"][order[slot]]
        np.testing.assert_allclose(got, [max(x, 0), y], atol=0.02)
        assert moved["visibility"][order[slot]] == (still["visibility"][slot] and 0 <= x <= 1)
    assert not moved["landmark"][6:].any()


@pytest.mark.slow
def test_s2_on_the_device(tiny_config, tiny_batch):
    batch = {k: jnp.asarray(v) for k, v in tiny_batch.items()} | {"slot": jnp.arange(16)}
    moved = supervised.make_augment(tiny_config)(batch, jax.random.PRNGKey(0))
    tiny_config.quirks = ("s2_landmark_not_moved",)
    still = supervised.make_augment(tiny_config)(batch, jax.random.PRNGKey(0))
    np.testing.assert_array_equal(still["landmark"], batch["landmark"])
    assert not np.allclose(moved["landmark"], batch["landmark"])
    np.testing.assert_array_equal(moved["image"], still["image"])


# ------------------------------------------------------------------------------ S3, S4, S5, S6: landmarks
def pooled(landmark, maps, **options):
    return jax.vmap(lambda m, xy: landmark_pool(m, xy, **options))(maps, landmark)[..., 0]


def test_s3_mixes_centres_within_a_group():
    """Spec example: two images, F and F + 100; correct [[23.5, 11], [156, 132]]."""
    points = np.asarray([[[112, 64], [32, 32]], [[192, 160], [64, 96]]], np.float32) / 224
    maps = jnp.stack([PLANE, PLANE + 100])
    batch = {"landmark": jnp.asarray(points), "index": jnp.arange(2)}
    correct = quirks.roi_landmark(config_with(), batch)
    np.testing.assert_allclose(pooled(correct, maps), [[23.5, 11], [156, 132]], atol=1e-3)
    mixed = quirks.roi_landmark(config_with("s3_roi_scramble_group", group=2), batch)
    np.testing.assert_allclose(pooled(mixed, maps), [[63.5, 21], [152, 131]], atol=1e-3)
    alone = quirks.roi_landmark(config_with("s3_roi_scramble_group", group=1), batch)
    np.testing.assert_array_equal(alone, points)
    padded = batch | {"index": jnp.asarray([0, -1])}  # the last record of a split and padding
    alone = quirks.roi_landmark(config_with("s3_roi_scramble_group", group=2), padded)
    np.testing.assert_array_equal(alone, points)


def test_s4_scales_to_the_plane_twice():
    """Spec example: a point at (3.5, 2.0) of the 7-cell plane pools 0.7344 instead of 23.5."""
    image = picture(256, 256)
    landmark = np.zeros((8, 2), np.float32)
    landmark[0] = [3.5 / 7, 2.0 / 7]
    marked = record(landmark=landmark)
    frame = preprocess.whole_frame(image)
    twice = preprocess.twice_scaled(marked, frame, image)[None, :1]
    assert pooled(jnp.asarray(twice), jnp.asarray(PLANE)[None])[0, 0] == pytest.approx(0.7344, abs=1e-4)
    hidden = marked | {"visibility": np.ones(8, np.int64)}  # occluded: 0 0 in the original's lists
    assert not preprocess.twice_scaled(hidden, frame, image).any()
    once = preprocess.landmarks_in_frame(landmark, image, frame)[None, :1]
    assert pooled(jnp.asarray(once), jnp.asarray(PLANE)[None])[0, 0] == pytest.approx(23.5)


def test_s5_reaches_the_model(tiny_batch):
    config = attributes.get_config("pool=landmark")
    assert attributes_inputs(config, tiny_batch)["align_corners"] is False
    config.quirks = ("s5_align_corners",)
    assert attributes_inputs(config, tiny_batch)["align_corners"] is True


def attributes_inputs(config, batch):
    return tasks.attributes.model_inputs(config, batch)


def test_s6_is_the_list_of_the_prepare_script():
    """Spec example, from the raw row `1 5 0 101 201 1 102 202 0 103 203 0 104 204 2 105 205 0 106 206`."""
    image = picture(256, 256)
    points = np.zeros((8, 2), np.float32)
    points[:6] = [[101 + i, 201 + i] for i in range(6)]
    marked = record(landmark=points / 256, garment_type=0, variation=5)
    got = preprocess.shifted_landmarks(marked, image)
    pairs = np.round(got["landmark"] * 256).astype(int).ravel().tolist()
    assert pairs == [1, 5, 102, 202, 103, 203, 105, 205] + [0] * 8
    assert (got["visibility"] == 0).tolist() == [True] * 4 + [False] * 4
    plain = record()
    assert (
        preprocess.shifted_landmarks(plain, image) is plain
    )  # lists of the prepare script are shifted already


# ------------------------------------------------------------------------------ S8 … S14: labels, losses
def test_s8_zeroes_the_attributes():
    assert prepared()["attribute"].tolist() == [1, 0, 1]
    assert prepared("s8_attribute_zero")["attribute"].tolist() == [0, 0, 0]


def test_s9_has_the_floors_of_a_double_sigmoid():
    """Spec example z = [0, 2], v = [1, 0]: 0.8508, single 1.4100."""
    outputs = {"landmark": jnp.zeros((1, 2, 2)), "visibility_logits": jnp.asarray([[0.0, 2.0]])}
    batch = {"landmark": jnp.zeros((1, 2, 2)), "visibility": jnp.asarray([[1.0, 0.0]])}
    batch["example_weight"] = jnp.ones(1)
    terms = [
        tasks.landmarks.loss_terms(config_with(*on, module=landmarks), outputs, batch, {})
        for on in ((), ("s9_double_sigmoid",))
    ]
    assert [float(t["loss_visibility"]) for t in terms] == pytest.approx([1.4100, 0.8508], abs=1e-4)


def test_s11_averages_every_20th_batch():
    """Errors 0.1 in batch 0, 0.3 in batch 20, 5 elsewhere, two images a batch: 0.2."""
    error = np.full(21, 5.0)
    error[[0, 20]] = 0.1, 0.3
    predicted = np.zeros((42, 1, 2), np.float32)
    predicted[:, 0, 0] = np.repeat(error, 2)
    truth = {"landmark": np.zeros((42, 1, 2)), "visibility": np.ones((42, 1)), "example_valid": np.ones(42)}
    config = config_with("s11_every_20th_batch", module=landmarks)
    config.zoo_test_batch = 2
    whole = [({"landmark": predicted}, truth)]
    parts = [
        ({"landmark": predicted[rows]}, {name: values[rows] for name, values in truth.items()})
        for rows in (slice(0, 5), slice(5, 23), slice(23, 42))  # of other sizes than the zoo's batches
    ]
    for pairs in (whole, parts):
        found = collect.measure(tasks.attributes.metrics(config, Context()), pairs)
        assert found["zoo/landmark_ne"] == pytest.approx(0.2)
    config.quirks = ()
    found = collect.measure(tasks.attributes.metrics(config, Context()), parts)
    assert found["zoo/landmark_ne"] == pytest.approx(np.mean(error))


def test_s14_trains_on_the_mean_probability():
    outputs = {"attribute_logits": jnp.asarray([[0.0, 2.0]])}
    batch = {"attribute": jnp.asarray([[1, 0]]), "example_weight": jnp.ones(1)}
    config = config_with()
    terms = tasks.attributes.loss_terms(config, outputs, batch, {})
    assert float(terms["loss_attribute"]) == pytest.approx((np.log(2) + np.log1p(np.exp(2))) / 2, rel=1e-6)
    config.quirks = ("s14_mean_sigmoid_loss",)
    terms = tasks.attributes.loss_terms(config, outputs, batch, {})
    assert float(terms["loss_attribute"]) == pytest.approx((0.5 + 1 / (1 + np.exp(-2))) / 2, rel=1e-6)


@pytest.mark.parametrize("switch", ["s10_invisible_counts", "s12_best_50_attributes", "s13_share_of_matches"])
def test_metric_switches_say_what_a_run_is_headline_prefix(switch):
    assert quirks.headline_prefix(config_with()) == "standard/"
    assert quirks.headline_prefix(config_with(switch)) == "zoo/"
