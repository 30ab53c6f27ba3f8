"""Published PyTorch weights → a checkpoint of this project.

    fashionjax import epoch_40.pth --config=experiments/attributes.py:backbone=vgg16 --workdir=runs/imported
    fashionjax import resnet50.pth --config=… --workdir=… --backbone_only
    fashionjax import epoch_16.pth --config=experiments/compatibility.py:types=false --workdir=… \\
        --type_spaces=disjoint/typespaces.p

Reads .pth and .pt (both formats of torch.save), .safetensors and Google's ViT .npz without executing
anything. The config says which model is built; the widths of its heads are taken from the file. Every
tensor must find its leaf and every leaf its tensor; only what no model ever reads is left out, and named:
step counters (num_batches_tracked) and the normalisation that MMFashion's retrievers store and never apply
(embed_extractor.bn). `--backbone_only` fills the backbone from ImageNet
weights and leaves the rest at its initial values. The checkpoint is read by train (resumes at step 0),
evaluate and predict.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from fashionjax import cli, tasks
from fashionjax.errors import UserError
from fashionjax.models import backbones, pooled_features
from fashionjax.models.backbones import vit
from fashionjax.models.compatibility import ORIGIN_PREFIX, Embedder
from fashionjax.models.compatibility import torch_keys as outfit_keys
from fashionjax.models.torch_keys import Rules, prefixed
from fashionjax.runtime import checkpoint, optim
from fashionjax.runtime.state import TrainState, initial_key, run_key
from fashionjax.task import Batch, Task
from fashionjax.tasks import attributes, compatibility, landmarks, retrieval
from fashionjax.weights import labels, recognise
from fashionjax.weights.files import read_tensors
from fashionjax.weights.key_maps import Accounting, KeyMismatch, fill, torch_shapes, unfill

__all__ = ["fill", "import_backbone", "import_model", "key_rules", "main", "template", "unfill"]

LANDMARKS = 8
STAGES = (1, 2, 3, 4)  # of a ResNet
COUNTER = "num_batches_tracked"
BACKBONE_PREFIXES = ("backbone.", ORIGIN_PREFIX)

# config.task → its flax module; every one of them has a `backbone`
MODELS: dict[str, Callable[[ConfigDict], nn.Module]] = {
    "attributes": attributes.make_model,
    "compatibility": compatibility.make_model,
    "landmarks": landmarks.make_model,
    "retrieval": retrieval.make_model,
}


def make_model(config: ConfigDict) -> nn.Module:
    """The flax module of a config whose labels are filled."""
    if config.task not in MODELS:
        raise UserError(f"config.task={config.task!r}: PyTorch names are known for {', '.join(MODELS)}")
    return MODELS[config.task](config)


def key_rules(config: ConfigDict, keys: Iterable[str] | None = None) -> Rules:
    """The key rules of a config's model; where there are two sets of names, `keys` of a file tell its own."""
    model = make_model(config)
    if isinstance(model, Embedder):
        origin = None if keys is None else recognise.names_of_origin(keys)
        return outfit_keys(model, origin)
    return pooled_features.torch_keys(model)


def template(config: ConfigDict, task: Task) -> dict:
    """{'params', 'batch_stats'} of shapes and dtypes; nothing is computed."""
    params, model_state = jax.eval_shape(task.init, jax.random.PRNGKey(0), example_batch(config))
    return {"params": params, "batch_stats": model_state}


def example_batch(config: ConfigDict) -> Batch:
    """A batch of one empty picture with every input that a model may ask for."""
    size = config.image_size
    return {
        "image": np.zeros((1, size, size, 3), np.uint8),
        "landmark": np.zeros((1, LANDMARKS, 2), np.float32),
        "visibility": np.zeros((1, LANDMARKS), np.float32),
        "example_valid": np.ones((1,), bool),
    }


def import_model(
    config: ConfigDict, task: Task, tensors: Mapping[str, np.ndarray]
) -> tuple[dict, Accounting]:
    """A whole model's tensors → (variables, accounting). Raises KeyMismatch that says which config fits."""
    shapes, rules = template(config, task), key_rules(config, tensors)
    try:
        return fill(shapes, tensors, rules)
    except KeyMismatch as error:
        raise KeyMismatch(error.accounting, _hint(tensors, torch_shapes(shapes, rules))) from error


def _hint(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple]) -> str:
    have = {key: array.shape for key, array in tensors.items()}
    file, model = recognise.describe(have), recognise.describe(wanted)
    spaces = [recognise.outfit_sizes(shapes).spaces for shapes in (have, wanted)]
    if file == model and spaces[0] != spaces[1]:
        return f"The file has {spaces[0]} type spaces, the types make {spaces[1]} pairs"
    if file == model or not file.backbone:  # the same model with other sizes, or damage: the keys say it all
        return ""
    if file.imagenet:
        return f"The file is {file}: --backbone_only initialises a model's backbone from it"
    fits = recognise.fitting_config(file)
    return f"The file holds {file}; the config builds {model}. A config with {fits} fits"


