"""deepfashion_inshop: item ids, splits, repeated rows, high-resolution images, MMFashion's lists, broken
trees.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image

from fashionjax.data import builders, source
from fashionjax.errors import UserError

NAME = "deepfashion_inshop"
BOXES, MARKS = "Anno/list_bbox_inshop.txt", "Anno/list_landmarks_inshop.txt"
PARTITION, ITEMS = "Eval/list_eval_partition.txt", "Anno/list_item_inshop.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.in_shop(tmp_path / "release")


def build(tree: Path, config: str = "original", **options) -> dict:
    return builders.prepare(
        f"{NAME}/{config}", data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options
    )


def opened(tree: Path, split: str, config: str = "original") -> source.Split:
    return source.open_split(f"{NAME}/{config}", split, tree.parent / "out")


def test_original(tree: Path) -> None:
    assert build(tree)["splits"] == {"train": 12, "query": 2, "gallery": 4}
    query = opened(tree, "query")
    assert [query[i]["item_id"] for i in range(2)] == ["id_00000005", "id_00000006"]
    assert query.labels["category"] == ["MEN/Jackets_Coats", "WOMEN/Jackets_Coats"]
    assert query.labels["attribute"] == [name for name, _ in trees.ATTRIBUTES]
    record = opened(tree, "train")[1]
    assert record["image_id"] == "img/WOMEN/Jackets_Coats/id_00000001/02_1_front.jpg"
    assert (record["category"], record["garment_type"], record["variation"], record["pose"]) == (1, 1, 2, 2)
    np.testing.assert_array_equal(record["attribute"], [1, 0, 0, 1, 0, 0])  # the item's
    np.testing.assert_array_equal(record["visibility"], [0, 1, 2, 0, 3, 3, 3, 3])
    np.testing.assert_array_equal(record["box"], np.float32([4, 5, 40, 50]))


def test_without_attributes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "Anno/list_attr_items.txt").unlink()
    build(tree)
    assert "attribute" not in opened(tree, "train").features
    assert "note: no attributes" in capsys.readouterr().err


@pytest.mark.parametrize("counted", [True, False])
def test_repeated_rows_are_merged(tree: Path, counted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether or not the count line counts them."""
    for file, number in ((PARTITION, 3), (BOXES, 2), (MARKS, 1)):
        lines = (tree / file).read_text().rstrip("\n").split("\n")
        repeated = [*lines, *lines[5 : 5 + number]]
        if counted:
            repeated[0] = str(len(repeated) - 2)
        (tree / file).write_text("\n".join(repeated) + "\n")
    assert build(tree)["splits"] == {"train": 12, "query": 2, "gallery": 4}
    shown = capsys.readouterr().err
    for file, number in ((PARTITION, 3), (BOXES, 2), (MARKS, 1)):
        assert f"note: {file}: {number} rows repeat earlier ones" in shown


