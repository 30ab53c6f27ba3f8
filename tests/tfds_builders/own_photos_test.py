"""own_photos on folders and tables of rendered photos, whole and broken."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import own_folders
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fashionjax.data import builders, photo
from fashionjax.data.source import open_split
from fashionjax.errors import UserError
from tfds_builders.own_photos import holdout


def build(tree: Path, form: str = "folders", out: str = "out", **options) -> dict:
    return builders.prepare(
        f"own_photos/{form}", data_dir=tree.parent / out, manual_dir=tree, progress=False, **options
    )


def split(tree: Path, name: str, form: str = "folders", out: str = "out"):
    return open_split(f"own_photos/{form}", name, tree.parent / out)


def records(tree: Path, form: str = "folders", out: str = "out") -> dict[str, dict]:
    """Every record by image_id, with its split."""
    found = {}
    folder = tree.parent / out / "own_photos" / form / "1.0.0"
    for name in tfds.builder_from_directory(folder).info.splits:
        part = split(tree, name, form, out)
        found |= {
            record["image_id"]: record | {"split": name} for record in map(part.__getitem__, range(len(part)))
        }
    return found


def csv(tree: Path, *rows: str) -> Path:
    (tree / "photos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return tree


# ------------------------------------------------------------------------------ folders
def test_two_hundred_photos_ten_damaged(tmp_path: Path, capsys) -> None:
    """Nothing is written while one too many is damaged; then the damaged ones are left out and listed."""
    tree = own_folders.classes(tmp_path / "photos", 200, damaged=10)
    with pytest.raises(
        UserError, match=r"10 damaged photos, 9 allowed \(--allow_damaged=10 leaves them out\)"
    ) as message:
        build(tree, allow_damaged=9)
    assert str(message.value).count("фото") == 10 and "empty file" in str(message.value)
    assert "not an image" in str(message.value) and "\n" not in str(message.value)
    assert list((tmp_path / "out").glob("own_photos/**/*.json")) == []
    result = build(tree, allow_damaged=10)
    assert sum(result["splits"].values()) == 190 and len(result["skipped"]) == 10
    assert all(entry["reason"] for entry in result["skipped"])
    found = records(tree)
    assert len(found) == 190 and not {entry["id"] for entry in result["skipped"]} & found.keys()
    labels = split(tree, "train").labels["category"]
    assert labels == sorted(own_folders.CLASSES)
    for name, record in found.items():
        assert labels[record["category"]] == name.split("/")[0]
        height, width = photo.decode_record(record["image"], name).shape[:2]
        np.testing.assert_array_equal(record["box"], [0, 0, width, height])
    held = [sum(r["split"] == part for r in found.values()) for part in ("val", "test")]
    assert held == [result["splits"]["val"], result["splits"]["test"]] and min(held) >= 24


def test_photos_as_they_come(tmp_path: Path) -> None:
    """EXIF is applied, CMYK and WebP are stored in the colours of read_photo, RGB files byte by byte, large
    photos at `longest` pixels with their box."""
    tree = own_folders.classes(tmp_path / "photos", 8, CLASSES := ("a", "b"))
    files = {
        "a/turned.jpg": own_folders.rotated(tree / "a/turned.jpg", 0, 50),
        "a/cmyk.jpg": own_folders.cmyk(tree / "a/cmyk.jpg", 0, 51),
        "b/web.webp": own_folders.photo(tree / "b/web.webp", 1, 52, "WEBP"),
        "b/plain.jpg": own_folders.photo(tree / "b/plain.jpg", 1, 53),
    }
    large = own_folders.photo(tree / "b/large.jpg", 1, 54, size=(900, 1200))
    (tree / "b/._plain.jpg").write_bytes(b"left by a desktop")
    (tree / "b/notes.txt").write_text("no photo")
    build(tree, overrides={"longest": "600"})
    found = records(tree)
    assert len(found) == 8 + len(files) + 1 and CLASSES == ("a", "b")
    for name, path in files.items():
        np.testing.assert_array_equal(photo.decode_record(found[name]["image"], name), photo.read_photo(path))
    assert found["b/plain.jpg"]["image"] == files["b/plain.jpg"].read_bytes()
    stored = photo.decode_record(found["b/large.jpg"]["image"], "large")
    assert stored.shape == (600, 450, 3)
    whole = Image.fromarray(photo.read_photo(large)).resize((450, 600), Image.Resampling.LANCZOS)
    assert np.abs(stored.astype(int) - np.asarray(whole)).mean() < 3  # noise through a JPEG
    np.testing.assert_array_equal(found["b/large.jpg"]["box"], [0, 0, 450, 600])


def test_given_splits_and_those_that_are_missing(tmp_path: Path) -> None:
    tree = tmp_path / "photos"
    for name, first, count in (("training", 0, 12), ("validation", 20, 4)):
        own_folders.classes(tree / "all" / name, count, ("a", "b"), first=first)
    result = build(tree)
    assert result["splits"] == {"train": 10, "val": 4, "test": 2}
    given = {name: record["split"] for name, record in records(tree).items()}
    assert {given[name] for name in given if "/validation/" in name} == {"val"}
    assert build(tree, out="alone", overrides={"test": "0"})["splits"] == {"train": 12, "val": 4}


def test_copies_never_cross_splits(tmp_path: Path, capsys) -> None:
    """Copies under other names stay together; given splits lose the training copy."""
    tree = own_folders.classes(tmp_path / "photos", 40, ("a", "b"))
    for path in sorted(tree.glob("a/*.jpg"))[:6]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    png = sorted(tree.glob("a/*.png"))[0]
    Image.open(png).save(tree / "b/misfiled.png", compress_level=1)  # other bytes, the same pixels
    assert (tree / "b/misfiled.png").read_bytes() != png.read_bytes()
    build(tree)
    message = capsys.readouterr().err
    assert "copies of other photos (the same pixels): 7; copies stay in one split" in message
    assert f"photos in two classes: 1 (a/{png.name} = b/misfiled.png)" in message
    found = records(tree)
    assert len(found) == 47
    for name, record in found.items():
        if "copy of " in name:
            assert record["split"] == found[name.replace("copy of ", "")]["split"]
    given = tmp_path / "given"
    own_folders.classes(given / "train", 12, ("a", "b"))
    own_folders.classes(given / "val", 6, ("a", "b"))
    own_folders.classes(given / "test", 2, ("a", "b"))
    result = builders.prepare(
        "own_photos/folders", data_dir=tmp_path / "second", manual_dir=given, progress=False
    )
    # the same seeds: val repeats six of train, test two of both
    assert result["splits"] == {"train": 6, "val": 4, "test": 2}
    assert len(result["skipped"]) == 8 and "of split test" in result["skipped"][0]["reason"]


def test_one_class_one_photo_none_and_many(tmp_path: Path, capsys) -> None:
    one = own_folders.classes(tmp_path / "one", 10, ("only",))
    assert build(one)["splits"] == {"train": 6, "val": 2, "test": 2}
    assert "one class (only): there is nothing to tell apart" in capsys.readouterr().err
    rare = own_folders.classes(tmp_path / "rare", 20, ("a", "b"))
    own_folders.photo(rare / "c/single.jpg", 2, 0)
    build(rare, out="rare_out")
    assert records(rare, out="rare_out")["c/single.jpg"]["split"] == "train"
    assert "classes without a photo in split test: 1 (c)" in capsys.readouterr().err
    (tmp_path / "empty/dress").mkdir(parents=True)
    with pytest.raises(UserError, match=r"empty: no photo lies below it; expected CLASS/photo"):
        build(tmp_path / "empty", out="empty_out")
    few = own_folders.classes(tmp_path / "few", 2, ("a", "b"))
    with pytest.raises(UserError, match="2 photos are too few to hold out a split test"):
        build(few, out="few_out")
    assert build(few, overrides={"val": "0", "test": "0"}, out="few_out")["splits"] == {"train": 2}
    many = own_folders.classes(tmp_path / "many", 600, [f"class {n:03d}" for n in range(300)])
    assert build(many, out="many_out", overrides={"val": "0"})["splits"] == {"train": 300, "test": 300}
    assert len(split(many, "train", out="many_out").labels["category"]) == 300


def test_zip_archives_and_composed_names(tmp_path: Path) -> None:
    """A zip of class folders is read in place; é in two characters is the class é in one."""
    tree = own_folders.classes(tmp_path / "photos", 8, ("robe d'été", "b"))
    with zipfile.ZipFile(tree / "more.zip", "w") as archive:
        archive.writestr("robe d'e\u0301te\u0301/x.jpg", own_folders.encoded(own_folders.pixels(0, 99)))
    shutil.copy(tree / "more.zip", tree / "test.zip")
    with pytest.raises(UserError, match="lies beside the split 'test'"):
        build(tree)
    (tree / "test.zip").unlink()
    alone = tmp_path / "alone"
    alone.mkdir()
    with zipfile.ZipFile(alone / "photos.zip", "w") as archive:
        for path in tree.rglob("*.*"):
            if path.suffix != ".zip":
                name = str(path.relative_to(tree)).replace("é", "e\u0301")
                archive.write(path, name)
    assert build(alone, out="alone_out")["splits"] == {"train": 4, "val": 2, "test": 2}
    assert split(alone, "train", out="alone_out").labels["category"] == ["b", "robe d'été"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: own_folders.photo(tree / "loose.jpg", 0, 1), r"loose.jpg: lies in no class folder"),
        (lambda tree: own_folders.photo(tree / "test/a/x.jpg", 0, 1), r"lies beside the split 'test'"),
        (lambda tree: own_folders.photo(tree / "A/x.jpg", 0, 1), r"differ in capitals or blanks alone"),
    ],
)
def test_folders_that_contradict_themselves(tmp_path: Path, change, message: str) -> None:
    tree = own_folders.classes(tmp_path / "photos", 8, ("a", "b"))
    change(tree)
    with pytest.raises(UserError, match=message):
        build(tree)


@pytest.mark.parametrize(
    ("field", "value"), [("val", "1"), ("test", "-0.1"), ("val", "0.9"), ("longest", "-1"), ("seed", "x")]
)
def test_fields_out_of_range(tmp_path: Path, field: str, value: str) -> None:
    tree = own_folders.classes(tmp_path / "photos", 8, ("a", "b"))
    with pytest.raises(UserError, match=f"--set={field}={value}"):
        build(tree, overrides={field: value})


# ------------------------------------------------------------------------------ tables
def test_a_table_with_items(tmp_path: Path) -> None:
    """Items stay whole; one photo of each held-out item is a query; boxes, attributes and names are read."""
    tree = own_folders.items(tmp_path / "shop")
    result = build(tree, "table")
    found = records(tree, "table")
    assert sum(result["splits"].values()) == 36 == len(found)
    by_item: dict[str, set] = {}
    for record in found.values():
        by_item.setdefault(record["item_id"], set()).add(record["split"])
    assert all(len(splits) == 1 for splits in by_item.values())
    train = split(tree, "train", "table")
    assert train.labels["attribute"] == ["long", "striped"] and train.labels["category"]
    item = found["bilder/3_1.jpg"]
    np.testing.assert_array_equal(item["box"], [4, 4, 44, 36])
    assert item["attribute"].tolist() == [1, 1] and item["item_id"] == "item 3"
    for name in ("val", "test"):
        part = split(tree, name, "table")
        role, item_id = part.column("role"), part.column("item_id")
        assert sorted(item_id[role == 0].tolist()) == sorted(set(item_id.tolist()))  # a query for each item
        assert (role == 1).sum() == 2 * (role == 0).sum()


def test_landmarks_views_and_spellings_of_tables(tmp_path: Path) -> None:
    """Excel's CSV: a byte-order mark, semicolons, capitals in the header; two garments on one photo."""
    tree = tmp_path / "shop"
    for n in range(8):
        own_folders.photo(tree / "x" / f"{n}.jpg", 0, n)
    head = "Image;Item;View;Split;x0;y0;x1;y1;landmark_left collar_x;landmark_left collar_y;"
    head += "landmark_right collar_x;landmark_right collar_y;landmark_right collar_v;Price"
    rows = [
        f"x/{n}.jpg;item {n // 2};{('shop', 'consumer')[n % 2]};{'train' if n < 4 else 'test'};"
        ";;;;12;16;36;16;1;9,95"
        for n in range(8)
    ]
    rows[0] = "x/0.jpg;item 0;shop;train;0;0;24.5;64;12;16;;;;1"
    rows.append("x/0.jpg;item 9;shop;train;24.5;0;48;64;12;16;;;2;1")
    (tree / "list.csv").write_text("\r\n".join([head, *rows]), encoding="utf-8-sig")
    result = build(tree, "table", overrides={"val": "0"})
    assert result["splits"] == {"train": 5, "test": 4}
    train = split(tree, "train", "table")
    first, again = train[0], train[4]
    assert first["image_id"] == again["image_id"] == "x/0.jpg"
    np.testing.assert_allclose(first["box"], [0, 0, 24.5, 64])
    np.testing.assert_allclose(first["landmark"], [[12 / 48, 16 / 64], [0, 0]])
    assert first["visibility"].tolist() == [0, 3] and again["visibility"].tolist() == [0, 2]
    assert train[1]["visibility"].tolist() == [0, 1]
    assert train.labels["landmark"] == ["left collar", "right collar"]
    assert train.labels["landmark_flip"] == [[0, 1]]
    assert split(tree, "test", "table").column("role").tolist() == [1, 0, 1, 0]  # consumer photos search


