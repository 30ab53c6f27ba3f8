"""coco_instances and deepfashion_parsing on small json files, whole and broken."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import instance_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
import trees
from PIL import Image

from fashionjax.data import builders, masks
from fashionjax.errors import UserError

TRAIN, VAL = "annotations/instances_train.json", "annotations/instances_val.json"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instance_trees.coco_folder(tmp_path_factory.mktemp("pristine") / "release")


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "release"))


def build(tree: Path, name: str = "coco_instances", **options) -> dict:
    return builders.prepare(name, data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options)


def read(tree: Path, name: str = "coco_instances") -> dict[str, list[dict]]:
    builder = tfds.builder_from_directory(tree.parent / "out" / name / "original/1.0.0")
    sources = builder.as_data_source(decoders={"image": tfds.decode.SkipDecoding()})
    return {split: list(records) for split, records in sources.items()}


def test_records(tree: Path) -> None:
    assert build(tree)["splits"] == {"train": 6, "val": 3}
    records = read(tree)
    first, second, third = records["train"][:3]
    assert [r["coco_id"] for r in records["train"]] == [1, 4, 7, 10, 13, 16]
    assert first["image_id"] == b"train/000.jpg" and (first["width"], first["height"]) == (40, 56)
    assert len(first["instance"]["box"]) == 0  # an image without objects
    assert first["image"] == (tree / "images/train/000.jpg").read_bytes()
    polygon, crowd = (json.loads(text) for text in third["instance"]["segmentation"])
    assert polygon == [instance_trees.RING, [1, 1, 3, 1, 2, 3]]
    assert crowd["size"] == [56, 40] and isinstance(crowd["counts"], str)  # runs become a string
    assert masks.area(masks.rle(crowd, 56, 40)) == 4
    np.testing.assert_array_equal(third["instance"]["box"], [[4, 6, 24, 36], [1, 2, 3, 4]])
    np.testing.assert_array_equal(third["instance"]["iscrowd"], [0, 1])
    np.testing.assert_array_equal(third["instance"]["area"], [602, 4])
    # names by id: bag (3), shirt (7); val numbers them otherwise
    builder = tfds.builder_from_directory(tree.parent / "out/coco_instances/original/1.0.0")
    assert builder.info.features["instance"]["category"].names == ["bag", "shirt"]
    assert builder.info.metadata["category_ids"] == [3, 7]
    assert second["instance"]["category"][0] == 0 and third["instance"]["category"][0] == 1
    assert [r["instance"]["category"] for r in records["val"]][1:] == [[1], [0, 0]]


def test_derived_box_and_area_and_a_compressed_string(tree: Path) -> None:
    """bbox and area may be missing; counts may be pycocotools' string."""

    def edit(content):
        polygon, crowd = content["annotations"][:2], content["annotations"][2]
        del polygon[0]["bbox"], polygon[0]["area"], polygon[1]["iscrowd"]
        mask = np.zeros((56, 40), bool)
        mask[5:9, 3:20] = True
        crowd["segmentation"] = {"size": [56, 40], "counts": masks.encode(mask)["counts"].decode()}
        del crowd["bbox"], crowd["area"]

    instance_trees.change(tree / TRAIN, edit)
    build(tree)
    records = read(tree)["train"]
    np.testing.assert_array_equal(records[1]["instance"]["box"], [[1, 1, 24, 36]])
    assert records[1]["instance"]["area"] == [602]
    np.testing.assert_array_equal(records[2]["instance"]["box"][1], [3, 5, 20, 9])
    assert records[2]["instance"]["area"][1] == 4 * 17


