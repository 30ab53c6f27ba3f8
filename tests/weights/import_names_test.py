"""Files whose names do not fit as they are: wrappers, several state dicts, backbones inside other models, and
vision transformers of another resolution."""

import numpy as np
import pytest
from close import assert_rounded
from torch_writers import dense, mapping, save_zip, zip_file
from weight_files import (
    assert_same,
    backbone_config,
    drawn,
    file_for,
    imagenet_file,
    shapes_of,
)

from experiments import retrieval
from fashionjax import tasks
from fashionjax.errors import UserError
from fashionjax.models import backbones
from fashionjax.weights import importer, labels
from fashionjax.weights.key_maps import KeyMismatch, torch_shapes, unfill


@pytest.fixture(autouse=True)
def no_dataset(monkeypatch):
    """Heads that a file lacks get two labels, as from a prepared dataset."""
    monkeypatch.setattr(labels, "dataset_labels", lambda config: dict(config.labels))


def whole(seed: int = 0) -> dict[str, np.ndarray]:
    return file_for(backbone_config("vgg11"), {"attribute": 5}, seed)


def prefixed(tensors: dict, prefix: str) -> dict:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def loaded(file, config=None, **options):
    """→ (tensors of the loaded model in PyTorch's names, notes)."""
    notes = []
    found = importer.load_file(file, config or backbone_config("vgg11"), note=notes.append, **options)
    return unfill(found.variables, importer.key_rules(found.config)), notes


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.model.", "encoder.", "lit_model.net."])
def test_a_wrapped_model_is_imported_and_the_prefix_reported(tmp_path, prefix):
    """Known wrappers, and any other prefix that every name has before those of a known model."""
    tensors = whole()
    found, notes = loaded(save_zip(tmp_path / "w.pth", prefixed(tensors, prefix), "model"))
    assert_same(found, tensors)
    assert notes[0].endswith(f"from the names of {len(tensors)} tensors") and prefix.split(".")[0] in notes[0]


def test_a_prefix_that_some_names_lack_is_suggested_and_works(tmp_path):
    """Lightning keeps the loss beside the model."""
    tensors = whole()
    mixed = prefixed(tensors, "learner.") | {"criterion.weight": np.ones(3, np.float32)}
    file = save_zip(tmp_path / "w.pth", mixed, "state_dict")
    with pytest.raises(KeyMismatch) as caught:
        loaded(file)
    assert caught.value.hint == (
        f"{len(tensors)} of {len(mixed)} names begin with 'learner.': --prefix=learner. reads those alone"
    )
    found, notes = loaded(file, prefix="learner.")
    assert_same(found, tensors)
    assert "1 tensors with another prefix are not read: criterion.weight" in notes


def test_the_averaged_weights_of_a_checkpoint(tmp_path):
    """timm's `state_dict` beside `state_dict_ema`."""
    both, data, entries = {"state_dict": whole(), "state_dict_ema": whole(1)}, {}, {}
    for name, tensors in both.items():
        keys = {key: f"{name}{number}" for number, key in enumerate(tensors)}
        data |= {keys[key]: tensor.tobytes() for key, tensor in tensors.items()}
        entries[name] = mapping({key: dense(keys[key], tensor) for key, tensor in tensors.items()})
    file = zip_file(tmp_path / "w.pth", mapping(entries), data)
    found, notes = loaded(file)
    assert "the file also holds state_dict_ema: --entry=NAME" in notes[0]
    assert_same(found, both["state_dict"])
    assert_same(loaded(file, entry="state_dict_ema")[0], both["state_dict_ema"])


# --- backbones ---


def imported_backbone(tensors: dict, name: str = "vgg11"):
    """→ (the model's tensors in PyTorch's names, dropped names)."""
    config = backbone_config(name)
    variables, _, dropped = importer.import_backbone(config, tasks.make(config), tensors)
    return unfill(variables, importer.key_rules(config)), dropped


@pytest.mark.parametrize("prefix", ["encoder.", "model.encoder.resnet.", "backbone.", ""])
def test_a_backbone_is_found_under_any_prefix(prefix):
    """Everything outside of it is dropped by name, and so is its classifier."""
    file = imagenet_file("vgg11")
    outside = {"projector.0.weight": np.ones((2, 2), np.float32), "queue": np.ones(3, np.float32)}
    written, dropped = imported_backbone(prefixed(file, prefix) | (outside if prefix else {}))
    heads = [f"{prefix}classifier.6.weight", f"{prefix}classifier.6.bias"]
    assert dropped == [*heads, *(outside if prefix else ())]
    np.testing.assert_array_equal(written["backbone.features.8.weight"], file["features.8.weight"])


