"""Evaluate a checkpoint on a split: metrics, baselines, report.json and report.html.

python -m fashionjax.evaluate --checkpoint=runs/landmarks --split=test --out=runs/landmarks/test
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from fashionjax import cli, quirks, tasks
from fashionjax.data import pipeline
from fashionjax.data.source import Split
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.metrics import collect
from fashionjax.reports import (
    baselines,
    panels,
    report,
)
from fashionjax.reports import (
    compatibility as compatibility_report,
)
from fashionjax.reports import (
    retrieval as retrieval_report,
)
from fashionjax.runtime import checkpoint, datasets, metric_log, parallel
from fashionjax.task import Task


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
    retrieval also writes OUT/matches.json, outfits OUT/questions.json. `which` is best, last or a step;
    `overrides` replaces config fields (dataset, data_dir). `started` (time.monotonic()) is where
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
    pairs = inference.predictions(model, split, allow_missing=allow_missing)
    seen: list[np.ndarray] = []  # of each picture what the baselines need
    predicted, truth = collect.collect(_watched(pairs, seen) if with_baselines else pairs)
    if retrieval_report.is_retrieval(predicted, truth):
        kept = retrieval_report.scored(truth, split, allow_missing=allow_missing)
        predicted, truth = ({name: rows[kept] for name, rows in side.items()} for side in (predicted, truth))
        seen = [colours for colours, keep in zip(seen, kept) if keep]
    metrics = model.task.metrics([(predicted, truth)], inference.context(model, split))
    missing = sorted(set(range(len(split))) - set(truth["index"].tolist()))
    if missing:
        print(f"evaluated {len(split) - len(missing)} of {len(split)} records", file=sys.stderr)
    result = {
        "label": _label(config, split, model.step),
        "dataset": split.dataset,
        "split": split_name,
        "n": len(split) - len(missing),
        "n_total": len(split),
        "missing": missing,
        "step": model.step,
        "metrics": metrics,
        "baselines": _baselines(model, split, predicted, truth, seen) if with_baselines else {},
        "definitions": {},
        "switches": quirks.names_on(config),
        "checkpoint": str(path),
        "config": {key: value for key, value in config.to_dict().items() if key != "labels"},
        "command": f"python -m fashionjax.evaluate --checkpoint={path} --split={split_name} --out={out}",
    }
    known = {name: tasks.definition(name) for name in metrics}
    known |= {name: baselines.DEFINITIONS[name] for name in result["baselines"]}
    result["definitions"] = {name: line for name, line in known.items() if line}
    result["seconds_total"] = round(time.monotonic() - started, 2)
    if parallel.this_process()[0] == 0:
        report.write_report(out, result, _panels(model, split, predicted, truth, path, out))
    return result


def _label(config: ConfigDict, split: Split, step: int) -> str:
    """What kind of number this is; published ones are never computed here. Synthetic is one where either the
    training or the evaluation saw drawn pictures; `config` has the dataset of the evaluation."""
    if datasets.is_synthetic(config) or split.synthetic or config.get("trained_on_synthetic"):
        return "synthetic"
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


def _watched(pairs: Iterator[tuple[dict, dict]], seen: list[np.ndarray]) -> Iterator[tuple[dict, dict]]:
    """The pairs unchanged; `seen` gets of every readable picture its colours (where pictures are embedded),
    or itself small."""
    for predicted, truth in pairs:
        pictures = truth["image"][np.asarray(truth["example_valid"], bool)]
        if len(pictures) and "embedding" in predicted:
            seen.extend(baselines.colour_histograms(pictures))
        else:
            seen.extend(map(baselines.shrink, pictures))
        yield predicted, truth


def _baselines(model: inference.Model, split: Split, predicted: dict, truth: dict, seen: list) -> dict:
    """Simple references on the same records, from the training split where it is prepared."""
    config, task = model.config, model.task
    if retrieval_report.is_retrieval(predicted, truth):
        colours = {"embedding": np.stack(seen)}
        return {"colour_histogram": task.metrics([(colours, truth)], inference.context(model, split))}
    if compatibility_report.is_outfits(split, predicted):
        return compatibility_report.baselines(model, split, truth, np.stack(seen))
    try:
        train = datasets.open_split(config, config.train_split)
    except UserError as error:
        print(f"no baselines: {error}", file=sys.stderr)
        return {}
    fitted = baselines.gather(_examples(train, task, baselines.spread(len(train))))
    labels = {name: truth[name] for name in baselines.LABELS if name in truth}
    return baselines.baselines(fitted, {"image": np.stack(seen)} | labels)


def _examples(split: Split, task: Task, indices: np.ndarray) -> Iterator[dict]:
    """Preprocessed records, the unreadable ones left out."""
    for index in indices:
        example = pipeline.read(split, task.preprocess, int(index))
        if example is not None:
            yield example


def _panels(model: inference.Model, split: Split, predicted: dict, truth: dict, path, out) -> list:
    config, preprocess = model.config, model.task.preprocess
    images = lambda i: pipeline.read(split, preprocess, int(truth["index"][i]))["image"]  # noqa: E731
    names = {label: list(config.labels.get(label, ())) for label in ("category", "attribute")}
    ids = [f"{split.name}[{index}]" for index in truth["index"]]
    folder = checkpoint.locate(path)[0].parent
    logs = [folder / name for name in (metric_log.METRICS_FILE, metric_log.EVALUATIONS_FILE)]
    curves = panels.training_curves(*(log for log in logs if log.is_file()))
    if retrieval_report.is_retrieval(predicted, truth):
        ids = split.column("image_id")[truth["index"]].tolist()
        found = retrieval_report.find(predicted, truth)
        print(f"matches: {retrieval_report.write(out, found, truth, ids)}", file=sys.stderr)
        return retrieval_report.panels(found, truth, names["category"], images, ids) + curves
    shown = panels.panels_from(predicted, truth, names, images, ids)
    if compatibility_report.is_outfits(split, predicted):
        found = compatibility_report.find(model, split, predicted, truth)
        print(
            f"questions: {compatibility_report.write(out, found, split.column('image_id'))}", file=sys.stderr
        )
        stored = lambda row: pipeline.read(split, preprocess, row)["image"]  # noqa: E731
        return compatibility_report.panels(config, found, split, stored) + shown + curves
    return shown + curves


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a run, or one checkpoint folder in it")
    flags.DEFINE_string("split", "", "split, or several joined by + (default: the config's test_split)")
    flags.DEFINE_string("out", None, "folder for report.json and report.html")
    flags.DEFINE_string("step", "best", "best, last or a step number")
    flags.DEFINE_string("dataset", "", "NAME[/CONFIG], where it is not the config's")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets, where it is not the config's")
    flags.DEFINE_bool("allow_missing", False, "evaluate although records cannot be read")
    flags.DEFINE_bool("baselines", True, "also evaluate the simple baselines")
    parallel.add_flags()
    flags.mark_flags_as_required(["checkpoint", "out"])


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    args = flags.FLAGS
    parallel.start()
    result = evaluate(
        args.checkpoint,
        args.split,
        args.out,
        which=args.step,
        overrides={"dataset": args.dataset, "data_dir": args.data_dir},
        allow_missing=args.allow_missing,
        with_baselines=args.baselines,
    )
    judged = quirks.judged_by(ConfigDict(result["config"]))
    headline = {name: value for name, value in result["metrics"].items() if name.startswith(judged)}
    for name, value in headline.items():
        print(f"{name:<40} {value:.4f}")
    print(f"{result['n']} of {result['n_total']} records, label {result['label']}")
    print(f"report: {Path(args.out) / 'report.html'}")
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
