"""The annotation files of the DeepFashion benchmarks, as tables of the images that were taken.

A layout says which images to take (`Shot`) and, once they are taken, which files they are described in.
Vocabulary sizes are those of this world; every count line is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.garments import SLOTS
from tfds_builders.synthetic_fashion.records import FIRST_ITEM
from tfds_builders.synthetic_fashion.world import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    CATEGORIES,
    CATEGORY_NAMES,
    GARMENT_TYPES,
    Item,
    attribute_vector,
    item_id,
    make_item,
    pick,
    rng_of,
)

CLOTHES_TYPE = {name: number for number, name in enumerate(GARMENT_TYPES, 1)}
COARSE_TYPE = {
    "pattern": 1,
    "fabric": 2,
    "hem": 3,
    "fit": 3,
    "sleeve": 4,
    "neckline": 4,
    "closure": 4,
    "color": 5,
}
FINE_TYPE = {"pattern": 1, "sleeve": 2, "hem": 3, "neckline": 4, "fabric": 5, "fit": 6}
POSE = (("1_front", 1), ("2_side", 2), ("4_full", 1), ("7_additional", 2))


class Shot(NamedTuple):
    """An image to take: its path below Img, split, item, view, size (width, height) and what makes it
    unlike others.
    """

    path: str
    split: str
    item: Item
    consumer: bool
    size: tuple[int, int]
    key: int


class Taken(NamedTuple):
    """What is written about an image. box [4] and landmark [8 2] whole pixels, visibility [8], joints [14
    3].
    """

    shot: Shot
    box: np.ndarray
    landmark: np.ndarray
    visibility: np.ndarray
    variation: int
    joints: np.ndarray


class Table(NamedTuple):
    """A text file: rows of fields. columns None: no line of column names. counted: the first line is the
    row count.
    """

    path: str
    columns: str | None
    rows: list[tuple]
    counted: bool = True


class Layout(NamedTuple):
    long_side: int
    shots: Callable[[int, int, int], list[Shot]]  # (seed, images, long side)
    tables: Callable[[list[Taken]], list[Table]]


def _shares(count: int) -> list[tuple[str, int]]:
    """Images per split, 70 : 15 : 15, every split with at least one where there are three."""
    held = max(1, round(count * 0.15)) if count >= 3 else 0
    return [("train", count - 2 * held), ("val", held), ("test", held)]


def _size(seed: int, key: int, long_side: int) -> tuple[int, int]:
    """Mostly upright images of one long side."""
    rng = rng_of(seed, 21, key)
    short = round(long_side * rng.uniform(0.62, 1.0))
    return (long_side, short) if rng.random() < 0.12 else (short, long_side)


def _title(item: Item) -> str:
    return f"{item.color}_{item.pattern}_{item.category}".title()


def _labelled(path: Callable[[int, Item], str]) -> Callable[[int, int, int], list[Shot]]:
    """One image per item, three of ten by consumers."""

    def shots(seed: int, pictures: int, long_side: int) -> list[Shot]:
        result = []
        for split, count in _shares(pictures):
            for n in range(count):
                item, key = make_item(seed, FIRST_ITEM[split] + n), len(result) + 1
                consumer = bool(rng_of(seed, 22, key).random() < 0.3)
                result.append(Shot(path(key, item), split, item, consumer, _size(seed, key, long_side), key))
        return result

    return shots


def _triplets(taken: Taken) -> list[int]:
    points = [(taken.visibility[k], *taken.landmark[k]) for k in range(SLOTS[taken.shot.item.garment_type])]
    return [int(v) for point in points for v in point]


def _type(taken: Taken) -> int:
    return CLOTHES_TYPE[taken.shot.item.garment_type]


def _point_columns(what: str, count: int) -> str:
    names = [
        f"{what}_visibility_{k} {what}_location_x_{k} {what}_location_y_{k}" for k in range(1, count + 1)
    ]
    return " ".join(names)


def _landmark_table(path: str, pictures: list[Taken], variation: bool = True) -> Table:
    columns = "image_name clothes_type " + "variation_type " * variation + _point_columns("landmark", 8)
    head = [(t.shot.path, _type(t)) + ((t.variation,) if variation else ()) for t in pictures]
    return Table(path, columns, [(*first, *_triplets(t)) for first, t in zip(head, pictures)])


def _box_table(path: str, pictures: list[Taken], extra: str = "", codes=()) -> Table:
    """Boxes; with `extra` a code per image between clothes type and box."""
    columns = "image_name " + (f"clothes_type {extra} " if extra else "") + "x_1 y_1 x_2 y_2"
    middle = [(_type(t), code) for t, code in zip(pictures, codes)] if extra else [()] * len(pictures)
    return Table(path, columns, [(t.shot.path, *m, *t.box.tolist()) for m, t in zip(middle, pictures)])


def _partition(pictures: list[Taken]) -> Table:
    rows = [(t.shot.path, t.shot.split) for t in pictures]
    return Table("Eval/list_eval_partition.txt", "image_name evaluation_status", rows)


def _signs(item: Item) -> list[int]:
    return [1 if has else -1 for has in attribute_vector(item)]


def _attribute_names(folder: str, types: dict[str, int] | None) -> Table:
    """Attribute names with a blank in them; types None: names alone."""
    names = [(name.replace("_", " "), group) for name, group in zip(ATTRIBUTE_NAMES, ATTRIBUTE_GROUPS)]
    if types is None:
        return Table(f"{folder}/list_attr_cloth.txt", "attribute_name", [(name,) for name, _ in names])
    rows = [(name, types[group]) for name, group in names if group in types]
    return Table(f"{folder}/list_attr_cloth.txt", "attribute_name attribute_type", rows)


def _categories(folder: str) -> Table:
    rows = [(name.title(), CLOTHES_TYPE[CATEGORIES[name].garment_type]) for name in CATEGORY_NAMES]
    return Table(f"{folder}/list_category_cloth.txt", "category_name category_type", rows)


def _landmark_benchmark(pictures: list[Taken]) -> list[Table]:
    joints = [(t.shot.path, _type(t), t.variation, *t.joints.ravel().tolist()) for t in pictures]
    columns = "image_name clothes_type variation_type " + _point_columns("joint", 14)
    return [
        _landmark_table("Anno/list_landmarks.txt", pictures),
        _box_table("Anno/list_bbox.txt", pictures),
        Table("Anno/list_joints.txt", columns, joints),
        _partition(pictures),
    ]


def _coarse(pictures: list[Taken]) -> list[Table]:
    folder = "Anno_coarse"
    labels = [(t.shot.path, *_signs(t.shot.item)) for t in pictures]
    categories = [(t.shot.path, CATEGORY_NAMES.index(t.shot.item.category) + 1) for t in pictures]
    return [
        _attribute_names(folder, COARSE_TYPE),
        Table(f"{folder}/list_attr_img.txt", "image_name attribute_labels", labels),
        _categories(folder),
        Table(f"{folder}/list_category_img.txt", "image_name category_label", categories),
        _box_table(f"{folder}/list_bbox.txt", pictures),
        _landmark_table(f"{folder}/list_landmarks.txt", pictures, variation=False),
        _partition(pictures),
    ]


def _plain(path: str, rows: list[tuple]) -> Table:
    """A list without count and column names."""
    return Table(path, None, rows, counted=False)


def _split_lists(pictures: list[Taken], folder: str, types: dict[str, int]) -> list[Table]:
    """Lists per split, line by line beside each other: Anno_fine as released, others as MMFashion derives."""
    tables = [_attribute_names(folder, types), _categories(folder)]
    used = [group in types for group in ATTRIBUTE_GROUPS]
    for split in ("train", "val", "test"):
        own = [t for t in pictures if t.shot.split == split]
        lists = {
            "": [(t.shot.path,) for t in own],
            "_attr": [tuple(attribute_vector(t.shot.item)[used].tolist()) for t in own],
            "_cate": [(CATEGORY_NAMES.index(t.shot.item.category) + 1,) for t in own],
            "_bbox": [tuple(t.box.tolist()) for t in own],
            "_landmarks": [tuple(t.landmark.ravel().tolist()) for t in own],
        }
        tables += [_plain(f"{folder}/{split}{end}.txt", rows) for end, rows in lists.items()]
    return tables


def _fine(pictures: list[Taken]) -> list[Table]:
    return _split_lists(pictures, "Anno_fine", FINE_TYPE)


def _coarse_derived(pictures: list[Taken]) -> list[Table]:
    return _split_lists(pictures, "Anno_coarse", COARSE_TYPE)


def _landmarks_derived(pictures: list[Taken]) -> list[Table]:
    """v x y of eight points, v = 1 for visible; hidden points keep their coordinates."""
    tables = []
    for split in ("train", "val", "test"):
        own = [t for t in pictures if t.shot.split == split]
        points = [np.reshape(_triplets(t), (-1, 3)) for t in own]
        marks = [np.concatenate([p[:, :1] == 0, p[:, 1:]], 1).ravel().tolist() for p in points]
        lists = {
            "": [(t.shot.path,) for t in own],
            "_bbox": [tuple(t.box.tolist()) for t in own],
            "_landmarks": [_padded(row, 24) for row in marks],
        }
        tables += [_plain(f"Anno/{split}{end}.txt", rows) for end, rows in lists.items()]
    return tables


def _padded(values: list[int], width: int) -> tuple[int, ...]:
    return (*values, *[0] * (width - len(values)))


def _in_shop_shots(seed: int, pictures: int, side: int) -> list[Shot]:
    """Four images of each item; of every second item one is a query and three are in the gallery."""
    result = []
    for n in range(max(2, round(pictures / len(POSE)))):
        trained = n % 2 == 0
        item = make_item(seed, FIRST_ITEM["train" if trained else "test"] + n)
        for k, (pose, _) in enumerate(POSE):
            split = "train" if trained else ("query" if k == 0 else "gallery")
            people = pick(rng_of(seed, 23, n), ("WOMEN", "MEN"))
            path = f"img/{people}/{item.category.title()}/{item_id(item)}/01_{pose}.jpg"
            result.append(Shot(path, split, item, False, (side, side), len(result) + 1))
    return result


def _items(path: str, pictures: list[Taken]) -> tuple[Table, dict[str, Item]]:
    items = {item_id(t.shot.item): t.shot.item for t in pictures}
    return Table(path, None, [(name,) for name in items]), items


def _in_shop(pictures: list[Taken]) -> list[Table]:
    listed, items = _items("Anno/list_item_inshop.txt", pictures)
    poses = {f"01_{name}.jpg": code for name, code in POSE}
    codes = [poses[t.shot.path.rsplit("/", 1)[1]] for t in pictures]
    partition = [(t.shot.path, item_id(t.shot.item), t.shot.split) for t in pictures]
    return [
        listed,
        _attribute_names("Anno", None),
        Table(
            "Anno/list_attr_items.txt",
            "item_id attribute_labels",
            [(k, *_signs(v)) for k, v in items.items()],
        ),
        _box_table("Anno/list_bbox_inshop.txt", pictures, "pose_type", codes),
        _landmark_table("Anno/list_landmarks_inshop.txt", pictures),
        Table("Eval/list_eval_partition.txt", "image_name item_id evaluation_status", partition),
    ]


def _in_shop_derived(pictures: list[Taken]) -> list[Table]:
    """With the landmarks that MMFashion's script shifts: see `_shifted`."""
    listed, items = _items("Anno/list_item_inshop.txt", pictures)
    tables, rows = [listed, _attribute_names("Anno", None)], list(items)
    for split in ("train", "query", "gallery"):
        own = [t for t in pictures if t.shot.split == split]
        lists = {
            "img": [(t.shot.path,) for t in own],
            "labels": [tuple(attribute_vector(t.shot.item).tolist()) for t in own],
            "id": [(rows.index(item_id(t.shot.item)),) for t in own],
            "bbox": [tuple(t.box.tolist()) for t in own],
            "landmarks": [_padded(_shifted(t), 16) for t in own],
        }
        tables += [_plain(f"Anno/{split}_{end}.txt", found) for end, found in lists.items()]
    return tables


