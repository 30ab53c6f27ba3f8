"""Evaluate a checkpoint on a split: metrics, baselines, report.json and report.html.

python -m fashionjax.evaluate --checkpoint=runs/landmarks --split=test --out=runs/landmarks/test
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from fashionjax import cli, quirks, tasks
from fashionjax.data import builders
from fashionjax.data.source import Split
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.metrics import classification, collect
from fashionjax.reports import baselines, panels, report
from fashionjax.runtime import checkpoint, datasets, metric_log, parallel
from fashionjax.task import Context, Report, Task, TaskEntry

NAMED = 50  # images left out of the dataset that the page names


def evaluate(
    path: str | Path,
    split_name: str,
    out: str | Path,
    *,
    which: str = "best",
    overrides: dict[str, str] | None = None,
    allow_missing: bool = False,
    with_baselines: bool = True,
    started: float | None = None,
) -> dict:
    """Evaluate a checkpoint and write OUT/report.json and OUT/report.html; → the report.

    `split_name` is a split, several joined by "+" (query+gallery), or "" for the config's `test_split`;
    the task's report may write further files there (retrieval matches.jsonl). `which` is best, last or a
    step; `overrides` replaces config fields (dataset, data_dir). `started` (time.monotonic()) is where
    `seconds_total` counts from, by default this call.
    """
    started = time.monotonic() if started is None else started
    model = inference.load(path, which, overrides)
    config = model.config
    split_name = split_name or config.get("test_split", "test")
    chosen = (overrides or {}).get("dataset")
    split = (datasets.open_split if chosen else datasets.open_tested)(config, split_name)
    _check_labels(config, split)
    cli.make_folder(out, "--out")
    writes = parallel.this_process()[0] == 0
    left_out: set[int] = set()
    excluded: set[int] = set()
    context = inference.context(
        model,
        split,
        allow_missing=allow_missing,
        out=Path(out) if writes else None,
        left_out=left_out,
        excluded=excluded,
    )
    stream = inference.predictions(model, split, allow_missing=allow_missing)
    figures = measure(model.task, tasks.entry(config.task), context, stream, with_baselines=with_baselines)
    counted = set(range(len(split))) - excluded
    evaluated = (figures.records - left_out) & counted
    missing = sorted(counted - evaluated)
    if missing:
        print(f"evaluated {len(evaluated)} of {len(counted)} records", file=sys.stderr)
    result = {
        "label": _label(config, split, model.step),
        "dataset": split.dataset,
        "split": split_name,
        "n": len(evaluated),
        "n_total": len(counted),
        "missing": missing,
        "step": model.step,
        "metrics": figures.metrics,
        "intervals": _intervals(figures.metrics, len(evaluated)),
        "baselines": figures.baselines,
        "definitions": {},
        "switches": quirks.names_on(config),
        "checkpoint": str(path),
        "config": {key: value for key, value in config.to_dict().items() if key != "labels"},
        "command": f"python -m fashionjax.evaluate --checkpoint={path} --split={split_name} --out={out}",
    }
    result["definitions"] = _definitions(result)
    result["seconds_total"] = round(time.monotonic() - started, 2)
    page = figures.report.panels() + _curves(path) + _left_out(split)
    written = figures.report.artifacts()
    if writes:
        for table in page:
            if isinstance(table, panels.Table) and table.printed:
                print(report.table_text(table, shutil.get_terminal_size((100, 24)).columns), file=sys.stderr)
        for file in written:
            print(f"{file.stem}: {file}", file=sys.stderr)
        report.write_report(out, result, page)
    return result


class Figures(NamedTuple):
    """What came of one pass over a split: metrics and baselines {name: {metric: value}}, the filled report,
    and the indices of the records that were read."""

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    report: Report
    records: set[int]


def measure(
    task: Task,
    entry: TaskEntry,
    context: Context,
    stream: Iterable[tuple[dict, dict]],
    *,
    with_baselines: bool = True,
) -> Figures:
    """Metrics, baselines and report of a task from one pass over (prediction, batch) pairs."""
    metrics = task.metrics(context)
    baselines = entry.baselines(task, context) if with_baselines else {}
    report = entry.report(context, metrics)
    seen = collect.Rows(context.gather)
    for prediction, batch in stream:
        for part in (metrics, *baselines.values(), report):
            part.update(prediction, batch)
        seen.add(batch, {})
    found = metrics.result()
    references = {name: baseline.result() for name, baseline in baselines.items()}
    references = {name: values for name, values in references.items() if values}
    return Figures(found, references, report, set(seen.whole()["index"].tolist()))


def _definitions(result: dict) -> dict[str, str]:
    """One line for each metric and baseline."""
    task = result["config"].get("task")
    known = {name: tasks.definition(name, task) for name in result["metrics"]}
    known |= {name: baselines.DEFINITIONS[name] for name in result["baselines"]}
    return {name: line for name, line in known.items() if line}


def _intervals(metrics: dict[str, float], n: int) -> dict[str, list[float]]:
    """95 % intervals of the metrics that are shares of the n examples."""
    shares = [name for name in classification.SHARES if name in metrics and n]
    return {name: list(classification.share_interval(metrics[name], n)) for name in shares}


def _left_out(split: Split) -> list:
    """What the build of the dataset left out (damaged images, copies in another split), with reasons."""
    notes, skipped = builders.notes_on(split.folder)
    if not skipped:
        return []
    rows = [[entry["id"], entry["reason"]] for entry in skipped[:NAMED]]
    more = [f"{len(skipped) - NAMED} more in prepared.json"] if len(skipped) > NAMED else []
    return [
        panels.Table("Images left out of the dataset", ["image", "reason"], rows, "; ".join(notes + more))
    ]


def _curves(path: str | Path) -> list:
    """What the run of a checkpoint logged."""
    folder = checkpoint.locate(path)[0].parent
    logs = [folder / name for name in (metric_log.METRICS_FILE, metric_log.EVALUATIONS_FILE)]
    return panels.training_curves(*(log for log in logs if log.is_file()))


def _label(config: ConfigDict, split: Split, step: int) -> str:
    """What kind of number this is; published ones are never computed here. Synthetic is one where either the
    training or the evaluation saw rendered images; `config` has the dataset of the evaluation."""
    if datasets.is_synthetic(config) or split.synthetic or config.get("trained_on_synthetic"):
        return "synthetic"
    if config.get("own_images"):
        return "own-images"
    imported = config.get("imported")
    whole = imported and not imported["backbone_only"]
    return "reproduced-forward" if whole and step == 0 else "retrained"


def _check_labels(config: ConfigDict, split: Split) -> None:
    """UserError where metrics would count by numbers that mean something else to the model."""
    unread = ("landmark_flip", *tasks.entry(config.task).unread_labels)  # flips are of training
    for label, names in config.labels.items():
        if label not in unread and label in split.labels and list(split.labels[label]) != list(names):
            raise UserError(
                f"{split.dataset}: its {label} names differ from those the checkpoint learned; evaluate it "
                "on the dataset it was trained on"
            )


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a run, or one checkpoint folder in it")
    flags.DEFINE_string("split", "", "split, or several joined by + (default: the config's test_split)")
    flags.DEFINE_string(
        "out", None, "folder for report.json and report.html (default: CHECKPOINT/evaluation[/SPLIT])"
    )
    flags.DEFINE_string("step", "best", "best, last or a step number")
    flags.DEFINE_string("dataset", "", "NAME[/CONFIG], where it is not the config's")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets, where it is not the config's")
    flags.DEFINE_bool("allow_missing", False, "evaluate although records cannot be read")
    flags.DEFINE_bool("baselines", True, "also evaluate the simple baselines")
    parallel.add_flags()
    flags.mark_flag_as_required("checkpoint")


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    args = flags.FLAGS
    parallel.start()
    out = photos.out_folder(args.out, args.checkpoint, f"evaluation/{args.split}".rstrip("/"))
    result = evaluate(
        args.checkpoint,
        args.split,
        out,
        which=args.step,
        overrides={"dataset": args.dataset, "data_dir": args.data_dir},
        allow_missing=args.allow_missing,
        with_baselines=args.baselines,
    )
    prefix = quirks.headline_prefix(ConfigDict(result["config"]))
    headline = {name: value for name, value in result["metrics"].items() if name.startswith(prefix)}
    for name, value in headline.items():
        print(f"{name:<40} {value:.4f}")
    print(f"{result['n']} of {result['n_total']} records, label {result['label']}")
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
