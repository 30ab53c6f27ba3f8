"""The matrix of pairs as an image, and the page around it."""

import numpy as np

from fashionjax.outfit import page as outfit_page
from fashionjax.outfit.page import Candidate, Item
from fashionjax.reports import draw

DISTANCE = np.asarray([[0, 0.5, 0.2], [0.5, 0, 1.0], [0.2, 1.0, 0]])


def items(count=3):
    colours = [(200, 30, 30), (30, 160, 30), (30, 30, 200)] * count
    return [
        Item(f"<{n}>.jpg", "tops", 0.25 * n if n else None, np.full((80, 60, 3), colours[n], np.uint8))
        for n in range(count)
    ]


def cell(picture, row, column, side):
    return picture[row * side : (row + 1) * side, column * side : (column + 1) * side]


def test_matrix():
    picture = outfit_page.matrix(items(), DISTANCE, (1, 2))
    side = outfit_page.CELLS[1]
    assert picture.shape == (3 * side, 3 * side, 3) and picture.dtype == np.uint8
    for place, colour in (((0, 0), 1), ((1, 0), 2), ((2, 1), 0), ((2, 2), 1)):  # images left and below
        assert (cell(picture, *place, side)[side // 2, side // 2] == items()[colour].shown[0, 0]).all()
    darkness = {
        (i, j): 255 - cell(picture, i - 1, j + 1, side)[20, 20].mean() for i, j in ((1, 0), (2, 0), (2, 1))
    }
    assert darkness[2, 1] > darkness[1, 0] > darkness[2, 0]
    framed = lambda i, j: (cell(picture, i - 1, j + 1, side)[2, side // 2] == draw.WRONG).all()  # noqa: E731
    assert framed(2, 1) and not framed(1, 0) and not framed(2, 0)
    assert (cell(picture, 0, 2, side) == 255).all(), "nothing above the diagonal"


def test_matrices_of_two_of_equal_and_of_many():
    two = outfit_page.matrix(items(2), np.zeros((2, 2)), (0, 1))
    assert two.shape == (224, 224, 3)
    many = outfit_page.matrix(items(30), np.zeros((30, 30)), (0, 1))
    assert many.shape == (30 * outfit_page.CELLS[0],) * 2 + (3,)


def test_page_escapes_and_tells():
    picture = np.zeros((20, 20, 3), np.uint8)
    found = [Candidate(1, "a&b", 0.5, picture), Candidate(2, "c", -0.25, None)]
    page = outfit_page.render(
        items(),
        ["Compatibility <b>"],
        weakest=(0, 2),
        matrix_png=outfit_page.png(picture),
        missing=[("shoes", found)],
        notes=["The gallery has no hats."],
        command="fashionjax outfit score '<x>'",
    )
    assert "&lt;0&gt;.jpg" in page and "<0>" not in page and "Compatibility &lt;b&gt;" in page
    assert page.count('class="weak"') == 2 and "data:image/png;base64," in page
    assert "a&amp;b" in page and "-0.2500" in page and page.count("image not available") == 1
    assert "The gallery has no hats." in page and "http" not in page.replace("http-equiv", "")
    assert "given" in page and "predicted, 0.25" in page


def test_page_of_one_piece():
    page = outfit_page.render(items(1), ["no score"])
    assert "1 piece<" in page and "Pairs" not in page and "Made by" not in page
