"""Datasets built with their TFDS builders, whole or not at all.

A build happens in a hidden folder of DATA_DIR and is renamed into DATA_DIR/NAME/CONFIG/VERSION when it is
complete, so a failure or kill at any moment leaves nothing that looks finished; folders of dead builds are
removed by the next one.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import fcntl
import importlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from fashionjax.data import source
from fashionjax.errors import UserError

RECORD = (
    "prepared.json"  # beside the dataset's files: what the command printed, and the builder-config fields
)
LISTED = 20  # images left out that are named on stderr
BUILDING = ".building-"  # prefix of unfinished builds
# how to build, not what
RUNTIME_FIELDS = frozenset({"manual_dir", "skip_damaged", "allow_damaged", "processes", "progress"})


# ------------------------------------------------------------------------------ finding a builder
def builder_names() -> list[str]:
    """The datasets that this installation can build, by the layout
    tfds_builders/NAME/NAME_dataset_builder.py.
    """
    package = importlib.util.find_spec("tfds_builders")
    folders = [Path(p) for p in package.submodule_search_locations] if package else []
    found = {path.parent.name for folder in folders for path in folder.glob("*/*_dataset_builder.py")}
    return sorted(found)


def builder_class(name: str) -> type:
    """The builder class of a dataset name; UserError lists the names there are."""
    names = builder_names()
    if name not in names:
        raise UserError(f"unknown dataset {name!r}; one of: {', '.join(names)}")
    return importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder


def builder_config(builder: type, config: str | None, overrides: Mapping[str, Any]) -> Any:
    """The named config (the default one for None) with `overrides` of its fields; None for builders without
    configs.

    Overrides given as text are read as the field's own type.
    """
    configs = {entry.name: entry for entry in builder.BUILDER_CONFIGS}
    if not configs:
        if config or overrides:
            raise UserError(f"{builder.name} has no configs and no fields to set")
        return None
    name = config or builder.DEFAULT_BUILDER_CONFIG_NAME or next(iter(configs))
    if name not in configs:
        raise UserError(f"{builder.name} has no config {name!r}; one of: {', '.join(configs)}")
    chosen = configs[name]
    known = config_fields(chosen)
    for field in overrides:
        if field not in known:
            fields = ", ".join(known) or "none"
            raise UserError(f"--set={field}: {builder.name}/{name} has no such field; its fields: {fields}")
    values = {field: _typed(field, value, known[field]) for field, value in overrides.items()}
    return dataclasses.replace(chosen, **values)


def config_fields(config: Any) -> dict[str, Any]:
    """The fields of a builder config that say what is built: its own ones, not TFDS's and not the run's."""
    import tensorflow_datasets as tfds

    inherited = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | RUNTIME_FIELDS
    names = [field.name for field in dataclasses.fields(config) if field.name not in inherited]
    return {name: getattr(config, name) for name in names}


def _typed(field: str, value: Any, current: Any) -> Any:
    """`value`, if text, as the type of the field's current value."""
    if not isinstance(value, str) or isinstance(current, str):
        return value
    try:
        read = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value.lower(), value))
    except (ValueError, SyntaxError) as error:
        if current is None:
            return value
        raise UserError(f"--set={field}={value}: not a {type(current).__name__}") from error
    if current is None or read is None or type(read) is type(current):
        return read
    if isinstance(current, float) and type(read) is int:
        return float(read)
    if isinstance(current, tuple) and isinstance(read, list):
        return tuple(read)
    raise UserError(f"--set={field}={value}: not a {type(current).__name__} (it is {current!r} by default)")


