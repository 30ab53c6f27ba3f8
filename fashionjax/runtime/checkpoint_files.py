"""The files of a checkpoint: the only place that knows how Orbax lays them out. Arrays are not read here.

`WORKDIR/checkpoints/STEP/` holds `state` (arrays), `config/metadata` (JSON: the whole config with the label
names) and, where the step was evaluated, `metrics/metrics` (JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from fashionjax import files
from fashionjax.errors import UserError

FOLDER = "checkpoints"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that a save has not finished
STATE, CONFIG, METRICS = "state", "config/metadata", "metrics/metrics"  # in a step's folder
RENAMED_MODEL_FIELDS = {"learns": "labels_predicted"}  # of checkpoints written before


def locate(path: str | Path, which: str = "best") -> tuple[Path, int]:
    """(the `checkpoints` folder, the step) that `path` and `which` mean.

    `path` is a workdir, its `checkpoints` folder or one step's folder inside that; `which` is best (by the
    config's `best` metric; the last where no checkpoint has it), last, or a step number.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; --checkpoint is the --workdir of a training run")
    if path.name.isdigit() and (path / STATE).is_dir():
        return path.parent, int(path.name)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and (p / STATE).is_dir())
    if not steps:
        raise UserError(f"{path}: holds no checkpoint; --checkpoint is the --workdir of a training run")
    if which not in ("best", "last"):
        if not which.isdigit() or int(which) not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"{folder}: no step {which!r}; there are best, last, {known}")
        return folder, int(which)
    return folder, (_best_step(folder, steps) if which == "best" else steps[-1])


def step_folder(path: str | Path, which: str = "best") -> Path:
    """The folder of the step that `path` and `which` mean, as for `locate`."""
    folder, step = locate(path, which)
    return folder / str(step)


def below(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Every checkpoint's step folder below `folders`, each once."""
    found = {f for folder in folders for f in Path(folder).rglob(f"{FOLDER}/*/{CONFIG}")}
    yield from (file.parents[1] for file in found)


def read_config(step_folder: Path) -> dict:
    """The config in one step's folder, fields of earlier versions under today's names."""
    return convert(_read_json(step_folder / CONFIG))


def convert(config: dict) -> dict:
    """A stored config, of a checkpoint or report, with fields of earlier versions under today's names."""
    model, switches = config.get("model", {}), config.get("faithful")
    for old, new in RENAMED_MODEL_FIELDS.items():
        if old in model:
            model[new] = model.pop(old)
    validation = config.get("validation", {})
    if "items" in validation:
        validation["share"] = validation.pop("items")
    if isinstance(switches, dict):  # {switch: bool}, of S3 the number of images per GPU or None
        del config["faithful"]
        config["quirks"] = [name for name, value in switches.items() if value]
        config["images_per_gpu"] = switches.get("s3_roi_scramble_group") or 0
    return config


def read_metrics(step_folder: Path) -> dict[str, float]:
    """What the evaluation of this step measured; {} where it was not evaluated."""
    file = step_folder / METRICS
    return _read_json(file) if file.is_file() else {}


def write_metrics(step_folder: Path, metrics: dict[str, float]) -> None:
    """Store what an evaluation measured after the step was saved."""
    files.write_text(step_folder / METRICS, json.dumps(metrics))


def _best_step(folder: Path, steps: list[int]) -> int:
    scores = {}
    for step in steps:
        config, metrics = read_config(folder / str(step)), read_metrics(folder / str(step))
        name, sign = config.get("best", ""), -1.0 if config.get("best_mode") == "min" else 1.0
        if name in metrics:
            scores[step] = sign * metrics[name]
    return max(scores, key=scores.get) if scores else steps[-1]


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{file}: not a readable checkpoint ({why}); delete its step's folder, or use another step"
        ) from error
    return value


def first_line(error: Exception) -> str:
    """At most 200 characters of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
