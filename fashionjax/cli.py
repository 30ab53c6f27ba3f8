"""The `fashionjax` command: `fashionjax SUBCOMMAND …` is `python -m fashionjax.SUBCOMMAND …`."""

from __future__ import annotations

import importlib
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from fashionjax.errors import UserError

# subcommand → (module, what it does); `import` is a keyword, so its module has a longer name
COMMANDS = {
    "prepare": ("fashionjax.prepare", "build a dataset with its TFDS builder"),
    "train": ("fashionjax.train", "train an experiment, or resume it"),
    "evaluate": ("fashionjax.evaluate", "metrics and report of a checkpoint on a split"),
    "segment": ("fashionjax.segment", "photos to instances: COCO results, pictures, cut-outs, a database"),
    "predict": ("fashionjax.predict", "photos to JSON lines and annotated pictures"),
    "search": (
        "fashionjax.search.__main__",
        "photos to the gallery images of the same garment",
    ),
    "outfit": (
        "fashionjax.outfit.__main__",
        "score: how photos go together; complete: gallery items that fit",
    ),
    "compare": ("fashionjax.compare.__main__", "reports beside the published numbers, and what is missing"),
    "import": ("fashionjax.import_weights", "published PyTorch weights to a checkpoint"),
    "export": ("fashionjax.export.__main__", "a checkpoint to safetensors with PyTorch names"),
    "parity": ("fashionjax.parity.__main__", "outputs of reference folders recomputed and compared"),
}


def run(main: Callable[[list[str]], int | None], add_flags: Callable[[], None] | None = None) -> None:
    """Parse absl flags, call `main(argv)`, exit with its status; a UserError is one line and exit 2.

    A command defines its flags in `add_flags`, not at import: commands import each other's functions.
    """
    if add_flags is not None:
        add_flags()
    logging.set_verbosity(logging.ERROR)  # Orbax tells every file it touches; --verbosity=0 shows it

    def guarded(argv: list[str]) -> int | None:
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except UserError as error:
            return _refuse(error)
        except BrokenPipeError:
            if not _reader_gone():
                raise
            return _end_quietly()

    app.run(guarded, flags_parser=_parse)


def no_arguments(argv: list[str]) -> None:
    """For commands that take flags only."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")


def make_folder(path: str | Path, flag: str) -> Path:
    """The folder that `flag` names, made where it is missing; UserError where nothing can be written."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); give another {flag}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written to; give another {flag}")
    return path


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with an unknown flag or config field told in one line instead of a traceback."""
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.task  # a config file that cannot be read is told at its first use only
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError) as error:
        sys.exit(_refuse(f"{_told(error)} (--help lists the flags; the config file lists its fields)"))


def _told(error: Exception) -> str:
    """The error in one line; of a config file's, which come as a formatted traceback, the last message."""
    text = str(error)
    if re.fullmatch(r"""["']+\w+["']+""", text):
        return "there is no config field " + text.strip("\"'")
    if isinstance(error, OSError):  # a list of places where the config file was looked for
        text = text[max(text.rfind("[Errno"), 0) :]
    elif "Traceback (most recent call last)" in text:
        flag = re.match(r"flag (--\S+): ", text)
        text = (flag[0] if flag else "") + re.split(r"^[\w.]*(?:Error|Exception): ", text, flags=re.M)[-1]
    return " ".join(text.split())


def _reader_gone() -> bool:
    """Whether nobody reads standard output any more, as behind `| head`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _end_quietly() -> int:
    """The status of a command that a closed pipe ended; what is still buffered is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _refuse(error: object) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def usage() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    return f"usage: fashionjax SUBCOMMAND [flags]\n\n{rows}\n\n`fashionjax SUBCOMMAND --help`: its flags."


def main() -> None:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1]
    if name not in COMMANDS:
        sys.exit(_refuse(f"unknown subcommand {name!r}; one of: {', '.join(COMMANDS)}"))
    module = importlib.import_module(COMMANDS[name][0])
    sys.argv = [f"fashionjax {name}", *sys.argv[2:]]
    run(module.main, getattr(module, "add_flags", None))
