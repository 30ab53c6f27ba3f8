"""Which prepared dataset a config means; the synthetic one is built when it is missing."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.data import builders, parts, source
from fashionjax.errors import UserError
from fashionjax.runtime import parallel

SYNTHETIC = "synthetic"
NONDISJOINT, DISJOINT = "polyvore_outfits/nondisjoint", "polyvore_outfits/disjoint"


def dataset_name(config: ConfigDict) -> str:
    """NAME[/CONFIG] as `fashionjax prepare` takes it; "synthetic" stands for this task's synthetic config."""
    if config.dataset == SYNTHETIC:
        return f"synthetic_fashion/{config.synthetic.config}"
    return config.dataset


def is_synthetic(config: ConfigDict) -> bool:
    return dataset_name(config).startswith("synthetic_fashion")


def tested_name(config: ConfigDict) -> str:
    """The dataset that a run is evaluated on, as `config.dataset`: its own, but for quirk C6."""
    swapped = config.dataset == NONDISJOINT and quirks.on(config, "c6_tested_on_disjoint")
    return DISJOINT if swapped else config.dataset


def open_split(config: ConfigDict, split: str) -> source.Split:
    """A split of the config's dataset. Synthetic data is rendered first where it is missing.

    With `config.validation.share` above 0 that share of the training items is the split "validation", and
    the training split is the rest.
    """
    name, data_dir = dataset_name(config), config.data_dir
    if config.dataset == SYNTHETIC:
        data_dir = synthetic_dir(config)
        _render_missing(config, name, data_dir)
    share = config.get("validation", {}).get("share", 0.0)
    if share and split in (config.train_split, parts.VALIDATION):
        whole = source.open_split(name, config.train_split, data_dir)
        trained, held = parts.hold_out(whole, share, config.validation.seed)
        return held if split == parts.VALIDATION else trained
    return source.open_split(name, split, data_dir)


def open_tested(config: ConfigDict, split: str) -> source.Split:
    """A split of the dataset that a run is evaluated on."""
    if tested_name(config) == config.dataset:
        return open_split(config, split)
    return source.open_split(tested_name(config), split, config.data_dir)


def attach_labels(config: ConfigDict, split: source.Split) -> None:
    """The dataset's label names into the config, where task, checkpoint and predict find them; and whether it
    is synthetic, which stays true of the run when it is evaluated on other data."""
    with config.unlocked():
        config.labels = ConfigDict(labels_of(config, split))
        if is_synthetic(config) or split.synthetic:
            config.trained_on_synthetic = True


def labels_of(config: ConfigDict, split: source.Split) -> dict[str, list]:
    """The split's label names, and with `config.item_labels` the items of all splits as `item_id`, or with
    `config.trained_items_only` those that the training split shows. With `config.pair_labels` these are the
    training split's pairs, by their numbers.

    Under quirk C6 the type spaces are those of the dataset that is tested.
    """
    labels = dict(split.labels)
    if tested_name(config) != config.dataset:
        tested = source.open_split(tested_name(config), config.test_split, config.data_dir)
        labels["type_space"] = tested.labels["type_space"]
    if config.get("item_labels", False):
        labels["item_id"] = source.item_names(split.folder)
        if config.get("trained_items_only", False):
            trained = set(open_split(config, config.train_split).column("item_id").tolist())
            labels["item_id"] = [name for name in labels["item_id"] if name in trained]
    if config.get("pair_labels", False):
        pairs = set(open_split(config, config.train_split).column("pair_id").tolist())
        labels["item_id"] = [str(pair) for pair in sorted(pairs) if pair >= 0]
    return labels


def _render_missing(config: ConfigDict, name: str, data_dir: str) -> None:
    """One process renders, the others wait."""
    failed = None
    if jax.process_index() == 0:
        try:
            builders.prepare(
                name, data_dir=data_dir, overrides=overrides(config), progress=sys.stderr.isatty()
            )
        except UserError as error:
            failed = error
    if parallel.any_host(failed is not None):
        raise failed or UserError("the first process could not render the synthetic dataset")


def synthetic_dir(config: ConfigDict) -> str:
    """Where the synthetic dataset with the config's settings is or will be: `data_dir`, or a folder of its
    own in it where the same dataset was rendered there with other settings."""
    name, chosen = dataset_name(config), overrides(config)
    try:
        builders.prepared_folder(name, data_dir=config.data_dir, overrides=chosen)
    except UserError:
        digest = hashlib.sha256(repr(sorted(chosen.items())).encode()).hexdigest()[:8]
        return str(Path(config.data_dir) / f"{config.synthetic.config}-{digest}")
    return config.data_dir


def overrides(config: ConfigDict) -> dict[str, str]:
    """`config.synthetic.set` = "train=4000,size=96" → {"train": "4000", "size": "96"}."""
    pairs = [part for part in config.synthetic.set.split(",") if part.strip()]
    if any("=" not in part for part in pairs):
        raise UserError(
            f"config.synthetic.set={config.synthetic.set!r}: write field=value,field=value (fields of the "
            "synthetic builder's config, e.g. train=4000,size=96)"
        )
    return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in pairs)}
