"""Small benchmark releases in the original text formats, written from scratch for the builder tests."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

POINTS = {1: 6, 2: 4, 3: 8}


def table(
    path: Path, columns: str | None, rows: Sequence[Sequence[object]], *, count: int | None = None
) -> Path:
    """Row count, column names (unless None), rows with blank-padded columns and trailing blanks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [[str(value) for value in row] for row in rows]
    first = max(len(row[0]) for row in fields)
    lines = [str(len(rows) if count is None else count), *([columns] if columns is not None else [])]
    lines += [f"{row[0]:<{first}}  " + " ".join(f"{value:>4}" for value in row[1:]) + " " for row in fields]
    path.write_text("\n".join(line.rstrip() if not columns else line for line in lines) + "\n")
    return path


def plain(path: Path, rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(str(value) for value in row) + "\n" for row in rows))
    return path


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 56)) -> Path:
    """A noisy RGB JPEG of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (7, 5, 3)).astype(np.uint8)
    Image.fromarray(noise).resize(size).save(path, "JPEG", quality=85)
    return path


def edit(path: Path, line: int, change: Callable[[str], str]) -> None:
    """Apply `change` to the 1-based line."""
    lines = path.read_text().split("\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines), errors="surrogateescape")


def drop(path: Path, line: int) -> None:
    lines = path.read_text().split("\n")
    del lines[line - 1]
    path.write_text("\n".join(lines), errors="surrogateescape")


def points(kind: int, i: int) -> list[tuple[int, int, int]]:
    """(visibility, x, y) of an image's landmarks; every third image has an occluded and a cut-off one."""
    marks = [(0, 4 + 4 * k, 6 + 5 * k + i % 3) for k in range(POINTS[kind])]
    if i % 3 == 1:
        marks[1] = (1, *marks[1][1:])
        marks[2] = (2, 0, 0)
    return marks


def landmarks(root: Path, n: int = 12) -> Path:
    """The Fashion Landmark Detection Benchmark: n images of 40 x 56, types 1 2 3 in turn, half train."""
    names = [f"img/{i:08d}.jpg" for i in range(1, n + 1)]
    for i, name in enumerate(names):
        picture(root / "Img" / name, i)
    splits = [("train", "train", "val", "test")[i % 4] for i in range(n)]
    kinds = [1 + i % 3 for i in range(n)]
    table(
        root / "Anno/list_bbox.txt",
        "image_name x_1 y_1 x_2 y_2",
        [(m, 2, 3, 40, 56 - i % 20) for i, m in enumerate(names)],
    )
    columns = "image_name clothes_type variation_type landmark_visibility_1 landmark_location_x_1"
    rows = [
        (
            m,
            k,
            1 + i % 5,
            *(f"{value:03d}" if j % 3 else value for j, value in enumerate(sum(points(k, i), ()))),
        )
        for i, (m, k) in enumerate(zip(names, kinds))
    ]
    table(root / "Anno/list_landmarks.txt", columns, rows)
    table(root / "Eval/list_eval_partition.txt", "image_name evaluation_status", list(zip(names, splits)))
    (root / "README.txt").write_text("not a table\n")
    return root


def landmarks_mmfashion(root: Path, n: int = 6) -> Path:
    """The split lists that MMFashion derives: visibility 1 means visible, missing slots are zeros."""
    for split in ("train", "val", "test"):
        names = [f"img/{split}_{i}.jpg" for i in range(n)]
        for i, name in enumerate(names):
            picture(root / "Img" / name, i)
        plain(root / f"{split}.txt", [(name,) for name in names])
        plain(root / f"{split}_bbox.txt", [(2, 3, 40, 56)] * n)
        marks = [points(1 + i % 3, i) for i in range(n)]
        rows = [sum([(int(v == 0), x, y) for v, x, y in m], ()) + (0, 0, 0) * (8 - len(m)) for m in marks]
        plain(root / f"{split}_landmarks.txt", rows)
    return root


