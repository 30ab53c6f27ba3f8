"""What a folder tree or a table says of photos, before one is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tfds_builders.own_photos.photos import nfc
from tfds_builders.release import Location, ReleaseError

SPLITS = ("train", "val", "test")
# how people call the splits
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


class Files(NamedTuple):
    """Where each photo is named: errors about it begin with its own path."""

    image: Sequence[str]

    def error(self, i: int, message: str) -> ReleaseError:
        return ReleaseError(f"{self.image[i]}: {message}")


class Listing(NamedTuple):
    """n photos in order. What the input does not say is None.

    box [n 4] xyxy in pixels of the upright photo, NaN where a row has none; landmark [n k 2] likewise, with
    visibility [n k] in DeepFashion's codes; role: query or gallery, as a table's split says.
    """

    lines: Any  # .error(i, message)
    image: list[str]  # path below the folder
    place: list[Location]
    split: list[str] | None = None
    category: list[str] | None = None
    attribute: list[tuple[str, ...]] | None = None
    item: list[str] | None = None
    view: list[str] | None = None
    role: list[str] | None = None
    box: np.ndarray | None = None
    landmark: np.ndarray | None = None
    visibility: np.ndarray | None = None
    landmark_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self, kept: Sequence[int]) -> Listing:
        """The listing of these rows."""
        fields = {}
        for name, value in self._asdict().items():
            if isinstance(value, np.ndarray):
                fields[name] = value[np.asarray(kept, np.int64)]
            elif isinstance(value, list):
                fields[name] = [value[i] for i in kept]
        lines = _Some(self.lines, list(kept))
        return self._replace(lines=lines, **fields)


class _Some(NamedTuple):
    lines: Any
    kept: list[int]

    def error(self, i: int, message: str) -> ReleaseError:
        return self.lines.error(self.kept[i], message)


def check_spelling(names: Sequence[str], error) -> None:
    """Two names that differ in capitals or blanks alone are one name, misspelt; `error(name, message)` makes
    the error."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise error(name, f"{name!r} and {other!r} differ in capitals or blanks alone; spell them alike")


# ------------------------------------------------------------------------------ folders
def read_folders(root: str, found: dict[str, Location]) -> Listing:
    """CLASS/photo or SPLIT/CLASS/photo, with any folders below CLASS; a single outer folder is passed over.

    Raises ReleaseError where no photo is there, one lies in no class, or splits and classes stand side by
    side.
    """
    if not found:
        raise ReleaseError(
            f"{root}: no photo lies below it; expected CLASS/photo.jpg or train/CLASS/photo.jpg"
        )
    folders = _inner([PurePosixPath(label).parts[:-1] for label in found])
    image = list(found)
    lines = Files(image)
    splits = [SPLIT_NAMES.get(parts[0].lower()) if parts else None for parts in folders]
    named = [split is not None for split in splits]
    for i, parts in enumerate(folders):
        if not parts or (any(named) and named[i] and len(parts) < 2):
            shape = "SPLIT/CLASS/photo" if any(named) else "CLASS/photo"
            raise lines.error(i, f"lies in no class folder; expected {shape}")
    if any(named) and not all(named):
        i = named.index(False)
        other = folders[named.index(True)][0]
        raise lines.error(
            i,
            f"folder {folders[i][0]!r} lies beside the split {other!r}; expected splits or classes alone",
        )
    category = [nfc(parts[1 if any(named) else 0]).strip() for parts in folders]
    check_spelling(category, lambda name, message: lines.error(category.index(name), message))
    return Listing(lines, image, list(found.values()), splits if any(named) else None, category)


def _inner(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The folders of each photo without an outer one that holds all of the classes or splits."""
    while True:
        outer = {parts[:1] for parts in folders}
        if len(outer) > 1 or min(map(len, folders)) < 2 or next(iter(outer))[0].lower() in SPLIT_NAMES:
            return folders
        folders = [parts[1:] for parts in folders]
