"""The one table of tasks. A new task is its module and a line here; docs/add_a_task.md shows how."""

from __future__ import annotations

import re
from collections.abc import Container

from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.task import Task, TaskEntry
from fashionjax.tasks import (
    attributes,
    compatibility,
    detection,
    fashionnet,
    fine_grained,
    landmarks,
    recommendation,
    retrieval,
)

TASKS: dict[str, TaskEntry] = {
    "attributes": attributes.ENTRY,
    "landmarks": landmarks.ENTRY,
    "retrieval": retrieval.ENTRY,
    "compatibility": compatibility.ENTRY,
    "detection": detection.ENTRY,
    "recommendation": recommendation.ENTRY,
    "fashionnet": fashionnet.ENTRY,
    "fine_grained": fine_grained.ENTRY,
}


def entry(name: str) -> TaskEntry:
    """The entry of a task, as `config.task` names it."""
    if name not in TASKS:
        raise UserError(f"config.task={name!r}: use one of {', '.join(TASKS)}")
    return TASKS[name]


def make(config: ConfigDict) -> Task:
    """The task that `config.task` names; call it once per run, a second one is compiled again."""
    return entry(config.task).make(config)


def metric_names(task: str, predicted: Container[str]) -> list[str]:
    """The metrics that a task measures of models with these predictions, those of ranks as `name@k`."""
    tables = entry(task).definitions
    return [name for key, table in tables.items() if key in predicted for name in table]


def definition(name: str, task: str | None = None) -> str | None:
    """The definition of a metric such as `zoo/recall@5`, None for an unknown name; that of `task` where
    several tasks have a metric of this name."""
    for known in (*([TASKS[task]] if task in TASKS else []), *TASKS.values()):
        for table in known.definitions.values():
            if general(name) in table:
                return table[general(name)]
    return None


def general(name: str) -> str:
    """`zoo/recall@5` → `zoo/recall@k` and `zoo/map/sleeve_length` → `zoo/map/NAME`, as definitions list
    metrics of ranks and of single attributes."""
    return re.sub(r"^(\w+/\w+)/.+$", r"\1/NAME", re.sub(r"@\d+$", "@k", name))
