"""The synthetic world in the layouts with instance masks: outlines, classes and what the files hold."""

import json

import numpy as np
import pytest

from fashionjax.data import instances, masks, source
from fashionjax.data.builders import prepare
from tfds_builders.deepfashion2 import deepfashion2_dataset_builder as deepfashion2
from tfds_builders.kfashion import kfashion_dataset_builder as kfashion
from tfds_builders.synthetic_fashion import instance_release, release, world
from tfds_builders.synthetic_fashion.outlines import outlines


def test_outlines_by_hand():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    assert outlines(mask) == [[2, 1, 5, 1, 5, 3, 2, 3]]
    mask[3, 1] = True  # touches by a corner: a part of its own, smaller and so behind
    assert outlines(mask) == [[2, 1, 5, 1, 5, 3, 2, 3], [1, 3, 2, 3, 2, 4, 1, 4]]
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert outlines(ring) == [[0, 0, 3, 0, 3, 3, 0, 3]]  # the hole is filled
    assert outlines(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("seed", range(8))
def test_outlines_rasterise_to_the_mask(seed):
    """Parts without holes: every column is one run, so nothing is enclosed."""
    rng = np.random.default_rng(seed)
    mask = np.arange(12)[:, None] < rng.integers(0, 12, 15)[None]
    rle = masks.rle_from_polygons(outlines(mask), 12, 15)
    np.testing.assert_array_equal(masks.decode(rle), mask)


def test_every_class_of_both_benchmarks_occurs():
    items = [world.make_item(0, number) for number in range(4000)]
    assert {instance_release._class_of("deepfashion2", item) for item in items} == {*deepfashion2.CATEGORIES}
    assert {instance_release._class_of("kfashion", item) for item in items} == {*kfashion.CATEGORIES}


def test_coco_instances_has_each_kind_of_annotation(tmp_path):
    release.write_release("coco_instances", tmp_path / "in", 34, seed=1, size=64)
    content = json.loads((tmp_path / "in/annotations/instances_train.json").read_text())
    kinds = {type(a["segmentation"]).__name__ for a in content["annotations"]}
    counts = {
        type(a["segmentation"]["counts"]) for a in content["annotations"] if "counts" in a["segmentation"]
    }
    assert kinds == {"list", "dict"} and counts == {str, list}
    assert any(a["iscrowd"] for a in content["annotations"])
    assert {i["id"] for i in content["images"]} - {a["image_id"] for a in content["annotations"]}
    ids = [c["id"] for c in content["categories"]]
    assert max(ids) > len(ids)
    prepare("coco_instances", data_dir=tmp_path / "out", manual_dir=tmp_path / "in", progress=False)
    split = source.open_split("coco_instances", "train", tmp_path / "out")
    assert split.synthetic and split.labels["category_id"] == ids
    assert split.labels["category"] == [c["name"] for c in content["categories"]]
    compared = 0
    for row in range(len(split)):
        record = split[row]
        found = instances.instances(record)
        size = int(record["height"]), int(record["width"])
        for box, area, segmentation in zip(found.box, found.area, found.segmentation):
            rle = masks.rle(segmentation, *size)
            np.testing.assert_array_equal(masks.bounds(rle), box)
            if isinstance(segmentation, dict):
                assert masks.area(rle) == area
                compared += 1
    assert compared > 20


def test_deepfashion2_pairs_shop_and_user(tmp_path):
    written = release.write_release("deepfashion2", tmp_path / "in", 14, seed=2, size=64, packed=True)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [
        *("SYNTHETIC.txt", "test.zip", "train.zip", "validation.zip")
    ]
    prepare("deepfashion2", data_dir=tmp_path / "out", manual_dir=tmp_path / "in", progress=False)
    split = source.open_split("deepfashion2", "train", tmp_path / "out")
    assert len(split) == written["splits"]["train"] == 10
    assert split.column("source").tolist() == [0, 1] * 5
    assert split.column("pair_id").tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    landmark, visibility = instances.landmark_slots(split[0], split.labels["landmark_count"])
    assert landmark.shape[1:] == (294, 2) and ((visibility < 2).sum(1) > 0).all()
    assert len(split.labels["landmark_flip"]) == 131
    assert source.open_split("deepfashion2", "test", tmp_path / "out")[0]["annotated"] == 0


def test_parsing_has_garments_and_parts_of_the_body(tmp_path):
    release.write_release("deepfashion_parsing", tmp_path / "in", 12, seed=0, size=96)
    content = json.loads((tmp_path / "in/annotations/DeepFashion_segmentation_train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert len(names) == 15 and content["images"][0]["file_name"].startswith("img_highres/")
    seen = {names[annotation["category_id"]] for annotation in content["annotations"]}
    assert {"skin", "hair", "face", "footwear"} <= seen
    assert seen & {"top", "skirt", "dress", "outer", "pants", "leggings"}
