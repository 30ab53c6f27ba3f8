"""The one training loop: batches → step → log → evaluate → save.

    python -m fashionjax.train --config=experiments/landmarks.py:backbone=resnet50 --workdir=runs/landmarks

A workdir that holds a checkpoint is resumed from its last one. SIGTERM saves and exits with status 0; only
the command listens to it: `train` installs no signal handler and runs on any thread.
"""

from __future__ import annotations

import collections
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from fashionjax import cli, quirks, tasks
from fashionjax.data import pipeline
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.runtime import checkpoint, datasets, features, optim, parallel, settings, state
from fashionjax.runtime.metric_log import EVALUATIONS_FILE, ScalarLog, Window

AGREE_EVERY = 20  # steps after which hosts ask each other for SIGTERM where log_every is 0


def train(config: ConfigDict, workdir: str | Path, terminate: Terminate | None = None) -> state.TrainState:
    """Run (or resume) a config to its last step; → the final state.

    `terminate`: asks the loop to save and leave before the last step.
    """
    terminate = terminate or Terminate()
    settings.check(config)
    tasks.entry(config.task)  # UserError for an unknown one
    mesh = parallel.make_mesh()
    parallel.check_batch_size(config.batch_size, mesh, config.accumulate)
    with contextlib.ExitStack() as ending:  # in reverse: log, checkpoints (waits for the last)
        # ---- data and task
        split = datasets.open_split(config, config.train_split)
        held_out = datasets.open_split(config, config.eval_split)
        datasets.attach_labels(config, split)
        checkpoint.inherit_normalisation(config)
        task = tasks.make(config)
        hosts = parallel.this_process()
        sample = next(
            pipeline.train_batches(split, task.preprocess, batch_size=1, seed=0, collate=task.collate)
        )
        shapes = jax.eval_shape(task.init, jax.random.PRNGKey(0), sample)
        _check_best(config, jax.eval_shape(task.predict, *shapes, sample))
        cli.make_folder(workdir, "--workdir")

        # ---- state: resumed, or fresh, which may be initialised from another run
        order = task.sampler and task.sampler(split.column)
        steps, per_epoch = optim.total_steps(config, order.epoch if order else len(split))
        schedule = optim.make_schedule(config.optim, steps, per_epoch)
        tx = optim.make_optimizer(config.optim, shapes[0], schedule)
        averaged = config.optim.get("average", 0.0)
        run = state.create_state(task, tx, config.seed, sample, averaged=bool(averaged))
        manager = ending.enter_context(checkpoint.open_manager(workdir, config.best, config.best_mode))
        resuming = manager.latest_step() is not None
        if config.init_from and not resuming:
            run = checkpoint.initialise_from(run, config.init_from, tuple(config.init_skip))
        run = parallel.replicate(run, mesh)
        if resuming:
            run = checkpoint.restore(manager, run)
            checkpoint.keep_origin(manager, config)
            checkpoint.tell_changes(manager, config)
        start = int(run.step)

        # ---- a frozen backbone runs once over every image
        if config.get("feature_views", 0):
            task, split, held_out = features.stored(config, task, run, mesh, split, held_out)

        # ---- compiled steps
        step_fn = state.make_train_step(
            task,
            tx,
            accumulate=config.accumulate,
            frozen=optim.frozen_paths(config.optim),
            average=averaged,
        )
        train_step = parallel.compile_train_step(step_fn, config.parallel, mesh)
        predict_step = parallel.compile_predict_step(state.make_predict_step(task), config.parallel, mesh)

        # ---- the loop
        batches = pipeline.train_batches(
            split,
            task.preprocess,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            workers=config.workers,
            process=hosts,
            order=order and order.at,
            collate=task.collate,
        )
        feed = parallel.prefetch(batches, lambda b: parallel.put_batch(b, config.parallel, mesh))
        log = ending.enter_context(ScalarLog(workdir, start, steps, config.batch_size))
        damage = _Damage(split, task.preprocess)
        window = Window(log, schedule, every=config.log_every, stop=config.nonfinite == "stop")
        agree_every = config.log_every or AGREE_EVERY

        def evaluate() -> dict[str, float]:
            model = inference.Model(
                config, task, mesh, predict_step, run.used, run.model_state, int(run.step)
            )
            return _evaluate(model, held_out, log, lambda: hosts[1] == 1 and terminate.asked)

        terminate.from_now_on_save()
        if start == steps and parallel.any_host(log.lacks(steps, EVALUATIONS_FILE)):
            checkpoint.add_metrics(manager, steps, evaluate())  # it was cut short or failed
        for step in range(start + 1, steps + 1):
            host_batch, batch = next(feed)
            damage.count(host_batch)
            run, scalars = train_step(run, batch)
            window.add(step, scalars)
            agreeing = hosts[1] == 1 or step % agree_every == 0  # asking the others is a collective
            leaving = agreeing and parallel.any_host(terminate.asked)
            evaluating = step == steps or (config.eval_every and step % config.eval_every == 0)
            if leaving or evaluating or (config.save_every and step % config.save_every == 0):
                window.flush()
                metrics = None
                if evaluating and not leaving:
                    try:
                        metrics = evaluate()
                    except _CutShort:
                        leaving = True
                    except Exception:  # whatever it is: what was trained is kept
                        checkpoint.save(manager, parallel.to_global(run, mesh), config)
                        print(f"the evaluation of step {step} failed; the step is saved", file=sys.stderr)
                        raise
                checkpoint.save(manager, parallel.to_global(run, mesh), config, metrics)
            if leaving:
                print(f"{terminate.reason}: saving step {step} of {steps} in {workdir}", file=sys.stderr)
                break
        damage.summary()
    return run