def test_query_and_gallery_of_a_table(tmp_path: Path) -> None:
    tree = tmp_path / "shop"
    for n in range(8):
        own_folders.photo(tree / f"{n}.jpg", 0, n)
    parts = ("train", "train", "train", "train", "query", "gallery", "query", "gallery")
    csv(tree, "image,item,split", *(f"{n}.jpg,i{n // 2},{part}" for n, part in enumerate(parts)))
    assert build(tree, "table", overrides={"val": "0"})["splits"] == {"train": 4, "test": 4}
    assert split(tree, "test", "table").column("role").tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image,category", "a.jpg,x", "missing.jpg,x"], r"photos.csv:3: image missing.jpg is missing below"),
        (["image,category", "A.JPG,x"], r"photos.csv:2: image A.JPG is missing .*; there is a.jpg"),
        (["image,category", "../a.jpg,x"], r"photos.csv:2: image '../a.jpg' is not a path below"),
        (["image,category", "a.jpg,x", "b.jpg"], r"photos.csv:3: 1 fields, the header has 2"),
        (["image,category", "a.jpg,x", "a.jpg,y"], r"photos.csv:3: image a.jpg is listed again \(first on"),
        (["image,category", "a.jpg,"], r"photos.csv:2: category is empty"),
        (["image,categroy", "a.jpg,x"], r"photos.csv:1: unknown column 'categroy'; did you mean"),
        (["file,category", "a.jpg,x"], r"photos.csv:1: no column `image`"),
        (["image,category"], r"photos.csv: no row of photos"),
        (["image,split", "a.jpg,holdout"], r"photos.csv:2: split 'holdout' is not one of train, val, test"),
        (["image,view", "a.jpg,front"], r"photos.csv:2: view 'front' is not one of shop, consumer"),
        (["image,x0,y0", "a.jpg,1,2"], r"photos.csv:1: a box needs the columns x0, y0, x1, y1"),
        (["image,x0,y0,x1,y1", "a.jpg,9,2,8,9"], r"photos.csv:2: box 9 2 8 9 is inverted or empty"),
        (["image,x0,y0,x1,y1", "a.jpg,1,2,8,"], r"photos.csv:2: y1 is empty and x0 is not"),
        (["image,x0,y0,x1,y1", "a.jpg,1,2,80,9", "b.jpg,,,,"], r"photos.csv:2: box 1 2 80 9 leaves"),
        (["image,landmark_hem_x", "a.jpg,1"], r"photos.csv:1: landmark 'hem' has no column landmark_hem_y"),
        (["image,landmark_hem_x,landmark_hem_y", "a.jpg,1,z"], r"photos.csv:2: landmark_hem_y 'z' is not"),
        (["image,attributes", "a.jpg,red;red"], r"photos.csv:2: attributes 'red;red': duplicate attribute"),
        (["image,category,category", "a.jpg,x,y"], r"photos.csv:1: duplicate column 'category'"),
        (['image,category', 'a.jpg,"x'], r"photos.csv:\d: not a readable table"),
    ],
)  # fmt: skip
def test_broken_tables(tmp_path: Path, rows: list[str], message: str) -> None:
    tree = tmp_path / "shop"
    for name in "abc":
        own_folders.photo(tree / f"{name}.jpg", 0, ord(name))
    csv(tree, *rows)
    with pytest.raises(UserError, match=message):
        build(tree, "table", overrides={"val": "0", "test": "0"})
    assert not (tmp_path / "out" / "own_photos").exists()


