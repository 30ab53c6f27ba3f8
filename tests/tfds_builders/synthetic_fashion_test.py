"""The synthetic fashion world: bytes, identities, labels that agree with the image, difficulty."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from fashionjax.data.builders import prepare
from fashionjax.errors import UserError
from tfds_builders.synthetic_fashion import garments, ground, paint, records, scene, world
from tfds_builders.synthetic_fashion import synthetic_fashion_dataset_builder as builder

SIZE = 64
TRAIN, TEST = 288, 120
PLAN = records.Plan("attributes", {"train": TRAIN, "test": TEST}, SIZE, seed=7)
IN_SHOP = records.Plan("in_shop", {"train": 20, "query": 8, "gallery": 12}, 48, seed=7)
INSTANCES = records.Plan("instances", {"train": 40}, SIZE, seed=7, cluttered=0.5)


def pixels(record):
    return np.asarray(Image.open(io.BytesIO(record["image"])))


@pytest.fixture(scope="module")
def train():
    return list(records.records(PLAN, "train", processes=2))


@pytest.fixture(scope="module")
def test():
    return list(records.records(PLAN, "test", processes=1))


# ------------------------------------------------------------------------------ bytes and identities
@pytest.mark.slow
def test_bytes_do_not_depend_on_processes(train):
    # `train` was rendered in two processes; here: this process, single records, out of order
    for index in (280, 3, 100, 31, 32):
        again = records.record(PLAN, "train", index)
        assert again["image"] == train[index]["image"]
        assert again["image_id"] == train[index]["image_id"]
        np.testing.assert_array_equal(again["landmark"], train[index]["landmark"])


def test_other_seed_other_pictures(train):
    other = records.record(PLAN._replace(seed=8), "train", 0)
    assert other["image"] != train[0]["image"]


def test_results_come_in_the_order_of_the_calls():
    assert list(records.in_order(divmod, [(n, 3) for n in range(20)], 2)) == [divmod(n, 3) for n in range(20)]


def test_identities_of_splits_are_disjoint(train, test):
    def of(rows):
        return {row["item_id"] for row in rows}

    assert not of(train) & of(test)
    assert len(of(train)) == TRAIN // PLAN.per_item
    shop = {split: of(records.records(IN_SHOP, split, 1)) for split in IN_SHOP.sizes}
    assert shop["query"] == shop["gallery"] and len(shop["query"]) == 4
    assert not shop["train"] & shop["query"]
    # items with different numbers are different items, in every part that decides the look
    assert len({world.make_item(7, n)._replace(number=0) for n in range(2000)}) == 2000


def test_an_item_keeps_its_labels_and_look_across_views():
    rows = list(records.records(IN_SHOP, "train", 1))
    by_item = {}
    for row in rows:
        by_item.setdefault(row["item_id"], []).append(row)
    for views in by_item.values():
        assert [row["view"] for row in views] == ["shop"] * 3 + ["consumer"] * 2
        assert len({row["image"] for row in views}) == 5
        assert len({row["attribute"].tobytes() for row in views}) == 1
        assert len({row["category"] for row in views}) == 1


def test_pairs_join_every_consumer_picture_with_every_shop_picture_of_the_item():
    sizes = {"train": 10, "val": 5, "query": 4, "gallery": 6}
    plan = records.Plan("consumer_to_shop", sizes, 48, seed=7)
    sides = {"shop": {}, "consumer": {}}
    for split in sizes:
        for row in records.records(plan, split, 1):
            for pair in row["pair_id"].tolist():
                assert pair not in sides[row["view"]]  # one shop's and one consumer's image in a pair
                sides[row["view"]][pair] = (row["item_id"], split)
    # 2 + 1 + 2 items, 3 shop's and 2 consumer's images of each: numbered through the splits
    assert sorted(sides["shop"]) == sorted(sides["consumer"]) == list(range(5 * 6))
    assert all(sides["shop"][pair][0] == sides["consumer"][pair][0] for pair in range(30))
    splits = [sides["consumer"][pair][1] for pair in range(30)]
    assert splits == ["train"] * 12 + ["val"] * 6 + ["query"] * 12


# ------------------------------------------------------------------------------ labels
def test_attribute_vector_has_one_value_per_group_that_applies():
    for number in range(300):
        item = world.make_item(0, number)
        vector = world.attribute_vector(item)
        per_group = {
            group: int(vector[[g == group for g in world.ATTRIBUTE_GROUPS]].sum())
            for group in world.ATTRIBUTES
        }
        bare = {"sleeve", "neckline"} if item.garment_type == "lower" else set()
        assert per_group == {group: int(group not in bare) for group in world.ATTRIBUTES}
    assert len(world.ATTRIBUTE_NAMES) == len(set(world.ATTRIBUTE_NAMES)) == len(vector)


def test_every_category_and_attribute_occurs():
    items = [world.make_item(0, number) for number in range(3000)]
    assert {item.category for item in items} == set(world.CATEGORIES)
    assert len(world.CATEGORIES) >= 12
    share = np.mean([world.attribute_vector(item) for item in items], 0)
    assert share.min() > 0.02 and share.max() < 0.6


def test_colour_attribute_is_the_colour_seen():
    checked = 0
    for number in range(60):
        item = world.make_item(3, number)
        if item.pattern != "solid" or item.fabric != "cotton":
            continue
        picture = scene.single(world.rng_of(3, 9, number), item, 3, (SIZE, SIZE), consumer=False)
        color = np.median(pixels({"image": picture.jpeg})[picture.seen[0].mask], 0)
        nearest = min(world.PALETTE, key=lambda name: np.abs(color - world.PALETTE[name]).sum())
        assert nearest == item.color, (number, color)
        checked += 1
    assert checked >= 5


def test_visibility_codes_fit_garment_type_and_frame(train):
    seen_codes = set()
    for row in train:
        used = garments.SLOTS[row["garment_type"]]
        visibility, landmark = row["visibility"], row["landmark"]
        assert (visibility[:used] <= 2).all() and (visibility[used:] == 3).all()
        assert (landmark[visibility >= 2] == 0).all()
        assert (landmark >= 0).all() and (landmark[visibility < 2] < 1).all()
        seen_codes |= set(visibility.tolist())
    assert seen_codes == {0, 1, 2, 3}
    codes = np.stack([row["visibility"] for row in train])
    assert 0.7 < (codes == 0).sum() / (codes < 3).sum() < 0.95


def test_visible_landmarks_lie_on_the_garment_and_hidden_ones_do_not():
    on, hidden = [], []
    for number in range(60):
        item = world.make_item(1, number)
        picture = scene.single(world.rng_of(1, 9, number), item, 1, (SIZE, SIZE), consumer=number % 4 == 0)
        seen = picture.seen[0]
        for (x, y), code in zip(seen.landmark * SIZE, seen.visibility):
            if code < 2:
                row, column = int(y), int(x)
                near = seen.mask[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                (on if code == 0 else hidden).append(near.any() if code == 0 else seen.mask[row, column])
    assert np.mean(on) == 1.0 and len(on) > 200
    # an occluded point may be covered by another part of the same garment (a sleeve over the hem), so not all
    assert np.mean(hidden) < 0.6 and len(hidden) > 20


def test_left_slots_are_left_in_the_picture(train):
    pairs = [
        (row["landmark"][k, 0], row["landmark"][k + 1, 0])
        for row in train
        for k in (0, 2, 4, 6)
        if (row["visibility"][k : k + 2] == 0).all()
    ]
    assert np.mean([left < right for left, right in pairs]) > 0.99


def test_visibility_is_read_from_what_is_painted():
    """A tee as 20 x 20 codes by hand: own part, another part of it, something else, outside."""
    item = world.make_item(0, 0, "tee")
    layer = ("body", "body", "arm0", "arm1", "body", "body", "", "")
    worn = paint.Worn(item, garments.Garment([], [], np.zeros((8, 2)), layer), number=2)
    codes = np.zeros((20, 20), np.uint8)
    codes[0:10, 0:10] = 2 * 16 + paint.PART_CODE["body"]
    codes[0:10, 10:20] = 2 * 16 + paint.PART_CODE["arm0"]
    points = np.array([(5, 5), (15, 5), (15, 5), (15, 5), (5, 15), (5, 20), (0, 0), (0, 0)], float)
    assert scene._visibility(codes, points, worn).tolist() == [0, 1, 0, 1, 1, 2, 3, 3]


def test_a_bag_takes_pixels_from_mask_and_landmarks():
    item = world.make_item(0, 5, "skirt")
    rng = world.rng_of(0, 9, 5)
    figure = scene.make_figure(rng)
    worn = paint.Worn(item, garments.make_garment(item, figure), 1)
    matrix = scene.spread(worn.garment.parts[0].outline, rng, (SIZE, SIZE), 0.0, (0.6, 0.7))
    person = paint.Person(figure, (worn,), matrix)
    on = paint.canvas(ground.plain(rng, (2 * SIZE, 2 * SIZE)))
    paint.paint_person(on, person, rng)
    before = scene._read(np.asarray(on.codes).copy(), person, worn)
    hems = paint.to_pixels(matrix, worn.garment.landmark[2:4])
    assert (before.visibility[2:4] == 0).all()
    corner = hems[0] + np.array([(-9, -9), (9, -9), (9, 9), (-9, 9)])
    paint.fill(on, corner, (0, 0, 0))
    after = scene._read(np.asarray(on.codes), person, worn)
    assert after.visibility[2] == 1 and after.visibility[3] == 0
    np.testing.assert_array_equal(after.landmark, before.landmark)
    assert after.mask.sum() < before.mask.sum()


# ------------------------------------------------------------------------------ instances
def decode(text, size):
    """COCO's compressed counts → mask [size size], written from the format."""
    runs, at = [], 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            group = ord(text[at]) - 48
            value |= (group & 31) << shift
            shift, at, more = shift + 5, at + 1, bool(group & 32)
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(size, size).T.astype(bool)