def test_of_several_backbones_the_config_names_one():
    resnet, vgg = imagenet_file("resnet18"), imagenet_file("vgg11")
    written, dropped = imported_backbone(prefixed(resnet, "a.") | prefixed(vgg, "b."))
    np.testing.assert_array_equal(written["backbone.features.0.weight"], vgg["features.0.weight"])
    assert set(prefixed(resnet, "a.")) < set(dropped)
    with pytest.raises(UserError, match=r"2 backbones, under 'encoder_k\.', 'encoder_q\.': choose"):
        imported_backbone(prefixed(vgg, "encoder_q.") | prefixed(vgg, "encoder_k."))


def test_another_backbone_is_named():
    with pytest.raises(KeyMismatch) as caught:
        imported_backbone(imagenet_file("resnet18"))
    assert caught.value.hint == "The file's backbone is resnet18; config.model.backbone is vgg11"


@pytest.mark.parametrize("backbone_only", [False, True])
def test_an_unknown_model_is_refused_with_what_would_help(tmp_path, backbone_only):
    tensors = {f"stages.{i}.dwconv.weight": np.ones((2, 1, 7, 7), np.float32) for i in range(4)}
    file = save_zip(tmp_path / "convnext.pth", tensors)
    with pytest.raises(KeyMismatch) as caught:
        loaded(file, backbone_only=backbone_only)
    hint = caught.value.hint
    assert hint.startswith("No supported model has such names (stages.0.dwconv.weight, ")
    assert "resnet50" in hint and "vit_b16" in hint and "--prefix=NAME" in hint and "--entry=NAME" in hint


# --- position embeddings of a vision transformer ---


def vit_config(stored_grid: int | None, image_size: int = 32):
    config = backbone_config("vit_b16")
    config.image_size = config.canvas_size = image_size
    config.model.backbone_fields = {"width": 6, "depth": 2, "heads": 2, "grid": stored_grid}
    return config


def vit_file(positions: np.ndarray) -> dict[str, np.ndarray]:
    model = backbones.build("vit_b16", width=6, depth=2, heads=2, grid=2)
    tensors = drawn(torch_shapes(shapes_of(model), backbones.torch_keys(model)))
    return tensors | {"pos_embed": positions}


@pytest.fixture
def resized(request) -> dict:
    """Positions of a 5 x 5 grid, and as PyTorch resizes them (tests/fixtures/make_vit_positions.py)."""
    return dict(np.load(request.path.parents[1] / "fixtures" / "vit_positions.npz"))


def loaded_positions(tmp_path, config, positions):
    """→ (config, positions of the loaded model, notes)."""
    notes, file = [], save_zip(tmp_path / "vit.pth", vit_file(positions))
    found = importer.load_file(file, config, backbone_only=True, note=notes.append)
    return found.config, found.variables["params"]["backbone"]["pos_embed"], notes


@pytest.mark.slow
@pytest.mark.parametrize("name, grid", [("larger", 7), ("smaller", 3)])
def test_positions_are_resized_as_pytorch_does(tmp_path, resized, name, grid):
    _, positions, notes = loaded_positions(tmp_path, vit_config(grid), resized["positions"])
    assert notes[0].startswith(f"resized position embeddings from 5 x 5 to the {grid} x {grid} grid")
    # either axis: at most 8 taps, weights of a polynomial whose place is off by some roundings of 5 cells
    assert_rounded(positions, resized[name], operations=2 * (8 + 5 * 8))


@pytest.mark.parametrize(
    "image_size, rest", [(80, ""), (32, "; the model resizes it for images of 32 pixels")]
)
def test_a_grid_that_the_config_leaves_open_is_the_files(tmp_path, resized, image_size, rest):
    """Bit for bit; the model itself resizes it to the grid of an image."""
    config, positions, notes = loaded_positions(tmp_path, vit_config(None, image_size), resized["positions"])
    grid = "5 x 5 grid of position embeddings, of 80-pixel images (config.model.backbone_fields.grid=5)"
    assert notes[0] == f"kept the file's {grid}{rest}"
    np.testing.assert_array_equal(positions, resized["positions"])
    assert config.model.backbone_fields.grid == 5


def test_positions_without_a_square_grid_are_refused(tmp_path, resized):
    """A distilled model has a second token."""
    positions = np.concatenate([resized["positions"], resized["positions"][:, :1]], axis=1)
    with pytest.raises(UserError, match=r"pos_embed has 27 rows, .* not supported"):
        loaded_positions(tmp_path, vit_config(None), positions)


def test_a_vit_of_384_pixels_in_the_in_shop_experiment(tmp_path):
    """577 positions are a class token and 24 x 24 patches; the experiment names no grid."""
    config = retrieval.get_config("benchmark=inshop,backbone=vit_s16")
    config.image_size, config.labels = 384, {"item_id": ["a", "b"]}
    config.model.backbone_fields.update({"width": 6, "depth": 2, "heads": 2})
    positions = np.random.default_rng(0).standard_normal((1, 577, 6)).astype(np.float32)
    _, found, notes = loaded_positions(tmp_path, config, positions)
    assert notes[0].startswith("kept the file's 24 x 24 grid")
    np.testing.assert_array_equal(found, positions)