def pack(folder: Path, archive: Path, *, prefix: str = "", extra: Sequence[tuple[str, bytes]] = ()) -> None:
    """Replace a folder by a zip of it, members named `prefix` + path below the folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in extra:
            out.writestr(name, data)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, prefix + path.relative_to(folder).as_posix())
                path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(buffer.getvalue())


def all_files(root: Path) -> list[str]:
    """Every file below root, hidden ones too."""
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)


MARK_COLUMNS = "image_name clothes_type variation_type landmark_visibility_1 landmark_location_x_1"
ATTRIBUTES = [
    ("a-line", 3),
    ("abstract floral print", 1),
    ("cotton", 2),
    ("v neck", 4),
    ("boho", 5),
    ("solid", 1),
]
CATEGORIES = [("Anorak", 1), ("Blazer", 1), ("Jeans", 2), ("Dress", 3)]


def label_rows(n: int, width: int, no: int = -1) -> list[list[int]]:
    """0/1 labels, with `no` for the negative ones; each row differs."""
    return [[1 if (i + j) % 3 == 0 else no for j in range(width)] for i in range(n)]


def mark_rows(names: Sequence[str], varied: bool = True) -> list[tuple]:
    """Rows of list_landmarks*.txt, clothes types 1 2 3 in turn."""
    rows = []
    for i, name in enumerate(names):
        kind = 1 + i % 3
        variation = (1 + i % 5,) if varied else ()
        rows.append((name, kind, *variation, *sum(points(kind, i), ())))
    return rows


def attributes(root: Path, n: int = 12, folder: str = "Anno_coarse", varied: bool = False) -> Path:
    """The coarse attribute benchmark: 6 attributes, 4 categories."""
    names = [f"img/Sheer_Blouse_{i % 3}/img_{i:08d}.jpg" for i in range(1, n + 1)]
    for i, name in enumerate(names):
        picture(root / "Img" / name, i)
    anno = root / folder
    table(anno / "list_attr_cloth.txt", "attribute_name  attribute_type", ATTRIBUTES)
    table(anno / "list_category_cloth.txt", "category_name  category_type", CATEGORIES)
    labels = label_rows(n, len(ATTRIBUTES))
    labels[0][1] = 0
    table(
        anno / "list_attr_img.txt",
        "image_name  attribute_labels",
        [(m, *row) for m, row in zip(names, labels)],
    )
    table(
        anno / "list_category_img.txt",
        "image_name  category_label",
        [(m, 1 + i % 4) for i, m in enumerate(names)],
    )
    table(
        anno / "list_bbox.txt", "image_name  x_1  y_1  x_2  y_2", [(m, "001", "002", 40, 56) for m in names]
    )
    columns = MARK_COLUMNS if varied else MARK_COLUMNS.replace("variation_type ", "")
    table(anno / "list_landmarks.txt", columns, mark_rows(names, varied))
    splits = [("train", "train", "val", "test")[i % 4] for i in range(n)]
    table(root / "Eval/list_eval_partition.txt", "image_name  evaluation_status", list(zip(names, splits)))
    return root


def split_lists(root: Path, folder: str = "Anno_fine", sizes: Sequence[int] = (6, 3, 4)) -> Path:
    """The attribute benchmark's split lists, as Anno_fine ships them and as MMFashion derives them."""
    anno = root / folder
    table(anno / "list_attr_cloth.txt", "attribute_name  attribute_type", ATTRIBUTES)
    table(anno / "list_category_cloth.txt", "category_name  category_type", CATEGORIES)
    for split, n in zip(("train", "val", "test"), sizes):
        names = [f"img/{split}_Dress/img_{i:08d}.jpg" for i in range(n)]
        for i, name in enumerate(names):
            picture(root / "Img" / name, i)
        kinds = [CATEGORIES[i % 4][1] for i in range(n)]
        plain(anno / f"{split}.txt", [(name,) for name in names])
        plain(anno / f"{split}_attr.txt", [[*row, ""] for row in label_rows(n, len(ATTRIBUTES), no=0)])
        plain(anno / f"{split}_cate.txt", [(1 + i % 4,) for i in range(n)])
        plain(anno / f"{split}_bbox.txt", [(1, 2, 40, 56)] * n)
        plain(
            anno / f"{split}_landmarks.txt", [padded_pairs(points(kind, i)) for i, kind in enumerate(kinds)]
        )
    return root


