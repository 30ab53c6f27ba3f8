"""The `fashionjax` command: `fashionjax SUBCOMMAND …` is `python -m fashionjax.SUBCOMMAND …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from absl import app, flags

from fashionjax.errors import UserError

# subcommand → (module, what it does); `import` is a keyword, so its module has a longer name
COMMANDS = {
    "prepare": ("fashionjax.prepare", "build a dataset with its TFDS builder"),
    "train": ("fashionjax.train", "train an experiment, or resume it"),
    "evaluate": ("fashionjax.evaluate", "metrics and report of a checkpoint on a split"),
    "predict": ("fashionjax.predict", "photos to JSON lines and annotated pictures"),
}


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse absl flags, call `main(argv)` and exit with its status; a UserError becomes one line and exit 2."""

    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    try:
        app.run(guarded, flags_parser=_parse)
    except UserError as error:  # raised while the config file is loaded
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
    """absl's parser, with an unknown flag or config field told in one line instead of a traceback."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, FileNotFoundError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{detail} (see --help for the flags, and the config file for its fields)") from error


def usage() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    return f"usage: fashionjax SUBCOMMAND [flags]\n\n{rows}\n\n`fashionjax SUBCOMMAND --help` lists its flags."


def main() -> None:
    """Entry point of the console script."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1]
    if name not in COMMANDS:
        print(f"error: unknown subcommand {name!r}; one of: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(COMMANDS[name][0])
    sys.argv = [f"fashionjax {name}", *sys.argv[2:]]
    run(module.main)
