"""PyTorch weights → variables of a config's model → a checkpoint that train, evaluate and predict read.

Every tensor must find its leaf and every leaf its tensor; what no model reads (step counters, normalisations
that the original never applies, constants) is left out by name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.models import backbones
from fashionjax.models.backbones import resnet, vgg, vit
from fashionjax.models.torch_keys import CONV, SAME, KeyRule, Rules, linear_rules, prefixed
from fashionjax.runtime import checkpoint, checkpoint_files, optim
from fashionjax.runtime.state import TrainState, initial_key, run_key
from fashionjax.task import Batch, InnerBackbone, Task
from fashionjax.tasks import supervised
from fashionjax.weights import files, labels, recognise, vit_positions
from fashionjax.weights.key_maps import Accounting, KeyMismatch, fill, torch_shapes

SIDE = 64  # px, of a model whose config leaves images their own size
STAGES = (1, 2, 3, 4)  # of a ResNet
COUNTER = "num_batches_tracked"
BACKBONE = recognise.BACKBONE


def make_model(config: ConfigDict) -> Any:
    """The flax module of a config whose labels are filled."""
    return tasks.entry(config.task).make_model(config)


def key_rules(config: ConfigDict, keys: Iterable[str] | None = None) -> Rules:
    """The key rules of a config's model; where there are two sets of names, `keys` of a file tell its own."""
    return recognise.weights_of(config.task).key_rules(make_model(config), keys)


def template(config: ConfigDict, task: Task) -> dict:
    """{'params', 'batch_stats'} of shapes and dtypes; nothing is computed."""
    params, model_state = jax.eval_shape(task.init, jax.random.PRNGKey(0), example_batch(config))
    return {"params": params, "batch_stats": model_state}


def example_batch(config: ConfigDict) -> Batch:
    """A batch of one empty image with every input that a model may ask for."""
    size, landmarks = config.get("image_size", SIDE), supervised.landmark_count(config)
    return {
        "image": np.zeros((1, size, size, 3), np.uint8),
        "landmark": np.zeros((1, landmarks, 2), np.float32),
        "visibility": np.zeros((1, landmarks), np.float32),
        "example_valid": np.ones((1,), bool),
    }


# ------------------------------------------------------------------------------ a whole model
def import_model(
    config: ConfigDict, task: Task, tensors: Mapping[str, np.ndarray]
) -> tuple[dict, Accounting]:
    """A whole model's tensors → (variables, accounting). Raises KeyMismatch that says which config fits."""
    shapes, rules = template(config, task), key_rules(config, tensors)
    head = recognise.weights_of(config.task).head
    if head and config.get("init_from"):
        return _import_head(config, shapes, tensors, rules, head)
    try:
        return fill(shapes, tensors, rules)
    except KeyMismatch as error:
        raise KeyMismatch(error.accounting, _hint(tensors, torch_shapes(shapes, rules))) from error


def _import_head(
    config: ConfigDict, shapes: dict, tensors: Mapping[str, np.ndarray], rules: Rules, head: str
) -> tuple[dict, Accounting]:
    """A head's file beside the checkpoint of `config.init_from`, which has every other leaf."""
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    own = {path: leaf for path, leaf in flat.items() if path.split("/")[1] == head}
    wanted = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(own, sep="/")
    filled, accounting = fill(wanted, tensors, rules)
    before = checkpoint.restore_for_inference(config.init_from)
    have = flax.traverse_util.flatten_dict(
        {"params": before.params, "batch_stats": before.model_state}, sep="/"
    )
    rest = {path: leaf for path, leaf in flat.items() if path not in own}
    wrong = [path for path, leaf in rest.items() if path not in have or have[path].shape != leaf.shape]
    if wrong:
        raise UserError(
            f"config.init_from={config.init_from}: lacks {len(wrong)} of the leaves beside {head!r}, "
            f"first: {wrong[0]}"
        )
    merged = {path: have[path] for path in rest} | flax.traverse_util.flatten_dict(filled, sep="/")
    variables = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(merged, sep="/")
    return variables, accounting


def _hint(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple]) -> str:
    """What the file holds and what would help, where it is another model than `wanted`."""
    have = {key: array.shape for key, array in tensors.items()}
    file, model = recognise.describe(have), recognise.describe(wanted)
    if file == model:
        return _other_sizes(have, wanted, file)
    if file.task is None and (inner := recognise.inner_prefixes(recognise.canonical(have))):
        count = sum(key.startswith(inner[0]) for key in have)
        return f"{count} of {len(have)} names begin with {inner[0]!r}: --prefix={inner[0]} reads those alone"
    if file.task is None and file.backbone:
        return f"The file is {file}: --backbone_only initialises a model's backbone from it"
    if not file.backbone:  # with most of the names it is a damaged file, and the keys say it all
        damaged = len(have.keys() & wanted.keys()) > len(wanted) // 2
        return "" if damaged else unrecognised(have)
    fits = recognise.fitting_config(file)
    return f"The file holds {file}; the config builds {model}. A config with {fits} fits"


