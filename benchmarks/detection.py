"""Mask R-CNN stage by stage, its training step and its detections, beside the same model in PyTorch.

    python -m benchmarks.detection --case=small --out=benchmarks/results/detection_cpu.json
    python -m benchmarks.detection --case=full --rounds=2
    python -m benchmarks.detection --case=full --count          # FLOPs and bytes of a step alone, in a minute

small: experiments/mask_rcnn.py:small=true, 128 px; full: the ResNet-50 of experiments/cascade.py:
model=mask_rcnn on images of 800 x 1333 in their bucket of 800 x 1344. Each stage is a program of its own on
the outputs of the one before; `loss + backward` and `train step` are whole programs. PyTorch runs in turns in
another process (benchmarks/torch_detection.py), its RoIAlign with 2 x 2 samples a bin, ours with the adaptive
grid. FLOPs and bytes are XLA's count before optimisation, in which a loop (RoIAlign, NMS) counts
once. docs/benchmarks.md has the results.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import hardware, other_process
from benchmarks.throughput import take_turns
from experiments import cascade, mask_rcnn
from fashionjax import cli, tasks
from fashionjax.models.detection import rcnn, roi_heads, rpn
from fashionjax.runtime import optim, parallel, state
from fashionjax.task import Task
from fashionjax.tasks.detection import make_mask_target, make_model, truth_of

CASES = {  # config, (height, width) of the image and of its bucket, categories
    "small": (lambda: mask_rcnn.get_config("small=true"), (128, 128), (128, 128), 16),
    "full": (lambda: cascade.get_config("model=mask_rcnn"), (800, 1333), (800, 1344), 13),
}
OBJECTS = 4  # of an image
WHOLE = ("detect", "loss + backward", "train step")  # the other rows are parts of these


class Case(NamedTuple):
    config: ConfigDict
    batch: dict  # as the pipeline yields it
    seed: int = 0


def make_case(name: str, batch_size: int) -> Case:
    """A config whose labels are filled, and a batch of random images with boxes of a fifth to half a side."""
    make, (height, width), bucket, categories = CASES[name]
    config = make()
    config.labels = ConfigDict({"category": [f"c{i}" for i in range(categories)]})
    config.model.mask_form = "bitmap"
    config.batch_size = batch_size or (config.batch_size if name == "small" else 1)
    rng, b, g = np.random.default_rng(0), config.batch_size, config.truth.objects
    image = np.zeros((b, *bucket, 3), np.uint8)
    image[:, :height, :width] = rng.integers(0, 256, (b, height, width, 3), dtype=np.uint8)
    box, valid = np.zeros((b, g, 4), np.float32), np.zeros((b, g), bool)
    bitmap = np.zeros((b, g, bucket[0], bucket[1] // 8), np.uint8)
    for i in range(b):
        for j in range(OBJECTS):
            side = rng.integers(height // 5, height // 2, 2)
            x, y = rng.integers(0, width - side[0]), rng.integers(0, height - side[1])
            box[i, j], valid[i, j] = (x, y, x + side[0], y + side[1]), True
            mask = np.zeros(bucket, bool)
            mask[y : y + side[1], x : x + side[0]] = True
            bitmap[i, j] = np.packbits(mask, axis=1)
    label = rng.integers(0, categories, (b, g)).astype(np.int32)
    batch = {"image": image, "size": np.full((b, 2), (height, width), np.int32), "truth_box": box}
    batch |= {"truth_label": label, "truth_valid": valid, "truth_masked": valid, "truth_bitmap": bitmap}
    batch |= {"example_valid": np.ones(b, bool), "index": np.arange(b, dtype=np.int32)}
    return Case(config, batch | {"slot": np.arange(b, dtype=np.int32)})


# ------------------------------------------------------------------------------ our side
def jax_side(case: Case) -> tuple[dict[str, Callable[[int], None]], dict]:
    """What can be timed, {stage: steps -> None}, and FLOPs, bytes and memory of the training step."""
    config, batch = case.config, jax.tree.map(jnp.asarray, case.batch)
    model, task = make_model(config), tasks.make(config)
    settings, size, truth = model.settings, batch["size"], truth_of(batch)
    params, model_state = jax.jit(task.init)(jax.random.PRNGKey(0), {})
    variables = {"params": params, "batch_stats": model_state}
    keys = jax.random.split(jax.random.key(1), config.batch_size)
    target = make_mask_target(config, settings)
    most = max(int(settings.rois_sampled * settings.roi_foreground_share), 1)
    cells = rcnn.level_cells(settings.strides, size)
    stages: dict[str, Callable[[int], None]] = {}

    def call(method, *arguments, **options):
        return lambda v, *a: model.apply(v, *a, *arguments, method=method, **options)

    def stage(name, function, *arguments):
        compiled = jax.jit(function)
        result = jax.block_until_ready(compiled(*arguments))
        stages[name] = functools.partial(_repeat, compiled, arguments)
        return result

    maps = stage("backbone + FPN", lambda v, image: call("maps")(v, image, size), variables, batch["image"])
    logits, deltas = stage("RPN head", lambda v, m: call("rpn_flat")(v, m)[1:], variables, maps)
    levels = rpn.levels(settings, [x.shape[1:3] for x in maps])
    propose = functools.partial(rpn.propose, settings, levels, train=True)
    proposals = stage("proposals, NMS", lambda lo, de: jax.vmap(propose)(lo, de, size, cells), logits, deltas)
    rpn_loss = functools.partial(rpn.loss, settings, levels)
    stage(
        "RPN matching, loss",
        lambda lo, de: jax.vmap(rpn_loss)(lo, de, truth.box, truth.valid, size, cells, keys),
        logits,
        deltas,
    )
    sample = functools.partial(roi_heads.sample, settings, model.classes)
    rois = stage(
        "RoI matching, sample",
        lambda p: jax.vmap(sample)(p, truth.box, truth.label, truth.valid, keys),
        proposals,
    )
    few = jax.tree.map(lambda x: x[:, :most], rois)

    def pooling(side):
        return lambda m, box: model.apply(variables, m, box, size, side, method="pool")

    pooled = stage("RoIAlign, boxes", pooling(settings.box_pool), maps, rois.box)
    flat = pooled.reshape(-1, *pooled.shape[2:])
    stage(
        "box head",
        lambda v, x: model.apply(v, x, method=lambda m, x: m.box_predictor[0](m.box_head[0](x))),
        variables,
        flat,
    )
    pooled = stage("RoIAlign, masks", pooling(settings.mask_pool), maps, few.box)
    flat = pooled.reshape(-1, *pooled.shape[2:])
    stage("mask head", lambda v, x: model.apply(v, x, method=lambda m, x: m.mask_head(x)), variables, flat)
    stage("mask targets", lambda t, r: jax.vmap(target)(t.mask, r.truth, r.box), truth, few)
    stage("detect", lambda v, image: rcnn.detect(model, v, image, size), variables, batch["image"])

    frozen = optim.frozen_paths(config.optim)
    tx = optim.make_optimizer(config.optim, params, lambda step: config.optim.lr)

    def stop(path, leaf):
        return jax.lax.stop_gradient(leaf) if frozen(optim.path_name(path)) else leaf

    def total(params):
        free = jax.tree_util.tree_map_with_path(stop, params) if frozen else params
        weights = variables | {"params": free}
        terms, _ = rcnn.losses(model, weights, batch["image"], size, truth, keys, target)
        return sum(terms.values())

    gradient = stage("loss + backward", jax.grad(total), params)
    stage("optimiser", lambda g, s, p: tx.update(g, s, p), gradient, tx.init(params), params)

    step, mesh = train_step(task, tx, frozen)
    one = {name: value[:1] for name, value in batch.items()}
    run = parallel.replicate(jax.jit(functools.partial(state.create_state, task, tx, 0))(one), mesh)
    lowered = step.lower(run, batch)
    counted, compiled = lowered.cost_analysis(), lowered.compile()
    holder = {"state": run}

    def train(steps):
        for _ in range(steps):
            holder["state"], scalars = compiled(holder["state"], batch)
        jax.block_until_ready(scalars)

    stages["train step"] = train
    return stages, counts(counted) | planned(compiled.memory_analysis())


def train_step(task: Task, tx, frozen) -> tuple:
    """The project's training step on one device, not compiled yet, and its mesh."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = state.make_train_step(task, tx, frozen=frozen)
    return parallel.compile_train_step(step, "shard_map", mesh), mesh


