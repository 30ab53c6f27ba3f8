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
    """(visibility, x, y) of a picture's landmarks; every third picture has an occluded and a cut-off one."""
    marks = [(0, 4 + 4 * k, 6 + 5 * k + i % 3) for k in range(POINTS[kind])]
    if i % 3 == 1:
        marks[1] = (1, *marks[1][1:])
        marks[2] = (2, 0, 0)
    return marks


def landmarks(root: Path, n: int = 12) -> Path:
    """The Fashion Landmark Detection Benchmark: n pictures of 40 x 56, types 1 2 3 in turn, half train."""
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
