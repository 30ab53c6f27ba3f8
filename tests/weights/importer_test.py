"""Importing: every tensor finds its leaf, everything else is a typed error that lists names."""

import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from close import assert_sums_close
from ml_collections import ConfigDict
from safetensors.numpy import save_file
from torch_writers import save_legacy, save_zip
from weight_files import (
    HEAD_KEYS,
    MUTATIONS,
    assert_same,
    backbone_config,
    config_file,
    drawn,
    file_for,
    imagenet_file,
    run_command,
    shapes_of,
    tiny_backbone,
    tiny_config,
)

from experiments import inshop, landmarks
from fashionjax import import_weights, tasks
from fashionjax.errors import UserError
from fashionjax.export import __main__ as export
from fashionjax.models import backbones, pooled_features
from fashionjax.models.backbones import vit
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.predictor import Predictor
from fashionjax.models.retriever import Retriever
from fashionjax.models.torch_keys import KeyRule
from fashionjax.runtime import checkpoint, state
from fashionjax.weights import importer, recognise
from fashionjax.weights.files import read_tensors
from fashionjax.weights.key_maps import KeyMismatch, fill, torch_names, torch_shapes, unfill


def models() -> dict:
    """Every MMFashion family at tiny size."""
    made = {}
    for name in ("vgg16", "resnet50"):
        for pooling in ("global", "roi"):
            size = {"pooling": pooling, "hidden": 6, "features": 5}
            label = f"{name} {pooling}"
            made[f"coarse {label}"] = Predictor(tiny_backbone(name), attributes=7, **size)
            made[f"fine {label}"] = Predictor(tiny_backbone(name), attributes=7, categories=4, **size)
            made[f"in-shop {label}"] = Retriever(
                tiny_backbone(name), embedding=3, ids=9, attributes=7, **size
            )
            made[f"consumer {label}"] = Retriever(tiny_backbone(name), embedding=3, ids=9, **size)
        made[f"landmark {name}"] = LandmarkDetector(
            tiny_backbone(name), hidden=6, features=5, landmark_features=3
        )
    return made


MODELS = models()


def swept(names, quick):
    """Parameters of a test: those of `quick` in every run, the others marked as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


BACKBONES = ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet101", "vit_b16")
PLAIN = ("vgg11_bn", "vgg16", "resnet18", "resnet34", "resnet50", "resnet101")
FAMILIES = swept(MODELS, ("coarse resnet50 global", "fine vgg16 roi", "in-shop vgg16 roi", "landmark vgg16"))


@functools.cache
def family(name: str) -> tuple[tuple, dict]:
    """→ (key rules, shapes) of one of MODELS."""
    return pooled_features.torch_keys(MODELS[name]), shapes_of(MODELS[name])


# --- the maps of the models ---


@pytest.mark.parametrize("name", FAMILIES)
def test_the_map_of_every_family_is_a_bijection(name):
    """Each leaf has one torch name and it leads back; torch → Flax → torch is bitwise."""
    rules, shapes = family(name)
    leaves = flax.traverse_util.flatten_dict(shapes, sep="/")
    for path in leaves:
        assert len(torch_names(path, rules)) == 1, path
    wanted = torch_shapes(shapes, rules)
    assert len(wanted) == len(leaves)
    tensors = drawn(wanted)
    variables, accounting = fill(shapes, tensors, rules)
    assert (accounting.leaves, accounting.tensors, accounting.problems()) == (len(leaves), len(tensors), {})
    assert_same(unfill(variables, rules), tensors)


@pytest.mark.parametrize("name", swept(BACKBONES, ("vgg11_bn", "resnet18")))
def test_the_map_of_every_backbone_is_a_bijection(name):
    backbone = tiny_backbone(name)
    rules, shapes = backbones.torch_keys(backbone), shapes_of(backbone)
    tensors = drawn(torch_shapes(shapes, rules))
    variables, accounting = fill(shapes, tensors, rules)
    assert accounting.leaves == len(tensors)
    assert_same(unfill(variables, rules), tensors)


def test_every_rule_inverts():
    """A key made from a rule's pattern goes to a path from which the same rule gives the key back."""
    samples = {r"\d": "3", r"\d+": "12", "[36]": "3", r"lateral\d|merge|heatmap": "lateral2"}
    rules = {
        rule
        for model in MODELS.values()
        for rule in pooled_features.torch_keys(model)
        if isinstance(rule, KeyRule)
    }
    rules |= {r for name in ("vit_b16", "vgg16_bn") for r in backbones.torch_keys(tiny_backbone(name))
              if isinstance(r, KeyRule)}  # fmt: skip
    for rule in rules:
        key = re.sub(r"\(([^()]*)\)", lambda m: samples.get(m[1], m[1].split("|")[0]), rule.torch).replace(
            "\\", ""
        )
        match = re.fullmatch(rule.torch, key)
        assert match, (rule, key)
        assert key in [name for name, _ in torch_names(match.expand(rule.flax), (rule,))], rule
    assert len(rules) > 60


