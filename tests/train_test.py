"""Runs of the train command in processes of their own: resume, kill, several hosts, SIGTERM, bad input."""

import json
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import STEPS, command, environment, finish, start

from fashionjax import checkpoint


def saved_arrays(workdir, step: int) -> dict[str, bytes]:
    """Every leaf of a saved state as bytes, by path."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.restore(Path(workdir) / checkpoint.FOLDER / str(step) / "state")
    leaves = ocp.tree.to_flat_dict(tree, sep="/")
    return {name: np.asarray(leaf).tobytes() for name, leaf in leaves.items()}


def saved_steps(workdir) -> list[int]:
    folder = Path(workdir) / checkpoint.FOLDER
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit()) if folder.is_dir() else []


def logged(workdir) -> list[dict]:
    path = Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, process, timeout=400):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def descendants(pid: int) -> set[int]:
    children = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            children |= {child} | descendants(child)
    return children


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(process: subprocess.Popen) -> None:
    """kill -9, and nothing that it had started lives on."""
    family = descendants(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(map(alive, family)):
        assert time.monotonic() < deadline, f"processes {[p for p in family if alive(p)]} outlive the trainer"
        time.sleep(0.1)


def assert_same_run(one, other, step=STEPS):
    left, right = saved_arrays(one, step), saved_arrays(other, step)
    assert left.keys() == right.keys() and len(left) > 50
    assert [name for name in left if left[name] != right[name]] == []
    assert logged(one) == logged(other)


@pytest.fixture(scope="module")
def uninterrupted(synthetic_dir, tmp_path_factory) -> dict[int, Path]:
    """Workdirs of whole runs of 200 steps, by number of devices."""
    runs = {}
    for devices in (1, 8):
        runs[devices] = tmp_path_factory.mktemp(f"whole{devices}")
        finish(start(runs[devices], synthetic_dir, devices=devices))
    return runs


@pytest.mark.parametrize("devices", [1, 8])
def test_kill_and_resume_is_the_same_run(uninterrupted, synthetic_dir, tmp_path, devices):
    """200 steps = 100 + kill -9 + the rest, bitwise: every array of the state and every logged line."""
    first = start(tmp_path, synthetic_dir, "--config.workers=1", devices=devices)
    wait_for(lambda: max(saved_steps(tmp_path), default=0) >= 100, first)
    kill(first)
    _, err = finish(start(tmp_path, synthetic_dir, devices=devices))
    assert "resuming" in err
    assert_same_run(uninterrupted[devices], tmp_path)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.full)])
def test_kills_at_random_instants(uninterrupted, synthetic_dir, tmp_path, kills):
    """Every restart continues from the last saved step, and the end is the uninterrupted run's."""
    rng = random.Random(kills)
    for _ in range(kills):
        before = saved_steps(tmp_path)
        process = start(tmp_path, synthetic_dir, "--config.workers=1", "--config.save_every=5")
        wait_for(lambda b=before: len(logged(tmp_path)) > 0 or saved_steps(tmp_path) != b, process)
        time.sleep(rng.uniform(0, 1.0))
        if process.poll() is None:
            kill(process)
        assert max(saved_steps(tmp_path), default=0) >= max(before, default=0)
    last = max(saved_steps(tmp_path), default=0)
    _, err = finish(start(tmp_path, synthetic_dir))
    assert not last or f"at step {last}\n" in err
    assert_same_run(uninterrupted[1], tmp_path)


def test_sigterm_saves_and_exits_cleanly(synthetic_dir, tmp_path):
    process = start(tmp_path, synthetic_dir, "--config.save_every=0", steps=100_000)
    wait_for(lambda: len(logged(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process)
    (step,) = saved_steps(tmp_path)
    assert logged(tmp_path)[-1]["step"] == step and f"saving step {step}" in err


def test_two_processes_train_as_one(uninterrupted, synthetic_dir, tmp_path):
    """Two hosts of four devices each on localhost against one of eight: the same run but for rounding."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    hosts = [
        start(
            tmp_path,
            synthetic_dir,
            f"--coordinator={address}",
            "--process_count=2",
            f"--process_id={i}",
            devices=4,
            steps=20,
        )
        for i in range(2)
    ]
    for host in hosts:
        finish(host)
    one, two = logged(uninterrupted[8])[:1], logged(tmp_path)[:1]
    np.testing.assert_allclose(two[0]["loss"], one[0]["loss"], rtol=1e-3)
    assert saved_steps(tmp_path) == [20]
    assert [line["step"] for line in logged(tmp_path)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config.dataset=deepfashion_landmarks"], "fashionjax prepare deepfashion_landmarks"),
        (["--config.optim.learning_rate=1"], "learning_rate"),
        (["--config.parallel=threads"], "config.parallel"),
        (["--config.batch_size=0"], "config.batch_size"),
        (["--config.epochs=3"], "config.epochs"),
        (["--config.init_from=/nowhere"], "/nowhere"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_input_is_one_line(synthetic_dir, tmp_path, flags, told):
    line = command(tmp_path, synthetic_dir, *flags)
    run = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and told in lines[0] and "Traceback" not in run.stderr
