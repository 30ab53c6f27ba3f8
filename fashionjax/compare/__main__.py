"""Measured results beside the published ones, and what is missing to fill the table.

    fashionjax compare runs/zoo --out=runs/zoo/compare

Reads every report.json below the given folders and prints published, reproduced-forward and retrained numbers
with their differences; `--out` also writes compare.json and compare.html. Without folders it prints the
published numbers and how to reproduce each. Synthetic results have a table of their own. `fashionjax.zoo`
states which row a report belongs to; of several reports for one cell the newest file is shown, and all are
listed. Differences carry no verdict: upstream evaluated on unseeded random crops.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from fashionjax import cli, files
from fashionjax.compare import categories
from fashionjax.compare import published as published
from fashionjax.compare import steps as missing_steps
from fashionjax.compare import text as compare_text
from fashionjax.compare.published import FORWARD, RETRAINED, SYNTHETIC, Zoo
from fashionjax.errors import UserError
from fashionjax.reports.report import LABELS, REQUIRED, plain, render_page
from fashionjax.runtime import checkpoint_files

COLUMNS = (FORWARD, RETRAINED)
HEADLINE = 4  # metrics of a synthetic report that is like no row
# what a comparison reads of a report and of a run's config; all but REQUIRED may be absent
REPORT_FIELDS = {
    **{"label": str, "dataset": str, "split": str, "n": int, "metrics": dict},
    **{"n_total": int, "step": int | None, "switches": list, "config": dict},
}
CONFIG_FIELDS = {"dataset": str, "quirks": list, "imported": dict | None, "init_from": str | None}


class Found(NamedTuple):
    path: Path
    written: float  # modification time; the newest of a cell is shown
    report: dict


# ------------------------------------------------------------------------------ reading
def find_reports(workdirs: Iterable[str | Path]) -> list[Found]:
    """Every report.json below the folders (a report file is taken too), oldest first, each once."""
    paths: dict[Path, Path] = {}
    for workdir in map(Path, workdirs):
        if not workdir.exists():
            raise UserError(f"{workdir}: no such folder")
        below = [workdir] if workdir.is_file() else sorted(workdir.rglob("report.json"))
        if not below:
            raise UserError(f"{workdir}: no report.json below it; `fashionjax evaluate --out=DIR` writes one")
        for path in below:
            paths.setdefault(path.resolve(), path)
    found = [Found(path, path.stat().st_mtime, read_report(path)) for path in paths.values()]
    return sorted(found, key=lambda item: (item.written, str(item.path)))


def read_report(path: Path) -> dict:
    """A report as `fashionjax evaluate` writes it."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: not readable as JSON ({reason}); evaluate again, or remove it") from error
    wrong = _wrong_field(report, REPORT_FIELDS, REQUIRED)
    if wrong is None and "config" in report:
        checkpoint_files.convert(report["config"])
    if wrong is None:
        wrong = next((f"metrics.{name}" for name, v in report["metrics"].items() if not _is_number(v)), None)
    if wrong is None and not all(isinstance(name, str) for name in report.get("switches", [])):
        wrong = "switches"
    if wrong is None:
        inner = _wrong_field(report.get("config", {}), CONFIG_FIELDS)
        wrong = inner if inner is None else f"config.{inner}"
    if wrong is not None:
        where = f"field {wrong!r}" if wrong else "no object"
        raise UserError(f"{path}: no report of `fashionjax evaluate` ({where})")
    if report["label"] not in LABELS:
        raise UserError(f"{path}: label {report['label']!r} is none of {', '.join(LABELS)}")
    return report


def _wrong_field(item: object, kinds: Mapping, required: Sequence[str] = ()) -> str | None:
    """The first field that is absent and required, or of another kind; '' where there are no fields."""
    if not isinstance(item, dict):
        return ""
    for name, kind in kinds.items():
        value = item.get(name)
        if name not in item:
            if name in required:
                return name
        elif not isinstance(value, kind) or isinstance(value, bool):
            return name
    return None


