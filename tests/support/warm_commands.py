"""Runs project commands in forks of one process that has imported them: importing JAX, Grain, Orbax and TFDS
costs seconds of processor time, and a hundred tests run a command.

    python warm_commands.py      reads requests from standard input, one JSON object a line

A request has `module`, `arguments`, `environment`, `folder`, `stdout`, `stderr` (files). The answer on
standard output is two lines, the process id as it starts and the exit status. The XLA backend starts in the
fork, so XLA_FLAGS may differ.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

PRELOADED = ("fashionjax.train", "fashionjax.evaluate", "fashionjax.predict", "fashionjax.prepare",
             "fashionjax.finetune.__main__", "fashionjax.import_weights", "fashionjax.search.__main__",
             "fashionjax.outfit.__main__", "fashionjax.embed", "fashionjax.recommend.__main__",
             "fashionjax.export.__main__", "fashionjax.compare.__main__")  # fmt: skip
_servers: dict[int, subprocess.Popen] = {}  # by process: a fork of the test process needs a server of its own


def execute(
    line: list[str], environment: dict[str, str], kill_when: Callable[[], bool] | None = None
) -> subprocess.CompletedProcess:
    """`[python, -m, MODULE, ARGUMENT…]` to its end, as subprocess.run does it with captured text output.

    `kill_when`: asked every few milliseconds; once it is true the command is killed (SIGKILL). A
    ProcessLookupError says that it ended before."""
    _, minus_m, module, *arguments = line
    assert minus_m == "-m", line
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / name) for name in ("stdout", "stderr")}
        request = {
            "module": module,
            "arguments": arguments,
            "environment": environment,
            "folder": os.getcwd(),
        }
        server = _server()
        server.stdin.write(json.dumps(request | files) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        try:
            if kill_when is not None:
                while not kill_when():
                    os.kill(pid, 0)
                    time.sleep(0.005)
                os.kill(pid, signal.SIGKILL)
        finally:
            status = int(server.stdout.readline())
        out, err = (Path(file).read_text() for file in files.values())
    return subprocess.CompletedProcess(line, status, out, err)


def _server() -> subprocess.Popen:
    server = _servers.get(os.getpid())
    if server is None or server.poll() is not None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *filter(None, sys.path)])}
        server = _servers[os.getpid()] = subprocess.Popen(
            [sys.executable, __file__], env=environment, **pipes
        )
    return server


def serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(request)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict) -> None:
    """This fork becomes the command; never returns."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    status = 1
    try:
        from fashionjax import cli

        module = importlib.import_module(_runnable(request["module"]))
        sys.argv = [module.__file__, *request["arguments"]]
        cli.run(module.main, getattr(module, "add_flags", None))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _runnable(module: str) -> str:
    """A package is run by its `__main__`, as `python -m` does."""
    spec = importlib.util.find_spec(module)
    return f"{module}.__main__" if spec.submodule_search_locations else module


if __name__ == "__main__":
    # no backend runs in this process, so a fork shares no lock with a running thread
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
    warnings.filterwarnings("ignore", message=r".*use of fork\(\) may lead to deadlocks")
    serve()