def import_backbone(
    config: ConfigDict, task: Task, tensors: Mapping[str, np.ndarray]
) -> tuple[dict, Accounting, list[str]]:
    """Tensors of a plain backbone (or of a checkpoint that has one) → (variables with the rest at its initial
    values, accounting of the backbone, dropped keys)."""
    shapes = flax.traverse_util.flatten_dict(template(config, task), sep="/")
    wanted = {path: leaf for path, leaf in shapes.items() if path.split("/")[1] == "backbone"}
    wanted = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(wanted, sep="/")
    backbone = make_model(config).backbone
    kept, dropped = _backbone_tensors(tensors, len(getattr(backbone, "stage_strides", STAGES)))
    if isinstance(backbone, vit.ViT) and "cls" in kept:
        rules, kept = vit.NPZ_KEYS, _merged(kept)
    else:
        rules = backbones.torch_keys(backbone)
    rules = prefixed(rules, "", "backbone")
    try:
        filled, accounting = fill(wanted, kept, rules)
    except KeyMismatch as error:
        file = recognise.describe({key: array.shape for key, array in kept.items()})
        hint = f"The file is {file}; config.model.backbone is {config.model.backbone}"
        raise KeyMismatch(error.accounting, hint) from error
    merged = _fresh_heads(config, task) | flax.traverse_util.flatten_dict(filled, sep="/")
    variables = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(merged, sep="/")
    return variables, accounting, dropped


def _fresh_heads(config: ConfigDict, task: Task) -> dict[str, jax.Array]:
    """Initial values of everything but the backbone, by path; the backbone's are not computed."""

    @jax.jit
    def init(rng):
        params, model_state = task.init(rng, example_batch(config))
        leaves = flax.traverse_util.flatten_dict({"params": params, "batch_stats": model_state}, sep="/")
        return {path: leaf for path, leaf in leaves.items() if path.split("/")[1] != "backbone"}

    return init(initial_key(config.seed))


def _backbone_tensors(
    tensors: Mapping[str, np.ndarray], stages: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """→ (the tensors of a backbone of so many stages, without a prefix; names of the others)."""
    prefix = next((p for p in BACKBONE_PREFIXES if any(key.startswith(p) for key in tensors)), "")
    later = "".join(f"|layer{stage}[.].*" for stage in STAGES[stages:])
    others = re.compile(recognise.IMAGENET_HEADS + "|fc_embed[.].*" + later)
    kept, dropped = {}, []
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not others.fullmatch(name):
            kept[name] = tensor
        else:
            dropped.append(key)
    return kept, dropped


def _merged(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return vit.merge_qkv(tensors)
    except ValueError as error:
        raise UserError("query, key and value of one block have different shapes") from error


def write_checkpoint(config: ConfigDict, variables: Mapping[str, Any], workdir: str | Path) -> None:
    """Saves a state of step 0 that train, evaluate and predict read."""
    params, model_state = variables["params"], variables["batch_stats"]
    tx = optim.make_optimizer(config.optim, params, optim.make_schedule(config.optim, 1, 1))
    state = TrainState(np.zeros((), np.int32), params, model_state, tx.init(params), run_key(config.seed))
    manager = checkpoint.open_manager(workdir)
    checkpoint.save(manager, state, config)
    manager.wait_until_finished()
    manager.close()


def _refuse_used(workdir: str | Path) -> None:
    folder = Path(workdir) / checkpoint.FOLDER
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{workdir}: already holds a checkpoint; import into another --workdir")


def run(
    file: str, config: ConfigDict, workdir: str, backbone_only: bool = False, type_spaces: str | None = None
) -> Accounting:
    """Import `file` as the command does; raises UserError (KeyMismatch when keys do not fit)."""
    _refuse_used(workdir)
    tensors = read_tensors(file)
    config = config.copy_and_resolve_references()
    fit = labels.fit_backbone_config if backbone_only else labels.fit_config
    for remark in fit(config, {key: array.shape for key, array in tensors.items()}, type_spaces):
        print(f"note: {remark}", file=sys.stderr)
    if backbone_only:
        task = tasks.make(config)
        variables, accounting, dropped = import_backbone(config, task, tensors)
        if dropped:
            print(f"dropped {len(dropped)} tensors: {', '.join(dropped)}", file=sys.stderr)
    else:
        variables, accounting = import_model(config, tasks.make(config), tensors)
    del tensors  # as large as the model, and saving needs memory of its own
    unused = _tell_left_out(accounting.ignored)
    with config.unlocked():
        config.imported = ConfigDict({"file": Path(file).name, "sha256": _sha256(file)})
        config.imported.backbone_only = backbone_only
        config.imported.left_out = unused
    write_checkpoint(config, variables, workdir)
    return accounting


def _tell_left_out(ignored: list[str]) -> list[str]:
    """Prints which tensors have no place here; → those that were learned, which an export lacks."""
    unused = [key for key in ignored if not key.endswith(COUNTER)]
    if len(ignored) > len(unused):
        count = len(ignored) - len(unused)
        print(f"left out {count} tensors {COUNTER}: step counters, which nothing reads", file=sys.stderr)
    if unused:
        told = f"left out {len(unused)} tensors that the original stores and never applies"
        print(f"{told}: {', '.join(unused)}", file=sys.stderr)
    return unused


def _sha256(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def add_flags() -> None:
    config_flags.DEFINE_config_file("config", help_string="experiments/NAME.py[:argument=value,…]")
    flags.DEFINE_string("workdir", None, "folder that gets the checkpoint; must not hold one")
    flags.DEFINE_bool(
        "backbone_only", False, "FILE holds ImageNet weights of the backbone; the rest starts fresh"
    )
    flags.DEFINE_string(
        "type_spaces", None, "compatibility models: the typespaces.p that FILE was trained with"
    )
    flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        raise UserError("one weight file is expected: fashionjax import FILE --config=… --workdir=…")
    args = flags.FLAGS
    try:
        accounting = run(argv[1], args.config, args.workdir, args.backbone_only, args.type_spaces)
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
