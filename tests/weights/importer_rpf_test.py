"""RPF's files: both stages there and back, and a stage-2 start from stage 1 with Google's transformer."""

import jax
import numpy as np
import pytest
from checkpoints import save_drawn
from safetensors.numpy import save_file

from experiments import rpf
from fashionjax.export import __main__ as export
from fashionjax.models.backbones import vit
from fashionjax.runtime import checkpoint
from fashionjax.weights import importer
from fashionjax.weights.key_maps import KeyMismatch

NAMES = ["collar", "sleeve length", "hem"]


def config_of(argument=""):
    config = rpf.get_config(f"tiny=true,{argument}".rstrip(","))
    config.labels = {"attribute": NAMES}
    config.data_dir = "nowhere"
    del config.loss["value"]  # its head has no name in any file
    config.quirks = rpf.QUIRKS
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{stage: workdir}, models with drawn weights."""
    arguments = {1: "", 2: "stage=2"}
    return {
        stage: save_drawn(tmp_path_factory.mktemp(f"stage{stage}"), config_of(argument), stage)
        for stage, argument in arguments.items()
    }


@pytest.mark.parametrize("stage", [1, 2])
def test_there_and_back(runs, tmp_path, stage):
    """Sizes are the config's, attributes are named by number."""
    file = tmp_path / "model.safetensors"
    tensors = export.export(runs[stage], file)
    assert "choices.global.attnnet.conv.weight" in tensors
    assert ("choices.local.basenet.attr2query.weight" in tensors) == (stage == 2)
    loaded = importer.load_file(file, config_of(f"stage={stage}"))
    want = checkpoint.restore_for_inference(runs[stage])
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], want.params)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["batch_stats"], want.model_state)
    assert list(loaded.config.labels.attribute) == [f"attribute_{i}" for i in range(3)]


def test_a_file_of_the_other_stage_is_answered_with_its_experiment(runs, tmp_path):
    file = tmp_path / "model.safetensors"
    export.export(runs[1], file)
    with pytest.raises(KeyMismatch, match=r"experiments/rpf.py:variant=rpf,stage=1"):
        importer.load_file(file, config_of("stage=2"))
    tensors = export.state_dict(runs[1])
    del tensors["choices.global.attnnet.conv.bias"]
    save_file(tensors, file)
    with pytest.raises(KeyMismatch, match=r"1 unfilled: choices.global.attnnet.conv.bias"):
        importer.load_file(file, config_of())


def google_file(path, config, grid=None):
    """Google's names for a transformer of the config's sizes, with what the original leaves out."""
    sizes, rng = config.model.vit, np.random.default_rng(0)
    d, heads, patch = sizes.width, sizes.heads, sizes.patch
    tokens = 1 + (grid or sizes.grid) ** 2
    shapes = {
        "cls": (1, 1, d),
        "embedding/kernel": (patch, patch, 3, d),
        "embedding/bias": (d,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, d),
        "Transformer/encoder_norm/scale": (d,),
        "Transformer/encoder_norm/bias": (d,),
    }
    for i in range(sizes.depth):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (d, heads, d // heads)}
            shapes |= {f"{attention}/{part}/bias": (heads, d // heads)}
        shapes |= {f"{attention}/out/kernel": (heads, d // heads, d), f"{attention}/out/bias": (d,)}
        for layer, (a, b) in enumerate(((d, 4 * d), (4 * d, d))):
            dense = f"{block}/MlpBlock_3/Dense_{layer}"
            shapes |= {f"{dense}/kernel": (a, b), f"{dense}/bias": (b,)}
        for layer in (0, 2):
            norm = f"{block}/LayerNorm_{layer}"
            shapes |= {f"{norm}/scale": (d,), f"{norm}/bias": (d,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def test_stage_two_starts_from_stage_one_and_googles_file(runs, tmp_path):
    config, file = config_of("stage=2"), tmp_path / "vit.npz"
    arrays = google_file(file, config)
    config.init_from, config.init_skip = str(runs[1]), ("patch/",)
    said = []
    loaded = importer.load_file(file, config, backbone_only=True, note=said.append)
    params, before = loaded.variables["params"], checkpoint.restore_for_inference(runs[1]).params
    for part in ("backbone", "attention_net", "attr_embedding"):
        jax.tree.map(np.testing.assert_array_equal, params[part], before[part])
    own = params["patch"]["vit"]
    np.testing.assert_array_equal(own["cls_token"], 0)  # the quirk r13
    np.testing.assert_array_equal(own["patch_embed_proj"]["kernel"], arrays["embedding/kernel"])
    for i in range(2):
        name = f"Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/key/kernel"
        np.testing.assert_array_equal(own[f"blocks_{i}"]["attn_key"]["kernel"], arrays[name].reshape(16, 16))
    assert any("comes from" in line for line in said)
    assert any("left out 3 tensors" in line and "encoder_norm" in line for line in said)
    assert list(loaded.config.labels.attribute) == NAMES

    config.quirks = tuple(name for name in rpf.QUIRKS if not name.startswith("r13"))
    kept = importer.load_file(file, config, backbone_only=True).variables["params"]["patch"]["vit"]
    np.testing.assert_array_equal(kept["cls_token"], arrays["cls"])
    assert vit.merge_qkv(arrays).keys() != arrays.keys()  # such files have three layers for one


def test_a_transformer_of_another_size_is_refused(tmp_path):
    config, file = config_of("stage=2"), tmp_path / "vit.npz"
    google_file(file, config, grid=6)
    with pytest.raises(
        KeyMismatch, match=r"pos_embedding.*\(1, 37, 16\)[^.]*\. The file is read into patch/vit"
    ):
        importer.load_file(file, config, backbone_only=True)
    config.model.vit.grid = 6  # as asked for: the model resizes the table when it is applied
    assert importer.load_file(file, config, backbone_only=True)
