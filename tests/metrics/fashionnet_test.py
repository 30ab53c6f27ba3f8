"""FashionNet's metrics: which are measured of which stream, and the share of landmarks that RoIs hold."""

import numpy as np
import pytest

from fashionjax.metrics import collect, fashionnet
from fashionjax.task import Context


def stream(**more):
    """Two images with two landmarks: of the first both are inside their RoI, of the second one is hidden."""
    landmark = np.asarray([[[0.5, 0.5], [0.2, 0.2]], [[0.9, 0.9], [0.1, 0.8]]], np.float32)
    batch = {"landmark": landmark, "visibility": np.asarray([[1, 1], [1, 0]], np.float32)}
    batch |= {"category": np.asarray([0, 1]), "example_valid": np.ones(2, bool), "index": np.arange(2)}
    prediction = {"landmark": landmark, "category_logits": np.eye(2), "blue_category_logits": -np.eye(2)}
    prediction["roi"] = np.tile(np.asarray([0.1, 0.1, 0.6, 0.6], np.float32), (2, 2, 1))
    return prediction, batch | more


def test_every_task_of_the_stream():
    found = collect.measure(fashionnet.FashionNetMetrics(Context()), [stream()])
    assert found["standard/category_top1"] == 1 and found["standard/blue_category_top1"] == 0
    assert found["standard/roi_hit"] == pytest.approx(2 / 3)  # of three visible ones
    assert found["standard/landmark_ne_visible"] == 0 and "standard/recall@1" not in found


def test_parts_alone():
    prediction, batch = stream()
    blue = {name: prediction[name] for name in ("landmark", "category_logits")}
    found = collect.measure(fashionnet.FashionNetMetrics(Context()), [(blue, batch)])
    assert "standard/roi_hit" not in found and "standard/blue_category_top1" not in found


def test_retrieval_where_records_have_a_role():
    prediction, batch = stream(role=np.asarray([0, 1]), identity=np.asarray([[7, 7], [7, 7]], np.int32))
    prediction["embedding"] = np.eye(2, dtype=np.float32)
    found = collect.measure(fashionnet.FashionNetMetrics(Context()), [(prediction, batch)])
    assert found["standard/recall@1"] == 1
    colours = fashionnet.WhereRoles(fashionnet.RetrievalMetrics(Context()))
    assert collect.measure(colours, [stream()]) == {}


def test_definitions_cover_what_is_measured():
    prediction, batch = stream()
    found = collect.measure(fashionnet.FashionNetMetrics(Context()), [(prediction, batch)])
    own = {name for name in found if "blue" in name or "roi" in name}
    assert own == {*fashionnet.BLUE_DEFINITIONS, *fashionnet.ROI_DEFINITIONS}
