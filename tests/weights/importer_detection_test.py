"""Detectors in detectron2's and mmdetection's names: both ways, what does not fit, backbones of ImageNet."""

import functools
import pickle
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file
from torch_writers import save_zip
from weight_files import assert_same, config_file, drawn, run_command

from experiments import cascade, mask_rcnn
from fashionjax import tasks
from fashionjax.export import __main__ as export
from fashionjax.models.backbones import resnet
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.runtime import checkpoint
from fashionjax.weights import importer, labels, recognise
from fashionjax.weights.key_maps import KeyMismatch, torch_shapes, unfill

CLASSES = 3
FULL = pytest.mark.full
BUFFERS = {  # of detectron2 before 0.3
    "pixel_mean": np.float32([[[103.53]], [[116.28]], [[123.675]]]),
    "pixel_std": np.ones((3, 1, 1), np.float32),
    "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
}


def tiny(system: str, backbone: str = "resnet18") -> ConfigDict:
    """The published recipes, narrow and shallow, on a dataset that is not prepared."""
    if system == "mmdetection":
        config = mask_rcnn.get_config()
    else:
        config = cascade.get_config(f"model={system}")
    config.data_dir = "nowhere"
    spec = config.model
    spec.backbone = backbone
    spec.backbone_fields.width, spec.channels, spec.box_width, spec.mask_convolutions = 4, 4, 6, 2
    spec.settings.box_pool, spec.settings.mask_pool = 2, 2
    return config


@functools.cache
def shapes_of(system: str, backbone: str = "resnet18") -> dict[str, tuple]:
    config = tiny(system, backbone)
    config.model.classes = 0
    config.labels = ConfigDict({"category": [str(i) for i in range(CLASSES)]})
    return torch_shapes(importer.template(config, tasks.make(config)), importer.key_rules(config))


PUBLISHED = {"mask_rcnn": "resnet50", "cascade": "resnet101", "mmdetection": "resnet50"}


def imported(file, config, workdir):
    notes = []
    importer.import_file(file, config, workdir, note=notes.append)
    return checkpoint.restore_for_inference(workdir), " ".join(notes)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["mask_rcnn", "mmdetection", pytest.param("cascade", marks=FULL)])
def test_names_are_the_codebases_and_the_model_is_known_by_them(system):
    shapes = shapes_of(system, PUBLISHED[system])
    heads = "cascade of box heads" if system == "cascade" else "box head"
    pooling = "mmdetection 1.x RoI" if system == "mmdetection" else "detectron2 RoI"
    parts = ("RPN", heads, "mask head")
    assert recognise.describe(shapes) == ("detection", PUBLISHED[system], pooling, parts, False)
    model, _ = recognise.model_of(shapes)
    assert (model.classes, model.channels, model.box_width, model.mask_convolutions) == (CLASSES, 4, 6, 2)
    assert len(model.settings.stage_iou) == (3 if system == "cascade" else 1)
    assert model.backbone.stride_in_1x1 == (system != "mmdetection") == model.bgr
    spelled = {
        "mask_rcnn": "roi_heads.box_predictor.bbox_pred.weight",
        "cascade": "roi_heads.box_predictor.2.bbox_pred.weight",
        "mmdetection": "bbox_head.fc_reg.weight",
    }
    outputs = {"mask_rcnn": 4 * CLASSES, "cascade": 4, "mmdetection": 4 * (CLASSES + 1)}
    assert shapes[spelled[system]] == (outputs[system], 6)
    blocks = 23 if system == "cascade" else 6
    stage4 = "backbone.layer3" if system == "mmdetection" else "backbone.bottom_up.res4"
    assert f"{stage4}.{blocks - 1}.conv3.weight" in shapes
    assert f"{stage4}.{blocks}.conv3.weight" not in shapes


