"""The synthetic world in the layouts of the benchmarks with instance masks.

deepfashion_parsing and coco_instances: a COCO json per split; deepfashion2 and kfashion: a json per image.
Polygons are the exact outlines of what is seen of a garment, with holes filled.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from tfds_builders.coco_instances.coco_instances_dataset_builder import SPLITS as COCO_SPLITS
from tfds_builders.deepfashion2 import deepfashion2_dataset_builder as deepfashion2
from tfds_builders.deepfashion_parsing import deepfashion_parsing_dataset_builder as parsing
from tfds_builders.instances import text_of_runs
from tfds_builders.kfashion import kfashion_dataset_builder as kfashion
from tfds_builders.synthetic_fashion import ground, records, scene
from tfds_builders.synthetic_fashion.outlines import outlines
from tfds_builders.synthetic_fashion.paint import BODY
from tfds_builders.synthetic_fashion.world import CATEGORY_NAMES, Item, pick, rng_of

CHUNK = 8
SMALLEST = 4.0  # square pixels of a ring that is written, unless it is the only one
FULL = {"sleeveless": "vest dress", "short": "short sleeve dress", "elbow": "short sleeve dress"}
PARSED = {  # category of this world → class of deepfashion_parsing
    **dict.fromkeys(("tee", "tank", "shirt", "sweater"), "top"),
    **dict.fromkeys(("hoodie", "jacket", "blazer", "coat", "robe"), "outer"),
    **dict.fromkeys(("jeans", "trousers", "shorts"), "pants"),
    **{"leggings": "leggings", "skirt": "skirt", "dress": "dress", "jumpsuit": "dress"},
}
CROWD, EMPTY = 10, 9  # every tenth image of coco_instances has a crowd, every ninth no object


class Shot(NamedTuple):
    """An image to take. pair: those of one number show the same clothes."""

    path: str
    split: str
    size: tuple[int, int]
    key: int
    pair: int
    consumer: bool


class Drawn(NamedTuple):
    """What is seen of one garment (item None: of a part of the body, by its name)."""

    name: str
    item: Item | None
    mask: np.ndarray
    visible: float  # share of its landmarks


# ------------------------------------------------------------------------------ drawing
def take(name: str, seed: int, shot: Shot) -> tuple[bytes, list[dict[str, Any]]]:
    """One image and its annotations as the layout writes them, without ids of images."""
    empty = name == "coco_instances" and shot.key % EMPTY == 0
    if empty:
        return _encode(ground.cluttered(rng_of(seed, 41, shot.key), shot.size)), []
    plan = records.Plan("instances", {}, max(shot.size), seed)
    clothes = records.outfits(
        plan, _WORLD.get(shot.split, shot.split), shot.pair, rng_of(seed, 40, shot.pair)
    )
    if name == "deepfashion_parsing":
        clothes = clothes[:1]
    picture = scene.several(rng_of(seed, 41, shot.key), clothes, shot.size, shot.consumer)
    found = [
        Drawn(seen.item.category, seen.item, seen.mask, float((seen.visibility == 0).mean()))
        for seen in picture.seen
    ]
    if name == "deepfashion_parsing":
        found += [Drawn(part, None, picture.codes == code, 1.0) for part, code in BODY.items()]
    found = [drawn for drawn in found if drawn.mask.any()]
    write = _coco_annotation if name in ("coco_instances", "deepfashion_parsing") else _item
    return picture.jpeg, [write(name, shot, number, drawn) for number, drawn in enumerate(found)]


_WORLD = {"query": "val", "gallery": "test"}  # items of their own


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _rings(mask: np.ndarray) -> list[list[int]]:
    """Outlines without crumbs."""
    rings = outlines(mask)

    def area(ring: list[int]) -> float:
        x, y = np.array(ring[::2]), np.array(ring[1::2])
        return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))

    return rings[:1] + [ring for ring in rings[1:] if area(ring) >= SMALLEST]


def _bounds(rings: list[list[int]]) -> list[int]:
    """Box xyxy around rings, which may be a crumb smaller than the mask."""
    xs, ys = ([v for ring in rings for v in ring[k::2]] for k in (0, 1))
    return [min(xs), min(ys), max(xs), max(ys)]


def _coco_annotation(name: str, shot: Shot, number: int, drawn: Drawn) -> dict[str, Any]:
    """An annotation; coco_instances has polygons, compressed and plain run lengths in turns, and crowds."""
    box = scene.bounds(drawn.mask).tolist()
    crowd = name == "coco_instances" and number == 0 and shot.key % CROWD == 0
    kind = (shot.key + number) % 3 if name == "coco_instances" else 0
    if kind == 0 and not crowd:
        segmentation: Any = _rings(drawn.mask)
        box = _bounds(segmentation)
    else:
        runs = records.run_lengths(drawn.mask)
        counts = text_of_runs(runs) if kind == 1 else runs.tolist()
        segmentation = {"size": list(drawn.mask.shape), "counts": counts}
    categories = parsing.CATEGORIES if name == "deepfashion_parsing" else CATEGORY_NAMES
    label = PARSED.get(drawn.name, drawn.name) if name == "deepfashion_parsing" else drawn.name
    return {
        "category_id": _category_id(name, categories.index(label)),
        "bbox": [*box[:2], box[2] - box[0], box[3] - box[1]],
        "area": int(drawn.mask.sum()),
        "iscrowd": int(crowd),
        "segmentation": segmentation,
    }


def _category_id(name: str, place: int) -> int:
    return place + 1 if name == "deepfashion_parsing" else 3 * place + 2  # with gaps


def _item(name: str, shot: Shot, number: int, drawn: Drawn) -> dict[str, Any]:
    """An item of DeepFashion2's format."""
    rings, (height, width) = _rings(drawn.mask), drawn.mask.shape
    box = _bounds(rings)
    cut = (box[0] == 0) + (box[1] == 0) + (box[2] == width) + (box[3] == height)
    share = drawn.mask.mean()
    label = _class_of(name, drawn.item)
    table = deepfashion2.CATEGORIES if name == "deepfashion2" else kfashion.CATEGORIES
    entry = {
        "category_name": label,
        "category_id": table.index(label) + (name == "deepfashion2"),
        "style": number + 1,
        "bounding_box": box,
        "segmentation": rings,
        "scale": 1 + int(share > 0.05) + int(share > 0.2),
        "occlusion": 1 + int(drawn.visible < 0.5) + int(drawn.visible < 0.25),
        "zoom_in": 1 + int(cut > 0) + int(cut > 1),
        "viewpoint": 2,
    }
    if name == "kfashion":
        return entry | {"color": drawn.item.color}
    count = deepfashion2.LANDMARKS[table.index(label)]
    return entry | {"landmarks": _along(rings[0], count, (width, height), drawn.visible)}


