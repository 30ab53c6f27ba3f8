"""polyvore_outfits: both configs equal the world they were written from; variants; broken, hostile files."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trees

from experiments import compatibility
from fashionjax import tasks
from fashionjax.data import builders, source
from fashionjax.errors import UserError
from tfds_builders.polyvore_outfits import tables, texts, type_spaces
from tfds_builders.release import ReleaseError, TextFile
from tfds_builders.synthetic_fashion import outfit_release, release, wardrobe

IMAGES, SEED = 150, 2
SPLITS = ("train", "val", "test")
FULL = pytest.mark.full  # a representative case of each sweep runs everywhere
FEATURES = "train_hglmm_pca6000.txt"


@pytest.fixture(scope="session")
def world() -> outfit_release.World:
    return outfit_release.make_world(IMAGES, SEED)


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("polyvore") / "release"
    outfit_release.write_outfits(root, IMAGES, SEED, 32)
    return root


@pytest.fixture(scope="session")
def prepared(written: Path) -> Path:
    """The release, with its disjoint version prepared beside it; not to be changed."""
    build(written)
    return written


@pytest.fixture
def tree(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may change (a file is replaced, never written into)."""
    shutil.copytree(written, tmp_path / "release", copy_function=os.link)
    return tmp_path / "release"


def build(tree: Path, config: str = "disjoint", **options) -> dict:
    return builders.prepare(
        f"polyvore_outfits/{config}",
        data_dir=tree.parent / "out",
        manual_dir=tree,
        progress=False,
        **options,
    )


def opened(tree: Path, split: str, config: str = "disjoint") -> source.Split:
    return source.open_split(f"polyvore_outfits/{config}", split, tree.parent / "out")


def plain(column: np.ndarray) -> list:
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in column.tolist()]


def replace(path: Path, data: bytes | str) -> None:
    path.unlink()
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def edit_json(path: Path, change: Callable) -> None:
    value = json.loads(path.read_text())
    changed = change(value)
    replace(path, json.dumps(value if changed is None else changed))


