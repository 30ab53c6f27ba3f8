"""What a report of outfits says of a model."""

import json

import numpy as np
import pytest
from close import rounding

from experiments import compatibility
from fashionjax.metrics import compatibility as outfit_metrics
from fashionjax.ops.type_spaces import PAIR_EPSILON, Spaces
from fashionjax.reports import compatibility as compatibility_report
from fashionjax.reports import draw
from fashionjax.tasks.compatibility import scoring


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
    assert compatibility_report.variant_name(compatibility.get_config(argument)) == name


def test_a_question_is_two_rows():
    picture = np.zeros((20, 10, 3), np.uint8)
    row = draw.picture_row([picture] * 3, [None, True, False], ["", "a", "b"], side=40)
    other = draw.picture_row([picture] * 2, [None] * 2, ["", ""], side=40)
    sheet = draw.stacked([other, row])
    assert sheet.shape == (row.shape[0] + other.shape[0], row.shape[1], 3)
    assert (sheet[: other.shape[0], other.shape[1] :] == 255).all()
    np.testing.assert_array_equal(sheet[other.shape[0] :], row)


def test_questions_and_type_pairs_are_written(tmp_path):
    """Points on a line, no type spaces: every number by hand."""
    embedding = np.asarray([[0.0], [1.0], [3.0], [7.0]], np.float32)
    items = outfit_metrics.Items(embedding, np.asarray([0, 1, 1, 0], np.int32), np.ones(4, bool))
    scorer = scoring.pair_scorer(Spaces(), np.zeros((2, 2), np.int32), ["bags", "hats"])
    tables = {
        "compatibility": [np.asarray(rows) for rows in ([0, 1], [2, 3], [1])],
        "compatibility_label": [1, 0, 0],
        "question": [np.asarray([0])],
        "answer": [np.asarray([2, 1])],
        "correct": [np.asarray([0, 1])],
    }
    scored = outfit_metrics.evaluate_outfits(scorer, items, tables.__getitem__)
    found = compatibility_report.Found(items, scorer, scored, ["bags", "hats"])
    files = compatibility_report.write(tmp_path, found, ["a", "b", "c", "d"])
    assert [file.name for file in files] == ["fill_in_blank.jsonl", "outfits.jsonl", "type_pairs.jsonl"]
    (question,), outfits, (pair,) = ([json.loads(line) for line in file.open()] for file in files)
    assert (question["question"], question["answers"], question["chosen"]) == (["a"], ["c", "b"], 1)
    bound = PAIR_EPSILON + rounding(2 + 8, scale=4)  # a difference, its square, the root
    assert question["scores"] == pytest.approx([-3, -1], abs=bound) and question["correct"] == [1]
    assert [outfit["score"] for outfit in outfits] == pytest.approx([0, -3, None], abs=bound)
    assert (pair["types"], pair["n_real"], pair["n_artificial"], pair["auc"]) == (["bags", "hats"], 1, 1, 1.0)
    assert [pair["mean_real"], pair["mean_artificial"]] == pytest.approx([1, 4], abs=bound)
