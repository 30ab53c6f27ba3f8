"""Examples of detectors: sizes, boxes and masks that move together, padding, and batches in buckets."""

import json

import numpy as np
import pytest

from fashionjax.data import detection, samplers
from fashionjax.errors import UserError

RESIZE = {"short_train": (20,), "short_test": 20, "longest": 60, "flip": 0.0}
TRUTH = dict.fromkeys(("first_polygon", "box_from_mask", "drop_origin", "half_pixel"), False)


def record(boxes, height=10, width=20, crowd=None, segmentation=None):
    """A record with a rectangle as mask of each box."""
    rings = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    instance = {
        "category": np.arange(len(boxes)),
        "box": np.asarray(boxes, np.float32).reshape(-1, 4),
        "segmentation": [json.dumps(s) for s in (rings if segmentation is None else segmentation)],
        "area": np.ones(len(boxes), np.float32),
        "iscrowd": np.zeros(len(boxes), np.uint8) if crowd is None else np.asarray(crowd, np.uint8),
    }
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"image": image, "image_id": "a.jpg", "height": height, "width": width, "instance": instance}


def example(entry, *, form="polygon", objects=4, flip=0.0, train=True, inclusive=False, points=8):
    padding = detection.Padding(objects, form, 2, points)
    run = detection.make_preprocess(RESIZE | {"flip": flip}, padding, truth=TRUTH, inclusive=inclusive)
    return run(entry, np.random.default_rng(0) if train else None)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((600, 800), 800, 1333, (800, 1067)),  # detectron2: the shorter side becomes 800
        ((500, 1000), 800, 1333, (667, 1333)),  # the longer one is capped
        ((1101, 750), 750, 1101, (1101, 750)),  # the high-resolution In-shop images stay as they are
        ((256, 256), 750, 1101, (750, 750)),
        ((1, 5000), 800, 1333, (1, 1333)),
    ],
)
def test_resized_size(size, short, longest, expected):
    assert detection.resized_size(*size, short, longest) == expected


def test_boxes_and_rings_move_with_the_image():
    found = example(record([(2, 1, 6, 5)]))
    assert found["image"].shape == (20, 40, 3) and found["size"].tolist() == [20, 40]
    np.testing.assert_array_equal(found["truth_box"][0], [4, 2, 12, 10])
    np.testing.assert_array_equal(found["truth_ring"][0, 0, :4], [[4, 2], [12, 2], [12, 10], [4, 10]])
    assert found["truth_valid"].tolist() == [True, False, False, False]
    flipped = example(record([(2, 1, 6, 5)]), flip=1.0)
    np.testing.assert_array_equal(flipped["image"], found["image"][:, ::-1])
    np.testing.assert_array_equal(flipped["truth_box"][0], [28, 2, 36, 10])
    np.testing.assert_array_equal(flipped["truth_ring"][0, 0, :4, 0], [36, 28, 28, 36])


def test_inclusive_boxes_end_at_their_last_pixel():
    found = example(record([(2, 1, 20, 5)]), form="none", inclusive=True, flip=1.0)
    np.testing.assert_array_equal(found["truth_box"][0], [39 - 38, 2, 39 - 4, 8])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_bitmaps_are_the_mask_of_the_resized_image(flip):
    rle = {"size": [10, 20], "counts": [3 * 10 + 2, 4, 200 - 36]}  # column 3, rows 2..5
    found = example(record([(3, 2, 4, 6)], segmentation=[rle]), form="bitmap", flip=flip)
    bitmap = np.unpackbits(found["truth_bitmap"], axis=2)[0]
    assert bitmap.shape == (20, 40)
    columns = [6, 7] if not flip else [32, 33]
    expected = np.zeros((20, 40), np.uint8)
    expected[4:12, columns] = 1
    np.testing.assert_array_equal(bitmap, expected)
    with pytest.raises(UserError, match="mask_form=bitmap"):
        example(record([(3, 2, 4, 6)], segmentation=[rle]))


def test_crowds_and_objects_outside_are_left_out_and_too_many_are_drawn():
    boxes = [(2, 1, 6, 5), (25, 1, 30, 5), (0, 0, 3, 3), (1, 1, 4, 4)]
    found = example(record(boxes, crowd=[0, 0, 1, 0]))
    assert found["truth_valid"].sum() == 2 and found["truth_label"][:2].tolist() == [0, 3]
    nothing = example(record([]))
    assert not nothing["truth_valid"].any() and not nothing["truth_box"].any()
    many = example(record([(i % 10, 1, i % 10 + 2, 4) for i in range(300)]))
    assert many["truth_valid"].all() and len(set(many["truth_label"].tolist())) == 4
    assert "truth_box" not in example(record(boxes), train=False)


def test_a_wrong_size_names_both():
    entry = record([(2, 1, 6, 5)]) | {"height": 11}
    with pytest.raises(UserError, match=r"10 x 20 pixels, its annotations are of \(11, 20\)"):
        example(entry)


def test_long_rings_lose_the_points_that_matter_least():
    corners = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    along = np.concatenate([corners[:1], [[5, 0.01]], corners[1:3], [[4, 10.0]], corners[3:]])
    np.testing.assert_array_equal(detection.simplified(along, 4), corners)


def test_batches_are_padded_to_the_first_bucket_that_holds_them():
    buckets = detection.check_buckets(((64, 64), (32, 64), (64, 32)), 60)
    assert buckets[-1] == (64, 64)
    wide, tall = example(record([(2, 1, 6, 5)]), form="bitmap"), example(record([], 20, 10), form="bitmap")
    alone = detection.collate([wide, wide], buckets)
    mixed = detection.collate([wide, tall], buckets)
    assert alone["image"].shape == (2, 32, 64, 3) and mixed["image"].shape == (2, 64, 64, 3)
    assert mixed["truth_bitmap"].shape == (2, 4, 64, 8) and mixed["size"].tolist() == [[20, 40], [40, 20]]
    np.testing.assert_array_equal(mixed["image"][0, :20, :40], wide["image"])
    assert not mixed["image"][0, 20:].any() and not mixed["image"][0, :, 40:].any()
    for wrong, message in ((((60, 64),), "multiples of 32"), (((32, 64),), "must hold images")):
        with pytest.raises(UserError, match=message):
            detection.check_buckets(wrong, 60)


def test_orientations_come_together_and_every_position_is_used_once():
    landscape = np.arange(300) % 3 == 0
    order = samplers.Sampler(
        300, lambda seed, position: int(samplers.permutation(seed, position // 300, 300)[position % 300])
    )
    grouped = detection.by_orientation(order, landscape, 4)
    size = detection.WINDOW * 4
    rows = [grouped.at(1, position) for position in range(2 * size)]
    for start in (0, size):
        given = [order.at(1, position) for position in range(start, start + size)]
        assert sorted(rows[start : start + size]) == sorted(given)
        batches = landscape[np.asarray(rows[start : start + size])].reshape(-1, 4)
        assert (batches.any(1) & ~batches.all(1)).sum() <= 1
    again = detection.by_orientation(order, landscape, 4)
    assert again.at(1, size + 3) == rows[size + 3]  # also without the positions before