def _other_sizes(have: Mapping, wanted: Mapping, file: recognise.Recognised) -> str:
    """Sizes that follow from the labels of a config, where the file has others."""
    if file.task is None or (sizes := recognise.weights_of(file.task).sizes) is None:
        return ""
    theirs, ours = (sizes(recognise.canonical(shapes)) for shapes in (have, wanted))
    other = [name for name in ours if theirs[name] != ours[name]]
    parts = [f"{theirs[name]} {name}, the config's labels make {ours[name]}" for name in other]
    return f"The file has {'; '.join(parts)}" if parts else ""


def unrecognised(keys: Iterable[str]) -> str:
    """What helps with a file whose names belong to nothing that is known."""
    return (
        f"No supported model has such names ({', '.join(list(keys)[:3])}, …). Supported are the models of "
        "MMFashion, fashion-compatibility, FashionNet and detectron2, and with --backbone_only the backbones "
        f"{', '.join(backbones.BACKBONES)} in torchvision's, Keras's, timm's or Google's names. If the names "
        "carry a prefix, --prefix=NAME removes it; if the file holds several state dicts, --entry=NAME reads "
        "another"
    )


# ------------------------------------------------------------------------------ a backbone
def import_backbone(
    config: ConfigDict, task: Task, tensors: Mapping[str, np.ndarray]
) -> tuple[dict, Accounting, list[str]]:
    """Tensors of a plain backbone (or of a checkpoint that has one) → (variables with the rest at its initial
    values, accounting of the backbone, names of the tensors that are left out)."""
    shapes = flax.traverse_util.flatten_dict(template(config, task), sep="/")
    place, copies = _place(config, tensors), recognise.weights_of(config.task).copies(config)
    inside = lambda path: _lies_in(path, place) or path.split("/")[1] in copies  # noqa: E731
    wanted = {path: leaf for path, leaf in shapes.items() if inside(path)}
    wanted = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(wanted, sep="/")
    if place.path == "backbone":
        stages = len(getattr(place.module, "stage_strides", STAGES))
        kept, dropped = _backbone_tensors(tensors, config, stages)
    else:
        kept, dropped = dict(tensors), []
    copied, rules = _copied(kept, copies), place.rules
    if isinstance(place.module, vgg.VGG):
        rules += backbones.keras_keys(place.module)
        beyond = place.module.beyond()
        dropped += [name for name in kept if name.startswith(beyond) and not copied]
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith(beyond)}
    if isinstance(place.module, vit.ViT) and place.path == "backbone" and "cls" in kept:
        rules, kept = vit.NPZ_KEYS, _merged(kept)
    elif isinstance(place.module, resnet.ResNet):
        rules, kept = resnet.keys_of(kept), resnet.with_statistics(kept)
    try:
        rules = prefixed(rules, "", place.path) + _copy_rules(copies)
        filled, accounting = fill(wanted, kept | copied, rules)
    except KeyMismatch as error:
        hint = _backbone_hint(kept, config) if place.path == "backbone" else _inner_hint(place)
        raise KeyMismatch(error.accounting, hint) from error
    merged = _fresh_heads(config, task, place) | flax.traverse_util.flatten_dict(filled, sep="/")
    variables = {"params": {}, "batch_stats": {}} | flax.traverse_util.unflatten_dict(merged, sep="/")
    return variables, accounting, dropped


def _place(config: ConfigDict, tensors: Mapping[str, np.ndarray]) -> InnerBackbone:
    """Which of a model's backbones a file is for: one inside it whose kind of network the file holds, else
    its `backbone`."""
    model = make_model(config)
    for place in recognise.weights_of(config.task).inner_backbones(model, config):
        if recognise.same_kind(place.module, tensors):
            return place
    return InnerBackbone("backbone", model.backbone, backbones.torch_keys(model.backbone))


def _inner_hint(place: InnerBackbone) -> str:
    name = backbones.name_of(place.module) or type(place.module).__name__
    return (
        f"The file is read into {place.path}, a {name} whose sizes are config.model.vit; its grid may be "
        "that of the file's position table, which is resized when the model is applied"
    )


