"""What the outputs of an imported model are called: the labels of a config, fitted to a weight file.

Names come from the prepared dataset, or from a `typespaces.p` of the user; `task.Weights.fit_config` says
what each task makes of them.
"""

from __future__ import annotations

import itertools

from ml_collections import ConfigDict

from fashionjax import tasks
from fashionjax.data import source
from fashionjax.errors import UserError
from fashionjax.ops import type_spaces as spaces
from fashionjax.runtime import datasets
from fashionjax.weights.recognise import Shapes, canonical, weights_of


def fit_config(config: ConfigDict, shapes: Shapes, type_spaces: str | None = None) -> list[str]:
    """Writes labels and widths for a file of these shapes into `config`; → remarks for the user.

    `shapes` is {} for a file that holds a backbone alone: its labels are the dataset's. `type_spaces` is the
    path of a `typespaces.p`. Raises UserError for a task without PyTorch names.
    """
    spec = weights_of(config.task)
    if type_spaces and not spec.takes_type_spaces:
        specs = [(name, entry.weights) for name, entry in tasks.TASKS.items() if entry.weights]
        takers = " and ".join(name for name, other in specs if other.takes_type_spaces)
        raise UserError(f"--type_spaces is for {takers} models; config.task is {config.task!r}")
    known = named_spaces(type_spaces) if type_spaces else dataset_labels(config)
    return spec.fit_config(config, canonical(shapes), known, bool(type_spaces))


def named_spaces(path: str) -> dict[str, list]:
    """The labels that a `typespaces.p` names: types in alphabetical order, spaces in the file's."""
    from tfds_builders.polyvore_outfits import type_spaces
    from tfds_builders.release import ReleaseError, TextFile

    try:
        pairs = type_spaces.read(TextFile(str(path), str(path)))
    except ReleaseError as error:
        raise UserError(f"--type_spaces={error}") from error
    names = sorted(set(itertools.chain(*pairs)))
    try:
        spaces.space_table(pairs, names)
    except ValueError as error:
        raise UserError(f"--type_spaces={path}: {error}") from error
    return {"category": names, "type_space": [list(pair) for pair in pairs]}


def dataset_labels(config: ConfigDict) -> dict[str, list]:
    """The labels of the config's dataset, or of the one that it is tested on; {} where neither is prepared,
    for importing and predicting need no dataset."""
    try:
        split = source.open_split(datasets.dataset_name(config), config.train_split, config.data_dir)
    except UserError:
        return _tested_labels(config)
    return datasets.labels_of(config, split)


def _tested_labels(config: ConfigDict) -> dict[str, list]:
    """Labels of the dataset that quirk C6 tests on, where it is prepared."""
    name = datasets.tested_name(config)
    if name == config.dataset:
        return {}
    try:
        return dict(source.open_split(name, config.test_split, config.data_dir).labels)
    except UserError:
        return {}
