"""`fashionjax finetune`: what is chosen from folders and tables, whole runs, kill -9 in each phase."""

import csv
import json
import re
import signal
from pathlib import Path

import checkpoints
import instance_trees
import numpy as np
import own_folders
import pytest
import weight_files
from commands import run
from safetensors.numpy import load_file, save_file

from experiments import own
from fashionjax.data import builders
from fashionjax.data.source import open_split
from fashionjax.errors import UserError
from fashionjax.finetune import plan
from fashionjax.finetune import run as finetune
from fashionjax.models import backbones
from fashionjax.runtime import checkpoint
from fashionjax.tasks import supervised
from fashionjax.weights.key_maps import torch_shapes

TINY = {
    "image_size": "32",
    "canvas_size": "36",
    "batch_size": "16",
    "model.backbone": "vgg11_bn",
    "model.backbone_fields.width": "4",
    "model.features": "16",
}


RESNET = {"backbone": "resnet18"}


def options(source, workdir="w", **given) -> plan.Options:
    return plan.Options(str(source), str(workdir), **given)


def flags(fields) -> list[str]:
    return [f"--field={name}={value}" for name, value in fields.items()]


def trunk_file(folder: Path) -> Path:
    """Weights of a VGG-11 of width 8 in torchvision's names."""
    trunk = weight_files.tiny_backbone("vgg11_bn")
    shapes = torch_shapes(weight_files.shapes_of(trunk), backbones.torch_keys(trunk))
    tensors = weight_files.drawn(shapes)
    variances = {name: np.abs(value) for name, value in tensors.items() if "running_var" in name}
    save_file(tensors | variances, folder / "vgg.safetensors")
    return folder / "vgg.safetensors"


def prepared(source: Path, tmp_path: Path, **given):
    """(options, dataset, training split) of a built dataset."""
    chosen = options(source, **given)
    origin = plan.read_source(chosen)
    builders.prepare(
        origin.dataset,
        data_dir=tmp_path / "data",
        manual_dir=origin.manual_dir,
        overrides=origin.fields,
        progress=False,
    )
    return chosen, origin.dataset, open_split(origin.dataset, "train", tmp_path / "data")


# ------------------------------------------------------------------------------ what is chosen
def test_the_kind_of_input(tmp_path):
    folders = own_folders.classes(tmp_path / "photos", 4)
    shop = own_folders.items(tmp_path / "shop", 4)
    coco = instance_trees.coco_folder(tmp_path / "coco")
    assert plan.read_source(options(folders)).dataset == "own_photos/folders"
    assert plan.read_source(options(shop)) == ("own_photos/table", str(shop), {"seed": "0"})
    table = plan.read_source(options(shop / "photos.csv", seed=3))
    assert table == ("own_photos/table", str(shop), {"table": "photos.csv", "seed": "3"})
    assert plan.read_source(options(coco)).dataset == "coco_instances/original"
    assert plan.read_source(options(coco)).fields["test_share"] == "0.15"
    with pytest.raises(UserError, match="no such file or folder"):
        plan.read_source(options(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"expected a folder of photos, a .csv or .tsv table, or a COCO"):
        plan.read_source(options(next(folders.rglob("*.jpg"))))


def test_the_task_goes_by_the_columns(tmp_path):
    shop = own_folders.items(tmp_path / "shop", 12)
    chosen = plan.arguments(*prepared(shop, tmp_path), RESNET)
    assert chosen["task"] == "retrieval" and chosen["form"] == "table"
    labels = plan.arguments(*prepared(shop, tmp_path, task="labels"), RESNET)
    assert labels["labels"] == "category+attribute" and "balance" not in labels
    config = plan.make_config(labels, {"data_dir": "x", "optim.lr": 0.5})
    assert config.model.labels_predicted == ("category", "attribute") and config.optim.lr == 0.5
    with pytest.raises(UserError, match="the photos have no landmark"):
        plan.arguments(*prepared(shop, tmp_path, task="labels", labels="landmark"), RESNET)
    with pytest.raises(UserError, match="no boxes of instances"):
        plan.arguments(*prepared(shop, tmp_path, task="detection"), RESNET)
    bare = tmp_path / "bare"
    bare.mkdir()
    for n in range(8):
        own_folders.photo(bare / f"{n}.jpg", 0, n)
    with (bare / "list.csv").open("w") as file:
        csv.writer(file).writerows([["image"], *([f"{n}.jpg"] for n in range(8))])
    with pytest.raises(UserError, match=r"nothing to learn; a table needs a column category"):
        plan.arguments(*prepared(bare, tmp_path / "b"), RESNET)


def test_uneven_classes_and_a_single_one(tmp_path):
    uneven = own_folders.classes(tmp_path / "uneven", 24, ("a", "a", "a", "b"))
    assert plan.arguments(*prepared(uneven, tmp_path / "u"), RESNET)["balance"] == "true"
    one = own_folders.classes(tmp_path / "one", 12, ("only",))
    with pytest.raises(UserError, match=r"one: one class \(only\); a classifier needs photos of two"):
        plan.arguments(*prepared(one, tmp_path / "o"), RESNET)


def test_init_and_freeze(tmp_path):
    with pytest.raises(UserError, match=r"--freeze=backbone needs --init"):
        plan.initial(options("x", freeze=True))
    with pytest.raises(UserError, match=r"no checkpoint|no such folder"):
        plan.initial(options("x", init=str(tmp_path)))
    broken = tmp_path / "weights.pth"
    broken.write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"weights.pth"):
        plan.initial(options("x", init=str(broken)))