def padded_pairs(marks: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
    """x y of each point, zeros up to eight."""
    return sum([(x, y) for _, x, y in marks], ()) + (0, 0) * (8 - len(marks))


def items_with_labels(anno: Path, items: Sequence[str], list_name: str, typed: bool) -> None:
    """Item list, attribute names and attribute labels per item."""
    table(anno / list_name, None, [(item,) for item in items])
    if typed:
        table(anno / "list_attr_cloth.txt", "attribute_name  attribute_type", ATTRIBUTES)
    else:
        table(anno / "list_attr_cloth.txt", "attribute_name", [(name,) for name, _ in ATTRIBUTES])
    labels = label_rows(len(items), len(ATTRIBUTES))
    table(
        anno / "list_attr_items.txt",
        "item_id  attribute_labels",
        [(m, *row) for m, row in zip(items, labels)],
    )


def in_shop(root: Path, items: int = 6, views: int = 3) -> Path:
    """The in-shop benchmark: items 0-3 train, 4-5 with one query and the rest gallery."""
    ids = [f"id_{i:08d}" for i in range(1, items + 1)]
    names, owner, splits = [], [], []
    for i, item in enumerate(ids):
        for v in range(views):
            names.append(f"img/{('WOMEN', 'MEN')[i % 2]}/Jackets_Coats/{item}/0{v + 1}_{v}_front.jpg")
            owner.append(item)
            splits.append("train" if i < items - 2 else ("query" if v == 0 else "gallery"))
    for i, name in enumerate(names):
        picture(root / "Img" / name, i)
    anno = root / "Anno"
    items_with_labels(anno, ids, "list_item_inshop.txt", typed=False)
    table(
        anno / "list_bbox_inshop.txt",
        "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        [(m, 1 + i % 3, 1 + i % 4, 4, 5, 40, 50) for i, m in enumerate(names)],
    )
    table(anno / "list_landmarks_inshop.txt", MARK_COLUMNS, mark_rows(names))
    table(
        root / "Eval/list_eval_partition.txt",
        "image_name item_id evaluation_status",
        list(zip(names, owner, splits)),
    )
    return root


def in_shop_mmfashion(root: Path) -> Path:
    """MMFashion's lists of an in-shop tree, with its shifted landmarks, beside the raw item and attribute
    lists.
    """
    in_shop(root)
    rows = [line.split() for line in (root / "Eval/list_eval_partition.txt").read_text().splitlines()[2:]]
    marks = [line.split() for line in (root / "Anno/list_landmarks_inshop.txt").read_text().splitlines()[2:]]
    ids = sorted({row[1] for row in rows})
    labels = label_rows(len(ids), len(ATTRIBUTES), no=0)
    for split in ("train", "query", "gallery"):
        mine = [i for i, row in enumerate(rows) if row[2] == split]
        stem = root / "Anno" / split
        plain(stem.with_name(f"{split}_img.txt"), [(rows[i][0],) for i in mine])
        plain(stem.with_name(f"{split}_id.txt"), [(ids.index(rows[i][1]),) for i in mine])
        plain(stem.with_name(f"{split}_labels.txt"), [labels[ids.index(rows[i][1])] for i in mine])
        plain(stem.with_name(f"{split}_bbox.txt"), [(4, 5, 40, 50)] * len(mine))
        plain(stem.with_name(f"{split}_landmarks.txt"), [shifted(marks[i]) for i in mine])
    (root / "Eval/list_eval_partition.txt").unlink()
    return root


def shifted(row: Sequence[str]) -> list[int]:
    """The pairs that MMFashion's script makes of a landmark row: each pair is the one before it in the
    file, kept if the point itself is visible; the first pair is clothes and variation type."""
    values = [int(field) for field in row[1:]]
    pairs: list[int] = []
    for j in range(2, len(values), 3):
        if values[j] == 0:
            pairs += values[j - 2 : j]
    return pairs + [0] * (16 - len(pairs))


PAIRS = [  # consumer image, shop image, item, split
    ("DRESSES/Summer/id_00000001/comsumer_01.jpg", "DRESSES/Summer/id_00000001/shop_01.jpg", 1, "train"),
    ("DRESSES/Summer/id_00000001/comsumer_02.jpg", "DRESSES/Summer/id_00000001/shop_01.jpg", 1, "train"),
    ("TOPS/Shirt/id_00000002/comsumer_01.jpg", "TOPS/Shirt/id_00000002/shop_01.jpg", 2, "train"),
    ("TOPS/Shirt/id_00000003/comsumer_01.jpg", "TOPS/Shirt/id_00000003/shop_01.jpg", 3, "val"),
    ("TOPS/Shirt/id_00000004/comsumer_01.jpg", "TOPS/Shirt/id_00000004/shop_01.jpg", 4, "test"),
    ("TOPS/Shirt/id_00000004/comsumer_02.jpg", "TOPS/Shirt/id_00000004/shop_01.jpg", 4, "test"),
    ("TOPS/Shirt/id_00000004/comsumer_02.jpg", "TOPS/Shirt/id_00000004/shop_02.jpg", 4, "test"),
]


def consumer_to_shop(root: Path) -> Path:
    """The consumer-to-shop benchmark: the pairs above, and an image that no pair uses."""
    rows = [(f"img/{a}", f"img/{b}", f"id_{i:08d}", split) for a, b, i, split in PAIRS]
    table(
        root / "Eval/list_eval_partition.txt",
        "image_pair_name_1 image_pair_name_2 item_id evaluation_status",
        rows,
    )
    names = sorted({name for row in rows for name in row[:2]}) + ["img/TOPS/Shirt/id_00000009/shop_01.jpg"]
    for i, name in enumerate(names):
        picture(root / "Img" / name, i)
    anno = root / "Anno"
    items_with_labels(anno, [f"id_{i:08d}" for i in range(1, 6)], "list_item_consumer2shop.txt", typed=True)
    table(
        anno / "list_bbox_consumer2shop.txt",
        "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        [(m, 1 + i % 3, 1 + ("comsumer" in m), 4, 5, 40, 50) for i, m in enumerate(names)],
    )
    table(anno / "list_landmarks_consumer2shop.txt", MARK_COLUMNS, mark_rows(names))
    return root


def consumer_to_shop_mmfashion(root: Path) -> Path:
    """MMFashion's lists of the same pairs."""
    consumer_to_shop(root)
    (root / "Eval/list_eval_partition.txt").unlink()
    anno = root / "Anno"
    train = [(f"img/{a}", f"img/{b}", i - 1) for a, b, i, split in PAIRS if split == "train"]
    rest = [(f"img/{a}", f"img/{b}", i - 1) for a, b, i, split in PAIRS if split != "train"]
    plain(anno / "train_consumer2shop.txt", [row[:2] for row in train])
    plain(anno / "train_id.txt", [(row[2],) for row in train for _ in range(2)])
    sides = {"train": [name for row in train for name in row[:2]]}
    for k, side in enumerate(("consumer", "shop")):
        sides[side] = [row[k] for row in rest]
        plain(anno / f"{side}.txt", [(row[k],) for row in rest])
        plain(anno / f"{side}_id.txt", [(row[2],) for row in rest])
    for side, names in sides.items():
        plain(anno / f"list_bbox_{side}.txt", [(name, 4, 5, 40, 50) for name in names])
        plain(anno / f"list_landmarks_{side}.txt", [(name, *padded_pairs(points(2, 0))) for name in names])
    return root
