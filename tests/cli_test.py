"""What every command shares: errors in one line, folders, a reader that stops reading."""

import subprocess
import sys

import pytest
from runs import environment, run

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


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config=experiments/landmarkz.py"], "No such file or directory: 'experiments/landmarkz.py'"),
        (["--config=experiments"], "Is a directory: 'experiments'"),
        (["--config=experiments/landmarks.py:tinny=true"], "tinny=true: unknown config argument 'tinny'"),
        (["--config=experiments/demo.py:steps=x"], "config argument steps='x' is no int"),
        (["--config=experiments/demo.py", "--config.nope=1"], "there is no config field nope"),
        (["--config=experiments/demo.py", "--config.workers=many"], "many"),
        (["--config=experiments/demo.py", "--cofnig=1"], "cofnig"),
        ([], "--config"),
    ],
)
def test_bad_flags_are_one_short_line(tmp_path, flags, told):
    done = run("train", *flags, f"--workdir={tmp_path}")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and told in line and len(line) < 300 and "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    assert cli.make_folder(tmp_path / "a" / "b", "--out").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UserError, match=r"cannot be made .* give another --out"):
            cli.make_folder(path, "--out")
