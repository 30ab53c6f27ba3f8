"""Synthetic outfits: bytes, tables that ask fairly, types and texts, and how little colour alone says."""

from __future__ import annotations

import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from fashionjax.data import builders, source
from fashionjax.errors import UserError
from fashionjax.reports import baselines
from tfds_builders.release import ReleaseError
from tfds_builders.synthetic_fashion import outfits, product, wardrobe
from tfds_builders.synthetic_fashion import synthetic_fashion_dataset_builder as builder

CONFIG = builder.OutfitsConfig(name="outfits", train=60, val=30, test=40, size=40, seed=5)
SMALL = {"train": "24", "val": "24", "test": "30", "size": "32"}


@pytest.fixture(scope="module")
def drawn() -> dict[str, outfits.Outfits]:
    return builder.draw_outfits(CONFIG)


@pytest.fixture(scope="module")
def asked(drawn) -> dict[str, list]:
    return outfits.tables(5, "test", kinds(drawn["test"]), drawn["test"].outfit)


def kinds(part: outfits.Outfits) -> list[str]:
    return [piece.kind for piece in part.pieces]


# ------------------------------------------------------------------------------ bytes and identities
@pytest.mark.full
def test_pictures_do_not_depend_on_processes() -> None:
    pieces = builder.draw_outfits(dataclasses.replace(CONFIG, train=80))["train"].pieces[:260]
    items = [piece.item for piece in pieces]
    together = list(product.products(5, items, 24, processes=2))
    for at in (0, 31, 32, 259):
        assert product.product(5, items[at], 24) == together[at]
    assert len(set(together)) == len(items)
    assert product.product(6, items[0], 24) != together[0]


def test_the_same_seed_draws_the_same_outfits(drawn) -> None:
    assert builder.draw_outfits(dataclasses.replace(CONFIG, size=64)) == drawn
    assert builder.draw_outfits(dataclasses.replace(CONFIG, seed=6)) != drawn
    longer = builder.draw_outfits(dataclasses.replace(CONFIG, train=90))
    assert longer["test"] == drawn["test"]
    assert longer["train"].outfit[:60] == drawn["train"].outfit


def test_pieces_of_splits_are_different(drawn) -> None:
    numbers = [{piece.item.number for piece in part.pieces} for part in drawn.values()]
    assert all(not a & b for a, b in itertools.combinations(numbers, 2))
    looks = [{piece.item._replace(number=0) for piece in part.pieces} for part in drawn.values()]
    assert all(not a & b for a, b in itertools.combinations(looks, 2))


# ------------------------------------------------------------------------------ outfits
def test_outfits(drawn) -> None:
    for part in drawn.values():
        seen = list(dict.fromkeys(itertools.chain(*part.outfit)))
        assert seen == list(range(len(part.pieces)))  # numbered by first appearance
        for rows in part.outfit:
            pieces = [part.pieces[row] for row in rows]
            types = [piece.kind for piece in pieces]
            assert 3 <= len(set(types)) == len(types) <= 6
            assert ("all-body" in types) != ({"tops", "bottoms"} <= set(types))
            assert len({(piece.palette, piece.style) for piece in pieces}) == 1
    assert {kind for part in drawn.values() for kind in kinds(part)} == set(wardrobe.TYPES)


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.4])
def test_share_of_pieces_in_two_outfits(shared: float) -> None:
    part = outfits.draw(0, "test", 300, wardrobe.Taste(), shared)
    times = np.bincount(list(itertools.chain(*part.outfit)))
    assert set(times) <= {1, 2}
    assert np.mean(times == 2) == pytest.approx(shared, abs=0.01)


def test_palette_and_style_show_in_each_type_in_their_own_way() -> None:
    taste = wardrobe.Taste(off_palette=0.0)
    for kind in wardrobe.TYPES:
        for palette, style in itertools.product(range(8), range(4)):
            piece = wardrobe.make_piece(1, palette * 4 + style, kind, palette, style, taste)
            assert piece.item.color == wardrobe.PALETTE_HUES[kind][palette]
            look = piece.item.category if wardrobe.KINDS[kind].shape_is_style else piece.item.pattern
            assert look == wardrobe.STYLE_CUES[kind][style]
        assert len(set(wardrobe.PALETTE_HUES[kind])) == wardrobe.MAX_PALETTES
        assert len(set(wardrobe.STYLE_CUES[kind])) == wardrobe.MAX_STYLES
    same = np.mean(
        [
            wardrobe.PALETTE_HUES[a][p] == wardrobe.PALETTE_HUES[b][p]
            for first, second in itertools.combinations(wardrobe.PARTS, 2)
            for a, b in itertools.product(first, second)
            for p in range(8)
        ]
    )
    assert same < 0.25  # one in eight by chance: going together is not having the same colour