def _along(ring: list[int], count: int, size: tuple[int, int], visible: float) -> list[int]:
    """x, y, visibility of `count` points at equal steps along an outline; the last ones are occluded."""
    points = np.array([*ring, *ring[:2]], np.float64).reshape(-1, 2)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    at = np.linspace(0, length[-1], count, endpoint=False)
    places = np.stack([np.interp(at, length, points[:, k]) for k in (0, 1)], 1).astype(int)
    places = np.minimum(places, np.array(size) - 1)
    seen = np.where(np.arange(count) < np.ceil(visible * count), 2, 1)
    return np.concatenate([places, seen[:, None]], 1).ravel().tolist()


def _class_of(name: str, item: Item) -> str:
    return _deepfashion2_class(item) if name == "deepfashion2" else _kfashion_class(item)


def _deepfashion2_class(item: Item) -> str:
    if item.category in ("skirt", "shorts"):
        return item.category
    if item.garment_type == "lower":
        return "trousers"
    if item.category == "tank":
        return "sling" if item.neckline == "v_neck" else "vest"
    long = item.sleeve == "long"
    if item.category in ("jacket", "blazer", "coat", "robe"):
        return "long sleeve outwear" if long else "short sleeve outwear"
    if item.garment_type == "full":
        if item.sleeve == "sleeveless" and item.neckline == "scoop":
            return "sling dress"
        return FULL.get(item.sleeve, "long sleeve dress")
    return "long sleeve top" if long else "short sleeve top"


