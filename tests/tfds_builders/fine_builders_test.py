"""fashionai, darn, deepfashion_fine: published index files, label tables, dead links, several values, and
trees that contradict themselves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import fine_trees
import numpy as np
import pytest
import trees

from fashionjax.data import builders, source
from fashionjax.errors import UserError
from tfds_builders.synthetic_fashion import release
from tfds_builders.synthetic_fashion.fine_details import ATTRIBUTES, VALUES
from tfds_builders.synthetic_fashion.fine_release import LAYOUTS

WRITERS = {
    "fashionai": (fine_trees.fashionai, "FashionAI"),
    "darn": (fine_trees.darn, "DARN"),
    "deepfashion_fine": (fine_trees.deepfashion_fine, "DeepFashion"),
}


@pytest.fixture
def make(tmp_path: Path):
    return lambda name: WRITERS[name][0](tmp_path / "release")


def build(name: str, tree: Path, **options) -> dict:
    return builders.prepare(name, data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options)


def opened(name: str, tree: Path, split: str):
    return source.open_split(name, split, tree.parent / "out")


def metadata(tree: Path) -> dict:
    return json.loads(next((tree.parent / "out").rglob("metadata.json")).read_text())


def pairs(view) -> list[tuple[str, int, int, int]]:
    columns = (view.column(name).tolist() for name in ("image_id", "attribute", "value", "role"))
    return list(zip(*columns, strict=True))


# ------------------------------------------------------------------------------ as released
def test_fashionai(make, capsys) -> None:
    tree = make("fashionai")
    assert build("fashionai", tree)["splits"] == {"train": 12, "val": 6, "test": 6}
    shown = capsys.readouterr().err
    assert "24 listed images are labelled alike, 6 rows have a maybe, 0 labelled images" in shown
    assert "1 rows have no letters" in shown
    train = opened("fashionai", tree, "train")
    assert train.labels["attribute"][4] == "collar_design" and len(train.labels["attribute"]) == 8
    assert train.labels["attribute_value"][0][5] == "Floor Length"
    assert sum(map(len, train.labels["attribute_value"])) == 54
    first = train[0]
    assert first["image_id"] == f"fashionAI_attributes_train1/Images/collar_design_labels/{0:032x}.jpg"
    assert (first["attribute"], first["value"], first["role"]) == (4, 1, 0)
    test = pairs(opened("fashionai", tree, "test"))
    assert [role for *_, role in test] == [1, 2, 2, 1, 2, 2] and test[1][1:3] == (0, 1)


def test_fashionai_parts_as_archives_and_other_folders(make) -> None:
    """A zipped part, and one unpacked under another name: the image's name decides."""
    tree = make("fashionai")
    shutil.make_archive(str(tree / "fashionAI_attributes_train1"), "zip", tree, "fashionAI_attributes_train1")
    shutil.rmtree(tree / "fashionAI_attributes_train1")
    (tree / "fashionAI_attributes_train2").rename(tree / "base")
    (tree / "notes.csv").write_text("a,b,c,d\n")
    assert build("fashionai", tree)["splits"]["train"] == 12


def test_darn_counts_missing_images(make, capsys) -> None:
    tree = make("darn")
    for number in (1, 8, 15, 16):  # 8 is a query of val, 15 and 16 are candidates of test
        (tree / f"pic/{number:03d}/a{number}.jpg").unlink()
    assert build("darn", tree)["splits"] == {"train": 7, "val": 5, "test": 4}
    shown = capsys.readouterr().err
    assert "16 of 20 listed images are there (upstream had 214,619); missing: train 1, val 1, test 2" in shown
    assert "val lacks 1 queries and 0 candidates; test lacks 0 queries and 2 candidates" in shown
    assert "20 links, one for 4 of the missing images" in shown
    missing = metadata(tree)["missing_images"]
    assert (json.loads(missing) if isinstance(missing, str) else missing) == {"train": 1, "val": 1, "test": 2}
    train = opened("darn", tree, "train")
    assert len(train) == 7 * 3 and len(set(train.column("record"))) == 7
    assert pairs(train)[:3] == [("pic/000/a0.jpg", a, v, 0) for a, v in ((0, 0), (2, 54), (8, 16))]
    assert (
        train.labels["attribute"][8] == "sleeve shape"
        and train.labels["attribute_value"][8][16] == "value 16"
    )
    assert (opened("darn", tree, "val").column("role") == 1).sum() == 1


def test_darn_flat_downloads(make) -> None:
    tree = make("darn")
    for path in sorted(tree.glob("pic/*/*.jpg")):
        path.rename(tree / "pic" / f"{path.parent.name}_{path.name}")
    assert build("darn", tree)["splits"] == {"train": 8, "val": 6, "test": 6}


