"""What a gallery costs that is embedded for one attribute, and for all of them at once.

    python -m benchmarks.attribute_gallery --images=16 --out benchmarks/results/attribute_gallery_cpu.json

Published sizes of RPF's stages 1 and 2 with eight attributes, untrained: the time does not depend on the
weights. Reading and decoding are left out; they are the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import jax
import numpy as np

from benchmarks import hardware
from experiments import rpf
from fashionjax import tasks
from fashionjax.data.fine_grained import pixel_table
from fashionjax.runtime import parallel

ATTRIBUTES = 8
CANVAS = 512


def measure(stage: int, args) -> dict:
    """Seconds and processor seconds per image: one attribute, all attributes, and bytes of a row."""
    config = rpf.get_config(f"stage={stage}")
    config.labels = {"attribute": [f"attribute {i}" for i in range(ATTRIBUTES)]}
    task, rng = tasks.make(config), np.random.default_rng(0)
    params, model_state = jax.jit(task.init)(jax.random.key(0), {})
    batch = {"image": rng.integers(0, 256, (args.images, 224, 224, 3), dtype=np.uint8)}
    if stage == 2:
        batch["canvas"] = rng.integers(0, 256, (args.images, CANVAS, CANVAS, 3), dtype=np.uint8)
        batch["pixels"] = np.tile(pixel_table(224, 500), (args.images, 1))
    asked = {"one": np.zeros(args.images, np.int32)}
    asked["all"] = np.tile(np.arange(ATTRIBUTES, dtype=np.int32), (args.images, 1))
    predict, result = jax.jit(task.predict), {"stage": stage}
    for name, attribute in asked.items():
        given = jax.device_put(batch | {"attribute": attribute})

        def run(steps: int, given=given) -> None:
            for _ in range(steps):
                jax.block_until_ready(predict(params, model_state, given))

        run(1)
        found = [hardware.timed(run)(1) for _ in range(args.rounds)]
        wall, processor = (statistics.median(values) / args.images for values in zip(*found, strict=True))
        result |= {f"{name}_seconds": round(wall, 4), f"{name}_processor_seconds": round(processor, 4)}
    result["all_over_one"] = round(result["all_processor_seconds"] / result["one_processor_seconds"], 2)
    width = config.model.embedding * stage
    return result | {"row_bytes": {"one": 4 * width, "all": 4 * width * ATTRIBUTES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    result = {"hardware": hardware.describe(jax.devices()), "load_average": os.getloadavg()[0]}
    result |= {"attributes": ATTRIBUTES, "images": args.images}
    result["rows"] = [measure(stage, args) for stage in args.stages]
    print(json.dumps(result, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
