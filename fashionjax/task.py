"""What a task is: a record of pure functions that the one training loop calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

AXIS = "batch"  # the one device axis: collectives inside a loss use this name
Batch = dict[str, Any]
Tree = Any


class Context(NamedTuple):
    """What a metric may need beyond the stream: the variables (a metric that projects embeddings) and whole
    columns and tables of the split (outfits, questions)."""

    params: Tree
    model_state: Tree
    column: Callable[[str], np.ndarray]  # as data.source.Split.column


class Task(NamedTuple):
    """The functions of one task, built once per run by a task module's `make(config)`.

    preprocess: (example, rng | None) → example. Numpy, one raw record in, fixed-size arrays out;
        rng None means deterministic (evaluation, prediction). Labels that the record lacks stay absent.
    init: (rng, batch) → (params, model_state), from one batch as the device sees it.
    loss: (params, model_state, batch, rng) → (loss, (model_state, scalars)). Runs per device, in
        training mode. The batch carries `example_weight` [b] f32 (mean 1 over the global batch, 0 for
        an example that could not be read) and `slot` [b] i32, the position in the global batch, so
        that random numbers do not depend on how many devices share it.
    predict: (params, model_state, batch) → {name: array [b …]}, in evaluation mode.
    metrics: (iterable of (prediction, batch) numpy pairs, Context) → {metric name: float}.
    sampler: column reader (feature name → array of the whole split) → data.samplers.Sampler: the positions of
        an epoch and (seed, position) → record index, a pure function, for tasks whose batches have an order
        of their own (triplets, identity-balanced, typed); None for a fresh shuffle each epoch.
    """

    preprocess: Callable[[dict, np.random.Generator | None], dict]
    init: Callable[[Any, Batch], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, Any], tuple[Any, tuple[Tree, dict]]]
    predict: Callable[[Tree, Tree, Batch], dict]
    metrics: Callable[[Iterable[tuple[dict, dict]], Context], dict[str, float]]
    sampler: Callable[[Callable[[str], np.ndarray]], Any] | None = None


class Weights(NamedTuple):
    """How files of published PyTorch weights become models of a task, and back.

    key_rules: (config, the file's keys | None) → models.torch_keys.Rules between the leaves of the task's
        model and PyTorch's names; where a model has two sets of names, the keys tell which.
    fit_config: (config, {torch key: shape}, **options of the command line) → remarks; writes the labels and
        widths that a whole model's file implies into the config.
    fit_backbone_config: the same for a file that holds a backbone alone.
    """

    key_rules: Callable[..., Any]
    fit_config: Callable[..., list[str]]
    fit_backbone_config: Callable[..., list[str]]


class TaskEntry(NamedTuple):
    """All that the commands know of a task: an entry of `tasks.TASKS`, defined at the end of its module.

    make: config (labels filled) → Task.
    make_model: config (labels filled) → the flax module whose variables `Task.init` makes; it has a field
        `backbone`.
    definitions: {prediction key: {metric: its definition in one line}}: what is measured of a model whose
        predictions have the key. Metrics of a rank are listed as `name@k`.
    command: the command that takes users' photos to a model of the task: predict, search or outfit.
    unread_labels: labels of a dataset that no metric of the task reads, so that a checkpoint may be evaluated
        on a split whose names for them differ (those of training heads).
    weights: how published weights are imported; None where there are none.
    """

    make: Callable[[Any], Task]
    make_model: Callable[[Any], Any]
    definitions: Mapping[str, Mapping[str, str]]
    command: str
    unread_labels: tuple[str, ...] = ()
    weights: Weights | None = None
