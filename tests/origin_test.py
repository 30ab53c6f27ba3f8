"""Where weights came from stays with a run and decides the label of its numbers."""

import json
import types

import pytest
from commands import train_to_its_end
from ml_collections import ConfigDict

from fashionjax import evaluate
from fashionjax.errors import UserError


def label(dataset, *, step=100, drawn=False, **fields) -> str:
    split = types.SimpleNamespace(synthetic=drawn)
    config = ConfigDict({"dataset": dataset, "synthetic": {"config": "landmarks"}} | fields)
    return evaluate._label(config, split, step)


def test_the_label_says_where_weights_and_records_came_from():
    imported = {"file": "x.pth", "sha256": "", "backbone_only": False}
    assert label("deepfashion_landmarks") == "retrained"
    assert label("deepfashion_landmarks", step=0, imported=imported) == "reproduced-forward"
    assert (
        label("deepfashion_landmarks", step=2, imported=imported) == "retrained"
    )  # with a remark in compare
    assert label("deepfashion_landmarks", step=0, imported=imported | {"backbone_only": True}) == "retrained"
    assert label("synthetic") == label("synthetic_fashion/landmarks") == "synthetic"
    assert label("deepfashion_landmarks", drawn=True) == "synthetic"
    assert label("deepfashion_landmarks", trained_on_synthetic=True) == "synthetic"


@pytest.mark.slow
def test_a_run_remembers_its_origin(synthetic_dir, tmp_path):
    """What imported weights or synthetic images made stays so in every run that goes on from it."""
    assert train_to_its_end(tmp_path / "run", synthetic_dir, steps=2).returncode == 0
    (file,) = (tmp_path / "run" / "checkpoints" / "2").glob("config/metadata")
    config = json.loads(file.read_text())
    assert config["trained_on_synthetic"] is True
    config["imported"] = {"file": "epoch_40.pth", "sha256": "0", "backbone_only": False}
    file.write_text(json.dumps(config))
    err = train_to_its_end(tmp_path / "run", synthetic_dir, steps=3).stderr
    assert "resuming" in err and "config.imported" not in err
    (file,) = (tmp_path / "run" / "checkpoints" / "3").glob("config/metadata")
    assert json.loads(file.read_text())["imported"] == config["imported"]


def test_labels_that_no_metric_reads_may_differ():
    """A retriever whose attribute head has 1000 outputs, on a benchmark with 463 attributes."""
    split = types.SimpleNamespace(dataset="d", labels={"attribute": ["a", "b"], "category": ["top"]})
    known = {"attribute": ["0", "1", "2"], "category": ["top"], "item_id": ["x"]}
    evaluate._check_labels(ConfigDict({"task": "retrieval", "labels": known}), split)
    for task, label in (("attributes", "attribute"), ("retrieval", "category")):
        config = ConfigDict({"task": task, "labels": known | {label: ["other"]}})
        with pytest.raises(UserError, match=f"its {label} names differ"):
            evaluate._check_labels(config, split)
