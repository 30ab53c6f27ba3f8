"""Training scalars: JSON lines, TensorBoard and the progress line."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from fashionjax import files
from fashionjax.errors import UserError
from fashionjax.runtime import progress

METRICS_FILE = "metrics.jsonl"  # training scalars, one line per window
EVALUATIONS_FILE = "evaluations.jsonl"  # metrics of the evaluation split, one line per evaluation
READ_EVERY = 20  # steps whose scalars are left on the device at most


class ScalarLog:
    """Writes metrics.jsonl, evaluations.jsonl and tensorboard/ in WORKDIR; prints progress to standard error.

    A run resumed at step s drops the lines after s: it computes them again, and each step stands in the
    file once. Only the first host writes.
    """

    def __init__(self, workdir: str | Path, start_step: int, total_steps: int, batch_size: int):
        self.active = jax.process_index() == 0
        self.total_steps = total_steps
        self.batch_size = batch_size
        self._started = self._window_started = time.monotonic()
        self._start_step = self._window_step = start_step
        if not self.active:
            return
        self._folder = workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._files = {}
        for name in (METRICS_FILE, EVALUATIONS_FILE):
            _keep_until(workdir / name, start_step)
            self._files[name] = (workdir / name).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def write(self, step: int, scalars: dict[str, float], file: str = METRICS_FILE) -> None:
        """One line {"step": …, name: value …}; null stands for what is not finite, which JSON cannot hold."""
        if not self.active:
            return
        self._files[file].write(json.dumps({"step": step, **_finite(scalars)}) + "\n")
        self._files[file].flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def progress(self, step: int, scalars: dict[str, float]) -> None:
        """Rate of the last window and what is left at the run's mean rate."""
        now = time.monotonic()
        rate = (step - self._window_step) * self.batch_size / max(now - self._window_started, 1e-9)
        left = (now - self._started) / max(step - self._start_step, 1) * (self.total_steps - step)
        self._window_started, self._window_step = now, step
        if not self.active:
            return
        shown = " ".join(f"{name} {value:.4g}" for name, value in scalars.items() if name in ("loss", "lr"))
        line = f"step {step}/{self.total_steps}  {shown}  {rate:.0f} img/s  left {progress.clock(left)}"
        progress.show(line, last=step >= self.total_steps)

    def lacks(self, step: int, file: str) -> bool:
        """Whether the first host's file has no line of `step`."""
        if not self.active:
            return False
        text = (self._folder / file).read_text(encoding="utf-8")
        return not re.search(rf'^{{"step": {step}\b', text, re.M)

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self.active:
            for file in self._files.values():
                file.close()
            self._board.close()


def _terms(scalars: dict[str, float]) -> list[str]:
    """What of a step's loss is not finite: its terms, or the loss itself where it has none that is not."""
    named = [name for name, value in scalars.items() if name.startswith("loss_") and not math.isfinite(value)]
    return named or [name for name in ("loss",) if not math.isfinite(scalars[name])]


class Window:
    """Scalars of the steps since the last line of the log: means over the steps that were finite.

    They are read from the device a few steps late, so that reading never waits for the step under way. A step
    whose loss or gradient was not finite is named; with `stop` it is a UserError.
    """

    def __init__(self, log: ScalarLog, rate: Callable[[int], float], *, every: int, stop: bool):
        """`rate`: 0-based step → learning rate; `every`: steps a line, 0 for a line at `flush` alone."""
        self._log, self._rate, self._every, self._stop = log, rate, every, stop
        self._waiting: list[tuple[int, dict]] = []
        self._clear()

    def _clear(self) -> None:
        self._steps, self._bad = 0, 0
        self._failure: UserError | None = None
        self._last: dict = {}
        self._totals: dict[str, float] = {}

    def add(self, step: int, scalars: dict) -> None:
        """Take a step's scalars (device arrays); call it when the step has been started."""
        if self._every and self._steps + len(self._waiting) == self._every:
            self.flush()
        elif len(self._waiting) == READ_EVERY:
            self._read()
            if self._failure is not None:
                self.flush()
        self._waiting.append((step, scalars))

    def flush(self) -> None:
        """Write the line of the steps so far, if there are any."""
        self._read()
        failure = self._failure
        if self._steps:
            good = self._steps - self._bad
            means = {name: total / good for name, total in self._totals.items()} if good else self._last
            step, rate = self._step, float(self._rate(self._step - 1))
            rest = {name: value for name, value in means.items() if name != "loss"}
            self._log.write(step, {"loss": means["loss"], **rest, "nonfinite": self._bad, "lr": rate})
            self._log.progress(step, {"loss": means["loss"], "lr": rate})
        self._clear()
        if failure is not None:
            raise failure

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        bad, terms = [], {}
        for (step, _), scalars in zip(waiting, jax.device_get([s for _, s in waiting]), strict=True):
            self._steps, self._step = self._steps + 1, step
            self._last = {name: float(value) for name, value in scalars.items()}
            if scalars["nonfinite"]:
                bad.append(step)
                terms |= dict.fromkeys(_terms(self._last))
                continue
            for name, value in self._last.items():
                self._totals[name] = self._totals.get(name, 0.0) + value
        if not bad:
            return
        self._bad += len(bad)
        steps = f"step{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad))}"
        named = f"{steps}: {', '.join(terms) or 'gradient'} not finite"
        if self._stop:
            stopped = "stopped (config.nonfinite=stop), the last checkpoint is intact"
            self._failure = UserError(f"{named}; {stopped}")
        else:
            print(f"warning: {named}; skipped, parameters unchanged", file=sys.stderr)


def _finite(scalars: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scalars.items()}


def _keep_until(path: Path, step: int) -> None:
    """Drop lines after `step`, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    files.write_text(path, "".join(kept))
