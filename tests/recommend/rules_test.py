"""Which garments compete and in which order: groups, one garment a product, complements, quirk K1."""

import json

import numpy as np
import pytest
from close import rounding

from fashionjax.errors import UserError
from fashionjax.recommend import rules
from fashionjax.recommend.rules import Garment
from tfds_builders.deepfashion2.deepfashion2_dataset_builder import CATEGORIES as DEEPFASHION2
from tfds_builders.kfashion.kfashion_dataset_builder import CATEGORIES as KFASHION
from tfds_builders.synthetic_fashion.world import CATEGORY_NAMES


def garment(name, category, pair, score=0.9, **more):
    return Garment(
        f"{name}/{category}_1.png", f"{name}.jpg", name, pair, category, score, (0, 0, 9, 9), **more
    )


GARMENTS = [
    garment("a", "skirt", "1"),
    garment("a", "coat", "1", color="red"),
    garment("b", "skirt", "2"),
    garment("b", "coat", "2", color="blue"),
    garment("c", "skirt", "1"),
    garment("d", "coat", "4"),
]
EMBEDDING = np.asarray([[1, 0.1], [0, 1], [1, 0.5], [0.2, 1], [1, 0], [1, 0]], np.float32)
QUERY = np.asarray([1, 0], np.float32)


def ids(hits):
    return [GARMENTS[hit.shown].id for hit in hits]


def test_every_category_of_the_benchmarks_is_in_one_group():
    listed = [name for names in rules.GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert {*KFASHION, *DEEPFASHION2, *CATEGORY_NAMES} <= set(listed)
    assert rules.group_of("bratop") == "upper" and rules.group_of("hat") is None


def test_the_nearest_of_each_product():
    assert ids(rules.similar(QUERY, EMBEDDING, GARMENTS, "skirt", 10)) == ["c/skirt_1.png", "b/skirt_1.png"]
    assert ids(rules.similar(QUERY, EMBEDDING, GARMENTS, None, 2)) == ["c/skirt_1.png", "d/coat_1.png"]
    assert rules.similar(QUERY, EMBEDDING, GARMENTS, "hat", 3) == []
    assert rules.similar(QUERY, EMBEDDING, GARMENTS, "skirt", 1)[0].score == pytest.approx(1, abs=rounding(4))


def test_categories_by_name():
    assert rules.category_named("스커트", ["skirt"]) == "skirt"
    with pytest.raises(rules.NoAnswer, match="it has coat, skirt") as caught:
        rules.category_named("hat", ["skirt", "coat"])
    assert caught.value.code == "FAIL_001"


def test_complements_are_worn_with_something_like_the_query():
    """Compared by the skirts of photos that show a coat as well; c has none, d no skirt."""
    found = rules.complements(QUERY, "skirt", ("coat",), EMBEDDING, GARMENTS, 5)
    assert ids(found) == ["a/coat_1.png", "b/coat_1.png"]
    assert found[0].score == pytest.approx(1 / np.hypot(1, 0.1), abs=rounding(4))
    blue = rules.complements(QUERY, "skirt", ("coat",), EMBEDDING, GARMENTS, 5, color="blue")
    assert ids(blue) == ["b/coat_1.png"]
    with pytest.raises(rules.NoAnswer, match="no photo") as caught:
        rules.complements(QUERY, "skirt", ("coat",), EMBEDDING, GARMENTS, 5, color="green")
    assert caught.value.code == "FAIL_006"


def test_upstream_compares_complements_by_any_garment_of_the_photo():
    query = np.asarray([0, 1], np.float32)
    alike = rules.complements(query, "skirt", ("coat",), EMBEDDING, GARMENTS, 1)
    every = rules.complements(query, "skirt", ("coat",), EMBEDDING, GARMENTS, 1, search_all=True)
    assert (ids(alike), ids(every)) == (["b/coat_1.png"], ["a/coat_1.png"])


@pytest.mark.parametrize(
    "found, wanted, place, code",
    [
        (["coat", "skirt", "jean"], "jacket", 1, None),
        (["coat", "skirt", "jean"], "outer", 1, None),
        (["coat"], "jacket", None, "FAIL_004"),
        ([], "jacket", None, "FAIL_003"),
        (["coat"], "hat", None, "FAIL_005"),
        (["coat"], "belt", None, "FAIL_001"),
        (["hat", "jean"], "jacket", 1, None),  # a category in no group is passed over
    ],
)
def test_the_garment_that_a_complement_is_asked_with(found, wanted, place, code):
    def ask():
        return rules.query_of(found, rules.wanted_of(wanted, ["coat", "hat", "jacket"])[0])

    if code is None:
        assert ask() == place
        return
    with pytest.raises(rules.NoAnswer) as caught:
        ask()
    assert caught.value.code == code


def test_a_group_may_be_wanted_and_own_pairs_left_out():
    """As fashion-recommendation's demo from database to database asks (src/recommend_seg.py)."""
    group, wanted = rules.wanted_of("outer", ["coat", "skirt"])
    assert group == "outer" and {"coat", "jacket"} <= set(wanted)
    with pytest.raises(rules.NoAnswer, match=r"it has coat, skirt \(groups: upper, lower, outer\)"):
        rules.wanted_of("over", ["coat", "skirt"])
    found = rules.complements(QUERY, "skirt", wanted, EMBEDDING, GARMENTS, 5, other_than="1")
    assert ids(found) == ["b/coat_1.png"]
    assert ids(rules.similar(QUERY, EMBEDDING, GARMENTS, "skirt", 5, other_than="1")) == ["b/skirt_1.png"]
    with pytest.raises(rules.NoAnswer, match="no photo"):
        rules.complements(QUERY, "skirt", ("hat",), EMBEDDING, GARMENTS, 5)


def test_groups_of_a_file(tmp_path):
    file = tmp_path / "groups.json"
    file.write_text(json.dumps({"feet": ["shoe"], "rest": ["coat"]}))
    groups = rules.read_groups(str(file))
    assert rules.group_of("shoe", groups) == "feet" and rules.query_of(["coat", "shoe"], "rest", groups) == 1
    for content in ("[", '{"a": "b"}', "[]"):
        file.write_text(content)
        with pytest.raises(UserError, match="--groups"):
            rules.read_groups(str(file))


def test_first_box_features():
    """One record per category of a photo, all with the features of its best garment."""
    garments = [
        garment("a", "skirt", "1", 0.6),
        garment("a", "coat", "1", 0.9),
        garment("a", "skirt", "1", 0.7),
    ]
    kept, embedding = rules.first_box_features(garments, np.asarray([[1.0], [2.0], [3.0]]))
    assert [(g.category, g.score) for g in kept] == [("coat", 0.9), ("skirt", 0.7)]
    np.testing.assert_array_equal(embedding, [[2.0], [2.0]])
