"""The table of tasks is complete: every entry can be used by every command."""

import importlib
import pkgutil
import types
from pathlib import Path

import numpy as np
import pytest

import experiments
from fashionjax import cli, tasks
from fashionjax.reports import baselines
from fashionjax.task import Context
from fashionjax.weights import recognise

NAMES = [module.name for module in pkgutil.iter_modules(experiments.__path__)]
CONFIGS = [name for name in NAMES if hasattr(importlib.import_module(f"experiments.{name}"), "get_config")]


def test_an_unknown_metric_has_no_definition():
    assert tasks.definition("zoo/unknown") is None
    assert tasks.definition("zoo/recall@5") and tasks.definition("standard/attribute_micro_recall@10")
    assert (
        tasks.general("zoo/recall@5") == "zoo/recall@k"
        and tasks.general("zoo/landmark_ne") == "zoo/landmark_ne"
    )


def test_metrics_follow_the_predictions():
    assert tasks.metric_names("attributes", {"category_logits"})[-1] == "standard/category_macro_recall@k"
    names = tasks.metric_names("landmarks", {"landmark", "visibility"})
    assert "zoo/landmark_ne" in names and "zoo/visibility_accuracy" in names
    assert not any("visibility" in name for name in tasks.metric_names("landmarks", {"landmark"}))
    assert tasks.metric_names("retrieval", set()) == []


@pytest.mark.parametrize("name", tasks.TASKS)
def test_entries_are_complete(name):
    entry = tasks.entry(name)
    assert callable(entry.make) and callable(entry.make_model)
    assert {entry.command, *entry.also_serves} <= set(cli.COMMANDS)
    assert entry.definitions and all(entry.definitions.values())
    lines = [line for table in entry.definitions.values() for line in table.values()]
    assert all(isinstance(line, str) and line for line in lines)


@pytest.mark.parametrize("name", [name for name, entry in tasks.TASKS.items() if entry.weights])
def test_weight_files_of_a_task_are_known_by_its_parts(name):
    """A file with nothing but a defining part of a task is that task's."""
    spec = tasks.entry(name).weights
    assert set(spec.defining) <= set(spec.parts)
    for part in spec.defining:
        assert recognise.task_of({spec.parts[part]: (1, 1)}) == name
        assert name in spec.fitting_config("resnet18", "global", (part,))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_experiment_names_a_task(name):
    assert importlib.import_module(f"experiments.{name}").get_config().task in tasks.TASKS


def test_every_task_has_an_experiment():
    used = {importlib.import_module(f"experiments.{name}").get_config().task for name in CONFIGS}
    assert used == set(tasks.TASKS)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_reports_and_baselines_belong_to_the_entry(name):
    entry = tasks.entry(name)
    context = Context(config=None, labels={"category": ["a", "b"]}, untrained=lambda: None)
    assert callable(entry.baselines)
    report = entry.report(context, types.SimpleNamespace())
    assert all(callable(getattr(report, part)) for part in ("update", "panels", "artifacts"))


def test_every_baseline_has_a_definition():
    train = {"category": np.arange(4) % 2, "image": np.zeros((4, 24, 24, 3), np.uint8)}
    assert set(baselines.fit(train)) <= set(baselines.DEFINITIONS)


def test_no_command_tests_which_task_it_has():
    """Neither names of tasks nor prediction keys decide what a command does."""
    for command in ("evaluate", "train"):
        source = (Path(tasks.__file__).parents[1] / f"{command}.py").read_text()
        for name in (*tasks.TASKS, *(key for entry in tasks.TASKS.values() for key in entry.definitions)):
            assert f'"{name}"' not in source, f"{command}.py names {name}"
