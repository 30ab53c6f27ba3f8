"""A training step of RPF's second stage, crops included, beside the same model in PyTorch.

    python -m benchmarks.region_patch --triplets=2 --rounds=3 --out benchmarks/results/region_patch_cpu.json

Published sizes (ResNet-50 to stage 3, ViT-B/16, crops from a 448 px canvas), float32, Adam, three passes of
the region branch. The batch stays on the device; each side has a process, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import jax
import numpy as np

from benchmarks import hardware, other_process
from benchmarks.throughput import take_turns
from experiments import rpf
from fashionjax import tasks
from fashionjax.data.fine_grained import pixel_table
from fashionjax.runtime import optim, parallel, state

ATTRIBUTES = 8


def make_batch(config, triplets: int) -> dict[str, np.ndarray]:
    """Triplets at consecutive rows, random pixels."""
    rng, rows = np.random.default_rng(0), 3 * triplets
    sides = {"image": config.image_size, "canvas": config.canvas_size}
    pixels = {name: rng.integers(0, 256, (rows, s, s, 3), dtype=np.uint8) for name, s in sides.items()}
    return pixels | {
        "pixels": np.tile(pixel_table(config.image_size, config.canvas_size), (rows, 1)),
        "attribute": np.repeat(np.arange(triplets, dtype=np.int32) % ATTRIBUTES, 3),
        "value": np.tile(np.asarray([0, 0, 1], np.int32), triplets),
        "example_valid": np.ones(rows, bool),
    }


def jax_side(config, batch: dict, mesh):
    """steps -> None."""
    task = tasks.make(config)
    one = {name: value[:1] for name, value in batch.items()}
    params, _ = jax.eval_shape(task.init, jax.random.key(0), one)
    tx = optim.make_optimizer(config.optim, params, lambda step: 1e-5)
    holder = {"state": parallel.replicate(state.create_state(task, tx, 0, one), mesh)}
    step = parallel.compile_train_step(state.make_train_step(task, tx), config.parallel, mesh)
    placed = parallel.put_batch(batch, config.parallel, mesh)

    def train(steps: int) -> None:
        for _ in range(steps):
            holder["state"], scalars = step(holder["state"], placed)
        jax.block_until_ready(scalars)

    return train


def measure(args) -> dict:
    """Seconds of a step of both sides, one figure a round, and their ratios."""
    config = rpf.get_config("stage=2")
    config.labels = {"attribute": [f"attribute {i}" for i in range(ATTRIBUTES)]}
    batch, mesh = make_batch(config, args.triplets), parallel.make_mesh()
    by_role = {name: np.concatenate([value[role::3] for role in range(3)]) for name, value in batch.items()}
    ours = hardware.timed(jax_side(config, batch, mesh))
    with other_process.started(by_role, ATTRIBUTES, module="torch_region_patch") as theirs:
        seconds = take_turns({"jax": ours, "torch": theirs["train"]}, args.steps, args.rounds)
    cpu = seconds.pop("cpu")
    ratio = {
        name: statistics.median(a / b for a, b in zip(found["jax"], found["torch"], strict=True))
        for name, found in (("time_ratio", seconds), ("cpu_ratio", cpu))
    }
    return {"images": 3 * args.triplets, "seconds": seconds, "processor_seconds": cpu} | ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triplets", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="JSON file for the figures")
    args = parser.parse_args()
    parallel.use_compilation_cache()
    result = {"hardware": hardware.describe(jax.devices()), "load_average": os.getloadavg()[0]}
    result |= measure(args)
    print(json.dumps(result, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
