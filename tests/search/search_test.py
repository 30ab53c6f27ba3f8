"""`fashionjax search`: ranks against the definition, galleries of every kind, refusals, the command."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save
from close import relative_rounding
from commands import run
from outfits import photo

from fashionjax import cli, tasks
from fashionjax.data import builders
from fashionjax.data.photo import read_photo
from fashionjax.errors import UserError
from fashionjax.gallery import collection, embed
from fashionjax.gallery import index as gallery
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.search import __main__ as search
from fashionjax.search import page as search_page

COSINE = relative_rounding(9 * 32, layers=11)  # of embeddings by a VGG-11 of width 4, in another batch

IN_SHOP = "synthetic_fashion/in_shop"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: workdir}"""
    kinds = ("global", "landmark", "zoo", "detector", "outfits")
    return {kind: save(tmp_path_factory.mktemp(kind), kind) for kind in kinds}


@pytest.fixture(scope="module")
def model(runs):
    return photos.load(runs["global"], "search")


@pytest.fixture(scope="module")
def predictor(model):
    return photos.predictor(model, 8)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Eleven images in two folders; deep/3.png and zz.png are the same."""
    root = tmp_path_factory.mktemp("shop")
    for number in range(10):
        photo(root / ("deep" if number % 2 else ".") / f"{number}.png", number)
    shutil.copy(root / "deep" / "3.png", root / "zz.png")
    return root


@pytest.fixture(scope="module")
def opened(shop, model, predictor):
    found, unread = collection.open_collection(str(shop), model, predictor)
    assert unread == 0
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train_items": "2", "test_items": "3", "size": "48"}
    builders.prepare(IN_SHOP, data_dir=folder, overrides=sizes, progress=False)
    return str(folder)


def raw(path) -> Path:
    """A file name that is no UTF-8."""
    return Path(os.fsdecode(bytes(path) + b"/\xff.png"))


# ------------------------------------------------------------------------------ ranks
def test_matches_are_those_of_the_cosine(shop, opened, predictor, tmp_path):
    paths = [photo(tmp_path / f"{number}.png", 20 + number) for number in range(3)]
    records, row = search.search(search.embed_queries(paths, predictor), opened, 4)
    rows = [output["embedding"] for _, output in photos.outputs(paths, predictor)]
    own = [
        output["embedding"]
        for _, output in photos.outputs([str(shop / i) for i in opened.rows.id], predictor)
    ]
    unit = [np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, own)]
    cosine = unit[0] @ unit[1].T
    for number, record in enumerate(records):
        assert record.image == paths[number] and [match.rank for match in record.matches] == [1, 2, 3, 4]
        best = np.sort(cosine[number])[::-1][:4]
        np.testing.assert_allclose([match.score for match in record.matches], best, rtol=0, atol=COSINE)
        np.testing.assert_allclose(cosine[number][row[number]], best, rtol=0, atol=COSINE)
        assert [match.id for match in record.matches] == [opened.rows.id[place] for place in row[number]]


def test_of_equal_pictures_the_earlier_comes_first(shop, opened, predictor):
    queries = search.embed_queries([str(shop / "zz.png")], predictor)
    (record,), _ = search.search(queries, opened, 99)
    assert len(record.matches) == 11, "no more than there are"
    assert [match.id for match in record.matches[:2]] == ["deep/3.png", "zz.png"]
    assert record.matches[0].score == record.matches[1].score == pytest.approx(1, abs=COSINE)


def test_photos_that_cannot_be_answered(opened, predictor, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"none")
    records, row = search.search(search.embed_queries([str(tmp_path / "a.jpg")], predictor), opened, 2)
    assert row.shape == (0, 2) and "not an image" in records[0].error

    def broken(batch):
        return {"embedding": np.full((8, 4), np.nan)}

    path = photo(tmp_path / "b.png", 1)
    (query,) = search.embed_queries([path], predictor._replace(run=broken))
    assert "not finite" in str(query.embedding)


def test_only_the_first_photos_are_on_the_page(opened, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(search_page, "QUERIES", 2)
    monkeypatch.setattr(search_page, "MATCHES", 1)
    paths = [photo(tmp_path / f"{number}.png", number) for number in range(3)]
    queries = search.embed_queries(paths, predictor)
    records, row = search.search(queries, opened, 2)
    text = search.page(queries, records, row, opened, "<shop>", "fashionjax search")
    assert text.count("<img") == 4 and "The first 2 queries are shown" in text
    assert "3 query images against 11 images of &lt;shop&gt;" in text and "http" not in text


# ------------------------------------------------------------------------------ galleries
def test_a_saved_gallery(opened, model, predictor, tmp_path):
    path = str(tmp_path / "sub" / "shop.gallery")
    collection.save(opened, path)
    again, unread = collection.open_collection(path, model, predictor)
    assert unread == 0 and again.rows.id == opened.rows.id and again.source == opened.source
    np.testing.assert_array_equal(again.rows.embedding, opened.rows.embedding)
    np.testing.assert_array_equal(gallery.load(path).embedding, opened.rows.embedding)
    with pytest.raises(UserError, match="cannot be written"):
        collection.save(opened, str(tmp_path / "sub" / "shop.gallery" / "below"))


def test_galleries_that_are_refused(opened, runs, model, predictor, tmp_path):
    path = str(tmp_path / "shop.gallery")
    collection.save(opened, path)
    other = photos.load(save(tmp_path / "other", "global", weights=1))
    with pytest.raises(UserError, match="by another model, or another step"):
        collection.open_collection(path, other, predictor)
    collection.save(opened._replace(detector="aa"), path)
    with pytest.raises(UserError, match="landmarks of another detector; name that one with --landmarks"):
        collection.open_collection(path, model, predictor)
    with pytest.raises(UserError, match="landmarks of another detector"):
        collection.open_collection(path, model, predictor, photos.load(runs["detector"]))
    collection.save(opened._replace(record=opened.record[:3]), path)
    with pytest.raises(UserError, match="metric or records do not fit"):
        collection.open_collection(path, model, predictor)
    gallery.save(opened.rows, path)
    with pytest.raises(UserError, match="damaged gallery"):
        collection.open_collection(path, model, predictor)
    with pytest.raises(UserError, match="no such gallery"):
        collection.open_collection(str(tmp_path / "none"), model, predictor)
    with pytest.raises(UserError, match="no image files in this folder"):
        collection.open_collection(str(tmp_path / "other"), model, predictor)


def test_a_split_and_its_pictures_as_files_embed_alike(data_dir, runs, tmp_path):
    """Of a model that is evaluated on random crops, too: users' galleries are never cropped."""
    run = save(tmp_path / "run", "global", crop_box=False, quirks=("s1_random_crop_at_test",))
    assert "s1_random_crop_at_test" in inference.load(run).config.quirks
    model = photos.load(run)
    predictor = photos.predictor(model, 8)
    found, unread = collection.open_collection(
        f"dataset:{IN_SHOP}:query+gallery", model, predictor, None, data_dir
    )
    split = embed.source.open_split(IN_SHOP, "query+gallery", data_dir)
    assert unread == 0 and found.rows.id == tuple(split.column("image_id")) and found.detector == ""
    for number in range(len(split)):
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / f"{number:03}.jpg").write_bytes(split[number]["image"])
    files, _ = collection.open_collection(str(tmp_path / "shop"), model, predictor)
    np.testing.assert_allclose(files.rows.embedding, found.rows.embedding, rtol=0, atol=COSINE)
    path = str(tmp_path / "shop.gallery")
    collection.save(found, path)
    again = collection.load(path, embed.fingerprint(model))
    picture = embed.pictures(again.source, again.rows.id, again.record)
    np.testing.assert_array_equal(picture(2), read_photo(split[2]["image"]))