def test_high_resolution_pictures(tree: Path) -> None:
    """Annotations in the 256-pixel square follow the image; the small images win unless asked
    otherwise.
    """
    for path in sorted((tree / "Img/img").rglob("*.jpg")):
        large = tree / "Img/img_highres" / path.relative_to(tree / "Img/img")
        large.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (384, 512), (90, 20, 70)).save(large)
        Image.new("RGB", (256, 256)).save(path)
    trees.edit(tree / BOXES, 3, lambda line: f"{line.split()[0]} 2 1 32 0 224 256")
    trees.edit(tree / MARKS, 3, lambda line: f"{line.split()[0]} 2 1 0 32 0 0 224 256 1 128 128 2 0 0")
    build(tree)
    small = opened(tree, "train")[0]
    np.testing.assert_array_equal(small["box"], np.float32([32, 0, 224, 256]))
    np.testing.assert_allclose(small["landmark"][:3], [[0.125, 0], [0.875, 1], [0.5, 0.5]])
    build(tree, overrides={"pictures": "img_highres"}, overwrite=True)
    record = opened(tree, "train")[0]
    assert record["image_id"] == small["image_id"]
    np.testing.assert_allclose(record["box"], [0, 0, 384, 512])  # 256 / 512 of the size, 32 pixels of margin
    np.testing.assert_allclose(record["landmark"][:4], [[0, 0], [1, 1], [0.5, 0.5], [0, 0]])
    np.testing.assert_array_equal(record["visibility"], small["visibility"])
    trees.edit(tree / BOXES, 3, lambda line: line.replace("256", "257"))
    with pytest.raises(
        UserError, match=rf"{BOXES}:3: box 32 0 224 257 leaves its image .* of 384 x 512 .* 256-pix"
    ):
        build(tree, overrides={"pictures": "img_highres"}, overwrite=True)
    trees.edit(tree / BOXES, 3, lambda line: f"{line.split()[0]} 2 1 2 0 32 256")  # in the padding alone
    for clip in (False, True):
        with pytest.raises(UserError, match=rf"{BOXES}:3: box 2 0 32 256 lies outside its image"):
            build(tree, overrides={"pictures": "img_highres", "clip_boxes": clip}, overwrite=True)
    with pytest.raises(UserError, match="pictures=both: must be one of auto, img, img_highres"):
        build(tree, overrides={"pictures": "both"}, overwrite=True)


def test_only_high_resolution_pictures(tree: Path) -> None:
    (tree / "Img/img").rename(tree / "Img/img_highres")
    build(tree)
    np.testing.assert_array_equal(
        opened(tree, "train")[0]["box"], np.float32([4, 5, 40, 50])
    )  # no larger than 256


