"""deepfashion_consumer2shop: pairs, the two protocols' galleries, MMFashion's lists, broken trees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trees

from fashionjax.data import builders, source
from fashionjax.errors import UserError
from tfds_builders import labels
from tfds_builders.release import TextFile

NAME = "deepfashion_consumer2shop"
BOXES, MARKS = "Anno/list_bbox_consumer2shop.txt", "Anno/list_landmarks_consumer2shop.txt"
PARTITION, ITEMS = "Eval/list_eval_partition.txt", "Anno/list_item_consumer2shop.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.consumer_to_shop(tmp_path / "release")


def build(tree: Path, config: str = "original", **options) -> dict:
    return builders.prepare(
        f"{NAME}/{config}", data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options
    )


def read(tree: Path, split: str, config: str = "original") -> dict[str, dict]:
    opened = source.open_split(f"{NAME}/{config}", split, tree.parent / "out")
    return {record["image_id"]: record for record in (opened[i] for i in range(len(opened)))}


def pair_ids(records: dict[str, dict]) -> dict[str, list[int]]:
    return {"/".join(name.split("/")[-2:]): [int(p) for p in r["pair_id"]] for name, r in records.items()}


def test_original_protocol(tree: Path) -> None:
    """The gallery holds the shop images of the test pairs once each; pair_id is the row of the
    partition.
    """
    assert build(tree)["splits"] == {"train": 5, "val": 2, "query": 2, "gallery": 2}
    assert pair_ids(read(tree, "gallery")) == {
        "id_00000004/shop_01.jpg": [4, 5],
        "id_00000004/shop_02.jpg": [6],
    }
    assert pair_ids(read(tree, "query")) == {
        "id_00000004/comsumer_01.jpg": [4],
        "id_00000004/comsumer_02.jpg": [5, 6],
    }
    train = read(tree, "train")
    assert pair_ids(train)["id_00000001/shop_01.jpg"] == [0, 1]
    assert [int(r["view"]) for r in train.values()] == [1, 0, 1, 1, 0]
    assert {r["item_id"] for r in train.values()} == {"id_00000001", "id_00000002"}
    assert sorted(int(r["view"]) for r in read(tree, "val").values()) == [0, 1]
    opened = source.open_split(f"{NAME}/original", "query", tree.parent / "out")
    assert opened.labels["view"] == ["shop", "consumer"]
    assert opened.labels["category"] == ["DRESSES/Summer", "TOPS/Shirt"]
    assert opened.labels["attribute_group"] == [f"type {kind}" for _, kind in trees.ATTRIBUTES]
    record = train["img/DRESSES/Summer/id_00000001/comsumer_02.jpg"]
    np.testing.assert_array_equal(record["box"], np.float32([4, 5, 40, 50]))
    np.testing.assert_array_equal(record["visibility"], [0, 1, 2, 0, 3, 3, 3, 3])
    np.testing.assert_array_equal(record["attribute"], [1, 0, 0, 1, 0, 0])


@pytest.mark.parametrize("config", ["original", "val_test", "mmfashion"])
def test_items_are_numbered_by_the_item_list(config: str, tmp_path: Path) -> None:
    write = trees.consumer_to_shop_mmfashion if config == "mmfashion" else trees.consumer_to_shop
    tree = write(tmp_path / "release")
    ids = [f"id_{i:08d}" for i in (4, 9, 1, 2, 3)]
    trees.items_with_labels(tree / "Anno", ids, "list_item_consumer2shop.txt", typed=True)
    build(tree, config)
    split = source.open_split(f"{NAME}/{config}", "train", tree.parent / "out")
    assert source.item_names(split.folder) == ids


def test_val_test_protocol(tree: Path) -> None:
    """One record per pair of val and test, repeated images told apart by their pair."""
    assert build(tree, "val_test")["splits"] == {"train": 5, "query": 4, "gallery": 4}
    gallery = read(tree, "gallery", "val_test")
    assert list(pair_ids(gallery).items()) == [
        ("id_00000003/shop_01.jpg#3", [3]),
        ("id_00000004/shop_01.jpg#4", [4]),
        ("id_00000004/shop_01.jpg#5", [5]),
        ("id_00000004/shop_02.jpg#6", [6]),
    ]


def test_mmfashion_lists(tmp_path: Path) -> None:
    tree = trees.consumer_to_shop_mmfashion(tmp_path / "release")
    assert build(tree, "mmfashion")["splits"] == {"train": 5, "query": 4, "gallery": 4}
    query = read(tree, "query", "mmfashion")
    assert [r["item_id"] for r in query.values()] == ["id_00000003"] + ["id_00000004"] * 3
    assert pair_ids(read(tree, "train", "mmfashion"))["id_00000001/shop_01.jpg"] == [0, 1]
    np.testing.assert_array_equal(next(iter(query.values()))["visibility"], [0, 0, 0, 0, 3, 3, 3, 3])
    trees.edit(tree / "Anno/list_bbox_shop.txt", 1, lambda line: line.replace(" 40 ", " 4 "))
    with pytest.raises(UserError, match=r"list_bbox_shop.txt:1: box 4 5 4 50 is inverted"):
        build(tree, "mmfashion", overwrite=True)
    trees.drop(tree / "Anno/train_id.txt", 6)
    with pytest.raises(UserError, match=r"train_id.txt:6: 5 rows for the 3 pairs"):
        build(tree, "mmfashion", overwrite=True)


def test_spelling_of_the_item_list(tree: Path) -> None:
    (tree / ITEMS).rename(tree / "Anno/list_items_consumer2shop.txt")
    assert build(tree)["splits"]["query"] == 2


def test_notes(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is odd but no contradiction is counted: unused images, the other source, repeated pairs."""
    trees.edit(tree / BOXES, 3, lambda line: " ".join([*line.split()[:2], "1", *line.split()[3:]]))
    lines = (tree / PARTITION).read_text().rstrip("\n").split("\n")
    (tree / PARTITION).write_text("\n".join([*lines, lines[3]]) + "\n")
    assert build(tree)["splits"]["train"] == 5
    shown = capsys.readouterr().err
    assert f"note: {BOXES}: 1 rows of images that no split uses" in shown
    assert f"note: {BOXES}: 1 images have the other source" in shown
    assert f"note: {PARTITION}: 1 rows repeat earlier ones" in shown


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("颜色 color black", "color black"),
        ("颜色(宽) color black", "color black"),
        ("七分 袖 3/4 sleeve", "3/4 sleeve"),
        ("V领 (深) V-neck (deep)", "V-neck (deep)"),
        ("V领 (V) V-neck", "V-neck"),
        ("Ｖ领 V-neck", "V-neck"),
        ("POLO polo collar", "polo collar"),
        ("Denim", "Denim"),
        ("颜色", "颜色"),
        ("颜色 décolleté", "décolleté"),
    ],
)
def test_the_english_name_of_two(row: str, name: str) -> None:
    assert labels.english(row.split(), bilingual=True) == name