# ------------------------------------------------------------------------------ building
def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike[str],
    manual_dir: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    skip_damaged: bool = False,
    allow_damaged: int = 0,
    processes: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Build NAME[/CONFIG] into `data_dir`, unless it is there already.

    Returns {"dataset", "config", "splits": {name: count}, "skipped": [{"id", "reason"}]}. Raises UserError
    when the release is broken, or when the dataset is there with other builder-config fields and
    `overwrite` is off. A dataset that was prepared without label columns gets them.
    """
    builder, config, fields, target = _target(name, data_dir, overrides)
    done = None if overwrite else _already_prepared(builder, config, target, fields)
    if done is not None:
        source.write_columns(target, progress, missing_ok=True)
        return done
    _check_manual_dir(builder, manual_dir)
    root, dataset = Path(data_dir).expanduser(), builder.name
    run = {"manual_dir": os.fspath(manual_dir or ""), "skip_damaged": skip_damaged, "progress": progress}
    run["allow_damaged"] = allow_damaged
    if processes is not None:
        run["processes"] = processes
    with _building_folder(root, dataset) as building:
        result, notes, built = _build(builder, config, building, run, fields)
        record = result | {"notes": notes, "fields": fields}
        (built / RECORD).write_text(json.dumps(record, indent=1, default=str) + "\n")
        _move(building, root, built, target, overwrite)
    return result


def prepared_folder(
    name: str, *, data_dir: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> Path | None:
    """The folder of NAME[/CONFIG] if it is prepared. UserError where it is with other fields."""
    builder, config, fields, target = _target(name, data_dir, overrides)
    return None if _already_prepared(builder, config, target, fields) is None else target


def _target(
    name: str, data_dir: str | os.PathLike[str], overrides: Mapping[str, Any] | None
) -> tuple[type, Any, dict[str, Any], Path]:
    """Builder, its config, the config's fields, and the folder of the finished dataset."""
    dataset, _, config_name = name.partition("/")
    builder = builder_class(dataset)
    config = builder_config(builder, config_name or None, overrides or {})
    fields = config_fields(config) if config is not None else {}
    version = str(getattr(config, "version", None) or builder.VERSION)
    root = Path(data_dir).expanduser()
    return builder, config, fields, root.joinpath(dataset, *([config.name] if config else []), version)


def _already_prepared(
    builder: type, config: Any, target: Path, fields: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The command's result where the dataset is there; UserError where it was built with other fields."""
    if not target.exists():
        return None
    try:
        record = json.loads((target / RECORD).read_text())
        before = record.pop("fields")
        record.pop("notes", None)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{target} exists but was not built by this command; --overwrite replaces it"
        ) from error
    for entry in builder.BUILDER_CONFIGS:  # a field that is newer than the dataset had its default
        if config is not None and entry.name == config.name:
            before = json.loads(json.dumps(config_fields(entry), default=str)) | before
    now = json.loads(json.dumps(dict(fields), default=str))
    changed = [
        f"{field} was {before.get(field)!r}, now {now.get(field)!r}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]
    if changed:
        raise UserError(
            f"{target} is prepared with other fields ({'; '.join(changed)}); use it with the same --set, "
            "choose another --data_dir, or replace it with --overwrite"
        )
    return record


def _check_manual_dir(builder: type, manual_dir: str | os.PathLike[str] | None) -> None:
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if instructions is None:
        return
    if not manual_dir or not os.path.isdir(manual_dir):
        print(instructions, file=sys.stderr)
        what = f"--manual_dir={manual_dir} is not a folder" if manual_dir else "--manual_dir is missing"
        raise UserError(f"{what}; it must hold the files of {builder.name} listed above")


def _build(
    builder: type, config: Any, building: Path, run: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], Path]:
    """Run the builder in `building` → (the command's result, notes, the folder of the finished dataset)."""
    import tensorflow_datasets as tfds

    from tfds_builders.release import ReleaseError

    own_progress = config is not None and hasattr(config, "progress")
    tfds.display_progress_bar(bool(run["progress"]) and not own_progress)
    if config is not None:
        known = {field.name for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{key: value for key, value in run.items() if key in known})
    try:
        instance = _with_config(builder, config)(
            data_dir=str(building), config=config, file_format="array_record"
        )
        if instance.info.metadata is not None:
            instance.info.metadata["config_fields"] = json.loads(json.dumps(dict(fields), default=str))
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces the building folder as the place
            instance.download_and_prepare(
                download_dir=str(building / "downloads"),
                download_config=tfds.download.DownloadConfig(manual_dir=run["manual_dir"] or None),
            )
        source.write_columns(Path(instance.data_dir), bool(run["progress"]))
    except ReleaseError as error:
        raise UserError(str(error)) from error
    except (OSError, BrokenExecutor) as error:  # a full disk, a worker that the system killed
        raise UserError(f"the build of {builder.name} stopped: {' '.join(str(error).split())}") from error
    splits = {split: int(info.num_examples) for split, info in instance.info.splits.items()}
    result = {
        "dataset": builder.name,
        "config": config.name if config is not None else None,
        "splits": splits,
        "skipped": list(getattr(instance, "skipped", [])),
    }
    notes = list(getattr(instance, "notes", []))
    _report(getattr(instance, "PUBLISHED", {}).get(result["config"], {}), result, notes)
    return result, notes, Path(instance.data_dir)