def _kfashion_class(item: Item) -> str:
    """By cut and fabric, so that each of the 21 classes occurs."""
    plain = {"leggings": "leggings", "skirt": "skirt", "dress": "dress", "jumpsuit": "jumpsuit"}
    plain |= {"jeans": "jean", "coat": "coat", "robe": "dress", "shorts": "pants"}
    if item.category in plain:
        return plain[item.category]
    knit, cropped = item.fabric == "knit", item.hem == "cropped"
    choices = {
        "tee": "top" if cropped else "t-shirts",
        "tank": "bratop" if cropped else "vest",
        "shirt": "blouse" if item.fabric == "satin" else "shirts",
        "sweater": "knitwear" if knit else "top",
        "hoodie": "zipup" if item.closure == "zip" else "hoody",
        "jacket": "padded jacket" if item.fabric == "quilted" else "jumper" if cropped else "jacket",
        "blazer": "cardigan" if knit else "jacket",
        "trousers": "jogger pants" if item.fit == "loose" and knit else "pants",
    }
    return choices[item.category]


# ------------------------------------------------------------------------------ layouts
class Layout(NamedTuple):
    long_side: int
    aspect: float  # short side of the long one
    splits: tuple[str, ...]
    path: Callable[[str, int], str]  # (split, number) → path of the image below the folder


def _parsing_path(split: str, number: int) -> str:
    return f"Img/img_highres/WOMEN/Outfits/id_{number:08d}/01_4_full.jpg"


_FOLDER = {"val": "validation"}  # of DeepFashion2
LAYOUTS = {
    "deepfashion_parsing": Layout(1101, 750 / 1101, parsing.SPLITS, _parsing_path),
    "deepfashion2": Layout(
        800, 0.75, ("train", "val", "test"), lambda s, n: f"{_FOLDER.get(s, s)}/image/{n:06d}.jpg"
    ),
    "kfashion": Layout(800, 0.75, ("train", "val", "test"), lambda s, n: f"{s}/image/{n:07d}.jpg"),
    "coco_instances": Layout(640, 0.75, COCO_SPLITS, lambda s, n: f"images/{s}/{n:012d}.jpg"),
}
ZIPPED = {"deepfashion_parsing": "Img/img_highres", "coco_instances": "images"}  # with --zip


