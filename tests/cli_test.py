"""What every command shares: errors in one line, folders, a reader that stops reading."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment, run

import experiments
import fashionjax as package
from fashionjax import cli
from fashionjax.errors import UserError

PRINTER = (
    "from fashionjax import cli\n"
    "def main(argv):\n"
    "    for number in range(100_000): print(number, flush={flush})\n"
    "cli.run(main)"
)


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_stops_reading_ends_a_command_quietly(flush):
    """As behind `| head -1`."""
    line = [sys.executable, "-c", PRINTER.format(flush=flush)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(timeout=300) == 141 and process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=experiments/landmarkz.py"], "No such file or directory: 'experiments/landmarkz.py'"),
        (["--config=experiments"], "Is a directory: 'experiments'"),
        (["--config=experiments/landmarks.py:tinny=true"], "tinny=true: unknown config argument 'tinny'"),
        (["--config=experiments/demo.py:steps=x"], "config argument steps='x': expected int"),
        (["--config=experiments/demo.py", "--config.nope=1"], "unknown config field nope"),
        (["--config=experiments/demo.py", "--config.workers=many"], "many"),
        (
            ["--config=experiments/demo.py", "--config.stepz=1"],
            "unknown config field stepz; did you mean steps?",
        ),
        (["--config=experiments/demo.py", "--cofnig=1"], "unknown flag --cofnig; did you mean --config?"),
        ([], "--config is missing: experiments/NAME.py"),
    ],
)
def test_bad_flags_are_one_short_line(tmp_path, flags, message):
    done = run("train", *flags, f"--workdir={tmp_path}")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and message in line and len(line) < 300 and "Traceback" not in done.stderr
    assert "\\" not in line and "must have a value other than None" not in line


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    assert cli.make_folder(tmp_path / "a" / "b", "--out").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UserError, match=r"cannot be made .* give another --out"):
            cli.make_folder(path, "--out")


def fashionjax(*words, cwd=None):
    line = [sys.executable, "-c", "from fashionjax import cli; cli.main()", *words]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, cwd=cwd)


def test_version_usage_and_unknown_subcommands():
    done = fashionjax("--version")
    assert (done.returncode, done.stdout) == (0, f"fashionjax {package.__version__}\n")
    for words, status in ((["--help"], 0), (["help"], 0), ([], 2)):
        done = fashionjax(*words)
        assert done.returncode == status and all(name in done.stdout for name in cli.COMMANDS)
    done = fashionjax("prdict")
    assert done.returncode == 2 and "unknown subcommand 'prdict'; did you mean predict?" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["predict", "--help"], ["predict", "-h"], ["help", "predict"]])
def test_help_of_a_subcommand(words):
    done = fashionjax(*words)
    assert done.returncode == 0 and done.stderr == ""
    assert "fashionjax predict look.jpg" in done.stdout and "annotated images" in done.stdout
    assert "--topk=N\n      categories and attributes listed for each image (default: 5)" in done.stdout
    assert "--checkpoint=VALUE" in done.stdout and "--logtostderr" not in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_subcommand_has_help_with_an_example(name):
    """From the text of its module and its flags, without starting a process."""
    module = importlib.import_module(cli.COMMANDS[name][0])
    text = module.__doc__
    assert f"fashionjax {name} " in text or f"fashionjax.{name} " in text
    assert callable(module.main)


@pytest.mark.slow
def test_the_traceback_behind_an_error(tmp_path):
    line = ["evaluate", f"--checkpoint={tmp_path}"]
    done = fashionjax(*line)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "holds no checkpoint" in done.stderr
    done = fashionjax(*line, "--traceback")
    assert done.returncode == 2 and "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_configs_are_found_outside_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = Path(experiments.__file__).parent / "demo.py"
    assert cli.packaged_config(["--config=experiments/demo.py:steps=3", "x"]) == [
        f"--config={inside}:steps=3",
        "x",
    ]
    assert cli.packaged_config(["--config", "demo.py"]) == ["--config", str(inside)]
    assert cli.packaged_config(["--config=none.py"]) == ["--config=none.py"]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "demo.py").touch()
    assert cli.packaged_config(["--config=experiments/demo.py"]) == ["--config=experiments/demo.py"]


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("--config.faithful.s2_landmark_not_moved=true", "--config.quirks=s2_landmark_not_moved "),
        ("--noconfig.faithful.s5_align_corners", "--config.quirks=s5_align_corners "),
        ("--config.faithful.s3_roi_scramble_group=16", "s3_roi_scramble_group --config.images_per_gpu=N "),
        ("--config.validation.items=0.2", "--config.validation.share"),
    ],
)
def test_fields_of_earlier_versions_are_refused_with_the_new_form(monkeypatch, capsys, word, form):
    monkeypatch.setattr(cli.flags, "FLAGS", None)  # refused before anything is parsed
    with pytest.raises(SystemExit):
        cli._parse(["train", word])
    message = capsys.readouterr().err
    assert message.startswith(f"error: {word}: ") and form in message and message.count("\n") == 1