def test_another_run_as_a_start(tmp_path):
    """Its backbone and width are taken over; heads start fresh."""
    folder = checkpoints.save(tmp_path / "run", "demo")
    backbone, fields = plan.initial(options("x", init=str(folder)))
    assert backbone == {"backbone": "vgg11", "width": "4"}
    assert fields == {"init_from": str(folder), "init_skip": plan.FRESH}
    config = plan.make_config({"task": "labels", **backbone}, fields)
    assert config.model.backbone == "vgg11" and config.model.backbone_fields.width == 4
    assert re.fullmatch(plan.FRESH[0], "cate_predictor/linear_cate/kernel")
    assert not re.fullmatch(plan.FRESH[0], "backbone/features_0/kernel")


def test_weight_files(tmp_path):
    """The backbone and its published width are recognised; an import that a kill cut short starts again."""
    widths = {"backbone": "vgg11_bn", "width": "0"}
    file = trunk_file(tmp_path)
    tensors = load_file(file)
    chosen = options(tmp_path / "photos", tmp_path / "w", init=str(file))
    assert plan.initial(chosen) == (widths, {})
    photos = own_folders.classes(tmp_path / "photos", 20, ("a", "b"))
    data_dir = str(tmp_path / "data")
    builders.prepare("own_photos/folders", data_dir=data_dir, manual_dir=photos, progress=False)
    (tmp_path / "w/init/checkpoints/0.orbax-checkpoint-tmp-1").mkdir(parents=True)
    tiny = {"data_dir": data_dir, "image_size": 32, "model.features": 16, "model.backbone_fields.width": 8}
    argument = {"task": "labels", "labels": "category", "form": "folders", "backbone": "vgg11_bn"}
    fields = finetune.import_weights(chosen, argument, tiny)
    assert fields == {"init_from": str(tmp_path / "w/init"), "init_skip": plan.FRESH}
    kept = checkpoint.restore_for_inference(tmp_path / "w/init")
    before = (tmp_path / "w/init/checkpoints/0").stat().st_mtime_ns
    np.testing.assert_array_equal(kept.params["backbone"]["features_0"]["bias"], tensors["features.0.bias"])
    finetune.import_weights(chosen, argument, tiny)  # it is there
    assert (tmp_path / "w/init/checkpoints/0").stat().st_mtime_ns == before


def test_frozen_backbones_get_a_classifier_from_zero():
    """Its first predictions are even; nothing else starts at zero."""
    params = {
        "backbone": {"kernel": np.ones(3)},
        "global_pool": {"norm": {"scale": np.ones(2)}},
        "cate_predictor": {"linear_cate": {"kernel": np.ones((2, 4)), "bias": np.ones(4)}},
    }
    zeroed = supervised.zero_heads(params)
    assert zeroed["backbone"] is params["backbone"] and zeroed["global_pool"] is params["global_pool"]
    assert not any(np.any(leaf) for leaf in zeroed["cate_predictor"]["linear_cate"].values())
    config = own.get_config("labels=category,backbone=vgg16,width=0,freeze=true")
    assert config.model.init == "zero_heads" and config.model.features is None


def test_fields_and_the_printed_command(tmp_path):
    with pytest.raises(UserError, match=r"--field=optim.rate=1: unknown config field"):
        plan.make_config({"task": "labels"}, {"optim.rate": 1})
    assert plan.typed({"a": "1.5", "b": "(1, 2)", "c": "true", "d": "words"}) == {
        "a": 1.5,
        "b": (1, 2),
        "c": True,
        "d": "words",
    }
    line = plan.command("train", workdir="my run", fields={"seed": 1, "init_skip": ("(?!b).*",), "x": "y"})
    assert line == (
        "fashionjax train '--workdir=my run' --config.seed=1 "
        "'--config.init_skip=('\"'\"'(?!b).*'\"'\"',)' --config.x=y"
    )


