"""Device augmentation against Pillow, hand-made points and boxes, and the drawing rules' own bounds."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_rounded
from PIL import Image

from fashionjax.ops import augment as ops

RANDOM = np.random.default_rng(0)
resize = jax.jit(ops.crop_flip_resize, static_argnames=("out_hw", "within_crop"))
resize_mask = jax.jit(ops.crop_flip_resize_mask, static_argnames="out_hw")
move_points = jax.jit(ops.crop_flip_points)
move_boxes = jax.jit(ops.crop_flip_boxes, static_argnames="out_hw")
crop_box = jax.jit(ops.random_resized_crop_box, static_argnames=("scale", "ratio"))


def picture(h, w):
    """Smooth content plus noise, so that both interpolation and antialiasing matter."""
    y, x = np.mgrid[:h, :w]
    wave = 127 + 80 * np.sin(x[..., None] / np.array([3, 7, 11])) * np.cos(y[..., None] / np.array([5, 2, 9]))
    return np.clip(wave + RANDOM.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "crop,out_hw,flip",
    [((0, 0, 60, 50), (50, 60), False), ((7, 3, 55, 47), (24, 20), False), ((10, 5, 30, 40), (44, 40), True)],
)
def test_equals_pillow_crop_then_resize(crop, out_hw, flip):
    image = picture(50, 60)
    ours = resize(image, jnp.array(crop, jnp.float32), flip, out_hw)
    theirs = Image.fromarray(image).crop(crop).resize(out_hw[::-1], Image.Resampling.BILINEAR)
    theirs = np.asarray(theirs, np.float32)[:, ::-1] if flip else np.asarray(theirs, np.float32)
    assert np.abs(np.asarray(ours) - theirs).max() <= 1.0


def test_equals_pillow_box_with_fractions():
    image = picture(50, 60)
    box = (4.3, 2.75, 51.5, 44.2)
    ours = resize(image, jnp.array(box), False, (20, 24), within_crop=False)
    theirs = Image.fromarray(image).resize((24, 20), Image.Resampling.BILINEAR, box=box)
    assert np.abs(np.asarray(ours) - np.asarray(theirs, np.float32)).max() <= 1.0


def test_pixels_outside_the_picture_never_enter():
    image = picture(30, 40)
    canvas = np.full((64, 64, 3), 255, np.uint8)
    canvas[:30, :40] = image
    crop = jnp.array([20.0, 10, 40, 30])
    hw = jnp.array([30, 40])
    for within_crop in (True, False):
        inside = resize(image, crop, False, (15, 15), within_crop=within_crop)
        padded = resize(canvas, crop, False, (15, 15), hw, within_crop=within_crop)
        assert_rounded(padded, inside, operations=32, scale=255)  # 4 x 4 taps with normalised weights


def test_labels_move_with_the_image():
    """A bright dot, its landmark, the box around it and its mask end at the same place."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[30:34, 60:64] = 255
    crop = jnp.array([40.0, 10, 90, 60])
    for flip in (False, True):
        moved = resize(image, crop, flip, (100, 100))[..., 0]
        weight = np.asarray(moved) / np.asarray(moved).sum()
        centre = np.array(
            [(weight.sum(0) * (np.arange(100) + 0.5)).sum(), (weight.sum(1) * (np.arange(100) + 0.5)).sum()]
        )
        point, inside = move_points(jnp.array([[62 / 100, 32 / 80]]), crop, flip, (80, 100))
        box, valid = move_boxes(jnp.array([60.0, 30, 64, 34]), crop, flip, (100, 100))
        mask = resize_mask((image[None, ..., 0] > 0).astype(np.uint8), crop, flip, (100, 100))
        assert bool(inside[0]) and bool(valid) and mask.dtype == jnp.uint8
        np.testing.assert_allclose(point[0] * 100, centre, atol=0.05)
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, centre, atol=0.05)
        assert_rounded(box, [52 if flip else 40, 40, 60 if flip else 48, 48], operations=8, scale=100)
        rows, columns = np.nonzero(np.asarray(mask[0]))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == tuple(
            np.asarray(box).astype(int)
        )