def test_share_of_pieces_off_their_palette() -> None:
    def share(value: float) -> float:
        taste = wardrobe.Taste(off_palette=value)
        pieces = [wardrobe.make_piece(1, n, "bags", n % 8, 0, taste) for n in range(800)]
        return float(np.mean([p.item.color != wardrobe.PALETTE_HUES["bags"][p.palette] for p in pieces]))

    assert share(0.0) == 0
    assert share(0.08) == pytest.approx(0.08, abs=0.03)


def test_the_hue_is_the_colour_seen() -> None:
    taste, checked = wardrobe.Taste(off_palette=0.0, jitter=2.0), 0
    for number in range(80):
        kind = ("scarves", "tops")[number % 2]
        piece = wardrobe.make_piece(2, number, kind, number % 8, number % 4, taste)
        plain = piece.item.pattern == "solid" and piece.item.fabric == "cotton"
        if not plain or piece.item.category not in ("shawl", "tee", "tank"):
            continue
        picture = np.asarray(Image.open(io.BytesIO(product.product(2, piece.item, 64))))
        colour = np.median(picture[28:36, 28:36].reshape(-1, 3), 0)
        assert piece.item.color == min(wardrobe.HUES, key=lambda n: np.abs(colour - wardrobe.HUES[n]).sum())
        checked += 1
    assert checked >= 4


# ------------------------------------------------------------------------------ what is asked
def test_artificial_outfits_have_the_types_of_the_real_ones(drawn, asked) -> None:
    of, outfit = kinds(drawn["test"]), drawn["test"].outfit
    assert asked["compatibility_label"] == [1, 0] * len(outfit)
    assert asked["compatibility"][0::2] == outfit
    for real, artificial in zip(outfit, asked["compatibility"][1::2]):
        assert [of[row] for row in real] == [of[row] for row in artificial]
        assert all(a != b for a, b in zip(real, artificial))


def test_answers_share_the_type_of_the_blank_and_go_with_nothing_else(drawn, asked) -> None:
    of, outfit = kinds(drawn["test"]), drawn["test"].outfit
    places = []
    for rows, question, answers, correct, blank in zip(
        outfit, *(asked[name] for name in ("question", "answer", "correct", "blank"))
    ):
        assert len(set(answers)) == 4 and sum(correct) == 1
        right = answers[correct.index(1)]
        assert rows == question[: blank - 1] + [right] + question[blank - 1 :]
        assert {of[row] for row in answers} == {of[right]}
        for wrong in set(answers) - {right}:
            assert not any(wrong in other and set(question) & set(other) for other in outfit)
        places.append(correct.index(1))
    assert set(places) == {0, 1, 2, 3}


def test_colour_alone_does_not_answer() -> None:
    """As the nearest image by the histogram that the reports use; chance is 0.25."""
    part = outfits.draw(0, "test", 120, wardrobe.Taste(), 0.2)
    asked = outfits.tables(0, "test", kinds(part), part.outfit)
    pictures = product.products(0, [piece.item for piece in part.pieces], 48, processes=1)
    rows = baselines.colour_histograms(np.asarray(Image.open(io.BytesIO(data))) for data in pictures)
    cosine = rows @ rows.T
    for alike in (cosine, -np.sqrt(np.maximum(2 - 2 * cosine, 0))):
        chosen = [
            int(np.argmax(alike[np.ix_(question, answers)].sum(0)))
            for question, answers in zip(asked["question"], asked["answer"])
        ]
        right = [correct[choice] for correct, choice in zip(asked["correct"], chosen)]
        assert np.mean(right) <= 0.4
    latent = np.array([(piece.palette, piece.style) for piece in part.pieces])
    same = (latent[:, None] == latent[None]).all(-1)
    knowing = [
        correct[int(np.argmax(same[np.ix_(question, answers)].sum(0)))]
        for question, answers, correct in zip(asked["question"], asked["answer"], asked["correct"])
    ]
    assert np.mean(knowing) > 0.85  # whereas palette and style do


