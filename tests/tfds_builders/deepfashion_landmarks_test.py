"""deepfashion_landmarks on small releases in the original format, whole and broken."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import trees
from PIL import Image

from fashionjax.data import builders, source
from fashionjax.errors import UserError
from tfds_builders import annotations

NAME = "deepfashion_landmarks"
BOXES, MARKS, PARTITION = "Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.landmarks(tmp_path_factory.mktemp("pristine") / "release")


@pytest.fixture
def tree(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "release"))


def build(tree: Path, **options) -> dict:
    return builders.prepare(
        options.pop("name", NAME), data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options
    )


def read(tree: Path, config: str = "original") -> dict[str, dict]:
    """image_id → record, of all splits; `image` stays bytes."""
    builder = tfds.builder_from_directory(tree.parent / "out" / NAME / config / "1.0.0")
    sources = builder.as_data_source(decoders={"image": tfds.decode.SkipDecoding()})
    return {
        r["image_id"].decode(): r | {"split": split}
        for split, records in sources.items()
        for r in list(records)
    }


def test_records(tree: Path) -> None:
    assert build(tree) == {
        "dataset": NAME,
        "config": "original",
        "splits": {"train": 6, "val": 3, "test": 3},
        "skipped": [],
    }
    records = read(tree)
    train = [name for name, record in records.items() if record["split"] == "train"]
    assert train == [f"img/{i:08d}.jpg" for i in (1, 2, 5, 6, 9, 10)]  # in list order
    second = records["img/00000002.jpg"]  # lower-body garment with an occluded and a cut-off point
    assert second["split"] == "train"
    assert second["image"] == (tree / "Img/img/00000002.jpg").read_bytes()
    assert second["garment_type"] == 1 and second["variation"] == 2
    np.testing.assert_array_equal(second["box"], np.float32([2, 3, 40, 55]))
    np.testing.assert_array_equal(second["visibility"], [0, 1, 2, 0, 3, 3, 3, 3])
    expected = np.float32([[4, 7], [8, 12], [0, 0], [16, 22]]) / np.float32([40, 56])
    np.testing.assert_allclose(second["landmark"][:4], expected, rtol=1e-6)
    assert not second["landmark"][4:].any()
    assert [int(records[f"img/{i:08d}.jpg"]["garment_type"]) for i in (1, 2, 3)] == [0, 1, 2]
    beside = json.loads((tree.parent / "out" / NAME / "original/1.0.0/prepared.json").read_text())
    assert beside["splits"] == {"train": 6, "val": 3, "test": 3} and beside["fields"] == {"clip_boxes": False}


def test_tolerated_text(tree: Path) -> None:
    """CRLF, BOM, tabs and runs of blanks, missing final newline, blank lines at the end."""
    plain = Path(shutil.copytree(tree, tree.parent / "plain" / "release"))
    build(plain)
    (tree / MARKS).write_bytes((tree / MARKS).read_bytes().replace(b"\n", b"\r\n"))
    (tree / BOXES).write_bytes(b"\xef\xbb\xbf" + (tree / BOXES).read_bytes().rstrip())
    (tree / PARTITION).write_text((tree / PARTITION).read_text().replace(" ", "\t  ") + "\n  \n")
    build(tree)
    assert_same(read(tree), read(plain))


@pytest.mark.parametrize("prefixed", [True, False])
def test_zip_parts(tree: Path, prefixed: bool) -> None:
    """Archives with and without their folder's name, beside members that try to leave it."""
    plain = Path(shutil.copytree(tree, tree.parent / "plain" / "release"))
    build(plain)
    hostile = [("../escaped.txt", b"x"), ("/absolute/list_bbox.txt", b"x"), ("__MACOSX/list_bbox.txt", b"x")]
    if prefixed:
        trees.pack(tree / "Img/img", tree / "Img/img.zip", prefix="img/", extra=hostile)
        trees.pack(tree / "Anno", tree / "Anno.zip", prefix="Anno/", extra=hostile)
    else:
        trees.pack(tree / "Img", tree / "Img.zip", extra=hostile)
        trees.pack(tree / "Anno", tree / "Anno.zip", extra=hostile)
        trees.pack(tree / "Eval", tree / "Eval.zip")
    before = trees.all_files(tree)
    build(tree)
    assert_same(read(tree), read(plain))
    assert trees.all_files(tree) == before
    assert not list(tree.parent.parent.rglob("escaped*"))


