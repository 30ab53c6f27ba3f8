"""The log: each step once after a resume, steps that are not finite are named."""

import json

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.runtime.metric_log import EVALUATIONS_FILE, METRICS_FILE, READ_EVERY, ScalarLog, Window


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
    fill(Window(log, lambda step: 0.1, every=0, stop=False), np.nan, np.inf).flush()
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


def test_the_terms_that_are_not_finite_are_named(tmp_path, capsys):
    window = Window(ScalarLog(tmp_path, 0, 100, 8), lambda step: 0.1, every=0, stop=False)
    scalars = {"loss": np.nan, "loss_mask": np.nan, "loss_cls": 1.0, "nonfinite": 1.0}
    window.add(1, {name: np.float32(value) for name, value in scalars.items()})
    window.flush()
    window.add(2, {name: np.float32(1) for name in scalars})  # where the loss is finite its gradient is not
    window.flush()
    message = capsys.readouterr().err
    assert "step 1: loss_mask not finite" in message and "step 2: gradient not finite" in message


def fill(window: Window, *losses) -> Window:
    for step, loss in enumerate(losses, 1):
        window.add(step, {"loss": np.float32(loss), "nonfinite": np.float32(not np.isfinite(loss))})
    return window


@pytest.mark.parametrize("mode", ["skip", "stop"])
def test_a_step_that_is_not_finite_is_named(tmp_path, mode, capsys):
    log = ScalarLog(tmp_path, 0, 100, 8)
    window = fill(Window(log, lambda step: 0.1, every=0, stop=mode == "stop"), 1.0, np.nan, 3.0)
    if mode == "stop":
        with pytest.raises(UserError, match="step 2: loss not finite; stopped"):
            window.flush()
    else:
        window.flush()
        assert "step 2: loss not finite" in capsys.readouterr().err
    (line,) = lines(tmp_path)
    assert line["step"] == 3 and line["nonfinite"] == 1
    np.testing.assert_allclose(line["loss"], 2.0)  # of the finite steps


def test_without_a_line_every_n_steps_scalars_do_not_pile_up(tmp_path):
    with ScalarLog(tmp_path, 0, 1000, 8) as log:
        window = fill(Window(log, lambda step: 0.1, every=0, stop=False), *range(1, 101))
        assert len(window._waiting) <= READ_EVERY and not lines(tmp_path)
        window.flush()
        (line,) = lines(tmp_path)
        assert line["step"] == 100 and line["loss"] == 50.5


def test_a_run_stops_soon_after_a_step_that_is_not_finite(tmp_path):
    with ScalarLog(tmp_path, 0, 1000, 8) as log:
        window = Window(log, lambda step: 0.1, every=0, stop=True)
        with pytest.raises(UserError, match="step 3"):
            fill(window, 1.0, 1.0, np.nan, *np.ones(READ_EVERY))
        assert lines(tmp_path)[0]["nonfinite"] == 1


def test_lines_come_at_even_steps(tmp_path):
    with ScalarLog(tmp_path, 0, 1000, 8) as log:
        fill(Window(log, lambda step: 0.1, every=30, stop=False), *range(1, 92)).flush()
        assert [line["step"] for line in lines(tmp_path)] == [30, 60, 90, 91]
