"""A checkpoint's weights in PyTorch's names and layout.

    fashionjax export --checkpoint=runs/imported --format=safetensors --out=weights.safetensors

The file holds what `fashionjax import` reads back bit for bit; buffers that PyTorch keeps and nothing uses
(num_batches_tracked) are not in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from absl import flags
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fashionjax import checkpoint, cli, import_weights
from fashionjax.errors import UserError
from fashionjax.key_maps import unfill

FORMATS = ("safetensors",)


def state_dict(path: str | Path, which: str = "best") -> dict[str, np.ndarray]:
    """Torch key → array of the checkpoint at `path`, sorted by key."""
    restored = checkpoint.restore_for_inference(path, which)
    variables = {"params": restored.params, "batch_stats": restored.model_state}
    return dict(sorted(unfill(variables, import_weights.key_rules(restored.config)).items()))


def export(path: str | Path, out: str | Path, which: str = "best") -> dict[str, np.ndarray]:
    """Writes `out` (safetensors); → what was written. The file appears whole or not at all."""
    tensors, out = state_dict(path, which), Path(out)
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        if partial.is_file():
            partial.unlink()
        raise UserError(f"--out={out}: cannot be written ({error})") from error
    return tensors


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
    numbers = sum(int(array.size) for array in tensors.values())
    print(json.dumps({"out": args.out, "tensors": len(tensors), "numbers": numbers}))
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