def _evaluate(
    model: inference.Model, split, log: ScalarLog, cut_short: Callable[[], bool]
) -> dict[str, float]:
    """The finite metrics of the evaluation split, logged; damaged records are reported and left out."""

    measured = model.task.metrics(inference.context(model, split))
    for prediction, batch in inference.predictions(model, split, allow_missing=True, show_progress=False):
        if cut_short():
            raise _CutShort
        measured.update(prediction, batch)
    found = measured.result()
    metrics = {name: value for name, value in found.items() if np.isfinite(value)}
    log.write(model.step, metrics, EVALUATIONS_FILE)
    best = model.config.best
    if best and best not in metrics:
        why = "is not measured there" if best not in found else f"is {found[best]} there"
        raise UserError(
            f"config.best={best!r} decides which checkpoint is kept and {why} "
            f"({split.dataset}/{split.name}); choose one of {', '.join(metrics)}"
        )
    return metrics


class _CutShort(Exception):
    """SIGTERM came during an evaluation."""


class _Damage:
    """Counts records that could not be read, and names each once."""

    def __init__(self, split, preprocess):
        self.split, self.preprocess = split, preprocess
        self.seen: collections.Counter = collections.Counter()

    def count(self, batch: dict) -> None:
        for index in pipeline.damaged(batch):
            if index not in self.seen:
                why = pipeline.why_damaged(self.split, self.preprocess, int(index))
                print(f"warning: damaged record {why}; training continues without it", file=sys.stderr)
            self.seen[index] += 1

    def summary(self) -> None:
        if self.seen:
            print(
                f"warning: {len(self.seen)} damaged records were skipped {self.seen.total()} times",
                file=sys.stderr,
            )


class Terminate:
    """A request to save and leave. Entered as a context, on the main thread, SIGTERM sets it; while
    `at_once`, with nothing to save yet, SIGTERM ends the process with status 0."""

    reason = "terminated"  # how the message about it begins

    def __init__(self):
        self.asked, self.at_once, self._left = False, True, False

    def __enter__(self):
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_):
        self.asked = True
        if self.at_once:
            self._left = True
            _leave()

    def from_now_on_save(self) -> None:
        """Ends `at_once`; an exit that Python dropped, raised in a callback of its collector, happens now."""
        self.at_once = False
        if self._left:
            _leave()


def _leave(*_) -> None:
    """End with status 0, whatever further SIGTERM comes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("terminated: nothing to save", file=sys.stderr)
    sys.exit(0)


def _check_best(config: ConfigDict, outputs: dict) -> None:
    """Before anything is trained: whether a task and model with these outputs measure `config.best`."""
    known = tasks.metric_names(config.task, outputs)
    if config.best and tasks.general(config.best) not in known:
        raise UserError(
            f"config.best={config.best!r} is not among this task's metrics: {', '.join(known)} (k: a number)"
        )


def _summary(config: ConfigDict, workdir: Path, step: int) -> None:
    """Prints the metrics of the last evaluation and where the checkpoint is."""
    evaluations = workdir / EVALUATIONS_FILE
    lines = evaluations.read_text().splitlines() if evaluations.is_file() else []
    if lines:
        metrics = json.loads(lines[-1])
        print(f"{config.eval_split} at step {metrics.pop('step')}:")
        headline = {name: v for name, v in metrics.items() if name.startswith(quirks.headline_prefix(config))}
        for name, value in headline.items():
            print(f"  {name:<40} {value:.4f}")
    print(f"checkpoint of step {step}: {workdir / checkpoint.FOLDER / str(step)}")
    print(
        f"next: fashionjax evaluate --checkpoint={workdir} --out={workdir / config.get('test_split', 'test')}"
    )


def add_flags() -> None:
    config_flags.DEFINE_config_file("config", help_string="experiments/NAME.py[:argument=value,…]")
    flags.DEFINE_string("workdir", None, "folder of checkpoints, metrics.jsonl and tensorboard")
    parallel.add_flags()
    flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    signal.signal(signal.SIGTERM, _leave)
    parallel.start()
    with Terminate() as terminate:
        state = train(flags.FLAGS.config, flags.FLAGS.workdir, terminate)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is saved
    if parallel.this_process()[0] == 0:
        _summary(flags.FLAGS.config, Path(flags.FLAGS.workdir), int(state.step))
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