def _shifted(taken: Taken) -> list[int]:
    """Of every visible point the two values before it in the row: the point before, or the two types."""
    row = [_type(taken), taken.variation, *_triplets(taken)]
    return [value for at in range(2, len(row), 3) if row[at] == 0 for value in row[at - 2 : at]]


def _consumer_shots(seed: int, pictures: int, long_side: int) -> list[Shot]:
    """Per item one shop image and two of consumers."""
    result = []
    for split, count in _shares(max(3, round(pictures / 3))):
        for n in range(count):
            item = make_item(seed, FIRST_ITEM[split] + n)
            folder = f"img/{item.garment_type.upper()}/{item.category.title()}/{item_id(item)}"
            for name in ("shop_01", "comsumer_01", "comsumer_02"):
                key = len(result) + 1
                shot = Shot(
                    f"{folder}/{name}.jpg", split, item, name != "shop_01", _size(seed, key, long_side), key
                )
                result.append(shot)
    return result


def _consumer_to_shop(pictures: list[Taken]) -> list[Table]:
    listed, items = _items("Anno/list_item_consumer2shop.txt", pictures)
    shop = {t.shot.item.number: t.shot.path for t in pictures if not t.shot.consumer}
    pairs = [
        (t.shot.path, shop[t.shot.item.number], item_id(t.shot.item), t.shot.split)
        for t in pictures
        if t.shot.consumer
    ]
    sources = [2 if t.shot.consumer else 1 for t in pictures]
    columns = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    return [
        listed,
        _attribute_names("Anno", COARSE_TYPE),
        Table(
            "Anno/list_attr_items.txt",
            "item_id attribute_labels",
            [(k, *_signs(v)) for k, v in items.items()],
        ),
        _box_table("Anno/list_bbox_consumer2shop.txt", pictures, "source_type", sources),
        _landmark_table("Anno/list_landmarks_consumer2shop.txt", pictures),
        Table("Eval/list_eval_partition.txt", columns, pairs),
    ]


