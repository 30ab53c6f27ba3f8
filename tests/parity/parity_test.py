"""The parity command: recorded outputs are reached, wrong ones noticed, models known by their contents."""

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.models import backbones
from fashionjax.models.backbones import resnet, vgg
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.retriever import Retriever
from fashionjax.parity import __main__ as parity
from fashionjax.parity import draws, metrics, models
from fashionjax.parity.results import array_difference, dense_difference, relative_l2
from fashionjax.weights import key_maps
from fashionjax.weights import recognise as weight_files

FOLDERS = Path(__file__).parents[1] / "fixtures" / "parity"
METRICS = Path(__file__).parents[1] / "fixtures" / "metrics"
QUICK = (
    "plain_resnet18_features",
    "mmf_attr_roi_vgg16_lite",
    "mmf_landmark_resnet50_lite",
    "fc_typeaware_mask_l2_resnet18",
    "d2_mask_rcnn_r50_fpn",
)
BOUND = 1e-5  # the command's is 1e-4; this is what float32 on a CPU reaches with room to spare


def reached(folder):
    results = parity.check(folder)
    names = [output["name"] for output in parity.read_manifest(folder)["outputs"]]
    assert [result.output for result in results] == names
    assert all(result.state == "ok" for result in results), results
    assert all(result.value < BOUND for result in results if result.measure == "rel_l2"), results


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_recorded_outputs_are_reached(name):
    reached(FOLDERS / name)


@pytest.mark.full
@pytest.mark.parametrize(
    "name", sorted({path.name for path in FOLDERS.iterdir() if path.is_dir()} - {*QUICK})
)
def test_all_recorded_outputs_are_reached(name):
    reached(FOLDERS / name)


def tiny_folder(folder, salt="salt:"):
    """A folder of a ResNet-18 two channels wide whose outputs are this code's own."""
    folder.mkdir()
    module = resnet.ResNet(depth=18, width=2)
    image = np.zeros((1, 32, 32, 3), np.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), image)
    manifest = {
        "salt": salt,
        "state_dict": [[key, shape, "float32"] for key, shape in shapes_in(template, module).items()],
        "inputs": [{"name": "image", "key": "input:image", "shape": [1, 3, 32, 32], "draw": "image"}],
        "outputs": [{"name": "layer2"}, {"name": "output"}],
    }
    found = models.recognise({key: tuple(shape) for key, shape, _ in manifest["state_dict"]})
    variables, _ = key_maps.fill(template, draws.state_dict(manifest), found.rules)
    arguments = found.run.arguments(draws.inputs(manifest))
    computed = found.run.outputs(found.model, variables, arguments)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    np.savez(folder / "outputs.npz", layer2=computed["layer2"], output=computed["output"])
    return manifest


def shapes_in(template, module):
    return key_maps.torch_shapes(template, backbones.torch_keys(module))