def assert_same(left: dict[str, dict], right: dict[str, dict]) -> None:
    assert left.keys() == right.keys()
    for name, record in left.items():
        for key, value in record.items():
            np.testing.assert_array_equal(value, right[name][key], err_msg=f"{name} {key}")


def test_picture_kinds(tree: Path) -> None:
    """Grayscale, CMYK, palette, 16-bit, PNG under .jpg: all become RGB; EXIF rotation is not applied."""
    rgb = Image.open(tree / "Img/img/00000001.jpg").convert("RGB")
    folder = tree / "Img/img"
    rgb.convert("L").save(folder / "00000001.jpg", "JPEG")
    rgb.convert("CMYK").save(folder / "00000002.jpg", "JPEG")
    rgb.convert("P").save(folder / "00000003.jpg", "PNG")
    rgb.save(folder / "00000004.jpg", "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    rgb.save(folder / "00000005.jpg", "JPEG", exif=exif)
    gray16 = np.linspace(0, 65535, 40 * 56).reshape(56, 40).astype(np.uint16)
    Image.fromarray(gray16).save(folder / "00000006.jpg", "PNG")
    build(tree)
    records = read(tree)
    for i in range(1, 7):
        name = f"img/{i:08d}.jpg"
        image = Image.open(io.BytesIO(records[name]["image"]))
        assert (image.mode, image.size) == ("RGB", (40, 56)), name
        unchanged = records[name]["image"] == (tree / "Img" / name).read_bytes()
        assert unchanged == (i in (4, 5)), name
    red = np.asarray(Image.open(io.BytesIO(records["img/00000006.jpg"]["image"])))[..., 0]
    assert red[0, 0] == 0 and red[-1, -1] == 255 and 120 < red[28, 0] < 136


def test_missing_variation_and_hidden_coordinates(tree: Path) -> None:
    """Without the variation column, padded to eight points, and cut-off points without coordinates."""
    text = (tree / MARKS).read_text().split("\n")
    text[1] = text[1].replace("variation_type ", "")
    rows = [line.split() for line in text[2:] if line]
    rows = [[*row[:2], *row[3:]] for row in rows]
    rows[0] += ["0"] * 6  # an upper garment padded to eight points
    assert rows[1][8:11] == ["2", "000", "000"]
    del rows[1][9:11]
    (tree / MARKS).write_text("\n".join([*text[:2], *(" ".join(row) for row in rows), ""]))
    build(tree)
    records = read(tree)
    np.testing.assert_array_equal(records["img/00000001.jpg"]["visibility"], [0, 0, 0, 0, 0, 0, 3, 3])
    np.testing.assert_array_equal(records["img/00000002.jpg"]["visibility"], [0, 1, 2, 0, 3, 3, 3, 3])
    assert records["img/00000002.jpg"]["variation"] == 0


def test_visible_landmarks_outside_are_counted(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the far edge is inside; occluded points are guesses anyway."""
    outside = {3: (0, 41, 9), 4: (1, 99, 9), 5: (0, 40, 56), 6: (0, 3, -1)}
    for line, (code, x, y) in outside.items():
        trees.edit(tree / MARKS, line, lambda text, new=(code, x, y): with_first_point(text, *new))
    build(tree)
    shown = capsys.readouterr().err
    assert "note: 2 visible landmarks lie outside their images (img/00000001.jpg, …)" in shown


def with_first_point(line: str, *point: int) -> str:
    row = line.split()
    return " ".join([*row[:3], *map(str, point), *row[6:]])


def replace(old: str, new: str):
    def change(line: str) -> str:
        assert old in line, line
        return line.replace(old, new, 1)

    return change


def fields(**values: str):
    """Change fields of a row by position: f4="x"."""

    def change(line: str) -> str:
        row = line.split()
        for key, value in values.items():
            row[int(key[1:])] = value
        return " ".join(row)

    return change


# what is wrong → (file to edit, line, change of that line (None: delete it), what the message must say)
BROKEN = {
    "visibility": (MARKS, 5, fields(f3="7"), f"{MARKS}:5: visibility 7 is not 0, 1 or 2"),
    "clothes type": (MARKS, 6, fields(f1="4"), f"{MARKS}:6: clothes type 4"),
    "other type than points": (MARKS, 3, fields(f1="3"), f"{MARKS}:3: 6 landmarks instead of 8"),
    "truncated row": (MARKS, 7, lambda line: line[:60].rsplit(" ", 1)[0], f"{MARKS}:7:"),
    "row of a name": (MARKS, 7, lambda line: line.split()[0], f"{MARKS}:7: 1 fields"),
    "not a number": (MARKS, 8, fields(f4="12x"), f"{MARKS}:8: landmark: '12x' is not a whole number"),
    "header of other columns": (
        MARKS,
        2,
        lambda line: "image_name clothes_type",
        f"{MARKS}:2: the column names",
    ),
    "landmark row missing": (MARKS, 9, None, f"{MARKS}:1: the first line says 12 rows, the file has 11"),
    "count": (BOXES, 1, lambda line: "13", f"{BOXES}:1: the first line says 13 rows, the file has 12"),
    "count no number": (
        BOXES,
        1,
        lambda line: "twelve",
        f"{BOXES}:1: the first line must be the number of rows",
    ),
    "no column names": (BOXES, 2, None, f"{BOXES}:2: the second line must hold the column names"),
    "inverted box": (BOXES, 10, fields(f1="50"), f"{BOXES}:10: box 50 3 40 49 is inverted"),
    "box beyond the width": (BOXES, 4, fields(f3="41"), f"{BOXES}:4: box 2 3 41 55 leaves its image"),
    "box above the image": (BOXES, 4, fields(f2="-1"), f"{BOXES}:4: box 2 -1 40 55 leaves its image"),
    "box with a hole": (
        BOXES,
        6,
        lambda line: " ".join(line.split()[:4]),
        f"{BOXES}:6: 4 fields instead of 5",
    ),
    "image of no split": (
        BOXES,
        6,
        fields(f0="img/other.jpg"),
        f"{BOXES}:6: image img/other.jpg is not in",
    ),
    "image listed twice": (
        BOXES,
        6,
        fields(f0="img/00000001.jpg"),
        f"{BOXES}:6: image img/00000001.jpg is",
    ),
    "unknown split": (PARTITION, 5, replace("val", "validation"), f"{PARTITION}:5: split 'validation'"),
    "conflicting split": (
        PARTITION,
        5,
        fields(f0="img/00000001.jpg"),
        f"{PARTITION}:5: image img/00000001.jpg is",
    ),
    "path out of the tree": (PARTITION, 3, fields(f0="img/../../x.jpg"), f"{PARTITION}:3: image path"),
    "empty line inside": (PARTITION, 6, lambda line: f"\n{line}", f"{PARTITION}:6: empty line"),
    "not text": (PARTITION, 6, lambda line: line + "\udcff", f"{PARTITION}:6: not UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_table(tree: Path, case: str) -> None:
    file, line, change, message = BROKEN[case]
    if change is None:
        trees.drop(tree / file, line)
    else:
        trees.edit(tree / file, line, change)
    with pytest.raises(UserError) as caught:
        build(tree)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not trees.all_files(tree.parent / "out")


def test_missing_files(tree: Path) -> None:
    (tree / "Img/img/00000007.jpg").unlink()
    with pytest.raises(UserError, match=rf"{PARTITION}:9: image img/00000007.jpg is missing"):
        build(tree, skip_damaged=True)
    for file in (BOXES, MARKS, PARTITION):
        (tree / file).rename(tree / "away")
        with pytest.raises(UserError, match=f"{file}: not found below"):
            build(tree)
        (tree / "away").rename(tree / file)
    (tree / "Anno.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"Anno.zip: not a readable zip archive"):
        build(tree)


def test_row_missing_in_one_list(tree: Path) -> None:
    trees.drop(tree / BOXES, 5)
    trees.edit(tree / BOXES, 1, lambda line: "11")
    with pytest.raises(UserError, match=rf"{PARTITION}:5: image img/00000003.jpg has no row in {BOXES}"):
        build(tree)


def test_clip_boxes(tree: Path) -> None:
    trees.edit(tree / BOXES, 4, fields(f3="41"))
    build(tree, overrides={"clip_boxes": "true"})
    np.testing.assert_array_equal(read(tree)["img/00000002.jpg"]["box"], np.float32([2, 3, 40, 55]))
    trees.edit(tree / BOXES, 4, fields(f1="40", f3="44"))
    with pytest.raises(UserError, match=f"{BOXES}:4: box 40 3 44 55 lies outside its image"):
        build(tree, overrides={"clip_boxes": "true"}, overwrite=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_damaged_pictures(tree: Path, processes: int) -> None:
    """A truncated image, one that is none, and one whose archive bytes are wrong."""
    truncated, text = tree / "Img/img/00000001.jpg", tree / "Img/img/00000002.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"^Img/img/00000001.jpg: damaged image \(image file is truncated"):
        build(tree, processes=processes)
    text.write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"^Img/img/00000002.jpg: damaged image \(not an image\)"):
        build(tree, processes=processes)
    assert not trees.all_files(tree.parent / "out")
    result = build(tree, skip_damaged=True, processes=processes)
    assert result["splits"] == {"train": 4, "val": 3, "test": 3}
    reasons = {entry["id"]: entry["reason"] for entry in result["skipped"]}
    assert reasons.keys() == {"img/00000001.jpg", "img/00000002.jpg"}
    assert "truncated" in reasons["img/00000001.jpg"]
    assert len(read(tree)) == 10
    beside = json.loads((tree.parent / "out" / NAME / "original/1.0.0/prepared.json").read_text())
    assert beside["skipped"] == result["skipped"]


def test_damaged_archive_member(tree: Path) -> None:
    trees.pack(tree / "Img/img", tree / "Img/img.zip", prefix="img/")
    archive = tree / "Img/img.zip"
    data = bytearray(archive.read_bytes())
    data[data.index(b"img/00000003.jpg") + 60] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(
        UserError, match=r"^Img/img.zip/img/00000003.jpg: damaged image \(the archive is damaged"
    ):
        build(tree)


@pytest.mark.parametrize("kept", [0, -60])
def test_every_picture_of_a_split_damaged(tree: Path, kept: int) -> None:
    """Seen from the headers, or only when the images are decoded."""
    for i in (4, 8, 12):
        path = tree / f"Img/img/{i:08d}.jpg"
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="every image of split test is damaged"):
        build(tree, skip_damaged=True)
    assert not trees.all_files(tree.parent / "out")


def test_mmfashion_lists(tmp_path: Path) -> None:
    """Visibility 1 is visible; occluded and cut off are one; missing slots are unused."""
    tree = trees.landmarks_mmfashion(tmp_path / "release")
    assert build(tree, name=f"{NAME}/mmfashion")["splits"] == {"train": 6, "val": 6, "test": 6}
    record = read(tree, "mmfashion")["img/val_1.jpg"]
    np.testing.assert_array_equal(record["visibility"], [0, 1, 3, 0, 3, 3, 3, 3])
    np.testing.assert_allclose(record["landmark"][1], np.float32([8, 12]) / np.float32([40, 56]), rtol=1e-6)
    trees.edit(tree / "val_landmarks.txt", 2, lambda line: "2" + line[1:])
    with pytest.raises(UserError, match=r"val_landmarks.txt:2: visibility 2 is not 0 or 1"):
        build(tree, name=f"{NAME}/mmfashion", overwrite=True)
    trees.drop(tree / "val_landmarks.txt", 2)
    with pytest.raises(UserError, match=r"val_landmarks.txt:6: 5 rows for the 6 rows of val.txt"):
        build(tree, name=f"{NAME}/mmfashion", overwrite=True)
    assert read(tree, "mmfashion")  # the dataset that was there is untouched by failed rebuilds


def test_slots_are_named_and_paired(tree: Path) -> None:
    """A slot is named by its parts of all garment types; a pair is left and right of one part."""
    build(tree)
    labels = source.open_split(NAME, "train", tree.parent / "out").labels
    assert labels["landmark"][:6:2] == ["left collar/waistline", "left sleeve/hem", "left hem/waistline"]
    assert labels["landmark"][7] == "right hem" and len(labels["landmark"]) == 8
    exact = dict(zip(labels["garment_type"], labels["landmark_of_type"]))
    assert exact["lower"] == ["left waistline", "right waistline", "left hem", "right hem"]
    assert [len(exact[name]) for name in annotations.GARMENT_TYPES] == list(annotations.POINTS.values())
    assert labels["landmark_flip"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for names in (labels["landmark"], *exact.values()):
        for left, right in labels["landmark_flip"][: len(names) // 2]:
            assert names[left].replace("left", "right") == names[right] != names[left]