def test_boxes_are_clipped_and_lost_ones_flagged():
    boxes = jnp.array([[0.0, 0, 20, 20], [0, 0, 9, 30], [15, 15, 60, 60]])
    moved, valid = move_boxes(boxes, jnp.array([10.0, 10, 30, 50]), False, (80, 40))
    assert_rounded(moved, [[0, 0, 20, 20], [0, 0, 0, 40], [10, 10, 40, 80]], operations=4)
    np.testing.assert_array_equal(valid, [True, False, True])


def test_flip_exchanges_pairs():
    value = jnp.arange(8)
    np.testing.assert_array_equal(ops.flip_landmark(value, True), [1, 0, 3, 2, 5, 4, 7, 6])
    np.testing.assert_array_equal(ops.flip_landmark(value, False), value)


def test_crop_boxes_follow_the_rule():
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.jit(jax.vmap(lambda key: ops.random_resized_crop_box(key, (90, 120), (0.2, 0.9))))
    boxes = np.asarray(draw(keys))
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes == boxes.round()).all() and (boxes[:, :2] >= 0).all()
    assert boxes[:, 2].max() <= 120 and boxes[:, 3].max() <= 90
    # Rounding sides to pixels moves the ratio and the area a little.
    assert (w / h > 0.72).all() and (w / h < 1.38).all()
    assert (w * h / (90 * 120) > 0.18).all() and (w * h / (90 * 120) < 0.92).all()
    assert boxes[:, 0].std() > 5 and (w * h).std() > 500


@pytest.mark.parametrize("hw,expected", [((200, 10), (0, 93, 10, 106)), ((10, 300), (143, 0, 156, 10))])
def test_crop_falls_back_to_the_centre(hw, expected):
    # No crop of at least 90 % of such a strip has an allowed ratio.
    np.testing.assert_array_equal(crop_box(jax.random.key(1), hw, scale=(0.9, 1.0)), expected)


def test_hue_equals_colorsys():
    image = RANDOM.uniform(size=(4, 5, 3)).astype(np.float32)
    image[0, 0] = 0.4  # grey has no hue
    moved = np.asarray(jax.jit(ops.shift_hue)(image, 0.3))
    for index in np.ndindex(4, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[index].astype(float))
        want = colorsys.hsv_to_rgb((hue + 0.3) % 1, saturation, value)
        assert_rounded(moved[index], want, operations=32, scale=6)  # of six sextants of hue


def test_colour_factors():
    image = jnp.full((6, 6, 3), 0.5).at[:3].set(0.1)
    keys = jax.random.split(jax.random.key(0), 8)

    def jitter(**amount):
        return np.asarray(jax.jit(jax.vmap(lambda key: ops.colour_jitter(key, image, **amount)))(keys))

    bright = jitter(brightness=0.4)
    factor = bright[:, 5, 5, 0] / 0.5
    assert factor.min() >= 0.6 and factor.max() <= 1.4 and factor.std() > 0.05
    assert_rounded(bright[:, 0, 0, 0] / 0.1, factor, operations=8)
    contrast = jitter(contrast=0.4)
    mean = np.asarray(image, np.float64).mean()
    got = contrast.astype(np.float64).mean(axis=(1, 2, 3))
    assert_rounded(got, np.full(8, mean), operations=image.size + 8, scale=1)
    assert contrast.std(axis=(1, 2, 3)).std() > 0.005
    # Colourless images have no saturation to change.
    assert_rounded(jitter(saturation=0.5), np.broadcast_to(image, (8, 6, 6, 3)), operations=16, scale=1)
    np.testing.assert_array_equal(ops.colour_jitter(jax.random.key(0), image), image)


