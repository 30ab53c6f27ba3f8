"""Importing compatibility models: both sets of names, stacked type spaces, which types a space joins."""

import functools
import itertools
import json
import math
import pickle
import re

import flax.traverse_util
import jax
import numpy as np
import pytest
from torch_writers import save_zip
from weight_files import (
    MUTATIONS,
    PAIRS,
    TYPES,
    assert_same,
    config_file,
    drawn,
    imagenet_file,
    run_command,
    tiny_backbone,
    tiny_outfits,
)

from experiments import compatibility as experiment
from fashionjax import import_weights, tasks
from fashionjax.errors import UserError
from fashionjax.export import __main__ as export
from fashionjax.models import compatibility_keys
from fashionjax.models.compatibility import SetTransformer, TypeAware
from fashionjax.models.compatibility_keys import torch_keys
from fashionjax.runtime import checkpoint
from fashionjax.tasks import compatibility
from fashionjax.weights import importer, labels, recognise
from fashionjax.weights.key_maps import KeyMismatch, fill, torch_names, torch_shapes, unfill


def models() -> dict:
    """Every family at tiny size."""
    resnet, small = tiny_backbone("resnet18"), {"embedding": 5, "text": "features"}
    stages = resnet.clone(stage_strides=(1, 2, 2))
    sets = {"depth": 1, "heads": 2, "width": 4, "types": 3}
    return {
        "zoo masks": TypeAware(resnet, **small, spaces=6),
        "zoo layers": TypeAware(resnet, **small, spaces=12, projection="fc", metric=True),
        "origin masks": TypeAware(stages, **small, spaces=6, pool="average"),
        "origin layers": TypeAware(
            stages, **small, spaces=12, pool="average", projection="fc", metric=True, types=3
        ),
        "set": SetTransformer(resnet, embedding=5, pool="average", **sets),
        "set words": SetTransformer(tiny_backbone("vgg11"), embedding=5, text="words", **sets),
    }


MODELS = models()


@functools.cache
def family(name: str) -> tuple[tuple, dict]:
    """→ (key rules, shapes)."""
    model = MODELS[name]
    text = np.zeros((1, 4), np.int32 if model.text == "words" else np.float32)

    def init():
        return model.init(jax.random.PRNGKey(0), np.zeros((1, 32, 32, 3), np.float32), text=text)

    return torch_keys(model), {"batch_stats": {}, **jax.eval_shape(init)}


# --- maps ---


@pytest.mark.parametrize("name", MODELS)
def test_the_map_of_every_family_is_a_bijection(name):
    rules, shapes = family(name)
    leaves = flax.traverse_util.flatten_dict(shapes, sep="/")
    stacked = [path for path in leaves if torch_names(f"{path}#0", rules)]
    assert len(stacked) == (2 if "layers" in name else 0)
    for path in leaves.keys() - set(stacked):
        assert len(torch_names(path, rules)) == 1, path
    tensors = drawn(torch_shapes(shapes, rules))
    assert len(tensors) == len(leaves) + (22 if stacked else 0)
    variables, accounting = fill(shapes, tensors, rules)
    assert (accounting.leaves, accounting.problems()) == (len(tensors), {})
    assert_same(unfill(variables, rules), tensors)


def test_a_tensor_of_the_file_is_the_row_of_its_number():
    """Not of its place: 10 and 11 stand before 2 where names are sorted."""
    rules, shapes = family("zoo layers")
    tensors = dict(sorted(drawn(torch_shapes(shapes, rules)).items()))
    spaces = fill(shapes, tensors, rules)[0]["params"]["type_specific_net"]
    assert spaces["kernel"].shape == (12, 5, 5) and spaces["bias"].shape == (12, 5)
    for c in (0, 2, 11):
        np.testing.assert_array_equal(spaces["kernel"][c], tensors[f"type_specific_net.masks.{c}.weight"].T)
        np.testing.assert_array_equal(spaces["bias"][c], tensors[f"type_specific_net.masks.{c}.bias"])


def test_names_of_published_files():
    mask = torch_shapes(family("zoo masks")[1], family("zoo masks")[0])
    assert {key.split(".")[0] for key in mask} == {
        "backbone", "global_pool", "type_specific_net", "triplet_net"}  # fmt: skip
    assert mask["type_specific_net.masks.weight"] == (6, 5)
    assert mask["triplet_net.text_branch.fc1.0.weight"] == (5, 4)
    layers = torch_shapes(family("origin layers")[1], family("origin layers")[0])
    assert layers["embeddingnet.embeddingnet.fc_embed.weight"] == (5, 32)
    assert layers["embeddingnet.masks.11.weight"] == (5, 5) and layers["metric_branch.weight"] == (1, 5)
    assert "embeddingnet.embeddingnet.layer3.1.bn2.running_var" in layers


