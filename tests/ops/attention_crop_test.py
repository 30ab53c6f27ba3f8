"""From attention to boxes and pixels: worked boxes, Pillow's crops, the recorded rule's edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from fashionjax.data.fine_grained import pixel_table
from fashionjax.ops import attention_crop

SIZE = 224


@pytest.fixture(scope="module")
def square():
    return jax.jit(lambda attention: attention_crop.square_box(attention, 0.1, SIZE))


def peak(row, column, cells=14):
    attention = np.full((cells, cells), 1e-4, np.float32)
    attention[row, column] = 1
    return attention


def test_a_peak_gives_a_box_around_its_cell(square):
    x, y, d = map(int, square(peak(6, 3)))
    assert 22 <= d <= 32  # a cell has 16 px, and its slopes count above a tenth
    assert abs(x + d / 2 - 3.5 * 16) <= 1 and abs(y + d / 2 - 6.5 * 16) <= 1


def test_boxes_at_the_border_stay_inside(square):
    for row, column in ((0, 0), (0, 13), (13, 0), (13, 13)):
        x, y, d = map(int, square(peak(row, column)))
        assert min(x, y) >= 0 and max(x, y) + d <= SIZE + 1


def test_two_peaks_share_a_box_and_a_constant_map_takes_all(square):
    _, y, d = map(int, square(peak(2, 2) + peak(11, 4)))
    assert d >= 9 * 16 and y <= 2.5 * 16 and y + d >= 11 * 16
    assert tuple(map(int, square(np.full((14, 14), 1 / 196, np.float32)))) == (0, 0, SIZE)


def test_clamped_boxes_end_inside():
    """An odd side whose centre is half of it away from the far edge ends one past the input."""
    attention = np.random.default_rng(1).random((400, 14, 14), np.float32) ** 30
    pixels = np.tile(pixel_table(SIZE, 1000), (400, 1))

    def boxes(clamp):
        run = jax.jit(lambda a, p: attention_crop.crop_boxes(a, p, 0.1, clamp=clamp))
        return np.asarray(run(attention, pixels))

    free, clamped = boxes(False), boxes(True)
    assert free.max() > 1000 >= clamped.max() and clamped.min() >= 0
    inside = (free <= 1000).all(axis=1)
    np.testing.assert_array_equal(clamped[inside], free[inside])


def test_pixels_are_pillows_within_one_level():
    rng = np.random.default_rng(0)
    cut = jax.jit(lambda canvas, box: attention_crop.crop(canvas, box, 96))
    for _ in range(12):
        side = int(rng.integers(60, 250))
        canvas = np.zeros((256, 256, 3), np.uint8)
        canvas[:side, :side] = rng.integers(0, 256, (side, side, 3))
        d = int(rng.integers(8, side + 1))
        x, y = (int(v) for v in rng.integers(0, side - d + 2, 2))  # at most one past the image: black
        box = (x, y, x + d, y + d)
        image = Image.fromarray(canvas[:side, :side])
        want = np.asarray(image.crop(box).resize((96, 96), Image.Resampling.BILINEAR), np.int32)
        got = np.asarray(cut(canvas, jnp.asarray(box, jnp.int32)), np.int32)
        assert np.abs(got - want).max() <= 1 and (got != want).mean() < 0.02