def _shots(name: str, images: int, seed: int, long_side: int) -> list[Shot]:
    layout, shots = LAYOUTS[name], []
    held = max(1, round(images * 0.15))
    counts = (max(1, images - 2 * held), held, held)
    short = max(1, round(long_side * layout.aspect))
    for split, count in zip(layout.splits, counts):
        first = len(shots)
        for n in range(count):
            key = len(shots) + 1
            wide = name == "coco_instances" and pick(rng_of(seed, 42, key), (False, True))
            size = (long_side, short) if wide else (short, long_side)
            number = key if name == "deepfashion_parsing" else n + 1
            consumer = name != "deepfashion_parsing" and n % 2 == 1
            shots.append(Shot(layout.path(split, number), split, size, key, first + n // 2, consumer))
    return shots


class Store:
    """Files below a folder, or in archives where their path begins with a name of `zipped`."""

    def __init__(self, root: Path, zipped: tuple[str, ...]):
        self.root, self.zipped, self.open = root, zipped, {}

    def write(self, path: str, data: bytes) -> None:
        inside = next((folder for folder in self.zipped if path.startswith(f"{folder}/")), None)
        if inside is None:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)
            return
        if inside not in self.open:
            (self.root / inside).parent.mkdir(parents=True, exist_ok=True)
            self.open[inside] = zipfile.ZipFile(self.root / f"{inside}.zip", "w", zipfile.ZIP_STORED)
        # a fixed date, so that the same seed gives the same archive
        self.open[inside].writestr(zipfile.ZipInfo(path[len(inside) + 1 :]), data)

    def close(self) -> None:
        for archive in self.open.values():
            archive.close()


def _take_all(name: str, seed: int, shots: list[Shot]) -> list[tuple[bytes, list[dict[str, Any]]]]:
    return [take(name, seed, shot) for shot in shots]


def write_instances(
    name: str, root: Path, images: int, seed: int, size: int | None, packed: bool, processes: int
) -> dict[str, Any]:
    """Write a layout of `images` images (at least one a split) into the folder `root` → the result."""
    shots = _shots(name, images, seed, size or LAYOUTS[name].long_side)
    calls = [(name, seed, shots[start : start + CHUNK]) for start in range(0, len(shots), CHUNK)]
    chunks = records.in_order(_take_all, calls, processes if len(shots) >= 64 else 1)
    rendered = (pair for chunk in chunks for pair in chunk)
    bar = tqdm(rendered, "rendering", len(shots), unit="img", disable=None)  # None: only on a terminal
    folders = (ZIPPED[name],) if name in ZIPPED else tuple({shot.path.split("/")[0] for shot in shots})
    store = Store(root, folders if packed else ())
    root.mkdir(parents=True, exist_ok=True)
    try:
        write = _write_coco if name in ZIPPED else _write_items
        write(name, store, zip(shots, bar))
    finally:
        store.close()
    splits = {split: sum(shot.split == split for shot in shots) for split in LAYOUTS[name].splits}
    return {"release": name, "dir": str(root), "images": len(shots), "splits": splits}


def _write_items(name: str, store: Store, taken: Iterator) -> None:
    """A json beside each image, but for DeepFashion2's test."""
    for shot, (jpeg, items) in taken:
        store.write(shot.path, jpeg)
        if name == "deepfashion2" and shot.split == "test":
            continue
        content = {"source": "user" if shot.consumer else "shop", "pair_id": shot.pair + 1}
        content |= {f"item{k}": item for k, item in enumerate(items, 1)}
        path = shot.path.replace("/image/", "/annos/").removesuffix(".jpg") + ".json"
        store.write(path, json.dumps(content).encode())


def _write_coco(name: str, store: Store, taken: Iterator) -> None:
    """A json per split. Ids of images and annotations have gaps."""
    names = parsing.CATEGORIES if name == "deepfashion_parsing" else CATEGORY_NAMES
    listed = [{"id": _category_id(name, place), "name": label} for place, label in enumerate(names)]
    prefix = "Img/" if name == "deepfashion_parsing" else "images/"
    tables: dict[str, dict[str, list]] = {}
    for shot, (jpeg, found) in taken:
        store.write(shot.path, jpeg)
        table = tables.setdefault(shot.split, {"images": [], "annotations": [], "categories": listed})
        image = {"id": 2 * shot.key, "file_name": shot.path.removeprefix(prefix)}
        if name == "coco_instances":
            image["file_name"] = shot.path.rsplit("/", 1)[1]
        table["images"].append(image | {"width": shot.size[0], "height": shot.size[1]})
        for annotation in found:
            number = 5 * len(table["annotations"]) + 1
            table["annotations"].append({"id": number, "image_id": image["id"], **annotation})
    stem = "DeepFashion_segmentation" if name == "deepfashion_parsing" else "instances"
    for split, table in tables.items():
        store.write(f"annotations/{stem}_{split}.json", json.dumps(table).encode())