def test_several_tables_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    tree = tmp_path / "shop"
    own_folders.photo(tree / "a.jpg", 0, 1)
    csv(tree, "image,category", "a.jpg,x")
    (tree / "other.tsv").write_bytes("image\tcategory\na.jpg\tsh\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"holds 2 tables \(other.tsv, photos.csv\); choose one"):
        build(tree, "table")
    with pytest.raises(UserError, match=r"other.tsv:2: not UTF-8 text"):
        build(tree, "table", overrides={"table": "other.tsv"})
    with pytest.raises(UserError, match=r"--set=table=third.csv: no such file"):
        build(tree, "table", overrides={"table": "third.csv"})


# ------------------------------------------------------------------------------ the rule
def test_the_rule_of_held_out_groups() -> None:
    group = holdout.groups(["a", "b", "c", "d"], [1, 2, 2, 3])
    assert group[1] == group[2] and len(set(group.tolist())) == 3
    names = [f"photo {n}" for n in range(120)]
    stratum = ["common"] * 100 + ["rare"] * 17 + ["two"] * 2 + ["one"]
    shares = {"test": 0.2, "val": 0.1}
    split = holdout.hold_out(np.arange(120), names, stratum, shares, 3)
    counts = {kind: [split[i] for i in range(120) if stratum[i] == kind] for kind in set(stratum)}
    assert [counts["common"].count(name) for name in ("train", "val", "test")] == [70, 10, 20]
    assert [counts["rare"].count(name) for name in ("train", "val", "test")] == [12, 2, 3]
    assert sorted(counts["two"]) == ["test", "train"] and counts["one"] == ["train"]
    order = np.random.default_rng(0).permutation(120)
    shuffled = holdout.hold_out(
        np.arange(120), [names[i] for i in order], [stratum[i] for i in order], shares, 3
    )
    assert [shuffled[i] for i in np.argsort(order)] == split  # the order of photos does not matter
    assert holdout.hold_out(np.arange(120), names, stratum, shares, 4) != split


def test_another_seed_is_another_dataset(tmp_path: Path) -> None:
    tree = own_folders.classes(tmp_path / "photos", 20, ("a", "b"))
    build(tree)
    with pytest.raises(UserError, match="seed was 0, now 1"):
        build(tree, overrides={"seed": "1"})
    first = json.loads((tmp_path / "out/own_photos/folders/1.0.0/prepared.json").read_text())
    assert first["splits"] == build(tree)["splits"] and first["fields"]["seed"] == 0