def test_names_without_a_second_language_are_whole(tmp_path: Path) -> None:
    assert labels.english(["polo", "collar"], bilingual=False) == "polo collar"
    path = trees.table(tmp_path / "list_attr_cloth.txt", "attribute_name attribute_type", [("v neck", 4)])
    assert labels.read_names(TextFile("a", str(path))) == (["v neck"], [4])


def bilingual(tree: Path) -> None:
    """The attribute list as the release has it, and the list of types."""
    chinese = ("A字", "花纹(抽象)", "棉 布", "V领", "波西米亚", "纯色")
    rows = [(f"{zh:6s} {name}", kind) for zh, (name, kind) in zip(chinese, trees.ATTRIBUTES)]
    columns = "attribute_name(Chinese)  attribute_name(English)  attribute_type"
    trees.table(tree / "Anno/list_attr_cloth.txt", columns, rows)
    types = [
        ("图案", "pattern"),
        ("面料", "fabric"),
        ("版型", "shape"),
        ("部位", "part"),
        ("风格", "style of it"),
    ]
    trees.table(tree / "Anno/list_attr_type.txt", "attribute_type(Chinese)  attribute_type(English)", types)


def test_bilingual_names_and_types(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bilingual(tree)
    build(tree)
    found = source.open_split(f"{NAME}/original", "train", tree.parent / "out").labels
    assert found["attribute"] == [name for name, _ in trees.ATTRIBUTES]
    assert found["attribute_group"] == ["shape", "pattern", "fabric", "part", "style of it", "pattern"]
    assert "list_attr_type" not in capsys.readouterr().err
    trees.table(tree / "Anno/list_attr_type.txt", "attribute_type", [("pattern",), ("fabric",)])
    build(tree, overwrite=True)
    assert "note: list_attr_type.txt: 2 types, without type 3, type 4, type 5" in capsys.readouterr().err


def enlarge(tree: Path, size: tuple[int, int], folder: str) -> None:
    """Large images of every image in `folder`."""
    for path in sorted((tree / "Img/img").rglob("*.jpg")):
        large = tree / "Img" / folder / path.relative_to(tree / "Img/img")
        trees.picture(large, 1, size)


def test_high_resolution_pictures(tree: Path) -> None:
    """Annotations refer to the 300-pixel version; its short side was rounded."""
    enlarge(tree, (400, 601), "img_highres")  # 200 x 300
    name = (tree / BOXES).read_text().splitlines()[2].split()[0]
    trees.edit(tree / BOXES, 3, lambda line: " ".join([*line.split()[:3], "20 30 200 300"]))
    build(tree, overrides={"pictures": "img_highres"})
    record = (read(tree, "train") | read(tree, "val") | read(tree, "query") | read(tree, "gallery"))[name]
    scale = 601 / 300
    np.testing.assert_allclose(record["box"], np.float32([20 * scale, 30 * scale, 400, 601]), rtol=1e-6)
    x, y = (int(v) for v in (tree / MARKS).read_text().splitlines()[2].split()[4:6])
    np.testing.assert_allclose(record["landmark"][0], [x * scale / 400, y * scale / 601], rtol=1e-5)
    trees.edit(tree / BOXES, 3, lambda line: line.replace(" 300", " 303"))
    with pytest.raises(UserError, match=rf"{BOXES}:3: box 20 30 200 303 leaves .* 400 x 601 .* 300-pixel"):
        build(tree, overrides={"pictures": "img_highres"}, overwrite=True)


def test_boxes_of_another_size_are_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tree)
    assert "may refer to" not in capsys.readouterr().err
    enlarge(tree, (160, 224), "img")  # large images where the small ones belong
    build(tree, overwrite=True)
    assert "note: all boxes end within 25% of their images' width and height" in capsys.readouterr().err
    enlarge(tree, (20, 28), "img")
    with pytest.raises(UserError, match=r"box 4 5 40 50 leaves .*; so do 11 of 11: the boxes may refer to"):
        build(tree, overwrite=True)