def test_mask_text_of_a_hand_written_mask():
    mask = np.zeros((4, 3), bool)
    mask[1:3, 1] = True  # column-major: 5 zeros, 2 ones, 5 zeros
    assert records.run_lengths(mask).tolist() == [5, 2, 5]
    assert records.segmentation(mask) == '{"size":[4,3],"counts":"525"}'
    assert records.run_lengths(np.ones((2, 2), bool)).tolist() == [0, 4]


@pytest.mark.parametrize("seed", range(4))
def test_mask_text_round_trip(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((70, 70)) < (0.5, 0.02, 0.98, 0.0)[seed]
    np.testing.assert_array_equal(decode(json.loads(records.segmentation(mask))["counts"], 70), mask)


def test_masks_boxes_and_areas_agree():
    people, overlapping = set(), 0
    for row in records.records(INSTANCES, "train", 1):
        found = row["instance"]
        people.add(len(found))
        total = np.zeros((SIZE, SIZE), int)
        boxes = []
        for instance in found:
            mask = decode(json.loads(instance["segmentation"])["counts"], SIZE)
            total += mask
            assert mask.sum() == instance["area"] >= 0.002 * SIZE**2
            ys, xs = np.nonzero(mask)
            assert instance["box"].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            boxes.append(instance["box"])
        assert total.max() <= 1  # masks are what is seen, so they never overlap; boxes do
        assert len({instance["item_id"] for instance in found}) == len(found)
        for k, a in enumerate(boxes):
            for b in boxes[k + 1 :]:
                overlapping += bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())
    assert {1, 2, 3, 4} <= people and overlapping > 20


