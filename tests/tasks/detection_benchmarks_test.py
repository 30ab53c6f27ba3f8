"""Records of the published benchmarks, written by the release writer, through the detection task."""

import numpy as np
import pytest

from experiments import cascade, common, mask_rcnn
from fashionjax import evaluate, tasks, train
from fashionjax.data import builders, instances, source
from fashionjax.task import Context
from tfds_builders.synthetic_fashion import release

SETTINGS = {  # records of the release, the experiment, its splits
    "deepfashion_parsing": (9, lambda: mask_rcnn.get_config("tiny=true"), ("train", "query")),
    "deepfashion2": (12, lambda: cascade.get_config("model=mask_rcnn,tiny=true"), ("train", "val")),
    "kfashion": (9, lambda: cascade.get_config("stage=kfashion,tiny=true"), ("train", "val")),
}


@pytest.fixture(scope="module", params=SETTINGS)
def prepared(request, tmp_path_factory):
    """(config of the benchmark at a tiny size, its data folder)."""
    name = request.param
    records, make, splits = SETTINGS[name]
    folder = tmp_path_factory.mktemp(name)
    release.write_release(name, folder / "in", records, seed=3, size=64)
    builders.prepare(name, data_dir=folder / "out", manual_dir=folder / "in", progress=False)
    config = make()
    config.dataset, config.data_dir = name, str(folder / "out")
    config.train_split, config.eval_split = splits
    config.batch_size, config.steps = 2, 1
    if name == "deepfashion2":  # as its published row
        config.truth.update({"first_polygon": True, "box_from_mask": True, "drop_origin": True})
        config.truth.half_pixel = config.sampler.shop_only = True
    config.labels = source.open_split(name, splits[0], folder / "out").labels
    return config, folder / "out"


def test_the_order_reads_real_columns(prepared):
    """Every position is an image with objects, under shop_only a shop's; orientations come together."""
    config, folder = prepared
    split = source.open_split(config.dataset, config.train_split, folder)
    order = tasks.make(config).sampler(split.column)
    rows = [order.at(0, position) for position in range(2 * order.epoch)]
    assert order.epoch >= 2 and set(rows) <= set(range(len(split)))
    assert all(len(split[row]["instance"]["category"]) for row in set(rows))
    if config.sampler.shop_only:
        assert {int(split[row]["source"]) for row in rows} == {instances.SHOP}
        assert 1 in split.column("source")
    height, width = split.column("height"), split.column("width")
    assert height.shape == width.shape == (len(split),)


def test_examples_and_perfect_detections(prepared):
    """A batch of training examples; boxes of the annotation as detections have an AP of 1."""
    config, folder = prepared
    task = tasks.make(config)
    split = source.open_split(config.dataset, config.train_split, folder)
    examples = [task.preprocess(split[row], np.random.default_rng(row)) for row in range(2)]
    batch = task.collate(examples)
    assert batch["image"].shape[1:] in {(*bucket, 3) for bucket in config.resize.buckets}
    valid = batch["truth_valid"]
    assert valid.any(axis=1).all() and batch["truth_masked"][valid].all()
    assert (batch["truth_label"][valid] < len(config.labels.category)).all()
    held_out = source.open_split(config.dataset, config.eval_split, folder)
    excluded = set()
    metrics = task.metrics(Context(record=held_out.__getitem__, exclude=excluded.update))
    truth = {name: bool(value) for name, value in config.truth.items() if isinstance(value, bool)}
    for row in range(len(held_out)):
        example = task.preprocess(held_out[row], None)
        found = instances.instances(held_out[row], **truth)
        scale = np.tile(example["size"] / example["original_size"], 2)[::-1]
        inclusive = [0, 0, 1, 1] if config.model.geometry.inclusive_boxes else 0
        n = len(found.box)
        prediction = {"box": found.box * scale - inclusive, "category": found.category}
        prediction |= {"score": np.full(n, 0.9), "detection_valid": np.ones(n, bool)}
        prediction["mask_logits"] = np.full((n, 14, 14), 9.0)
        batch = {"example_valid": [True], "index": [row], "size": example["size"][None]}
        batch["original_size"] = example["original_size"][None]
        metrics.update({name: value[None] for name, value in prediction.items()}, batch)
    result = metrics.result()
    # boxes go through the resized image's pixels and back
    assert result["standard/box_ap"] > 0.9 and result["standard/box_ap50"] == pytest.approx(1)
    users = set(np.flatnonzero(held_out.column("source") != instances.SHOP)) if excluded else set()
    assert excluded == users and bool(excluded) == bool(config.sampler.shop_only)


@pytest.mark.full
def test_a_step_is_trained_and_evaluated(prepared, tmp_path):
    config, _ = prepared
    config.batch_size = 8  # one image a device
    state = train.train(config, tmp_path)
    assert int(state.step) == 1
    result = evaluate.evaluate(tmp_path, config.eval_split, tmp_path / "out", which="last")
    assert result["n"] == result["n_total"] > 0 and "standard/mask_ap" in result["metrics"]
    assert not result["missing"] and result["label"] == "synthetic"


def test_small_and_tiny_keep_the_recipes_geometry():
    config = common.base()
    common.detection(config, "resnet50")
    mask_rcnn.mmdetection(config)
    tiny = mask_rcnn.get_config("tiny=true")
    assert tiny.model.geometry.to_dict() == config.model.geometry.to_dict()