def edit_line(path: Path, line: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().split("\n")
    lines[line - 1] = change(lines[line - 1])
    replace(path, "\n".join(lines))


# ------------------------------------------------------------------------------ the truth
@pytest.mark.parametrize("config", ["disjoint", pytest.param("nondisjoint", marks=FULL)])
def test_equals_the_world(tree: Path, world: outfit_release.World, config: str, capsys) -> None:
    result = build(tree, config)
    check_equals_the_world(tree, world, config)
    shown = capsys.readouterr().err
    published = {"disjoint": "16,995", "nondisjoint": "53,306"}[config]
    outfits = len(world.parts[config].tables["train"]["outfit"])
    assert f"note: train: {outfits} outfits (published {published})" in shown
    assert result["splits"] == {split: len(world.parts[config].pieces[split]) for split in SPLITS}


def check_equals_the_world(
    tree: Path, world: outfit_release.World, config: str, *, own: bool = False, pictures: bool = True
) -> None:
    """The prepared version is what was written. own: the text features are the version's own."""
    part = world.parts[config]
    trained = [part] if own else world.parts.values()
    numbers = outfit_release.text_features(
        (piece for each in trained for piece in each.pieces["train"]), config if own else None
    )
    for split in SPLITS:
        found, pieces = opened(tree, split, config), part.pieces[split]
        assert found.labels["category"] == list(wardrobe.TYPES)
        assert found.labels["type_space"] == [list(pair) for pair in world.spaces[config]]
        kinds = [wardrobe.TYPES[k] for k in found.column("category")]
        assert kinds == [piece.kind for piece in pieces]
        ids = [outfit_release.release_id(piece) for piece in pieces]
        assert found.column("item_id").tolist() == ids
        assert found.column("title").tolist() == [outfit_release.label(piece) for piece in pieces]
        assert found.column("fine_category").tolist() == [
            wardrobe.KINDS[piece.kind].shapes[piece.item.category] for piece in pieces
        ]
        text = found.column("text")
        assert text.dtype == np.float32
        has = [outfit_release.label(piece) in numbers for piece in pieces]
        assert found.column("has_text").tolist() == has and sum(has) < len(has)
        assert any(has) or (own and split != "train")  # the release has features of training texts only
        for row, piece in enumerate(pieces):
            values = numbers.get(outfit_release.label(piece), ",".join(["0"] * 6000)).split(",")
            np.testing.assert_array_equal(text[row], np.array(list(map(float, values)), np.float32))
        for row in (0, len(pieces) - 1) if pictures else ():
            picture = (tree / "images" / f"{ids[row]}.jpg").read_bytes()
            assert found[row]["image"] == picture and found[row]["image_id"] == f"images/{ids[row]}.jpg"
        assert set(found.tables) == set(part.tables[split])
        for name, rows in part.tables[split].items():
            assert plain(found.column(name)) == rows


def test_nondisjoint_splits_share_items(world: outfit_release.World) -> None:
    for name, shares in (("disjoint", False), ("nondisjoint", True)):
        train, _, test = (
            {piece.item.number for piece in world.parts[name].pieces[split]} for split in SPLITS
        )
        assert bool(train & test) == shares
    assert world.spaces["disjoint"] != sorted(world.spaces["disjoint"])


def test_the_release_has_the_oddities_of_the_original(written: Path) -> None:
    metadata = json.loads((written / "polyvore_item_metadata.json").read_text())
    titles = [entry["title"] for entry in metadata.values()]
    assert all("catgeories" in entry for entry in metadata.values())
    assert any("," in title for title in titles) and any("\n" in title for title in titles)
    assert any(not title.isascii() for title in titles)
    assert any(not entry["title"] and entry["url_name"] for entry in metadata.values())
    first = json.loads((written / "disjoint/valid.json").read_text())[0]
    assert [item["index"] for item in first["items"]] == list(range(1, len(first["items"]) + 1))
    labels = [line.rsplit(",", 6000)[0] for line in (written / FEATURES).read_text().splitlines()]
    assert any("," in label for label in labels) and len(set(labels)) == len(labels)


def test_release_command(written: Path, tmp_path: Path, capsys) -> None:
    given = ["polyvore_outfits", str(tmp_path / "r"), f"--images={IMAGES}", f"--seed={SEED}", "--size=32"]
    assert release.main([*given, "--zip", "--form=hub"]) == 2
    assert "error: --form=hub: for polyvore_outfits without --zip only" in capsys.readouterr().err
    assert release.main([*given, "--form=disc"]) == 2
    assert "error: --form=disc: must be one of folder, zip, parquet, hub, versions" in capsys.readouterr().err
    assert release.main([*given, "--zip", "--processes=2"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["images"] == len(list((written / "images").iterdir()))
    assert shown["splits"]["nondisjoint"].keys() == set(SPLITS)
    with zipfile.ZipFile(tmp_path / "r/images.zip") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (written / name).read_bytes()
    for path in [path for path in written.rglob("*.*") if path.suffix != ".jpg"]:
        assert (tmp_path / "r" / path.relative_to(written)).read_bytes() == path.read_bytes()
    assert release.main(["polyvore_outfits", str(tmp_path / "s"), "--images=20"]) == 2
    assert "error: --images=20: too few for questions of 4 answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "url_name", "text"),
    [
        ("Teal Bag", "other", "teal bag"),
        ("", "teal-bag", "teal-bag"),
        (" A,\nB \n", "", "a,b"),
        ("Café – bag", "", "caf  bag"),
        ("é", "url", ""),
        ("", "", ""),
    ],
)
def test_cleaning(title: str, url_name: str, text: str) -> None:
    assert texts.clean(title, url_name) == text


# ------------------------------------------------------------------------------ variants
def same_records(one: Path, other: Path, split: str) -> None:
    a, b = opened(one, split), opened(other, split)
    assert len(a) == len(b)
    for row in range(len(a)):
        first, second = a[row], b[row]
        np.testing.assert_array_equal(first.pop("text"), second.pop("text"))
        assert first == second


@pytest.mark.parametrize(
    "variant", [pytest.param("parquet", marks=FULL), pytest.param("zip", marks=FULL), "all zipped"]
)
def test_pictures_elsewhere(prepared: Path, tmp_path: Path, variant: str) -> None:
    other = tmp_path / "other" / "release"
    form = variant if variant in outfit_release.FORMS else "folder"
    outfit_release.write_outfits(other, IMAGES, SEED, 32, form)
    if variant == "all zipped":
        shutil.make_archive(str(other.parent / "polyvore_outfits"), "zip", other)
        shutil.rmtree(other)
        other.mkdir()
        (other.parent / "polyvore_outfits.zip").rename(other / "polyvore_outfits.zip")
    given = trees.all_files(other)
    build(other)
    same_records(prepared, other, "test")
    assert trees.all_files(other) == given
    left = [name for name in os.listdir(other.parent / "out") if name != "polyvore_outfits"]
    assert left == []  # what was unpacked is gone


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """The copy that is public today."""
    root = tmp_path_factory.mktemp("hub") / "release"
    outfit_release.write_outfits(root, IMAGES, SEED, 32, "hub")
    return root


@pytest.mark.parametrize("config", ["disjoint", "nondisjoint"])
def test_the_public_copy_has_no_text_features(
    hub: Path, prepared: Path, world: outfit_release.World, config: str, capsys
) -> None:
    result = build(hub, config)
    part = world.parts[config]
    assert result["splits"] == {split: len(part.pieces[split]) for split in SPLITS}
    assert f"note: {FEATURES} is not there: records have no text features" in capsys.readouterr().err
    for split in SPLITS:
        found = opened(hub, split, config)
        assert "text" not in found.features and set(found.column("has_text")) == {0}
        ids = [outfit_release.release_id(piece) for piece in part.pieces[split]]
        assert found.column("item_id").tolist() == ids
        assert found.column("title").tolist() == [outfit_release.label(p) for p in part.pieces[split]]
        for row in (0, len(ids) - 1):
            assert found[row]["image"] == (prepared / "images" / f"{ids[row]}.jpg").read_bytes()
        for name, rows in part.tables[split].items():
            assert plain(found.column(name)) == rows


def test_text_features_are_refused_where_there_are_none(hub: Path) -> None:
    """text=features ends at the first record with the name of the file; the other texts, and the switch that
    turns texts off, do not need it."""
    if not (hub.parent / "out/polyvore_outfits/disjoint").exists():
        build(hub)
    split = opened(hub, "train")
    for argument, kept in (
        ("text=features", None), ("text=words", "words"), ("text=none", "none"), ("recipe=set", "none"),
        ("text=features,faithful=zoo", "features"),
    ):  # fmt: skip
        config = compatibility.get_config(f"tiny=true,{argument}")
        config.labels = split.labels
        preprocess = tasks.make(config).preprocess
        if kept is None:
            with pytest.raises(UserError, match=f"no text features.*{FEATURES}.*words or none"):
                preprocess(split[0], np.random.default_rng(0))
            preprocess(split[0], None)  # evaluation reads no texts
            continue
        example = preprocess(split[0], np.random.default_rng(0))
        assert config.model.text == kept and ("text" in example) == (kept != "none")
        if kept == "features":
            assert example["text"].shape == (6000,) and not example["text"].any() and not example["has_text"]


@pytest.mark.parametrize("config", [pytest.param("disjoint", marks=FULL), "nondisjoint"])
def test_each_version_reads_its_own_files(
    tmp_path: Path, world: outfit_release.World, written: Path, config: str
) -> None:
    """Text features, metadata and categories in each version's folder differ; so do the images."""
    root = tmp_path / "release"
    outfit_release.write_outfits(root, IMAGES, SEED, 32, "versions")
    shutil.rmtree(root / "images")
    other = {"disjoint": "nondisjoint", "nondisjoint": "disjoint"}[config]
    shutil.copytree(written / "images", root / config / "images")
    pictures = sorted((root / config / "images").iterdir())
    (root / other / "images").mkdir()
    for one, another in itertools.pairwise(pictures):
        shutil.copy(another, root / other / "images" / one.name)
    moved = pictures[-1].rename(root / other / "images" / pictures[-1].name)  # is in the other's folder only
    build(root, config)
    check_equals_the_world(root, world, config, own=True, pictures=False)
    taken = {moved.stem: moved.read_bytes()} | {path.stem: path.read_bytes() for path in pictures[:-1]}
    for split in SPLITS:
        found = opened(root, split, config)
        for row, item in enumerate(found.column("item_id")):
            assert found[row]["image"] == taken[item]


def test_files_of_the_other_version_are_not_read(tmp_path: Path) -> None:
    root = tmp_path / "release"
    outfit_release.write_outfits(root, IMAGES, SEED, 16, "versions")
    (root / "disjoint" / "polyvore_item_metadata.json").unlink()
    refused(root, f"polyvore_item_metadata.json: not found below {root}")


def test_parquet_files_of_each_version(hub: Path, tmp_path: Path) -> None:
    """An image that both versions have is the version's own; one that only the other has is taken there."""
    import pyarrow
    from pyarrow import parquet

    root = Path(shutil.copytree(hub, tmp_path / "release"))
    other = parquet.read_table(root / "data/nondisjoint/train.parquet").to_pydict()
    other["image"] = other["image"][::-1]
    own = parquet.read_table(root / "data/disjoint/train.parquet").to_pydict()
    first, picture = own["item_id"][0], own["image"][0]["bytes"]
    own = {name: column[1:] for name, column in own.items()}
    other = {"item_id": [first, *other["item_id"]], "image": [{"bytes": picture}, *other["image"]]}
    once = dict.fromkeys(range(len(other["item_id"])))
    keep = [row for row in once if row == 0 or other["item_id"][row] != first]
    for name, table in (("nondisjoint", {k: [v[i] for i in keep] for k, v in other.items()}),
                        ("disjoint", own)):  # fmt: skip
        parquet.write_table(pyarrow.table(table), root / f"data/{name}/train.parquet")
    build(root)
    found = opened(root, "train")
    assert found[0]["item_id"] == first and found[0]["image"] == picture
    for row, image in enumerate(own["image"][:8], start=1):
        assert found[row]["image"] == image["bytes"]


def parquet_tree(tmp_path: Path, change: Callable[[dict[str, list]], dict[str, list]]) -> Path:
    """A parquet copy whose test file is changed: {item_id: […], image: […]}."""
    import pyarrow
    from pyarrow import parquet

    root = tmp_path / "parquet" / "release"
    outfit_release.write_outfits(root, IMAGES, SEED, 32, "parquet")
    path = root / "test-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table(change(parquet.read_table(path).to_pydict())), path)
    return root


def test_parquet_of_picture_records_with_repeated_rows(prepared: Path, tmp_path: Path, capsys) -> None:
    def change(table: dict[str, list]) -> dict[str, list]:
        pictures = [{"bytes": data, "path": "x.jpg"} for data in table["image"]]
        ids = [int(item) for item in table["item_id"]]
        return {"item_id": [*ids, ids[0]], "image": [*pictures, pictures[0]]}

    other = parquet_tree(tmp_path, change)
    build(other)
    same_records(prepared, other, "test")
    assert "note: 1 rows of the parquet files repeat an image and were merged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {"item_id": t["item_id"] + t["item_id"][:1], "image": t["image"] + t["image"][1:2]},
            r"test-00000-of-00001.parquet: row \d+: another image of item \d+ than .*parquet row 0",
        ),
        pytest.param(
            lambda t: {"item_id": t["item_id"], "image": [None, *t["image"][1:]]},
            r"test-00000-of-00001.parquet: row 0: holds no image",
            marks=FULL,
        ),
        (
            lambda t: {"item_id": t["item_id"][1:], "image": t["image"][1:]},
            r"disjoint/test.json: record 1: image images/\d+.jpg is missing",
        ),
        pytest.param(
            lambda t: {"item_id": t["item_id"], "image": [t["image"][0][:-80], *t["image"][1:]]},
            r"test-00000-of-00001.parquet row 0: damaged image",
            marks=FULL,
        ),
    ],
)
def test_broken_parquet(tmp_path: Path, change: Callable, message: str) -> None:
    root = parquet_tree(tmp_path, change)
    with pytest.raises(UserError, match=message):
        build(root)
    assert not trees.all_files(root.parent / "out")