# ------------------------------------------------------------------------------ difficulty
def mean_landmark_error(train, test, kind=None):
    errors = []
    for slot in range(8):
        place = [
            r["landmark"][slot]
            for r in train
            if r["visibility"][slot] == 0 and kind in (None, r["garment_type"])
        ]
        mean = np.mean(place, 0) if place else None
        for row in test:
            if row["visibility"][slot] == 0 and kind in (None, row["garment_type"]):
                errors.append(np.hypot(*(row["landmark"][slot] - mean)))
    return np.mean(errors)


def test_the_mean_place_does_not_give_the_landmarks(train, test):
    assert mean_landmark_error(train, test) > 0.15
    for kind in world.GARMENT_TYPES:
        assert mean_landmark_error(train, test, kind) > 0.12


def linear_top1(features, train, test, penalty):
    """Ridge regression onto the categories."""
    x, z = (np.stack([features(pixels(row)) for row in rows]) for rows in (train, test))
    x, z = (np.concatenate([v - x.mean(0), np.ones((len(v), 1))], 1) for v in (x, z))
    target = np.eye(16)[[world.CATEGORY_NAMES.index(row["category"]) for row in train]]
    # the dual form: there are fewer images than pixels
    score = z @ x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), target)
    truth = [world.CATEGORY_NAMES.index(row["category"]) for row in test]
    return float(np.mean(score.argmax(1) == truth))


