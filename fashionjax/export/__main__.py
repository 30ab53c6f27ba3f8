"""A checkpoint's weights in PyTorch's names and layout.

    fashionjax export --checkpoint=runs/imported --format=safetensors --out=weights.safetensors

Every value that the model uses is in the file, and `fashionjax import` reads it back bit for bit. What an
import leaves out is missing and reported: the step counters num_batches_tracked, which PyTorch fills in
itself, and embed_extractor.bn.*, which MMFashion's retrievers store and never apply; loading an exported
retriever there needs `load_state_dict(…, strict=False)`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from absl import flags
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fashionjax import cli, files
from fashionjax.errors import UserError
from fashionjax.runtime import checkpoint, checkpoint_files
from fashionjax.weights import importer
from fashionjax.weights.key_maps import unfill

FORMATS = ("safetensors",)


def state_dict(path: str | Path, which: str = "best") -> dict[str, np.ndarray]:
    """Torch key → array of the checkpoint at `path`, sorted by key."""
    restored = checkpoint.restore_for_inference(path, which)
    variables = {"params": restored.params, "batch_stats": restored.model_state}
    return dict(sorted(unfill(variables, importer.key_rules(restored.config)).items()))


def export(path: str | Path, out: str | Path, which: str = "best") -> dict[str, np.ndarray]:
    """Writes `out` (safetensors); → what was written. The file appears whole or not at all."""
    tensors, out = state_dict(path, which), Path(out)
    try:
        files.write_atomically(out, lambda partial: save_file(tensors, partial, metadata={"format": "pt"}))
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out={out}: cannot be written ({error})") from error
    return tensors


def _left_out(path: str | Path, which: str) -> list[str]:
    """Learned tensors that the import of a checkpoint left out; none of a model that was made here."""
    config = checkpoint_files.read_config(checkpoint_files.step_folder(path, which))
    return (config.get("imported") or {}).get("left_out") or []


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "workdir of a training run or an import, or one step's folder")
    flags.DEFINE_string("step", "best", "best, last, or a step number")
    flags.DEFINE_enum("format", "safetensors", FORMATS, "file format")
    flags.DEFINE_string("out", None, "file to write")
    flags.mark_flags_as_required(["checkpoint", "out"])


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")
    args = flags.FLAGS
    tensors = export(args.checkpoint, args.out, args.step)
    left_out = _left_out(args.checkpoint, args.step)
    if left_out:
        missing = f"{len(left_out)} tensors of the imported file are not exported (no model applies them)"
        print(f"note: {missing}: {', '.join(left_out)}", file=sys.stderr)
    numbers = sum(int(array.size) for array in tensors.values())
    print(json.dumps({"out": args.out, "tensors": len(tensors), "numbers": numbers}))
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
