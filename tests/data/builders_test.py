"""The prepare command: its output, its refusals, and that a build is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tfds_builders"))
import trees

from fashionjax import prepare
from fashionjax.data import builders
from fashionjax.errors import UserError

NAME = "deepfashion_landmarks"
PATIENCE = 300  # seconds; a loaded machine is slow


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fashionjax.prepare", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(root: Path) -> list[str]:
    """What looks like a dataset: anything outside hidden folders."""
    return [
        path for path in trees.all_files(root) if builders.BUILDING not in path and "/.config/" not in path
    ]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of 4000 images, so that a build takes a moment."""
    return trees.landmarks(tmp_path_factory.mktemp("large") / "release", n=4000)


@pytest.mark.slow
def test_command_prints_json_and_repeats_it(tmp_path: Path) -> None:
    release = trees.landmarks(tmp_path / "release")
    arguments = (NAME, f"--manual_dir={release}", f"--data_dir={tmp_path / 'out'}")
    first = start(*arguments)
    stdout, stderr = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, stderr
    result = json.loads(stdout.splitlines()[-1])
    assert result == {
        "dataset": NAME,
        "config": "original",
        "splits": {"train": 6, "val": 3, "test": 3},
        "skipped": [],
    }
    assert "83033" in stderr and "images/s" in stderr
    assert sorted(os.listdir(tmp_path / "out")) == [NAME]
    again = builders.prepare(NAME, data_dir=tmp_path / "out")  # needs no release any more
    assert again == result
    second = start(*arguments)
    stdout, stderr = second.communicate(timeout=PATIENCE)
    assert json.loads(stdout) == result and stderr.count("already prepared") == 1
    with pytest.raises(UserError, match=r"clip_boxes was False, now True.*--overwrite"):
        builders.prepare(NAME, data_dir=tmp_path / "out", overrides={"clip_boxes": "true"})
    replaced = builders.prepare(
        NAME,
        data_dir=tmp_path / "out",
        manual_dir=release,
        overrides={"clip_boxes": True},
        overwrite=True,
        progress=False,
    )
    assert replaced == result
    record = json.loads((tmp_path / "out" / NAME / "original/1.0.0" / builders.RECORD).read_text())
    assert record["fields"] == {"clip_boxes": True}
    assert sorted(os.listdir(tmp_path / "out")) == [NAME]


def test_a_field_that_is_newer_than_the_dataset_had_its_default(tmp_path: Path) -> None:
    options = {"data_dir": tmp_path / "out", "manual_dir": trees.landmarks(tmp_path / "release")}
    result = builders.prepare(NAME, progress=False, **options)
    path = tmp_path / "out" / NAME / "original/1.0.0" / builders.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fields": {}}))
    assert builders.prepare(NAME, **options) == result
    with pytest.raises(UserError, match="clip_boxes was False, now True"):
        builders.prepare(NAME, overrides={"clip_boxes": True}, **options)


@pytest.mark.slow
def test_command_names_file_and_line(tmp_path: Path) -> None:
    release = trees.landmarks(tmp_path / "release")
    trees.edit(release / "Eval/list_eval_partition.txt", 7, lambda line: line.replace("train", "trian"))
    run = start(NAME, f"--manual_dir={release}", f"--data_dir={tmp_path / 'out'}")
    stdout, stderr = run.communicate(timeout=PATIENCE)
    assert run.returncode == 2 and not stdout
    assert "list_eval_partition.txt:7: split 'trian'" in stderr.splitlines()[-1]
    assert not trees.all_files(tmp_path / "out")


def test_missing_manual_dir_lists_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for manual_dir in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="manual_dir"):
            builders.prepare(NAME, data_dir=tmp_path, manual_dir=manual_dir)
        shown = capsys.readouterr().err
        for file in ("Anno/list_landmarks.txt", "Anno/list_bbox.txt", "Eval/list_eval_partition.txt", "Img/"):
            assert file in shown


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("deepfashion_landmark", {}, "unknown dataset .*deepfashion_landmarks"),
        (f"{NAME}/fine", {}, "no config 'fine'; one of: original, mmfashion"),
        (NAME, {"clip": "1"}, "no such field; its fields: clip_boxes"),
        (NAME, {"clip_boxes": "yes"}, "not a bool"),
        (NAME, {"clip_boxes": "1"}, "not a bool"),
    ],
)
def test_unknown_names(tmp_path: Path, name: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        builders.prepare(name, data_dir=tmp_path / "out", manual_dir=tmp_path, overrides=overrides)
    assert not (tmp_path / "out").exists()


def test_overrides_are_field_equals_value() -> None:
    assert prepare.parse_overrides(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    with pytest.raises(UserError, match="FIELD=VALUE"):
        prepare.parse_overrides(["a"])


def test_foreign_dataset_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / NAME / "original" / "1.0.0"
    target.mkdir(parents=True)
    with pytest.raises(UserError, match="not built by this command"):
        builders.prepare(NAME, data_dir=tmp_path, manual_dir=tmp_path)


def test_live_build_is_left_alone_and_dead_one_removed(tmp_path: Path) -> None:
    dead = tmp_path / f"{builders.BUILDING}dead"
    dead.mkdir()
    with builders._building_folder(tmp_path, "one") as first:
        assert not dead.exists()
        with builders._building_folder(tmp_path, "two") as second:
            assert first.exists() and second.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_build_leaves_nothing_finished(large: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Killed while it writes: no dataset, no worker process; the next build clears up and finishes."""
    out = tmp_path / "out"
    arguments = (NAME, f"--manual_dir={large}", f"--data_dir={out}", "--processes=2")
    run = start(*arguments)
    deadline = time.monotonic() + PATIENCE
    while not any(".array_record" in path for path in trees.all_files(out)):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.005)
    run.send_signal(signal.SIGSTOP)  # it waits here, however long this process takes
    assert not finished(out), "the build was finished before it was stopped"
    workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(pid) == run.pid]
    assert len(workers) >= 2
    run.send_signal(number)
    run.send_signal(signal.SIGCONT)
    run.communicate(timeout=PATIENCE)
    assert run.returncode == (-9 if number == signal.SIGKILL else 143)
    assert not finished(out)
    assert bool(list(out.glob(f"{builders.BUILDING}*"))) == (number == signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker process outlived the killed command"
        time.sleep(0.05)
    if number == signal.SIGKILL:
        result = builders.prepare(NAME, data_dir=out, manual_dir=large, progress=False)
        assert result["splits"] == {"train": 2000, "val": 1000, "test": 1000}
        assert os.listdir(out) == [NAME]
    shutil.rmtree(out)


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
