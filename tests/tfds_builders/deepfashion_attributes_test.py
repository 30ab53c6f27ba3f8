"""deepfashion_attributes: coarse raw lists, fine split lists, MMFashion's derived lists, whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trees

from fashionjax.data import builders, source
from fashionjax.errors import UserError
from tfds_builders import labels, release

NAME = "deepfashion_attributes"
NAMES = [name for name, _ in trees.ATTRIBUTES]


def build(tree: Path, config: str, **options) -> dict:
    return builders.prepare(
        f"{NAME}/{config}", data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options
    )


def read(tree: Path, config: str, split: str) -> list[dict]:
    opened = source.open_split(f"{NAME}/{config}", split, tree.parent / "out")
    return [opened[i] for i in range(len(opened))]


def refused(tree: Path, config: str) -> str:
    with pytest.raises(UserError) as caught:
        build(tree, config)
    assert not trees.all_files(tree.parent / "out")
    return str(caught.value)


@pytest.mark.parametrize("folder", ["Anno_coarse", "Anno"])
def test_coarse(tmp_path: Path, folder: str) -> None:
    tree = trees.attributes(tmp_path / "release", folder=folder, varied=folder == "Anno")
    result = build(tree, "coarse")
    assert result["splits"] == {"train": 6, "val": 3, "test": 3}
    opened = source.open_split(f"{NAME}/coarse", "train", tmp_path / "out")
    assert opened.labels["attribute"] == NAMES
    assert opened.labels["attribute_group"] == ["shape", "texture", "fabric", "part", "style", "texture"]
    assert opened.labels["category"] == ["Anorak", "Blazer", "Jeans", "Dress"]
    second = opened[1]
    assert second["image_id"] == "img/Sheer_Blouse_2/img_00000002.jpg"
    np.testing.assert_array_equal(opened[0]["attribute"], [1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(second["attribute"], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(second["box"], np.float32([1, 2, 40, 56]))
    np.testing.assert_array_equal(second["visibility"], [0, 1, 2, 0, 3, 3, 3, 3])
    assert second["category"] == 1 and second["garment_type"] == 1


@pytest.mark.parametrize("config", ["fine", "fine_mmfashion", "coarse_mmfashion"])
def test_split_lists(tmp_path: Path, config: str) -> None:
    """Points at (0, 0) are cut off where the category's type has that slot; the other variant's folder is
    not read.
    """
    fine = config.startswith("fine")
    tree = trees.split_lists(tmp_path / "release", "Anno_fine" if fine else "Anno_coarse")
    trees.split_lists(tmp_path / "release", "Anno_coarse" if fine else "Anno_fine", sizes=(1, 1, 1))
    assert build(tree, config)["splits"] == {"train": 6, "val": 3, "test": 4}
    third = read(tree, config, "train")[2]  # Jeans, a lower-body category
    assert third["category"] == 2 and third["garment_type"] == 1
    np.testing.assert_array_equal(third["visibility"], [0, 0, 0, 0, 3, 3, 3, 3])
    second = read(tree, config, "train")[1]  # its third point is cut off
    np.testing.assert_array_equal(second["visibility"], [0, 0, 2, 0, 0, 0, 3, 3])
    np.testing.assert_array_equal(second["attribute"], [0, 0, 1, 0, 0, 1])
    opened = source.open_split(f"{NAME}/{config}", "test", tmp_path / "out")
    groups = labels.ATTRIBUTE_TYPES["fine" if fine else "coarse"]
    assert opened.labels["attribute_group"] == [groups[kind - 1] for _, kind in trees.ATTRIBUTES]


def test_fine_needs_its_own_folder(tmp_path: Path) -> None:
    tree = trees.split_lists(tmp_path / "release", "Anno_coarse")
    assert "Anno_fine/list_category_cloth.txt: not found" in refused(tree, "fine")


def test_archives(tmp_path: Path) -> None:
    tree = trees.attributes(tmp_path / "release")
    trees.split_lists(tree)
    for folder in ("Anno_coarse", "Anno_fine", "Eval"):
        trees.pack(tree / folder, tree / f"{folder}.zip")
    trees.pack(tree / "Img", tree / "Img.zip", prefix="Img/")
    assert build(tree, "coarse")["splits"] == {"train": 6, "val": 3, "test": 3}
    assert build(tree, "fine")["splits"] == {"train": 6, "val": 3, "test": 4}


# config → what is wrong → (file, line, change or None to delete it, message)
COARSE = {
    "label": (
        "attr_img",
        5,
        lambda line: line.replace(" 1 ", " 2 ", 1),
        "5: label '2' is not one of 1, 0, -1",
    ),
    "label text": ("attr_img", 5, lambda line: line.replace("-1", "no", 1), "5: label 'no'"),
    "short": ("attr_img", 6, lambda line: line.rstrip()[:-3], "6: 5 labels instead of 6"),
    "rows": ("attr_img", 6, None, "1: the first line says 12 rows, the file has 11"),
    "category": ("category_img", 4, lambda line: line.rstrip()[:-1] + "5", "4: category 5 is not in 1…4"),
    "category 0": ("category_img", 4, lambda line: line.rstrip()[:-1] + "0", "4: category 0 is not in 1…4"),
    "type": ("attr_cloth", 4, lambda line: line.replace("1", "6"), "4: type 6 is not in 1…5"),
    "no type": ("attr_cloth", 5, lambda line: "cotton", "5: a name without its type"),
    "category twice": ("category_cloth", 4, lambda line: "Anorak 1", "4: the name 'Anorak' is listed again"),
    "landmarks": ("landmarks", 3, lambda line: line + " 0", "3: 6.33 landmarks instead of 6"),
    "box": ("bbox", 3, lambda line: line.replace("  56", "  57"), "3: box 1 2 40 57 leaves its image"),
}


@pytest.mark.parametrize("case", COARSE)
def test_broken_coarse(tmp_path: Path, case: str) -> None:
    file, line, change, message = COARSE[case]
    tree = trees.attributes(tmp_path / "release")
    path = tree / f"Anno_coarse/list_{file}.txt"
    trees.drop(path, line) if change is None else trees.edit(path, line, change)
    assert f"Anno_coarse/list_{file}.txt:{message}" in refused(tree, "coarse")


FINE = {
    "label": ("train_attr", 2, lambda line: "2" + line[1:], "2: label '2' is not one of 1, 0, -1"),
    "rows": ("val_bbox", 2, None, "3: 2 rows for the 3 rows of Anno_fine/val.txt"),
    "more rows": ("val_cate", 3, lambda line: "1\n1", "4: 4 rows for the 3 rows of Anno_fine/val.txt"),
    "points": ("test_landmarks", 4, lambda line: line + " 1 1", "4: 18 fields instead of 16"),
    "twice": (
        "test",
        2,
        lambda line: "img/train_Dress/img_00000001.jpg",
        "2: image img/train_Dress/img_0000",
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_broken_fine(tmp_path: Path, case: str) -> None:
    file, line, change, message = FINE[case]
    tree = trees.split_lists(tmp_path / "release")
    path = tree / f"Anno_fine/{file}.txt"
    trees.drop(path, line) if change is None else trees.edit(path, line, change)
    assert f"Anno_fine/{file}.txt:{message}" in refused(tree, "fine")


def test_labels_are_parsed_as_bytes() -> None:
    """Against Python's own parser, on every spacing and on rows that are no labels."""
    random = np.random.default_rng(0)
    for _ in range(50):
        values = random.integers(-1, 2, random.integers(1, 40))
        text = "".join(f"{value}{' ' * random.integers(1, 4)}" for value in values).strip()
        np.testing.assert_array_equal(labels.parse_labels(text.encode()), values == 1)
    for wrong in ("2", "1 x", "11", "1 -", "--1", "1-1", "+1", "1.0", "-1 01"):
        assert labels.parse_labels(wrong.encode()) is None, wrong


def test_wide_label_table(tmp_path: Path) -> None:
    """1000 labels per image, as in the coarse benchmark."""
    values = np.random.default_rng(1).integers(-1, 2, (300, 1000))
    path = trees.table(
        tmp_path / "list_attr_img.txt",
        "image_name labels",
        [[f"img/{i}.jpg", *row] for i, row in enumerate(values)],
    )
    table = release.read_table(release.TextFile("list_attr_img.txt", str(path)))
    read = labels.read_labels(table, 1000, lambda row, name: int(name[4:-4]), 300)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values == 1)
