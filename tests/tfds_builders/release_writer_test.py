"""The synthetic world in release layouts, read back line by line."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from fashionjax.data import source
from fashionjax.data.builders import builder_class, builder_config, prepare
from tfds_builders.release import ReleaseError
from tfds_builders.synthetic_fashion import release
from tfds_builders.synthetic_fashion.instance_release import LAYOUTS as INSTANCE_LAYOUTS
from tfds_builders.synthetic_fashion.layouts import LAYOUTS, Table

POINTS = {1: 6, 2: 4, 3: 8}
N = 14


def table(path, columns=True):
    """Fields of a counted table, with the count and the alignment checked."""
    lines = path.read_text().splitlines()
    rows = lines[1 + columns :]
    assert int(lines[0]) == len(rows)
    if rows and len(rows[0].split()) > 1:
        start = {line.index(line.split()[1], len(line.split()[0])) + len(line.split()[1]) for line in rows}
        assert len(start) == 1, path  # the second column ends at one place
    return [line.split() for line in rows]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("release") / "landmarks"
    written = release.write_release("deepfashion_landmarks", root, N, seed=3, size=96)
    assert written["images"] == N and sum(written["splits"].values()) == N
    return root


def test_landmark_benchmark_files(tree):
    assert sorted(str(p.relative_to(tree)) for p in tree.rglob("*.txt")) == [
        "Anno/list_bbox.txt",
        "Anno/list_joints.txt",
        "Anno/list_landmarks.txt",
        "Eval/list_eval_partition.txt",
        "SYNTHETIC.txt",
    ]
    names = [f"img/{n:08d}.jpg" for n in range(1, N + 1)]
    partition = table(tree / "Eval/list_eval_partition.txt")
    assert [row[0] for row in partition] == names
    assert {row[1] for row in partition} == {"train", "val", "test"}
    assert (tree / "Anno/list_bbox.txt").read_text().splitlines()[1] == "image_name x_1 y_1 x_2 y_2"
    for name, *box in table(tree / "Anno/list_bbox.txt"):
        with Image.open(tree / "Img" / name) as image:
            width, height = image.size
        x1, y1, x2, y2 = map(int, box)
        assert max(width, height) == 96 and 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


def test_landmark_rows(tree):
    header = (tree / "Anno/list_landmarks.txt").read_text().splitlines()[1].split()
    assert header[:4] == ["image_name", "clothes_type", "variation_type", "landmark_visibility_1"]
    assert len(header) == 3 + 8 * 3
    rows, boxes = table(tree / "Anno/list_landmarks.txt"), table(tree / "Anno/list_bbox.txt")
    for (name, kind, variation, *values), (box_name, *box) in zip(rows, boxes):
        assert name == box_name and 1 <= int(variation) <= 5
        points = np.array(values, int).reshape(-1, 3)
        assert len(points) == POINTS[int(kind)] and set(points[:, 0]) <= {0, 1, 2}
        assert (points[points[:, 0] == 2, 1:] == 0).all()
        x1, y1, x2, y2 = map(int, box)
        seen = points[points[:, 0] == 0, 1:]
        assert ((seen >= (x1 - 1, y1 - 1)) & (seen <= (x2, y2))).all()
    joints = table(tree / "Anno/list_joints.txt")
    assert all(len(row) == 3 + 14 * 3 for row in joints) and len(joints) == N


def test_zip_holds_the_same_pictures(tree, tmp_path):
    release.write_release("deepfashion_landmarks", tmp_path / "z", N, seed=3, size=96, packed=True)
    with zipfile.ZipFile(tmp_path / "z/Img/img.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"img/{n:08d}.jpg" for n in range(1, N + 1))
        for name in archive.namelist():
            assert archive.read(name) == (tree / "Img" / name).read_bytes()
    for path in tree.rglob("*.txt"):
        assert (tmp_path / "z" / path.relative_to(tree)).read_text() == path.read_text()


@pytest.mark.parametrize("name", (*LAYOUTS, *INSTANCE_LAYOUTS))
def test_the_builder_of_the_benchmark_reads_it(name, tmp_path):
    written = release.write_release(name, tmp_path / "in", 12, seed=4, size=48, packed=True)
    result = prepare(name, data_dir=tmp_path / "out", manual_dir=tmp_path / "in", progress=False)
    assert result["skipped"] == []
    if name == "deepfashion_consumer2shop/mmfashion":  # of 12 images 4 are the shop's, each of two pairs
        assert result["splits"] == {"train": 6, "query": 4, "gallery": 4}
        return
    if name != "deepfashion_consumer2shop":  # whose builder splits val and test into query and gallery
        assert result["splits"] == written["splits"]
    assert sum(result["splits"].values()) == written["images"]


@pytest.mark.parametrize(
    ("name", "raw", "same"),
    [
        ("deepfashion_landmarks/mmfashion", "original", ("box",)),
        (
            "deepfashion_attributes/coarse_mmfashion",
            "coarse",
            ("box", "attribute", "category", "garment_type"),
        ),
        ("deepfashion_inshop/mmfashion", "original", ("box", "attribute", "item_id", "category")),
        ("deepfashion_consumer2shop/mmfashion", "val_test", ("box", "item_id", "attribute", "view")),
    ],
)
def test_derived_lists_describe_the_same_pictures(name, raw, same, tmp_path):
    """As the raw lists do, but for the landmarks, of which the derived ones lose something."""
    dataset = name.partition("/")[0]
    for config in (name, f"{dataset}/{raw}"):
        tree = tmp_path / config.replace("/", "_")
        release.write_release(config, tree, 24, seed=4, size=48)
        prepare(config, data_dir=tmp_path / "out", manual_dir=tree, progress=False)
    for split in ("train", "query" if "shop" in name else "val"):
        derived, original = (
            source.open_split(config, split, tmp_path / "out") for config in (name, f"{dataset}/{raw}")
        )
        assert len(derived) == len(original)
        visible, seen = 0, 0
        for i in range(len(derived)):
            left, right = derived[i], original[i]
            for key in ("image_id", "image", *same):
                np.testing.assert_array_equal(left[key], right[key], err_msg=key)
            both = (left["visibility"] == 0) & (right["visibility"] == 0)
            visible += (right["visibility"] == 0).sum()
            seen += both.sum()
            if "inshop" not in name:  # whose landmarks are shifted
                np.testing.assert_array_equal(left["landmark"][both], right["landmark"][both])
        assert seen == visible > 0 or "inshop" in name


def pictures(root):
    return {str(p.relative_to(root / "Img")) for p in (root / "Img").rglob("*.jpg")}


def write(name, tmp_path):
    release.write_release(name, tmp_path / "r", N, seed=3, size=64)
    return tmp_path / "r", pictures(tmp_path / "r")


def test_coarse_attributes(tmp_path):
    root, names = write("deepfashion_attributes/coarse", tmp_path)
    attributes = (root / "Anno_coarse/list_attr_cloth.txt").read_text().splitlines()[2:]
    assert all(" " in line.rsplit(None, 1)[0] and 1 <= int(line.split()[-1]) <= 5 for line in attributes)
    rows = table(root / "Anno_coarse/list_attr_img.txt")
    assert {row[0] for row in rows} == names and len(names) == N
    assert all(len(row) == 1 + len(attributes) and set(row[1:]) == {"1", "-1"} for row in rows)
    categories = table(root / "Anno_coarse/list_category_cloth.txt")
    assert all(1 <= int(r[1]) <= len(categories) for r in table(root / "Anno_coarse/list_category_img.txt"))
    assert "variation" not in (root / "Anno_coarse/list_landmarks.txt").read_text().splitlines()[1]


def test_fine_attributes_are_split_lists_of_equal_length(tmp_path):
    root, names = write("deepfashion_attributes/fine", tmp_path)
    columns = {"": 1, "_cate": 1, "_bbox": 4, "_landmarks": 16}
    columns["_attr"] = len((root / "Anno_fine/list_attr_cloth.txt").read_text().splitlines()) - 2
    found = set()
    for split in ("train", "val", "test"):
        lists = {end: (root / f"Anno_fine/{split}{end}.txt").read_text().splitlines() for end in columns}
        assert len({len(lines) for lines in lists.values()}) == 1
        for end, lines in lists.items():
            assert all(len(line.split()) == columns[end] for line in lines)
        found |= set(lists[""])
    assert found == names


def test_in_shop_identities(tmp_path):
    root, names = write("deepfashion_inshop", tmp_path)
    rows = table(root / "Eval/list_eval_partition.txt")
    assert {row[0] for row in rows} == names
    assert all(row[0].split("/")[3] == row[1] for row in rows)
    of = {split: {row[1] for row in rows if row[2] == split} for split in ("train", "query", "gallery")}
    assert of["query"] == of["gallery"] and not of["train"] & of["query"]
    items = table(root / "Anno/list_item_inshop.txt", columns=False)
    assert {row[0] for row in items} == of["train"] | of["query"]
    assert all(len(row) == 7 for row in table(root / "Anno/list_bbox_inshop.txt"))


def test_consumer_to_shop_pairs(tmp_path):
    root, names = write("deepfashion_consumer2shop", tmp_path)
    pairs = table(root / "Eval/list_eval_partition.txt")
    assert {path for row in pairs for path in row[:2]} == names
    for consumer, shop, item, split in pairs:
        assert (
            "/comsumer_0" in consumer and shop.endswith("/shop_01.jpg") and split in ("train", "val", "test")
        )
        assert consumer.split("/")[3] == shop.split("/")[3] == item
    sources = {row[0]: row[2] for row in table(root / "Anno/list_bbox_consumer2shop.txt")}
    assert all(source == ("1" if "/shop_" in name else "2") for name, source in sources.items())


@pytest.mark.slow
def test_command(tmp_path, capsys):
    assert release.main(["deepfashion_landmarks", str(tmp_path / "a"), "--images=3", "--size=48"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 3
    assert release.main(["deepfashion_landmarks", str(tmp_path / "a"), "--images=3"]) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    for place, message in (("file", "is a file; give a new folder"), ("file/below", "cannot be written")):
        assert release.main(["deepfashion_landmarks", str(tmp_path / place), "--images=3"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / place}: {message}") and error.count("\n") == 1
    assert release.main(["nothing", str(tmp_path / "b"), "--images=3"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: nothing") and all(name in message for name in LAYOUTS)
    with pytest.raises(ReleaseError, match="--images=0"):
        release.write_release("deepfashion_landmarks", tmp_path / "c", 0)


def test_configs_that_read_the_same_files_share_a_layout(tmp_path):
    for name, layout in release.SAME.items():
        assert layout in release.NAMES and prepare_knows(name)
    written = release.write_release("deepfashion_inshop/original", tmp_path / "a", 12, seed=3, size=48)
    assert written["release"] == "deepfashion_inshop"
    written = release.write_release("polyvore_outfits/nondisjoint", tmp_path / "b", 150, seed=2, size=16)
    assert (tmp_path / "b/disjoint").is_dir() and (tmp_path / "b/SYNTHETIC.txt").is_file()


def prepare_knows(name):
    dataset, _, config = name.partition("/")
    return builder_config(builder_class(dataset), config or None, {}) is not None


def test_what_is_drawn_is_marked_as_such(tmp_path, capsys):
    """In the dataset's metadata, of a part of the tree too; a benchmark's own files have no such mark."""
    release.write_release("deepfashion_landmarks", tmp_path / "in", 12, seed=4, size=48)
    prepare("deepfashion_landmarks", data_dir=tmp_path / "out", manual_dir=tmp_path / "in", progress=False)
    assert "note: SYNTHETIC.txt: rendered images" in capsys.readouterr().err
    assert source.open_split("deepfashion_landmarks", "train", tmp_path / "out").synthetic is True
    assert source.open_split("deepfashion_landmarks", "val+test", tmp_path / "out").synthetic is True
    (tmp_path / "in/SYNTHETIC.txt").unlink()
    prepare("deepfashion_landmarks", data_dir=tmp_path / "own", manual_dir=tmp_path / "in", progress=False)
    assert source.open_split("deepfashion_landmarks", "val+test", tmp_path / "own").synthetic is False


def test_table_text_is_counted_and_aligned():
    text = release.table_text(Table("x.txt", "name a b", [("img/1.jpg", 5, -10), ("img/22.jpg", 100, 3)]))
    assert text == "2\nname a b\nimg/1.jpg    5 -10\nimg/22.jpg 100   3\n"
