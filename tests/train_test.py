"""Runs of the train command in processes of their own: resume, kill, several hosts, SIGTERM, bad input."""

import json
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import STEPS, command, damaged_copy, finish, on_two_hosts, start, train_to_its_end

from fashionjax import train
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.runtime import checkpoint, checkpoint_files
from fashionjax.runtime.metric_log import ScalarLog
from fashionjax.task import Task


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


def wait_for(condition, process, timeout=900):
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


def kill(process: subprocess.Popen, workers: int = 0) -> None:
    """kill -9, and nothing that it had started lives on: at least so many worker processes."""
    family = descendants(process.pid)
    assert len(family) >= workers, family
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 300
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
    """Workdirs of whole runs, by number of devices."""
    runs = {}
    for devices in (1, 8):
        runs[devices] = tmp_path_factory.mktemp(f"whole{devices}")
        finish(start(runs[devices], synthetic_dir, devices=devices))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_kill_and_resume_is_the_same_run(uninterrupted, synthetic_dir, tmp_path, devices):
    """Half the steps, kill -9, the rest, bitwise: every array of the state and every logged line."""
    first = start(tmp_path, synthetic_dir, "--config.workers=1", devices=devices)
    wait_for(lambda: max(saved_steps(tmp_path), default=0) >= STEPS // 2, first)
    kill(first, workers=1)
    _, err = finish(start(tmp_path, synthetic_dir, devices=devices))
    assert "resuming" in err
    assert_same_run(uninterrupted[devices], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.full)])