def test_layouts_put_numbers_where_they_belong():
    """One number of each kind of tensor, by hand."""
    rules, shapes = family("fine vgg16 roi")
    tensors = drawn(torch_shapes(shapes, rules))
    params = fill(shapes, tensors, rules)[0]["params"]
    conv = tensors["backbone.features.2.weight"]  # [o i h w]
    assert params["backbone"]["features_2"]["kernel"][2, 0, 4, 5] == conv[5, 4, 2, 0]
    pool, c = tensors["global_pool.global_layers.0.weight"], 64  # [o (c 7 7)]
    assert (
        params["global_pool"]["global_layers_0"]["kernel"][(2 * 7 + 3) * c + 11, 4]
        == pool[4, (11 * 7 + 2) * 7 + 3]
    )
    assert (
        params["attr_predictor"]["linear_attr"]["kernel"][4, 6]
        == tensors["attr_predictor.linear_attr.weight"][6, 4]
    )


def test_batch_norm_statistics_and_ignored_tensors():
    rules, shapes = family("in-shop resnet50 global")
    tensors = drawn(torch_shapes(shapes, rules))
    carry_nothing = {
        "backbone.bn1.num_batches_tracked": np.array(5),
        "embed_extractor.bn.weight": np.ones(3, np.float32),
        "embed_extractor.bn.num_batches_tracked": np.array(5),
    }
    variables, accounting = fill(shapes, tensors | carry_nothing, rules)
    assert sorted(accounting.ignored) == sorted(carry_nothing)
    np.testing.assert_array_equal(
        variables["batch_stats"]["backbone"]["bn1"]["var"], tensors["backbone.bn1.running_var"]
    )


def test_numbers_are_cast_within_their_kind():
    rules, shapes = family("coarse vgg16 global")
    tensors = drawn(torch_shapes(shapes, rules))
    for dtype in (np.float16, np.float64):
        filled, _ = fill(shapes, {k: v.astype(dtype) for k, v in tensors.items()}, rules)
        assert {leaf.dtype for leaf in jax.tree.leaves(filled)} == {np.dtype("float32")}


def test_contradicting_rules_are_a_mistake_of_ours():
    shapes = {"params": {"a": jax.ShapeDtypeStruct((1,), jnp.float32)}}
    rule = KeyRule("a", "params/a", backbones.vgg.SAME)
    with pytest.raises(ValueError, match="two rules take a"):
        fill(shapes, {"a": np.zeros(1, np.float32)}, (rule, rule))


# --- mutated state dicts ---

MUTATED = ("fine vgg16 roi", "in-shop resnet50 roi", "landmark resnet50")
SWEEPS = [(MUTATED[0], 60), *(pytest.param(name, 200, marks=pytest.mark.full) for name in MUTATED)]