def _lies_in(path: str, place: InnerBackbone) -> bool:
    """Whether a leaf ("params/patch/vit/cls_token") belongs to a backbone and is in its files."""
    inner = path.split("/", 1)[1]
    return inner.startswith(f"{place.path}/") and inner.removeprefix(f"{place.path}/") not in place.fresh


def _backbone_hint(tensors: Mapping[str, np.ndarray], config: ConfigDict) -> str:
    module = recognise.backbone_of({key: array.shape for key, array in tensors.items()})
    if module is None:
        named = any(mark in tensors for mark in recognise.SIGNATURES)
        return "" if named else unrecognised(tensors)
    name = backbones.name_of(module) or f"{type(module).__name__} of another size"
    wanted = config.model.backbone
    return "" if name == wanted else f"The file's backbone is {name}; config.model.backbone is {wanted}"


def _fresh_heads(config: ConfigDict, task: Task, place: InnerBackbone) -> dict[str, jax.Array]:
    """Initial values of everything but the backbone at `place`, by path; the backbone's are not computed."""

    @jax.jit
    def init(rng):
        params, model_state = task.init(rng, example_batch(config))
        leaves = flax.traverse_util.flatten_dict({"params": params, "batch_stats": model_state}, sep="/")
        return {path: leaf for path, leaf in leaves.items() if not _lies_in(path, place)}

    return init(initial_key(config.seed))


