"""Exported files: PyTorch's names and layout, whole or not at all."""

import json

import jax
import numpy as np
import pytest
from commands import run
from safetensors import safe_open
from torch_writers import save_zip
from weight_files import assert_same, drawn, file_for, tiny_config

from experiments import inshop
from fashionjax import import_weights, tasks
from fashionjax.errors import UserError
from fashionjax.export import __main__ as export
from fashionjax.weights import importer
from fashionjax.weights.files import read_tensors
from fashionjax.weights.key_maps import torch_shapes


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tensors = file_for(tiny_config(), {"attribute": 10, "category": 3})
    import_weights.run(str(save_zip(folder / "w.pth", tensors)), tiny_config(), str(folder / "run"))
    return folder, tensors


@pytest.mark.slow
def test_the_file_is_what_safetensors_reads(imported):
    folder, tensors = imported
    export.export(folder / "run", folder / "sub" / "w.safetensors")
    with safe_open(folder / "sub" / "w.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same({key: file.get_tensor(key) for key in file.keys()}, tensors)  # noqa: SIM118
    assert [p.name for p in (folder / "sub").iterdir()] == ["w.safetensors"]


@pytest.mark.slow
def test_a_model_trained_here_goes_out_and_comes_back(tmp_path):
    """Weights that never were PyTorch's → file → the same values."""
    config = tiny_config(
        "vgg11",
        labels_predicted=("attribute", "category", "landmark"),
        landmark_source="predicted",
        pooling="roi",
    )
    config.labels = {"attribute": ["a", "b"], "category": ["c"]}
    rng = np.random.default_rng(1)
    template = importer.template(config, tasks.make(config))
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), template)
    importer.write_checkpoint(config, variables, tmp_path / "run")
    written = export.export(tmp_path / "run", tmp_path / "w.safetensors")
    import_weights.run(str(tmp_path / "w.safetensors"), config, str(tmp_path / "again"))
    assert_same(export.state_dict(tmp_path / "again"), written)
    sharpness = variables["params"]["landmark_head"]["log_sharpness"]
    np.testing.assert_array_equal(written["landmark_head.log_sharpness"], sharpness)


def test_what_is_left_out_is_named(tmp_path, capsys):
    """A retriever's file with everything that PyTorch stores: what nothing reads does not come back."""
    config = inshop.get_config("backbone=vgg16,loss=id,tiny=true")
    config.data_dir, config.labels = str(tmp_path), {"item_id": ["a", "b"]}
    shapes = importer.template(config, tasks.make(config))
    read = drawn(torch_shapes(shapes, importer.key_rules(config)))
    norm = {f"embed_extractor.bn.{name}": np.ones(4, np.float32) for name in ("weight", "running_mean")}
    counters = {"embed_extractor.bn.num_batches_tracked": np.zeros((), np.int64)}
    import_weights.run(str(save_zip(tmp_path / "w.pth", read | norm | counters)), config, tmp_path / "run")
    err = capsys.readouterr().err
    assert "left out 1 step counters (num_batches_tracked)" in err and ", ".join(norm) in err
    done = run("export", f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and ", ".join(norm) in done.stderr
    assert json.loads(done.stdout)["tensors"] == len(read)
    assert_same(read_tensors(tmp_path / "out"), read)


def test_refusals(imported, tmp_path):
    folder, _ = imported
    with pytest.raises(UserError, match="no such folder"):
        export.export(tmp_path / "none", tmp_path / "w.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export.export(folder / "run", tmp_path / "file" / "w.safetensors")
