"""How far the compilers and device counts drift apart over a run: relative L2 of the parameter change.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.parallel_agreement

The demo's model with synchronised batch-norm and without dropout, float32, one fixed batch; after 1 and
after 20 steps. The yardstick is one device against itself with every initial parameter moved by one rounding:
how far the training itself carries a difference of that size. One JSON object on standard output.
"""

import json

import jax
import numpy as np
import optax

from benchmarks import hardware
from experiments import demo
from fashionjax import tasks
from fashionjax.runtime import parallel, state

CASES = {
    "pmap 8": ("pmap", 8, 0.0),
    "shard_map 8": ("shard_map", 8, 0.0),
    "pmap 1": ("pmap", 1, 0.0),
    "pmap 1 moved": ("pmap", 1, 2.0**-23),
}
PAIRS = {
    "pmap against shard_map": ("pmap 8", "shard_map 8"),
    "8 devices against 1": ("pmap 8", "pmap 1"),
    "1 device against itself moved by one rounding": ("pmap 1", "pmap 1 moved"),
}
STEPS = (1, 20)


def make_config():
    config = demo.get_config()
    config.image_size, config.canvas_size, config.batch_size = 32, 36, 16
    config.model.update({"sync_bn": True, "dropout": 0.0, "features": 16, "landmark_features": 8})
    config.model.backbone_fields.width = 4
    config.labels = {"category": ["a", "b", "c"], "attribute": ["x", "y"]}
    return config


def make_batch() -> dict:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (16, 36, 36, 3), dtype=np.uint8),
        "landmark": rng.random((16, 8, 2), dtype=np.float32),
        "visibility": np.ones((16, 8), np.float32),
        "category": rng.integers(0, 3, 16, dtype=np.int32),
        "attribute": rng.integers(0, 2, (16, 2), dtype=np.uint8),
        "example_valid": np.ones(16, bool),
    }


def changes(task, batch, mode: str, devices: int, moved: float) -> dict[int, np.ndarray]:
    """Steps taken → the parameter change so far, one vector; `moved`: of the initial parameters, relative."""
    mesh = parallel.make_mesh(jax.devices()[:devices])
    tx = optax.sgd(0.01, momentum=0.9)
    run = state.create_state(task, tx, 0, batch)
    run = run.replace(params=jax.tree.map(lambda leaf: leaf * (1 + moved), run.params))
    first = flat(run.params)
    run = parallel.replicate(run, mesh)
    step = parallel.compile_train_step(state.make_train_step(task, tx), mode, mesh)
    placed, found = parallel.put_batch(batch, mode, mesh), {}
    for count in range(1, max(STEPS) + 1):
        run, _ = step(run, placed)
        if count in STEPS:
            found[count] = flat(run.params) - first
    return found


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def main() -> None:
    parallel.use_compilation_cache()
    task, batch = tasks.make(make_config()), make_batch()
    found = {name: changes(task, batch, *case) for name, case in CASES.items()}
    result = {
        pair: {f"after {count}": relative(found[b][count], found[a][count]) for count in STEPS}
        for pair, (a, b) in PAIRS.items()
    }
    print(json.dumps({"hardware": hardware.describe(jax.devices()), "relative_l2": result}, indent=1))


if __name__ == "__main__":
    main()