def test_not_a_parquet_file(tree: Path) -> None:
    (tree / "images").rename(tree / "elsewhere")
    (tree / "train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"^train.parquet: not a readable parquet file"):
        build(tree)


def test_windows_line_ends_and_byte_order_marks(tree: Path, world: outfit_release.World) -> None:
    for name in (FEATURES, "disjoint/compatibility_test.txt", "disjoint/test.json", "categories.csv"):
        path = tree / name
        replace(path, b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    build(tree)
    found = opened(tree, "test")
    assert plain(found.column("compatibility")) == world.parts["disjoint"].tables["test"]["compatibility"]
    first = (tree / FEATURES).read_text("utf-8-sig").split("\n")[0].rsplit(",", 6000)[0]
    train = opened(tree, "train")
    assert first in train.column("title")[train.column("has_text") == 1]


def test_without_categories_and_with_repeated_text(tree: Path, capsys) -> None:
    (tree / "categories.csv").unlink()
    (tree / "polyvore_outfit_titles.json").unlink()
    lines = (tree / FEATURES).read_text().splitlines()
    replace(tree / FEATURES, "\n".join([*lines, lines[4]]) + "\n")
    build(tree)
    assert set(opened(tree, "val").column("fine_category")) == {""}
    shown = capsys.readouterr().err
    assert "note: polyvore_outfit_titles.json is not there" in shown
    assert "note: categories.csv is not there" in shown and "1 lines repeat earlier ones" in shown


@pytest.mark.parametrize(
    ("content", "names", "notes"),
    [
        (
            b"1,unnamed,\r\n2,Day Dress,all-body \r\n2,Gown,all-body\r\n02,Other,tops\r\n2,Day Dress,",
            {"1": "unnamed", "2": "Day Dress", "02": "Other"},
            ["c.csv: 1 of 3 ids have several names; the first is taken"],
        ),
        (b'\xef\xbb\xbfid,name,type\n3,"Pumps, high",shoes\n4,Boots, low,shoes\n5,Belt',
         {"3": "Pumps, high", "4": "Boots,low", "5": "Belt"}, []),
        (b"3,,shoes\nx,y,z\n\n  \n7,Hat,hats", {"7": "Hat"},
         ["c.csv: 1 rows without id and name are not used (row 2, \u2026)"]),
        (b"7,H\xe2t,hats", {}, ["c.csv: not used, fine_category is empty (not UTF-8 text"]),
        (b"", {}, []),
    ],
)  # fmt: skip
def test_categories_never_refuse_the_build(tmp_path: Path, content: bytes, names: dict, notes: list) -> None:
    (tmp_path / "c.csv").write_bytes(content)
    found = tables.read_fine_categories(TextFile("c.csv", str(tmp_path / "c.csv")))
    assert found.names == names and len(found.notes) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found.notes, notes))