def test_kills_at_random_instants(uninterrupted, synthetic_dir, tmp_path, kills):
    """Every restart continues from the last saved step, and the end is the uninterrupted run's."""
    rng = random.Random(kills)
    for _ in range(kills):
        before, lines = saved_steps(tmp_path), logged(tmp_path)
        process = start(tmp_path, synthetic_dir, "--config.workers=1", "--config.save_every=5")
        wait_for(lambda b=before, n=lines: logged(tmp_path) != n or saved_steps(tmp_path) != b, process)
        time.sleep(rng.uniform(0, 1.0))
        if process.poll() is None:
            kill(process)
        assert max(saved_steps(tmp_path), default=0) >= max(before, default=0)
    last = max(saved_steps(tmp_path), default=0)
    _, err = finish(start(tmp_path, synthetic_dir))
    assert not last or f"at step {last}\n" in err
    assert_same_run(uninterrupted[1], tmp_path)


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(synthetic_dir, tmp_path):
    process = start(tmp_path, synthetic_dir, "--config.save_every=0", steps=100_000)
    wait_for(lambda: len(logged(tmp_path)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process)
    (step,) = saved_steps(tmp_path)
    assert logged(tmp_path)[-1]["step"] == step and f"saving step {step}" in err


@pytest.mark.slow
def test_two_sigterms_are_one(synthetic_dir, tmp_path):
    """A second one while the first one's checkpoint is written."""
    process = start(tmp_path, synthetic_dir, "--config.save_every=0", steps=100_000)
    wait_for(lambda: logged(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.15)
    process.send_signal(signal.SIGTERM)
    finish(process)
    (step,) = saved_steps(tmp_path)
    assert len(saved_arrays(tmp_path, step)) > 50


@pytest.mark.slow
def test_sigterm_before_the_first_step_has_nothing_to_save(synthetic_dir, tmp_path):
    process = start(tmp_path / "run", synthetic_dir)
    wait_for((tmp_path / "run").exists, process)  # before anything is compiled
    process.send_signal(signal.SIGTERM)
    _, err = finish(process)
    assert "nothing to save" in err and not saved_steps(tmp_path / "run")


def test_an_exit_lost_in_a_callback_is_made_up_for(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    terminate = train.Terminate()
    terminate.from_now_on_save()  # nobody asked
    terminate.at_once = True
    with pytest.raises(SystemExit):
        terminate._ask()
    with pytest.raises(SystemExit):
        terminate.from_now_on_save()


@pytest.mark.slow
def test_two_processes_train_as_one(uninterrupted, synthetic_dir, tmp_path):
    """Two hosts of four devices each on localhost against one of eight: the same run but for rounding."""
    hosts = on_two_hosts(command(tmp_path, synthetic_dir, steps=20), devices=4)
    assert [status for status, _ in hosts] == [0, 0], [error[-3000:] for _, error in hosts]
    one, two = logged(uninterrupted[8])[:1], logged(tmp_path)[:1]
    np.testing.assert_allclose(two[0]["loss"], one[0]["loss"], rtol=1e-3)
    assert saved_steps(tmp_path) == [20]
    assert [line["step"] for line in logged(tmp_path)] == [5, 10, 15, 20]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.dataset=deepfashion_landmarks"], "fashionjax prepare deepfashion_landmarks"),
        (["--config.optim.learning_rate=1"], "learning_rate"),
        (["--config.parallel=threads"], "config.parallel"),
        (["--config.batch_size=0"], "config.batch_size"),
        (["--config.epochs=3"], "config.epochs"),
        (["--config.workers=-1"], "config.workers"),
        (["--config.accumulate=0"], "config.accumulate"),
        (["--config.dtype=bf16"], "expected one of float32, bfloat16"),
        (["--config.best=standard/attribute_mpa"], "standard/attribute_map"),
        (["--config.best=standard/recall@1"], "standard/category_top1"),
        (["--config=experiments/landmarkz.py"], "No such file or directory: 'experiments/landmarkz.py'"),
        (["--workdir={file}"], "give another --workdir"),
        (["--workdir={file}/run"], "give another --workdir"),
        (["--config.init_from=/nowhere"], "/nowhere"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_input_is_one_line(synthetic_dir, tmp_path, flags, message):
    (tmp_path / "file").touch()
    filled = [flag.format(file=tmp_path / "file") for flag in flags]
    run = train_to_its_end(tmp_path / "run", synthetic_dir, *filled)
    assert run.returncode == 2
    lines = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in run.stderr


# ------------------------------------------------------------------------------ evaluation within a run
@pytest.mark.slow
def test_a_damaged_record_of_the_evaluation_split_does_not_stop_a_run(synthetic_dir, tmp_path):
    data = damaged_copy(synthetic_dir, tmp_path / "data", "val")
    err = train_to_its_end(tmp_path / "run", data, steps=5).stderr
    assert "1 of 21 records cannot be read" in err and "damaged record" in err
    (line,) = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 5 and saved_steps(tmp_path / "run") == [5]


@pytest.mark.slow
def test_a_failed_evaluation_leaves_its_step_saved(synthetic_dir, tmp_path, tiny_config, monkeypatch, capsys):
    """And its run, started again, evaluates; what it was initialised from is gone then."""
    config, folder = tiny_config, tmp_path / "run"
    config.data_dir, config.save_every = str(synthetic_dir), 0
    train.train(config, tmp_path / "before")

    def fail(*_):
        raise UserError("the model has diverged")

    config.init_from = str(tmp_path / "before")
    with monkeypatch.context() as patch:
        patch.setattr(train, "_evaluate", fail)
        with pytest.raises(UserError, match="diverged"):
            train.train(config, folder)
    assert "evaluation of step 4 failed; the step is saved" in capsys.readouterr().err
    assert saved_steps(folder) == [4] and not (folder / "evaluations.jsonl").read_text()
    (tmp_path / "before").rename(tmp_path / "elsewhere")
    with ThreadPoolExecutor(1) as pool:  # a thread other than the main one cannot handle signals
        assert int(pool.submit(train.train, config, folder).result().step) == 4
    (line,) = (folder / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 4
    stored = checkpoint_files.read_metrics(folder / checkpoint.FOLDER / "4")
    assert {"step": 4, **stored} == json.loads(line)


def evaluate(tmp_path, config, found: dict, cut_short=False) -> dict:
    """`train._evaluate` of a model without predictions whose metrics are `found`."""
    measured = SimpleNamespace(update=lambda prediction, batch: None, result=lambda: found)
    task = Task(None, None, None, None, lambda context: measured)
    model = inference.Model(config, task, None, None, None, None, 7)
    with ScalarLog(tmp_path, 0, 10, 8) as log:
        return train._evaluate(model, SimpleNamespace(dataset="shop", name="val"), log, lambda: cut_short)


def test_the_best_metric_that_is_not_finite_is_reported_as_such(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setattr(inference, "predictions", lambda *_, **__: iter([({}, {})]))
    monkeypatch.setattr(inference, "context", lambda *_: None)
    tiny_config.best, found = "standard/recall@7", {"standard/recall@7": np.nan, "zoo/recall@3": 50.0}
    with pytest.raises(UserError, match=r"'standard/recall@7' .* is nan there \(shop/val\); .* zoo/recall@3"):
        evaluate(tmp_path, tiny_config, found)
    tiny_config.best = "standard/recall@9"
    with pytest.raises(UserError, match=r"'standard/recall@9' .* is not measured there"):
        evaluate(tmp_path, tiny_config, found)
    tiny_config.best = "zoo/recall@3"
    assert evaluate(tmp_path, tiny_config, found) == {"zoo/recall@3": 50.0}
    with pytest.raises(train._CutShort):
        evaluate(tmp_path, tiny_config, found, cut_short=True)
