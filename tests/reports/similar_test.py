"""Pairs of images that look alike, against pairs made by hand."""

import json

import numpy as np
from ml_collections import ConfigDict

from fashionjax.reports import similar
from fashionjax.task import Context

RANDOM = np.random.default_rng(0)


def image(seed, shift=0):
    """A smooth random image; `shift` brightens all of it."""
    coarse = np.random.default_rng(seed).integers(0, 200, (6, 6, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8)) + np.uint8(shift)


def test_copies_are_found_over_the_splits(tmp_path):
    """A brighter copy in training, one with another label in the split; flat images are like no other."""
    images = [
        image(1),
        image(2),
        image(2, 30),
        np.full((48, 48, 3), 9, np.uint8),
        np.full((48, 48, 3), 9, np.uint8),
    ]
    category = np.array([0, 1, 0, 0, 0])
    training = [
        {"image": image(1, 20), "category": 0, "index": 5},
        {"image": image(7), "category": 1, "index": 6},
    ]
    context = Context(
        ConfigDict({"labels": {"category": ["hat", "shoe"]}, "train_split": "train", "similar_pairs": True}),
        split="test",
        column=lambda name: np.array([f"{name}{i}" for i in range(5)]),
        training=lambda count: iter(training),
        training_column=lambda name: np.array([f"t{i}" for i in range(9)]),
    )
    pairs = similar.SimilarPairs(context)
    batch = {"image": np.stack(images), "category": category, "example_valid": np.ones(5, bool)}
    pairs.update(batch | {"index": np.arange(5)})
    titles = {panel.title: [text for _, text in panel.tiles] for panel in pairs.panels()}
    assert titles == {
        "Look alike, labelled differently": ["test: image_id1 · test: image_id2 · 1.000"],
        "Look alike: copies or one object": ["test: image_id0 · train: t5 · 1.000"],
    }
    lines = [json.loads(line) for line in pairs.write(tmp_path).read_text().splitlines()]
    assert [(line["one"], line["other"], line["labels_agree"]) for line in lines] == [
        ("test: image_id0", "train: t5", True),
        ("test: image_id1", "test: image_id2", False),
    ]


def test_blocks_hold_every_pair_once(monkeypatch):
    thumbnails = np.stack([image(seed) for seed in (1, 2, 3, 1, 2, 1)])
    monkeypatch.setattr(similar, "BLOCK", 2)
    found = {(pair.one, pair.other) for pair in similar.alike(thumbnails, [np.arange(6)])}
    assert found == {(0, 3), (0, 5), (3, 5), (1, 4)}


def test_a_search_without_pairs_is_shown():
    context = Context(ConfigDict({"labels": {}}), split="val", column=lambda name: np.array(["a", "b"]))
    pairs = similar.SimilarPairs(context)
    pairs.update(
        {"image": np.stack([image(1), image(2)]), "example_valid": np.ones(2, bool), "index": np.arange(2)}
    )
    (panel,) = pairs.panels()
    assert panel.title == "Look alike" and panel.caption.startswith("None among 2 images") and not panel.tiles
