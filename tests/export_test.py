"""Exported files: PyTorch's names and layout, whole or not at all."""

import jax
import numpy as np
import pytest
from import_weights_test import assert_same, file_for, tiny_config
from safetensors import safe_open
from torch_writers import save_zip

from fashionjax import export, import_weights, tasks
from fashionjax.errors import UserError


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tensors = file_for(tiny_config(), {"attribute": 10, "category": 3})
    import_weights.run(str(save_zip(folder / "w.pth", tensors)), tiny_config(), str(folder / "run"))
    return folder, tensors


def test_the_file_is_what_safetensors_reads(imported):
    folder, tensors = imported
    export.export(folder / "run", folder / "sub" / "w.safetensors")
    with safe_open(folder / "sub" / "w.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert_same({key: file.get_tensor(key) for key in file.keys()}, tensors)  # noqa: SIM118
    assert [p.name for p in (folder / "sub").iterdir()] == ["w.safetensors"]


def test_a_model_trained_here_goes_out_and_comes_back(tmp_path):
    """Weights that never were PyTorch's → file → the same values."""
    config = tiny_config(
        "vgg11", learns=("attribute", "category", "landmark"), landmark_source="predicted", pooling="roi"
    )
    config.labels = {"attribute": ["a", "b"], "category": ["c"]}
    rng = np.random.default_rng(1)
    template = import_weights.template(config, tasks.make(config))
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), template)
    import_weights.write_checkpoint(config, variables, tmp_path / "run")
    written = export.export(tmp_path / "run", tmp_path / "w.safetensors")
    import_weights.run(str(tmp_path / "w.safetensors"), config, str(tmp_path / "again"))
    assert_same(export.state_dict(tmp_path / "again"), written)
    sharpness = variables["params"]["landmark_head"]["log_sharpness"]
    np.testing.assert_array_equal(written["landmark_head.log_sharpness"], sharpness)


def test_refusals(imported, tmp_path):
    folder, _ = imported
    with pytest.raises(UserError, match="no such folder"):
        export.export(tmp_path / "none", tmp_path / "w.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export.export(folder / "run", tmp_path / "file" / "w.safetensors")
