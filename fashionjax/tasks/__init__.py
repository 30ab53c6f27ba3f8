"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.task import Task
from fashionjax.tasks import attributes, compatibility, landmarks, retrieval

TASKS: dict[str, Callable[[ConfigDict], Task]] = {
    "attributes": attributes.make,
    "landmarks": landmarks.make,
    "retrieval": retrieval.make,
    "compatibility": compatibility.make,
}


def make(config: ConfigDict) -> Task:
    """The task that `config.task` names; call it once per run, a second one is compiled again."""
    if config.task not in TASKS:
        raise UserError(f"config.task={config.task!r}: use one of {', '.join(TASKS)}")
    return TASKS[config.task](config)
