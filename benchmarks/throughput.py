"""Images per second of every backbone and of the input pipeline, beside PyTorch where it is installed.

    python -m benchmarks.throughput --backbones=resnet18,resnet50 --what=train,predict --batch=8
    python -m benchmarks.throughput --what=pipeline,end_to_end --backbones=resnet18 --workers=2

train, predict: the project's own compiled steps on a batch that stays on the device; pipeline: prepared
images to batches on the host; end_to_end: pipeline, transfer, augmentation and training step. PyTorch runs
the same model with the same optimizer in the same run, in turns with it, so that other load on the machine
meets both. docs/benchmarks.md has the results.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import hardware, other_process
from experiments import common
from fashionjax import cli, losses
from fashionjax.data import pipeline
from fashionjax.errors import UserError
from fashionjax.models import backbones
from fashionjax.ops import augment
from fashionjax.runtime import datasets, optim, parallel, state
from fashionjax.task import Task
from fashionjax.tasks import supervised

CLASSES = 1000
WHAT = ("train", "predict", "pipeline", "end_to_end")


def make_config(args) -> object:
    """An experiment config with the benchmark's sizes, for pipeline and optimizer."""
    config = common.base()
    config.data_dir, config.synthetic.set = args.data_dir, "train=512,val=8,test=8,size=256"
    config.image_size, config.canvas_size = args.size, args.size * 8 // 7
    config.batch_size, config.dtype = args.batch, args.dtype
    return config


def make_task(config, name: str, augmented: bool) -> Task:
    """Classification by the backbone's own classifier: cross-entropy over CLASSES."""
    model = backbones.build(name, num_classes=CLASSES, dtype=jnp.dtype(config.dtype))
    to_training = supervised.make_augment(config)

    def init(rng, batch):
        image = augment.prepare_eval(batch)["image"]
        variables = model.init({"params": rng, "dropout": rng}, image, method="logits")
        return variables["params"], variables.get("batch_stats", {})

    def loss(params, model_state, batch, rng):
        batch = to_training(batch, rng) if augmented else augment.prepare_eval(batch)
        logits, updated = model.apply(
            {"params": params, "batch_stats": model_state},
            batch["image"],
            train=True,
            method="logits",
            rngs=supervised.dropout_rng(rng),
            mutable=["batch_stats"],
        )
        value = supervised.weighted_mean(losses.softmax_ce(logits, batch["category"]), batch)
        return value, (updated.get("batch_stats", {}), {})

    def predict(params, model_state, batch):
        image = augment.prepare_eval(batch, config.dtype)["image"]
        variables = {"params": params, "batch_stats": model_state}
        return {"category_logits": model.apply(variables, image, method="logits")}

    return Task(supervised.make_preprocess(config), init, loss, predict, lambda pairs: {})