def test_splits_that_no_json_gives(tree: Path) -> None:
    """val_share and test_share hold out training images, copies of a file together."""
    (tree / VAL).unlink()
    shutil.copy(tree / "images/train/001.jpg", tree / "images/train/003.jpg")
    made = build(tree, overrides={"val_share": "0.2", "test_share": "0.2"})["splits"]
    assert sum(made.values()) == 6 and made["val"] and made["test"]
    split_of = {r["image_id"]: name for name, records in read(tree).items() for r in records}
    assert split_of[b"001.jpg"] == split_of[b"003.jpg"]
    with pytest.raises(UserError, match="test_share=1"):
        build(tree, overrides={"test_share": "1.0"}, overwrite=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"][1].pop("image_id"), r"annotations\[1\]: has no 'image_id'"),
        (lambda c: c["annotations"][1].update(image_id=99), r"annotations\[1\].image_id: 99 is the id of no"),
        (lambda c: c["annotations"][0].update(category_id=4), r"annotations\[0\].category_id: 4 is the id"),
        (lambda c: c["annotations"][1].update(id=10), r"annotations\[1\].id: 10 is the id of annotations\[0"),
        (lambda c: c["images"][2].update(id=1), r"images\[2\].id: 1 is the id of images\[0\] too"),
        (lambda c: c["images"][2].update(file_name="000.jpg"), r"images\[2\].file_name: '000.jpg' is that"),
        (lambda c: c["images"][0].update(file_name="../000.jpg"), r"images\[0\].file_name: .* leaves the"),
        (lambda c: c["images"][0].update(file_name="none.jpg"), r"images\[0\]: image none.jpg is missing"),
        (lambda c: c["images"][1].update(width=41), r"images\[1\]: says 41 x 56 pixels, but images/train"),
        (lambda c: c["categories"][1].update(id=7), r"categories\[1\].id: 7 is the id of categories\[0\]"),
        (lambda c: c["categories"][1].update(name="Shirt"), r"categories\[1\].name: 'Shirt' is the name of"),
        (lambda c: c["annotations"][0].update(bbox=[4, 6, 20]), r"annotations\[0\].bbox: 3 numbers instead"),
        (lambda c: c["annotations"][0].update(bbox=[4, 6, -2, 3]), r"annotations\[0\].bbox: width -2 and"),
        (lambda c: c["annotations"][0].update(bbox=[4, 6, 20, 51]), r"\[0\].bbox: box 4 6 24 57 leaves its"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), r"segmentation\[0\]: 3 values; x"),
        (lambda c: c["annotations"][0].update(segmentation=[1, 2, 3]), r"segmentation\[0\]: 1 is not a list"),
        (lambda c: c["annotations"][0].update(iscrowd=2), r"annotations\[0\].iscrowd: 2 is not in 0…1"),
        (
            lambda c: c["annotations"][2]["segmentation"].update(size=[40, 56]),
            r"\[2\].segmentation.size: \[40, 56\], but the image has \[56, 40\]",
        ),
        (lambda c: c["annotations"][2]["segmentation"].update(counts=[3, 4]), r"counts: runs of 7 pixels"),
        (lambda c: c["annotations"][2]["segmentation"].update(counts="a~"), r"counts: not a compressed run-"),
        (lambda c: c.pop("categories"), r"does not say|no COCO instances|not COCO instances"),
    ],
)
def test_refused(tree: Path, edit, message: str) -> None:
    instance_trees.change(tree / TRAIN, edit)
    with pytest.raises(UserError, match=message) as caught:
        build(tree, overrides={"train": TRAIN, "val": VAL})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(TRAIN)
    assert not trees.all_files(tree.parent / "out")


def test_not_json_names_the_line(tree: Path) -> None:
    (tree / TRAIN).write_text('{"images": [],\n "annotations": [}')
    with pytest.raises(UserError, match=r"instances_train.json:2: not JSON"):
        build(tree)


def test_categories_are_matched_by_name(tree: Path) -> None:
    instance_trees.change(tree / VAL, lambda c: c["categories"][0].update(name="hat"))
    with pytest.raises(UserError, match=r"instances_val.json: categories: 'hat' is not one of bag, shirt"):
        build(tree)


@pytest.mark.slow
def test_one_json_of_any_name_and_images_in_a_zip(tmp_path: Path) -> None:
    root = tmp_path / "release"
    for i in range(3):
        trees.picture(root / f"pictures/{i}.jpg", i, instance_trees.SIZE)
    instance_trees.dump(root / "mine.json", instance_trees.coco([f"{i}.jpg" for i in range(3)], [(0, "a")]))
    trees.pack(root / "pictures", root / "pictures.zip")
    assert build(root)["splits"] == {"train": 3}