def test_the_seed_of_random_crops_is_no_part_of_a_model(tmp_path):
    quirks = ("s1_random_crop_at_test",)
    models = [photos.load(save(tmp_path / str(seed), "global", seed=seed, quirks=quirks)) for seed in (1, 2)]
    assert len({embed.fingerprint(model) for model in models}) == 1


def test_splits_that_cannot_serve(data_dir, runs, model, predictor, tmp_path):
    for name, message in (
        ("dataset:x", "write dataset:NAME/CONFIG:SPLIT"),
        (f"dataset:{IN_SHOP}:none", "no split 'none'"),
        ("dataset:none:test", "no prepared dataset"),
    ):
        with pytest.raises(UserError, match=message):
            collection.open_collection(name, model, predictor, None, data_dir)
    sizes = {"train": "24", "val": "8", "test": "8", "size": "48"}
    builders.prepare("synthetic_fashion/outfits", data_dir=tmp_path, overrides=sizes, progress=False)
    with pytest.raises(UserError, match=r"has no landmarks.*give its images as a folder"):
        own = photos.load(runs["landmark"])
        collection.open_collection("dataset:synthetic_fashion/outfits:test", own, None, None, str(tmp_path))


def test_companions_in_a_gallery_are_passed_over(tmp_path):
    for name in ("a.jpg", "._a.jpg", "sub/b.png", "sub/._b.png", "__MACOSX/sub/b.png", ".cache/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert embed.folder_ids(str(tmp_path)) == ["a.jpg", "sub/b.png"]


# ------------------------------------------------------------------------------ the command
@pytest.mark.slow
def test_the_command(runs, shop, tmp_path):
    """Photos of which one is damaged and one has a strange name; what it saved gives the same."""
    own, saved, looks = tmp_path / "shop", tmp_path / "shop.gallery", tmp_path / "looks"
    shutil.copytree(shop, own)
    shutil.copy(own / "4.png", raw(own))
    photo(looks / "a.png", 4)
    photo(raw(looks), 31)
    (looks / "bad.jpg").write_bytes(b"none")
    line = ["search", looks, f"--checkpoint={runs['global']}", "--topk=3"]
    first = run(*line, f"--gallery={own}", f"--save_gallery={saved}")
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stderr
    records = [json.loads(text) for text in first.stdout.splitlines()]
    assert [record["image"] for record in records] == [
        str(looks / "a.png"),
        str(looks / "bad.jpg"),
        str(raw(looks)),
    ]
    assert set(records[1]) == {"image", "error"} and set(records[0]) == {"image", "matches"}
    assert [match["id"] for match in records[0]["matches"][:2]] == ["4.png", "\udcff.png"]
    assert set(records[0]["matches"][0]) == {"rank", "id", "score"}
    assert "12 images" in first.stderr and "embedded 12/12" not in first.stderr  # of 16 a batch
    page = (runs["global"] / "search" / "search.html").read_text()
    assert page.count("<img") == 2 * (1 + 3) and "\\udcff.png" in page and "bad.jpg" in page

    own.rename(tmp_path / "moved")  # the images are not at hand now
    second = run(*line, f"--gallery={saved}", f"--out={tmp_path / 'out'}")
    assert [json.loads(text) for text in second.stdout.splitlines()] == records
    assert (tmp_path / "out" / "search.html").read_text().count("image not available") == 6


def test_a_gallery_alone(runs, shop, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    shutil.copy(shop / "2.png", tmp_path)
    done = run(
        "search",
        *(f"--checkpoint={runs['zoo']}", f"--landmarks={runs['detector']}", f"--gallery={tmp_path}"),
        f"--save_gallery={tmp_path / 'g'}",
    )
    assert done.returncode == 1 and done.stdout == "" and "bad.jpg" in done.stderr, done.stderr
    assert "left out" in done.stderr and "1 image)" in done.stderr
    found = gallery.load_with(tmp_path / "g")
    assert found[0].id == ("2.png",) and len(found[1]["detector"]) == 64


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ([], ["gallery"], "no image given"),
        (["a.jpg"], ["checkpoint"], "search needs --gallery"),
    ],
)
def test_words_that_make_no_command(words, given, message):
    with pytest.raises(UserError, match=message):
        search.check_arguments(words, given)


def test_faiss_is_asked_for_before_anything_is_embedded(monkeypatch):
    def lacking():
        raise UserError("FAISS export needs faiss")

    monkeypatch.setattr(gallery, "need_faiss", lacking)
    with pytest.raises(UserError, match="needs faiss"):
        search.check_arguments([], ["gallery", "export_faiss"])
    assert search.check_arguments([], ["gallery", "save_gallery"]) == []


def test_checkpoints_of_other_tasks_name_their_command(runs):
    for kind, command, fits in (
        ("global", "predict", "search"),
        ("outfits", "predict", "outfit"),
        ("outfits", "search", "outfit"),
        ("detector", "search", "predict"),
    ):
        with pytest.raises(UserError, match=f"which {command} does not serve; use `fashionjax {fits}`"):
            photos.load(runs[kind], command)
    assert {entry.command for entry in tasks.TASKS.values()} <= set(cli.COMMANDS)
