"""What fills a row of the zoo: dataset, weights, training and evaluation as commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fashionjax.compare import published as published
from fashionjax.compare.published import FORWARD, Zoo
from fashionjax.data import source
from fashionjax.errors import UserError


def missing(zoo: Zoo, row: Mapping, have: Mapping[str, Path | None], data_dir: str | Path) -> dict:
    """{"why": …} for a row that cannot be filled, else {"dataset": step | None, column: [steps]}.

    `have`: the empty columns, with the run folder where one exists already. A step is {"what", "links",
    "command"}; `command` is a list of words.
    """
    if row["config"] is None:
        return {"why": "this system is not built yet", "links": row["download"]}
    prepared, dataset = _dataset(row, data_dir)
    command = ["fashionjax", "prepare", dataset, "--manual_dir=DIR", f"--data_dir={data_dir}"]
    result: dict[str, Any] = {"dataset": _step("dataset", command) if have and not prepared else None}
    for column, run in have.items():
        result[column] = _column_steps(zoo, row, column, run, dataset, data_dir)
    return result


def _step(what: str, command: list[str] | None = None, links: Sequence[Mapping] = ()) -> dict:
    return {"what": what, "links": list(links), "command": command}


def _dataset(row: Mapping, data_dir: str | Path) -> tuple[bool, str]:
    """(whether one is prepared, its name or the one to prepare)."""
    names = [row["dataset"], *row["same_benchmark"]]
    wanted = published.experiment(published.config_argument(row, faithful=True))["dataset"]
    for name in sorted(names, key=lambda name: name != wanted):
        try:
            source.find(name, data_dir)
            return True, name
        except UserError:  # not prepared there
            continue
    return False, wanted if wanted in names else row["dataset"]


def _column_steps(zoo: Zoo, row, column: str, have: Path | None, dataset: str, data_dir) -> list[dict]:
    config = published.config_argument(row, faithful=True)
    root = Path("runs/zoo") / row["id"]
    workdir = have or root / ("imported" if column == FORWARD else "trained")
    if column == FORWARD and row["weights_of"] != row["id"]:
        return [_step(f"no weights of this row are published: its link is the file of {row['weights_of']}")]

    def command(name: str, folder: Path, *words: str, config: str = config) -> list[str]:
        chosen = [f"--config={config}", f"--workdir={folder}"]
        if published.experiment(config)["dataset"] not in (dataset, row["trained_on"]):
            chosen.append(f"--config.dataset={dataset}")
        if str(data_dir) != "data":
            chosen.append(f"--config.data_dir={data_dir}")
        return ["fashionjax", name, *words[:1], *chosen, *words[1:]]

    steps = []
    if have is None and column == FORWARD:
        steps.append(_step("checkpoint", links=row["download"]))
        steps.append(_step("import", command("import", workdir, "FILE")))
    elif have is None:
        start = []
        if "first_stage" in row:
            first = row["first_stage"]
            steps += _initial(zoo, first["initial_weights"], root / "start1", command, first["config"], [])
            begin = [f"--config.init_from={root / 'start1'}"] if first["initial_weights"] else []
            trained = command("train", root / "stage1", config=first["config"])
            steps.append(_step("train the first stage", [*trained, *begin]))
            start = [f"--config.init_from={root / 'stage1'}"]
        if row["initial_weights"]:
            steps += _initial(zoo, row["initial_weights"], root / "start", command, config, start)
            start = [f"--config.init_from={root / 'start'}"]
        if row["trained_on"]:
            words = ["prepare", row["trained_on"], "--manual_dir=DIR", f"--data_dir={data_dir}"]
            steps.append(_step("dataset of training", ["fashionjax", *words]))
        steps.append(_step("train", [*command("train", workdir), *start]))
    evaluate = [f"--checkpoint={workdir}", f"--split={row['split']}", f"--out={workdir / row['split']}"]
    evaluate += [f"--data_dir={data_dir}"] if str(data_dir) != "data" else []
    return [*steps, _step("evaluate", ["fashionjax", "evaluate", *evaluate])]


def _initial(
    zoo: Zoo, name: str | None, folder: Path, command, config: str, start: Sequence[str]
) -> list[dict]:
    """The weights `name` of the zoo imported into a run of their own, which goes on from `start`."""
    if name is None:
        return []
    weights = zoo.initial_weights[name]
    link = {"host": weights.get("host", "PyTorch"), "url": weights["url"]}
    file = weights["url"].rpartition("/")[2]
    words = [*command("import", folder, file, "--backbone_only", config=config), *start]
    return [_step("initial weights", links=[link]), _step("import", words)]
