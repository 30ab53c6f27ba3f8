"""The steps of a fine-tuning run, each of which is a command's function and goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fashionjax import cli, evaluate, files, train
from fashionjax.data import builders, source
from fashionjax.errors import UserError
from fashionjax.finetune import plan
from fashionjax.finetune.plan import Options
from fashionjax.runtime import checkpoint_files
from fashionjax.weights import importer

EXPERIMENT = "experiments/own.py"
ELAPSED = "finetune_seconds.json"  # in the workdir: how long training took so far
PROBED = (12, 8.0)  # least steps and seconds of the timing before a run with --minutes
PLANNED = 0.9  # share of --minutes that the planned steps should take, evaluations included
EVALUATIONS = 10  # of a run with --minutes


def finetune(options: Options) -> dict[str, Any] | None:
    """Everything → {"checkpoint", "split", "n", "metrics"}; None where SIGTERM ended the training."""
    origin = plan.read_source(options)
    cli.make_folder(options.workdir, "--workdir")
    with _alone(options.workdir):
        state = plan.read_state(options)
        backbone, initial = plan.initial(options)
        photos = plan.fingerprint(options.source)
        if state.setdefault("photos", photos) != photos:
            raise UserError(
                f"{options.source} has changed since {options.workdir} was started; choose another --workdir"
            )
        data_dir = options.data_dir or str(Path(options.workdir) / "data")
        prepare(options, origin, data_dir)
        train_split = source.open_split(origin.dataset, "train", data_dir)
        chosen = plan.arguments(options, origin.dataset, train_split, backbone)
        print(plan.describe(chosen, train_split), file=sys.stderr)
        fields = initial | {"data_dir": data_dir, "seed": options.seed}
        fields = _fitting(chosen, fields) | _boxes(origin, train_split) | plan.typed(options.config_fields)
        state["argument"] = plan.argument(chosen)
        plan.write_state(options, state)
        if options.init and Path(options.init).is_file():
            fields |= import_weights(options, chosen, fields)
        if not state.get("trained") and not train_until(options, state, chosen, fields, len(train_split)):
            print(f"interrupted; run the same command to resume {options.workdir}", file=sys.stderr)
            return None
        return measure(options, plan.make_config(chosen, fields))


@contextlib.contextmanager
def _alone(workdir: str) -> Iterator[None]:
    """One run at a time in a workdir; the lock goes with the process, however it ends."""
    handle = os.open(Path(workdir) / ".finetune.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{workdir}: another finetune process is using this folder") from None
    try:
        yield
    finally:
        os.close(handle)


def _say(command: str) -> None:
    print(f"$ {command}", file=sys.stderr, flush=True)


def _fitting(chosen: dict, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that the chosen config has: a detector has no backbone to skip to."""
    if chosen["task"] != "detection":
        return fields
    return {name: value for name, value in fields.items() if not name.startswith("model.")}


def _boxes(origin: plan.Source, photos: source.Split) -> dict[str, Any]:
    """Whether the model looks at boxes: where the table has them."""
    if origin.dataset != "own_photos/table":
        return {}
    record = photos[0] if len(photos) else {}
    given = "box" in record and bool((photos.column("box")[:, :2] > 0).any())
    return {"crop_box": given}


# ------------------------------------------------------------------------------ steps
def prepare(options: Options, origin: plan.Source, data_dir: str) -> dict[str, Any]:
    """The dataset, built unless it is there."""
    _say(
        plan.command(
            "prepare",
            origin.dataset,
            manual_dir=origin.manual_dir,
            data_dir=data_dir,
            allow_damaged=options.allow_damaged,
            set=[f"{name}={value}" for name, value in origin.fields.items()],
        )
    )
    return builders.prepare(
        origin.dataset,
        data_dir=data_dir,
        manual_dir=origin.manual_dir,
        overrides=origin.fields,
        allow_damaged=options.allow_damaged,
    )


def import_weights(options: Options, chosen: dict, fields: dict[str, Any]) -> dict[str, Any]:
    """A weight file's backbone as a checkpoint in WORKDIR/init → the fields that start from it."""
    workdir = Path(options.workdir) / "init"
    config = plan.make_config(chosen, fields)
    experiment = f"{EXPERIMENT}:{plan.argument(chosen)}"
    _say(
        plan.command(
            "import", options.init, workdir=workdir, backbone_only=True, config=experiment, fields=fields
        )
    )
    try:
        checkpoint_files.step_folder(workdir)
    except UserError:  # none yet, or one that a kill cut short
        shutil.rmtree(workdir, ignore_errors=True)
        split = source.open_split(config.dataset, config.train_split, config.data_dir)
        with config.unlocked():
            config.labels = ConfigDict(dict(split.labels))
        note = lambda line: print(f"note: {line}", file=sys.stderr)  # noqa: E731
        importer.import_file(options.init, config, workdir, backbone_only=True, note=note)
    return {"init_from": str(workdir), "init_skip": plan.FRESH}


