"""Your own photos → a trained model, a page and a figure, in one command.

    fashionjax finetune photos/ --workdir=runs/mine
    fashionjax finetune shop.csv --workdir=runs/shop --minutes=30 --init=resnet50.pth --freeze=backbone
    fashionjax predict new.jpg --checkpoint=runs/mine

Takes a folder with a folder for each class, a table (CSV or TSV: docs/datasets/own_photos.md) or a COCO
file, builds the dataset, trains, evaluates on the held-out split `test`, which decides nothing, and writes
WORKDIR/test/report.html. What is learned goes by the columns: an embedding where there are items, else
categories, attributes and landmarks, those that there are; a detector from a COCO file. --task and --labels
choose otherwise.

Every step is a command of its own, which is printed before it runs. A killed run goes on where it was when
the same command is given again. --init takes the --workdir of another run, or any weight file that
`fashionjax import` reads; heads start fresh. --freeze=backbone keeps its weights and computes its features
once.
--minutes=N plans the training for that time and stops it then, at the best step.

The last line on standard output is JSON: {"checkpoint", "split", "n", "metrics"}.
"""

from __future__ import annotations

import json
import signal
import sys

from absl import flags

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.finetune import run
from fashionjax.finetune.plan import Options
from fashionjax.prepare import parse_overrides
from fashionjax.runtime import parallel


def add_flags() -> None:
    flags.DEFINE_string("workdir", None, "folder of the dataset, checkpoints and the report")
    flags.DEFINE_string("init", "", "workdir of another run, or a weight file that import takes")
    flags.DEFINE_enum("freeze", "none", ["backbone", "none"], "part that keeps the weights of --init")
    flags.DEFINE_float("minutes", 0.0, "time for training; 0: as long as the recipe says", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "of held-out photos, initial weights and order", lower_bound=0)
    flags.DEFINE_enum(
        "task", "auto", ["auto", "labels", "retrieval", "detection"], "auto: by what the photos come with"
    )
    flags.DEFINE_string(
        "labels", "", "of category, attribute and landmark, joined by + (default: all there are)"
    )
    flags.DEFINE_string("data_dir", "", "folder of the dataset, which runs may share (default: WORKDIR/data)")
    flags.DEFINE_integer("allow_damaged", 0, "leave up to N damaged photos out", lower_bound=0)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the dataset (prepare --set); may be repeated")
    flags.DEFINE_multi_string("field", [], "FIELD=VALUE of the config, optim.lr=0.001; may be repeated")
    flags.mark_flag_as_required("workdir")
    flags.FLAGS.set_gnu_getopt(True)  # the photos may stand before the flags


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise UserError("expected one folder, table or COCO file: fashionjax finetune PHOTOS --workdir=DIR")
    args = flags.FLAGS
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parallel.use_compilation_cache()
    options = Options(
        source=argv[1],
        workdir=args.workdir,
        init=args.init,
        freeze=args.freeze == "backbone",
        minutes=args.minutes,
        seed=args.seed,
        task=args["task"].value,
        labels=args["labels"].value,
        allow_damaged=args.allow_damaged,
        data_dir=args["data_dir"].value,
        dataset_fields=parse_overrides(args["set"].value),
        config_fields=dict(_field(text) for text in args.field),
    )
    result = run.finetune(options)
    if result is None:  # SIGTERM
        return 0
    print(json.dumps(result), flush=True)
    return 0


def _field(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given or not name:
        raise UserError(f"--field={text}: must be FIELD=VALUE")
    return name, value


if __name__ == "__main__":
    cli.run(main, add_flags)
