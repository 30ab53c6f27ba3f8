"""Anchors against the tables that the originals' rules give."""

import numpy as np
import pytest
from close import assert_rounded

from fashionjax.ops import anchors


def test_current_anchors():
    expected = [[-22.627417, -11.313708, 22.627417, 11.313708], [-16, -16, 16, 16],
                [-11.313708, -22.627417, 11.313708, 22.627417]]  # fmt: skip
    assert_rounded(anchors.cell_anchors(32), expected, operations=16)


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        (4, [[-21, -9, 24, 12], [-14, -14, 17, 17], [-9, -21, 12, 24]]),
        (8, [[-41, -19, 48, 26], [-28, -28, 35, 35], [-19, -41, 26, 48]]),
        (16, [[-83, -37, 98, 52], [-56, -56, 71, 71], [-37, -83, 52, 98]]),
        (32, [[-165, -75, 196, 106], [-112, -112, 143, 143], [-75, -165, 106, 196]]),
        (64, [[-330, -149, 393, 212], [-224, -224, 287, 287], [-149, -330, 212, 393]]),
    ],
)
def test_legacy_anchors(stride, expected):
    np.testing.assert_array_equal(anchors.legacy_cell_anchors(stride), expected)


def test_grid_order_is_row_column_ratio():
    grid = anchors.grid(anchors.cell_anchors(32), 2, 3, 4)
    assert grid.shape == (18, 4)
    np.testing.assert_array_equal(grid[1], [-16, -16, 16, 16])
    np.testing.assert_array_equal(grid[4], [-12, -16, 20, 16])  # one column on
    np.testing.assert_array_equal(grid[10], [-16, -12, 16, 20])  # one row on


def test_grid_equals_a_loop():
    cell = anchors.legacy_cell_anchors(8, ratios=(0.5, 2.0))
    expected = [
        [x1 + 8 * column, y1 + 8 * row, x2 + 8 * column, y2 + 8 * row]
        for row in range(5)
        for column in range(4)
        for x1, y1, x2, y2 in cell
    ]
    np.testing.assert_array_equal(anchors.grid(cell, 5, 4, 8), expected)
    assert anchors.grid(cell, 0, 4, 8).shape == (0, 4)


def test_inside():
    anchor = np.array([[0, 0, 9, 9], [-1, 0, 5, 5], [0, 0, 10, 5], [0, 0, 9, 8]])
    assert anchors.inside(anchor, (9, 10)).tolist() == [False, False, False, True]
