"""Orders of the training stream: what a position may hold, and that it is a function of (seed, position)."""

import collections
import pickle

import numpy as np
import pytest

from fashionjax.data import samplers
from fashionjax.errors import UserError

ITEM = np.asarray(["b", "a", "b", "c", "b", "a", "d"])  # c and d have one record


def stream(order, count, seed=3, start=0):
    return [order.at(seed, position) for position in range(start, start + count)]


def test_triplets_hold_anchor_positive_negative():
    order = samplers.triplets(ITEM)
    assert order.epoch == 21
    rows = np.asarray(stream(order, 3 * 700)).reshape(-1, 3)
    anchor, positive, negative = rows.T
    for epoch in np.split(anchor, 100):
        assert sorted(epoch) == list(range(7))
    assert (ITEM[positive] == ITEM[anchor]).all() and (ITEM[negative] != ITEM[anchor]).all()
    alone = np.isin(ITEM[anchor], ["c", "d"])
    assert (positive[alone] == anchor[alone]).all() and (positive[~alone] != anchor[~alone]).all()


def test_negatives_are_drawn_by_record_then_uniformly_within_the_item():
    """Of the anchor d: item b with 3 of 6 records, then each of its records alike."""
    order = samplers.triplets(ITEM)
    rows = np.asarray(stream(order, 3 * 7 * 800)).reshape(-1, 3)
    negative = collections.Counter(rows[rows[:, 0] == 6][:, 2].tolist())
    share = {row: count / 800 for row, count in negative.items()}
    assert share == pytest.approx({0: 1 / 6, 2: 1 / 6, 4: 1 / 6, 1: 1 / 6, 5: 1 / 6, 3: 1 / 6}, abs=0.05)


@pytest.mark.parametrize("kind", ["triplets", "pair_triplets", "identity_balanced"])
def test_a_position_is_a_function_of_the_seed(kind):
    order = make(kind)
    whole = stream(order, 60)
    assert stream(order, 20, start=40) == whole[40:]
    assert stream(pickle.loads(pickle.dumps(order)), 60) == whole  # as a worker process gets it
    assert stream(order, 60, seed=4) != whole


def make(kind):
    if kind == "triplets":
        return samplers.triplets(ITEM)
    if kind == "identity_balanced":
        return samplers.identity_balanced(ITEM, 2)
    return samplers.pair_triplets(PAIRS, VIEW, PAIR_ITEM)


# records 0 … 5: consumers 0, 3, 4; shops 1, 2, 5. Pairs 10 (0, 1), 11 (0, 2), 12 (3, 5), 13 (4, 5)
PAIRS = np.empty(6, object)
for row, pairs in enumerate([[10, 11], [10], [11], [12], [13], [12, 13]]):
    PAIRS[row] = np.asarray(pairs)
VIEW = np.asarray([1, 0, 0, 1, 1, 0])
PAIR_ITEM = np.asarray(["x", "x", "x", "y", "y", "y"])


def test_pair_triplets_follow_the_pairs():
    order = samplers.pair_triplets(PAIRS, VIEW, PAIR_ITEM)
    assert order.epoch == 12
    rows = np.asarray(stream(order, 3 * 4 * 200)).reshape(-1, 3)
    assert collections.Counter(rows[:, 0].tolist()) == {0: 400, 3: 200, 4: 200}  # once per pair and epoch
    assert {(a, p) for a, p, _ in rows.tolist()} == {(0, 2), (3, 5), (4, 5)}  # the shop of the last pair
    assert {(a, n) for a, _, n in rows.tolist()} == {(0, 5), (3, 1), (3, 2), (4, 1), (4, 2)}


def test_halved_labels_are_those_of_pair_i_over_2():
    """Pairs 0 … 3 in order have items x x y y: the halved ones are of pairs 0 0 1 1, all x."""
    order = samplers.pair_triplets(PAIRS, VIEW, PAIR_ITEM, np.asarray([7, 7, 7, 9, 9, 9]))
    anchors = stream(order, 3 * 40)[::3]
    assert {(row, int(labels["item_id"])) for row, labels in anchors} == {(0, 7), (3, 7), (4, 7)}
    assert all(isinstance(row, int) for row in stream(order, 30)[1::3])


def test_identities_are_balanced():
    order = samplers.identity_balanced(ITEM, 3)
    groups = np.asarray(stream(order, 3 * 4 * 50)).reshape(-1, 3)
    items = ITEM[groups]
    assert (items == items[:, :1]).all()
    for turn in np.split(items[:, 0], 50):
        assert sorted(turn) == ["a", "b", "c", "d"]
    for group, item in zip(groups, items[:, 0]):
        assert len(set(group)) == {"a": 2, "b": 3, "c": 1, "d": 1}[item]


