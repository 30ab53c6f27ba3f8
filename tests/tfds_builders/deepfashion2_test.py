"""deepfashion2 and kfashion on small releases in the original format, whole and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import instance_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
import trees

from fashionjax.data import builders
from fashionjax.errors import UserError
from tfds_builders.deepfashion2 import deepfashion2_dataset_builder as deepfashion2

NAME = "deepfashion2"
FIRST = "train/annos/000001.json"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instance_trees.deepfashion2(tmp_path_factory.mktemp("pristine") / "release")


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "release"))


def build(tree: Path, name: str = NAME, **options) -> dict:
    return builders.prepare(name, data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options)


def read(tree: Path, name: str = NAME) -> dict[str, list[dict]]:
    builder = tfds.builder_from_directory(tree.parent / "out" / name / "original/1.0.0")
    sources = builder.as_data_source(decoders={"image": tfds.decode.SkipDecoding()})
    return {split: list(records) for split, records in sources.items()}


def test_tables() -> None:
    """Every class with its points; 294 slots; each pair within a class and no point in two of them."""
    assert len(deepfashion2.CATEGORIES) == 13 and sum(deepfashion2.LANDMARKS) == 294
    assert deepfashion2.LANDMARKS == (25, 33, 31, 39, 15, 15, 10, 14, 8, 29, 37, 19, 19)
    pairs = np.array(deepfashion2.flip_pairs())
    assert len(set(pairs.ravel().tolist())) == pairs.size and pairs.min() == 1 and pairs.max() == 293
    of = np.repeat(np.arange(13), deepfashion2.LANDMARKS)
    assert (of[pairs[:, 0]] == of[pairs[:, 1]]).all()
    # what is in no pair lies on the middle line: neck and hem of a short sleeve top are its points 1, 4, 16
    alone = set(range(25)) - set(pairs[of[pairs[:, 0]] == 0].ravel().tolist())
    assert alone == {0, 3, 15}


def test_records(tree: Path, capsys) -> None:
    assert build(tree)["splits"] == {"train": 3, "val": 2, "test": 1}
    assert "note: test: has no annotations" in capsys.readouterr().err
    records = read(tree)
    first, second = records["train"][:2]
    assert first["image"] == (tree / "train/image/000001.jpg").read_bytes()
    assert (first["coco_id"], first["pair_id"], first["source"], first["annotated"]) == (1, 41, 1, 1)
    assert (second["source"], records["test"][0]["source"], records["test"][0]["annotated"]) == (0, 2, 0)
    assert records["test"][0]["pair_id"] == -1 and len(records["test"][0]["instance"]["box"]) == 0
    item = first["instance"]
    assert item["category"] == [7]  # trousers: 14 points
    assert json.loads(item["segmentation"][0]) == [instance_trees.RING, [0, 0, 30, 40, 32, 50]]
    levels = [item[key][0] for key in ("style", "scale", "occlusion", "zoom_in", "viewpoint")]
    assert levels == [1, 2, 1, 3, 2]
    assert item["visibility"][0].tolist() == [0, 1, 2] * 4 + [0, 1] + [3] * 25
    np.testing.assert_allclose(item["landmark"][0][:3], [[4 / 40, 6 / 56], [5 / 40, 7 / 56], [0, 0]])
    metadata = tfds.builder_from_directory(tree.parent / "out/deepfashion2/original/1.0.0").info.metadata
    assert metadata["category_ids"] == list(range(1, 14)) and metadata["landmark_counts"][0] == 25


def test_variants(tree: Path) -> None:
    """The folder val, items in the order of their numbers, none labelled, zips with and without a folder."""
    plain = Path(shutil.copytree(tree, tree.parent / "plain/release"))
    build(plain)

    def many(content):
        item = content.pop("item1")
        content |= {f"item{k}": item | {"style": k} for k in (10, 2, 1)}
        content["item1"] |= {"landmarks": [0] * 42, "segmentation": [], "category_name": "Trousers"}

    (tree / "validation").rename(tree / "val")
    trees.pack(tree / "val", tree / "val.zip", extra=[("../annos/000009.json", b"{}")])
    trees.pack(tree / "test", tree / "DeepFashion2_test.zip", prefix="test/")
    instance_trees.change(tree / FIRST, many)
    assert build(tree)["splits"] == {"train": 3, "val": 2, "test": 1}
    left, right = read(tree), read(plain)
    assert left["val"][1]["image"] == right["val"][1]["image"]
    np.testing.assert_array_equal(
        left["val"][1]["instance"]["landmark"], right["val"][1]["instance"]["landmark"]
    )
    assert list(left["train"][0]["instance"]["style"]) == [1, 2, 10]
    assert left["train"][0]["instance"]["visibility"][0].tolist() == [2] * 14 + [3] * 25
    shutil.rmtree(tree / "train/annos")
    shutil.move(plain / "train/annos", tree / "train/annos")
    (tree / "DeepFashion2_test.zip").unlink()
    assert build(tree, overwrite=True)["splits"] == {"train": 3, "val": 2}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("source"), r"000001.json: has no 'source'"),
        (lambda c: c.update(source="street"), r"source: 'street' is neither 'shop' nor 'user'"),
        (lambda c: c.update(pair_id="4"), r"pair_id: \"4\" is not a whole number"),
        (lambda c: c["item1"].update(category_id=14), r"item1.category_id: 14 is not in 1…13"),
        (lambda c: c["item1"].update(category_name="skirt"), r"item1.category_name: 'skirt', but cat"),
        (lambda c: c["item1"].update(scale=4), r"item1.scale: 4 is not in 1…3"),
        (lambda c: c["item1"].pop("viewpoint"), r"item1: has no 'viewpoint'"),
        (lambda c: c["item1"].update(bounding_box=[24, 6, 4, 36]), r"item1.bounding_box: box 24 6 4 36 is"),
        (lambda c: c["item1"].update(bounding_box=[4, 6, 24, 57]), r"item1.bounding_box: box 4 6 24 57 l"),
        (lambda c: c["item1"].update(landmarks=[1, 2, 2]), r"item1.landmarks: 3 values instead of 42"),
        (lambda c: c["item1"]["landmarks"].__setitem__(5, 3), r"item1.landmarks\[5\]: visibility 3 is not"),
        (lambda c: c["item1"]["segmentation"][1].pop(), r"item1.segmentation\[1\]: 5 values; x and y"),
        (lambda c: c.update(item1=[1]), r"item1: not an object"),
    ],
)
def test_refused(tree: Path, edit, message: str) -> None:
    instance_trees.change(tree / FIRST, edit)
    with pytest.raises(UserError, match=message) as caught:
        build(tree)
    assert str(caught.value).startswith(FIRST) and not trees.all_files(tree.parent / "out")


def test_images_and_annotations_belong_together(tree: Path) -> None:
    (tree / FIRST).rename(tree / "away")
    with pytest.raises(UserError, match=r"train/image/000001.jpg: has no annotation \(train/annos/000001.js"):
        build(tree)
    (tree / "away").rename(tree / FIRST)
    (tree / "validation/image/000002.jpg").unlink()
    with pytest.raises(UserError, match=r"validation/annos/000002.json: has no image"):
        build(tree)
    shutil.copytree(tree / "validation", tree / "val")
    with pytest.raises(UserError, match=r"validation and val are both there; the split val must be one"):
        build(tree)
    for name in ("val", "validation"):
        shutil.rmtree(tree / name)
    with pytest.raises(UserError, match=r"validation or val/image: not found below .*, neither unpacked nor"):
        build(tree)


def test_damaged_image(tree: Path) -> None:
    path = tree / "train/image/000002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"train/image/000002.jpg: damaged image"):
        build(tree)
    result = build(tree, skip_damaged=True)
    assert result["splits"]["train"] == 2 and result["skipped"][0]["id"] == "train/image/000002.jpg"


def test_kfashion(tmp_path: Path) -> None:
    """Category ids from 0; levels that are not given are 0; colours and styles by name or number."""
    tree = instance_trees.kfashion(tmp_path / "release")
    assert build(tree, "kfashion")["splits"] == {"train": 1, "val": 1, "test": 1}
    record = read(tree, "kfashion")["test"][0]
    item = record["instance"]
    assert record["coco_id"] == 902 and record["pair_id"] == 2 and "landmark" not in item
    assert list(item["category"]) == [18, 0] and item["box"][0].tolist() == [4, 6, 24.5, 36]
    assert (item["color"], item["style_name"]) == ([b"navy", b"5"], [b"street", b""])
    assert list(item["style"]) == [0, 3] and list(item["viewpoint"]) == [0, 0]
    shutil.copytree(tree / "test", tree / "test_sample")
    assert build(tree, "kfashion", overwrite=True)["splits"]["test_sample"] == 1
    edit = {"category_id": 21}
    instance_trees.change(tree / "val/annos/901.json", lambda c: c["item10"].update(edit))
    with pytest.raises(UserError, match=r"val/annos/901.json: item10.category_id: 21 is not in 0…20"):
        build(tree, "kfashion", overwrite=True)
