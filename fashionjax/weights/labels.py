"""What the outputs of an imported model are called: the labels of a config, fitted to a weight file.

Names come from the prepared dataset where there are as many; else they are numbered. Which types a space of a
compatibility model joins is not in its file either; it comes from `typespaces.p` or the prepared dataset.
"""

from __future__ import annotations

import itertools
import math

from ml_collections import ConfigDict

from fashionjax.data import source
from fashionjax.errors import UserError
from fashionjax.ops import type_spaces as spaces
from fashionjax.runtime import datasets
from fashionjax.weights import recognise
from fashionjax.weights.recognise import OutfitSizes, Shapes

# head → the label of the config whose names it scores
LABEL_HEADS = {"attribute": "attribute", "category": "category", "id": "item_id"}
OUTFIT_TYPES = 11  # of Polyvore Outfits
TYPES_LIMIT = 512  # a file that claims more is wrong, and told so by its keys
TEXT_LIMIT = 1 << 20  # as well


def fit_config(config: ConfigDict, shapes: Shapes, type_spaces: str | None = None) -> list[str]:
    """Writes labels for the file's widths into `config`; → remarks for the user.

    A head that the file lacks keeps the dataset's names, or one placeholder, so that the mismatch is told by
    keys. `type_spaces` is the path of a `typespaces.p`.
    """
    if config.task == "compatibility":
        return _fit_outfits(config, recognise.outfit_sizes(shapes), type_spaces)
    _refuse(type_spaces, config)
    widths = recognise.head_widths(shapes)
    known = _dataset_labels(config)
    remarks, labels = [], dict(known)
    for head, label in LABEL_HEADS.items():
        width = widths.get(head, len(known.get(label, ())) or 1)
        if len(known.get(label, ())) != width:
            if head in widths:
                have = f"has {len(known[label])}" if label in known else "is not prepared or has none"
                remarks.append(f"{width} {label} outputs are named by number ({config.dataset} {have})")
            labels[label] = _numbered(label, width)
    _write(config, labels)
    return remarks


def fit_backbone_config(config: ConfigDict, shapes: Shapes, type_spaces: str | None = None) -> list[str]:
    """As `fit_config` for a file that holds a backbone alone: the labels are the dataset's."""
    if config.task == "compatibility":
        return _fit_outfits(config, OutfitSizes(None, None, None), type_spaces)
    _refuse(type_spaces, config)
    _write(config, _dataset_labels(config))
    return []


def _fit_outfits(config: ConfigDict, sizes: OutfitSizes, type_spaces: str | None) -> list[str]:
    labels, remarks = {}, []
    if type_spaces:
        labels = _named_spaces(type_spaces)
    else:
        known = _dataset_labels(config)
        if {"category", "type_space"} <= set(known):
            labels = known
            if datasets.tested_name(config) == datasets.NONDISJOINT:
                remarks.append(
                    f"type spaces are named as in {config.dataset}; MMFashion's configs read those of the "
                    "disjoint release: pass --type_spaces=disjoint/typespaces.p for its files"
                )
    if not labels:
        types = _count_types(sizes)
        names = _numbered("type", types)
        pairs = itertools.combinations_with_replacement(names, 2)
        labels = {"category": names, "type_space": [list(pair) for pair in pairs]}
        remarks.append(
            f"types and type spaces are named by number ({config.dataset} is not prepared). A file does not "
            "say which types a space joins, and comparisons in the wrong spaces mean nothing: pass "
            "--type_spaces=typespaces.p of the release that the model was trained on"
        )
    _write(config, labels)
    if config.model.text == "features" and sizes.text and sizes.text <= TEXT_LIMIT:
        with config.unlocked():
            config.model.text_features = sizes.text
    return remarks


def _named_spaces(path: str) -> dict[str, list]:
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


def _count_types(sizes: OutfitSizes) -> int:
    """Types of a file: n of them make n (n + 1) / 2 spaces, and the nearest such number counts."""
    if sizes.spaces is not None:
        types = round((math.sqrt(8 * max(sizes.spaces, 1) + 1) - 1) / 2)
    else:
        types = OUTFIT_TYPES if sizes.types is None else sizes.types
    return types if 1 <= types <= TYPES_LIMIT else OUTFIT_TYPES


def _numbered(label: str, n: int) -> list[str]:
    return [f"{label}_{i:0{len(str(n - 1))}d}" for i in range(n)]


def _dataset_labels(config: ConfigDict) -> dict[str, list]:
    try:
        split = source.open_split(datasets.dataset_name(config), config.train_split, config.data_dir)
    except UserError:  # importing and predicting need no dataset
        return _tested_labels(config)
    return datasets.labels_of(config, split)


def _tested_labels(config: ConfigDict) -> dict[str, list]:
    """Labels of the dataset that switch C6 tests on, where it is prepared."""
    name = datasets.tested_name(config)
    if name == config.dataset:
        return {}
    try:
        return dict(source.open_split(name, config.test_split, config.data_dir).labels)
    except UserError:
        return {}


def _write(config: ConfigDict, labels: dict[str, list]) -> None:
    with config.unlocked():
        config.labels = ConfigDict(labels)


def _refuse(type_spaces: str | None, config: ConfigDict) -> None:
    if type_spaces:
        raise UserError(f"--type_spaces is for compatibility models; config.task is {config.task!r}")