@pytest.mark.parametrize(
    "argument, entries, numbers",
    [
        ("projection=fc", 264, 23_544_384),
        ("projection=mask", 132, 19_218_752),
        ("recipe=origin,projection=mask", 102, 3_191_808),
    ],
)
def test_published_models_have_the_published_keys_and_parameters(argument, entries, numbers):
    config = experiment.get_config(f"{argument},types=false")
    pairs = [list(pair) for pair in itertools.combinations_with_replacement(range(11), 2)]
    config.labels = {"category": list(range(11)), "type_space": pairs}
    shapes = file_shapes(config)
    statistics = {key for key in shapes if ".running_" in key}
    counters = len(statistics) // 2  # one beside every mean and variance
    assert len(shapes) + counters == entries
    assert sum(math.prod(shapes[key]) for key in shapes.keys() - statistics) == numbers


@pytest.mark.parametrize(
    "change, kind, key",
    [
        ({"masks.7.weight": None}, "unfilled", "masks.7.weight"),
        ({"masks.11.bias": None}, "unfilled", "masks.11.bias"),
        ({"masks.12.weight": (5, 5)}, "unread", "masks.12.weight"),
        ({"masks.07.weight": (5, 5)}, "unread", "masks.07.weight"),
        ({"masks.3.weight": (5, 6)}, "misshapen", "masks.3.weight: (5, 6), the model needs (5, 5)"),
        ({"masks.3.bias": (5, 1)}, "misshapen", "masks.3.bias: (5, 1), the model needs (5,)"),
        ({"masks.weight": (12, 5)}, "unread", "masks.weight"),
    ],
)
def test_a_wrong_space_is_named_exactly(change, kind, key):
    rules, shapes = family("zoo layers")
    tensors = drawn(torch_shapes(shapes, rules))
    for name, shape in change.items():
        name = f"type_specific_net.{name}"
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(KeyMismatch) as caught:
        fill(shapes, tensors, rules)
    assert caught.value.accounting.problems() == {kind: [f"type_specific_net.{key}"]}


SWEEPS = [("zoo layers", 40), *(pytest.param(name, 150, marks=pytest.mark.full) for name in MODELS)]


@pytest.mark.parametrize("name, trials", SWEEPS)
def test_mutated_state_dicts_give_typed_errors_that_name_the_key(name, trials):
    """One to three mutations, half of them at the parts that only these models have."""
    rules, shapes = family(name)
    honest = drawn(torch_shapes(shapes, rules))
    rng = np.random.default_rng(len(name))
    heads = sorted(key for key in honest if "backbone" not in key and "layer" not in key)
    for trial in range(trials):
        tensors, changed = dict(honest), []
        keys = heads if trial % 2 else sorted(honest)
        for key in rng.choice(keys, 1 + trial % 3, replace=False):
            changed.append(MUTATIONS[rng.integers(len(MUTATIONS))](rng, tensors, str(key)))
        with pytest.raises(KeyMismatch) as caught:
            fill(shapes, tensors, rules)
        problems = caught.value.accounting.problems()
        for kind, key in changed:
            assert any(named.split(": ")[0] == key for named in problems[kind]), (kind, key, problems)
        assert sum(map(len, problems.values())) <= 2 * len(changed)


# --- recognition ---

TEXT = ("text branch",)


@pytest.mark.parametrize(
    "name, backbone, pooling, parts",
    [
        ("zoo masks", "resnet18", "flatten", ("type masks", *TEXT)),
        ("zoo layers", "resnet18", "flatten", ("type layers", "learned metric", *TEXT)),
        ("origin masks", "resnet18", "average", ("type masks", *TEXT)),
        ("origin layers", "resnet18", "average", ("type layers", "learned metric", *TEXT, "type head")),
        ("set", "resnet18", "average", ("set transformer", "type head")),
        ("set words", "vgg11", "flatten", ("set transformer", *TEXT, "word vectors", "type head")),
    ],
)
def test_models_are_recognised_by_their_keys(name, backbone, pooling, parts):
    shapes = torch_shapes(family(name)[1], family(name)[0])
    assert recognise.describe(shapes) == ("compatibility", backbone, pooling, parts, False)
    spaces = {"masks": 6, "layers": 12}.get(name.split()[1] if " " in name else "")
    types = 3 if "type head" in parts else None
    text = 4 if TEXT[0] in parts and "word vectors" not in parts else None
    assert compatibility_keys.sizes(recognise.canonical(shapes)) == (spaces, types, text)