def mutable(name: str) -> tuple[tuple, dict, dict]:
    """→ (key rules, shapes, a state dict) of one of MODELS."""
    rules, shapes = family(name)
    return rules, shapes, drawn(torch_shapes(shapes, rules))


@pytest.mark.parametrize("name, trials", SWEEPS)
def test_mutated_state_dicts_give_typed_errors_that_name_the_key(name, trials):
    """One to three mutations, every one of them named."""
    rules, shapes, honest = mutable(name)
    rng = np.random.default_rng(len(name))
    keys = sorted(honest)
    for trial in range(trials):
        tensors, changed = dict(honest), []
        for key in rng.choice(keys, 1 + trial % 3, replace=False):
            changed.append(MUTATIONS[rng.integers(len(MUTATIONS))](rng, tensors, str(key)))
        with pytest.raises(UserError) as caught:
            fill(shapes, tensors, rules)
        assert isinstance(caught.value, KeyMismatch)
        problems = caught.value.accounting.problems()
        for kind, key in changed:
            assert any(named.split(": ")[0] == key for named in problems[kind]), (kind, key, problems)
        count = sum(map(len, problems.values()))
        assert count <= 2 * len(changed)  # a renamed key is unread and its leaf unfilled; no other is named


def test_a_square_transpose_cannot_be_seen_and_is_not_claimed():
    """Shapes cannot tell it; the numbers differ, so nothing may call the result equal."""
    rules, shapes, honest = mutable("in-shop resnet50 roi")
    key = next(k for k, v in honest.items() if v.ndim == 4 and v.shape[0] == v.shape[1] and v.shape[0] > 1)
    mutated = honest | {key: honest[key].transpose(1, 0, 2, 3)}
    variables, _ = fill(shapes, mutated, rules)
    written = unfill(variables, rules)
    assert not np.array_equal(written[key], honest[key])
    np.testing.assert_array_equal(written[key], mutated[key])


def test_two_tensors_for_one_leaf():
    rules = (KeyRule("(a|b)", "params/x", backbones.vgg.SAME),)
    shapes = {"params": {"x": jax.ShapeDtypeStruct((1,), jnp.float32)}}
    with pytest.raises(KeyMismatch) as caught:
        fill(shapes, {"a": np.zeros(1, np.float32), "b": np.ones(1, np.float32)}, rules)
    assert caught.value.accounting.unread == ["b"]


def test_long_lists_are_shortened_in_the_message_only():
    shapes = {"params": {}}
    tensors = {f"key{i}": np.zeros(1, np.float32) for i in range(40)}
    with pytest.raises(KeyMismatch) as caught:
        fill(shapes, tensors, ())
    assert "and 28 more" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.accounting.unread == list(tensors)


# --- recognition ---


@pytest.mark.parametrize("name", FAMILIES)
def test_models_are_recognised_by_their_keys(name):
    kind, backbone, *pooling = name.split()
    rules, template = family(name)
    task, parts = {
        "coarse": ("attributes", ("attribute head",)),
        "fine": ("attributes", ("attribute head", "category head")),
        "in-shop": ("retrieval", ("attribute head", "embedding head", "id head")),
        "consumer": ("retrieval", ("embedding head", "id head")),
        "landmark": ("landmarks", ("landmark head",)),
    }[kind]
    found = recognise.describe(torch_shapes(template, rules))
    assert found == (task, backbone, (pooling or ["global"])[0], parts, False)


@pytest.mark.parametrize("name", swept(PLAIN, ("vgg11_bn", "resnet18", "resnet34")))
def test_plain_backbones_are_recognised_by_their_keys(name):
    backbone = tiny_backbone(name)
    shapes = torch_shapes(shapes_of(backbone), backbones.torch_keys(backbone))
    assert recognise.describe(shapes) == (None, name, "", (), True)
    assert recognise.backbone_of(shapes) == backbone
    assert recognise.backbone_of(dict(sorted(shapes.items()))) == backbone