def _is_number(value: object) -> bool:
    """Whether a metric may have this value: true and false are no numbers, null is an undefined one."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_synthetic(report: Mapping) -> bool:
    """By label or by dataset: either is enough to keep it out of the other columns."""
    return report["label"] == SYNTHETIC or report["dataset"].startswith("synthetic")


def find_checkpoints(zoo: Zoo, workdirs: Iterable[str | Path]) -> dict[tuple[str, str], Path]:
    """(row id, column) → the newest run below `workdirs` that has the row's config and quirks."""
    found: dict[tuple[str, str], tuple[float, Path]] = {}
    for step_folder in checkpoint_files.below(workdirs):
        config = checkpoint_files.read_config(step_folder)
        wrong = _wrong_field(config, CONFIG_FIELDS)
        if wrong is not None:
            raise UserError(f"{step_folder}: not a readable checkpoint config ({wrong or 'no object'})")
        trained = step_folder.name != "0"
        column = FORWARD if published.imported_file(config) else RETRAINED
        if trained != (column == RETRAINED):
            continue  # not trained yet, or trained on from the published weights
        for row in zoo.rows:
            if row["config"] and _is_run_of(row, config, column):
                entry = (step_folder.stat().st_mtime, step_folder.parents[1])
                found[row["id"], column] = max(found.get((row["id"], column), entry), entry)
    return {key: path for key, (_, path) in found.items()}


def _is_run_of(row: Mapping, config: Mapping, column: str) -> bool:
    as_published = published.experiment(published.config_argument(row, faithful=True))
    return (
        published.same_dataset(row, config.get("dataset", ""))
        and published.switches(config) == published.switches(as_published)
        and not published.model_differences(row, config, column)
    )


# ------------------------------------------------------------------------------ the comparison
def compare(
    zoo: Zoo, found: Sequence[Found], checkpoints: Mapping = {}, data_dir: str | Path = "data"
) -> dict:
    """→ what compare.json holds: zoo, tables, rows, remarks, synthetic, other."""
    places = {item.path: published.place(zoo, item.report) for item in found if not is_synthetic(item.report)}
    remarks: list[dict] = []
    rows = []
    for row in zoo.rows:
        mine = [
            item
            for item in found
            if item.path in places and (places[item.path].row or {}).get("id") == row["id"]
        ]
        rows.append(_row(zoo, row, mine, places, remarks, checkpoints, data_dir))
    return {
        "zoo": zoo.document,
        "tables": zoo.tables,
        "rows": rows,
        "remarks": remarks,
        "synthetic": [_synthetic(zoo, item) for item in found if is_synthetic(item.report)],
        "other": [
            _listed(item) | {"why": places[item.path].why}
            for item in found
            if item.path in places and places[item.path].row is None
        ],
    }


def _row(zoo: Zoo, row, mine: list[Found], places: Mapping, remarks: list, checkpoints, data_dir) -> dict:
    """A zoo row with its lines: one per metric and set of quirks, the published set first."""
    kept = ("id", "table", "backbone", "pooling", "variant", "dataset", "split", "config", "notes")
    metrics, shown = [], set()
    for metric in row["metrics"]:
        lines = {(True, ()): {"as_published": True, "switches": [], **dict.fromkeys(COLUMNS)}}
        for item in mine:  # oldest first: the newest stays
            value = item.report["metrics"].get(metric["name"])
            place = places[item.path]
            if value is None or not math.isfinite(value):
                continue
            on = () if place.as_published else tuple(sorted(item.report.get("switches", [])))
            empty = {"as_published": False, "switches": list(on), **dict.fromkeys(COLUMNS)}
            line = lines.setdefault((place.as_published, on), empty)
            line[item.report["label"]] = _cell(metric, value, item, place)
        cells = [line[column] for line in lines.values() for column in COLUMNS if line[column]]
        shown |= {cell["report"] for cell in cells}
        for cell in cells:
            cell["mark"] = _mark(remarks, cell)
        entry = {name: metric.get(name) for name in ("name", "value", "printed", "unit", "note")}
        metrics.append(entry | {"lines": list(lines.values())})
    reports = []
    for item in mine:
        lacking = [m["name"] for m in row["metrics"] if item.report["metrics"].get(m["name"]) is None]
        listed = _listed(item) | {"in_table": str(item.path) in shown, "lacks": lacking}
        reports.append(listed | {"remarks": list(places[item.path].remarks)})
    shown_reports = [item for item in mine if str(item.path) in shown]
    newest = shown_reports[-1] if shown_reports else None
    out = {name: row[name] for name in kept} | {"metrics": metrics, "reports": reports}
    out["per_category"] = categories.beside(row, newest and newest.report)
    out["per_category_of"] = None if newest is None else str(newest.path)
    return out | {"missing": _missing(zoo, row, metrics, checkpoints, data_dir)}