@pytest.mark.parametrize(
    "argument",
    [
        "projection=fc,types=false",
        "projection=mask,text=words",
        "recipe=origin,projection=fc,types=true",
        "recipe=origin,projection=mask,text=none,types=false",
        "recipe=set",
    ],
)
def test_the_fitting_config_is_one_that_fits(argument):
    """The reported config builds the same model."""
    fits = recognise.fitting_config(recognise.describe(file_shapes(tiny_outfits(argument))))
    if argument == "recipe=set":
        expected = "task=compatibility model.kind=set_transformer model.pool=average model.text=none"
        assert fits == expected
        return
    again = tiny_outfits(fits.removeprefix("experiments/compatibility.py:"))
    assert file_shapes(again) == file_shapes(tiny_outfits(argument))


# --- the command ---


def file_shapes(config) -> dict[str, tuple]:
    return torch_shapes(importer.template(config, tasks.make(config)), importer.key_rules(config))


def written(folder, config, text_features=9, **extra):
    """A PyTorch file of a config's model, with counters where PyTorch has them; → (path, tensors)."""
    config = config.copy_and_resolve_references()
    config.model.text_features = text_features
    tensors = drawn(file_shapes(config))
    counters = {
        key.replace("running_var", "num_batches_tracked"): np.array(4)
        for key in tensors
        if key.endswith("running_var")
    }
    return save_zip(folder / "epoch_16.pth", tensors | counters | extra, "state_dict"), tensors


def type_spaces(folder, pairs=PAIRS):
    path = folder / "typespaces.p"
    path.write_bytes(pickle.dumps(pairs, protocol=2))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument", ["projection=mask,types=false", "projection=fc", "recipe=origin,projection=fc,types=false"]
)
def test_a_file_becomes_a_checkpoint_and_comes_out_bitwise(tmp_path, capsys, argument):
    """Under the names that it had, with the order of typespaces.p; the text's width is the file's."""
    config = tiny_outfits(argument, tmp_path)
    file, tensors = written(tmp_path, config)
    accounting = import_weights.run(file, config, tmp_path / "run", type_spaces=type_spaces(tmp_path))
    assert accounting.leaves == len(tensors) and len(accounting.ignored) + len(tensors) == accounting.tensors
    restored = checkpoint.restore_for_inference(tmp_path / "run")
    assert [tuple(pair) for pair in restored.config.labels.type_space] == PAIRS
    assert list(restored.config.labels.category) == TYPES
    assert restored.config.model.text_features == 9
    assert compatibility.space_table(restored.config).tolist() == [[1, 3, 5], [3, 2, 0], [5, 0, 4]]
    assert "by number" not in capsys.readouterr().err
    assert_same(export.export(tmp_path / "run", tmp_path / "w.safetensors"), dict(sorted(tensors.items())))
    import_weights.run(str(tmp_path / "w.safetensors"), config, str(tmp_path / "again"))
    assert_same(export.state_dict(tmp_path / "again"), tensors)

    task = tasks.make(restored.config)
    batch = importer.example_batch(restored.config)
    found = jax.eval_shape(task.predict, restored.params, restored.model_state, batch)
    assert set(found) == {"embedding"} | ({"category_logits"} if "type_head.weight" in tensors else set())


def test_both_names_lead_to_the_same_model(tmp_path):
    """MMFashion's names are read into the original author's model too."""
    config = tiny_outfits("recipe=origin,types=false", tmp_path)
    model = compatibility.make_model(config)
    template = importer.template(config, tasks.make(config))
    tensors = drawn(torch_shapes(template, torch_keys(model, keys=())))
    assert any(key.startswith("backbone.") for key in tensors)
    variables, _ = importer.import_model(config, tasks.make(config), tensors)
    assert_same(unfill(variables, torch_keys(model, keys=())), tensors)
    assert "embeddingnet.masks.weight" in unfill(variables, torch_keys(model))


def test_a_set_transformer_goes_out_and_comes_back(tmp_path):
    config = tiny_outfits("recipe=set", tmp_path)
    file, tensors = written(tmp_path, config)
    import_weights.run(str(file), config, str(tmp_path / "run"), type_spaces=type_spaces(tmp_path))
    assert_same(export.state_dict(tmp_path / "run"), tensors)