def _backbone_tensors(
    tensors: Mapping[str, np.ndarray], config: ConfigDict, stages: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """→ (the tensors of a backbone of so many stages, without a prefix; names of the others)."""
    names = recognise.canonical({key: key for key in tensors})
    prefix = _backbone_prefix({name: tensors[key].shape for name, key in names.items()}, config)
    later = "".join(f"|layer{stage}[.].*" for stage in STAGES[stages:])
    if prefix + recognise.KERAS_VGG in names:
        later += r"|(?!block\d_conv\d/).*"  # no prefix of Keras's tells what lies beside the trunk
    others = re.compile(recognise.BESIDE_BACKBONES + later)
    kept, dropped = {}, []
    for name, key in names.items():
        inner = name.removeprefix(prefix)
        if name.startswith(prefix) and not others.fullmatch(inner):
            kept[inner] = tensors[key]
        else:
            dropped.append(key)
    return kept, dropped


def _copied(
    tensors: Mapping[str, np.ndarray], copies: Mapping[str, tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """The tensors that modules beside the backbone start from, under the names of these modules."""
    return {
        module + name.removeprefix(source): tensor
        for module, sources in copies.items()
        for source in sources
        for name, tensor in tensors.items()
        if name.startswith((f"{source}.", f"{source}/"))
    }


def _copy_rules(copies: Iterable[str]) -> Rules:
    """Rules for `_copied`, in PyTorch's layout and in Keras's."""
    leaves = [f"{module}/{leaf}" for module in copies for leaf in ("kernel", "bias")]
    torch = (rule for module in copies for rule in linear_rules(module, module, CONV))
    return (*torch, *(KeyRule(leaf, f"params/{leaf}", SAME) for leaf in leaves))


def _backbone_prefix(shapes: recognise.Shapes, config: ConfigDict) -> str:
    """Where the backbone lies in a file: of several, the one that the config asks for."""
    found = recognise.backbone_prefixes(shapes)
    if len(found) > 1:
        modules = [(prefix, recognise.backbone_of(shapes, prefix)) for prefix in found]
        wanted = config.model.backbone
        fitting = [prefix for prefix, module in modules if module and backbones.name_of(module) == wanted]
        if len(fitting) != 1:
            places = ", ".join(map(repr, found))
            raise UserError(
                f"the file holds {len(found)} backbones, under {places}: choose one with --prefix"
            )
        return fitting[0]
    if found:
        return found[0]
    return BACKBONE if any(name.startswith(BACKBONE) for name in shapes) else ""


def _merged(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        return vit.merge_qkv(tensors)
    except ValueError as error:
        raise UserError("query, key and value of one block have different shapes") from error


def _rest_from(config: ConfigDict, variables: dict, place: InnerBackbone) -> dict:
    """`variables` with everything outside of `place` from the checkpoint `config.init_from`."""
    state = TrainState(np.zeros((), np.int32), variables["params"], variables["batch_stats"], {}, None)
    skip = (re.escape(f"{place.path}/"), *config.get("init_skip", ()))
    state = checkpoint.initialise_from(state, config.init_from, skip, quiet=True)
    return {"params": state.params, "batch_stats": state.model_state}


# ------------------------------------------------------------------------------ the checkpoint
def write_checkpoint(config: ConfigDict, variables: Mapping[str, Any], workdir: str | Path) -> None:
    """Saves a state of step 0 that train, evaluate and predict read."""
    params, model_state = variables["params"], variables["batch_stats"]
    tx = optim.make_optimizer(config.optim, params, optim.make_schedule(config.optim, 1, 1))
    state = TrainState(np.zeros((), np.int32), params, model_state, tx.init(params), run_key(config.seed))
    manager = checkpoint.open_manager(workdir)
    checkpoint.save(manager, state, config)
    manager.wait_until_finished()
    manager.close()


class Loaded(NamedTuple):
    """A weight file as variables of a config's model."""

    config: ConfigDict  # with the labels, widths and grid that the file decides, and where it came from
    variables: dict  # {'params', 'batch_stats'}
    accounting: Accounting


def load_file(
    file: str | Path,
    config: ConfigDict,
    *,
    backbone_only: bool = False,
    type_spaces: str | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Loaded:
    """`file` → variables of the config's model; what was chosen or left out goes to `note`.

    `backbone_only` fills the backbone and leaves the rest at its initial values, or takes it from the
    checkpoint `config.init_from` (all but the paths of `config.init_skip`, as in training). `entry` and
    `prefix` choose among the file's tensors (see `files.read`), `type_spaces` is a `typespaces.p` for
    compatibility models. Raises UserError, KeyMismatch where tensors and model do not fit.
    """
    tensors, remarks = files.read(file, entry, prefix)
    if not backbone_only and prefix is None and (outer := recognise.wrapper(tensors)):
        tensors = {key.removeprefix(outer): tensor for key, tensor in tensors.items()}
        remarks = (*remarks, f"removed the prefix {outer!r} from the names of {len(tensors)} tensors")
    config = config.copy_and_resolve_references()
    shapes = {} if backbone_only else {key: array.shape for key, array in tensors.items()}
    fitted = labels.fit_config(config, shapes, type_spaces)
    if config.get("init_from") and recognise.weights_of(config.task).head:
        with config.unlocked():  # names of the categories are the detector's
            before = checkpoint.restore_for_inference(config.init_from).config.labels
            config.labels = ConfigDict(before.to_dict() | {"item_id": list(config.labels.item_id)})
    if backbone_only and config.get("init_from"):
        with config.unlocked():  # the run that goes on keeps the names of its outputs
            config.labels = checkpoint.restore_for_inference(config.init_from).config.labels
    tensors, resized = vit_positions.fit(config, tensors)
    remarks = (*remarks, *fitted, *resized, *_settle_normalisation(config, tensors))
    for line in remarks:
        note(line)
    if backbone_only:
        variables, accounting, dropped = import_backbone(config, tasks.make(config), tensors)
        if dropped:
            note(f"dropped {len(dropped)} tensors: {', '.join(dropped)}")
        if config.get("init_from"):
            variables = _rest_from(config, variables, _place(config, tensors))
            note(f"all but the file's backbone comes from {config.init_from}")
    else:
        variables, accounting = import_model(config, tasks.make(config), tensors)
    unused = _left_out(accounting.ignored, note)
    with config.unlocked():
        config.imported = ConfigDict({"file": Path(file).name, "sha256": _sha256(file)})
        config.imported.update({"backbone_only": backbone_only, "left_out": unused, "notes": list(remarks)})
    return Loaded(config, variables, accounting)


def _settle_normalisation(config: ConfigDict, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The form of images that the file was trained on, where `config.normalisation` is auto; → remarks."""
    if config.get("normalisation") != "auto":
        return []
    config.normalisation = "caffe" if recognise.KERAS_VGG in tensors else "imagenet"
    if config.normalisation == "imagenet":
        return []
    return ["config.normalisation=caffe: Keras's VGG takes images blue first, minus the mean of ImageNet"]


def import_file(file: str | Path, config: ConfigDict, workdir: str | Path, **options: Any) -> Accounting:
    """`file` → a checkpoint in `workdir`; `options` as for `load_file`. Nothing is written on an error."""
    folder = Path(workdir) / checkpoint_files.FOLDER
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{workdir}: already holds a checkpoint; import into another --workdir")
    loaded = load_file(file, config, **options)
    write_checkpoint(loaded.config, loaded.variables, workdir)
    return loaded.accounting


def _left_out(ignored: list[str], note: Callable[[str], None]) -> list[str]:
    """Notes which tensors have no place here; → those that were learned, which an export lacks."""
    unused = [key for key in ignored if not key.endswith(COUNTER)]
    if len(ignored) > len(unused):
        note(f"left out {len(ignored) - len(unused)} step counters ({COUNTER}), which no model reads")
    if unused:
        note(f"left out {len(unused)} tensors that no model here reads: {', '.join(unused)}")
    return unused


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