# ------------------------------------------------------------------------------ texts
def test_texts() -> None:
    pieces = [
        wardrobe.make_piece(3, n, wardrobe.TYPES[n % 9], n % 8, n % 4, wardrobe.Taste()) for n in range(900)
    ]
    assert 0.06 < np.mean([not piece.has_text for piece in pieces]) < 0.14
    assert 0.02 < np.mean([piece.title == "" for piece in pieces]) < 0.08
    assert all(piece.title or not piece.has_text for piece in pieces)
    for piece in pieces:
        assert set(piece.title.split()) <= set(wardrobe.VOCABULARY)
    vector = wardrobe.text_vector("teal striped tote bag, teal")
    assert vector.dtype == np.float32 and np.linalg.norm(vector) == pytest.approx(1)
    words = {wardrobe.VOCABULARY[i]: vector[i] for i in np.flatnonzero(vector)}
    assert words == {k: pytest.approx(v / np.sqrt(7)) for k, v in
                     {"teal": 2, "striped": 1, "tote": 1, "bag": 1}.items()}  # fmt: skip
    assert not wardrobe.text_vector("").any()


# ------------------------------------------------------------------------------ TFDS
def test_prepared(tmp_path) -> None:
    result = builders.prepare("synthetic_fashion/outfits", data_dir=tmp_path, overrides=SMALL, progress=False)
    config = dataclasses.replace(CONFIG, train=24, val=24, test=30, size=32, seed=0)
    drawn = builder.draw_outfits(config)
    assert result["splits"] == {split: len(part.pieces) for split, part in drawn.items()}
    split = source.open_split("synthetic_fashion/outfits", "test", tmp_path)
    assert split.labels["category"] == list(wardrobe.TYPES)
    assert split.labels["type_space"] == [
        list(pair) for pair in itertools.combinations_with_replacement(sorted(wardrobe.TYPES), 2)
    ]
    pieces = drawn["test"].pieces
    for row in (0, 7, len(pieces) - 1):
        record, piece = split[row], pieces[row]
        assert record["title"] == piece.title and record["fine_category"] == piece.item.category
        assert wardrobe.TYPES[record["category"]] == piece.kind
        assert record["image"] == product.product(0, piece.item, 32)
        assert record["item_id"] == f"id_{piece.item.number:08d}" and record["image_id"].startswith("test/")
    text, has = split.column("text"), split.column("has_text")
    assert text.dtype == np.float32 and text.shape == (len(pieces), len(wardrobe.VOCABULARY))
    np.testing.assert_array_equal(has, [piece.has_text for piece in pieces])
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), has, atol=1e-6)
    truth = outfits.tables(0, "test", kinds(drawn["test"]), drawn["test"].outfit)
    for name, rows in truth.items():
        assert [row.tolist() if isinstance(row, np.ndarray) else row for row in split.column(name)] == rows


def test_defaults() -> None:
    config = next(c for c in builder.BUILDER_CONFIGS if c.name == "outfits")
    assert (config.train, config.val, config.test, config.size) == (1500, 150, 300, 96)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("val", "0", "val=0: must be at least 1"),
        ("palettes", "13", "palettes=13: must be between 1 and 12"),
        ("styles", "0", "styles=0: must be between 1 and 5"),
        ("shared", "1.0", "shared=1.0: must be between 0 and 0.9"),
        ("off_palette", "-0.1", "off_palette=-0.1: must be between"),
        ("test", "2", "test=2: too few outfits for questions of 4 answers"),
    ],
)
def test_settings_that_no_world_has(tmp_path, field: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        builders.prepare(
            "synthetic_fashion/outfits", data_dir=tmp_path, overrides=SMALL | {field: value}, progress=False
        )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_too_few_pieces_of_a_type() -> None:
    with pytest.raises(ReleaseError, match="val=1: too few"):
        outfits.tables(0, "val", ["tops", "bottoms", "bags"], [[0, 1, 2]])