# ------------------------------------------------------------------------------ broken trees
def set_at(*path) -> Callable:
    """set_at(3, "items", 0, "index", 9) sets value[3]["items"][0]["index"] = 9."""

    def change(value) -> None:
        for key in path[:-2]:
            value = value[key]
        value[path[-2]] = path[-1]

    return change


def first_item(metadata: dict) -> dict:
    return metadata[next(iter(metadata))]


def without_the_right_answer(questions: list) -> None:
    of = questions[0]["question"][0].split("_")[0]
    others = [ref for q in questions for ref in q["answers"] if ref.split("_")[0] != of]
    questions[0]["answers"] = others[:4]


D = "disjoint/"
BROKEN_JSON = {
    "item unknown": (D + "test.json", set_at(1, "items", 0, "item_id", "77"),
                     "test.json: record 2: item 77 is not in polyvore_item_metadata.json"),
    "index from zero": (D + "train.json", set_at(2, "items", 0, "index", 0),
                        "train.json: record 3 (set_id 210000014): index 0 of item"),
    "index twice": (D + "train.json", set_at(2, "items", 0, "index", 2), "index 2 of item"),
    "index text": (D + "train.json", set_at(2, "items", 0, "index", "1"), "index '1' of item"),
    "no items": (D + "valid.json", set_at(0, "items", []), "valid.json: record 1 (set_id 211000000): items"),
    "set twice": (D + "valid.json", set_at(1, "set_id", "211000000"),
                  "record 2: set_id 211000000 is that of record 1 too"),
    "set with a line": (D + "valid.json", set_at(1, "set_id", "2_1"), "record 2: set_id '2_1' holds a '_'"),
    "no set": (D + "valid.json", lambda v: v[2].pop("set_id") and None, "record 3: set_id is missing"),
    "outfit no object": (D + "valid.json", set_at(2, 5), "valid.json: record 3: set_id is missing"),
    "empty split": (D + "valid.json", lambda v: [], "valid.json: must hold a list with at least one entry"),
    "type unknown": ("polyvore_item_metadata.json", lambda v: first_item(v).update(semantic_category="socks"),
                     "item 154000000: semantic_category is 'socks'; typespaces.p knows all-body, bags"),
    "type missing": ("polyvore_item_metadata.json", lambda v: first_item(v).pop("semantic_category") and None,
                     "item 154000000: semantic_category is missing"),
    "title a list": ("polyvore_item_metadata.json", lambda v: first_item(v).update(title=[1]),
                     "item 154000000: title is [1]; a text is needed"),
    "no answers": (D + "fill_in_blank_test.json", set_at(1, "answers", []),
                   "fill_in_blank_test.json: record 2: answers must be a list"),
    "ragged answers": (D + "fill_in_blank_test.json", lambda v: v[3]["answers"].pop() and None,
                       "fill_in_blank_test.json: record 4: 3 answers; every question must have 4"),
    "answer unknown": (D + "fill_in_blank_test.json", set_at(1, "answers", 2, "1_1"),
                       "record 2: answers: reference '1_1' is not an item of disjoint/test.json"),
    "question of another split": (D + "fill_in_blank_test.json", set_at(0, "question", 0, "210000000_1"),
                                  "record 1: question: reference '210000000_1' is not an item of"),
    "no right answer": (D + "fill_in_blank_test.json", without_the_right_answer,
                        "record 1: no answer is of the question's set"),
    "item with a path": (D + "test.json", set_at(1, "items", 0, "item_id", "../../secret"),
                         "test.json: record 2 (set_id 212000007): item_id is '../../secret'; an id without"),
    "item with a backslash": (D + "test.json", set_at(1, "items", 0, "item_id", "..\\secret"),
                              r"item_id is '..\\secret'; an id without"),
    "item with a NUL": (D + "test.json", set_at(1, "items", 0, "item_id", "7\0"),
                        r"item_id is '7\x00'; an id without"),
    "item with a surrogate": (D + "test.json", set_at(1, "items", 0, "item_id", "\ud800"),
                              r"item_id is '\ud800'; an id without"),
    "set with a control character": (D + "valid.json", set_at(1, "set_id", "2\x7f"), "record 2: set_id is"),
    "titles no objects": ("polyvore_outfit_titles.json", set_at("210000000", "Evening"),
                          "polyvore_outfit_titles.json: set '210000000': expected a JSON object"),
    "title of an outfit a list": ("polyvore_outfit_titles.json", set_at("210000000", "title", ["Evening"]),
                                  "set '210000000': title is ['Evening']; a text is needed"),
    "titles of no set": ("polyvore_outfit_titles.json", lambda v: v | {"a b": {}},
                         "set 'a b': is not the id of a set"),
    "titles a list": ("polyvore_outfit_titles.json", lambda v: list(v.values()),
                      "polyvore_outfit_titles.json: must hold an object with at least one entry"),
    "blank": (D + "fill_in_blank_test.json", set_at(0, "blank_position", 40),
              "record 1: blank_position is 40"),
    "blank missing": (D + "fill_in_blank_test.json", lambda v: v[0].pop("blank_position") and None,
                      "record 1: blank_position is missing"),
}  # fmt: skip