def _consumer_to_shop_derived(pictures: list[Taken]) -> list[Table]:
    """Pairs of val and test together, a line per pair; ids of training pairs on two lines."""
    listed, items = _items("Anno/list_item_consumer2shop.txt", pictures)
    rows = {name: row for row, name in enumerate(items)}
    shop = {t.shot.item.number: t for t in pictures if not t.shot.consumer}
    pairs = [(t, shop[t.shot.item.number]) for t in pictures if t.shot.consumer]
    train = [pair for pair in pairs if pair[0].shot.split == "train"]
    rest = [pair for pair in pairs if pair[0].shot.split != "train"]
    sides = {"train": [t for pair in train for t in pair]}
    sides |= {side: [pair[k] for pair in rest] for k, side in enumerate(("consumer", "shop"))}
    labels = [(k, *_signs(v)) for k, v in items.items()]
    tables = [
        listed,
        _attribute_names("Anno", COARSE_TYPE),
        Table("Anno/list_attr_items.txt", "item_id attribute_labels", labels),
        _plain("Anno/train_consumer2shop.txt", [(a.shot.path, b.shot.path) for a, b in train]),
    ]
    tables += [
        _plain(f"Anno/{side}.txt", [(t.shot.path,) for t in sides[side]]) for side in ("consumer", "shop")
    ]
    for side, own in sides.items():
        marks = [np.reshape(_triplets(t), (-1, 3)) for t in own]
        pairs_of = [(p[:, 1:] * (p[:, :1] == 0)).ravel().tolist() for p in marks]
        tables += [
            _plain(f"Anno/{side}_id.txt", [(rows[item_id(t.shot.item)],) for t in own]),
            _plain(f"Anno/list_bbox_{side}.txt", [(t.shot.path, *t.box.tolist()) for t in own]),
            _plain(
                f"Anno/list_landmarks_{side}.txt",
                [(t.shot.path, *_padded(p, 16)) for t, p in zip(own, pairs_of)],
            ),
        ]
    return tables


def _plain_path(number: int, item: Item) -> str:
    return f"img/{number:08d}.jpg"


def _titled_path(number: int, item: Item) -> str:
    return f"img/{_title(item)}/img_{number:08d}.jpg"


LAYOUTS = {
    "deepfashion_landmarks": Layout(512, _labelled(_plain_path), _landmark_benchmark),
    "deepfashion_landmarks/mmfashion": Layout(512, _labelled(_plain_path), _landmarks_derived),
    "deepfashion_attributes/coarse": Layout(300, _labelled(_titled_path), _coarse),
    "deepfashion_attributes/coarse_mmfashion": Layout(300, _labelled(_titled_path), _coarse_derived),
    "deepfashion_attributes/fine": Layout(300, _labelled(_titled_path), _fine),
    "deepfashion_inshop": Layout(256, _in_shop_shots, _in_shop),
    "deepfashion_inshop/mmfashion": Layout(256, _in_shop_shots, _in_shop_derived),
    "deepfashion_consumer2shop": Layout(300, _consumer_shots, _consumer_to_shop),
    "deepfashion_consumer2shop/mmfashion": Layout(300, _consumer_shots, _consumer_to_shop_derived),
}