def fixed_batch(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    return {
        "image": rng.integers(0, 256, shape, dtype=np.uint8),
        "category": rng.integers(0, CLASSES, config.batch_size, dtype=np.int32),
        "example_valid": np.ones(config.batch_size, bool),
    }


def jax_side(config, name: str, mesh, split) -> tuple[dict[str, Callable[[int], None]], float]:
    """What can be timed, {what: steps -> None}, and the FLOPs of one image's forward pass."""
    task = make_task(config, name, augmented=False)
    host = fixed_batch(config)
    tx = optim.make_optimizer(config.optim, {"w": 0}, lambda step: config.optim.lr)
    one = {key: value[:1] for key, value in host.items()}
    run = parallel.replicate(jax.jit(functools.partial(state.create_state, task, tx, 0))(one), mesh)
    holder = {"state": run}
    put = functools.partial(parallel.put_batch, mode=config.parallel, mesh=mesh)
    batch = put(host)
    # tracing alone, before the compiler rewrites anything
    abstract = jax.jit(task.predict).lower(run.params, run.model_state, one)
    flops = abstract.cost_analysis()["flops"]

    compiled = parallel.compile_train_step(state.make_train_step(task, tx), config.parallel, mesh)
    predictor = parallel.compile_predict_step(state.make_predict_step(task), config.parallel, mesh)

    def train(steps):
        for _ in range(steps):
            holder["state"], scalars = compiled(holder["state"], batch)
        jax.block_until_ready(scalars)

    def predict(steps):
        for _ in range(steps):
            outputs = predictor(holder["state"].params, holder["state"].model_state, batch)
        jax.block_until_ready(outputs)

    timed = {"train": train, "predict": predict}
    if split is not None:
        moving = make_task(config, name, augmented=True)
        full = parallel.compile_train_step(state.make_train_step(moving, tx), config.parallel, mesh)
        feed = parallel.prefetch(host_batches(config, moving, split), put)

        def end_to_end(steps):
            for _ in range(steps):
                holder["state"], scalars = full(holder["state"], next(feed)[1])
            jax.block_until_ready(scalars)

        timed["end_to_end"] = end_to_end
    return timed, flops


def host_batches(config, task, split):
    return pipeline.train_batches(
        split, task.preprocess, batch_size=config.batch_size, seed=0, workers=config.workers
    )


def take_turns(sides: dict[str, Callable[[int], tuple[float, float]]], steps: int, rounds: int) -> dict:
    """Seconds per step of each side, one number a round, and under "cpu" the processor seconds.

    Each turn starts with a step that is not timed: the first compiles, later ones take back the memory that
    the system gave to the other side.
    """
    seconds: dict = {name: [] for name in sides}
    cpu: dict = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            run(1)
            wall, processor = run(steps)
            seconds[name].append(wall / steps)
            cpu[name].append(processor / steps)
    return seconds | {"cpu": cpu}


def row(args, name: str, what: str, seconds: dict, flops: float | None, devices: list) -> dict:
    """One line of the results: medians over the rounds; ratios are ours over PyTorch's, round by round.

    `cpu_ratio` compares the processor time of the process, which other load on the machine does not stretch;
    it is a fair figure where both have one thread (`taskset -c 0`), as idle threads may spin.
    """
    ours, cpu = statistics.median(seconds["jax"]), seconds.pop("cpu")
    result = {"backbone": name, "what": what, "batch": args.batch, "size": args.size, "dtype": args.dtype}
    result |= {"images_per_second": args.batch / ours, "seconds": seconds["jax"]}
    if what in ("pipeline", "end_to_end"):
        result["workers"] = args.workers
    if flops is not None:  # a training step is one forward pass and twice that backward
        rate = flops * (3 if what != "predict" else 1) * args.batch / ours / len(devices)
        result |= {"gflops_per_second": rate / 1e9}
        result["flop_utilisation"] = hardware.utilisation(devices[0].device_kind, args.dtype, rate)
    if "torch" in seconds:
        theirs = seconds["torch"]
        ratios = [a / b for a, b in zip(seconds["jax"], theirs, strict=True)]
        result |= {"torch_images_per_second": args.batch / statistics.median(theirs)}
        result |= {"torch_seconds": theirs, "torch_layout": args.torch_layout}
        result |= {"time_ratio": statistics.median(ratios)}
        cpu_ratios = [a / b for a, b in zip(cpu["jax"], cpu["torch"], strict=True)]
        result |= {"cpu_ratio": statistics.median(cpu_ratios)}
    result["huge_pages"] = "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    result["load_average"] = os.getloadavg()[0]
    return result


def measure(args) -> list[dict]:
    """Every row that the flags ask for, printed as they come."""
    mesh = parallel.make_mesh(jax.devices()[: args.devices or None])
    devices = list(mesh.devices.flat)
    config = make_config(args)
    config.workers, config.parallel = args.workers, args.parallel
    parallel.check_batch_size(config.batch_size, mesh)
    split = None
    if {"pipeline", "end_to_end"} & set(args.what):
        split = datasets.open_split(config, "train")
    rows = []

    def keep(new: dict) -> None:
        print(line(new), flush=True)
        rows.append(new)

    if "pipeline" in args.what:
        batches = host_batches(config, make_task(config, "resnet18", augmented=True), split)

        def draw(steps: int) -> None:
            for _ in range(steps):
                next(batches)

        seconds = take_turns({"jax": hardware.timed(draw)}, args.steps, args.rounds)
        keep(row(args, "", "pipeline", seconds, None, devices))
    for name in args.backbones if set(args.what) - {"pipeline"} else ():
        ours, flops = jax_side(config, name, mesh, split if "end_to_end" in args.what else None)
        with torch_side(args, config, name) as theirs:
            for what in (what for what in args.what if what in ours):
                sides = {"jax": hardware.timed(ours[what])}
                sides |= {"torch": theirs[what]} if what in theirs else {}
                keep(row(args, name, what, take_turns(sides, args.steps, args.rounds), flops, devices))
    return rows


def torch_side(args, config, name: str):
    """A context with PyTorch's side where it is installed and wanted, else with nothing."""
    if not args.torch or importlib.util.find_spec("torch") is None:
        return contextlib.nullcontext({})
    batch = fixed_batch(config)
    return other_process.started(
        name, batch["image"], batch["category"], args.dtype, args.torch_layout, CLASSES
    )


def line(row: dict) -> str:
    text = f"{row['backbone']:>10} {row['what']:<10} {row['images_per_second']:8.1f} img/s"
    if "time_ratio" in row:
        text += f"   PyTorch {row['torch_images_per_second']:8.1f} img/s   time ratio {row['time_ratio']:.2f}"
        text += f" (processor time {row['cpu_ratio']:.2f})"
    if row.get("flop_utilisation"):
        text += f"   {row['flop_utilisation']:.1%} of the peak"
    return text


def write(path: Path, rows: list[dict], about: dict) -> None:
    """Rows into the file, in place of those with the same settings; a file of other hardware is refused."""
    stored = json.loads(path.read_text()) if path.exists() else {"hardware": about, "rows": []}
    if stored["hardware"] != about:
        raise UserError(f"{path}: measured on {stored['hardware']}, this is {about}; give another --out")

    def key(row):
        return tuple(
            row.get(k) for k in ("backbone", "what", "batch", "size", "dtype", "workers", "huge_pages")
        )

    merged = {key(row): row for row in [*stored["rows"], *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"hardware": about, "rows": list(merged.values())}, indent=1) + "\n")