@pytest.mark.slow
def test_random_erase():
    image = jnp.ones((40, 30, 3))
    shares = []
    erase = jax.jit(jax.vmap(lambda key: ops.random_erase(key, image, 1.0)[..., 0] == 0))
    for hole in np.asarray(erase(jax.random.split(jax.random.key(0), 40))):
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns)  # one rectangle
        shares.append(hole.mean())
    assert min(shares) > 0.01 and max(shares) < 0.36 and np.std(shares) > 0.02
    np.testing.assert_array_equal(ops.random_erase(jax.random.key(0), image, 0.0), image)


def test_normalise():
    image = np.array([[[0, 128, 255]]], np.uint8)
    want = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert_rounded(ops.normalise(image)[0, 0], want, operations=8, scale=1 / 0.224)
    assert ops.prepare_eval({"image": image, "category": 3}, "bfloat16")["image"].dtype == jnp.bfloat16


def test_normalise_for_keras():
    """Keras's caffe mode: BGR minus a mean, nothing divided."""
    image = np.asarray([[[10, 20, 30]]], np.uint8)
    want = [30 - 103.939, 20 - 116.779, 10 - 123.68]
    np.testing.assert_allclose(ops.normalise(image, form="caffe")[0, 0], want, rtol=1e-6)
    with pytest.raises(ValueError, match="normalisation must be one of"):
        ops.normalise(image, form="caffee")


def _batch(b=6):
    landmark = RANDOM.uniform(0.05, 0.95, (b, 8, 2)).astype(np.float32)
    landmark[:, 6:] = 0  # slots that an upper garment does not use
    visibility = np.ones((b, 8), np.float32)
    visibility[:, 5:] = 0
    return {
        "image": np.stack([picture(50, 50) for _ in range(b)]),
        "landmark": landmark,
        "visibility": visibility,
        "box": np.tile(np.array([[5, 5, 45, 45], [0, 0, 3, 3]], np.float32), (b, 1, 1)),
        "box_valid": np.tile([True, False], (b, 1)),
        "mask": RANDOM.integers(0, 2, (b, 2, 50, 50)).astype(bool),
        "category": np.arange(b),
    }


@pytest.mark.slow
def test_front_function_moves_everything_together():
    settings = ops.AugmentSettings(out_hw=(32, 40), scale=(0.3, 0.6), brightness=0.3, hue=0.1, erase=0.5)
    batch = _batch()
    keys = jax.random.split(jax.random.key(3), 6)
    result = jax.jit(jax.vmap(lambda key, example: ops.augment(key, example, settings)))(keys, batch)
    assert set(result) == set(batch)
    assert result["image"].shape == (6, 32, 40, 3) and result["image"].dtype == jnp.float32
    assert result["mask"].shape == (6, 2, 32, 40) and result["mask"].dtype == bool
    landmark, visibility = np.asarray(result["landmark"]), np.asarray(result["visibility"])
    np.testing.assert_array_equal(landmark[:, 6:], 0)
    outside = ((landmark < 0) | (landmark > 1)).any(-1)
    assert outside.any() and not visibility[outside].any()
    # Slot 5 alone was invisible in its pair: after a flip slot 4 is.
    assert not (visibility[:, 4] * visibility[:, 5]).any()

    # Each landmark is where the crop and the flip of the same key put it.
    def expected(key, points):
        crop_key, flip_key, _, _ = jax.random.split(key, 4)
        crop = ops.random_resized_crop_box(crop_key, (50, 50), settings.scale, settings.ratio)
        flip = jax.random.uniform(flip_key) < 0.5
        return ops.flip_landmark(ops.crop_flip_points(points, crop, flip, (50, 50))[0], flip)

    moved = jax.jit(jax.vmap(expected))(keys, batch["landmark"])
    assert_rounded(landmark[:, :6], moved[:, :6], operations=16, scale=4)  # points up to a few crops away
    assert not np.asarray(result["box_valid"])[:, 1].any() and np.asarray(result["box_valid"])[:, 0].all()
    np.testing.assert_array_equal(result["category"], batch["category"])


