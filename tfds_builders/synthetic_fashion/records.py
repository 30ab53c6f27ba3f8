"""Records of the data set: a pure function of (plan, split, index), and its evaluation in parallel
processes.

A `Plan` holds the numbers that decide the bytes. Identities: every split draws its items from a range of
numbers of its own, so no item of `test` (or of `query` and `gallery`, which share theirs) occurs in
`train`.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from tfds_builders import instances
from tfds_builders.synthetic_fashion import scene
from tfds_builders.synthetic_fashion.world import (
    CATEGORIES,
    Item,
    attribute_vector,
    item_id,
    make_item,
    pick,
    rng_of,
)

FIRST_ITEM = {"train": 0, "val": 10_000_000, "test": 20_000_000, "query": 20_000_000, "gallery": 20_000_000}
INSTANCE_ITEMS = 100_000_000  # outfits choose their categories, so their items have numbers of their own
ITEMS_PER_PICTURE = 8
STREAM = {"attributes": 10, "landmarks": 11, "in_shop": 12, "instances": 13, "consumer_to_shop": 14}
CHUNK = 32


class Plan(NamedTuple):
    """What is rendered. sizes: images per split; items: identities per split (in_shop)."""

    kind: str
    sizes: dict[str, int]
    size: int
    seed: int
    cluttered: float = 0.25  # share of consumer images where the benchmark does not fix the view
    per_item: int = 2  # images of an item in attributes and landmarks
    freedom: float = 1.0  # how much place, size and turn of the garment vary in them
    shop_views: int = 3
    consumer_views: int = 2
    pairs: int = 0  # of instances: sets of clothes that all splits show in turns; 0: each image its own


def _split_number(split: str) -> int:
    return ("train", "val", "test", "query", "gallery").index(split)


def _views(plan: Plan, split: str) -> list[tuple[str, int]]:
    """The images of one item of a retrieval split."""
    shop = [("shop", n) for n in range(plan.shop_views)]
    consumer = [("consumer", n) for n in range(plan.consumer_views)]
    return {"query": consumer, "gallery": shop}.get(split, shop + consumer)


def _common(image_id: str, picture: scene.Picture) -> dict:
    return {"image": picture.jpeg, "image_id": image_id}


def _labels(seen: scene.Seen) -> dict:
    return {
        "category": seen.item.category,
        "garment_type": seen.item.garment_type,
        "landmark": seen.landmark,
        "visibility": seen.visibility,
        "box": seen.box,
        "item_id": item_id(seen.item),
    }


def _single(plan: Plan, item: Item, consumer: bool, *key: int) -> tuple[scene.Picture, scene.Seen]:
    """An image that shows at least a part of its item; the rare one that does not is drawn again."""
    for attempt in range(20):
        picture = scene.single(
            rng_of(plan.seed, *key, attempt), item, plan.seed, (plan.size, plan.size), consumer, plan.freedom
        )
        if picture.seen[0].mask.sum() >= 0.01 * plan.size**2:
            return picture, picture.seen[0]
    raise RuntimeError(f"item {item.number}: 20 images in a row hide it")


def _labelled(plan: Plan, split: str, index: int) -> dict:
    """A record of `attributes` or `landmarks`."""
    item = make_item(plan.seed, FIRST_ITEM[split] + index // plan.per_item)
    key = (STREAM[plan.kind], _split_number(split), index)
    consumer = bool(rng_of(plan.seed, 3, *key).random() < plan.cluttered)
    picture, seen = _single(plan, item, consumer, *key)
    record = _common(f"{split}/{item_id(item)}/{index % plan.per_item + 1:02d}.jpg", picture) | _labels(seen)
    record["view"] = "consumer" if consumer else "shop"
    if plan.kind == "attributes":
        record["attribute"] = attribute_vector(item)
    return record


def _retrieval(plan: Plan, split: str, index: int) -> dict:
    """A record of `in_shop` or `consumer_to_shop`."""
    views = _views(plan, split)
    item = make_item(plan.seed, FIRST_ITEM[split] + index // len(views))
    view, number = views[index % len(views)]
    consumer = view == "consumer"
    picture, seen = _single(plan, item, consumer, STREAM[plan.kind], item.number, int(consumer), number)
    record = _common(f"{split}/{item_id(item)}/{view}_{number + 1:02d}.jpg", picture) | _labels(seen)
    record |= {"attribute": attribute_vector(item), "view": view}
    if plan.kind == "consumer_to_shop":
        record["pair_id"] = _pairs(plan, split, index // len(views), view, number)
    return record


def _pairs(plan: Plan, split: str, place: int, view: str, number: int) -> np.ndarray:
    """The pairs that an image of the split's item number `place` is in: every consumer's image of an item
    with every shop's. They are numbered through train, val and test; query and gallery share those of test.
    """
    shops, consumers = plan.shop_views, plan.consumer_views
    before = {"train": (), "val": ("train",)}.get(split, ("train", "val"))
    first = sum(plan.sizes[other] // (shops + consumers) for other in before) + place
    if view == "consumer":
        of_item = number * shops + np.arange(shops)
    else:
        of_item = np.arange(consumers) * shops + number
    return (first * shops * consumers + of_item).astype(np.int64)


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """mask [h w] bool → COCO's uncompressed run lengths, column-major, beginning with a run of zeros,
    int32.
    """
    flat = np.asarray(mask, np.uint8).ravel(order="F")
    change = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], change, [flat.size]])
    runs = np.diff(edges)
    return np.concatenate([[0], runs] if flat[0] else [runs]).astype(np.int32)


def segmentation(mask: np.ndarray) -> str:
    """mask [h w] bool → `segmentation` of an instance record, its compressed run-length encoding."""
    counts = instances.text_of_runs(run_lengths(mask))
    return json.dumps({"size": list(mask.shape), "counts": counts}, separators=(",", ":"))


_OF_TYPE = {
    kind: tuple(n for n, c in CATEGORIES.items() if c.garment_type == kind)
    for kind in ("upper", "lower", "full")
}


def outfits(plan: Plan, split: str, index: int, rng: np.random.Generator) -> list[list[Item]]:
    """What one or two people wear: a full item, or an upper and a lower one."""
    number = INSTANCE_ITEMS + FIRST_ITEM[split] * ITEMS_PER_PICTURE + index * ITEMS_PER_PICTURE
    result = []
    for _ in range(2 if rng.random() < 0.45 else 1):
        kinds = ("full",) if rng.random() < 0.35 else ("upper", "lower")
        result.append(
            [make_item(plan.seed, number + n, pick(rng, _OF_TYPE[kind])) for n, kind in enumerate(kinds)]
        )
        number += 2
    return result


def _instances(plan: Plan, split: str, index: int) -> dict:
    rng = rng_of(plan.seed, STREAM[plan.kind], _split_number(split), index)
    consumer = bool(rng.random() < plan.cluttered)
    worn, pair = outfits(plan, split, index, rng), FIRST_ITEM[split] + index + 1
    if plan.pairs:
        number = index % plan.pairs
        own = rng_of(plan.seed, STREAM[plan.kind], len(FIRST_ITEM), number)
        worn, pair = outfits(plan, "train", number, own), number + 1
    picture = scene.several(rng, worn, (plan.size, plan.size), consumer)
    found = [
        _labels(seen)
        | {"segmentation": segmentation(seen.mask), "area": np.float32(seen.mask.sum()), "iscrowd": 0}
        for seen in picture.seen
    ]
    size = {"coco_id": index + 1, "height": picture.height, "width": picture.width, "pair_id": pair}
    return _common(f"{split}/{index:07d}.jpg", picture) | size | {"instance": found}


def record(plan: Plan, split: str, index: int) -> dict:
    """Record `index` of a split, ready for the features of the plan's config."""
    make = {
        "attributes": _labelled,
        "landmarks": _labelled,
        "in_shop": _retrieval,
        "consumer_to_shop": _retrieval,
        "instances": _instances,
    }
    return make[plan.kind](plan, split, index)


def _chunk(plan: Plan, split: str, start: int, stop: int) -> list[dict]:
    return [record(plan, split, index) for index in range(start, stop)]


def _leave_with(parent: int) -> None:
    """End this process when its parent is gone: a killed build leaves no workers behind."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def in_order(function, calls: list[tuple], processes: int) -> Iterator:
    """function(*call) for each call, in the order of calls, computed by spawned processes a bounded number
    ahead.
    """
    if processes <= 1:
        yield from (function(*call) for call in calls)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _leave_with, (os.getpid(),)) as pool:
        waiting, rest = collections.deque(), iter(calls)
        for call in rest:
            waiting.append(pool.submit(function, *call))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def records(plan: Plan, split: str, processes: int) -> Iterator[dict]:
    """All records of a split in order; the same bytes for any number of processes."""
    count = plan.sizes[split]
    calls = [(plan, split, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    if count < 8 * CHUNK:
        processes = 1  # starting processes costs more than a few hundred images
    for chunk in in_order(_chunk, calls, processes):
        yield from chunk
