"""PyTorch's side of a benchmark in a process of its own, so that thread pools and allocators do not mix.

While one process is timed the other waits.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
from collections.abc import Callable

from benchmarks.hardware import timed


@contextlib.contextmanager
def started(*arguments, module: str = "torch_side"):
    """`make(*arguments)` of benchmarks.MODULE over there: {what: steps -> (seconds, processor seconds)}."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, module, arguments), daemon=True)
    process.start()
    there.close()

    def ask(what: str) -> Callable[[int], tuple[float, float]]:
        def run(steps: int) -> tuple[float, float]:
            here.send((what, steps))
            return here.recv()

        return run

    try:
        yield {what: ask(what) for what in here.recv()}
    finally:
        here.close()
        process.join()


def _serve(pipe, module: str, arguments) -> None:
    # here, not above: the first process must not load PyTorch
    side = importlib.import_module(f"benchmarks.{module}")
    functions = {what: timed(run) for what, run in side.make(*arguments).items()}
    pipe.send(list(functions))
    while True:
        try:
            what, steps = pipe.recv()
        except EOFError:
            return
        pipe.send(functions[what](steps))
