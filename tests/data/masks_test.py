"""Masks on the host against pycocotools, numbers written out by hand, and the published formulas."""

import re

import numpy as np
import pytest
from pycocotools import mask as reference

from fashionjax.data import masks
from fashionjax.errors import UserError

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # columns 1..3, rows 1..2


def test_hand_written_polygon():
    got = masks.decode(masks.rle_from_polygons([SQUARE], 5, 5))
    expected = np.zeros((5, 5), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(got, expected)
    encoded = masks.encode(expected)
    assert masks.area(encoded) == 6 and masks.bounds(encoded).tolist() == [1, 1, 4, 3]
    assert masks.counts_from_string(encoded["counts"]).tolist() == [6, 2, 3, 2, 3, 2, 7]
    assert masks.polygon_area([SQUARE]) == 6 and masks.polygon_bounds([SQUARE]).tolist() == [1, 1, 4, 3]


def test_polygons_and_strings_equal_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rings = [rng.uniform(-15, 50, 2 * rng.integers(3, 12)).tolist() for _ in range(rng.integers(1, 4))]
        expected = reference.merge(reference.frPyObjects(rings, 37, 29))
        got = masks.rle_from_polygons(rings, 37, 29)
        assert got["counts"] == expected["counts"]
        runs = masks.counts_from_string(expected["counts"])
        assert runs.sum() == 37 * 29 and masks.string_from_counts(runs) == expected["counts"]
        uncompressed = {"size": [37, 29], "counts": runs.tolist()}
        assert masks.rle(uncompressed, 37, 29) == got == masks.rle(got, 37, 29)
        assert masks.rle(got | {"counts": got["counts"].decode()}, 37, 29) == got
        np.testing.assert_array_equal(masks.decode(got), reference.decode(expected).astype(bool))


def test_long_runs_survive():
    for runs in ([0, 5_000_000], [4_000_000, 1, 999_999], [1, 1, 1, 900_000, 1, 4_099_996]):
        text = masks.string_from_counts(runs)
        assert masks.counts_from_string(text).tolist() == runs
        np.testing.assert_array_equal(
            reference.area({"size": [5_000_000, 1], "counts": text}), sum(runs[1::2])
        )


def test_overlaps_equal_pycocotools():
    rng = np.random.default_rng(1)
    rles = [masks.encode(rng.random((9, 7)) < p) for p in (0, 0.2, 0.5, 1)]
    crowd = [0, 1, 0, 1]
    np.testing.assert_array_equal(masks.iou(rles, rles, crowd), reference.iou(rles, rles, crowd))
    assert masks.iou([], rles).shape == (0, 4)


def test_degenerate_polygons_are_empty():
    empty = masks.encode(np.zeros((4, 6), bool))
    for polygons in ([], [[]], [[1, 1, 3, 3]], [[10, 10, 20, 10, 20, 20]], [[-1e12, 9e11, -5, -5, -7, -7]]):
        assert masks.rle(polygons, 4, 6) == empty
    assert masks.area(masks.rle([[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]], 4, 6)) == 24
    assert masks.bounds(empty).tolist() == [0, 0, 0, 0] and masks.polygon_bounds([]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 2, 3, 4, 5]], "annotation 7: ring 0 has 5 values"),
        ([SQUARE, [1, 2, float("nan"), 4, 5, 6]], "annotation 7: ring 1 holds a value that is not finite"),
        ([["a", "b"]], "annotation 7: ring 0 of the segmentation is not a list of numbers"),
        ([[[1, 2], [3, 4]]], "annotation 7: ring 0 must be a flat list"),
        ("text", "annotation 7: segmentation must be polygons or an object"),
        (
            {"size": [5, 4], "counts": [20]},
            "annotation 7: RLE size [5, 4] but the image is 4 high and 5 wide",
        ),
        ({"size": [4, 5], "counts": [19]}, "annotation 7: RLE counts add up to 19, expected 4 * 5"),
        ({"size": [4, 5], "counts": [30, -10]}, "annotation 7: RLE counts add up to 20"),
        ({"size": [4, 5], "counts": None}, "annotation 7: RLE counts are neither"),
        ({"size": [4, 5], "counts": "oooo"}, "annotation 7: the compressed RLE is damaged"),
        ({"size": [4, 5], "counts": "é"}, "annotation 7: the compressed RLE holds a character outside"),
        ({"size": [4, 5], "counts": "00"}, "annotation 7: RLE counts add up to"),
    ],
)
def test_damaged_segmentation_names_the_annotation(segmentation, message):
    with pytest.raises(UserError, match=re.escape(message)):
        masks.rle(segmentation, 4, 5, "annotation 7")


def test_polygon_target_by_hand():
    # the left half of the box, 4x4 target
    got = masks.polygon_target([[10, 20, 15, 20, 15, 30, 10, 30]], [10, 20, 20, 30], 4)
    np.testing.assert_array_equal(got, np.array([[1, 1, 0, 0]] * 4, bool))
    assert not masks.polygon_target([], [0, 0, 5, 5], 4).any()
    assert not masks.polygon_target([SQUARE], [50, 50, 60, 60], 4).any()
    masks.polygon_target([SQUARE], [2, 2, 2, 2], 4)  # no side: divided by 0.1, not by 0


def naive_paste(probability, box, height, width):
    """torch's grid_sample(align_corners=False, zeros) at every pixel centre."""
    m, mask = len(probability), np.zeros((height, width))
    padded = np.pad(np.asarray(probability, np.float64), 1)
    for i in range(height):
        for j in range(width):
            y = (i + 0.5 - box[1]) / (box[3] - box[1]) * m - 0.5
            x = (j + 0.5 - box[0]) / (box[2] - box[0]) * m - 0.5
            if not (-1 < y < m and -1 < x < m):
                continue
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            fy, fx = y - y0, x - x0
            window = padded[y0 + 1 : y0 + 3, x0 + 1 : x0 + 3]
            mask[i, j] = np.array([1 - fy, fy]) @ window @ np.array([1 - fx, fx])
    return mask


@pytest.mark.parametrize(
    "box", [[2.3, 1.6, 11.2, 9.9], [-4, -3.5, 30, 5.2], [3, 3, 3.4, 8], [9.5, 9.5, 40, 40]]
)
def test_paste_samples_every_pixel_centre(box):
    probability = np.random.default_rng(2).random((7, 7)).astype(np.float32)
    value = naive_paste(probability, box, 12, 14)
    got = masks.paste(probability, box, 12, 14)
    sure = np.abs(value - 0.5) > 1e-5
    np.testing.assert_array_equal(got[sure], (value >= 0.5)[sure])


def test_paste_by_hand_and_degenerate():
    one = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(
        np.argwhere(masks.paste(one, [1, 1, 3, 3], 5, 5)), [[1, 1], [1, 2], [2, 1], [2, 2]]
    )
    # inclusive corners, truncated: 1..3
    legacy = masks.paste(one, [1.9, 1.2, 3.7, 3.1], 5, 5, legacy=True)
    assert legacy.sum() == 9 and legacy[1:4, 1:4].all()
    for box in ([3, 3, 3, 3], [4, 4, 2, 2], [50, 50, 60, 60], [np.nan] * 4):
        assert not masks.paste(one, box, 5, 5).any()
    assert masks.paste(one, [2, 2, 2, 2], 5, 5, legacy=True).sum() == 1
    assert masks.paste(one, [-90, -90, 90, 90], 5, 5).all()
    # > against >=
    half = np.full((2, 2), 0.5, np.float32)
    assert not masks.paste(half, [1, 1, 3, 3], 5, 5, legacy=True).any()