def test_deepfashion_has_several_values(make, capsys) -> None:
    tree = make("deepfashion_fine")
    file = tree / "DeepFashion/filenames_valid.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], lines[0]]))  # the last image is the first once more
    assert build("deepfashion_fine", tree)["splits"] == {"train": 8, "val": 6, "test": 6}
    shown = capsys.readouterr().err
    assert "DeepFashion/filenames_valid.txt: 1 paths are listed twice" in shown
    assert "DeepFashion/label_test.txt: 12 further labels of evaluated images" in shown
    view = opened("deepfashion_fine", tree, "test")
    assert len(view) == 6 and set(view.column("attribute").tolist()) == {0, 4}
    for value, every, attribute in zip(
        view.column("value"), view.column("values"), view.column("attribute"), strict=True
    ):
        assert value in every and len(every) == (2 if attribute == 0 else 1)
    assert view.labels["attribute"][4] == "style-related"
    assert view.labels["attribute_value"][0] == ["attribute no 1", "attribute no 3", "attribute no 7"]
    assert len(opened("deepfashion_fine", tree, "train")) == 8 * 3


def test_deepfashion_without_names_and_full_labels(make) -> None:
    tree = make("deepfashion_fine")
    (tree / "Anno/list_attr_cloth.txt").unlink()
    build("deepfashion_fine", tree)
    view = opened("deepfashion_fine", tree, "test")
    assert view.labels["attribute_value"][4] == ["value 0", "value 1"]
    assert all(len(of) == 1 for of in view.column("values"))


def test_the_whole_archive_may_be_there(make, tmp_path: Path) -> None:
    """data.zip holds three datasets whose files have the same names."""
    tree = make("darn")
    fine_trees.fashionai(tmp_path / "other")
    for folder in ("FashionAI", "fashionAI_attributes_train1", "fashionAI_attributes_train2"):
        (tmp_path / "other" / folder).rename(tree / folder)
    assert build("darn", tree)["splits"]["train"] == 8
    assert build("fashionai", tree)["splits"]["train"] == 12
    shutil.rmtree(tree / "DARN")
    with pytest.raises(UserError, match=r"DARN/filenames_train\.txt: not found below"):
        build("darn", tree, overwrite=True)


# ------------------------------------------------------------------------------ broken
@pytest.mark.parametrize("name", WRITERS)
def test_every_file_is_required(name: str, make) -> None:
    tree = make(name)
    for file in fine_trees.INDEX:
        path = tree / WRITERS[name][1] / file
        path.rename(tree.parent / "away")
        with pytest.raises(UserError, match=rf"{file}: not found below"):
            build(name, tree)
        (tree.parent / "away").rename(path)
    assert not trees.all_files(tree.parent / "out")


ANY = [
    ("filenames_test.txt", 2, lambda line: "../" + line, r"2: image path '\.\./.* leaves"),
    ("filenames_test.txt", 2, lambda line: "", "2: empty line inside the table"),
    (
        "label_train.txt",
        3,
        lambda line: line + " 1",
        r"3: \d+ fields; expected: image, then attribute and value",
    ),
    ("label_train.txt", 3, lambda line: "80 0 0", r"3: image 80 is not in 0…\d+"),
    ("label_train.txt", 3, lambda line: "2 9 0", r"3: attribute 9 is not in 0…[478]"),
    ("label_train.txt", 3, lambda line: "2 0 700", r"3: value 700 of .* is not in 0…\d+"),
    ("query_test.txt", 1, lambda line: line + " 0", r"1: 4 fields instead of 3"),
    ("query_valid.txt", 2, lambda line: "two 0 0", "2: image: 'two' is not a whole number"),
]
OWN = [
    (
        "fashionai",
        "fashionAI_attributes_train1/Annotations/label.csv",
        [
            (
                1,
                lambda line: line.replace("nynnn", "nnnny"),
                "1: image .* is collar_design 4 .*; collar_design 1",
            ),
            (
                1,
                lambda line: line.replace("nynnn", "nynny"),
                "1: 'nynny' is not of the letters y, m, n with one y",
            ),
            (1, lambda line: line.replace("nynnn", "nynn"), "1: 4 letters instead of 5 for collar_design"),
            (
                1,
                lambda line: line.replace(",collar_design_labels", ",collars"),
                "1: attribute 'collars' is unknown",
            ),
            (2, lambda line: line.split(",")[0], "2: 1 fields instead of 3"),
        ],
    ),
    (
        "darn",
        "DARN/darn_url.txt",
        [(4, lambda line: line.split()[0], r"4: expected an image \(<id>/<name>\)")],
    ),
    (
        "deepfashion_fine",
        "DeepFashion/label_test.txt",
        [
            (1, lambda line: line.replace("\t1\t", "\t6\t", 1), "1: value .* is not of attribute 6"),
            (1, lambda line: "0\t2\t2", "1: image 0 lacks value"),
            (2, lambda line: "0\t2", "2: 2 fields; expected"),
        ],
    ),
    (
        "deepfashion_fine",
        "Anno/list_attr_cloth.txt",
        [
            (3, lambda line: line.replace(" 3 ", " 6 "), "3: type 6 is not in 1…5"),
            (
                3,
                lambda line: line.replace(" 3 ", " 1 "),
                " 4 attributes of type 1; the splits have 3 values",
            ),
        ],
    ),
]
BROKEN = [
    (name, f"{WRITERS[name][1]}/{file}", line, change, message)
    for name in WRITERS
    for file, line, change, message in ANY
] + [(name, file, *rest) for name, file, cases in OWN for rest in cases]


