"""Small releases of FashionAI, DARN and DeepFashion with the published index files, written from scratch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import trees

INDEX = [
    *(f"filenames_{stem}.txt" for stem in ("train", "valid", "test")),
    "label_train.txt",
    *(f"{kind}_{stem}.txt" for kind in ("query", "candidate") for stem in ("valid", "test")),
]


def text(path: Path, lines: Sequence[str], newline: str = "\n", last: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(newline.join(lines) + newline * last, newline="", encoding="utf-8")


def fashionai(root: Path) -> Path:
    """Two attributes (of the eight) with their real numbers of values; CRLF; two parts."""
    collar, skirt = ["nynnn", "nnnny", "ynnnn", "nynmn"], ["nnnnny", "nynnnn", "mynnnn", "ynnnnn"]
    rows: dict[str, list[tuple[str, int, int]]] = {"train": [], "valid": [], "test": []}
    tables: dict[int, list[str]] = {1: [], 2: []}
    for n in range(24):
        key, attribute, letters = [("collar_design_labels", 4, collar), ("skirt_length_labels", 0, skirt)][
            n % 2
        ]
        letter, part = letters[n // 2 % 4], 1 + n % 3 % 2
        path = f"Images/{key}/{n:032x}.jpg"
        trees.picture(root / f"fashionAI_attributes_train{part}" / path, n)
        tables[part].append(f"{path},{key},{letter}")
        split = "train" if n < 12 else "valid" if n < 18 else "test"
        rows[split].append((f"fashionAI_attributes_train{part}/{path}", attribute, letter.index("y")))
    for part, lines in tables.items():
        text(root / f"fashionAI_attributes_train{part}/Annotations/label.csv", lines)
    text(root / "rank/Tests/question.csv", ["Images/coat_length_labels/ab.jpg,coat_length_labels,"])
    _index(root / "FashionAI", rows, newline="\r\n")
    return root


def darn(root: Path) -> Path:
    """Nine attributes; the training images have several labels; no final newline."""
    rows: dict[str, list] = {"train": [], "valid": [], "test": []}
    for n in range(20):
        split = "train" if n < 8 else "valid" if n < 14 else "test"
        trees.picture(root / f"pic/{n:03d}/a{n}.jpg", n)
        label = (n % 2, 3 + n % 2) if split != "train" else (0, n % 3, 2, 54 - n, 8, 16)
        rows[split].append((f"pic/{n:03d}/a{n}.jpg", *label))
    _index(root / "DARN", rows, last=False)
    text(root / "DARN/darn_url.txt", [f"{n:03d}/a{n} http://images.example/{n}.jpg" for n in range(20)])
    return root


TYPES = [3, 1, 2, 1, 5, 4, 2, 1, 3, 5, 4, 2]  # type of each attribute: texture 1, 3, 7 …
LOCAL = {kind: [row for row, own in enumerate(TYPES) if own == kind] for kind in range(1, 6)}


def deepfashion_fine(root: Path) -> Path:
    """Twelve attributes of five types; every image has two values of the first type."""
    rows: dict[str, list] = {"train": [], "valid": [], "test": []}
    full: dict[str, list[str]] = {"valid": [], "test": []}
    for n in range(20):
        split = "train" if n < 8 else "valid" if n < 14 else "test"
        path = f"img/Top_{n % 3}/img_{n:08d}.jpg"
        trees.picture(root / "Img" / path, n)
        values = [(0, n % 3), (0, (n + 1) % 3), (4, n % 2)]
        if split == "train":
            rows[split].append((path, *sum(values, ())))
            continue
        rows[split].append((path, *values[n % 2 * 2]))
        numbers = [number for a, v in values for number in (a + 1, LOCAL[a + 1][v])]
        full[split].append("\t".join(map(str, (len(full[split]), *numbers))) + "\t\t")
    _index(root / "DeepFashion", rows)
    for split, lines in full.items():
        text(root / f"DeepFashion/label_{split}.txt", lines)
    names = [f"attribute no {row}" for row in range(len(TYPES))]
    trees.table(root / "Anno/list_attr_cloth.txt", "attribute_name attribute_type", list(zip(names, TYPES)))
    counts = {
        f"{name}-related": len(LOCAL[k])
        for k, name in enumerate(("texture", "fabric", "shape", "part", "style"), 1)
    }
    meta = {"DeepFashion": {"ATTRIBUTES": list(counts), "ATTRIBUTES_NUM": counts}}
    text(root / "DeepFashion/meta.json", [json.dumps(meta)])
    return root


def _index(folder: Path, rows: dict[str, list], **form) -> None:
    """The eight index files; of the evaluated images every third is a query."""
    for split, own in rows.items():
        text(folder / f"filenames_{split}.txt", [row[0] for row in own], **form)
        lines = [" ".join(map(str, (i, *row[1:]))) for i, row in enumerate(own)]
        if split == "train":
            text(folder / "label_train.txt", lines, **form)
            continue
        text(folder / f"query_{split}.txt", lines[::3], **form)
        text(folder / f"candidate_{split}.txt", [line for i, line in enumerate(lines) if i % 3], **form)