def test_a_workdir_belongs_to_its_options(tmp_path):
    first = options(tmp_path / "photos", tmp_path / "w", minutes=3.0)
    plan.write_state(first, plan.read_state(first))
    assert plan.read_state(first._replace(minutes=9.0))  # time may change
    with pytest.raises(UserError, match=r"was started with seed was 0, now 1; choose another --workdir"):
        plan.read_state(first._replace(seed=1))
    (tmp_path / "w" / plan.FILE).write_text("{")
    with pytest.raises(UserError, match=r"finetune.json: not readable"):
        plan.read_state(first)


def test_photos_that_changed(tmp_path):
    """Added, replaced and removed photos are seen; a workdir among the photos is refused."""
    photos = own_folders.classes(tmp_path / "photos", 4)
    seen = [plan.fingerprint(str(photos))]
    own_folders.photo(photos / "new/1.jpg", 0, 1)
    seen.append(plan.fingerprint(str(photos)))
    (photos / "new/1.jpg").write_bytes(b"other")
    seen.append(plan.fingerprint(str(photos)))
    (photos / "new/1.jpg").unlink()
    assert len(set(seen)) == 3 and plan.fingerprint(str(photos)) == seen[0]
    with pytest.raises(UserError, match=r"lies inside of .*; choose a folder beside"):
        plan.read_source(options(photos, photos / "runs/mine"))
    shop = own_folders.items(tmp_path / "shop", 2)
    assert plan.fingerprint(str(shop / "photos.csv")) != plan.fingerprint(str(shop))


def test_minutes_become_steps():
    assert finetune.planned(10, 0.5, 0.0) == (1080, 108)
    assert finetune.planned(10, 0.5, 40.0) == (1000, 100)
    assert finetune.planned(0.01, 5, 30.0) == (20, 2)


def test_training_stops_at_the_end_of_its_minutes(tmp_path, monkeypatch):
    """The time of earlier calls counts."""
    now = iter(np.arange(0.0, 100.0, 2.0))
    monkeypatch.setattr(finetune.time, "monotonic", lambda: float(next(now)))
    (tmp_path / finetune.ELAPSED).write_text("50.0")
    deadline = finetune.Deadline(tmp_path, 60.0)
    assert [deadline.asked for _ in range(7)] == [False] * 5 + [True] * 2 and deadline.passed
    assert deadline.reason == "--minutes=1 are over"
    assert json.loads((tmp_path / finetune.ELAPSED).read_text()) >= 56


def test_a_timed_run_ends_after_its_steps_and_seconds(monkeypatch):
    """Two steps wait for the compiler and are not counted."""
    steps, seconds = finetune.PROBED
    now = iter([0.0, 40.0, 50.0, *np.arange(60.0, 120.0)])
    monkeypatch.setattr(finetune.time, "monotonic", lambda: float(next(now)))
    timer = finetune.Timer()
    timer.from_now_on_save()
    with pytest.raises(finetune._Timed):
        while not timer.asked:
            pass
    assert len(timer.times) > steps and timer.times[-1] - timer.times[2] > seconds and timer.seconds() == 1
    assert timer.first() == 40


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["labels=category+attribute+landmark", "task=retrieval,form=table"])
def test_the_recipes_build(argument):
    config = own.get_config(f"{argument},tiny=true")
    assert config.steps and not config.epochs and config.similar_pairs
    assert config.optim.average and config.dataset == "synthetic"
    whole = own.get_config(argument)
    assert whole.dataset == f"own_photos/{'table' if 'table' in argument else 'folders'}"
    assert whole.epochs and not whole.steps and whole.eval_split == "val" and whole.test_split == "test"


# ------------------------------------------------------------------------------ whole runs
def words_of(source, workdir, *more, **fields) -> list[str]:
    """The command's arguments for a tiny model."""
    return [str(source), f"--workdir={workdir}", *more, *flags(TINY | fields)]