def count_step(case: Case) -> dict:
    """FLOPs and bytes of the training step from shapes alone; nothing is compiled."""
    config, task = case.config, tasks.make(case.config)
    params, _ = jax.eval_shape(task.init, jax.random.PRNGKey(0), {})
    tx = optim.make_optimizer(config.optim, params, lambda step: config.optim.lr)
    batch = jax.tree.map(jnp.asarray, case.batch)
    step, _ = train_step(task, tx, optim.frozen_paths(config.optim))
    one = {name: value[:1] for name, value in batch.items()}
    run = jax.eval_shape(functools.partial(state.create_state, task, tx, 0), one)
    return counts(step.lower(run, batch).cost_analysis())


def _repeat(compiled, arguments, steps: int) -> None:
    for _ in range(steps):
        result = compiled(*arguments)
    jax.block_until_ready(result)


def counts(counted: dict) -> dict:
    """FLOPs and bytes before optimisation."""
    return {"flops": counted["flops"], "bytes_accessed": counted["bytes accessed"]}


def planned(memory) -> dict:
    """Memory in bytes as the compiler plans it."""
    names = ("argument", "output", "temp", "alias")
    return {f"{name}_bytes": getattr(memory, f"{name}_size_in_bytes") for name in names}


# ------------------------------------------------------------------------------ results
def measure(args) -> dict:
    """One result: rows by stage, and what is known of the training step."""
    case = make_case(args.case, args.batch)
    ours, about = jax_side(case)
    about["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    other = contextlib.nullcontext({})
    if args.torch and importlib.util.find_spec("torch") is not None:
        other = other_process.started(args.case, args.batch, module="torch_detection_side")
    rows = []
    with other as theirs:
        for name, run in ours.items():
            sides = {"jax": hardware.timed(run)}
            sides |= {"torch": theirs[name]} if name in theirs else {}
            seconds = take_turns(sides, args.steps, args.rounds)
            rows.append(row(name, case.config.batch_size, seconds))
            print(line(rows[-1]), flush=True)
    show(about)
    return {"case": args.case, "batch": case.config.batch_size, "rows": rows, "train_step": about}


def show(about: dict) -> None:
    for name, value in about.items():
        print(f"  {name}: {value / 1e9:.2f} G")


def row(name: str, batch: int, seconds: dict) -> dict:
    """Least of the rounds: what other load on the machine adds is no part of the program."""
    cpu = seconds.pop("cpu")
    result = {"stage": name, "seconds": min(seconds["jax"]), "cpu_seconds": min(cpu["jax"])}
    if name in WHOLE:
        result["images_per_second"] = batch / min(seconds["jax"])
    if "torch" in seconds:
        result |= {"torch_seconds": min(seconds["torch"]), "torch_cpu_seconds": min(cpu["torch"])}
        ratios = [a / b for a, b in zip(cpu["jax"], cpu["torch"], strict=True)]
        result["cpu_ratio"] = statistics.median(ratios)
    return result


def line(row: dict) -> str:
    text = f"{row['stage']:<22} {1e3 * row['seconds']:9.1f} ms (processor {1e3 * row['cpu_seconds']:9.1f})"
    if "torch_seconds" in row:
        text += f"   PyTorch {1e3 * row['torch_seconds']:9.1f} ms ({1e3 * row['torch_cpu_seconds']:9.1f})"
        text += f"   processor time ratio {row['cpu_ratio']:.2f}"
    return text


def add_flags() -> None:
    flags.DEFINE_enum("case", "small", list(CASES), "which model and size")
    flags.DEFINE_integer("batch", 0, "images in a step; 0: the config's (small), 1 (full)", lower_bound=0)
    flags.DEFINE_integer("steps", 1, "steps of a round", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "rounds of each side, in turns", lower_bound=1)
    flags.DEFINE_bool("count", False, "print FLOPs and bytes of the training step; nothing is timed")
    flags.DEFINE_bool("torch", True, "measure PyTorch as well where it is installed")
    flags.DEFINE_string("out", None, "JSON file; results of other cases in it are kept")


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    args = flags.FLAGS
    about = hardware.describe(jax.devices()[:1])
    if args.torch and importlib.util.find_spec("torch") is not None:
        about["torch"] = importlib.metadata.version("torch")
    print(json.dumps(about), file=sys.stderr)
    if args.count:
        show(count_step(make_case(args.case, args.batch)))
        return 0
    result = measure(args)
    if args.out:
        path = Path(args.out)
        stored = json.loads(path.read_text()) if path.exists() else {"results": []}
        others = [
            r for r in stored["results"] if (r["case"], r["batch"]) != (result["case"], result["batch"])
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"hardware": about, "results": [*others, result]}
        path.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
