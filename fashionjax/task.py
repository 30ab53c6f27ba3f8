"""What a task is: a record of pure functions that the one training loop calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

AXIS = "batch"  # the one device axis: collectives inside a loss use this name
Batch = dict[str, Any]
Tree = Any


class Accumulator(Protocol):
    """Reads an evaluation batch by batch and keeps what its figures need, never the images."""

    def update(self, prediction: dict, batch: dict) -> None:
        """One batch of this host, numpy [b …]; examples with `example_valid` False do not count."""

    def result(self) -> dict[str, float]:
        """{metric: value} over the whole split, the same on every host. Called once the stream has ended."""


class Report(Protocol):
    """What an evaluation shows beside its figures, from the same stream."""

    def update(self, prediction: dict, batch: dict) -> None:
        """As `Accumulator.update`, for what the metrics do not keep already."""

    def panels(self) -> list:
        """The panels of the page (reports.panels.Panel), examples in a bounded number."""

    def artifacts(self) -> list[Path]:
        """Writes the report's own files into `Context.out`, where there is one; → those that were written."""


def _print_left_out(records: Iterable[int], reason: str) -> None:
    print(f"warning: {reason}; evaluated without them", file=sys.stderr)


class Context(NamedTuple):
    """What metrics, baselines and reports read beside the stream. `inference.model.context` makes it."""

    config: Any = None
    params: Tree = None
    model_state: Tree = None
    dataset: str = ""  # full name of the dataset
    split: str = ""
    size: int = 0  # records of the split, unreadable ones included
    labels: Mapping[str, Sequence] = {}  # the split's names
    column: Callable[[str], np.ndarray] = None  # as data.source.Split.column
    image: Callable[[int], np.ndarray] = None  # record → uint8 [h w 3] as the model sees it, read again
    record: Callable[[int], dict] = None  # as data.source.Split, the image still encoded
    # → the model before it was trained: batch of this host → predictions
    untrained: Callable[[], Callable[[Batch], dict]] = None
    # at most n preprocessed examples of the training split, evenly spread; UserError where it is not prepared
    training: Callable[[int], Iterable[dict]] = None
    # as `column`, of the training split that `training` reads
    training_column: Callable[[str], np.ndarray] = None
    # rows of this host {name: array [n …]} → those of all hosts, ordered by `index`; a collective
    gather: Callable[[dict], dict] = lambda rows: rows
    # tells records that the metrics do not count, and why; may refuse by a UserError
    leave_out: Callable[[Iterable[int], str], None] = _print_left_out
    # tells records that are no part of the config's protocol (another source); the split is so much smaller
    exclude: Callable[[Iterable[int]], None] = lambda records: None
    out: Path | None = None  # folder of a report's files; None where nothing is written


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
    metrics: Context → a fresh Accumulator of the task's metrics.
    sampler: column reader (feature name → array of the whole split) → data.samplers.Sampler: the positions of
        an epoch and (seed, position) → record index, a pure function, for tasks whose batches have an order
        of their own (triplets, identity-balanced, typed); None for a fresh shuffle each epoch.
    reduce: (params, model_state, batch, rng | None) → [b d] f32: what the model reads of its backbone, for
        runs that freeze it; with rng the batch is augmented as in training, from `slot` [b]. `loss` and
        `predict` take batches that hold it as `reduced` in place of the image. None: the model has no such
        vector.
    collate: examples → one batch [b …], for examples of different shapes; each shape of batch is compiled
        once. None: examples are stacked.
    """

    preprocess: Callable[[dict, np.random.Generator | None], dict]
    init: Callable[[Any, Batch], tuple[Tree, Tree]]
    loss: Callable[[Tree, Tree, Batch, Any], tuple[Any, tuple[Tree, dict]]]
    predict: Callable[[Tree, Tree, Batch], dict]
    metrics: Callable[[Context], Accumulator]
    sampler: Callable[[Callable[[str], np.ndarray]], Any] | None = None
    collate: Callable[[Sequence[dict]], dict] | None = None
    reduce: Callable[[Tree, Tree, Batch, Any], Any] | None = None


class Seen(NamedTuple):
    """One photo beside its outputs, for `PhotoResults.parts`."""

    example: Mapping[str, np.ndarray]  # as `Task.preprocess` made it, without the batch axis
    size: tuple[int, int]  # width, height in pixels as displayed
    names: Mapping[str, Sequence[str]]  # "category", "attribute", "landmark"
    config: Any  # the model's
    topk: int  # labels of a kind that are listed


class PhotoResults(NamedTuple):
    """How a task's outputs for one photo become what `predict` prints and the Python API returns.

    kind: the class of a result, a subclass of `results.Result`.
    parts: (outputs without the batch axis, Seen) → the fields of `kind` that they fill; {} where there is
        nothing to show of a photo.
    annotate: (photo uint8 [h w 3] at display size, result) → the same with the result drawn.
    """

    kind: type
    parts: Callable[[Mapping[str, np.ndarray], Seen], dict[str, Any]]
    annotate: Callable[[np.ndarray, Any], np.ndarray]


class InnerBackbone(NamedTuple):
    """A backbone inside a model beside its field `backbone`, which a file of that network alone initialises:
    its place in the parameters ("patch/vit"), the module, the key rules of such files, and the leaves that
    stay at their initial values."""

    path: str
    module: Any
    rules: Any  # models.torch_keys.Rules
    fresh: tuple[str, ...] = ()


class Weights(NamedTuple):
    """How files of PyTorch weights become models of a task, and back; `fashionjax.weights` reads it.

    key_rules: (model, the file's keys | None) → models.torch_keys.Rules between the leaves of the task's
        model and PyTorch's names; where a model has two sets of names, the keys tell which.
    parts: {what a file may hold beside the backbone: the PyTorch name of its weight}, in the order in which
        messages list them.
    defining: parts of which every model of the task has at least one.
    from_shapes: (backbone, {PyTorch name: shape}) → the model of these widths; KeyError, IndexError or
        ValueError where parts are missing.
    pooling: {PyTorch name: shape} → one word for what happens to the backbone's maps.
    fitting_config: (backbone name or '?', pooling, parts) → what a config must say to build such a model.
    fit_config: (config, {PyTorch name: shape}, known labels, whether the user gave them) → remarks. Writes
        the labels and widths that a file implies into the config; shapes are {} for a backbone's own file.
    aliases: ((prefix in another codebase, prefix in the names of `parts`), …); the first that fits counts.
    renamed: a mapping by the names of a file → by the names of `parts` and backbones, where the names of a
        model depend on each other; files of other models unchanged.
    head: the submodule that files of the task may hold alone; the other leaves then come from the checkpoint
        of `config.init_from`.
    sizes: {PyTorch name: shape} → {noun: count} of what a config's labels decide; None: nothing but heads.
    takes_type_spaces: whether `--type_spaces` says what the file does not.
    inner_backbones: (model, config) → the backbones that it has beside `backbone`; `--backbone_only` fills
        the one whose kind of network a file holds.
    copies: config → {module of the model beside its backbone: names, in PyTorch's files and in Keras's, of
        the layer of a backbone's file that it starts from}; by `import --backbone_only`.
    """

    key_rules: Callable[[Any, Iterable[str] | None], Any]
    parts: Mapping[str, str]
    defining: tuple[str, ...]
    from_shapes: Callable[[Any, Mapping[str, tuple[int, ...]]], Any]
    pooling: Callable[[Mapping[str, Any]], str]
    fitting_config: Callable[[str, str, tuple[str, ...]], str]
    fit_config: Callable[[Any, Mapping[str, tuple[int, ...]], Mapping[str, list], bool], list[str]]
    aliases: tuple[tuple[str, str], ...] = ()
    renamed: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    head: str = ""
    sizes: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, int | None]] | None = None
    takes_type_spaces: bool = False
    inner_backbones: Callable[[Any, Any], tuple[InnerBackbone, ...]] = lambda model, config: ()
    copies: Callable[[Any], Mapping[str, tuple[str, ...]]] = lambda config: {}


class TaskEntry(NamedTuple):
    """All that the commands know of a task: an entry of `tasks.TASKS`, defined at the end of its module.

    make: config (labels filled) → Task.
    make_model: config (labels filled) → the flax module whose variables `Task.init` makes; it has a field
        `backbone`.
    definitions: {prediction key: {metric: its definition in one line}}: what is measured of a model whose
        predictions have the key. Metrics of a rank are listed as `name@k`.
    command: the command that takes users' photos to a model of the task: predict, search or outfit.
    per_attribute: whether a model looks at an image for one attribute: `attribute` of a record, a number of
        the label `attribute`, or several for an output of each.
    also_serves: further commands of that kind that do.
    parts: parts of the model that may be run alone, by `config.part` (predict --part).
    unread_labels: labels of a dataset that no metric of the task reads, so that a checkpoint may be evaluated
        on a split whose names for them differ (those of training heads).
    report: (Context, the Accumulator of the task's metrics) → Report; it may read what the metrics keep.
    baselines: (Task, Context) → {name of reports.baselines.DEFINITIONS: Accumulator}, simple references on
        the same stream under the same metric names.
    photo_results: what `predict` and the Python API say of a photo; None where a model's outputs mean nothing
        by themselves, as embeddings do.
    weights: how PyTorch weights are imported and exported; None where there are none.
    """

    make: Callable[[Any], Task]
    make_model: Callable[[Any], Any]
    definitions: Mapping[str, Mapping[str, str]]
    report: Callable[[Context, Any], Report]
    command: str
    baselines: Callable[[Task, Context], dict[str, Accumulator]] = lambda task, context: {}
    unread_labels: tuple[str, ...] = ()
    per_attribute: bool = False
    photo_results: PhotoResults | None = None
    weights: Weights | None = None
    also_serves: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