def train_until(options: Options, state: dict, chosen: dict, fields: dict[str, Any], photos: int) -> bool:
    """Train (or go on) to the planned step or the end of --minutes; → False where SIGTERM came before."""
    workdir = Path(options.workdir)
    if "steps" not in state:
        config = plan.make_config(chosen, fields)
        if "steps" in fields or "epochs" in fields:
            state["steps"], state["eval_every"] = int(config.steps), int(config.eval_every)
            if not config.steps:
                state["steps"] = plan.default_steps(config, photos)
        elif options.minutes:
            seconds, first = seconds_per_step(config, workdir)
            state["steps"], state["eval_every"] = planned(options.minutes, seconds, first)
            print(
                f"{seconds:.2f} s a step here: {state['steps']} steps fit into --minutes={options.minutes:g}",
                file=sys.stderr,
            )
        else:
            steps = plan.default_steps(config, photos)
            state["steps"], state["eval_every"] = steps, max(1, min(config.eval_every, steps // 5))
        plan.write_state(options, state)
    fields = fields | {"steps": state["steps"], "epochs": 0, "eval_every": state["eval_every"]}
    fields["save_every"] = max(1, min(200, state["eval_every"]))
    if "optim.warmup_steps" not in fields:
        fields["optim.warmup_steps"] = min(200, state["steps"] // 10)
    config = plan.make_config(chosen, fields)
    experiment = f"{EXPERIMENT}:{plan.argument(chosen)}"
    _say(plan.command("train", workdir=workdir, config=experiment, fields=fields))
    with Deadline(workdir, 60 * options.minutes) as deadline:
        run = train.train(config, workdir, deadline)
    finished = int(run.step) >= state["steps"] or deadline.passed
    if finished:
        state["trained"] = int(run.step)
        plan.write_state(options, state)
    return finished


def measure(options: Options, config: ConfigDict) -> dict[str, Any]:
    """The best step on the test split, once; → the command's result."""
    workdir, split = Path(options.workdir), config.get("test_split", "test")
    out = workdir / "test"
    _say(plan.command("evaluate", checkpoint=str(workdir), split=split, out=str(out)))
    path = out / "report.json"
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
    else:
        result = evaluate.evaluate(workdir, split, out)
    print(f"report: {out / 'report.html'}", file=sys.stderr)
    kept = ("split", "n", "metrics")
    return {"checkpoint": str(workdir)} | {name: result[name] for name in kept}


# ------------------------------------------------------------------------------ time
class Deadline(train.Terminate):
    """Asks the loop to leave after `seconds` of training over all calls (0: never), and on SIGTERM."""

    def __init__(self, workdir: Path, seconds: float):
        super().__init__()
        self.path, self.limit = workdir / ELAPSED, seconds
        self.passed = False
        self.before = json.loads(self.path.read_text()) if self.path.is_file() else 0.0
        self.started = self.written = time.monotonic()

    @property
    def asked(self) -> bool:
        now = time.monotonic()
        spent = self.before + now - self.started
        if now - self.written > 5:
            self.written = now
            files.write_text(self.path, json.dumps(round(spent, 1)))
        self.passed = bool(self.limit) and spent > self.limit
        if self.passed:
            self.reason = f"--minutes={self.limit / 60:g} are over"
        return self.passed or self._signalled

    @asked.setter
    def asked(self, value: bool) -> None:
        self._signalled = value


class _Timed(Exception):
    """A timed run has taken its steps."""


class Timer(train.Terminate):
    """Ends a run by `_Timed`, unsaved, after `PROBED` steps and seconds; a step is asked about once."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []
        self.began = 0.0

    def from_now_on_save(self) -> None:
        """The first step begins."""
        super().from_now_on_save()
        self.began = time.monotonic()

    @property
    def asked(self) -> bool:
        self.times.append(time.monotonic())
        steps, seconds = PROBED
        if len(self.times) > steps and self.times[-1] - self.times[2] > seconds:
            raise _Timed
        return False

    @asked.setter
    def asked(self, value: bool) -> None:
        pass

    def seconds(self) -> float:
        """Of a step, without the first two: they wait for the compiler."""
        return (self.times[-1] - self.times[2]) / (len(self.times) - 3)

    def first(self) -> float:
        """Seconds until the first step was under way: compiling, which a run of other length does again."""
        return self.times[0] - self.began


def seconds_per_step(config: ConfigDict, workdir: Path) -> tuple[float, float]:
    """(how long a training step of the config takes here, and how long the first one in addition)."""
    print("timing a few steps", file=sys.stderr, flush=True)
    folder, timer = workdir / ".timing", Timer()
    config = config.copy_and_resolve_references()
    config.steps, config.epochs, config.eval_every, config.save_every, config.log_every = 10**6, 0, 0, 0, 0
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with contextlib.suppress(_Timed):
            train.train(config, folder, timer)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return timer.seconds(), timer.first()


def planned(minutes: float, seconds: float, first: float) -> tuple[int, int]:
    """(steps, steps between evaluations) that fit into --minutes, at so many seconds a step and `first` more
    before the first one."""
    steps = max(20, int((60 * minutes * PLANNED - first) / seconds))
    return steps, max(1, steps // EVALUATIONS)
