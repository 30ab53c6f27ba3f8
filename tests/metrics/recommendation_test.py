"""Metrics of recommendation by hand: who competes, what is left out, and the two ways of taking means."""

import numpy as np
import pytest
from close import rounding

from fashionjax import losses
from fashionjax.errors import UserError
from fashionjax.metrics import recommendation
from fashionjax.metrics.recommendation import Garments, RecommendationMetrics, rank
from fashionjax.task import Context


def garments(angles, category, pair, image=None):
    turn = np.deg2rad(np.asarray(angles, np.float64))
    embedding = np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    image = np.arange(len(angles)) if image is None else np.asarray(image)
    return Garments(embedding, np.asarray(category), np.asarray(pair), image)


QUERY = garments([0, 90, 0, 0], ["coat", "coat", "skirt", "hat"], [1, 2, 1, 1], image=[90, 91, 92, 93])
DATABASE = garments(
    [5, 10, 20, 80, 70, 1], ["coat", "coat", "coat", "coat", "coat", "skirt"], [3, 1, 1, 3, 2, 2]
)


def test_ranks_are_among_the_garments_of_the_category():
    found = rank(QUERY, DATABASE)
    np.testing.assert_array_equal(found["coat"].ranks[0], [2, 3])
    np.testing.assert_array_equal(found["coat"].ranks[1], [2])
    assert not len(found["skirt"].ranks[0])  # a pair that the database has in another category alone
    assert not len(found["hat"].ranks[0]) and np.isnan(found["hat"].best[0])


def test_figures_by_hand():
    """Means over garments of a category, then over categories that have one with a partner."""
    table = recommendation.per_category(rank(QUERY, DATABASE), (1, 2, 20))
    assert table["coat"]["n"] == 2 and table["skirt"] == table["skirt"] | {
        "n": 0,
        "left_out": 1,
        "hit@1": None,
    }
    assert table["coat"]["recall@2"] == pytest.approx((0.5 + 1.0) / 2)
    values = recommendation.metrics(rank(QUERY, DATABASE))
    assert values["zoo/recommend_hit@1"] == 0 and values["zoo/recommend_hit@2"] == 100
    assert values["zoo/recommend_mrr@2"] == pytest.approx(50)
    assert values["standard/recommend_mrr"] == pytest.approx(0.5)
    assert values["zoo/recommend_recall@20"] == 100  # k beyond the database


@pytest.mark.parametrize("seed", range(3))
def test_mrr_at_2_is_the_mean_of_the_hits_at_1_and_2(seed):
    """The identity by which the published 60.86 is read where the table prints 686."""
    rng = np.random.default_rng(seed)
    draw = lambda n: garments(rng.random(n) * 360, rng.choice(["a", "b", "c"], n), rng.integers(0, 9, n))  # noqa: E731
    values = recommendation.metrics(rank(draw(40), draw(60)))
    half = (values["zoo/recommend_hit@1"] + values["zoo/recommend_hit@2"]) / 2
    assert values["zoo/recommend_mrr@2"] == pytest.approx(half, abs=1e-9)
    assert values["zoo/recommend_recall@1"] <= values["zoo/recommend_hit@1"]


def test_garments_of_the_same_image_do_not_compete():
    both = garments([0, 1, 30], ["a", "a", "a"], [1, 1, 1], image=[7, 7, 8])
    np.testing.assert_array_equal(rank(both, both, other_images=True)["a"].ranks[0], [1])
    np.testing.assert_array_equal(rank(both, both)["a"].ranks[0], [1, 2, 3])


def test_nothing_to_judge_is_not_a_number():
    values = recommendation.metrics(rank(garments([0], ["a"], [1]), garments([0], ["a"], [2])))
    assert np.isnan(values["zoo/recommend_hit@1"]) and np.isnan(values["standard/recommend_mrr"])


def test_batch_hard_in_numpy_is_the_loss():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(12, 5))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    label = np.asarray([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4])  # the last has no partner
    loss = losses.batch_hard_triplet(
        embedding.astype(np.float32),
        label,
        embedding.astype(np.float32),
        label,
        np.arange(12),
        0.1,
        added=1e-6,
    )
    distance = np.linalg.norm(embedding[:, None] - embedding, axis=-1)
    # the root of a² - 2ab + b² of five values, the error of the square over twice the distance
    bound = rounding(3 * 5 + 8 + 12, scale=4) / (2 * distance[distance > 1e-9].min())
    assert recommendation.batch_hard(embedding, label, 0.1) == pytest.approx(float(loss.mean()), abs=bound)


def test_the_stream_splits_queries_from_the_database():
    """Padding and images that could not be read leave no garment; the pair's 64 bits survive."""
    judge = RecommendationMetrics(Context(), ["a", "b"], {"id": 1.0, "batch_hard": 2.0}, 0.1)
    pair = np.asarray([2**40, 2**40, 5], np.int64)
    batch = {
        "example_valid": np.asarray([True, True, False]),
        "index": np.arange(3),
        "role": np.asarray([0, 2, 1]),
        "pair": np.frombuffer(pair.tobytes(), np.int32).reshape(3, 2),
        "item_id": np.asarray([0, 0, 1]),
    }
    valid = np.asarray([[True, False], [True, True], [True, True]])
    embedding = np.asarray([[[1, 0], [9, 9]], [[0, 1], [1, 0]], [[1, 0], [1, 0]]], np.float32)
    prediction = {
        "detection_valid": valid,
        "embedding": embedding,
        "category": np.asarray([[0, 0], [0, 1], [0, 0]]),
        "score": np.ones((3, 2)),
        "box": np.zeros((3, 2, 4)),
        "id_loss": np.asarray([[0.5, 99.0], [1.0, 1.5], [7.0, 7.0]]),
    }
    judge.update(prediction, batch)
    query, database, same = judge.split
    assert not same and len(query.pair) == 1 and len(database.pair) == 2
    assert query.pair[0] == 2**40
    values = judge.result()
    assert values["zoo/recommend_hit@1"] == 100
    assert values["standard/validation_loss"] == pytest.approx(1.0)  # one pair alone: no triplet
    assert values["zoo/last_batch_loss"] == pytest.approx(1.0 / 3)


def test_a_detector_that_finds_nothing_is_reported():
    judge = RecommendationMetrics(Context(), ["a"], {}, 0.1)
    with pytest.raises(UserError, match="found no garment"):
        judge.result()


def test_first_boxes_of_an_image():
    """Quirk K1: the best garment's embedding under each category of the image."""
    rows = {
        "record": np.asarray([3, 3, 3, 5]),
        "category": np.asarray([1, 0, 1, 0]),
        "embedding": np.asarray([[1.0], [2.0], [3.0], [4.0]]),
    }
    kept = recommendation.first_boxes(rows)
    np.testing.assert_array_equal(kept["category"], [1, 0, 0])
    np.testing.assert_array_equal(kept["embedding"], [[1.0], [1.0], [4.0]])