def test_views_alternate():
    item, view = np.asarray(["a"] * 5 + ["b"] * 2), np.asarray([0, 0, 0, 1, 1, 0, 0])
    order = samplers.identity_balanced(item, 4, view)
    groups = np.asarray(stream(order, 4 * 40)).reshape(-1, 4)
    for group in groups[item[groups[:, 0]] == "a"]:
        assert view[group].tolist() == [0, 1, 0, 1] and len(set(group)) == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: samplers.triplets(np.asarray(["a", "a"])), "two items"),
        (lambda: samplers.identity_balanced(ITEM, 1), "per_item"),
        (lambda: samplers.pair_triplets(PAIRS[1:2], VIEW[1:2], PAIR_ITEM[1:2]), "no pair"),
    ],
)
def test_impossible_orders_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


# ------------------------------------------------------------------------------ outfits
OUTFITS = [[0, 1, 2], [3, 4], [5, 1], [6], [7, 8, 9, 10]]
TYPE = np.asarray([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2])


def test_typed_triplets():
    order = samplers.typed_triplets(OUTFITS, TYPE)
    pairs = sorted((a, b) for rows in OUTFITS for i, a in enumerate(rows) for b in rows[i + 1 :])
    assert order.epoch == 3 * len(pairs)
    epochs = np.asarray(stream(order, 400 * order.epoch)).reshape(400, -1, 3)
    for epoch in epochs[:20]:
        assert sorted(map(tuple, epoch[:, :2].tolist())) == pairs
    negative, positive = epochs[..., 2].ravel(), epochs[..., 1].ravel()
    assert (TYPE[negative] == TYPE[positive]).all() and (negative != positive).all()
    # items of type 2 stand in outfits {2}, {5}, {9, 10}: an outfit is drawn first, then an item of it
    drawn = negative[positive == 2]
    share = {item: np.mean(drawn == item) for item in (5, 9, 10)}
    assert share[5] == pytest.approx(1 / 2, abs=0.08) and share[9] == pytest.approx(1 / 4, abs=0.08)


def test_records_without_a_type_are_in_no_triplet():
    category = np.asarray([0, 1, -1, 1, 0, 1])
    order = samplers.typed_triplets([[0, 1, 2], [2, 3], [4, 5, 2]], category)
    assert order.epoch == 3 * 2
    assert {order.at(0, position) for position in range(600)} == {0, 1, 3, 4, 5}


def test_a_type_of_one_item_is_its_own_negative():
    order = samplers.typed_triplets([[0, 1]], np.asarray([0, 1]))
    assert [order.at(0, position) for position in range(3)] == [0, 1, 1]


def test_whole_outfits():
    order = samplers.whole_outfits(OUTFITS, 3)
    assert order.epoch == 3 * 4
    parts = set()
    for start in range(0, 40 * order.epoch, 3):
        rows, labels = zip(*(order.at(0, start + slot) for slot in range(3)))
        inside = [bool(label["in_outfit"]) for label in labels]
        (outfit,) = [o for o in OUTFITS if rows[0] in o and len(o) > 1 and set(rows) <= set(o)]
        assert sum(inside) == min(3, len(outfit)) and inside == sorted(inside, reverse=True)
        members = [row for row, known in zip(rows, inside) if known]
        assert len(set(members)) == len(members)
        assert all(row == rows[0] for row, known in zip(rows, inside) if not known)
        parts |= {tuple(sorted(members))} if len(outfit) == 4 else set()
    assert len(parts) == 4  # every part of the largest outfit comes


@pytest.mark.parametrize("build", [samplers.typed_triplets, lambda rows, _: samplers.whole_outfits(rows, 4)])
def test_outfits_of_one_item_are_none(build):
    with pytest.raises(UserError, match="two items"):
        build([[0], [1]], np.asarray([0, 1]))


def test_rare_categories_are_drawn_more_often():
    """Counts over many epochs are proportional to n^(1 - power); unreadable records are left out."""
    category = np.array([0] * 60 + [1] * 15 + [2] * 5 + [-1] * 3)
    for power in (0.0, 0.5, 1.0):
        sampler = samplers.class_balanced(category, power)
        assert sampler.epoch == 80
        drawn = np.array([sampler.at(7, position) for position in range(80 * 200)])
        share = np.bincount(category[drawn], minlength=3) / len(drawn)
        want = np.array([60.0, 15, 5]) ** (1 - power)
        np.testing.assert_allclose(share, want / want.sum(), atol=0.02)
    assert sampler.at(7, 12_345) == samplers.class_balanced(category, 1.0).at(7, 12_345)  # from any position
    assert category[drawn].min() == 0
    with pytest.raises(UserError, match="class_balance=2"):
        samplers.class_balanced(category, 2)
