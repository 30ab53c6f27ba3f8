"""`fashionjax outfit`: scores against the definition, the commands as a user starts them, refusals."""

import csv
import itertools
import json

import numpy as np
import pytest
from close import assert_conditioned, relative_rounding
from commands import run
from outfits import PAIRS, TYPES, photo, save_model

from fashionjax.errors import UserError
from fashionjax.inference import photos
from fashionjax.ops import type_spaces
from fashionjax.outfit import __main__ as outfit
from fashionjax.outfit import completion, score, typed_gallery
from fashionjax.outfit import items as outfit_items

GIVEN = [10, 8, 2]  # tops, shoes, bags


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{kind: workdir}"""
    return {
        kind: save_model(tmp_path_factory.mktemp(kind), kind) for kind in ("mask", "fc", "set", "headless")
    }


@pytest.fixture(scope="module")
def looks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    return [photo(folder / f"{name}.png", seed) for seed, name in enumerate(("top", "shoes", "bag"), 100)]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """24 photos in a folder, and a table that gives them hats, bags and bottoms in turn."""
    folder = tmp_path_factory.mktemp("gallery")
    for number in range(24):
        photo(folder / f"{number:02d}.png", number)
    table = folder / "types.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "type"])
        rows.writerows([f"{n:02d}.png", ("hats", "bags", "bottoms")[n % 3]] for n in range(24))
    return folder


def opened(models, kind, paths, types):
    """(outfit, model, its parameters on one device)"""
    model = outfit_items.load(models[kind])
    found = outfit_items.read(paths, types, model.config, photos.predictor(model, 8))
    return found, model, outfit.jax.device_get(model.params)


def naive_distance(params, a, b, space) -> float:
    net, a, b = params["type_specific_net"], np.float64(a), np.float64(b)
    if "mask" in net:
        a, b = (x * np.maximum(net["mask"][space], 0) for x in (a, b))
        a, b = (x / (np.linalg.norm(x) + 1e-10) for x in (a, b))
        return float(np.linalg.norm(a - b + 1e-6))
    a, b = (x @ net["kernel"][space] + net["bias"][space] for x in (a, b))
    return float(np.sum(params["metric_branch"] * a * b))


# ------------------------------------------------------------------------------ score
@pytest.mark.parametrize("kind", ["mask", "fc"])
def test_score_is_one_minus_the_mean_distance(models, looks, kind):
    found, model, params = opened(models, kind, looks, GIVEN)
    result = score.score(found, model.config, params)
    table = type_spaces.space_table(PAIRS, TYPES)

    def definition(params, embedding):
        distance = [
            naive_distance(params, *embedding[[i, j]], table[GIVEN[i], GIVEN[j]])
            for i, j in itertools.combinations(range(3), 2)
        ]
        return np.asarray(distance)

    want = definition(params, found.embedding)
    assert [(pair.a, pair.b) for pair in result.pairs] == list(itertools.combinations(looks, 2))
    got = np.asarray([pair.distance for pair in result.pairs])
    assert_conditioned(got, want, definition, params, found.embedding, terms=16, digits=6)
    assert result.score == pytest.approx(1 - got.mean(), abs=1e-6)  # of the distances, to six digits
    assert result.weakest == result.pairs[int(np.argmax(want))]
    assert result.types[0] == score.ItemType(looks[0], "tops", None)
    summary, scale, weakest = score.in_words(result, model.config)
    assert f"{result.score:.3f}" in summary and "3 pairs" in summary
    assert ("-1 is the worst" in scale) == (kind == "mask") and result.weakest.a in weakest


def test_score_of_a_set_is_its_probability(models, looks):
    found, model, params = opened(models, "set", looks, GIVEN)
    result = score.score(found, model.config, params)
    scorer = score.compatibility.make_scorer(model.config, params)
    (logit,) = scorer.outfits(found.embedding, found.category, [np.arange(3)]).double
    bound = relative_rounding(2 * 16, layers=12) + 5e-7  # sets of other sizes, other programs; six digits
    assert result.score == pytest.approx(1 / (1 + np.exp(-logit)), abs=bound)
    (pair,) = scorer.outfits(found.embedding, found.category, [np.asarray([0, 2])]).double
    assert result.pairs[1].distance == pytest.approx(1 - 1 / (1 + np.exp(-pair)), abs=bound)
    assert "Probability" in score.in_words(result, model.config)[0]


def test_the_same_photo_twice(models, looks):
    found, model, params = opened(models, "mask", [looks[0], looks[1], looks[0]], [10, 8, 10])
    result = score.score(found, model.config, params)
    places = [(pair["a_index"], pair["b_index"]) for pair in result.to_dict()["pairs"]]
    assert places == [(0, 1), (0, 2), (1, 2)] and result.pairs[1].a == result.pairs[1].b
    epsilon = type_spaces.PAIR_EPSILON * 16**0.5  # of 16 values; the rest is the network's rounding
    assert result.pairs[1].distance == pytest.approx(0, abs=epsilon + relative_rounding(9 * 32, layers=18))
    assert result.weakest == result.pairs[0], "of equal distances the first pair"


def test_types_are_predicted_where_they_are_not_given(models, looks):
    found, *_ = opened(models, "mask", looks, [None, 8, None])
    first, second, third = found.items
    assert second.type == "shoes" and second.probability is None
    for item in (first, third):
        assert item.type in TYPES and 1 / len(TYPES) < item.probability <= 1
    again, *_ = opened(models, "mask", looks, [TYPES.index(item.type) for item in found.items])
    np.testing.assert_array_equal(again.embedding, found.embedding)


def test_types_that_cannot_be_used(models):
    config = outfit_items.load(models["mask"]).config
    assert outfit_items.given_types(" tops,,bags", ["a", "b", "c"], config) == [10, None, 2]
    assert outfit_items.given_types("", ["a", "b"], config) == [None, None]
    with pytest.raises(
        UserError, match=r"type of b: 'socks' is not a type .* its types are accessories, .*, tops"
    ):
        outfit_items.given_types("tops,socks", ["a", "b"], config)
    with pytest.raises(UserError, match="2 entries for 3 images"):
        outfit_items.given_types("tops,bags", ["a", "b", "c"], config)
    bare = outfit_items.load(models["headless"]).config
    assert outfit_items.given_types("tops,bags", ["a", "b"], bare) == [10, 2]
    for text in ("", "tops,"):
        with pytest.raises(UserError, match=r"no type head; .* --types=TYPE,TYPE,… \(accessories, "):
            outfit_items.given_types(text, ["a", "b"], bare)


def test_an_embedding_that_is_not_finite(models, looks):
    model = outfit_items.load(models["mask"])
    predictor = photos.predictor(model, 8)
    broken = predictor._replace(run=lambda batch: {k: v * np.nan for k, v in predictor.run(batch).items()})
    with pytest.raises(UserError, match=r"top.png: the model's embedding is not finite"):
        outfit_items.read(looks, GIVEN, model.config, broken)


def test_checkpoints_of_other_tasks(models, monkeypatch):
    model = outfit_items.load(models["mask"])
    model.config.task = "landmarks"
    monkeypatch.setattr(outfit_items.photos, "load", lambda path: model)
    with pytest.raises(UserError, match="run: a checkpoint of the task landmarks"):
        outfit_items.load("run")


# ------------------------------------------------------------------------------ complete
def test_missing_types():
    known = ("bags", "bottoms", "tops")
    assert outfit.asked_types("", known) == [] and outfit.asked_types("tops, bags,tops", known) == [
        "tops",
        "bags",
    ]
    with pytest.raises(UserError, match="--missing: 'socks' is not a type"):
        outfit.asked_types("tops,socks", known)


def test_candidates_of_missing_types(models, looks):
    found, model, params = opened(models, "mask", looks[:1], GIVEN[:1])
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 16)).astype(np.float32)
    category, numbers = np.asarray([8, 2, 8, 10, 8, 8], np.int32), np.arange(6, dtype=np.int32)
    stored = typed_gallery.TypedGallery(
        rows, category, tuple("abcdef"), tuple(TYPES), {"folder": "/"}, numbers, ""
    )
    assert completion.types_to_add(["tops"], stored) == ["bags", "shoes"]
    rank = completion.make_ranker(model.config, params)
    wanted = ["shoes", "hats", "bags"]
    ranked, lacking = completion.complete(found.embedding, found.category, stored, rank, wanted, 3)
    assert lacking == ["hats"] and list(ranked) == ["shoes", "bags"]
    assert [entry.rank for entry, _ in ranked["shoes"]] == [1, 2, 3] and len(ranked["bags"]) == 1
    table = type_spaces.space_table(PAIRS, TYPES)

    def definition(params, worn, rows):
        return np.asarray([1 - naive_distance(params, row, worn, table[10, 8]) for row in rows])

    arguments, shoes = (params, found.embedding[0], rows), [0, 2, 4, 5]
    want = definition(*arguments)
    order = sorted(shoes, key=lambda n: -want[n])[:3]
    assert [place for _, place in ranked["shoes"]] == order
    assert [entry.id for entry, _ in ranked["shoes"]] == ["abcdef"[row] for row in order]
    got = np.asarray([entry.score for entry, _ in ranked["shoes"]])
    ordered = lambda *arguments: definition(*arguments)[order]  # noqa: E731
    assert_conditioned(got, want[order], ordered, *arguments, terms=16, digits=6)


# ------------------------------------------------------------------------------ the commands
def test_the_score_command(models, looks, tmp_path):
    done = run("outfit", "score", *looks, f"--checkpoint={models['mask']}", "--types=tops,,bags")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"score", "pairs", "weakest", "types"} and len(result["pairs"]) == 3
    assert set(result["weakest"]) == {"a", "b", "distance"} and result["weakest"] in result["pairs"]
    assert result["types"][1]["probability"] > 0
    page, matrix = models["mask"] / "outfits" / "score.html", models["mask"] / "outfits" / "matrix.png"
    text = page.read_text()
    assert text.count("<img") == 4 and "weakest pair" in text and "predicted, 0." in text and "given" in text
    assert (
        matrix.read_bytes().startswith(b"\x89PNG") and str(page) in done.stderr and str(matrix) in done.stderr
    )


def test_a_single_piece_has_no_score(models, looks, tmp_path):
    done = run(
        "outfit", "score", looks[0], f"--checkpoint={models['headless']}", "--types=tops", f"--out={tmp_path}"
    )
    assert done.returncode == 0 and "no score" in done.stderr
    result = json.loads(done.stdout)
    assert (result["score"], result["pairs"], result["weakest"]) == (None, [], None)
    assert (tmp_path / "score.html").read_text().count("<img") == 1


def test_photos_that_cannot_be_read(models, looks, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    line = [looks[0], tmp_path / "bad.jpg", tmp_path / "gone.jpg", f"--checkpoint={models['mask']}"]
    done = run("outfit", "score", *line, f"--out={tmp_path}")
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert len(errors) == 2 and "bad.jpg" in errors[0] and "gone.jpg" in errors[1]


@pytest.mark.slow
def test_the_complete_command(models, looks, gallery, tmp_path):
    """A folder with given types; what it saved gives the same."""
    saved = tmp_path / "gallery.safetensors"
    flags = [f"--checkpoint={models['fc']}", "--types=tops", f"--out={tmp_path}", "--topk=3"]
    line = ["outfit", "complete", looks[0], *flags]
    first = run(
        *line, f"--gallery={gallery}", f"--gallery_types={gallery / 'types.csv'}", f"--save_gallery={saved}"
    )
    assert first.returncode == 0, first.stderr
    records = [json.loads(text) for text in first.stdout.splitlines()]
    assert all(set(record) == {"type", "rank", "id", "score"} for record in records)
    order = [(record["type"], record["rank"]) for record in records]
    assert order == [(kind, rank) for kind in ("bags", "bottoms", "hats") for rank in (1, 2, 3)]
    assert records[0]["score"] >= records[1]["score"] >= records[2]["score"]
    assert all(int(record["id"][:2]) % 3 == 1 for record in records[:3]), "bags"
    assert "top.png: tops (given)" in first.stderr and "24 items" in first.stderr
    assert (tmp_path / "complete.html").read_text().count("<img") == 1 + 9

    moved = gallery.rename(tmp_path / "moved")  # its images are not at hand now
    second = run(*line, f"--gallery={saved}", "--missing=hats,shoes,bags")
    moved.rename(gallery)
    assert second.returncode == 0, second.stderr
    again = [json.loads(text) for text in second.stdout.splitlines()]
    assert again == records[6:] + records[:3] and "The gallery has no shoes." in second.stderr
    page = (tmp_path / "complete-2.html").read_text()
    assert page.count("image not available") == 6 and "has no shoes" in page


@pytest.mark.slow
def test_unreadable_photos_of_a_gallery_are_left_out(models, looks, tmp_path):
    for number in range(3):
        photo(tmp_path / "gallery" / f"{number}.png", number)
    (tmp_path / "gallery" / "bad.png").write_bytes(b"none")
    flags = [f"--checkpoint={models['set']}", f"--gallery={tmp_path / 'gallery'}", f"--out={tmp_path}"]
    done = run("outfit", "complete", *looks, *flags)
    assert done.returncode == 1 and "bad.png" in done.stderr and "left out" in done.stderr
    records = [json.loads(text) for text in done.stdout.splitlines()]
    assert all(0 <= record["score"] <= 1 for record in records)
    assert len(records) > 0 or "Nothing is missing" in done.stderr


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ([], [], "outfit : write `outfit score IMG…`"),
        (["mend", "a.jpg"], ["gallery"], "outfit mend: write"),
        (["score"], ["checkpoint"], "no image given"),
        (["score", "a.jpg"], ["out", "topk", "gallery"], "--gallery belongs to `outfit complete`"),
        (["complete", "a.jpg"], ["topk"], "needs --gallery"),
    ],
)
def test_words_that_make_no_command(words, given, message):
    with pytest.raises(UserError, match=message):
        outfit.check_arguments(words, given)


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    done = run("outfit", "complete", "a.jpg", "--gallery=b", f"--checkpoint={tmp_path / 'none'}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert len(lines) == 1 and "no such folder" in lines[0]