def test_unmoved_landmarks_and_picture_smaller_than_canvas():
    example = {
        "image": np.zeros((40, 40, 3), np.uint8),
        "image_hw": np.array([20, 30]),
        "landmark": np.array([[0.5, 0.5], [0.25, 0.75]], np.float32),
    }
    settings = {"out_hw": (16, 16), "scale": (1.0, 1.0), "ratio": (1.5, 1.5), "flip": 0.0}
    moved = jax.jit(lambda key: ops.augment(key, example, settings))(jax.random.key(0))
    assert_rounded(moved["landmark"], example["landmark"], operations=8, scale=1)
    np.testing.assert_array_equal(moved["image_hw"], [16, 16])
    settings = {"out_hw": (8, 8), "scale": (0.1, 0.2), "move_landmark": False}
    still = jax.jit(lambda key: ops.augment(key, example, settings))(jax.random.key(0))
    np.testing.assert_array_equal(still["landmark"], example["landmark"])


def test_full_crop_without_flip_is_a_plain_resize():
    image = picture(48, 48)
    settings = ops.AugmentSettings(out_hw=(24, 24), scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    ours = jax.jit(lambda key: ops.augment(key, {"image": image}, settings))(jax.random.key(0))["image"]
    resized = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR))
    assert np.abs(np.asarray(ours) - np.asarray(ops.normalise(resized))).max() <= 1.01 / 255 / 0.224


def test_the_dataset_names_the_slots_that_a_flip_exchanges():
    assert ops.flip_order(6).tolist() == [1, 0, 3, 2, 5, 4]
    assert ops.flip_order(5, [(0, 4), (1, 2)]).tolist() == [4, 2, 1, 3, 0]
    value = jnp.arange(5.0)
    assert ops.flip_landmark(value, True, ((0, 4),)).tolist() == [4, 1, 2, 3, 0]
    assert ops.flip_landmark(value, False, ((0, 4),)).tolist() == [0, 1, 2, 3, 4]


def test_blends_of_neighbours():
    """Mixup is the share over all pixels, CutMix a box of the partner's pixels with the rest's area; an
    unreadable partner and an odd last example leave the image alone."""
    count, size = 9, 16
    images = RANDOM.normal(size=(count, size, size, 3)).astype(np.float32)
    weight = np.ones(count, np.float32)
    weight[3] = 0
    batch = {"image": images, "slot": np.arange(count), "example_weight": weight}
    mixing = jax.jit(ops.mix, static_argnums=(2, 3))
    for mixup, cutmix in ((1.0, 0.0), (0.0, 1.0)):
        mixed, share, partner = map(np.asarray, mixing(jax.random.PRNGKey(3), batch, mixup, cutmix))
        np.testing.assert_array_equal(partner, [1, 0, 3, 2, 5, 4, 7, 6, 8])
        assert share[2] == 1 and share[8] == 1 and (mixed[[2, 8]] == images[[2, 8]]).all()
        for i in (0, 1, 4, 5, 6, 7):
            assert 0 <= share[i] <= 1
            if mixup:
                want = share[i] * images[i] + (1 - share[i]) * images[partner[i]]
                np.testing.assert_allclose(mixed[i], want, atol=1e-5)
                continue
            own = (mixed[i] == images[i]).all(-1)
            assert (own | (mixed[i] == images[partner[i]]).all(-1)).all()
            np.testing.assert_allclose(own.mean(), share[i], atol=1e-6)
            rows, columns = np.flatnonzero(~own.all(1)), np.flatnonzero(~own.all(0))
            if len(rows):
                assert not own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].any()  # one box
    mixed, share, _ = mixing(jax.random.PRNGKey(3), batch, 0.0, 0.0)
    assert (np.asarray(mixed) == images).all() and (np.asarray(share) == 1).all()