def add_flags() -> None:
    flags.DEFINE_list("backbones", list(backbones.BACKBONES), "names of fashionjax.models.backbones")
    flags.DEFINE_list("what", ["train", "predict"], f"any of {', '.join(WHAT)}")
    flags.DEFINE_integer("batch", 8, "images in a step, over all devices", lower_bound=1)
    flags.DEFINE_integer("size", 224, "side of the image", lower_bound=32)
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "compute type")
    flags.DEFINE_integer("devices", 0, "how many devices; 0: all", lower_bound=0)
    flags.DEFINE_integer("steps", 2, "steps of a round", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "rounds; medians are taken over them", lower_bound=1)
    flags.DEFINE_integer("workers", 0, "worker processes of the pipeline", lower_bound=0)
    flags.DEFINE_enum("parallel", "pmap", parallel.MODES, "how the step is compiled")
    flags.DEFINE_bool("torch", True, "measure PyTorch as well where it is installed")
    flags.DEFINE_enum("torch_layout", "contiguous", ["contiguous", "channels_last"], "memory layout there")
    flags.DEFINE_string("data_dir", "runs/benchmarks/data", "where the pipeline's images are rendered")
    flags.DEFINE_string("out", None, "JSON file; rows of earlier runs are kept")


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    args = flags.FLAGS
    for given, known in ((args.backbones, backbones.BACKBONES), (args.what, WHAT)):
        if set(given) - set(known):
            raise UserError(f"unknown {', '.join(set(given) - set(known))}; there are {', '.join(known)}")
    about = hardware.describe(jax.devices()[: args.devices or None])
    if args.torch and importlib.util.find_spec("torch") is not None:
        about["torch"] = importlib.metadata.version("torch")
    print(json.dumps(about), file=sys.stderr)
    rows = measure(args)
    if args.out:
        write(Path(args.out), rows, about)
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
