"""How recorded proposals, detections and masks are compared: as sets, by class and box."""

import json
from pathlib import Path

import numpy as np
import pytest

from fashionjax.parity import detection
from fashionjax.parity.results import load_arrays

FOLDER = Path(__file__).parents[1] / "fixtures" / "parity" / "d2_mask_rcnn_r50_fpn"
STORED = load_arrays(FOLDER / "outputs.npz")
BOX, LABEL, SCORE = (STORED[f"det_{name}"] for name in ("boxes", "classes", "scores"))


def test_rows_are_matched_in_any_order_by_class_and_box():
    order = np.random.default_rng(0).permutation(len(BOX))
    valid = np.ones(len(BOX), bool)
    found = detection.match_rows(BOX, LABEL, BOX[order], LABEL[order], valid)
    np.testing.assert_array_equal(order[found], np.arange(len(BOX)))
    valid[3] = False  # a slot that holds no detection
    assert detection.match_rows(BOX, LABEL, BOX[order], LABEL[order], valid)[order[3]] == -1
    other = np.where(LABEL[0] == LABEL, LABEL + 100, LABEL)
    gone = detection.match_rows(BOX, LABEL, BOX, other, np.ones(len(BOX), bool)) == -1
    np.testing.assert_array_equal(gone, LABEL[0] == LABEL)


@pytest.mark.parametrize(
    "name, change",
    [
        ("det_scores", lambda x: x + 0.002),
        ("det_classes", lambda x: x + 1),
        ("det_boxes", lambda x: np.where(np.arange(len(x))[:, None] < 10, np.nan, x)),  # without a match
        ("proposal_logits", lambda x: x * 1.01),
        ("det_mask_area", lambda x: x * 1.02),
        ("pasted_masks_packed", lambda x: ~x),
    ],
)
def test_other_values_fail(name, change):
    """What was recorded passes; the same a little off does not."""
    whole = STORED.get(name)
    if whole is None:  # a sample of a larger array
        size = int(STORED[f"{name}@stats"][4])
        whole = np.zeros(size, STORED[f"{name}@val"].dtype)
        whole[STORED[f"{name}@idx"]] = STORED[f"{name}@val"]
    for value, passes in ((whole, True), (change(whole), False)):
        _, error, bound = detection.difference(STORED, name, value)
        assert (error <= bound) is passes


def test_detections_of_the_recording_are_distinct():
    """Scores spread over several classes: a match says something."""
    names = {output["name"] for output in json.loads((FOLDER / "manifest.json").read_text())["outputs"]}
    assert {"fpn_p2", "rpn_objectness_p2", "proposal_boxes", "det_boxes", "det_mask_area"} <= names
    assert len(BOX) == 100 and len(set(LABEL.tolist())) == 5
    assert SCORE.max() - SCORE.min() > 0.1