def _with_config(builder: type, config: Any) -> type:
    """The builder with `config` in place of its own config of that name (TFDS refuses a changed config
    otherwise).
    """
    if config is None:
        return builder
    configs = [config if entry.name == config.name else entry for entry in builder.BUILDER_CONFIGS]
    body = {"BUILDER_CONFIGS": configs, "name": builder.name, "__module__": builder.__module__}
    return types.new_class(
        builder.__name__, (builder,), {"skip_registration": True}, lambda space: space.update(body)
    )


def _report(published: Mapping[str, int], result: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Counts, beside the published sizes where there are any, notes and what was left out, on stderr."""
    print(f"{'split':<10} {'counted':>9}{'  published' if published else ''}", file=sys.stderr)
    for split in [*result["splits"], *(s for s in published if s not in result["splits"])]:
        beside = f" {published.get(split, '-'):>10}" if published else ""
        print(f"{split:<10} {result['splits'].get(split, '-'):>9}{beside}", file=sys.stderr)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    skipped = result["skipped"]
    for entry in skipped[:LISTED]:
        print(f"left out: {entry['id']}: {entry['reason']}", file=sys.stderr)
    if len(skipped) > LISTED:
        print(f"{len(skipped)} images were left out; {RECORD} lists all of them", file=sys.stderr)


def notes_on(folder: str | os.PathLike[str]) -> tuple[list[str], list[dict[str, str]]]:
    """(notes of the build, [{"id", "reason"}] of what it left out), of a prepared dataset's folder."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text())
    except (OSError, ValueError):  # not built by this library
        return [], []
    return record.get("notes", []), record.get("skipped", [])


# ------------------------------------------------------------------------------ atomic folders
@contextlib.contextmanager
def _building_folder(root: Path, dataset: str) -> Iterator[Path]:
    """A fresh hidden folder in `root`, locked while this process lives and removed at the end in any case."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            _remove_dead_builds(root)
            folder = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{dataset}-", dir=root))
            alive = os.open(folder, os.O_RDONLY)
            fcntl.flock(alive, fcntl.LOCK_EX)
    except OSError as error:
        raise UserError(f"--data_dir={root}: cannot be written ({error.strerror or error})") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_dead_builds(root: Path) -> None:
    """Remove building folders that no living process has locked."""
    for folder in root.glob(f"{BUILDING}*"):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its build has just ended
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # a build under way
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _move(building: Path, root: Path, built: Path, target: Path, overwrite: bool) -> None:
    """Rename the finished dataset into place; with `overwrite`, in place of the one that is there."""
    with _locked(root):
        target.parent.mkdir(parents=True, exist_ok=True)
        default = built.relative_to(building).parts[0]
        source = building / default / ".config"
        if source.is_dir() and not (root / default / ".config").exists():
            source.rename(root / default / ".config")
        if target.exists():
            if not overwrite:
                raise UserError(f"{target} was prepared by another process meanwhile")
            target.rename(building / "replaced")
        built.rename(target)
