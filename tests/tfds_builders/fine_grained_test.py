"""Synthetic tops with small details: values balanced and independent, boxes around what shows them."""

import io

import numpy as np
import pytest
from PIL import Image

from fashionjax.data import builders, source
from fashionjax.metrics.fine_grained import FineGrainedMetrics, random_precision
from fashionjax.reports.baselines import colour_histograms
from fashionjax.task import Context
from tfds_builders.synthetic_fashion import fine_grained
from tfds_builders.synthetic_fashion.fine_details import ATTRIBUTES, VALUES
from tfds_builders.synthetic_fashion.world import rng_of

SIZE = 192
PLAN = fine_grained.Plan({"train": 8, "val": 5, "test": 10}, SIZE, 0, 0.2, 0.3)


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.int32)


def test_values_are_balanced_and_independent():
    counts = [len(of) for of in VALUES.values()]
    assert len(counts) >= 5 and min(counts) >= 3 and max(counts) <= 5
    drawn = np.asarray([fine_grained.values(0, "train", i) for i in range(600)])
    for column, count in zip(drawn.T, counts, strict=True):
        assert np.bincount(column, minlength=count).tolist() == [600 // count] * count
    for a in range(len(counts)):
        for b in range(a):
            table = np.zeros((counts[a], counts[b]))
            np.add.at(table, (drawn[:, a], drawn[:, b]), 1)
            expected = 600 / table.size
            freedom = (counts[a] - 1) * (counts[b] - 1)
            assert ((table - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)
    other = np.asarray([fine_grained.values(0, "test", i) for i in range(600)])
    assert (other != drawn).any()


@pytest.mark.parametrize("attribute", range(len(ATTRIBUTES)), ids=ATTRIBUTES)
def test_a_value_changes_the_image_inside_its_box_alone(attribute):
    """The same random numbers and other values of one attribute, on a plain ground."""
    images, boxes = [], []
    for value in range(len(VALUES[ATTRIBUTES[attribute]])):
        chosen = [0] * len(ATTRIBUTES)
        chosen[attribute] = value
        jpeg, box = fine_grained.draw(rng_of(3, attribute), 0, 8, chosen, SIZE, consumer=False)
        images.append(pixels(jpeg))
        boxes.append(box)
    box = np.concatenate([np.min(boxes, 0)[:, :2], np.max(boxes, 0)[:, 2:]], 1)[attribute]
    assert ((box[2:] - box[:2]).prod() < SIZE**2 / 4) and (box[:2] >= 0).all() and (box[2:] <= SIZE).all()
    x0, y0, x1, y1 = np.concatenate([box[:2] - 8, box[2:] + 8]).clip(0, SIZE).astype(int)  # JPEG's blocks
    for image in images[1:]:
        difference = np.abs(image - images[0]).sum(-1)
        inside = difference[y0:y1, x0:x1].sum()
        assert inside > 2000 and inside > 0.95 * difference.sum()


def test_records():
    train, query, candidate = (
        fine_grained.record(PLAN, split, index) for split, index in (("train", 3), ("test", 1), ("test", 2))
    )
    for record, role in ((train, 0), (query, 1), (candidate, 2)):
        assert record["role"].tolist() == [role] * len(ATTRIBUTES)
        assert record["attribute"].tolist() == list(range(len(ATTRIBUTES)))
        assert record["part_box"].shape == (len(ATTRIBUTES), 4)
        assert (record["part_box"][:, :2] < record["part_box"][:, 2:]).all()
        assert pixels(record["image"]).shape == (SIZE, SIZE, 3)
    assert fine_grained.record(PLAN, "test", 1)["image"] == query["image"]
    assert fine_grained.record(PLAN._replace(seed=1), "test", 1)["image"] != query["image"]


def test_prepared_splits_are_pairs(tmp_path):
    sizes = {"train": "4", "val": "5", "test": "10", "size": "64", "queries": "0.3"}
    name = "synthetic_fashion/fine_grained"
    builders.prepare(name, data_dir=tmp_path, overrides=sizes, progress=False)
    train, test = (source.open_split(name, split, tmp_path) for split in ("train", "test"))
    assert [len(train), len(test)] == [4 * len(ATTRIBUTES), 10 * len(ATTRIBUTES)]
    assert test.labels["attribute"] == list(ATTRIBUTES)
    assert test.labels["attribute_value"] == [list(of) for of in VALUES.values()]
    role = test.column("role")
    assert (role == fine_grained.QUERY).sum() == 3 * len(ATTRIBUTES) and set(role.tolist()) == {1, 2}
    for i in (0, 7, len(test) - 1):
        record = test[i]
        assert record["part_box"].shape == (4,)
        for column in ("attribute", "value", "role", "record", "part_box"):
            np.testing.assert_array_equal(record[column], test.column(column)[i])
    joined = source.open_split(name, "val+test", tmp_path)
    assert len(joined) == 15 * len(ATTRIBUTES)
    assert [joined[i]["role"] for i in range(len(joined))] == joined.column("role").tolist()


@pytest.mark.full
def test_colours_and_pixels_tell_no_value():
    """Ranked by either, the default test split of seed 0 gives what a random order gives."""
    count, kinds = 600, len(ATTRIBUTES)
    plan = fine_grained.Plan({"train": 3000, "val": 300, "test": count}, SIZE, 0, 0.2, 0.3)
    records = [fine_grained.record(plan, "test", i) for i in range(count)]
    images = [Image.open(io.BytesIO(record["image"])) for record in records]
    small = [np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)) for image in images]
    flat = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).ravel() for image in images]
    batch = {
        name: np.concatenate([record[name] for record in records]) for name in ("attribute", "value", "role")
    }
    batch |= {"example_valid": np.ones(count * kinds, bool)}
    for embedding in (colour_histograms(small), flat - np.mean(flat, 0)):
        metrics = FineGrainedMetrics(Context(labels={"attribute": list(ATTRIBUTES)}))
        metrics.update({"embedding": np.repeat(np.float32(embedding), kinds, axis=0)}, batch)
        found = metrics.result()
        for attribute, ranking in metrics.ranked().items():
            chance = np.mean([random_precision(len(of), len(ranking.candidate)) for of in ranking.ranks])
            # the queries' precisions spread by less than 0.1; 120 of them, five standard errors
            assert found[f"standard/map/{ATTRIBUTES[attribute]}"] == pytest.approx(chance, abs=0.05)
