"""The published numbers (`experiments/zoo.json`) and which row of them a measured result belongs to.

A report belongs to a row when its label is not synthetic and

- task, every field of `config.model` and, for retrained results, of `config.loss` equal the row's experiment,
- the datasets of test and training are the row's, or ones that the row lists as the same benchmark, and the
  split is the row's,
- no other row fits as well.

Anything else that could change the number (records left out, image size, optimiser …) keeps it in the row
with a remark. Results measured with other quirks than the row's stay apart from those with the
row's. A report that misses the rule is listed with what differs, and not placed.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import experiments
from fashionjax.errors import UserError
from fashionjax.reports.report import flat

FILE = Path(experiments.__file__).parent / "zoo.json"
SYNTHETIC = "synthetic"
FORWARD = "reproduced-forward"
RETRAINED = "retrained"

# fields of a row and of its metrics; the second of a tuple says that null is allowed
ROW_FIELDS: dict[str, Any] = {
    "id": str,
    "system": str,
    "task": str,
    "table": str,
    "backbone": str,
    "pooling": (str, None),
    "variant": (str, None),
    "loss": (str, None),
    "metrics": list,
    "dataset": (str, None),  # NAME/CONFIG for `fashionjax prepare`
    "same_benchmark": list,  # other configs that hold the same records
    "trained_on": (str, None),  # the dataset of training, where it is another one
    "split": (str, None),
    "config": (str, None),  # experiments/NAME.py:arguments, null where the system is not built yet
    "initial_weights": (str, None),  # what the backbone started from, a key of the file's initial_weights
    "faithful": (str, None),  # variant of the config that repeats what the published row used
    "upstream_config": str,
    "download": list,
    "weights_of": str,  # row whose weights the download holds
    "source": dict,
    "notes": list,
}
METRIC_FIELDS = {
    "name": str,
    "value": float,
    "printed": str,  # as the document prints it
    "unit": str,
    "published_name": str,
    "definition": str,
}
# a row's `per_category`, where the document has such a table; `count_of` says what is counted
CATEGORY_FIELDS = {"category": str, "count": int, "box_ap": str, "mask_ap": str}  # AP as printed

# a row's `first_stage`, where it goes on from a training of its own: that config, and what it started from
STAGE_FIELDS = {"config": str, "initial_weights": (str, None)}

# config fields that cannot change a result, or that are compared elsewhere
NEUTRAL = frozenset(
    (
        "data_dir",
        "dataset",
        "synthetic",
        "labels",
        "imported",
        "trained_on_synthetic",
        "seed",
        "log_every",
        "eval_every",
        "save_every",
    )
    + ("best", "best_mode", "workers", "parallel", "nonfinite", "eval_split", "test_split", "quirks")
    + ("init_from", "init_skip", "images_per_gpu")
)
# fields that only training reads
TRAINING = frozenset(
    ("train_split", "batch_size", "accumulate", "steps", "epochs", "optim", "loss", "retrieval")
)
LISTED = 5  # differences named in one line


class Zoo(NamedTuple):
    document: dict  # repository, file, commit, url
    initial_weights: dict  # name → {"url", "note"}
    tables: list[dict]  # id, title, heading
    rows: list[dict]


class Place(NamedTuple):
    """Where a result belongs: in `row` with `remarks`, or nowhere because of `why`."""

    row: dict | None
    as_published: bool = False  # measured with exactly the row's quirks
    remarks: tuple[str, ...] = ()
    why: str = ""


def load(path: str | Path = FILE) -> Zoo:
    """Read and check a zoo file; UserError names the row and field that is wrong."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    _check(path, "", content, {"document": dict, "initial_weights": dict, "tables": list, "rows": list})
    for i, table in enumerate(content["tables"]):
        _check(path, f"tables[{i}]", table, {"id": str, "title": str})
    known = {table["id"] for table in content["tables"]}
    for i, row in enumerate(content["rows"]):
        _check(path, f"rows[{i}]", row, ROW_FIELDS)
        if row["table"] not in known:
            raise UserError(f"{path}: rows[{i}].table is {row['table']!r}, which is not among tables")
        if row["initial_weights"] not in (None, *content["initial_weights"]):
            raise UserError(f"{path}: rows[{i}].initial_weights is not among the file's initial_weights")
        if "first_stage" in row:
            _check(path, f"rows[{i}].first_stage", row["first_stage"], STAGE_FIELDS)
            if row["first_stage"]["initial_weights"] not in (None, *content["initial_weights"]):
                raise UserError(f"{path}: rows[{i}].first_stage.initial_weights is not among the file's")
        for j, metric in enumerate(row["metrics"]):
            _check(path, f"rows[{i}].metrics[{j}]", metric, METRIC_FIELDS)
        for j, category in enumerate(row.get("per_category", [])):
            _check(path, f"rows[{i}].per_category[{j}]", category, CATEGORY_FIELDS)
    return Zoo(*(content[name] for name in Zoo._fields))


def _check(path: Path, where: str, item: Any, fields: Mapping[str, Any]) -> None:
    if not isinstance(item, dict):
        raise UserError(f"{path}: {where or 'the top level'} must be an object")
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if name not in item:
            raise UserError(f"{path}: {where or 'the top level'} lacks {name!r}")
        if not any(item[name] is None if k is None else isinstance(item[name], k) for k in kinds):
            dotted = f"{where}.{name}".lstrip(".")
            raise UserError(f"{path}: {dotted} must be {' or '.join(map(_kind_name, kinds))}")


