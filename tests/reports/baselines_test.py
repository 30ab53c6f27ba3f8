import numpy as np
import pytest
from close import assert_rounded

from fashionjax.errors import UserError
from fashionjax.reports import baselines


@pytest.mark.parametrize("n, p", [(40, 7), (12, 30)], ids=["primal", "dual"])
def test_ridge_equals_least_squares(n, p):
    """λ as √λ·identity rows below the centred data: lstsq solves the same problem."""
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(2, 1, (n, p)), rng.normal(-1, 1, (n, 3)), rng.normal(0, 1, (5, p))
    strength = 0.3
    centred = x - x.mean(0)
    gram = centred.T @ centred if p <= n else centred @ centred.T
    penalty = strength * np.linalg.eigvalsh(gram).mean()
    rows = np.concatenate([centred, np.sqrt(penalty) * np.eye(p)])
    weight = np.linalg.lstsq(rows, np.concatenate([y - y.mean(0), np.zeros((p, 3))]), rcond=None)[0]
    expected = (new - x.mean(0)) @ weight + y.mean(0)
    np.testing.assert_allclose(baselines.ridge(x, y)(new, strength), expected, rtol=1e-9, atol=1e-9)


def measured(train, test):
    """{baseline: figures}, the test examples in two batches, the last one padded."""
    n = len(next(iter(test.values())))
    test = {name: np.concatenate([values, values[:1]]) for name, values in test.items()}
    test |= {"index": np.arange(n + 1), "example_valid": np.arange(n + 1) < n}
    found = baselines.fit(train)
    for part in (slice(0, n // 2), slice(n // 2, n + 1)):
        for baseline in found.values():
            baseline.update({}, {name: values[part] for name, values in test.items()})
    results = {name: baseline.result() for name, baseline in found.items()}
    return {name: values for name, values in results.items() if values}


def test_majority_by_hand():
    train = {"category": np.array([0, 2, 2, 1, 2]), "attribute": np.array([[1, 0]] * 4 + [[0, 1]])}
    test = {"category": np.array([2, 0, 2, 3]), "attribute": np.array([[1, 0], [0, 0], [1, 0], [1, 1]])}
    (values,) = measured(train, test).values()
    assert values["standard/category_top1"] == 0.5
    # a constant score makes one threshold: the average precision is the test prevalence, 3/4 and 1/4
    assert values["standard/attribute_map"] == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert values["train_examples"] == 5


def test_mean_landmark_by_hand():
    train = {
        "landmark": np.array([[[0.2, 0.2], [0.9, 0.9]], [[0.4, 0.6], [0.1, 0.1]]]),
        "visibility": np.array([[1, 0], [1, 0]]),
    }
    test = {
        "landmark": np.array([[[0.3, 0.4], [0.5, 0.2]], [[0.3, 0.1], [0, 0]]]),
        "visibility": np.array([[1, 1], [1, 0]]),
    }
    values = measured(train, test)["mean_landmark"]
    # means (0.3, 0.4) and, never visible, the centre: distances 0, 0.3, 0.3
    assert values["standard/landmark_ne_visible"] == pytest.approx(0.2)


def coloured(category, rng):
    """Pictures whose category is which quarter is bright."""
    image = rng.integers(0, 100, (len(category), 48, 48, 3)).astype(np.uint8)
    for i, c in enumerate(category):
        image[i, 24 * (c // 2) : 24 * (c // 2) + 24, 24 * (c % 2) : 24 * (c % 2) + 24] += 60
    return image


def test_linear_pixels_learns_what_is_linear_and_not_noise():
    rng = np.random.default_rng(1)

    def split(n):
        category = rng.integers(0, 4, n)
        attribute = np.stack([category == 0, rng.random(n) < 0.3], 1).astype(np.uint8)
        return {"category": category, "attribute": attribute, "image": coloured(category, rng)}

    train, test = split(200), split(100)
    values = measured(train, test)
    assert values["linear_pixels"]["standard/category_top1"] > 0.95
    assert values["majority"]["standard/category_top1"] < 0.45
    noise = {**test, "image": rng.integers(0, 255, test["image"].shape).astype(np.uint8)}
    assert measured(train, noise)["linear_pixels"]["standard/category_top1"] < 0.5


def test_only_what_both_splits_label():
    image = np.zeros((6, 24, 24, 3), np.uint8)
    category = np.arange(6) % 2
    both = {"image": image, "category": category}
    found = measured(both, both)
    assert set(found) == {"majority", "linear_pixels"}
    assert measured(both, {"image": image}) == {}
    no_positive = {"attribute": np.zeros((6, 3), np.uint8), "image": image}
    assert measured(no_positive, no_positive) == {}
    with pytest.raises(UserError, match="empty"):
        baselines.fit({"category": np.zeros(0, int)})


def test_training_examples_are_capped_and_said():
    assert baselines.spread(1000, 4).tolist() == [0, 333, 666, 999]
    assert baselines.spread(3).tolist() == [0, 1, 2]
    category = np.arange(7000) % 3
    values = measured({"category": category}, {"category": category[:5]})
    assert values["majority"]["train_examples"] == baselines.TRAIN_CAP == 6000


def test_gather_shrinks_as_it_goes():
    def endless():
        while True:
            yield {"image": np.full((96, 64, 3), 7, np.uint8), "category": np.int32(1), "frame": np.zeros(4)}

    arrays = baselines.gather(endless(), cap=3)
    assert set(arrays) == {"image", "category"}
    assert arrays["image"].shape == (3, baselines.SIDE, baselines.SIDE, 3) and (arrays["image"] == 7).all()
    step = np.zeros((48, 48, 3), np.uint8)
    step[::2] = 200
    assert (baselines.shrink(step) == 100).all(), "area means, not samples"


def test_colour_histograms_find_colours_and_nothing_else():
    """Red images are nearest to red ones whatever their shapes; cosine is the overlap of two histograms."""
    red, blue = np.zeros((4, 6, 3), np.uint8), np.zeros((9, 5, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 250
    half = np.concatenate([red, np.zeros_like(red)])
    rows = baselines.colour_histograms([red, blue, half, red[::2]])
    assert rows.shape == (4, 512) and rows.dtype == np.float32
    # at most two of the 512 products are not zero; norms of two counts
    assert_rounded((rows @ rows.T)[0], [1, 0, np.sqrt(0.5), 1], operations=2 * (2 + 8 + 1) + 2)
