"""Features of a frozen backbone: kept beside the dataset, equal to those computed from the images."""

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import own_folders
import pytest

from experiments import own
from fashionjax import train
from fashionjax.data import builders, pipeline
from fashionjax.data.source import open_split
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.runtime import datasets, features


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    tree = own_folders.classes(tmp_path_factory.mktemp("photos") / "photos", 40)
    builders.prepare("own_photos/folders", data_dir=tree.parent / "data", manual_dir=tree, progress=False)
    return tree.parent / "data"


def config_of(photos):
    config = own.get_config("labels=category,backbone=vgg11_bn,freeze=true,tiny=true")
    config.dataset = "own_photos/folders"
    config.data_dir, config.steps, config.eval_every, config.save_every = str(photos), 6, 3, 0
    config.feature_views, config.batch_size = 2, 16
    return config


def views(folder) -> dict:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("own_photos/**/features/*/*.npy")}


@pytest.mark.slow
def test_features_are_computed_once_and_predict_as_images_do(photos, tmp_path, capsys):
    config = config_of(photos)
    run = train.train(config, tmp_path / "one")
    kept = views(photos)
    assert set(kept) == {"train-0.npy", "train-1.npy", "val-0.npy"}
    assert "features of train, view 2" in capsys.readouterr().err
    backbone = jax.tree.leaves(run.params["backbone"])
    # a checkpoint predicts from images what the head learned from features
    restored = inference.load(tmp_path / "one", "last")
    split = datasets.open_split(config, "val")
    batch = next(pipeline.eval_batches(split, restored.task.preprocess, batch_size=8))
    from_images = inference.run(restored, batch)["category_logits"]
    (file,) = photos.glob("own_photos/**/features/*/val-0.npy")
    stored = np.load(file).astype(np.float32)[:8]
    from_features = inference.run(
        restored, {name: batch[name] for name in ("index", "example_valid")} | {"reduced": stored}
    )["category_logits"]
    # the features are float16: 11 bits, through one normalised layer
    np.testing.assert_allclose(from_features, from_images, rtol=0.02, atol=0.02)
    assert np.ptp(from_images) > 0.1
    # another seed reads the same files: nothing is computed again
    config.seed, config.init_from = 1, str(tmp_path / "one")
    config.init_skip = ("(?!backbone/).*",)
    again = train.train(config, tmp_path / "two")
    assert views(photos) == kept
    for old, new in zip(backbone, jax.tree.leaves(again.params["backbone"]), strict=True):
        np.testing.assert_array_equal(old, new)
    # a view that a kill left out is computed alone
    (lost,) = photos.glob("own_photos/**/features/*/train-1.npy")
    shutil.move(lost, tmp_path / "train-1.npy")
    train.train(config, tmp_path / "three")
    assert {name for name, time in views(photos).items() if time != kept[name]} == {"train-1.npy"}
    np.testing.assert_array_equal(np.load(lost), np.load(tmp_path / "train-1.npy"))


def test_views_of_a_record(photos):
    """Evaluation reads the first view, training a drawn one with its labels; an unreadable record is none."""
    split = open_split("own_photos/folders", "train", photos)
    arrays = [np.full((len(split), 3), view, np.float16) for view in range(4)]
    labels = {"category": np.arange(len(split)), "example_valid": np.ones(len(split), bool)}
    labels["example_valid"][1] = False
    stored = features.Stored(split, arrays, labels)
    assert features.read(stored[2], None)["reduced"].tolist() == [0, 0, 0]
    drawn = [features.read(stored[2], np.random.default_rng(seed))["reduced"][0] for seed in range(40)]
    assert set(drawn) == {0, 1, 2, 3} and features.read(stored[2], None)["category"] == 2
    assert pipeline.read(stored, features.read, 1) is None
    assert stored.column("category").shape == (len(split),)


def test_what_cannot_be_kept(photos):
    config = config_of(photos)
    config.optim.frozen = ()
    run = SimpleNamespace(params={"backbone": {"kernel": 0}, "cate_predictor": {"kernel": 0}})
    with pytest.raises(UserError, match="needs a frozen backbone"):
        features._check(config, None, run)
    config = config_of(photos)
    config.model.labels_predicted = ("category", "landmark")
    with pytest.raises(UserError, match="one vector of its backbone"):
        features._check(config, SimpleNamespace(reduce=len), run)
