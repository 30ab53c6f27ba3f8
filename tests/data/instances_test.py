"""Instance records → padded arrays, with each switch by numbers written out by hand."""

import json

import numpy as np
import pytest

from fashionjax.data import instances as lib
from fashionjax.data import samplers
from fashionjax.errors import UserError

RING = [2, 3, 12, 3, 12, 9]  # a triangle of 30 square pixels


def record(*segmentations, box=None, **fields):
    count = len(segmentations)
    box = [[1, 1, 15, 15]] * count if box is None else box
    values = {"category": list(range(count)), "area": [7.0] * count, "iscrowd": [0] * count} | fields
    text = [json.dumps(s).encode() for s in segmentations]
    return {"image_id": "a.jpg", "instance": {"segmentation": text, "box": box} | values}


def test_as_annotated_and_padded():
    found = lib.instances(record([RING], []), 4)
    assert found.box.tolist() == [[1, 1, 15, 15]] * 2 + [[0] * 4] * 2
    assert found.instance_valid.tolist() == [True, True, False, False]
    assert found.category.tolist() == [0, 1, 0, 0] and found.source.tolist() == [0, 1, -1, -1]
    assert found.area.tolist() == [7, 7, 0, 0] and found.segmentation == [[RING], []]
    assert (found.box.dtype, found.category.dtype) == (np.float32, np.int32)
    empty = lib.instances(record(), 3)
    assert empty.box.shape == (3, 4) and not empty.instance_valid.any() and empty.segmentation == []


def test_switches():
    other = [0, 0, 18, 4, 19, 19, 16, 2]
    given = record([RING, other])
    assert lib.instances(given, box_from_mask=True).box.tolist() == [[0, 0, 19, 19]]
    assert lib.instances(given, box_from_mask=True, first_polygon=True).box.tolist() == [[2, 3, 12, 9]]
    dropped = lib.instances(given, box_from_mask=True, drop_origin=True)
    assert dropped.box.tolist() == [[2, 2, 19, 19]] and dropped.segmentation[0][1] == other[2:]
    faithful = lib.instances(given, **lib.FR)
    assert faithful.box.tolist() == [[2, 3, 12, 9]] and faithful.area.tolist() == [30]
    assert faithful.segmentation == [[[v + 0.5 for v in RING]]]
    # the first ring has two points beside the origin: the object is left out, under the switch alone
    short = record([[0, 0, 3, 4, 5, 6], RING])
    assert not lib.instances(short, **lib.FR).instance_valid.any()
    assert lib.instances(short, drop_origin=True).segmentation == [[RING]]


def test_run_lengths_give_the_box_of_their_pixels():
    from fashionjax.data import masks

    mask = np.zeros((20, 20), bool)
    mask[4:9, 3:7] = True
    rle = masks.encode(mask)
    text = {"size": [20, 20], "counts": rle["counts"].decode()}
    found = lib.instances(record(text), box_from_mask=True)
    assert found.box.tolist() == [[3, 4, 7, 9]] and found.segmentation == [text]


def test_too_many_and_empty_boxes():
    box = [[0, 0, 4, 4], [0, 0, 9, 9], [0, 0, 5, 0], [0, 0, 20, 20], [0, 0, 8, 8]]
    found = lib.instances(record(*[[]] * 5, box=box, iscrowd=[0, 0, 0, 1, 0]), 2)
    assert found.source.tolist() == [1, 4]  # without a crowd, the empty box and the smallest, in their order
    assert lib.instances(record(*[[]] * 5, box=box)).source.tolist() == [0, 1, 3, 4]


def test_damaged_text_names_the_record():
    broken = record([RING])
    broken["instance"]["segmentation"] = ["[[1,"]
    with pytest.raises(UserError, match=r"^a.jpg: damaged segmentation"):
        lib.instances(broken)


def test_landmark_slots():
    marks = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    fields = {"category": [1, 0], "landmark": marks, "visibility": [[0, 1, 2], [1, 0, 3]]}
    landmark, visibility = lib.landmark_slots({"instance": fields}, (2, 3))
    assert visibility.tolist() == [[3, 3, 0, 1, 2], [1, 0, 3, 3, 3]]
    np.testing.assert_array_equal(landmark[0, 2:], marks[0])
    np.testing.assert_array_equal(landmark[1, :2], marks[1, :2])
    assert not landmark[0, :2].any() and not landmark[1, 2:].any()


def test_used_rows():
    category = [[1], [], [0, 1], [2]]
    assert lib.used_rows(category).tolist() == [0, 2, 3]
    assert lib.used_rows(category, [0, 0, 1, 0], shop_only=True).tolist() == [0, 3]
    assert lib.used_rows(category, with_objects=False).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="does not say which images"):
        lib.used_rows(category, shop_only=True)


def test_repeat_factors_by_hand():
    """Of four images with objects 4, 1 and 2 show the categories 0, 1 and 2."""
    category = [[0, 0], [0, 1], [0, 2, 2], [0, 2], []]
    expected = [1, 2, np.sqrt(2), np.sqrt(2), 0]  # threshold 1: sqrt(1 / f) of the rarest
    np.testing.assert_allclose(samplers.repeat_factors(category, 1.0), expected)
    np.testing.assert_allclose(samplers.repeat_factors(category, 0.25), [1, 1, 1, 1, 0])
    for wrong, message in (((category, 0.0), "above 0"), (([[], []], 1.0), "no image")):
        with pytest.raises(UserError, match=message):
            samplers.repeat_factors(*wrong)


def test_repeated_is_pure_and_has_the_right_frequencies():
    category = [[0, 0], [0, 1], [0, 2, 2], [0, 2], []]
    order = samplers.repeated(category, 1.0)
    assert order.epoch == 6
    drawn = np.array([order.at(5, position) for position in range(6000)])
    share = np.bincount(drawn, minlength=5) / len(drawn)
    expected = np.array([1, 2, np.sqrt(2), np.sqrt(2), 0])
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.02)
    # any position first, in a fresh sampler
    assert [samplers.repeated(category, 1.0).at(5, p) for p in (4321, 17)] == [drawn[4321], drawn[17]]
    assert (np.bincount(drawn[:4], minlength=5)[:2] <= [1, 2]).all()
    some = samplers.repeated(category, 1.0, rows=np.array([1, 3]))
    assert {some.at(0, p) for p in range(50)} == {1, 3}