# --- the command ---


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_file_becomes_a_checkpoint_and_comes_out_bitwise(tmp_path, capsys, save):
    """Import → export → import; head widths are the file's, whatever the config's dataset says."""
    config = tiny_config(pooling="roi")
    tensors = file_for(config, {"attribute": 10, "category": 3})
    file = save(tmp_path / "w.pth", tensors | {"backbone.bn1.num_batches_tracked": np.array(3)}, "state_dict")
    accounting = import_weights.run(str(file), config, str(tmp_path / "run"))
    assert (accounting.unread, accounting.unfilled) == ([], [])
    assert accounting.leaves == len(tensors) and accounting.tensors == len(tensors) + 1
    restored = checkpoint.restore_for_inference(tmp_path / "run")
    assert list(restored.config.labels.attribute)[9] == "attribute_9"
    assert len(restored.config.labels.category) == 3
    assert restored.step == 0 and restored.config.imported.file == "w.pth"

    written = export.export(tmp_path / "run", tmp_path / "out.safetensors")
    assert_same(written, tensors)
    import_weights.run(str(tmp_path / "out.safetensors"), config, str(tmp_path / "again"))
    assert_same(export.state_dict(tmp_path / "again"), tensors)


@pytest.mark.slow
def test_a_detector_of_another_number_of_landmarks(tmp_path, capsys):
    config = landmarks.get_config()
    config.dataset, config.data_dir = "none", str(tmp_path)  # not prepared
    config.model.backbone, config.model.backbone_fields.width = "vgg11", 4
    config.model.hidden = config.model.features = 16
    config.image_size = 32
    tensors = file_for(config, {"landmark": 6})
    assert tensors["landmark_feature_extractor.linear.weight"].shape[0] == 6 * 256
    import_weights.run(str(save_zip(tmp_path / "w.pth", tensors)), config, str(tmp_path / "run"))
    assert "6 landmarks are named by number" in capsys.readouterr().err
    saved = checkpoint.restore_for_inference(tmp_path / "run").config
    assert saved.labels.landmark[0] == "landmark_0" and len(saved.labels.landmark) == 6


