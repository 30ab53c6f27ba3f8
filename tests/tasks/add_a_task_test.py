"""docs/add_a_task.md is followed: its blocks are executed, the toy task trains and is evaluated."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fashionjax
from fashionjax import evaluate, tasks, train
from fashionjax.reports import baselines

PAGE = Path(__file__).parents[2] / "docs" / "add_a_task.md"
BLOCKS = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


@pytest.fixture
def colour(monkeypatch):
    """The page's modules, importable while the test runs; → its experiment."""
    for path in ("fashionjax/reports/colour.py", "fashionjax/tasks/colour.py", "experiments/colour.py"):
        name = path.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
        exec(compile(BLOCKS[path], path, "exec"), module.__dict__)
    monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
    exec(BLOCKS["fashionjax/tasks/__init__.py"], tasks.__dict__ | {"colour": tasks.colour})
    return sys.modules["experiments.colour"]


@pytest.mark.slow
def test_the_page_makes_a_task(colour, synthetic_dir, tmp_path):
    config = colour.get_config("steps=2")
    config.dataset, config.data_dir = "synthetic_fashion/attributes", str(synthetic_dir)
    config.image_size, config.canvas_size, config.batch_size, config.log_every = 32, 36, 16, 1
    train.train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and "loss_category" in lines[0]
    result = evaluate.evaluate(tmp_path / "run", "test", tmp_path / "test")
    names = tasks.metric_names("colour", {"category_logits"})
    assert {tasks.general(name) for name in result["metrics"]} == set(names)
    assert set(result["definitions"]) == {*result["metrics"], *result["baselines"]}
    assert set(result["baselines"]) <= set(baselines.DEFINITIONS) and "majority" in result["baselines"]
    tables = json.loads((tmp_path / "test" / "report.json").read_text())["tables"]
    (shown,) = fashionjax.load(tmp_path / "run").predict(np.zeros((40, 30, 3), np.uint8), topk=2)
    assert isinstance(shown, fashionjax.Prediction) and len(shown.category) == 2 and shown.landmark is None
    assert len(tables["Accuracy per category"]["values"]) == len(tables["Accuracy per category"]["names"])
