"""Orders on (image, attribute) pairs: what a position may hold, and that it is a function of the seed."""

import collections
import pickle

import numpy as np
import pytest

from fashionjax.data import attribute_samplers as samplers
from fashionjax.errors import UserError

# attribute 0: values 0, 1, 2 have four, two, one images; attribute 1: two each, image 1 has both values
ROWS = [(0, 0, r) for r in (0, 1, 2, 3)] + [(0, 1, r) for r in (4, 5)] + [(0, 2, 6)]
ROWS += [(1, 0, r) for r in (0, 1)] + [(1, 1, r) for r in (1, 7)]
ATTRIBUTE, VALUE, RECORD = (np.asarray(column) for column in zip(*ROWS, strict=True))


def stream(order, count, seed=3, start=0):
    return np.asarray([order.at(seed, position) for position in range(start, start + count)])


def test_triplets_are_of_one_attribute():
    order = samplers.attribute_triplets(ATTRIBUTE, VALUE, RECORD, triplets=50)
    assert order.epoch == 150
    anchor, positive, negative = stream(order, 3 * 3000).reshape(-1, 3).T
    assert (ATTRIBUTE[anchor] == ATTRIBUTE[positive]).all() and (
        ATTRIBUTE[anchor] == ATTRIBUTE[negative]
    ).all()
    assert (VALUE[anchor] == VALUE[positive]).all() and (VALUE[anchor] != VALUE[negative]).all()
    assert (RECORD[anchor] != RECORD[positive]).all()
    labels = set(zip(RECORD.tolist(), ATTRIBUTE.tolist(), VALUE.tolist(), strict=True))
    for n, a, v in zip(RECORD[negative], ATTRIBUTE[anchor], VALUE[anchor], strict=True):
        assert (n, a, v) not in labels
    of_zero = ATTRIBUTE[anchor] == 0
    assert of_zero.mean() == pytest.approx(0.5, abs=0.04)  # attributes alike
    assert (VALUE[anchor][of_zero] == 0).mean() == pytest.approx(0.5, abs=0.05)  # values alike, value 2 never
    assert (VALUE[anchor][of_zero] != 2).all() and (VALUE[negative][of_zero] == 2).any()


def test_upstream_keeps_negatives_with_the_anchors_value():
    order = samplers.attribute_triplets(ATTRIBUTE, VALUE, RECORD, strict=False)
    anchor, _, negative = stream(order, 3 * 1000).reshape(-1, 3).T
    assert ((RECORD[anchor] == RECORD[negative]) & (ATTRIBUTE[anchor] == 1)).any()


@pytest.mark.parametrize("by_image", [False, True])
def test_negatives_are_uniform_over_values_or_images(by_image):
    """Of attribute 0 and value 1: the others have four images and one."""
    order = samplers.attribute_triplets(ATTRIBUTE, VALUE, RECORD, by_image=by_image)
    anchor, _, negative = stream(order, 3 * 2000).reshape(-1, 3).T
    of = (ATTRIBUTE[anchor] == 0) & (VALUE[anchor] == 1)
    assert (VALUE[negative][of] == 0).mean() == pytest.approx(0.8 if by_image else 0.5, abs=0.08)


@pytest.mark.parametrize("per_value, values", [(2, 2), (3, 4)])
def test_balanced_groups(per_value, values):
    order = samplers.attribute_balanced(ATTRIBUTE, VALUE, RECORD, values, per_value)
    size = values * per_value
    groups = stream(order, 200 * size).reshape(-1, values, per_value)
    attributes = collections.Counter()
    for group in groups:
        assert len(set(ATTRIBUTE[group.ravel()])) == 1 and (VALUE[group] == VALUE[group][:, :1]).all()
        a = int(ATTRIBUTE[group[0, 0]])
        attributes[a] += 1
        assert len(set(VALUE[group[:, 0]].tolist())) == min(values, len(set(VALUE[a == ATTRIBUTE])))
        for rows in group:
            available = ((a == ATTRIBUTE) & (VALUE[rows[0]] == VALUE)).sum()
            assert len(set(rows.tolist())) == min(per_value, available)
    assert attributes[0] == attributes[1] == 100


@pytest.mark.parametrize("kind", ["triplets", "balanced"])
def test_a_position_is_a_function_of_the_seed(kind):
    def make():
        if kind == "triplets":
            return samplers.attribute_triplets(ATTRIBUTE, VALUE, RECORD)
        return samplers.attribute_balanced(ATTRIBUTE, VALUE, RECORD, 2, 2)

    order = make()
    whole = stream(order, 60)
    assert (stream(make(), 20, start=40) == whole[40:]).all()
    assert (stream(pickle.loads(pickle.dumps(order)), 60) == whole).all()
    assert (stream(order, 60, seed=4) != whole).any()


def test_what_cannot_be_sampled_is_reported(capsys):
    samplers.values_of(ATTRIBUTE, VALUE, RECORD)
    assert "1 values occur in one image only and give no anchors" in capsys.readouterr().err
    with pytest.raises(UserError, match="no attribute of this split has two values"):
        samplers.attribute_triplets([0, 0], [1, 1], [0, 1])
    with pytest.raises(UserError, match="found no negative"):
        order = samplers.attribute_triplets([0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1])
        order.at(0, 0)
    with pytest.raises(UserError, match="at least 2"):
        samplers.attribute_balanced(ATTRIBUTE, VALUE, RECORD, 2, 1)


def test_whole_images_come_once_an_epoch_with_all_their_labels():
    order = samplers.whole_images(ATTRIBUTE, VALUE, RECORD, 3)
    assert order.epoch == 8
    found = [order.at(0, position) for position in range(8)]
    assert sorted(RECORD[pair] for pair, _ in found) == list(range(8))
    labels = {int(RECORD[pair]): label for pair, label in found}
    np.testing.assert_array_equal(labels[0]["attribute"], [0, 1, 2])
    assert labels[0]["value"].tolist() == [0, 0, -1] and labels[7]["value"].tolist() == [-1, 1, -1]
    assert labels[1]["value"].tolist() == [0, 0, -1]  # of its two values the first
    assert [pair for pair, _ in found] != [order.at(0, position)[0] for position in range(8, 16)]
