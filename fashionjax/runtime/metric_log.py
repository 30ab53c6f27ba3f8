"""Training scalars: JSON lines, TensorBoard and the progress line."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from fashionjax import files
from fashionjax.runtime import progress

METRICS_FILE = "metrics.jsonl"  # training scalars, one line per window
EVALUATIONS_FILE = "evaluations.jsonl"  # metrics of the evaluation split, one line per evaluation


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
