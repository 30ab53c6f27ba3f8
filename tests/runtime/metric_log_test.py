"""The log: each step once after a resume, steps that are not finite are named."""

import json

import numpy as np
import pytest

from experiments import common
from fashionjax import train
from fashionjax.errors import UserError
from fashionjax.runtime.metric_log import EVALUATIONS_FILE, METRICS_FILE, ScalarLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_rewrites_what_it_repeats(tmp_path):
    log = ScalarLog(tmp_path, 0, 100, 8)
    for step in (10, 20, 30):
        log.write(step, {"loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a kill in the middle of a line
    log = ScalarLog(tmp_path, 20, 100, 8)
    log.write(30, {"loss": 3.5})
    log.close()
    assert lines(tmp_path) == [
        {"step": 10, "loss": 10.0},
        {"step": 20, "loss": 20.0},
        {"step": 30, "loss": 3.5},
    ]


def test_what_is_not_finite_is_null(tmp_path):
    """NaN is no JSON."""
    log = ScalarLog(tmp_path, 0, 100, 8)
    train._flush(window(np.nan, np.inf), log, lambda step: 0.1, common.base())
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {"step": 2, "loss": None, "nonfinite": 2, "lr": 0.1}


def test_whether_a_step_was_evaluated(tmp_path):
    with ScalarLog(tmp_path, 0, 100, 8) as log:
        log.write(20, {"accuracy": 0.5}, EVALUATIONS_FILE)
        log.write(3, {})
        assert log.lacks(2, EVALUATIONS_FILE) and not log.lacks(20, EVALUATIONS_FILE)
        assert not log.lacks(3, METRICS_FILE)


def window(*losses):
    return [
        (step, {"loss": np.float32(loss), "nonfinite": np.float32(not np.isfinite(loss))})
        for step, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize("mode", ["skip", "stop"])
def test_a_step_that_is_not_finite_is_named(tmp_path, mode, capsys):
    config = common.base()
    config.nonfinite = mode
    log = ScalarLog(tmp_path, 0, 100, 8)
    steps = window(1.0, np.nan, 3.0)
    if mode == "stop":
        with pytest.raises(UserError, match="step 2: loss or gradient not finite; stopped"):
            train._flush(steps, log, lambda step: 0.1, config)
    else:
        train._flush(steps, log, lambda step: 0.1, config)
        assert "step 2: loss or gradient not finite" in capsys.readouterr().err
    (line,) = lines(tmp_path)
    assert line["step"] == 3 and line["nonfinite"] == 1
    np.testing.assert_allclose(line["loss"], 2.0)  # of the finite steps