def test_spaces_of_unknown_order_are_numbered_and_reported(tmp_path, capsys):
    config = tiny_outfits("projection=fc,types=false", tmp_path)
    file, _ = written(tmp_path, config)
    import_weights.run(str(file), config, str(tmp_path / "run"))
    err = capsys.readouterr().err
    assert "pass --type_spaces=typespaces.p" in err and "mean nothing" in err
    found = checkpoint.restore_for_inference(tmp_path / "run").config.labels
    names = [f"type_{i}" for i in range(3)]
    assert list(found.category) == names
    pairs = itertools.combinations_with_replacement(names, 2)
    assert [tuple(pair) for pair in found.type_space] == list(pairs)


def test_labels_of_the_prepared_dataset(tmp_path, capsys, monkeypatch):
    """The nondisjoint release may number its spaces otherwise than the files' own."""
    known = {"category": TYPES, "type_space": [list(pair) for pair in reversed(PAIRS)]}
    monkeypatch.setattr(labels, "dataset_labels", lambda config: dict(known))
    for split, remarks in (("disjoint", 0), ("nondisjoint", 1)):
        config = tiny_outfits(f"split={split},types=false", tmp_path)
        file, _ = written(tmp_path, config)
        import_weights.run(str(file), config, str(tmp_path / split))
        found = checkpoint.restore_for_inference(tmp_path / split).config.labels
        assert [list(pair) for pair in found.type_space] == known["type_space"]
        assert capsys.readouterr().err.count("pass --type_spaces=disjoint") == remarks


def wide(tmp_path, projection):
    """The file of a model of 10 spaces, of four types."""
    config = tiny_outfits(f"projection={projection},types=false", tmp_path)
    other = config.copy_and_resolve_references()
    names = ["a", "b", "c", "d"]
    pairs = [list(pair) for pair in itertools.combinations_with_replacement(names, 2)]
    other.labels = {"category": names, "type_space": pairs}
    return config, written(tmp_path, other)[0]


