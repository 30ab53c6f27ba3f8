"""The `fashionjax` command: `fashionjax SUBCOMMAND …` is `python -m fashionjax.SUBCOMMAND …`."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import app, flags, logging

from fashionjax.errors import UserError

# subcommand → (module, what it does); `import` is a keyword, so its module has a longer name
COMMANDS = {
    "prepare": ("fashionjax.prepare", "build a dataset with its TFDS builder"),
    "finetune": ("fashionjax.finetune.__main__", "your own photos to a trained model and a report"),
    "train": ("fashionjax.train", "train an experiment, or resume it"),
    "evaluate": ("fashionjax.evaluate", "metrics and report of a checkpoint on a split"),
    "segment": ("fashionjax.segment", "images to instances: COCO results, drawings, cut-outs, a database"),
    "embed": ("fashionjax.embed", "a database of segmented images to its garments' features"),
    "recommend": (
        "fashionjax.recommend.__main__",
        "images to similar garments of a database, or to garments that go with them",
    ),
    "predict": ("fashionjax.predict", "images to JSON lines and annotated images"),
    "search": (
        "fashionjax.search.__main__",
        "images to the gallery images of the same garment",
    ),
    "outfit": (
        "fashionjax.outfit.__main__",
        "score: how items go together; complete: gallery items that fit",
    ),
    "compare": ("fashionjax.compare.__main__", "reports beside the published numbers, and what is missing"),
    "import": ("fashionjax.import_weights", "published PyTorch weights to a checkpoint"),
    "export": ("fashionjax.export.__main__", "a checkpoint to safetensors with PyTorch names"),
    "parity": ("fashionjax.parity.__main__", "outputs of reference folders recomputed and compared"),
}


VALUES = {"int": "N", "float": "X"}  # how --help writes the value of a flag
HELP = ("-h", "--help", "-help", "--helpshort", "-?")


def run(main: Callable[[list[str]], int | None], add_flags: Callable[[], None] | None = None) -> None:
    """Parse absl flags, call `main(argv)`, exit with its status; a UserError is one line and exit 2.

    A command defines its flags in `add_flags`, not at import: commands import each other's functions. What is
    quiet here is quiet for the command's process alone; the library leaves warnings and logging as they are.
    """
    others = set(flags.FLAGS)
    if add_flags is not None:
        add_flags()
    own = sorted(set(flags.FLAGS) - others)
    if "traceback" not in flags.FLAGS:
        flags.DEFINE_bool("traceback", False, "show the Python traceback behind a one-line error")
    if any(word in HELP for word in sys.argv[1:]):
        print(command_help(main, own))
        sys.exit(0)
    if "--version" in sys.argv[1:]:
        print(f"fashionjax {_version()}")
        sys.exit(0)
    sys.argv[1:] = packaged_config(sys.argv[1:])
    logging.set_verbosity(logging.ERROR)  # Orbax logs every file it touches; --verbosity=0 shows it
    warnings.filterwarnings("ignore", module=r"PIL\b")  # damaged metadata of images that can be read

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


def command_help(main: Callable, own: Iterable[str]) -> str:
    """What a command does, an example and its own flags with their defaults."""
    text = (sys.modules[main.__module__].__doc__ or "").strip()
    rows = [_flag_row(flags.FLAGS[name]) for name in own if "." not in name]
    rows.append(_flag_row(flags.FLAGS["traceback"]))
    return "\n".join([text, "", "flags (--helpfull: all):", *rows])


def _flag_row(flag: flags.Flag) -> str:
    default = flag.default
    if isinstance(flag, flags.BooleanFlag):
        head, default = f"--[no]{flag.name}", str(default).lower()
    else:
        head = f"--{flag.name}={VALUES.get(flag.flag_type(), 'VALUE')}"
    shown = "" if default in (None, "", []) else f" (default: {default})"
    return f"  {head}\n      {' '.join((flag.help or '').split())}{shown}"


def packaged_config(argv: Sequence[str]) -> list[str]:
    """The arguments; `--config=experiments/NAME.py[:…]` leads to the installed experiments where the working
    directory has no such file."""
    found, value_next = [], False
    for word in argv:
        match = re.fullmatch(r"(--?config=)(.+)", word)
        if value_next or match:
            prefix, value = ("", word) if value_next else match.groups()
            word = prefix + _located(value)
        value_next = word in ("--config", "-config")
        found.append(word)
    return found


def _located(value: str) -> str:
    path, colon, argument = value.partition(":")
    if os.path.exists(path):
        return value
    inside = Path(path).parts[1:] if Path(path).parts[:1] == ("experiments",) else Path(path).parts
    candidate = Path(importlib.util.find_spec("experiments").origin).parent.joinpath(*inside)
    return f"{candidate}{colon}{argument}" if candidate.suffix == ".py" and candidate.is_file() else value


def no_arguments(argv: list[str]) -> None:
    """For commands that take flags only."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; write flags as --name=value")


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
    """absl's parser; an unknown flag or config field is reported in one line instead of a traceback."""
    try:
        _check_moved(argv)
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.task  # errors of a config file surface on first access
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, UserError) as error:
        sys.exit(_refuse(_one_line(error)))


