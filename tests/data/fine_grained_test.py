"""Examples of attribute-specific retrieval: region input, canvas, boxes, batches of several canvases."""

import numpy as np
import pytest
from PIL import Image

from fashionjax.data import fine_grained
from fashionjax.data.fine_grained import Canvas
from fashionjax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)


def test_region_input_is_resized_then_cut_at_the_rounded_centre():
    got = fine_grained.region_input(IMAGE, 32)
    resized = Image.fromarray(IMAGE).resize((47, 32), Image.Resampling.BILINEAR)  # int(32 * 90 / 61) wide
    np.testing.assert_array_equal(got, np.asarray(resized)[:, 8:40])  # (47 - 32) / 2 = 7.5, half to even
    tall = fine_grained.region_input(np.swapaxes(IMAGE, 0, 1), 32)
    assert tall.shape == (32, 32, 3)
    square = Image.fromarray(IMAGE[:, 14:75]).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fine_grained.region_input(IMAGE, 32, rounded=False), np.asarray(square))


def test_a_canvas_holds_the_square_and_what_lies_beside_it():
    found = fine_grained.on_canvas(IMAGE, Canvas(48, (40, 64, 96)), 32, training=False)
    canvas = found["canvas"]
    assert canvas.shape == (64, 64, 3)  # 61 + two pixels of the input
    np.testing.assert_array_equal(canvas[:61, :62], IMAGE[:, 14:76])
    assert not canvas[61:].any()
    assert found["pixels"].tolist()[:3] == [0, 1, 3] and found["pixels"][32] == 61  # int(v / 32 * 61)


def test_large_squares_are_shrunk_and_small_ones_kept():
    found = fine_grained.on_canvas(IMAGE, Canvas(48, (40,)), 32, training=True)
    square = Image.fromarray(IMAGE[:, 14:75]).resize((48, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found["canvas"], np.asarray(square))
    assert found["pixels"][32] == 48
    small = fine_grained.on_canvas(IMAGE, Canvas(80, (40,)), 32, training=True)
    np.testing.assert_array_equal(small["canvas"][:61, :61], IMAGE[:, 14:75])
    assert small["pixels"][32] == 61
    shrunk = fine_grained.on_canvas(IMAGE, Canvas(80, (40,)), 32, training=False)
    assert shrunk["canvas"].shape == (40, 40, 3) and shrunk["pixels"][32] == 40


def test_boxes_are_of_the_central_square():
    box = fine_grained.box_in_square(np.asarray([14, 0, 75, 61.0]), 61, 90)
    np.testing.assert_allclose(box, [0, 0, 1, 1])
    box = fine_grained.box_in_square(np.asarray([0, 30.5, 44.5, 80.0]), 61, 90)
    np.testing.assert_allclose(box, [0, 0.5, 0.5, 1])


def test_an_example_and_a_batch_of_two_sizes():
    run = fine_grained.make_preprocess(32, Canvas(48, (40, 64, 96)), rounded=True)
    record = {"image": IMAGE, "attribute": 1, "value": 2, "role": 1, "part_box": np.asarray([14, 0, 75, 61])}
    one, other = run(record, None), run(record | {"image": IMAGE[:30, :34]}, None)
    assert one["value"] == 2 and one["value"].dtype == np.int32 and one["part_box"].tolist() == [0, 0, 1, 1]
    assert other["canvas"].shape == (40, 40, 3)
    batch = fine_grained.collate([one, other])
    assert batch["canvas"].shape == (2, 64, 64, 3) and batch["pixels"].shape == (2, 34)
    np.testing.assert_array_equal(batch["canvas"][1, :40, :40], other["canvas"])
    assert not batch["canvas"][1, 40:].any()
    mirrored = fine_grained.make_preprocess(32, mirrored=lambda record: True)
    np.testing.assert_array_equal(mirrored(record, None)["image"], one["image"][:, ::-1])
    assert "canvas" not in mirrored(record, None)


@pytest.mark.parametrize("canvases", [(16, (40,)), (48, ()), (48, (64, 40)), (48, (16, 40))])
def test_canvases_that_cannot_be(canvases):
    with pytest.raises(UserError, match=r"config\.canvas_size"):
        fine_grained.check_canvases(*canvases, 32)