@pytest.mark.parametrize("projection", ["mask", "fc"])
def test_another_number_of_spaces(tmp_path, projection):
    config, file = wide(tmp_path, projection)
    with pytest.raises(
        KeyMismatch, match="The file has 10 type spaces, the config's labels make 6"
    ) as caught:
        import_weights.run(str(file), config, str(tmp_path / "run"), type_spaces=type_spaces(tmp_path))
    problems = caught.value.accounting.problems()
    if projection == "mask":
        named = "type_specific_net.masks.weight: (10, 6), the model needs (6, 6)"
        assert problems == {"misshapen": [named]}
    else:
        parts = [f"type_specific_net.masks.{c}.{p}" for c in (6, 7, 8, 9) for p in ("weight", "bias")]
        assert list(problems) == ["unread"] and sorted(problems["unread"]) == sorted(parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, kind", [("missing", "unfilled"), ("extra", "unread")])
def test_a_space_too_few_or_many_without_names(tmp_path, change, kind):
    """The nearest number of types counts, so that the one wrong space is named."""
    config = tiny_outfits("projection=fc,types=false", tmp_path)
    _, tensors = written(tmp_path, config)
    parts = [f"type_specific_net.masks.{5 if change == 'missing' else 6}.{p}" for p in ("weight", "bias")]
    for part in parts:
        if change == "missing":
            del tensors[part]
        else:
            tensors[part] = np.zeros_like(tensors[part.replace("6", "5")])
    with pytest.raises(KeyMismatch) as caught:
        import_weights.run(str(save_zip(tmp_path / "w.pth", tensors)), config, str(tmp_path / "run"))
    (named,) = caught.value.accounting.problems().items()
    assert (named[0], sorted(named[1])) == (kind, sorted(parts))


@pytest.mark.parametrize(
    "argument, hint",
    [
        ("projection=fc,types=false", "recipe=zoo,projection=mask,text=features,types=false"),
        ("projection=mask", "text=features,types=false fits"),
        ("recipe=origin,types=false", "recipe=zoo,projection=mask"),
        ("recipe=set", "experiments/compatibility.py:recipe=zoo,projection=mask"),
    ],
)
def test_another_model_is_reported_with_the_config_that_fits(tmp_path, argument, hint):
    file, _ = written(tmp_path, tiny_outfits("projection=mask,types=false"))
    with pytest.raises(KeyMismatch, match=re.escape(hint)):
        import_weights.run(str(file), tiny_outfits(argument, tmp_path), str(tmp_path / "run"))


@pytest.mark.parametrize(
    "shapes",
    [
        {"type_specific_net.masks.weight": (1 << 40, 0)},
        {"type_specific_net.masks.weight": ()},
        {f"type_specific_net.masks.{10**18}.weight": (6, 6)},
        {"triplet_net.text_branch.fc1.0.weight": (6, 0)},
        {"triplet_net.text_branch.fc1.0.weight": (0, 1 << 50)},
        {"type_specific_net.masks.weight": (0, 6), "type_head.weight": (1 << 33, 0)},
    ],
)
def test_absurd_sizes_are_reported_by_their_keys(tmp_path, shapes):
    """Nothing is built from what a file merely claims."""
    config = tiny_outfits("projection=mask,types=false", tmp_path)
    _, tensors = written(tmp_path, config)
    tensors |= {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    with pytest.raises(KeyMismatch) as caught:
        fitted = config.copy_and_resolve_references()
        sizes = {key: tensor.shape for key, tensor in tensors.items()}
        labels.fit_config(fitted, sizes)
        importer.import_model(fitted, tasks.make(fitted), tensors)
    reported = json.dumps(caught.value.accounting.problems())
    assert all(key in reported for key in shapes)


@pytest.mark.parametrize(
    "content, message",
    [
        (pickle.dumps(PAIRS[:-1]), "no type space joins bags and tops"),
        (b"cos\nsystem\n(S'true'\ntR.", "never run"),
        (b"\x80\x02}.", "typespaces.p"),
        (None, "cannot be read"),
    ],
)
def test_wrong_type_spaces(tmp_path, content, message):
    config = tiny_outfits("types=false", tmp_path)
    file, _ = written(tmp_path, config)
    path = tmp_path / "typespaces.p"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        import_weights.run(str(file), config, str(tmp_path / "run"), type_spaces=str(path))
    assert "--type_spaces=" in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    file, tensors = written(tmp_path, tiny_outfits("types=false"))
    code = "from weight_files import tiny_outfits\ndef get_config(arg=None): return tiny_outfits(arg)\n"
    experiment_file = config_file(tmp_path, code)
    argv = (file, f"--config={experiment_file}:types=false", f"--workdir={tmp_path / 'run'}")
    status, line, err = run_command(monkeypatch, capsys, *argv, f"--type_spaces={type_spaces(tmp_path)}")
    assert status == 0 and "left out 21 step counters (num_batches_tracked)" in err
    assert line == {"leaves": len(tensors), "tensors": len(tensors) + 21, "unread": [], "unfilled": []}


def test_type_spaces_are_for_compatibility_models(tmp_path):
    from weight_files import file_for, tiny_config

    file = save_zip(tmp_path / "w.pth", file_for(tiny_config(), {"attribute": 10, "category": 3}))
    with pytest.raises(UserError, match="--type_spaces is for compatibility models"):
        import_weights.run(str(file), tiny_config(), str(tmp_path / "run"), type_spaces="typespaces.p")


@pytest.mark.parametrize("argument, stages", [("types=false", 4), ("recipe=origin,types=false", 3)])
def test_backbone_only(tmp_path, capsys, argument, stages):
    """torchvision's ResNet-18 into a network that may stop after its third stage."""
    config, tensors = tiny_outfits(argument, tmp_path), imagenet_file("resnet18")
    file = save_zip(tmp_path / "r.pth", tensors)
    options = {"backbone_only": True, "type_spaces": type_spaces(tmp_path)}
    accounting = import_weights.run(file, config, tmp_path / "run", **options)
    err = capsys.readouterr().err
    later = [key for key in tensors if key.startswith("layer4.")] if stages == 3 else []
    dropped = [*later, "fc.weight", "fc.bias"]
    assert f"dropped {len(dropped)} tensors: {', '.join(dropped)}" in err
    assert accounting.tensors == len(tensors) - len(dropped)
    out = export.state_dict(tmp_path / "run")
    prefix = "backbone." if stages == 4 else "embeddingnet.embeddingnet."
    for key in tensors.keys() - set(dropped):
        np.testing.assert_array_equal(out[prefix + key], tensors[key], err_msg=key)


def test_backbone_only_takes_the_backbone_of_either_naming(tmp_path):
    config = tiny_outfits("recipe=origin,types=false", tmp_path)
    whole = drawn(file_shapes(config))
    variables, _, dropped = importer.import_backbone(config, tasks.make(config), whole)
    out = unfill(variables, importer.key_rules(config))
    inner = [k for k in whole if k.startswith("embeddingnet.embeddingnet.") and "fc_embed" not in k]
    assert sorted(dropped) == sorted(whole.keys() - set(inner))
    for key in inner:
        np.testing.assert_array_equal(out[key], whole[key], err_msg=key)
