"""The synthetic world in a benchmark's own release layout, at any size.

python -m tfds_builders.synthetic_fashion.release NAME[/CONFIG] DIR --images=N [--seed=S] [--size=PX]
[--zip | --form=FORM]

NAME[/CONFIG] is as in `prepare`; configs that read the same files share a layout. DIR gets the original file
names, count and header lines, column-aligned rows and the images (unpacked, or with --zip as Img/img.zip),
so a builder is exercised from the files a user would have, and SYNTHETIC.txt, by which `prepare` tells them
from the benchmark. deepfashion_parsing, deepfashion2, kfashion and coco_instances have json files; with
--zip their images, or whole splits, are archives. polyvore_outfits is written in one of several forms,
which are the copies that there are (`outfit_release.py`); fashionai, darn and deepfashion_fine show the tops
of `fine_grained` under ASEN's index files (`fine_release.py`). The last line printed is JSON of what was
written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tfds_builders.release import SYNTHETIC, ReleaseError
from tfds_builders.synthetic_fashion import scene
from tfds_builders.synthetic_fashion.fine_release import LAYOUTS as FINE_LAYOUTS
from tfds_builders.synthetic_fashion.fine_release import write_fine
from tfds_builders.synthetic_fashion.instance_release import LAYOUTS as INSTANCE_LAYOUTS
from tfds_builders.synthetic_fashion.instance_release import write_instances
from tfds_builders.synthetic_fashion.layouts import LAYOUTS, Shot, Table, Taken
from tfds_builders.synthetic_fashion.outfit_release import FORMS, write_outfits
from tfds_builders.synthetic_fashion.records import in_order
from tfds_builders.synthetic_fashion.world import rng_of

CHUNK = 8
OUTFITS = "polyvore_outfits"
NAMES = (*LAYOUTS, *INSTANCE_LAYOUTS, *FINE_LAYOUTS, OUTFITS)
SAME = {  # NAME/CONFIG → the layout that it reads
    "deepfashion_landmarks/original": "deepfashion_landmarks",
    "deepfashion_attributes": "deepfashion_attributes/coarse",
    "deepfashion_attributes/fine_mmfashion": "deepfashion_attributes/fine",
    "deepfashion_inshop/original": "deepfashion_inshop",
    "deepfashion_consumer2shop/original": "deepfashion_consumer2shop",
    "deepfashion_consumer2shop/val_test": "deepfashion_consumer2shop",
    **{f"{name}/original": name for name in INSTANCE_LAYOUTS},
    **{f"{name}/published": name for name in FINE_LAYOUTS},
    "polyvore_outfits/disjoint": OUTFITS,
    "polyvore_outfits/nondisjoint": OUTFITS,
}
MARK = """\
These files are synthetic: images drawn by tfds_builders.synthetic_fashion.release in the layout of
{name}, of which nothing is in here. Results on them are not results on the benchmark.
"""


def table_text(table: Table) -> str:
    """The text of a file: count, column names, rows whose columns are aligned."""
    widths: list[int] = []
    for row in table.rows:
        widths += [0] * (len(row) - len(widths))
        for k, field in enumerate(row):
            widths[k] = max(widths[k], len(str(field)))
    lines = [str(len(table.rows))] * table.counted + ([table.columns] if table.columns is not None else [])
    for row in table.rows:
        numbers = (f"{field!s:>{widths[k]}}" for k, field in enumerate(row[1:], 1))
        lines.append(" ".join([f"{row[0]!s:<{widths[0]}}" if len(row) > 1 else str(row[0]), *numbers]))
    return "".join(line + "\n" for line in lines)


def _variation(joints: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> int:
    """1 normal, 2 medium, 3 large pose; 4 medium, 5 large zoom-in, by what the frame cuts and where the
    hands are.
    """
    cut = int((box[:2] <= 1).sum() + (box[2:] >= np.asarray(size) - 1).sum())
    if cut:
        return 4 if cut == 1 else 5
    unit = np.hypot(*(joints[4] - joints[2])) + 1e-6  # an upper arm
    if (joints[6:8, 1] < joints[2:4, 1]).any():
        return 3
    return 2 if (np.abs(joints[6:8, 0] - joints[2:4, 0]) > 0.9 * unit).any() else 1


def take(seed: int, shot: Shot) -> tuple[bytes, Taken]:
    """One image and what is written about it; an image that hardly shows its item is taken again."""
    size = np.asarray(shot.size)
    for attempt in range(20):
        picture = scene.single(rng_of(seed, 20, shot.key, attempt), shot.item, seed, shot.size, shot.consumer)
        seen = picture.seen[0]
        if seen.mask.mean() >= 0.01 and (seen.box[2:] - seen.box[:2]).min() >= 2:
            break
    else:
        raise RuntimeError(f"{shot.path}: 20 images in a row hide the item")
    landmark = np.minimum(np.floor(seen.landmark * size).astype(int), size - 1)
    inside = ((picture.joints >= 0) & (picture.joints < size)).all(1)
    at = np.where(inside[:, None], picture.joints, 0).astype(int)
    joints = np.concatenate([np.where(inside, 0, 2)[:, None], at], 1)
    box = seen.box.astype(int)
    variation = _variation(picture.joints, box, shot.size)
    return picture.jpeg, Taken(shot, box, landmark, seen.visibility, variation, joints)


def _take_all(seed: int, shots: list[Shot]) -> list[tuple[bytes, Taken]]:
    return [take(seed, shot) for shot in shots]


def _store(folder: Path, packed: bool) -> tuple[Callable[[str, bytes], object], Callable[[], object]]:
    """How an image is kept, and what to call at the end."""
    if packed:
        folder.mkdir(parents=True)
        archive = zipfile.ZipFile(folder / "img.zip", "w", zipfile.ZIP_STORED)
        # a fixed date, so that the same seed gives the same archive
        return lambda name, data: archive.writestr(zipfile.ZipInfo(name), data), archive.close

    def write(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write, lambda: None


def _progress(pictures: Iterable, total: int) -> Iterable:
    return tqdm(pictures, "rendering", total, unit="img", disable=None)  # None: only on a terminal


def write_release(
    name: str, folder: str | os.PathLike, images: int, seed: int = 0, size: int | None = None,
    packed: bool = False, processes: int | None = None, form: str = "folder",
) -> dict:  # fmt: skip
    """Write a release of about `images` images (whole items where the benchmark has items) → what was
    written.
    """
    name = SAME.get(name, name)
    if name not in NAMES:
        raise ReleaseError(f"{name}: no such release layout; there are {', '.join(NAMES)}")
    if images < 1:
        raise ReleaseError(f"--images={images}: must be at least 1")
    if form not in FORMS:
        raise ReleaseError(f"--form={form}: must be one of {', '.join(FORMS)}")
    if form != "folder" and (name != OUTFITS or packed):
        raise ReleaseError(f"--form={form}: for {OUTFITS} without --zip only")
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise ReleaseError(f"{root}: is a file; give a new folder")
    if root.exists() and any(root.iterdir()):
        raise ReleaseError(f"{root}: not empty; give a new folder")
    workers = processes or os.cpu_count() or 1
    try:
        if name == OUTFITS:
            written = write_outfits(root, images, seed, size, "zip" if packed else form, workers)
        elif name in INSTANCE_LAYOUTS:
            written = write_instances(name, root, images, seed, size, packed, workers)
        elif name in FINE_LAYOUTS:
            written = write_fine(name, root, images, seed, size, packed, workers)
        else:
            written = _write_benchmark(name, root, images, seed, size, packed, workers)
        (root / SYNTHETIC).write_text(MARK.format(name=name.partition("/")[0]))
    except OSError as error:
        raise ReleaseError(f"{root}: cannot be written ({error.strerror or error})") from error
    return written


def _write_benchmark(
    name: str, root: Path, images: int, seed: int, size: int | None, packed: bool, processes: int
) -> dict:
    """Write one of LAYOUTS into the folder `root` → what was written."""
    layout = LAYOUTS[name]
    shots = layout.shots(seed, images, size or layout.long_side)
    calls = [(seed, shots[start : start + CHUNK]) for start in range(0, len(shots), CHUNK)]
    workers = processes if len(shots) >= 64 else 1
    keep, close = _store(root / "Img", packed)
    taken = []
    rendered = (pair for chunk in in_order(_take_all, calls, workers) for pair in chunk)
    for jpeg, picture in _progress(rendered, len(shots)):
        keep(picture.shot.path, jpeg)
        taken.append(picture)
    close()
    for table in layout.tables(taken):
        path = root / table.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(table_text(table), encoding="utf-8")
    splits = {
        split: sum(t.shot.split == split for t in taken)
        for split in dict.fromkeys(t.shot.split for t in taken)
    }
    return {"release": name, "dir": str(root), "images": len(taken), "splits": splits}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tfds_builders.synthetic_fashion.release", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("dir", help="a new folder")
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="long side in pixels (default: the benchmark's own)")
    parser.add_argument("--zip", action="store_true", help="images as a zip archive")
    parser.add_argument("--form", default="folder", help=f"of polyvore_outfits: one of {', '.join(FORMS)}")
    parser.add_argument("--processes", type=int, help="default: one per core")
    args = parser.parse_args(argv)
    try:
        written = write_release(
            args.name, args.dir, args.images, args.seed, args.size, args.zip, args.processes, args.form
        )
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
