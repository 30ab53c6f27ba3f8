"""Images of `fine_grained`: one person in a top whose six small details carry a value each.

A detail fills a few percent of the image. Colours, cloth, sleeves, pose, place, light and ground are drawn
independently of the values; no arm, hair or bag lies over a detail. In every run of as many images as an
attribute has values each value occurs once, in an order of its own for each attribute, so that values are
balanced and the attributes independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion import cut, paint, scene
from tfds_builders.synthetic_fashion.figure import Figure, hanging_arm, make_figure
from tfds_builders.synthetic_fashion.fine_details import ATTRIBUTES, DETAILS, VALUES, reach
from tfds_builders.synthetic_fashion.garments import Garment, make_garment
from tfds_builders.synthetic_fashion.records import CHUNK, in_order
from tfds_builders.synthetic_fashion.world import (
    HEM_Y,
    PALETTE,
    SLEEVE_REACH,
    Item,
    luminance,
    make_item,
    pick,
    rng_of,
)

STREAM, VALUE_STREAM, COMPANION = 15, 16, 2
LABEL, QUERY, CANDIDATE = 0, 1, 2  # values of `role`
CONTRAST = 0.35  # least difference in luminance between a detail and its cloth
FIRST_ITEM = {"train": 200_000_000, "val": 300_000_000, "test": 400_000_000}
SPLITS = tuple(FIRST_ITEM)


def values(seed: int, split: str, index: int) -> list[int]:
    """The value of every attribute in image `index` of a split."""
    drawn = []
    for number, of in enumerate(VALUES.values()):
        run, place = divmod(index, len(of))
        order = rng_of(seed, VALUE_STREAM, SPLITS.index(split), number, run).permutation(len(of))
        drawn.append(int(order[place]))
    return drawn


def _top(rng: np.random.Generator, seed: int, number: int) -> Item:
    """A plainly cut top in any cloth."""
    sleeve = pick(rng, ("short", "elbow", "long"))
    return make_item(seed, number, "tee")._replace(
        neckline="crew",
        sleeve=sleeve,
        reach=float(rng.uniform(*SLEEVE_REACH[sleeve])),
        hem="hip",
        hem_y=float(rng.uniform(*HEM_Y["hip"])),
        fit=pick(rng, ("slim", "regular")),
        flare=float(rng.uniform(0.0, 0.12)),
        ease=float(rng.uniform(0.02, 0.16)),
        neck=(1.0, 1.0),
        period=float(rng.uniform(0.3, 0.9)),
    )


def _ink(rng: np.random.Generator, base) -> tuple[float, ...]:
    """A colour that stands out from the cloth."""
    far = [color for color in PALETTE.values() if abs(luminance(color) - luminance(base)) > CONTRAST]
    return tuple(np.clip(np.asarray(pick(rng, far)) + rng.normal(0, 6, 3), 12, 246).tolist())


def _figure(rng: np.random.Generator) -> Figure:
    """A pose in which arms and hair leave the torso free."""
    figure = make_figure(rng)
    figure = figure._replace(long_hair=min(figure.long_hair, 1), turn=0.4 * figure.turn)
    arms = [
        hanging_arm(figure, side, float(rng.uniform(34, 54)), float(rng.uniform(8, 80))) for side in (0, 1)
    ]
    arms = tuple(arm._replace(front=False) for arm in arms)  # behind the torso, which has the other details
    return figure._replace(arms=arms)


def _inside(matrix: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """The matrix moved so that all points lie in the frame, a hundredth away from its edge."""
    pixels, side = paint.to_pixels(matrix, points), size * paint.SUPERSAMPLE
    before, behind = 0.01 * side - pixels.min(0), 0.99 * side - pixels.max(0)
    move = np.maximum(before, 0) + np.minimum(behind, 0)
    return np.concatenate([matrix[:, :2], matrix[:, 2:] + move[:, None]], 1)


def draw(
    rng: np.random.Generator, seed: int, number: int, value: list[int], size: int, consumer: bool
) -> tuple[bytes, np.ndarray]:
    """An image of item `number` with the given value of every attribute → (JPEG, boxes [a 4] float32 xyxy in
    pixels of the parts that show them)."""
    item, figure = _top(rng, seed, number), _figure(rng)
    # one cloth under all details: the accent of its pattern stays near the ground colour
    faint = tuple(b + 0.2 * (a - b) for a, b in zip(item.accent, item.base))
    item = item._replace(accent=faint)
    below = make_item(seed, number, pick(rng, ("trousers", "leggings", "skirt")), plain=True)
    below = below._replace(number=number + COMPANION)
    side = 1 if rng.random() < 0.5 else -1
    marks = {
        name: DETAILS[name](VALUES[name][v], item, figure, _ink(rng, item.base), side)
        for name, v in zip(ATTRIBUTES, value)
    }
    body, _ = cut.trunk(item, figure, item.hem_y, item.flare)
    sleeves = [cut.sleeve(item, figure.arms[arm], arm) for arm in (0, 1)]
    every = [mark for of in marks.values() for mark in of]
    top = Garment([body, *sleeves], every, np.zeros((8, 2)), ("",) * 8)
    worn = (paint.Worn(below, make_garment(below, figure), 1), paint.Worn(item, top, 2))
    arm = reach(DETAILS["armband"]("plain", item, figure, item.base, side))
    framed = np.concatenate([body.outline, arm, [(0.0, -0.25)]])  # of no value: all are framed alike
    turn = float(rng.normal(0, 9 if consumer else 5))
    matrix = scene.spread(framed, rng, (size, size), turn, (0.7, 0.97), freedom=0.8)
    person = paint.Person(figure, worn, _inside(matrix, framed, size))
    image, _ = scene.render(rng, (size, size), [person], consumer, things=False)
    boxes = []
    for of in marks.values():
        points = paint.to_pixels(person.matrix, reach(of)) / paint.SUPERSAMPLE
        boxes.append(np.clip([*points.min(0), *points.max(0)], 0, size))
    return scene.encode(image), np.asarray(boxes, np.float32)


class Plan(NamedTuple):
    """What is rendered. sizes: images per split; queries: share of val and test that asks."""

    sizes: dict[str, int]
    size: int
    seed: int
    queries: float
    cluttered: float


def record(plan: Plan, split: str, index: int) -> dict:
    """Record `index` of a split; in val and test the first images are queries of every attribute, the others
    candidates."""
    rng = rng_of(plan.seed, STREAM, SPLITS.index(split), index)
    value = values(plan.seed, split, index)
    consumer = bool(rng.random() < plan.cluttered)
    image, boxes = draw(rng, plan.seed, FIRST_ITEM[split] + 4 * index, value, plan.size, consumer)
    asking = min(max(1, round(plan.queries * plan.sizes[split])), plan.sizes[split] - 1)
    role = LABEL if split == "train" else QUERY if index < asking else CANDIDATE
    return {
        "image": image,
        "image_id": f"{split}/{index:07d}.jpg",
        "attribute": np.arange(len(value), dtype=np.int32),
        "value": np.asarray(value, np.int32),
        "role": np.full(len(value), role, np.int32),
        "part_box": boxes,
    }


def _chunk(plan: Plan, split: str, start: int, stop: int) -> list[dict]:
    return [record(plan, split, index) for index in range(start, stop)]


def rendered(plan: Plan, split: str, processes: int) -> Iterator[dict]:
    """All records of a split in order; the same bytes for any number of processes."""
    count = plan.sizes[split]
    calls = [(plan, split, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    workers = processes if count >= 8 * CHUNK else 1  # starting them costs more than a few hundred images
    for chunk in in_order(_chunk, calls, workers):
        yield from chunk
