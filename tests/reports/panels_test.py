import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.metrics.classification import category_rows
from fashionjax.metrics.labels import LabelMetrics
from fashionjax.reports import attributes, draw, landmarks, panels, report
from fashionjax.task import Context

NAMES = {"category": ["Tee", "Skirt", "Dress"], "attribute": ["striped", "dotted", "lace"]}


def by_title(found):
    return {panel.title: panel for panel in found}


def gray(index):
    return np.full((48, 32, 3), 40 + index, np.uint8)


def test_confusion_and_surest_mistakes():
    logits = np.array([[4.0, 0, 0], [4, 0, 0], [0, 1, 0], [3, 0, 2], [0, 0, 5]])
    category = np.array([0, 1, 1, 2, 2])
    found = by_title(
        attributes.classification_panels(
            category_rows(logits, category), NAMES["category"], gray, list("abcde")
        )
    )
    np.testing.assert_array_equal(found["Category confusion"].counts, [[1, 0, 0], [1, 1, 0], [1, 0, 1]])
    assert [row[:3] for row in found["Most frequent confusions"].rows] == [
        ["Skirt", "Tee", 1],
        ["Dress", "Tee", 1],
    ]
    rows = found["Results per category"].rows
    assert [row[:2] for row in rows] == [["Tee", 1], ["Skirt", 2], ["Dress", 2]]
    np.testing.assert_allclose(
        [row[2:] for row in rows], [[1, 1 / 3, 1 / 2], [1 / 2, 1, 2 / 3], [1 / 2, 1, 2 / 3]]
    )
    texts = [text for _, text in found["Category: surest mistakes"].tiles]
    assert texts == ["Skirt, taken for Tee (0.96) · b", "Dress, taken for Tee (0.71) · d"]


def test_a_perfect_model_has_no_mistakes_to_show():
    found = by_title(
        attributes.classification_panels(category_rows(np.eye(3), np.arange(3)), NAMES["category"], gray)
    )
    assert set(found) == {"Category confusion", "Results per category"}


def test_attributes_are_ordered_by_average_precision():
    logits = np.array([[1.0, 3, 0], [2, 2, 0], [3, 1, 0]])
    attribute = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    (bars,) = attributes.attribute_panels(logits, attribute, NAMES["attribute"])
    assert bars.names == ["dotted", "striped", "lace"]
    np.testing.assert_allclose(bars.values, [1, 1 / 3, np.nan])
    np.testing.assert_allclose(bars.reference, [1 / 3, 1 / 3, 0])


def test_landmarks_best_and_worst():
    truth = np.full((5, 2, 2), 0.5)
    offset = np.array([0.02, 0.2, 0.0, 0.1, 0.3])
    prediction = truth + np.stack([offset, 0 * offset], -1)[:, None]
    visibility = np.ones((5, 2))
    visibility[4] = 0  # nothing to measure: neither best nor worst
    visibility[1, 1] = 0
    found = by_title(
        landmarks.landmark_panels(gray, truth, visibility, prediction, ids=list("abcde"), count=2)
    )
    assert [t for _, t in found["Landmarks: best examples"].tiles] == ["error 0.000 · c", "error 0.020 · a"]
    assert [t for _, t in found["Landmarks: worst examples"].tiles] == ["error 0.200 · b", "error 0.100 · d"]
    picture = found["Landmarks: worst examples"].tiles[0][0]
    for colour, x in ((draw.TRUTH, 0.5), (draw.PREDICTION, 0.7)):
        at = np.argwhere(np.abs(picture.astype(int) - colour).max(-1) < 4).mean(0)
        np.testing.assert_allclose(at / picture.shape[:2], [0.5, x], atol=0.02)
    np.testing.assert_allclose(
        found["Landmark error per slot"].values, [(0.02 + 0.2 + 0.1) / 4, 0.12 / 3], atol=1e-12
    )
    limits, share = found["Landmarks within a distance"].series["model"]
    assert share[limits.index(0.1)] == pytest.approx(6 / 7) and share[-1] == 1.0