@pytest.mark.slow
def test_wrong_and_missing_outputs_fail(capsys, tmp_path):
    folder = tmp_path / "any_name"
    manifest = tiny_folder(folder)
    assert parity.main(["parity", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"

    manifest["outputs"].append({"name": "phantom"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stored = dict(np.load(folder / "outputs.npz"))
    stored["layer2"] *= 1.001
    np.savez(folder / "outputs.npz", **stored)
    assert parity.main(["parity", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "any_name layer2 rel_l2=0.000999 FAIL"
    assert lines[1].startswith("any_name output rel_l2=") and lines[1].endswith(" ok")
    assert lines[2:] == ["any_name phantom rel_l2=nan FAIL", "1 passed, 2 failed"]


def test_another_salt_means_other_weights(tmp_path):
    manifest = tiny_folder(tmp_path / "a")
    manifest["salt"] = "pepper:"
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    assert all(result.state == "FAIL" for result in parity.check(tmp_path / "a"))


def test_metric_goldens_are_reached(capsys, tmp_path):
    folder = tmp_path / "metrics"
    shutil.copytree(METRICS, folder)
    assert parity.main(["parity", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "metrics cate_topk/tp_top1 diff=0 ok" in lines
    assert lines[-1].endswith(" passed, 0 failed")
    assert not any("/in_" in line or "/pred " in line or "/topk " in line for line in lines)


def write_category_golden(folder, recall):
    folder.mkdir()
    pred = [[0.9, 0.5, 0.1, 0.2], [0.3, 0.8, 0.7, 0.1], [0.6, 0.3, 0.5, 0.1], [0.2, 0.1, 0.9, 0.3]]
    arrays = {
        "pred": np.array(pred, np.float32),
        "target": np.array([0, 0, 2, 0], np.int32),
        "topk": np.array([1, 2]),
        "recall_top1": np.array(recall),
        "recall_top2": np.array(200 / 3),
        "tp_top1": np.array([1, 0, 0, 0], np.int32),
        "fn_top1": np.array([2, 0, 1, 0], np.int32),
    }
    np.savez(folder / "cate_topk.npz", **arrays)


def test_metric_folders_with_other_numbers_are_compared(capsys, tmp_path):
    write_category_golden(tmp_path / "right", 50 / 3)
    assert parity.main(["parity", str(tmp_path / "right")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 0 failed"
    write_category_golden(tmp_path / "wrong", 50 / 3 + 1e-6)
    assert parity.main(["parity", str(tmp_path / "wrong")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("metrics cate_topk/recall_top1 diff=6e-08 FAIL")
    assert lines[-1] == "3 passed, 1 failed"


def test_coco_goldens_are_compared(tmp_path):
    """The stored figures of COCO's evaluation; with one detection's score changed they fail."""
    results = {r.output: r.state for r in metrics.check_folder(METRICS) if r.output.startswith("coco")}
    assert results == {"coco_eval/bbox": "ok", "coco_eval/segm": "ok"}
    recorded = json.loads((METRICS / "coco_eval.json").read_text())
    recorded["detections"][0]["score"] = 0.001
    (tmp_path / "coco_eval.json").write_text(json.dumps(recorded))
    assert {r.state for r in metrics.check_folder(tmp_path)} == {"FAIL"}
    (tmp_path / "coco_eval.json").write_text("{}")
    assert {r.state for r in metrics.check_folder(tmp_path)} == {"FAIL"}


def test_outfit_goldens_are_compared(tmp_path):
    """The stored figures of compatibility, and others, which fail."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    shutil.copy(METRICS / "polyvore.npz", folder)
    results = {result.output: result.state for result in parity.check(folder)}
    names = ("auc_euclidean", "fitb_acc_euclidean", "auc_metric", "fitb_acc_metric")
    assert results == {f"polyvore/{name}": "ok" for name in names}
    stored = dict(np.load(METRICS / "polyvore.npz"))
    stored["comp_label"] = 1 - stored["comp_label"]
    stored["fitb_correct"] = np.roll(stored["fitb_correct"], 1, axis=1)
    np.savez(folder / "polyvore.npz", **stored)
    assert all(result.state == "FAIL" for result in parity.check(folder))


def shapes_of(name):
    manifest = parity.read_manifest(FOLDERS / name)
    return {key: tuple(shape) for key, shape, _ in manifest["state_dict"]}


def test_models_are_recognised_by_their_keys():
    model = models.recognise(shapes_of("mmf_inshop_roi_resnet50_lite")).model
    assert isinstance(model, Retriever) and model.pooling == "roi"
    assert (model.hidden, model.features, model.ids, model.attributes) == (48, 64, 100, 463)
    assert model.backbone == resnet.ResNet(depth=50)
    model = models.recognise(shapes_of("mmf_landmark_vgg16_lite")).model
    assert isinstance(model, LandmarkDetector) and (model.landmarks, model.landmark_features) == (8, 32)
    assert model.backbone == vgg.VGG(depth=16)
    model = models.recognise(shapes_of("mmf_cateattr_global_vgg16_lite")).model
    assert (model.pooling, model.attributes, model.categories) == ("global", 26, 50)
    model = models.recognise(shapes_of("plain_resnet50_timm")).model
    assert model == resnet.ResNet(depth=50, num_classes=1000)
    model = models.recognise(shapes_of("mmf_typeaware_fc_resnet18")).model
    assert (model.pool, model.projection, model.metric, model.types) == ("flatten", "fc", True, None)
    assert (model.spaces, model.embedding, model.backbone) == (66, 256, resnet.ResNet(depth=18))
    model = models.recognise(shapes_of("fc_typeaware_mask_l2_resnet18")).model
    assert (model.pool, model.projection, model.metric, model.spaces) == ("average", "mask", False, 66)
    assert model.embedding == 64 and model.backbone == resnet.ResNet(depth=18, stage_strides=(1, 2, 2))
    model = models.recognise(shapes_of("plain_vit_base_patch16_224")).model
    assert (model.width, model.depth, model.heads, model.grid, model.num_classes) == (768, 12, 12, 14, 1000)


def test_depths_and_normalisation_are_recognised_by_the_numbers():
    def vgg_shapes(depth):
        return {
            f"features.{i}.weight": (64, 3, 3, 3) for stage in vgg.conv_indices(depth, True) for i in stage
        }

    assert weight_files.backbone_of(vgg_shapes(11)) == vgg.VGG(depth=11, batch_norm=True)
    shapes = {key: s for key, s in shapes_of("plain_resnet50_features").items() if "layer4" not in key}
    assert weight_files.backbone_of(shapes) == resnet.ResNet(depth=50, stage_strides=(1, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mmf_typeaware_mask_l2_resnet18", marks=pytest.mark.full),
        pytest.param("mmf_typeaware_fc_resnet18", marks=pytest.mark.full),
        pytest.param("fc_typeaware_mask_l2_resnet18", marks=pytest.mark.full),
        "fc_typeaware_fc_resnet18",
    ],
)
def test_every_single_loss_is_reached(name):
    """The small terms too, which the norm of all does not see."""
    manifest = parity.read_manifest(FOLDERS / name)
    stored = np.load(FOLDERS / name / "outputs.npz")
    computed = outputs_of(name, manifest.get("model_args"))
    for output in {"losses", "triplet_parts"} & set(stored.files):
        np.testing.assert_allclose(computed[output], stored[output], rtol=1e-4)


@pytest.mark.full
def test_weights_of_losses_are_the_folders_own():
    """Disjoint and nondisjoint rows have the same keys."""
    name = "mmf_typeaware_fc_resnet18"
    arguments = parity.read_manifest(FOLDERS / name)["model_args"]
    arguments["triplet_net"]["loss_triplet"]["loss_weight"] = 5e-5  # the nondisjoint row's
    stored = np.load(FOLDERS / name / "outputs.npz")["losses"]
    np.testing.assert_allclose(outputs_of(name, arguments)["losses"], stored * [5e-5, 1, 1, 1], rtol=1e-4)


def outputs_of(name, model_args) -> dict:
    """Everything that is computed for a folder, as the command does it."""
    manifest = parity.read_manifest(FOLDERS / name)
    found = models.recognise(shapes_of(name), {"model_args": model_args})
    arguments = found.run.arguments(draws.inputs(manifest))
    template = jax.eval_shape(functools.partial(found.run.init, found.model), *arguments)
    variables, _ = key_maps.fill(template, draws.state_dict(manifest), found.rules)
    with jax.default_matmul_precision("highest"):
        return found.run.outputs(found.model, variables, arguments)


def copied(tmp_path, name="mmf_cateattr_global_vgg16_lite"):
    folder = tmp_path / "renamed"
    shutil.copytree(FOLDERS / name, folder)
    return folder, json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("key", ["surprise.weight", "backbone.layer9.weight", "triplet_net.masks.weight"])
def test_a_folder_with_a_strange_key_exits_2(tmp_path, capsys, key):
    folder, manifest = copied(tmp_path)
    manifest["state_dict"].append([key, [3, 3], "float32"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert parity.main(["parity", str(folder)]) == 2
    captured = capsys.readouterr()
    assert key in captured.err and captured.out == "0 passed, 0 failed\n"


@pytest.mark.parametrize("part", ["landmark_feature_extractor", "backbone.features.0", "global_pool"])
def test_a_folder_without_a_part_exits_2(tmp_path, capsys, part):
    folder, manifest = copied(tmp_path, "mmf_landmark_vgg16_lite")
    manifest["state_dict"] = [entry for entry in manifest["state_dict"] if not entry[0].startswith(part)]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert parity.main(["parity", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize(
    "part", ["embeddingnet.masks", "embeddingnet.masks.7.weight", "text_branch", "embeddingnet.embeddingnet"]
)
def test_a_compatibility_folder_without_a_part_exits_2(tmp_path, capsys, part):
    folder, manifest = copied(tmp_path, "fc_typeaware_fc_resnet18")
    manifest["state_dict"] = [entry for entry in manifest["state_dict"] if not entry[0].startswith(part)]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert parity.main(["parity", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_fails_and_the_others_go_on(tmp_path, capsys):
    folders = [tmp_path / name for name in ("absent", "noouts", "other")]
    for folder in folders[1:]:
        tiny_folder(folder)
    (folders[1] / "outputs.npz").unlink()
    assert parity.main(["parity", *map(str, folders)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "2 passed, 2 failed"
    assert "absent: is not a folder" in captured.err and "outputs.npz is missing" in captured.err
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    manifest["state_dict"].append(["unknown", [1], "float32"])
    (folders[1] / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(folders[2] / "outputs.npz", folders[1])
    assert parity.main(["parity", *map(str, folders)]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state_dict", "hello"),
        ("state_dict", [["a"]]),
        ("state_dict", [["a", [1.5], "float32"]]),
        ("inputs", [{"name": "image"}]),
        ("outputs", ["features"]),
        ("model_args", [1]),
    ],
)
def test_a_damaged_manifest_is_a_user_error(tmp_path, part, value):
    manifest = tiny_folder(tmp_path / "a") | {part: value}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=part):
        parity.check(tmp_path / "a")


def test_inputs_of_another_model_are_a_user_error(tmp_path):
    manifest = tiny_folder(tmp_path / "a")
    manifest["inputs"][0]["shape"] = [3, 32, 32]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="inputs do not fit"):
        parity.check(tmp_path / "a")


@pytest.mark.parametrize("content", [b"garbage", b"PK\x03\x04garbage", b""])
def test_garbage_for_outputs_is_a_user_error(tmp_path, content):
    tiny_folder(tmp_path / "a")
    (tmp_path / "a" / "outputs.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not readable as \.npz"):
        parity.check(tmp_path / "a")


def test_the_prefix_of_data_parallel_is_taken_off(tmp_path):
    """Weights are drawn by the keys of the file; the model is known without the prefix."""
    manifest = tiny_folder(tmp_path / "a", salt="module.")
    manifest["state_dict"] = [[f"module.{key}", *rest] for key, *rest in manifest["state_dict"]]
    manifest["inputs"][0]["key"] = "module.input:image"
    manifest["salt"] = ""
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(manifest))
    assert [result.state for result in parity.check(tmp_path / "a")] == ["ok", "ok"]


def test_a_metric_file_that_cannot_be_used_fails_alone(tmp_path, capsys):
    folder = tmp_path / "metrics"
    folder.mkdir()
    shutil.copy(METRICS / "polyvore.npz", folder)
    stored = dict(np.load(METRICS / "retrieval_recall.npz"))
    stored["query_id"] = stored["query_id"].copy()
    stored["query_id"][3] = 10**6
    np.savez(folder / "retrieval_recall.npz", **stored)
    write_category_golden(tmp_path / "other", 50.0)
    golden = dict(np.load(tmp_path / "other" / "cate_topk.npz"))
    np.savez(folder / "cate_topk.npz", **{name: a for name, a in golden.items() if name != "target"})
    (folder / "losses.npz").write_bytes(b"garbage")
    assert parity.main(["parity", str(folder)]) == 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    for name in ("retrieval_recall/recall", "cate_topk/recall_top1", "losses"):
        assert f"metrics {name} diff=nan FAIL" in lines
    assert "metrics polyvore/auc_metric" in captured.out and lines[-1].startswith("4 passed, ")
    for message in ("no array 'target'", "losses.npz: not readable", "no gallery item has"):
        assert message in captured.err


def test_unreadable_folders_are_user_errors(tmp_path):
    with pytest.raises(UserError):
        parity.main(["parity"])
    folder, _ = copied(tmp_path)
    (folder / "outputs.npz").unlink()
    with pytest.raises(UserError, match=r"outputs\.npz is missing"):
        parity.check(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        parity.check(folder)


def test_differences():
    want = np.array([3.0, 4.0])
    assert relative_l2([3, 4.05], want) == pytest.approx(0.01)
    assert relative_l2([3, np.nan], want) == np.inf and relative_l2([3], want) == np.inf
    full = np.arange(1.0, 101)
    stats = np.array([50.5, 0, np.linalg.norm(full), 100, 100])
    stored = {"x@idx": np.array([0, 99]), "x@val": np.array([1.0, 100]), "x@stats": stats, "y": want}
    assert dense_difference(stored, "x", full) == pytest.approx(0, abs=1e-12)
    assert dense_difference(stored, "x", np.where(full == 50, 500, full)) > 0.1  # only the norm sees it
    assert dense_difference(stored, "x", full[::-1]) > 0.9  # only the sample sees it
    assert dense_difference(stored, "x", full[1:]) == np.inf
    assert np.isnan(dense_difference(stored, "y", None)) and np.isnan(dense_difference(stored, "z", want))
    assert array_difference([2, 0], [2, 0]) == 0 and array_difference([3, 0], [2, 0]) == 0.5
    assert np.isnan(array_difference(None, [1])) and array_difference([1, 2], [1]) == np.inf