BROKEN = {
    "item": (
        PARTITION,
        4,
        "id_00000001 ",
        "id_00000077 ",
        f"{PARTITION}:4: item id_00000077 is not in {ITEMS}",
    ),
    "folder": (
        PARTITION,
        4,
        " id_00000001 ",
        " id_00000002 ",
        f"{PARTITION}:4: image .* folder of id_00000001",
    ),
    "split": (
        PARTITION,
        4,
        "train",
        "test",
        f"{PARTITION}:4: split 'test' is not one of train, query, gallery",
    ),
    "item list": (ITEMS, 3, "id_00000002", "id_00000001", f"{ITEMS}:3: item id_00000001 is listed again"),
    "item count": (ITEMS, 1, "6", "7", f"{ITEMS}:1: the first line says 7 rows, the file has 6"),
    "label item": (
        "Anno/list_attr_items.txt",
        5,
        "id_00000003",
        "id_99",
        "items.txt:5: item id_99 is not in",
    ),
    "conflict": (
        BOXES,
        6,
        "MEN/Jackets_Coats/id_00000002/01_0",
        "WOMEN/Jackets_Coats/id_00000001/03_2",
        f"{BOXES}:6: image .* other values .* line 5",
    ),
    "clothes type": (
        BOXES,
        6,
        "   1    4    4",
        "   2    4    4",
        f"{BOXES}:6: clothes type 2 of image .*; it is 1 in {MARKS}",
    ),
    "pose": (BOXES, 6, "   4    4    5", "   x    4    5", f"{BOXES}:6: code: 'x'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken(tree: Path, case: str) -> None:
    file, line, old, new, message = BROKEN[case]
    before = (tree / file).read_text()
    trees.edit(tree / file, line, lambda text: text.replace(old, new, 1))
    assert (tree / file).read_text() != before
    with pytest.raises(UserError, match=message):
        build(tree)
    assert not trees.all_files(tree.parent / "out")


def test_items_are_numbered_by_the_item_list(tree: Path) -> None:
    """In its order, with items that have no image."""
    ids = [f"id_{i:08d}" for i in (4, 9, 1, 6, 2, 5, 3)]
    trees.items_with_labels(tree / "Anno", ids, "list_item_inshop.txt", typed=False)
    build(tree)
    assert source.item_names(opened(tree, "train").folder) == ids


@pytest.mark.parametrize("listed", [True, False])
def test_items_of_mmfashions_lists(tmp_path: Path, listed: bool) -> None:
    """Without the item list they keep their row numbers, also those of rows that are not in use."""
    tree = trees.in_shop_mmfashion(tmp_path / "release")
    if not listed:
        (tree / ITEMS).unlink()
        path = tree / "Anno/train_id.txt"
        path.write_text(path.read_text().replace("3", "11"))
    build(tree, "mmfashion")
    names = source.item_names(opened(tree, "train", "mmfashion").folder)
    assert names == ([f"id_{i:08d}" for i in range(1, 7)] if listed else [str(i) for i in range(12)])


def split_of(tree: Path, line: int, split: str) -> None:
    """Give the row of the partition another split."""
    trees.edit(tree / PARTITION, line, lambda text: text.rstrip().rsplit(" ", 1)[0] + f" {split}")


@pytest.mark.parametrize("split", ["query", "gallery"])
def test_items_of_query_and_gallery_are_unseen_in_training(tree: Path, split: str) -> None:
    split_of(tree, 5, split)
    message = rf"{PARTITION}:5: item id_00000001 of split {split} is in train too"
    with pytest.raises(UserError, match=message):
        build(tree)


def test_every_query_has_something_to_find(tree: Path) -> None:
    """A gallery item without a query is no contradiction: it distracts."""
    for line in (18, 19, 20):
        split_of(tree, line, "query")
    with pytest.raises(UserError, match=rf"{PARTITION}:18: item id_00000006 has a query but no image"):
        build(tree)
    for line in (18, 19, 20):
        split_of(tree, line, "gallery")
    assert build(tree)["splits"] == {"train": 12, "query": 1, "gallery": 5}


def test_mmfashion_lists(tmp_path: Path) -> None:
    """Read as they are: rows of the item list become ids again, landmarks stay shifted by one triplet."""
    example = [1, 5, 0, 101, 201, 1, 102, 202, 0, 103, 203, 0, 104, 204, 2, 105, 205, 0, 106, 206]
    assert trees.shifted(["name", *example]) == [1, 5, 102, 202, 103, 203, 105, 205] + [0] * 8
    tree = trees.in_shop_mmfashion(tmp_path / "release")
    assert build(tree, "mmfashion")["splits"] == {"train": 12, "query": 2, "gallery": 4}
    record = opened(tree, "train", "mmfashion")[1]
    assert record["item_id"] == "id_00000001"
    row = (tree / MARKS).read_text().splitlines()[3].split()
    pairs = np.reshape(trees.shifted(row), (8, 2)).astype(np.float32)
    np.testing.assert_array_equal(pairs[0], [2, 2])  # clothes and variation type
    np.testing.assert_allclose(record["landmark"], pairs / np.float32([40, 56]), rtol=1e-6)
    np.testing.assert_array_equal(record["visibility"], np.where(pairs.any(1), 0, 3))
    labels = opened(tree, "train", "mmfashion").labels
    assert labels["landmark_flip"] == [] and "landmark" not in labels  # no slot means one point
    trees.edit(tree / "Anno/query_id.txt", 1, lambda line: "6")
    with pytest.raises(UserError, match=r"query_id.txt:1: item 6 is neither a name nor a row"):
        build(tree, "mmfashion", overwrite=True)


def test_mmfashion_repeated_rows(tmp_path: Path) -> None:
    tree = trees.in_shop_mmfashion(tmp_path / "release")
    for key in ("img", "id", "labels", "bbox", "landmarks"):
        path = tree / f"Anno/gallery_{key}.txt"
        path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert build(tree, "mmfashion")["splits"]["gallery"] == 4
    trees.edit(tree / "Anno/gallery_bbox.txt", 5, lambda line: "4 5 39 50")
    with pytest.raises(UserError, match=r"gallery_img.txt:5: image .* has other values than on line 1"):
        build(tree, "mmfashion", overwrite=True)
