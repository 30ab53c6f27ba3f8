"""The `fashionjax` command: `fashionjax SUBCOMMAND …` is `python -m fashionjax.SUBCOMMAND …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from absl import app, flags, logging

from fashionjax.errors import UserError

# subcommand → (module, what it does); `import` is a keyword, so its module has a longer name
COMMANDS = {
    "prepare": ("fashionjax.prepare", "build a dataset with its TFDS builder"),
    "train": ("fashionjax.train", "train an experiment, or resume it"),
    "evaluate": ("fashionjax.evaluate", "metrics and report of a checkpoint on a split"),
    "predict": ("fashionjax.predict", "photos to JSON lines and annotated pictures"),
    "outfit": ("fashionjax.outfit", "score: how photos go together; complete: what of a gallery fits"),
    "compare": ("fashionjax.compare", "reports beside the published numbers, and what is missing"),
    "import": ("fashionjax.import_weights", "published PyTorch weights to a checkpoint"),
    "export": ("fashionjax.export", "a checkpoint to safetensors with PyTorch names"),
    "parity": ("fashionjax.parity", "outputs of reference folders recomputed and compared"),
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
            return main(argv)
        except UserError as error:
            return _refuse(error)

    app.run(guarded, flags_parser=_parse)


def no_arguments(argv: list[str]) -> None:
    """For commands that take flags only."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with an unknown flag or config field told in one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError) as error:
        detail = " ".join(str(error).split())
        sys.exit(_refuse(f"{detail} (--help lists the flags; the config file lists its fields)"))


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