def _check_moved(argv: Sequence[str]) -> None:
    """A UserError for config fields of earlier versions that shows the new form."""
    for word in argv:
        old = re.match(r"--?(?:no)?config\.faithful\.(\w+)(?:=(.*))?", word)
        if old:
            size = " --config.images_per_gpu=N" if old[1] == "s3_roi_scramble_group" else ""
            raise UserError(
                f"{word}: this is now --config.quirks={old[1]}{size} (repeat --config.quirks for several; "
                "leave a name out to turn it off)"
            )
        if re.match(r"--?config\.validation\.items\b", word):
            raise UserError(f"{word}: this field is now --config.validation.share")


def _one_line(error: Exception) -> str:
    """The error in one line that says what to do; of a config file's, which come as a formatted traceback,
    the last message."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.replace("\\'", "'").replace('\\"', '"')  # of messages that quote a message
    missing = re.match(r"flag --(\w+)=None: Flag --\w+ must have a value other than None", text)
    if missing:
        return f"--{missing[1]} is missing: {' '.join((flags.FLAGS[missing[1]].help or '').split())}"
    unknown = re.match(r"Unknown command line flag '([^']+)'(?:\. Did you mean: ([\w.]+))?", text)
    if unknown:
        close = unknown[2] or next(iter(difflib.get_close_matches(unknown[1], list(flags.FLAGS), 1)), None)
        hint = f"; did you mean --{close}?" if close else ""
        return f"unknown flag --{unknown[1]}{hint} (--help lists the flags)"
    similar = re.match(r"""["']*(\w+)["']*(?:\\n|\s)+Did you mean "([\w.]+)\"""", text)
    if similar:
        return f"unknown config field {similar[1]}; did you mean {similar[2]}?"
    field = re.fullmatch(r"""["']*(\w+)["']*""", text)
    if field and isinstance(error, (AttributeError, KeyError)):
        return f"unknown config field {field[1]} (docs/configs.md and the config file list the fields)"
    if ("No such file" in text and "config" in text.lower()) or isinstance(error, OSError):
        return _config_file(text)
    if "Traceback (most recent call last)" in text:
        flag = re.match(r"flag (--\S+): ", text)
        last = re.split(r"^[\w.]*(?:Error|Exception): ", text, flags=re.M)[-1]
        text = f"{flag[1]}: {last}" if flag else last
    text = re.sub(r"^flag (--[\w.]+)=(\S*): ", r"\1=\2: ", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: ", "expected an integer, got ", text)
    text = re.sub(r"could not convert string to float: ", "expected a number, got ", text)
    return " ".join(text.split())


def _config_file(text: str) -> str:
    """Of a list of places where a config file was looked for: the last one's error, and what there is."""
    text = " ".join(text[max(text.rfind("[Errno"), 0) :].split())
    text = re.sub(r"^\[Errno \d+\] ", "", text)
    folder = Path(importlib.util.find_spec("experiments").origin).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "common"))
    return f"--config: {text} (packaged experiments: {', '.join(names)}; write experiments/NAME.py)"


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
    """Print the one line, and the traceback where it is asked for; → the exit status."""
    if "--traceback" in sys.argv and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    return 2


def usage() -> str:
    rows = "\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items())
    return (
        f"usage: fashionjax SUBCOMMAND [arguments] [--flag=value …]\n\n{rows}\n\n"
        "`fashionjax SUBCOMMAND --help`, `fashionjax help SUBCOMMAND`: what it does, an example, its flags.\n"
        "`fashionjax --version`: the version."
    )


def _version() -> str:
    return importlib.metadata.version("fashionjax")


def main() -> None:
    """Entry point of the console script."""
    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        print(f"fashionjax {_version()}")
        return
    if words[:1] and words[0] in ("help", *HELP):
        words = [*words[1:2], "--help"] if words[0] == "help" and len(words) > 1 else []
    if not words:
        print(usage())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = words[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        sys.exit(_refuse(f"unknown subcommand {name!r}{hint} (there are {', '.join(COMMANDS)})"))
    module = importlib.import_module(COMMANDS[name][0])
    sys.argv = [f"fashionjax {name}", *words[1:]]
    run(module.main, getattr(module, "add_flags", None))
