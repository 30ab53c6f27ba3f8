"""Images anywhere below a folder, unpacked or in zip archives, found by the end of their path."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from tfds_builders.release import PICTURE_SUFFIXES, Location, archive_members, member_location

SUFFIXES = (*PICTURE_SUFFIXES, ".tif", ".tiff")


def index_images(root: str, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[tuple[str, Location]]]:
    """File name → (path below root, location) of every image with that name. Links are followed once."""
    found: dict[str, list[tuple[str, Location]]] = {}
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            label = os.path.relpath(path, root).replace(os.sep, "/")
            if name.lower().endswith(suffixes):
                found.setdefault(name, []).append((label, Location(label, path)))
            elif name.lower().endswith(".zip"):
                for member in archive_members(path, label):
                    if member.filename.lower().endswith(suffixes):
                        inside = f"{label.removesuffix('.zip')}/{member.filename}"
                        place = member_location(f"{label}/{member.filename}", path, member)
                        base = PurePosixPath(member.filename).name
                        found.setdefault(base, []).append((inside, place))
    return found


def resolve(
    index: dict[str, list[tuple[str, Location]]], name: str, folder: str, hints: Sequence[str]
) -> list[tuple[str, Location]]:
    """The images that a json's `file_name` may mean: those whose path ends with it, below `folder` if that is
    given. Of several, those with most of `hints` (the split's name, the json's folder) in their path.
    """
    parts = PurePosixPath(name).parts
    inside = PurePosixPath(folder).parts
    matching = []
    for label, place in index.get(parts[-1], []):
        path = PurePosixPath(label).parts
        if path[len(path) - len(parts) :] == parts and path[: len(inside)] == inside:
            above = path[: len(path) - len(parts)]
            score = sum(any(hint in part for part in above) for hint in hints)
            matching.append((bool(inside) and path == (*inside, *parts), score, label, place))
    best = max((entry[:2] for entry in matching), default=None)
    return [(label, place) for *rank, label, place in matching if tuple(rank) == best]
