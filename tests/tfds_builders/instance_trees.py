"""Small instance datasets in their original json formats, written from scratch for the builder tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trees

SIZE = (40, 56)
RING = [4, 6, 24, 6, 24, 36, 4, 36]
# column-major runs of a 40 x 56 image: rows 2 and 3 of columns 1 and 2
RUNS = [58, 2, 54, 2, 40 * 56 - 116]


def dump(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Apply `edit` to a json, in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def coco(names: list[str], categories: list[tuple[int, str]], first: int = 1) -> dict[str, Any]:
    """Images with 0, 1, 2, 0, 1, 2 … annotations: a polygon, then a crowd as RLE. Ids have gaps."""
    images = [
        {"id": first + 3 * i, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
        for i, name in enumerate(names)
    ]
    annotations = []
    for i, image in enumerate(images):
        base = {"image_id": image["id"], "category_id": categories[i % len(categories)][0]}
        if i % 3:
            polygon = {"segmentation": [RING, [1, 1, 3, 1, 2, 3]], "bbox": [4, 6, 20, 30], "area": 602}
            annotations.append({"id": 10 + 7 * len(annotations), **base, **polygon, "iscrowd": 0})
        if i % 3 == 2:
            rle = {"size": [SIZE[1], SIZE[0]], "counts": RUNS}
            crowd = {"segmentation": rle, "bbox": [1, 2, 2, 2], "area": 4, "iscrowd": 1}
            annotations.append({"id": 10 + 7 * len(annotations), **base, **crowd})
    listed = [{"id": number, "name": name, "supercategory": "x"} for number, name in categories]
    return {"info": {}, "images": images, "annotations": annotations, "categories": listed}


def coco_folder(root: Path) -> Path:
    """Own annotations: train and val, the same file names in both, val with other category ids."""
    for split, n in (("train", 6), ("val", 3)):
        names = [f"{i:03d}.jpg" for i in range(n)]
        for i, name in enumerate(names):
            trees.picture(root / "images" / split / name, i, SIZE)
        categories = [(7, "shirt"), (3, "bag")] if split == "train" else [(1, "bag"), (2, "shirt")]
        dump(root / f"annotations/instances_{split}.json", coco(names, categories))
    return root


PARSING = (
    *("top", "skirt", "leggings", "dress", "outer", "pants", "bag", "neckwear"),
    *("headwear", "eyeglass", "belt", "footwear", "hair", "skin", "face"),
)


def parsing(root: Path, prefix: str = "img_highres/") -> Path:
    """The In-shop parsing annotations over high-resolution images."""
    categories = list(enumerate(PARSING, 1))
    for k, split in enumerate(("train", "query", "gallery")):
        names = [f"WOMEN/Dresses/id_0000000{k}/0{i}_1_front.jpg" for i in range(3)]
        for i, name in enumerate(names):
            trees.picture(root / "Img/img_highres" / name, 10 * k + i, SIZE)
        listed = coco([prefix + name for name in names], categories, first=100 * k + 1)
        dump(root / f"annotations/DeepFashion_segmentation_{split}.json", listed)
    return root


LANDMARKS = {1: 25, 8: 14, 9: 8, 13: 19}
NAMES = {1: "short sleeve top", 8: "trousers", 9: "skirt", 13: "sling dress"}


def garment(category: int, **more: Any) -> dict[str, Any]:
    """An item of DeepFashion2: a ring, a stray one, points of all three visibilities."""
    points = [[4 + k, 6 + k, (2, 1, 0)[k % 3]] for k in range(LANDMARKS[category])]
    return {
        "category_name": NAMES[category],
        "category_id": category,
        "style": 1,
        "bounding_box": [4, 6, 24, 36],
        "landmarks": [value for point in points for value in point],
        "segmentation": [RING, [0, 0, 30, 40, 32, 50]],
        "scale": 2,
        "occlusion": 1,
        "zoom_in": 3,
        "viewpoint": 2,
    } | more


def deepfashion2(root: Path, val: str = "validation") -> Path:
    """Three images in train, two in validation, one in test without annotations."""
    for split, n in (("train", 3), (val, 2), ("test", 1)):
        for i in range(1, n + 1):
            trees.picture(root / f"{split}/image/{i:06d}.jpg", i, SIZE)
            items = {f"item{k + 1}": garment((1, 8, 9, 13)[(i + k) % 4]) for k in range(i)}
            content = {"source": ("shop", "user")[i % 2], "pair_id": 40 + i, **items}
            if split != "test":
                dump(root / f"{split}/annos/{i:06d}.json", content)
    return root


def kfashion(root: Path) -> Path:
    """train, val, test with one image each; category ids from 0, a colour and a style by name."""
    for k, split in enumerate(("train", "val", "test")):
        trees.picture(root / f"{split}/image/{900 + k}.jpg", k, SIZE)
        item = {
            "category_name": "padded jacket",
            "category_id": 18,
            "bounding_box": [4, 6, 24.5, 36],
            "segmentation": [RING],
            "color": "navy",
        }
        other = item | {"category_name": "cardigan", "category_id": 0, "style": 3, "color": 5}
        content = {"source": "shop", "pair_id": k, "style": "street", "item1": item, "item10": other}
        dump(root / f"{split}/annos/{900 + k}.json", content)
    return root