@pytest.mark.slow
def test_the_checkpoint_restores_as_a_training_state(tmp_path):
    """What train does on a workdir that holds a checkpoint."""
    from fashionjax.runtime import optim, state

    config = tiny_config()
    tensors = file_for(config, {"attribute": 10, "category": 3})
    import_weights.run(str(save_zip(tmp_path / "w.pth", tensors)), config, str(tmp_path / "run"))
    saved = checkpoint.restore_for_inference(tmp_path / "run").config
    task, batch = tasks.make(saved), importer.example_batch(saved)
    schedule = optim.make_schedule(saved.optim, 100, 10)
    tx = optim.make_optimizer(
        saved.optim, jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)[0], schedule
    )
    fresh = jax.eval_shape(lambda: state.create_state(task, tx, 0, batch))
    fresh = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), fresh)
    manager = checkpoint.open_manager(tmp_path / "run")
    resumed = checkpoint.restore(manager, fresh)
    manager.close()
    rules = importer.key_rules(saved)
    resumed = {"params": resumed.params, "batch_stats": resumed.model_state}
    assert_same(unfill(jax.tree.map(np.asarray, resumed), rules), tensors)


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    tensors = file_for(tiny_config(), {"attribute": 10, "category": 3})
    code = "from weight_files import tiny_config\ndef get_config(arg=None): return tiny_config()\n"
    experiment = config_file(tmp_path, code)
    save_file(tensors, tmp_path / "w.safetensors")
    argv = (tmp_path / "w.safetensors", f"--config={experiment}", f"--workdir={tmp_path / 'run'}")
    status, line, _ = run_command(monkeypatch, capsys, *argv)
    assert status == 0
    assert line == {"leaves": len(tensors), "tensors": len(tensors), "unread": [], "unfilled": []}

    status, line, err = run_command(monkeypatch, capsys, *argv)  # once more into the same folder
    assert (status, line) == (2, None) and "already holds a checkpoint" in err

    renamed = dict(tensors)
    renamed["concat.fc_fusion.weight"] = renamed.pop("backbone.conv1.weight")
    save_file(renamed, tmp_path / "bad.safetensors")
    argv = (tmp_path / "bad.safetensors", f"--config={experiment}", f"--workdir={tmp_path / 'bad'}")
    status, line, err = run_command(monkeypatch, capsys, *argv)
    assert status == 2
    assert (line["unread"], line["unfilled"]) == (["concat.fc_fusion.weight"], ["backbone.conv1.weight"])
    err = err.splitlines()[-1]
    assert err.startswith("error: ") and "bad.safetensors" in err and not (tmp_path / "bad").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [{"pooling": "roi"}, {"labels_predicted": ("attribute",)}, {"backbone": "vgg11"}]
)
def test_another_model_is_reported_with_the_config_that_fits(tmp_path, wrong):
    """A ResNet-18 file with category and attribute heads, and configs that build something else."""
    tensors = file_for(tiny_config(), {"attribute": 10, "category": 3})
    with pytest.raises(KeyMismatch) as caught:
        import_weights.run(
            str(save_zip(tmp_path / "w.pth", tensors)), tiny_config(**wrong), str(tmp_path / "run")
        )
    message = str(caught.value)
    assert "The file holds resnet18, global pooling, attribute head + category head" in message
    assert "task=attributes model.backbone=resnet18 model.pooling=global" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loss", "held", "fits"),
    [
        ("id", "attribute head + embedding head + id head", "loss=full (config.loss has attribute)"),
        ("full", "embedding head + id head", "loss=id or loss=triplet (config.loss has no attribute)"),
    ],
)
def test_a_retriever_of_another_loss_is_recognised_by_its_attribute_head(tmp_path, loss, held, fits):
    """The row's config and the file differ in nothing else."""

    def config(loss: str) -> ConfigDict:
        made = inshop.get_config(f"backbone=vgg16,loss={loss},tiny=true")
        made.data_dir = str(tmp_path)
        return made

    theirs = config({"id": "full", "full": "id"}[loss])
    theirs.labels = {"item_id": ["a", "b"], "attribute": ["x"]}
    shapes = importer.template(theirs, tasks.make(theirs))
    tensors = drawn(torch_shapes(shapes, importer.key_rules(theirs)))
    with pytest.raises(KeyMismatch) as caught:
        import_weights.run(str(save_zip(tmp_path / "w.pth", tensors)), config(loss), str(tmp_path / "run"))
    assert f"global pooling, {held}; " in caught.value.hint
    assert caught.value.hint.endswith(f"model.pooling=global {fits} fits")


def test_an_imagenet_file_needs_backbone_only(tmp_path):
    file = save_zip(tmp_path / "r.pth", imagenet_file("resnet18"))
    with pytest.raises(KeyMismatch, match="The file is a plain resnet18: --backbone_only"):
        import_weights.run(str(file), tiny_config(), str(tmp_path / "run"))


# --- backbones from ImageNet files ---


@pytest.mark.parametrize("name", ["vgg11", "vit_b16"])
def test_backbone_only(name):
    """The backbone is the file's, the head fresh, the classifier dropped by name."""
    config, file = backbone_config(name), imagenet_file(name)
    task = tasks.make(config)
    variables, accounting, dropped = importer.import_backbone(config, task, file)
    assert dropped == [f"{HEAD_KEYS[name]}.weight", f"{HEAD_KEYS[name]}.bias"]
    assert accounting.leaves == len(file) - 2
    written = unfill(variables, importer.key_rules(config))
    for key in file.keys() - set(dropped):
        np.testing.assert_array_equal(written[f"backbone.{key}"], file[key], err_msg=key)
    head = written["attr_predictor.linear_attr.weight"]
    assert head.shape == (2, 5) and np.std(head) > 0.1 and np.all(np.isfinite(head))

    broken = {key: value for key, value in file.items() if key != next(iter(file))}
    with pytest.raises(KeyMismatch) as caught:
        importer.import_backbone(config, task, broken)
    assert caught.value.accounting.unfilled == [next(iter(file))]