def _missing(zoo: Zoo, row, metrics: Sequence[Mapping], checkpoints: Mapping, data_dir: str | Path) -> dict:
    empty = [c for c in COLUMNS if any(metric["lines"][0][c] is None for metric in metrics)]
    have = {column: checkpoints.get((row["id"], column)) for column in empty}
    return missing_steps.missing(zoo, row, have, data_dir)


def _cell(metric: Mapping, value: float, item: Found, place: published.Place) -> dict:
    if metric["unit"] == "percent" and metric["name"].startswith("standard/"):
        value = 100 * value  # standard metrics are fractions, whatever the document prints
    return {
        "value": value,
        "difference": value - metric["value"],
        "n": item.report["n"],
        "n_total": item.report.get("n_total", item.report["n"]),
        "report": str(item.path),
        "remarks": list(place.remarks),
    }


def _mark(remarks: list[dict], cell: Mapping) -> int | None:
    """The number of the remark that the table shows beside a value; one per report."""
    if not cell["remarks"]:
        return None
    for known in remarks:
        if known["report"] == cell["report"]:
            return known["mark"]
    text = "; ".join(cell["remarks"])
    remarks.append({"mark": len(remarks) + 1, "report": cell["report"], "text": text})
    return len(remarks)


def _listed(item: Found) -> dict:
    names = ("label", "dataset", "split", "n", "n_total", "step", "switches")
    facts = {name: item.report.get(name) for name in names}
    config = item.report.get("config", {})
    backbone = published.imported_file(config, backbone=True)
    start = config.get("init_from") or (backbone and f"the backbone in {backbone}")
    return {"report": str(item.path)} | facts | {"init_from": start}


def _synthetic(zoo: Zoo, item: Found) -> dict:
    """A synthetic report with the metrics of the row whose model it is, or its first standard ones."""
    config, metrics = item.report.get("config", {}), item.report["metrics"]
    like = [
        row
        for row in zoo.rows
        if row["config"] and config and not published.model_differences(row, config, SYNTHETIC)
    ]
    names = dict.fromkeys(metric["name"] for row in like for metric in row["metrics"])
    shown = {name: metrics[name] for name in names if name in metrics}
    if not shown:
        standard = [name for name in metrics if name.startswith("standard/")] or list(metrics)
        shown = {name: metrics[name] for name in standard[:HEADLINE]}
    return _listed(item) | {"model_of": [row["id"] for row in like], "metrics": shown}


# ------------------------------------------------------------------------------ command
def write(out: str | Path, result: Mapping) -> None:
    """OUT/compare.json and OUT/compare.html."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    helpers = {"decimals": compare_text.decimals, "describe": compare_text.describe}
    page = render_page("compare/page.html.jinja", result=result, columns=COLUMNS, meanings=LABELS, **helpers)
    files.write_text(out / "compare.html", page)
    numbers = json.dumps(plain(result), indent=1, ensure_ascii=False, allow_nan=False)
    files.write_text(out / "compare.json", numbers + "\n")


def add_flags() -> None:
    flags.DEFINE_string("out", "", "folder for compare.json and compare.html")
    flags.DEFINE_string("zoo", str(published.FILE), "file of published numbers")
    flags.DEFINE_string("data_dir", "data", "folder of prepared datasets, looked at for what is missing")


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    workdirs = argv[1:]
    zoo = published.load(args.zoo)
    found = find_reports(workdirs)
    result = compare(zoo, found, find_checkpoints(zoo, workdirs), args.data_dir)
    print(compare_text.render(result, COLUMNS, shutil.get_terminal_size((100, 24)).columns))
    if args.out:
        write(args.out, result)
        print(f"\npage: {Path(args.out) / 'compare.html'}")
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