def _kind_name(kind: type | None) -> str:
    return {
        None: "null",
        str: "a text",
        list: "a list",
        dict: "an object",
        float: "a decimal",
        int: "an integer",
    }[kind]


# ------------------------------------------------------------------------------ experiments
def config_argument(row: Mapping, *, faithful: bool) -> str:
    """The row's `--config=` value; `faithful` adds the variant that the published row used."""
    if not (faithful and row["faithful"]):
        return row["config"]
    return f"{row['config']}{',' if ':' in row['config'] else ':'}faithful={row['faithful']}"


@functools.cache
def experiment(config: str) -> dict:
    """`experiments/NAME.py[:arguments]` → its config as JSON holds it."""
    file, _, argument = config.partition(":")
    name = re.fullmatch(r"experiments/(\w+)\.py", file)
    if not name:
        raise UserError(f"config {config!r} of the zoo: must be experiments/NAME.py[:arguments]")
    module = f"experiments.{name[1]}"
    try:
        built = importlib.import_module(module).get_config(argument or None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"config {config!r} of the zoo: there is no {file}") from error
    except ValueError as error:
        raise UserError(f"config {config!r} of the zoo: {error}") from error
    return json.loads(built.copy_and_resolve_references().to_json())


def switches(config: Mapping) -> list[str]:
    """Names of the quirks that are on, sorted."""
    return sorted(config.get("quirks", ()))


def imported_file(config: Mapping, *, backbone: bool = False) -> str:
    """The weight file that a run's whole model, or with `backbone` only that, was imported from; else ''."""
    imported = config.get("imported")
    if not isinstance(imported, Mapping) or bool(imported.get("backbone_only")) != backbone:
        return ""
    return str(imported.get("file") or "a file")


# ------------------------------------------------------------------------------ placing results
def place(zoo: Zoo, report: Mapping) -> Place:
    """The row of a report that is not synthetic; see the module's text for the rule."""
    if not report.get("config"):
        return Place(None, why="the report holds no config")
    problems = {}
    for row in zoo.rows:
        if row["config"]:
            problems[row["id"]] = _setting(row, report) + model_differences(
                row, report["config"], report["label"]
            )
    fits = [row for row in zoo.rows if problems.get(row["id"]) == []]
    if len(fits) == 1:
        return _placed(fits[0], report)
    if fits:
        return Place(None, why=f"fits several rows: {', '.join(row['id'] for row in fits)}")
    task = str(report["config"].get("task"))
    closest = min(
        (r["id"] for r in zoo.rows if r["config"] and r["task"] == task),
        key=lambda name: len(problems[name]),
        default=None,
    )
    if closest is None:
        return Place(None, why=f"no row of task {task!r}")
    return Place(None, why=f"closest is {closest}, but {listed(problems[closest])}")


def model_differences(row: Mapping, config: Mapping, label: str) -> list[str]:
    """What of task, model and (where trained here) loss differs from the row's experiment."""
    want = experiment(config_argument(row, faithful=_as_published(row, switches(config))))
    sections = ("task", "model") if label == FORWARD else ("task", "model", "loss")
    return _differences(config, want, lambda section: section in sections)


def same_dataset(row: Mapping, dataset: str) -> bool:
    """`dataset` is NAME/CONFIG, with or without a version."""
    name = "/".join(dataset.split("/")[:2])
    return name in (row["dataset"], *row["same_benchmark"])


def _setting(row: Mapping, report: Mapping) -> list[str]:
    found = []
    if not same_dataset(row, report["dataset"]):
        found.append(f"dataset {report['dataset']} ({row['dataset']})")
    if report["split"] != row["split"]:
        found.append(f"split {report['split']} ({row['split']})")
    trained = str(report["config"].get("dataset"))
    here = [row["trained_on"]] if row["trained_on"] else [row["dataset"], *row["same_benchmark"]]
    # a config may leave away which of a benchmark's readings it is trained on
    if trained not in here and trained not in {name.partition("/")[0] for name in here}:
        found.append(f"trained on {trained} ({here[0]})")
    return found


def _as_published(row: Mapping, on: list[str]) -> bool:
    return on == switches(experiment(config_argument(row, faithful=True)))


def _placed(row: Mapping, report: Mapping) -> Place:
    config, forward = report["config"], report["label"] == FORWARD
    as_published = _as_published(row, sorted(report.get("switches", [])))
    remarks = []
    total = report.get("n_total", report["n"])
    if report["n"] != total:
        remarks.append(f"{report['n']:,} of {total:,} records")
    if not forward and imported_file(config):
        remarks.append(f"trained on from imported weights {imported_file(config)}")
    passed = NEUTRAL | {"task", "model"} | (TRAINING if forward else {"loss"})
    passed -= {"images_per_gpu"} if as_published else set()
    want = experiment(config_argument(row, faithful=as_published))
    changed = _differences(config, want, lambda section: section not in passed)
    if changed:
        remarks.append(listed(changed))
    return Place(dict(row), as_published, tuple(remarks))


def _differences(have: Mapping, want: Mapping, concerned) -> list[str]:
    """["model.hidden 512 (4096)", …] over the fields whose first part is `concerned`."""
    have, want = flat(have), flat(want)
    names = [name for name in {**want, **have} if concerned(name.split(".")[0])]
    absent = "nothing"
    return [
        f"{name} {have.get(name, absent)} ({want.get(name, absent)})"
        for name in names
        if have.get(name, absent) != want.get(name, absent)
    ]


def listed(differences: list[str]) -> str:
    rest = len(differences) - LISTED
    return "; ".join(differences[:LISTED]) + (f"; and {rest} more" if rest > 0 else "")