def test_ambiguous_files_are_refused(tree: Path) -> None:
    trees.picture(tree / "more/train/000.jpg", 1, instance_trees.SIZE)
    with pytest.raises(UserError, match=r"images\[0\]: image 000.jpg may be images/train/000.jpg or more/"):
        build(tree)
    assert build(tree, overrides={"images": "images"})["splits"] == {"train": 6, "val": 3}
    shutil.copy(tree / TRAIN, tree / "annotations/again_train.json")
    with pytest.raises(UserError, match=r"is a json of train too; give --set=train=FILE"):
        build(tree, overwrite=True)


@pytest.mark.slow
def test_clipped_boxes_and_damaged_images(tree: Path) -> None:
    instance_trees.change(tree / TRAIN, lambda c: c["annotations"][0].update(bbox=[-2, 6, 20, 60]))
    (tree / "images/train/005.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"images/train/005.jpg: damaged image \(not an image\)"):
        build(tree)
    result = build(tree, skip_damaged=True, overrides={"clip_boxes": "true"})
    assert result["splits"] == {"train": 5, "val": 3}
    assert result["skipped"] == [{"id": "train/005.jpg", "reason": "not an image"}]
    np.testing.assert_array_equal(read(tree)["train"][1]["instance"]["box"], [[0, 6, 18, 56]])


@pytest.mark.slow
def test_exif_orientation(tree: Path) -> None:
    """Annotations refer to the image as it is shown; exif=false to the stored one."""
    path = tree / "images/train/001.jpg"
    shown = Image.open(path).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    shown.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif, quality=95)
    build(tree)
    stored = Image.open(io.BytesIO(read(tree)["train"][1]["image"]))
    assert stored.size == (40, 56) and not stored.getexif()
    difference = np.abs(np.asarray(stored, float) - np.asarray(shown, float)).mean()
    turned = np.abs(np.asarray(stored, float)[::-1, ::-1] - np.asarray(shown, float)).mean()
    assert difference < 5 < turned
    with pytest.raises(UserError, match=r"says 40 x 56 pixels, but .* has 56 x 40 \(--set=exif=false"):
        build(tree, overrides={"exif": "false"}, overwrite=True)


# ------------------------------------------------------------------------------ deepfashion_parsing
@pytest.mark.parametrize("prefix", ["img_highres/", ""])
def test_parsing_records(tmp_path: Path, prefix: str) -> None:
    tree = instance_trees.parsing(tmp_path / "release", prefix)
    result = build(tree, "deepfashion_parsing")
    assert result["splits"] == {"train": 3, "query": 3, "gallery": 3}
    records = read(tree, "deepfashion_parsing")
    assert records["query"][1]["instance"]["category"] == [1]
    assert records["query"][1]["coco_id"] == 104


@pytest.mark.slow
def test_parsing_variants_and_refusals(tmp_path: Path, capsys) -> None:
    """Json files in Anno/segmentation; classes in another order are matched by name and reported."""
    tree = instance_trees.parsing(tmp_path / "release")
    shutil.move(tree / "annotations", tree / "Anno/segmentation")
    file = tree / "Anno/segmentation/DeepFashion_segmentation_train.json"

    def swap(content):
        first, second = content["categories"][:2]
        first["name"], second["name"] = second["name"], first["name"]

    instance_trees.change(file, swap)
    build(tree, "deepfashion_parsing")
    assert "train.json: classes are not in the benchmark's order" in capsys.readouterr().err
    assert read(tree, "deepfashion_parsing")["train"][1]["instance"]["category"] == [0]
    instance_trees.change(file, lambda c: c["categories"][0].update(name="cape"))
    with pytest.raises(UserError, match=r"train.json: categories: 'cape' is not one of top, skirt"):
        build(tree, "deepfashion_parsing", overwrite=True)
    query = file.with_name("DeepFashion_segmentation_query.json")
    shutil.copy(query, file)
    with pytest.raises(UserError, match=r"query.json: images\[0\].file_name: .* is that of .*train.json: im"):
        build(tree, "deepfashion_parsing", overwrite=True)
    file.unlink()
    with pytest.raises(UserError, match=r"DeepFashion_segmentation_train.json: not found below"):
        build(tree, "deepfashion_parsing", overwrite=True)
    assert read(tree, "deepfashion_parsing")["train"]  # what was there is untouched
