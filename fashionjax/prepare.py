"""`fashionjax prepare NAME[/CONFIG]`: build a dataset with its TFDS builder.

python -m fashionjax.prepare deepfashion_landmarks --manual_dir=downloads/landmarks --data_dir=data
"""

from __future__ import annotations

import json
import re
import signal
import sys

from absl import flags, logging

from fashionjax import cli
from fashionjax.data.builders import builder_names, prepare, prepared_folder
from fashionjax.errors import UserError


def add_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("manual_dir", None, "folder with the benchmark's own files")
    flags.DEFINE_string("data_dir", None, "folder that prepared datasets are written to")
    flags.DEFINE_bool("skip_damaged", False, "leave damaged images out and list them, instead of refusing")
    flags.DEFINE_integer(
        "allow_damaged", 0, "leave up to N damaged images out and list them; more are an error", lower_bound=0
    )
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the builder config; may be repeated")
    flags.DEFINE_integer(
        "processes", None, "processes that read images (default: as many as pay)", lower_bound=1
    )
    flags.DEFINE_bool("overwrite", False, "replace a dataset that is already prepared")


def parse_overrides(settings: list[str]) -> dict[str, str]:
    """['n=5', …] → {'n': '5', …}."""
    for setting in settings:
        if not re.fullmatch(r"[A-Za-z_]\w*=.*", setting, flags=re.DOTALL):
            raise UserError(f"--set={setting}: must be FIELD=VALUE")
    return dict(setting.split("=", 1) for setting in settings)


def main(argv: list[str]) -> int:
    """Prepare one dataset; the last line on stdout is the result as JSON."""
    options = flags.FLAGS
    if len(argv) != 2:
        raise UserError(f"give one NAME[/CONFIG]; the datasets: {', '.join(builder_names())}")
    if not options.data_dir:
        raise UserError("--data_dir is missing: the folder that prepared datasets are written to")
    logging.set_verbosity(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished build is removed
    overrides = parse_overrides(options.set)
    if not options.overwrite:
        there = prepared_folder(argv[1], data_dir=options.data_dir, overrides=overrides)
        if there is not None:
            print(f"{there} is already prepared", file=sys.stderr)
    result = prepare(
        argv[1],
        data_dir=options.data_dir,
        manual_dir=options.manual_dir,
        overrides=overrides,
        skip_damaged=options.skip_damaged,
        allow_damaged=options.allow_damaged,
        processes=options.processes,
        overwrite=options.overwrite,
    )
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
