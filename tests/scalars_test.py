"""The log: each step once after a resume, steps that are not finite are named."""

import json

import numpy as np
import pytest

from experiments import common
from fashionjax import train
from fashionjax.errors import UserError
from fashionjax.scalars import ScalarLog


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