@pytest.mark.parametrize(("name", "file", "line", "change", "message"), BROKEN)
def test_contradictions(name, file, line, change, message, make) -> None:
    tree = make(name)
    trees.edit(tree / file, line, change)
    expected = rf"^{re.escape(file)}:{message}"
    with pytest.raises(UserError, match=expected) as caught:
        build(name, tree)
    assert "\n" not in str(caught.value) and not trees.all_files(tree.parent / "out")


@pytest.mark.parametrize("name", WRITERS)
def test_a_pair_is_query_or_candidate(name: str, make) -> None:
    tree = make(name)
    folder = tree / WRITERS[name][1]
    query = (folder / "query_valid.txt").read_text().split()[:3]
    trees.edit(folder / "candidate_valid.txt", 2, lambda line: " ".join(query))
    with pytest.raises(
        UserError, match=r"candidate_valid\.txt:2: image 0 is listed again for .*query_valid\.txt:1"
    ):
        build(name, tree)


@pytest.mark.parametrize("name", ["fashionai", "deepfashion_fine"])
def test_a_missing_image_is_an_error(name: str, make) -> None:
    tree = make(name)
    next(tree.rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match=r"filenames_\w+\.txt:\d+: image .* is missing from"):
        build(name, tree)


def test_darn_without_an_image_of_a_split(make) -> None:
    tree = make("darn")
    for number in range(8, 14):
        (tree / f"pic/{number:03d}/a{number}.jpg").unlink()
    with pytest.raises(
        UserError, match=r"filenames_valid\.txt:1: none of the 6 images of split val is below"
    ):
        build("darn", tree)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("[1", "not readable as JSON"),
        ("{}", "no entry 'DARN'"),
        ('{"DARN": {"ATTRIBUTES": "x"}}', "ATTRIBUTES is not a list of names"),
        ('{"DARN": {"ATTRIBUTES": ["x"], "ATTRIBUTES_NUM": {"x": 0}}}', "no number of values of 'x'"),
        (
            '{"ATTRIBUTES": ["x"], "ATTRIBUTES_NUM": {"x": 2}, "ATTRIBUTES_VALUES": {"x": ["a"]}}',
            "ATTRIBUTES_VALUES of 'x' are not 2 names",
        ),
    ],
)
def test_broken_meta(meta: str, message: str, make) -> None:
    tree = make("darn")
    (tree / "DARN/meta.json").write_text(meta)
    with pytest.raises(UserError, match=rf"^DARN/meta\.json: .*{message}"):
        build("darn", tree)


# ------------------------------------------------------------------------------ the release writer
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_builder_reads_the_synthetic_release(name: str, packed: bool, tmp_path: Path) -> None:
    tree = tmp_path / "release"
    written = release.write_release(f"{name}/published", tree, 40, seed=4, size=48, packed=packed)
    result = build(name, tree)
    twice = int(name == "deepfashion_fine")
    assert result["splits"] == written["splits"] | {"val": written["splits"]["val"] + twice}
    view = opened(name, tree, "train")
    assert view.synthetic and view.labels["attribute"] == list(ATTRIBUTES[: 5 if twice else 6])
    if name != "darn":  # whose values have numbers
        of = [list(VALUES[a]) for a in view.labels["attribute"]]
        prefix = [
            [f"{a} {v}" for v in values] for a, values in zip(view.labels["attribute"], of, strict=True)
        ]
        assert view.labels["attribute_value"] == (prefix if twice else of)
    assert np.isin(opened(name, tree, "test").column("role"), (1, 2)).all()
    assert {p.suffix for p in tree.rglob("*")} >= ({".zip"} if packed else {".jpg"})
    assert (written["missing"] > 0) == (name == "darn")