def finished(words) -> dict:
    """Run to its end → the JSON of the last line."""
    done = run("finetune", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


@pytest.mark.slow
def test_from_a_folder_to_a_page_and_predictions(tmp_path):
    """Damaged photos refuse the run and are listed; allowed, one command gives model, page and figure."""
    photos = own_folders.classes(tmp_path / "photos", 64, damaged=3)
    length = {"steps": 40, "epochs": 0, "eval_every": 20}
    refused = run("finetune", *words_of(photos, tmp_path / "w", **length))
    assert refused.returncode == 2 and "3 damaged photos, 0 allowed" in refused.stderr
    result = finished(words_of(photos, tmp_path / "v", "--allow_damaged=3", **length))
    assert result["checkpoint"] == str(tmp_path / "v") and result["split"] == "test" and result["n"] >= 8
    assert result["metrics"]["standard/category_top1"] >= 0.5  # four colours; chance is 0.25
    assert result["stderr"].count("left out: ") == 3
    learned = r"learns category \(4 classes of \d+ to \d+ photos\) from \d+ photos"
    assert re.search(learned, result["stderr"])
    commands = [line.split()[2] for line in result["stderr"].splitlines() if line.startswith("$ ")]
    assert commands == ["prepare", "train", "evaluate"]
    page = (tmp_path / "v/test/report.html").read_text()
    titles = ("Category confusion", "Results per category", "Look alike", "Images left out of the dataset")
    for title in (*titles, "own-images", "95 % interval"):
        assert title in page
    photo = next(path for path in sorted(photos.rglob("*.png")) if path.stat().st_size > 1000)
    said = run("predict", photo, f"--checkpoint={tmp_path / 'v'}")
    assert said.returncode == 0 and json.loads(said.stdout.splitlines()[0])["category"]


@pytest.mark.full
def test_from_a_table_with_items_to_a_page(tmp_path):
    """--minutes plans the steps; the model searches."""
    shop = own_folders.items(tmp_path / "shop", 24)
    result = finished(words_of(shop / "photos.csv", tmp_path / "w", "--minutes=0.3"))
    assert result["n"] and 0 <= result["metrics"]["standard/recall@1"] <= 1
    assert "s a step" in result["stderr"] and (tmp_path / "w/test/matches.jsonl").is_file()
    assert not (tmp_path / "w/.timing").exists()
    gallery, query = shop / "bilder", shop / "bilder/0_0.jpg"
    found = run("search", query, f"--checkpoint={tmp_path / 'w'}", f"--gallery={gallery}")
    assert found.returncode == 0, found.stderr


@pytest.mark.full
def test_from_a_coco_file_to_a_page(tmp_path):
    """One json without splits: they are made."""
    tree = instance_trees.coco_folder(tmp_path / "coco")
    for path in tree.glob("annotations/*val*.json"):
        path.unlink()
    tiny = {"resize.short_train": "(64,)", "resize.short_test": "64", "resize.longest": "64",
            "resize.buckets": "((64, 64),)", "model.channels": "16", "model.box_width": "32",
            "model.backbone_fields.width": "8", "batch_size": "2", "steps": "3", "epochs": "0",
            "eval_every": "3"}  # fmt: skip
    done = run("finetune", tree, f"--workdir={tmp_path / 'w'}", *flags(tiny))
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["n"] and (tmp_path / "w/test/report.html").is_file()


@pytest.mark.slow
def test_kill_in_every_phase(tmp_path):
    """Killed while it builds, imports, computes features, trains and evaluates, the same command goes on, and
    ends with the figures of a run that nobody killed."""
    photos = own_folders.classes(tmp_path / "photos", 60)
    more = (f"--init={trunk_file(tmp_path)}", "--freeze=backbone")
    length = {"steps": 12, "epochs": 0, "eval_every": 4, "feature_views": 2}
    length |= {"model.features": "None", "model.backbone_fields.width": 8}
    whole = finished(words_of(photos, tmp_path / "whole", *more, **length))
    work = tmp_path / "killed"
    words = words_of(photos, work, *more, **length)
    signs = {
        "prepare": lambda: any(work.glob("data/.building-*")),
        "import": lambda: (work / "init").is_dir(),
        "features": lambda: any(work.glob("data/**/features/*/train-0.npy")),
        "train": lambda: (work / "checkpoints/4").is_dir(),
        "evaluate": lambda: (work / "test").is_dir(),
    }
    for phase, sign in signs.items():
        killed = run("finetune", *words, kill_when=sign)
        assert killed.returncode == -signal.SIGKILL, phase
        assert not (work / "test/report.json").is_file(), phase
    result = finished(words)
    assert result["metrics"] == whole["metrics"] and result["n"] == whole["n"]
    (work / "test/report.json").unlink()  # a kill between the page and its figures
    again = finished(words)
    assert again["metrics"] == result["metrics"] and "step " not in again["stderr"]
    assert finished(words)["metrics"] == result["metrics"]
