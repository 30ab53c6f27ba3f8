"""Folders of photo-like images as people keep them, rendered: every class has a colour, every photo its own
noise; with damaged files, EXIF, CMYK, PNG, WebP and names in several scripts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("jurk", "hoed", "платье", "シャツ")
FORMATS = ("JPEG", "JPEG", "PNG", "WEBP")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


def pixels(kind: int, seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """uint8 [h w 3] of (width, height): a bright block whose colour and place are of its class."""
    rng = np.random.default_rng((kind, seed))
    width, height = size
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    shade = np.asarray([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])[kind % 4]
    top = (kind // 4) % 2 * height // 2
    block = image[top + 4 : top + 4 + height // 2, 4 : width - 4]
    block[:] = np.clip(shade + rng.integers(-30, 30, block.shape), 0, 255)
    return image


def encoded(image: np.ndarray, form: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def photo(path: Path, kind: int, seed: int, form: str = "JPEG", size: tuple[int, int] = (48, 64)) -> Path:
    """One photo at `path`, whose suffix is not changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels(kind, seed, size), form))
    return path


def classes(root: Path, count: int, names: Sequence[str] = CLASSES, damaged: int = 0, first: int = 0) -> Path:
    """`count` photos over class folders in turn, in several formats, numbered from `first`; `damaged` of them
    broken in five ways."""
    for n in range(first, first + count):
        kind, form = n % len(names), FORMATS[n % len(FORMATS)]
        photo(root / names[kind] / f"фото {n:03d}{SUFFIXES[form]}", kind, n, form, (40 + n % 9, 52 + n % 7))
    for n, path in enumerate(sorted(root.rglob("*.*"))[:: max(1, count // max(damaged, 1))][:damaged]):
        damage(path, n)
    return root


def damage(path: Path, way: int) -> None:
    """Empty, cut short, text, a bad header or noise."""
    data = path.read_bytes()
    broken = (
        b"",
        data[: len(data) // 2],
        b"<html>not found</html>",
        bytes(64) + data[64:],
        b"\xff\xd8\xff" * 40,
    )
    path.write_bytes(broken[way % 5])


def cmyk(path: Path, kind: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(kind, seed)).convert("CMYK").save(path, "JPEG")
    return path


def rotated(path: Path, kind: int, seed: int, orientation: int = 6) -> Path:
    """Stored turned, with the EXIF tag that turns it upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(pixels(kind, seed)).transpose(Image.Transpose.ROTATE_90)
    turned.save(path, "JPEG", exif=exif)
    return path


def items(root: Path, count: int = 12, per_item: int = 3) -> Path:
    """`per_item` photos of each of `count` items with a category, attributes and a box, in photos.csv."""
    rows = ["image,category,attributes,item,x0,y0,x1,y1"]
    for item in range(count):
        for view in range(per_item):
            kind = item % 4
            name = f"bilder/{item}_{view}.jpg"
            photo(root / name, kind, 100 * item + view)
            worn = ";".join(["striped"] * (item % 2) + ["long"] * (item % 3 == 0))
            rows.append(f"{name},{CLASSES[kind]},{worn},item {item},4,4,44,36")
    (root / "photos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root