def test_fresh_heads_are_those_of_a_training_run_with_the_same_seed():
    config = backbone_config("vgg11")
    task = tasks.make(config)
    variables, _, _ = importer.import_backbone(config, task, imagenet_file("vgg11"))
    batch = importer.example_batch(config)
    trained = state.create_state(task, optax.sgd(0.1), config.seed, batch).params["attr_predictor"]
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["attr_predictor"], trained)


@pytest.mark.slow
def test_backbone_only_takes_the_backbone_of_a_whole_model():
    config = backbone_config("resnet18")
    whole = file_for(config, {"attribute": 6})
    variables, _, dropped = importer.import_backbone(config, tasks.make(config), whole)
    assert sorted(dropped) == sorted(key for key in whole if not key.startswith("backbone."))
    written = unfill(variables, importer.key_rules(config))
    np.testing.assert_array_equal(written["backbone.conv1.weight"], whole["backbone.conv1.weight"])


def google_file() -> dict[str, np.ndarray]:
    rng, d, heads = np.random.default_rng(5), 16, 2
    shapes = {"cls": (1, 1, d), "embedding/kernel": (16, 16, 3, d), "embedding/bias": (d,)}
    shapes |= {"Transformer/posembed_input/pos_embedding": (1, 5, d)}
    shapes |= {f"Transformer/encoder_norm/{part}": (d,) for part in ("scale", "bias")}
    for i in range(2):
        block = f"Transformer/encoderblock_{i}"
        for part in ("query", "key", "value"):
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (d, heads, d // heads)
            shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (heads, d // heads)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/kernel"] = (heads, d // heads, d)
        shapes[f"{block}/MultiHeadDotProductAttention_1/out/bias"] = (d,)
        for j, (n_in, n_out) in enumerate([(d, 4 * d), (4 * d, d)]):
            shapes[f"{block}/MlpBlock_3/Dense_{j}/kernel"] = (n_in, n_out)
            shapes[f"{block}/MlpBlock_3/Dense_{j}/bias"] = (n_out,)
        for j in (0, 2):
            shapes |= {f"{block}/LayerNorm_{j}/{part}": (d,) for part in ("scale", "bias")}
    shapes |= {
        "head/kernel": (d, 10),
        "head/bias": (10,),
        "pre_logits/kernel": (d, d),
        "pre_logits/bias": (d,),
    }
    return {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}


def test_google_vit_npz(tmp_path):
    """query, key and value become one kernel; their sums over an input say so."""
    np.savez(tmp_path / "vit.npz", **google_file())
    file, config = read_tensors(tmp_path / "vit.npz"), backbone_config("vit_b16")
    variables, _, dropped = importer.import_backbone(config, tasks.make(config), file)
    assert sorted(dropped) == ["head/bias", "head/kernel", "pre_logits/bias", "pre_logits/kernel"]
    block = variables["params"]["backbone"]["blocks_1"]
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    stem = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    parts = [np.einsum("d,dhe->he", x, file[f"{stem}/{p}/kernel"]).ravel() for p in ("query", "key", "value")]
    assert_sums_close(x @ block["attn_qkv"]["kernel"], np.concatenate(parts), terms=16)

    lacking = {
        key: value for key, value in file.items() if not key.endswith("encoderblock_0/LayerNorm_0/scale")
    }
    lacking[f"{stem}/key/bias"] = np.zeros((3, 3), np.float32)
    with pytest.raises(UserError, match="different shapes"):
        importer.import_backbone(config, tasks.make(config), lacking)
    assert vit.merge_qkv({}) == {}