@pytest.mark.slow
@pytest.mark.parametrize("system", ["mask_rcnn", "mmdetection", pytest.param("cascade", marks=FULL)])
def test_a_file_comes_out_bitwise(tmp_path, system):
    """A zoo pickle (detectron2) or a checkpoint of mmcv; the classes are the file's."""
    tensors = drawn(shapes_of(system))
    if system == "mmdetection":
        counters = {"backbone.bn1.num_batches_tracked": np.array(7)}
        file = save_zip(tmp_path / "epoch_15.pth", tensors | counters, "state_dict")
    else:
        file = tmp_path / "model_final.pkl"
        file.write_bytes(pickle.dumps({"model": tensors | BUFFERS, "__author__": "Detectron2 Model Zoo"}, 2))
    config = tiny(system)
    restored, notes = imported(file, config, tmp_path / "run")
    assert list(restored.config.labels.category) == [f"category_{i}" for i in range(CLASSES)]
    assert restored.config.model.classes == 0 and "named by number" in notes
    assert ("pixel_mean" in notes) == (system != "mmdetection")
    written = export.export(tmp_path / "run", tmp_path / "out.safetensors")
    assert_same(written, tensors)
    again, _ = imported(tmp_path / "out.safetensors", config, tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.params, restored.params)


def test_classes_that_nothing_has_keep_their_outputs():
    """MMFashion's heads have COCO's 80 classes, of which the dataset's 15 come first."""
    config = mask_rcnn.get_config()
    spec = tasks.entry("detection").weights
    names = [f"c{i}" for i in range(15)]
    shapes = {"rpn_head.rpn_conv.weight": (256, 256, 3, 3), "bbox_head.fc_cls.weight": (81, 1024)}
    shapes["neck.lateral_convs.0.conv.weight"] = (256, 256, 1, 1)
    (remark,) = spec.fit_config(config, recognise.canonical(shapes), {"category": names}, False)
    assert config.model.classes == 80 and list(config.labels.category) == names and "first 15" in remark
    shapes["bbox_head.fc_cls.weight"] = (16, 1024)
    assert spec.fit_config(config, recognise.canonical(shapes), {"category": names}, False) == []
    assert config.model.classes == 0
    other = {"proposal_generator.rpn_head.conv.weight": (256, 256, 3, 3)}
    other["roi_heads.box_predictor.cls_score.weight"] = (81, 1024)
    spec.fit_config(config, other, {"category": names}, False)
    assert len(config.labels.category) == 80 and config.model.classes == 0


@pytest.mark.slow
def test_other_pixels_are_refused(tmp_path):
    """A file whose normalisation is not the config's would predict nonsense."""
    config, tensors = tiny("mask_rcnn"), drawn(shapes_of("mask_rcnn"))
    wrong = tensors | {"pixel_mean": np.float32([123.675, 116.28, 103.53])}
    with pytest.raises(KeyMismatch, match=r"pixel_mean: 123\.675, 116\.28, 103\.53; the model has"):
        imported(save_zip(tmp_path / "w.pth", wrong, "model"), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "system, file, message",
    [
        ("mask_rcnn", "cascade", "experiments/cascade.py:model=cascade .* model.backbone=resnet18"),
        ("mask_rcnn", "mmdetection", "experiments/mask_rcnn.py"),
        ("mmdetection", "mask_rcnn", "experiments/cascade.py:model=mask_rcnn"),
    ],
)
def test_a_file_of_another_detector_names_the_config_that_fits(tmp_path, system, file, message):
    save_file(drawn(shapes_of(file)), tmp_path / "w.safetensors")
    with pytest.raises(KeyMismatch, match=message) as caught:
        imported(tmp_path / "w.safetensors", tiny(system), tmp_path / "run")
    problems = caught.value.accounting.problems()
    assert problems["unread"] and problems["unfilled"] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_lists_every_key_that_is_wrong(tmp_path, monkeypatch, capsys):
    path = f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code = "from importer_detection_test import tiny\ndef get_config(arg=None): return tiny('mask_rcnn')\n"
    experiment = config_file(tmp_path, path + code)
    tensors = drawn(shapes_of("mask_rcnn"))
    tensors["roi_heads.box_head.fc3.weight"] = np.zeros((6, 6), np.float32)
    del tensors["backbone.fpn_output3.bias"]
    tensors["roi_heads.mask_head.deconv.weight"] = np.zeros((4, 4, 3, 3), np.float32)
    save_file(tensors, tmp_path / "bad.safetensors")
    argv = (tmp_path / "bad.safetensors", f"--config={experiment}", f"--workdir={tmp_path / 'run'}")
    status, line, err = run_command(monkeypatch, capsys, *argv)
    assert status == 2 and "bad.safetensors" in err
    assert line["unread"] == ["roi_heads.box_head.fc3.weight"]
    assert line["unfilled"] == ["backbone.fpn_output3.bias"]
    assert line["misshapen"] == [
        "roi_heads.mask_head.deconv.weight: (4, 4, 3, 3), the model needs (4, 4, 2, 2)"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [mask_rcnn, cascade])