def test_colour_and_linear_pixels_do_not_give_the_category(train, test):
    def colours(image):
        low = image[: SIZE // 3 * 3, : SIZE // 3 * 3].reshape(3, SIZE // 3, 3, SIZE // 3, 3).mean((1, 3))
        return np.concatenate([low.ravel(), image.std((0, 1))]) / 255

    def small(image):
        return np.asarray(Image.fromarray(image).resize((32, 32))).ravel() / 255.0

    assert linear_top1(colours, train, test, 0.1) < 0.35
    assert linear_top1(small, train, test, 100.0) < 0.4


# ------------------------------------------------------------------------------ TFDS
SMALL = {
    "attributes": {"train": 6, "val": 2, "test": 2, "size": 48},
    "landmarks": {"train": 4, "val": 2, "test": 2, "size": 48},
    "in_shop": {"train_items": 2, "test_items": 1, "size": 48},
    "consumer_to_shop": {"train_items": 2, "val_items": 1, "test_items": 1, "size": 48},
    "instances": {"train": 4, "val": 1, "test": 1, "size": 64},
}


FIGURES = [config for config in builder.BUILDER_CONFIGS if config.name not in ("outfits", "fine_grained")]


@pytest.mark.parametrize("config", FIGURES, ids=lambda config: config.name)
def test_prepared_records_have_the_common_features(config, tmp_path):
    config = dataclasses.replace(config, **SMALL[config.name], processes=1)
    made = builder.Builder(config=config, data_dir=tmp_path)
    made.download_and_prepare(file_format="array_record")
    plan = builder.make_plan(config)
    assert {name: split.num_examples for name, split in made.info.splits.items()} == plan.sizes
    assert made.data_path == tmp_path / "synthetic_fashion" / config.name / "1.0.0"
    assert list(made.info.metadata["attribute_names"]) == list(world.ATTRIBUTE_NAMES)
    assert list(made.info.metadata["attribute_groups"]) == list(world.ATTRIBUTE_GROUPS)
    assert made.info.metadata["parameters"]["size"] == config.size
    rows = {row["image_id"].decode(): row for row in made.as_data_source(split="train")}
    truth = records.record(plan, "train", 1)
    row = rows[truth["image_id"]]
    np.testing.assert_array_equal(row["image"], pixels(truth))
    label = {"image", "image_id", "category", "garment_type", "landmark", "visibility", "box", "item_id"}
    if config.name == "instances":
        assert set(row) == {"image", "image_id", "coco_id", "pair_id", "height", "width", "instance"}
        more = {"segmentation", "area", "iscrowd"}
        assert set(row["instance"]) == label - {"image", "image_id"} | more
        stored = [text.decode() for text in row["instance"]["segmentation"]]
        assert stored == [instance["segmentation"] for instance in truth["instance"]]
        return
    wanted = label | {"view"} | ({"attribute"} if config.name != "landmarks" else set())
    assert set(row) == wanted | ({"pair_id"} if config.name == "consumer_to_shop" else set())
    np.testing.assert_array_equal(row.get("pair_id", []), truth.get("pair_id", []))
    assert made.info.features["category"].int2str(int(row["category"])) == truth["category"]
    np.testing.assert_array_equal(row["landmark"], truth["landmark"])
    np.testing.assert_array_equal(row["visibility"], truth["visibility"])
    np.testing.assert_array_equal(row["box"], truth["box"])
    assert row["landmark"].dtype == np.float32 and row["visibility"].dtype == np.int32


def test_defaults_are_large_enough_to_train_on():
    sizes = {config.name: builder.make_plan(config).sizes for config in FIGURES}
    assert sizes["attributes"] == sizes["landmarks"] == {"train": 6000, "val": 1000, "test": 1000}
    assert sizes["in_shop"] == {"train": 6000, "query": 800, "gallery": 1200}
    assert sizes["consumer_to_shop"] == {"train": 5000, "val": 750, "query": 700, "gallery": 1050}


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        ("landmarks", "train", "-4", "train=-4: must be at least 1"),
        ("landmarks", "per_item", "0", "per_item=0: must be at least 1"),
        ("attributes", "size", "0", "size=0: must be at least 1"),
        ("attributes", "cluttered", "7", "cluttered=7.0: must be between 0 and 1"),
        ("attributes", "freedom", "-0.1", "freedom=-0.1: must be between 0 and 1"),
        ("in_shop", "consumer_views", "0", "consumer_views=0: must be at least 1"),
        ("consumer_to_shop", "val_items", "0", "val_items=0: must be at least 1"),
        ("instances", "seed", "-1", "seed=-1: must not be negative"),
        ("outfits", "size", "-1", "size=-1: must be at least 1"),
        ("fine_grained", "queries", "2", "queries=2.0: must be between 0 and 1"),
        ("fine_grained", "val", "1", "val=1: must be at least 2, a query and a candidate"),
    ],
)
def test_numbers_that_no_config_has(config, field, value, message, tmp_path):
    with pytest.raises(UserError) as caught:
        prepare(f"synthetic_fashion/{config}", data_dir=tmp_path, overrides={field: value}, progress=False)
    assert str(caught.value) == message and not list(tmp_path.rglob("*.json"))
