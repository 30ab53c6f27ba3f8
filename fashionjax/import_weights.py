"""Published PyTorch and Keras weights → a checkpoint of this project.

    fashionjax import epoch_40.pth --config=experiments/attributes.py:backbone=vgg16 --workdir=runs/imported
    fashionjax import resnet50.pth --config=… --workdir=… --backbone_only
    fashionjax import epoch_16.pth --config=experiments/compatibility.py:types=false --workdir=… \\
        --type_spaces=disjoint/typespaces.p
    fashionjax import ckpt_model.h5 --config=experiments/fashionnet.py:faithful=upstream --workdir=…
    fashionjax import vgg16.weights.h5 --config=experiments/attributes.py:backbone=vgg16 --workdir=… \\
        --backbone_only

Reads .pth and .pt (both formats of torch.save), .safetensors, detectron2's .pkl, Keras's .h5 and Google's ViT
.npz without executing anything. The config says which model is built; the widths of its heads are the
file's. Every tensor must find its leaf and every leaf its tensor; only what no model ever reads is left out,
and reported: step counters (num_batches_tracked), the normalisation that MMFashion's retrievers store and
never apply (embed_extractor.bn), detectron2's buffers of constants.

Of a file that holds several state dicts (`state_dict` beside `state_dict_ema`) the plain one is read, and
the prefixes of wrappers (`module.`, `_orig_mod.`, `model.`) are removed from names; both are reported, and
--entry and --prefix choose otherwise. `--backbone_only` fills the backbone from ImageNet weights, wherever in
the file they lie, and leaves the rest at its initial values. A vision transformer trained at another
resolution keeps its grid of position embeddings, or is resized to --config.model.backbone_fields.grid.
Keras's VGG-16 takes images in another form; the checkpoint keeps it (config.normalisation=caffe), and so does
what is trained from it.

The checkpoint is read by train (resumes at step 0), evaluate and predict. Standard output gets one JSON line:
{"leaves", "tensors", "unread", "unfilled"} and, of files that do not fit, every name that is wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.weights import importer
from fashionjax.weights.key_maps import Accounting, KeyMismatch


def run(file: str | Path, config: ConfigDict, workdir: str | Path, **options) -> Accounting:
    """`importer.import_file` with its notes on standard error."""
    note = lambda line: print(f"note: {line}", file=sys.stderr)  # noqa: E731
    return importer.import_file(file, config, workdir, note=note, **options)


def add_flags() -> None:
    config_flags.DEFINE_config_file("config", help_string="experiments/NAME.py[:argument=value,…]")
    flags.DEFINE_string("workdir", None, "folder that gets the checkpoint; must not hold one")
    flags.DEFINE_bool(
        "backbone_only", False, "FILE holds ImageNet weights of the backbone; the rest starts fresh"
    )
    flags.DEFINE_string(
        "entry",
        None,
        "which state dict of a checkpoint that holds several: state_dict_ema, model.teacher",
    )
    flags.DEFINE_string(
        "prefix",
        None,
        "read the tensors whose names begin with this, and remove it; '' keeps all names",
    )
    flags.DEFINE_string(
        "type_spaces", None, "compatibility models: the typespaces.p that FILE was trained with"
    )
    flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise UserError("expected one weight file: fashionjax import FILE --config=… --workdir=…")
    args = flags.FLAGS
    options = {name: args[name].value for name in ("backbone_only", "type_spaces", "entry", "prefix")}
    try:
        accounting = run(argv[1], args.config, args.workdir, **options)
    except KeyMismatch as error:
        _print_line(error.accounting)
        raise UserError(f"{argv[1]}: {error}") from error
    _print_line(accounting)
    return 0


def _print_line(accounting: Accounting) -> None:
    counts = {name: getattr(accounting, name) for name in ("leaves", "tensors", "unread", "unfilled")}
    print(json.dumps(counts | accounting.problems()), flush=True)


if __name__ == "__main__":
    cli.run(main, add_flags)
