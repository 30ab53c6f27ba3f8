"""A file that holds a head alone: the other leaves come from another run's checkpoint, and none is lost."""

import checkpoints
import numpy as np
import pytest
from weight_files import assert_same

from experiments import cascade, mask_rcnn, recommendation
from fashionjax.errors import UserError
from fashionjax.models.garments import HEAD
from fashionjax.runtime import checkpoint
from fashionjax.weights import importer, labels
from fashionjax.weights.key_maps import KeyMismatch, unfill

NAMES = [f"c{i}" for i in range(4)]
CHANNELS, WIDTH, PAIRS = 8, 4, 5


def shrunk(config):
    config.model.backbone_fields.width, config.model.channels, config.model.box_width = 4, CHANNELS, 8
    config.model.mask_convolutions = 1
    return config


def head_file(seed=0) -> dict[str, np.ndarray]:
    """What fashion-recommendation's module holds, at other widths."""
    rng = np.random.default_rng(seed)
    shapes = {f"main_modules.{i}.0.weight": (WIDTH, CHANNELS) for i in range(3)}
    shapes |= {
        f"auxiliary_module.0.{n}": (CHANNELS,) for n in ("weight", "bias", "running_mean", "running_var")
    }
    shapes |= {"auxiliary_module.1.weight": (PAIRS, CHANNELS), "auxiliary_module.1.bias": (PAIRS,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    config = shrunk(cascade.get_config("tiny=true"))
    config.labels = {"category": NAMES}
    return str(checkpoints.save_drawn(tmp_path_factory.mktemp("detector"), config, 0))


def loaded(monkeypatch, tensors, detector):
    monkeypatch.setattr(importer.files, "read", lambda *args: (tensors, ()))
    monkeypatch.setattr(importer, "_sha256", lambda file: "")
    monkeypatch.setattr(labels, "dataset_labels", lambda config: {})
    config = shrunk(recommendation.get_config("tiny=true"))
    config.model.head_width, config.init_from = WIDTH, detector
    return importer.load_file("cgd_model.pt", config)


@pytest.mark.slow
def test_the_head_of_a_file_on_the_detector_of_a_checkpoint(monkeypatch, detector):
    tensors = head_file()
    found = loaded(monkeypatch, tensors, detector)
    assert list(found.config.labels.category) == NAMES and len(found.config.labels.item_id) == PAIRS
    before = checkpoint.restore_for_inference(detector)
    for name, part in before.params.items():
        assert name != HEAD
        np.testing.assert_array_equal(
            np.concatenate([np.ravel(leaf) for leaf in importer.jax.tree.leaves(part)]),
            np.concatenate(
                [np.ravel(leaf) for leaf in importer.jax.tree.leaves(found.variables["params"][name])]
            ),
        )
    rules = importer.key_rules(found.config)
    head = {name: {HEAD: found.variables[name][HEAD]} for name in ("params", "batch_stats")}
    assert_same(unfill(head, rules), tensors)


def test_keys_that_are_missing_and_detectors_that_do_not_fit(monkeypatch, detector, tmp_path):
    tensors = head_file()
    tensors["other.weight"] = tensors.pop("main_modules.1.0.weight")
    with pytest.raises(KeyMismatch) as caught:
        loaded(monkeypatch, tensors, detector)
    assert caught.value.accounting.problems() == {
        "unread": ["other.weight"],
        "unfilled": ["main_modules.1.0.weight"],
    }
    config = shrunk(mask_rcnn.get_config("tiny=true"))
    config.labels = {"category": NAMES}
    single = str(checkpoints.save_drawn(tmp_path, config, 0))
    with pytest.raises(UserError, match="lacks 20 of the leaves beside 'cgd'"):
        loaded(monkeypatch, head_file(), single)