def test_no_example_is_both_best_and_worst():
    for n in range(1, 6):
        truth = np.zeros((n, 2, 2))
        prediction = truth + np.arange(n)[:, None, None] / 10
        found = by_title(landmarks.landmark_panels(gray, truth, np.ones((n, 2)), prediction, count=8))
        tiles = [panel for title, panel in found.items() if isinstance(panel, panels.Tiles)]
        assert sum(len(panel.tiles) for panel in tiles) == n


def test_panels_follow_the_keys():
    """One stream in two batches; what it predicts and labels is shown."""
    prediction = {
        "category_logits": np.eye(3)[[0, 1, 1]],
        "attribute_logits": np.zeros((3, 3)),
        "landmark": np.full((3, 8, 2), 0.5),
    }
    truth = {
        "index": np.arange(3),
        "example_valid": np.ones(3, bool),
        "category": np.arange(3),
        "attribute": np.eye(3, dtype=np.uint8),
        "landmark": np.full((3, 8, 2), 0.4),
        "visibility": np.ones((3, 8)),
    }
    context = Context(config=ConfigDict({"labels": NAMES}), split="test", image=gray)

    def shown(prediction):
        metrics = LabelMetrics()
        report = attributes.LabelReport(context, metrics)
        for rows in (slice(0, 2), slice(2, 3)):
            pair = ({k: v[rows] for k, v in side.items()} for side in (prediction, truth))
            metrics.update(*pair)
        return by_title(report.panels())

    everything = shown(prediction)
    assert len(everything) == 9
    worst = everything["Landmarks: worst examples"].tiles
    assert any("Dress, taken for Skirt" in text and "test[2]" in text for _, text in worst)
    only = shown({"landmark": prediction["landmark"]})
    kinds = {"Landmarks: best examples", "Landmarks: worst examples"}
    assert set(only) == kinds | {"Landmarks within a distance", "Landmark error per slot"}
    assert shown({"embedding": np.zeros((3, 4))}) == {}


def test_training_curves(tmp_path):
    log, evaluations = tmp_path / "metrics.jsonl", tmp_path / "evaluations.jsonl"
    lines = [json.dumps({"step": s, "loss": 1 / s, "lr": 0.1, "grad_norm": 2.0}) for s in (10, 20, 30)]
    log.write_text("\n".join(lines) + '\n{"step": 40, "lo')
    tracked = {
        "standard/category_top1": 0.5,
        "standard/attribute_map": float("nan"),
        "zoo/category_recall@5": 50,
    }
    evaluations.write_text(json.dumps({"step": 20, **tracked}) + "\n")
    found = by_title(panels.training_curves(log, evaluations))
    assert set(found) == {"Training loss", "Metrics during training", "Learning rate"}
    assert found["Training loss"].series == {"loss": ([10, 20, 30], [0.1, 0.05, 1 / 30])}
    assert found["Metrics during training"].series == {"standard/category_top1": ([20], [0.5])}
    assert panels.training_curves(tmp_path / "none.jsonl") == []
    log.write_text("\n".join([lines[0], "broken", *lines[1:]]))
    with pytest.raises(UserError, match="line 2"):
        panels.training_curves(log)


def test_surest_mistakes_of_attributes():
    rows = {
        "attribute_score": np.array([[3.0, -1.0, 0.5], [-4.0, 2.0, -0.1]]),
        "attribute": np.array([[1, 1, 0], [1, 1, 0]], np.uint8),
    }
    (tiles,) = attributes.attribute_mistakes(rows, NAMES["attribute"], gray, ["a.jpg", "b.jpg"])
    assert [text for _, text in tiles.tiles] == [
        "striped: labelled, predicted at 0.02 · b.jpg",
        "dotted: labelled, predicted at 0.27 · a.jpg",
        "lace: not labelled, predicted at 0.62 · a.jpg",
    ]
    right = rows | {"attribute": rows["attribute_score"] > 0}
    assert attributes.attribute_mistakes(right, NAMES["attribute"], gray, ["a", "b"]) == []


def test_a_confusion_matrix_of_300_categories():
    """Its page stays small: empty cells are one rectangle."""
    counts = np.diag(np.full(300, 4))
    counts[7, 250] = 2
    names = [f"category {n}" for n in range(300)]
    svg = report.confusion_svg(panels.Confusion("Category confusion", names, counts))
    assert svg.count("<g>") == 301 and "category 7 → category 250: 2 (33%)" in svg and len(svg) < 250_000