def refused(tree: Path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(tree)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not trees.all_files(tree.parent / "out")


EVERYWHERE = ("item unknown", "index text", "set twice", "type unknown", "no right answer", "blank",
              "item with a path", "titles no objects")  # fmt: skip


@pytest.mark.parametrize(
    "case", [case if case in EVERYWHERE else pytest.param(case, marks=FULL) for case in BROKEN_JSON]
)
def test_broken_json(tree: Path, case: str) -> None:
    file, change, message = BROKEN_JSON[case]
    edit_json(tree / file, change)
    refused(tree, message)


COMPAT = D + "compatibility_test.txt"
BROKEN_LINES = {
    "label": (COMPAT, 3, lambda s: "2" + s[1:], f"{COMPAT}:3: label '2' must be 0 or 1"),
    "reference": (COMPAT, 4, lambda s: s.strip() + " 9_1", f"{COMPAT}:4: reference 9_1 is not an item of"),
    "one item": (COMPAT, 2, lambda s: " ".join(s.split()[:2]), f"{COMPAT}:2: 1 items; a line is a label and"),
    "empty line": (COMPAT, 2, lambda s: "", f"{COMPAT}:2: empty line inside the table"),
    "feature short": (FEATURES, 5, lambda s: ",".join(s.split(",")[-6000:]), f"{FEATURES}:5: 5999 values;"),
    "feature text": (FEATURES, 6, lambda s: s.replace(",0.0", ",O.0", 1), f"{FEATURES}:6: value"),
    "feature empty": (FEATURES, 6, lambda s: s.rsplit(",", 1)[0] + ",", f"{FEATURES}:6: value 6000 ('')"),
    "feature nan": (FEATURES, 7, lambda s: s.rsplit(",", 1)[0] + ",nan",
                    f"{FEATURES}:7: value 6000 is not a finite number"),
    "feature overflow": (FEATURES, 7, lambda s: s.rsplit(",", 1)[0] + ",1e39",
                         f"{FEATURES}:7: value 6000 is not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_LINES)
def test_broken_lines(tree: Path, case: str) -> None:
    file, line, change, message = BROKEN_LINES[case]
    edit_line(tree / file, line, change)
    refused(tree, message)


def test_labels_that_are_not_utf_8_stay_different(tree: Path) -> None:
    numbers = (tree / FEATURES).read_bytes().splitlines()[0].split(b",")[-6000:]
    more = [b",".join([b"caf\xe9", *numbers]), b",".join([b"caf\xe8", *numbers[::-1]])]
    replace(tree / FEATURES, (tree / FEATURES).read_bytes() + b"\n".join(more) + b"\n")
    build(tree)
    found = texts.scan(TextFile(FEATURES, str(tree / FEATURES)))
    assert [name.encode("utf-8", "surrogateescape") for name in found.place][-2:] == [b"caf\xe9", b"caf\xe8"]
    assert found.merged == 0 and texts.clean("caf\udce9", "") == "caf"  # what no item's text has


def test_a_text_with_two_features(tree: Path) -> None:
    lines = (tree / FEATURES).read_text().splitlines()
    label = lines[0].rsplit(",", 6000)[0]
    lines[3] = label + "," + ",".join(lines[3].split(",")[-6000:])
    replace(tree / FEATURES, "\n".join(lines))
    refused(tree, f"{FEATURES}:4: other values of {label!r} than on line 1")


def test_not_json(tree: Path) -> None:
    path = tree / D / "fill_in_blank_valid.json"
    replace(path, '[{"question":\n [}')
    refused(tree, f"{D}fill_in_blank_valid.json:2: not valid JSON")
    replace(path, '[{"question": 1, "question": 2}]')
    refused(tree, f"{D}fill_in_blank_valid.json: duplicate key 'question'")
    replace(path, b'["\xff"]')
    refused(tree, f"{D}fill_in_blank_valid.json: not UTF-8 text")
    replace(path, "[" + "1" * 5000 + "]")
    refused(tree, f"{D}fill_in_blank_valid.json: not valid JSON (Exceeds the limit")
    replace(path, "[" * 200_000)
    refused(tree, f"{D}fill_in_blank_valid.json: not valid JSON (nested too deeply)")


@pytest.mark.parametrize(
    "file", [D + "typespaces.p", D + "valid.json", COMPAT, D + "fill_in_blank_test.json",
             "polyvore_item_metadata.json"]
)  # fmt: skip
def test_missing_file(tree: Path, file: str) -> None:
    (tree / file).unlink()
    refused(tree, f"{file}: not found below {tree}")


@pytest.mark.parametrize(
    "file",
    [D + "test.json", *(pytest.param(file, marks=FULL) for file in (FEATURES, COMPAT, D + "typespaces.p"))],
)
def test_damaged_archive(tree: Path, file: str) -> None:
    """Bytes of a member that its checksum contradicts."""
    with zipfile.ZipFile(tree / "part.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tree / file, file)
        offset = len(file) + 30
    (tree / file).unlink()
    data = bytearray((tree / "part.zip").read_bytes())
    data[offset + 20 : offset + 30] = bytes(10)
    (tree / "part.zip").write_bytes(data)
    refused(tree, f"part.zip/{file}: cannot be read")


def test_a_type_pair_without_a_space(tree: Path, world: outfit_release.World) -> None:
    spaces = world.spaces["disjoint"]
    replace(
        tree / D / "typespaces.p", pickle.dumps([pair for pair in spaces if set(pair) != {"tops", "bottoms"}])
    )
    refused(tree, "typespaces.p has no space for bottoms and tops")
    replace(tree / D / "typespaces.p", pickle.dumps([*spaces, spaces[3][::-1]]))
    refused(
        tree, f"{D}typespaces.p: entry {len(spaces)} ({spaces[3][1]}, {spaces[3][0]}) is the pair of entry 3"
    )


def test_missing_and_damaged_pictures(tree: Path, world: outfit_release.World, capsys) -> None:
    part = world.parts["disjoint"]
    ids = [outfit_release.release_id(piece) for piece in part.pieces["test"]]
    truncated, none = tree / f"images/{ids[4]}.jpg", tree / f"images/{ids[9]}.jpg"
    data = none.read_bytes()
    none.unlink()
    refused(tree, f"image images/{ids[9]}.jpg is missing from {tree}")
    none.write_bytes(b"<html>")
    refused(tree, f"images/{ids[9]}.jpg: damaged image (not an image)")
    replace(none, data)
    replace(truncated, truncated.read_bytes()[:-60])
    refused(tree, f"images/{ids[4]}.jpg: damaged image (image file is truncated")
    replace(none, b"<html>")
    result = build(tree, skip_damaged=True)
    assert sorted(entry["id"] for entry in result["skipped"]) == sorted(
        f"images/{ids[row]}.jpg" for row in (4, 9)
    )
    split, truth, gone = opened(tree, "test"), part.tables["test"], {4, 9}
    kept = [item for row, item in enumerate(ids) if row not in gone]
    assert split.column("item_id").tolist() == kept

    def named(rows: list[int]) -> list[str]:
        return [ids[row] for row in rows if row not in gone]

    assert [[kept[row] for row in rows] for rows in plain(split.column("outfit"))] == list(
        map(named, truth["outfit"])
    )
    whole = [rows for rows in truth["compatibility"] if not gone & set(rows)]
    assert [[kept[row] for row in rows] for rows in plain(split.column("compatibility"))] == list(
        map(named, whole)
    )
    assert len(split.column("compatibility_label")) == len(whole) < len(truth["compatibility"])
    asked = [q for q, a in zip(truth["question"], truth["answer"]) if not gone & {*q, *a}]
    assert [[kept[row] for row in rows] for rows in plain(split.column("question"))] == list(
        map(named, asked)
    )
    assert (
        len(split.column("answer"))
        == len(split.column("correct"))
        == len(split.column("blank"))
        == len(asked)
    )
    lost = len(truth["compatibility"]) - len(whole)
    assert f"note: test: without 2 items of damaged images; with them went 0 outfits, {lost}" in (
        capsys.readouterr().err
    )


def test_tables_without_rows() -> None:
    given = {
        "outfit": [[0, 1], [1, 2, 3], [4]],
        "outfit_id": ["a", "b", "c"],
        "compatibility": [[0, 1], [2, 3], [1, 3]],
        "compatibility_label": [1, 0, 1],
        "question": [[2], [0]],
        "answer": [[1, 3], [3, 4]],
        "correct": [[1, 0], [0, 1]],
        "blank": [1, 2],
    }
    found, lost = tables.without(given, {1}, 5)
    assert found == {
        "outfit": [[1, 2], [3]],
        "outfit_id": ["b", "c"],
        "compatibility": [[1, 2]],
        "compatibility_label": [0],
        "question": [[0]],
        "answer": [[2, 3]],
        "correct": [[0, 1]],
        "blank": [2],
    }
    assert lost == {"outfit": 1, "compatibility": 2, "question": 1}


def test_without_manual_dir(tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match="--manual_dir is missing"):
        builders.prepare("polyvore_outfits/disjoint", data_dir=tmp_path, progress=False)
    assert "train_hglmm_pca6000.txt" in capsys.readouterr().err


# ------------------------------------------------------------------------------ typespaces.p
SPACES = [("bags", "shoes"), ("bags", "jewellery"), ("tops", "tops")]


def read_spaces(tmp_path: Path, data: bytes) -> list[tuple[str, str]]:
    (tmp_path / "typespaces.p").write_bytes(data)
    return type_spaces.read(TextFile("typespaces.p", str(tmp_path / "typespaces.p")))


@pytest.mark.parametrize("protocol", range(5))
def test_type_spaces(tmp_path: Path, protocol: int) -> None:
    assert read_spaces(tmp_path, pickle.dumps(SPACES, protocol)) == SPACES
    assert read_spaces(tmp_path, pickle.dumps([list(pair) for pair in SPACES], protocol)) == SPACES


def test_type_spaces_of_python_2(tmp_path: Path) -> None:
    text = b"(lp0\n(S'bags'\np1\nS'shoes'\np2\ntp3\na(Vbags\np4\nVtops\np5\ntp6\na."
    assert read_spaces(tmp_path, text) == [("bags", "shoes"), ("bags", "tops")]
    assert read_spaces(tmp_path, b"\x80\x02]q\x00U\x04bagsq\x01U\x05shoesq\x02\x86q\x03a.") == [
        ("bags", "shoes")
    ]
    assert read_spaces(tmp_path, pickle.dumps([(b"bags", b"shoes")], 3)) == [("bags", "shoes")]


def test_type_spaces_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("disjoint/typespaces.p", pickle.dumps(SPACES, 2))
    text = TextFile("all.zip/disjoint/typespaces.p", str(tmp_path / "all.zip"), "disjoint/typespaces.p")
    assert type_spaces.read(text) == SPACES


@pytest.mark.parametrize(
    "value",
    [{}, [], [("a",)], [("a", 1)], "ab", [["a", "b", "c"]], [("a", None)], [("a", "")], [({"a"}, "b")],
     ("a", "b"), [("a", "b"), ("b", "a")], [("a", "b")] * 5000, [("a", 2.5)], [("a", " b")],
     [("a", "b\nc")], [("a", "b\0")], [("a", "b\x7f")]],
)  # fmt: skip
def test_other_pickles_are_no_type_spaces(tmp_path: Path, value: object) -> None:
    with pytest.raises(ReleaseError, match=r"typespaces\.p"):
        read_spaces(tmp_path, pickle.dumps(value))


def test_type_names_of_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"^typespaces\.p: holds text that is not UTF-8"):
        read_spaces(tmp_path, b"\x80\x02]q\x00U\x04b\xe9gsq\x01U\x05shoesq\x02\x86q\x03a.")
    assert read_spaces(tmp_path, pickle.dumps([("café", "bags")], 2)) == [("café", "bags")]
    surrogate = b"\x80\x02]q\x00X\x03\x00\x00\x00\xed\xa0\x80q\x01X\x01\x00\x00\x00bq\x02\x86q\x03a."
    with pytest.raises(ReleaseError, match=r"^typespaces\.p: entry 0 is not a pair of type names"):
        read_spaces(tmp_path, surrogate)


class Runs:
    """Unpickled as a shell command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hostile(canary: Path) -> dict[str, bytes]:
    command = f"touch {canary}".encode()
    inst = b"(S'" + command + b"'\nios\nsystem\n."
    found = {f"program, protocol {p}": pickle.dumps([("a", Runs(canary))], p) for p in range(5)}
    return found | {
        "program by INST": inst,
        "program by name on the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(command)]) + command + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "place in memory that takes gigabytes": b"](lr\xff\xff\xff\x7f.",
        "text that is not there": b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"a.",
        "number that takes forever": b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
        "list in itself": b"\x80\x02]q\x00h\x00a.",
        "nested deeply": b"(" * 100_000 + b"l" * 100_000 + b".",
        "doubling": b"\x80\x02]q\x00(" + b"h\x000" * 1000 + b"e.",
        "reference out of the pickle": b"\x80\x02K\x01Q.",
        "empty": b"",
        "no end": b"(lp0\n",
        "large": pickle.dumps([("a" * (1 << 20), "b")]),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile(Path("x")))
def test_hostile_type_spaces(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(ReleaseError, match=r"^typespaces\.p: ") as caught:
        read_spaces(tmp_path, hostile(canary)[name])
    assert not canary.exists() and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_the_canary_would_have_died(tmp_path: Path) -> None:
    pickle.loads(hostile(tmp_path / "canary")["program, protocol 2"])
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("protocol", [2, *(pytest.param(protocol, marks=FULL) for protocol in (0, 1, 3, 4))])
def test_damaged_type_spaces(tmp_path: Path, protocol: int) -> None:
    """Cut and flipped copies: an error is always the release's, never anything else."""
    honest = pickle.dumps(SPACES, protocol)
    rng, refusals = np.random.default_rng(zlib.crc32(honest)), 0
    for trial in range(150):
        data = bytearray(honest)
        if trial % 4 == 0:
            data = data[: rng.integers(len(honest))]
        else:
            for at in rng.integers(0, len(honest), 1 + trial % 3):
                data[at] = rng.integers(256)
        try:
            read_spaces(tmp_path, bytes(data))
        except ReleaseError:
            refusals += 1
    assert refusals > 50