def test_a_box_that_no_split_uses_is_not_judged(tree: Path) -> None:
    last = len((tree / BOXES).read_text().splitlines())
    trees.edit(tree / BOXES, last, lambda line: " ".join([*line.split()[:3], "40 5 4 50"]))
    build(tree)


BROKEN = {
    "count of images": (
        PARTITION,
        1,
        "7",
        "14",
        f"{PARTITION}:1: the first line says 14 rows, the file has 7",
    ),
    "split": (
        PARTITION,
        6,
        "val",
        "gallery",
        f"{PARTITION}:6: split 'gallery' is not one of train, val, test",
    ),
    "item": (
        PARTITION,
        6,
        " id_00000003 ",
        " id_00000333 ",
        f"{PARTITION}:6: item id_00000333 is not in {ITEMS}",
    ),
    "folder": (
        PARTITION,
        6,
        " id_00000003 ",
        " id_00000002 ",
        f"{PARTITION}:6: image .* folder of id_00000003",
    ),
    "two items": (
        PARTITION,
        4,
        " id_00000001 ",
        " id_00000002 ",
        f"{PARTITION}:4: image .* shows item id_00000002",
    ),
    "both views": (
        PARTITION,
        8,
        "comsumer_02",
        "shop_01",
        f"{PARTITION}:8: image .* is a consumer's photo",
    ),
    "clothes type": (
        BOXES,
        4,
        "   2    2    4",
        "   3    2    4",
        f"{BOXES}:4: clothes type 3 of image .*; it is 2 in {MARKS}",
    ),
    "source": (BOXES, 4, "   2    4    5", "   3    4    5", f"{BOXES}:4: source 3 is not 1"),
    "other image": (
        BOXES,
        5,
        "shop_01",
        "shop_09",
        f"{BOXES}:5: image .*shop_09.jpg is not in {PARTITION}",
    ),
    "visibility": (MARKS, 5, "   0    4", "   3    4", f"{MARKS}:5: visibility 3"),
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