def test_models_with_group_normalisation_have_names_too(experiment):
    """The small configs are exported in the names of their conventions' codebase."""
    config = experiment.get_config("tiny=true")
    config.labels = ConfigDict({"category": ["a", "b", "c"]})
    template = importer.template(config, tasks.make(config))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    names = unfill(zeros, importer.key_rules(config))
    norm = "neck.fpn_convs.3.gn.weight" if experiment is mask_rcnn else "backbone.fpn_output5.norm.weight"
    assert norm in names and len(names) == len(jax.tree.leaves(template))


# --- backbones of ImageNet ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "spelling", [pytest.param("torchvision", marks=FULL), pytest.param("detectron2", marks=FULL), "detectron"]
)
def test_a_backbone_initialises_a_detector(tmp_path, monkeypatch, spelling):
    """R-50 in torchvision's names (mmdetection's caffe files), detectron2's, and Detectron's MSRA/R-50.pkl,
    whose normalisations have no statistics."""
    config = tiny("mask_rcnn", "resnet50")
    config.labels = ConfigDict({"category": ["a", "b"]})
    monkeypatch.setattr(labels, "dataset_labels", lambda config: {"category": ["a", "b"]})
    rules = {"torchvision": resnet.TORCH_KEYS, "detectron2": resnet.DETECTRON2_KEYS}
    rules["detectron"] = resnet.CAFFE2_KEYS
    module = ResNet(depth=50, width=4)
    leaves = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    tensors = drawn(torch_shapes(leaves, rules[spelling]))
    heads = {"torchvision": "fc.weight", "detectron2": "fc.weight", "detectron": "fc1000_w"}
    extra = {heads[spelling]: np.zeros((10, 4), np.float32)}
    if spelling == "detectron":
        tensors = {key: x for key, x in tensors.items() if not key.endswith(("_rm", "_riv"))}
        extra["conv1_b"] = np.zeros(4, np.float32)
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps(tensors | extra, 2))
    notes = []
    loaded = importer.load_file(file, config, backbone_only=True, note=notes.append)
    found = flax.traverse_util.flatten_dict(loaded.variables, sep="/")
    stem = {"torchvision": "conv1.weight", "detectron2": "stem.conv1.weight", "detectron": "conv1_w"}
    last = {"torchvision": "layer4.2.conv3.weight", "detectron2": "res5.2.conv3.weight"}
    last["detectron"] = "res5_2_branch2c_w"
    for key, path in ((stem, "conv1"), (last, "layer4_2/conv3")):
        np.testing.assert_array_equal(
            found[f"params/backbone/{path}/kernel"], tensors[key[spelling]].transpose(2, 3, 1, 0)
        )
    if spelling == "detectron":
        assert (found["batch_stats/backbone/layer2_0/downsample_1/mean"] == 0).all()
        assert (found["batch_stats/backbone/bn1/var"] + np.float32(1e-5) == 1).all()
    assert any(heads[spelling] in note for note in notes)
