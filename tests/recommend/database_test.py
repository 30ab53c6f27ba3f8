"""From a segmented database to recommendations: parts that a killed run goes on with, pairs, the command."""

import json
import shutil

import checkpoints
import numpy as np
import pytest
from close import assert_rounded, relative_rounding
from commands import run
from PIL import Image

from experiments import cgd
from fashionjax import embed, segment
from fashionjax.errors import UserError
from fashionjax.gallery import embed as gallery
from fashionjax.recommend import database, garments
from fashionjax.recommend.garments import Entry

CATEGORIES = ("coat", "skirt")
COLOURS = ((200, 30, 30), (30, 160, 40), (40, 50, 210))
PHOTOS = 6


def draw(folder, number: int) -> dict:
    """A photo of a coat above a skirt in the colours of product number % 3 → its line of index.jsonl."""
    rng = np.random.default_rng(number)
    image = np.full((48, 40, 3), 230, np.uint8)
    name, objects = f"look_{number}", []
    for place, category in enumerate(CATEGORIES):
        box = [8, 4 + 20 * place, 30, 22 + 20 * place]
        colour = np.roll(COLOURS[number % 3], place)
        image[box[1] : box[3], box[0] : box[2]] = np.clip(colour + rng.integers(-9, 10, 3), 0, 255)
        cut = np.full((18, 22, 4), 255, np.uint8)
        cut[..., :3] = image[box[1] : box[3], box[0] : box[2]]
        file = f"{name}/{category}_1.png"
        (folder / "db" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(cut).save(folder / "db" / file)
        objects.append(
            {"category": category, "rank": 1, "score": 0.9 - 0.1 * place, "box": box, "file": file}
        )
    path = folder / f"{name}.jpg"
    Image.fromarray(image).save(path, quality=95)
    return {"image": str(path), "name": name, "width": 40, "height": 48, "objects": objects}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Photos, their segmented database, pairs.csv and a tiny CGD checkpoint."""
    folder = tmp_path_factory.mktemp("recommend")
    lines = [draw(folder, number) for number in range(PHOTOS)]
    (folder / "db/index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "db/segmented.json").write_text(json.dumps({"model": "somebody"}))
    rows = [f"look_{n}.jpg,p{n % 3},{['red', 'green', 'blue'][n % 3]}" for n in range(PHOTOS)]
    (folder / "pairs.csv").write_text("\n".join(["image,pair_id,color", *rows]) + "\n")
    config = cgd.get_config("tiny=true")
    config.labels = {"item_id": ["a", "b", "c"]}
    config.image_size = config.canvas_size = 32
    config.model.backbone_fields.width = 4
    checkpoints.save_drawn(folder / "model", config, 0)
    return folder


@pytest.fixture(scope="module")
def embedder(root):
    return garments.load(str(root / "model"), 4)


@pytest.fixture
def db(root, tmp_path):
    """A copy of the segmented database without features."""
    return shutil.copytree(root / "db", tmp_path / "db", ignore=shutil.ignore_patterns("features"))


ORIGIN = {"checkpoint": "model", "detector": "", "pairs": "", "quirks": [], "synthetic": True}


def test_a_run_that_ended_in_the_middle_goes_on(db, embedder, root):
    pairs = database.read_pairs(str(root / "pairs.csv"))
    whole = shutil.copytree(db, db.parent / "whole")
    assert embed.run(whole, embedder, ORIGIN, pairs, 2) == []
    first = next(database.build(db, embedder, ORIGIN, pairs, 2))  # and the generator is dropped
    assert first == (2, []) and len(database.embedded_images(db)) == 2
    assert [count for count, _ in database.build(db, embedder, ORIGIN, pairs, 2)] == [2, 2]
    assert list(database.build(db, embedder, ORIGIN, pairs, 2)) == []
    gone_on, uninterrupted = database.read(db), database.read(whole)
    assert gone_on.garments == uninterrupted.garments and len(gone_on.garments) == 2 * PHOTOS
    # batches of another size: float32 sums of another order, 3 x 3 kernels over 32 channels of a ResNet-18
    bound = relative_rounding(9 * 32, layers=18)
    np.testing.assert_allclose(gone_on.embedding, uninterrupted.embedding, rtol=0, atol=bound)
    count, width = gone_on.embedding.shape
    norm = np.linalg.norm(np.float64(gone_on.embedding), axis=1)
    assert_rounded(norm, np.ones(count), operations=width + 8 + 1)
    garment = gone_on.garments[2]
    assert (garment.id, garment.pair_id, garment.color) == ("look_1/coat_1.png", "p1", "green")


def test_later_photos_join_and_other_flags_are_refused(db, embedder, root):
    index = db / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:3]))
    embed.run(db, embedder, ORIGIN, {}, 8)
    assert {garment.pair_id for garment in database.read(db).garments} == {"look_0", "look_1", "look_2"}
    index.write_text("".join(lines))
    embed.run(db, embedder, ORIGIN, {}, 8)
    assert len(database.read(db).garments) == 2 * PHOTOS
    with pytest.raises(UserError, match="written with another pairs"):
        embed.run(db, embedder, ORIGIN | {"pairs": "x"}, {}, 8)


def test_photos_that_are_gone_are_named_and_tried_again(db, embedder, root):
    shutil.move(db / "look_1/coat_1.png", db / "kept.png")
    shutil.move(root / "look_1.jpg", db / "kept.jpg")
    try:
        (error,) = embed.run(db, embedder, ORIGIN, {}, 8)
        assert "look_1" in str(error) and len(database.read(db).garments) == 2 * (PHOTOS - 1)
    finally:
        shutil.move(db / "kept.jpg", root / "look_1.jpg")
    shutil.move(db / "kept.png", db / "look_1/coat_1.png")
    assert embed.run(db, embedder, ORIGIN, {}, 8) == []
    assert len(database.read(db).garments) == 2 * PHOTOS


def test_a_damaged_part_is_named(db, embedder):
    embed.run(db, embedder, ORIGIN, {}, 3)
    part = db / "features/part-00001.safetensors"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(UserError, match=r"part-00001\.safetensors: damaged part"):
        database.read(db)
    part.unlink()
    embed.run(db, embedder, ORIGIN, {}, 3)
    assert len(database.read(db).garments) == 2 * PHOTOS


def test_cutouts_are_embedded_as_the_search_embeds_photos(db, embedder):
    """A garment that has no picture is cut out of the photo by its box."""
    line = json.loads((db / "index.jsonl").read_text().splitlines()[0])
    (rows,) = garments.embedded([Entry(line["image"], line["objects"], db)], embedder)
    bare = [{name: value for name, value in entry.items() if name != "file"} for entry in line["objects"]]
    (boxes,) = garments.embedded([Entry(line["image"], bare, None)], embedder)
    assert rows.shape == (2, 12)
    assert (np.einsum("nd,nd->n", rows, boxes) > 0.999).all()  # JPEG against PNG


def test_pairs_of_release_annotations(tmp_path):
    (tmp_path / "annos").mkdir()
    content = {"source": "shop", "pair_id": 12, "item1": {"style": 3, "category_color": "navy"}}
    (tmp_path / "annos/000001.json").write_text(json.dumps(content))
    assert database.read_pairs(str(tmp_path / "annos")) == {
        "000001": {"pair_id": "12", "color": "navy", "style": "3"}
    }
    (tmp_path / "annos/000002.json").write_text("{}")
    with pytest.raises(UserError, match=r"000002.json: has no pair_id"):
        database.read_pairs(str(tmp_path / "annos"))
    (tmp_path / "bad.csv").write_text("image,pair_id\na.jpg,\n")
    with pytest.raises(UserError, match=r"bad.csv, line 2: needs the columns"):
        database.read_pairs(str(tmp_path / "bad.csv"))


def test_photos_without_a_pair_are_refused(db, embedder):
    with pytest.raises(UserError, match=r"5 of 6 photos have no pair"):
        list(database.build(db, embedder, ORIGIN, {"look_0": {"pair_id": "1"}}))


@pytest.mark.slow
def test_from_the_command_line(db, root):
    """embed, then similar garments, what goes with one, and the evaluation, as a user runs them."""
    done = run("embed", f"--database={db}", f"--checkpoint={root / 'model'}", f"--pairs={root / 'pairs.csv'}",
               "--pca=3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 garments of 6 photos, 12 values, PCA to 3 values" in done.stderr
    recommend = ("recommend.__main__", root / "look_4.jpg", f"--database={db}")
    done = run(*recommend, "--category=skirt", "--top=2", f"--out={db.parent / 'page'}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(line) for line in lines] == [["rank", "id", "pair_id", "category", "score"]] * 2
    assert [line["rank"] for line in lines] == [1, 2] and {line["category"] for line in lines} == {"skirt"}
    assert len({line["pair_id"] for line in lines}) == 2 and lines[0]["score"] >= lines[1]["score"]
    twin = json.loads((db.parent / "page/recommendations.json").read_text())
    assert twin[0]["matches"] == lines
    page = (db.parent / "page/recommendations.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 and "look_4.jpg" in page
    done = run(*recommend, "--category=hat")
    assert done.returncode == 1 and "it has coat, skirt" in done.stderr
    done = run("recommend.__main__", f"--database={db}", "--garment=skirt", "--seed=1", "--complement=outer",
               f"--out={db.parent / 'own'}")  # fmt: skip
    assert done.returncode == 0 and "query: look_" in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    asked = json.loads((db.parent / "own/recommendations.json").read_text())[0]
    own = asked["image"].rpartition("_")[2].split(".")[0]
    assert {line["category"] for line in lines} == {"coat"} and asked["query"] == "skirt"
    assert {line["pair_id"] for line in lines} == {"p0", "p1", "p2"} - {f"p{int(own) % 3}"}
    done = run("recommend.__main__", f"--database={db}", "--garment=look_9/hat_1.png")
    assert done.returncode == 2 and "neither the id of a garment" in done.stderr
    done = run("recommend.__main__", f"--database={db}", "--pca", f"--out={db.parent / 'report'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((db.parent / "report/report.json").read_text())
    assert report["n"] == 12 and report["label"] == "own-images"
    table = report["tables"]["Recommendation"]
    assert [row[0] for row in table["rows"]] == [1, 2, 5, 10, 20]
    assert table["rows"][-1][2] == 100  # each garment's one partner is among the five others
    assert report["tables"]["Recommendation per category"]["rows"][0][:3] == ["coat", 6, 0]
    assert len((db.parent / "report/recommendations.jsonl").read_text().splitlines()) == 12


def test_models_that_embed_no_garments_are_refused(root, tmp_path):
    checkpoints.save(tmp_path / "landmarks", "detector")
    with pytest.raises(UserError, match="embeds no garments"):
        garments.load(str(tmp_path / "landmarks"), 1)


def test_queries_are_found_by_the_detector_of_the_database(db, embedder, monkeypatch, tmp_path):
    """segmented.json names it; one that has changed, or is gone, is an error that says what to do."""
    opened = []
    monkeypatch.setattr(garments.segmenter, "load", lambda path: opened.append(path) or embedder.model)
    assert garments.open_detector(db) is None and opened == []  # a database that does not say
    with pytest.raises(UserError, match=r"named: is not the detector that segmented .* --detector=none"):
        garments.open_detector(db, "named")
    origin = {"model": gallery.fingerprint(embedder.model), "checkpoint": str(tmp_path)}
    (db / segment.ORIGIN).write_text(json.dumps(origin))
    assert garments.open_detector(db) is embedder.model and opened[-1] == str(tmp_path)
    assert garments.open_detector(db, "named") is embedder.model and opened[-1] == "named"
    (db / segment.ORIGIN).write_text(json.dumps(origin | {"checkpoint": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"was segmented by .*gone, which is gone; --detector=DIR"):
        garments.open_detector(db)
