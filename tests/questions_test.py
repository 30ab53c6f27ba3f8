"""What a report of outfits says of a model."""

import numpy as np
import pytest

from experiments import compatibility
from fashionjax import draw, questions


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("projection=mask", "type spaces by masks, Euclidean distance"),
        ("projection=fc", "type spaces by linear maps, learned metric"),
        ("projection=mask,faithful=zoo", "learned metric"),
        ("projection=fc,faithful=zoo", "fully-connected layer"),
        ("recipe=set", "set transformer"),
    ],
)
def test_c1_names_models_as_the_zoo_does(argument, name):
    assert questions.variant_name(compatibility.get_config(argument)) == name


def test_a_question_is_two_rows():
    picture = np.zeros((20, 10, 3), np.uint8)
    row = draw.picture_row([picture] * 3, [None, True, False], ["", "a", "b"], side=40)
    other = draw.picture_row([picture] * 2, [None] * 2, ["", ""], side=40)
    sheet = draw.stacked([other, row])
    assert sheet.shape == (row.shape[0] + other.shape[0], row.shape[1], 3)
    assert (sheet[: other.shape[0], other.shape[1] :] == 255).all()
    np.testing.assert_array_equal(sheet[other.shape[0] :], row)
