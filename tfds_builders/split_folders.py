"""Benchmarks with a json per image in split folders: SPLIT/image/000001.jpg, SPLIT/annos/000001.json.

A json is read twice, once to check everything and once when its record is written, so that memory does not
grow with the polygons of a large benchmark.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.annotations import CUT_OFF, NOT_USED
from tfds_builders.benchmark import Records, Vocabulary, progress_bar
from tfds_builders.instances import InstanceBuilder, Objects, Places, Where, instance_features
from tfds_builders.item_json import (
    LEVELS,
    NO_PAIR,
    SOURCES,
    VISIBILITY,
    Annotation,
    Format,
    Item,
    read_annotation,
)
from tfds_builders.release import (
    PICTURE_SUFFIXES,
    Location,
    Release,
    ReleaseError,
    check_readable,
    nested_archives,
    open_release,
    picture_location,
)


# ------------------------------------------------------------------------------ folders
def open_split_folders(manual_dir: str, names: Sequence[str]) -> Release:
    """The release whose splits are the folders (or archives) `names` with image/ and annos/ in them."""

    def has_images(path: str) -> bool:
        below = (path, os.path.join(path, os.path.basename(path)))
        return any(os.path.isdir(os.path.join(folder, "image")) for folder in below)

    return open_release(
        manual_dir,
        tables=(".txt",),
        folders=tuple(names),
        has_pictures=has_images,
        suffixes=(*PICTURE_SUFFIXES, ".json"),
    )


def list_folder(release: Release, split: str, kind: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files of SPLIT/KIND: stem → name as lists would spell it, sorted."""
    prefix = f"{split}/{kind}/"
    names = {name for name in release.archived if name.startswith(prefix)}
    for base in release.picture_bases:
        folder = os.path.join(base, split, kind)
        if os.path.isdir(folder):
            names |= {prefix + entry for entry in os.listdir(folder) if not entry.startswith(".")}
    found: dict[str, str] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if not name.lower().endswith(suffixes) or len(path.parts) != 3:
            continue
        if path.stem in found:
            raise ReleaseError(f"{name}: {found[path.stem]} has the same number")
        found[path.stem] = name
    return found


class SplitFiles(NamedTuple):
    """The images of a split and the json of each; annos None: a split without annotations."""

    image: list[str]
    annos: list[Location] | None
    number: list[int]  # the number in the file's name, or its place where names are no numbers


def list_split(release: Release, folder: str, *, annotated: bool) -> SplitFiles:
    """Every image with its json; ReleaseError for one without the other. Without `annotated` a split that has
    no json at all is one without annotations.
    """
    images = list_folder(release, folder, "image", PICTURE_SUFFIXES)
    annos = list_folder(release, folder, "annos", (".json",))
    if not images:
        raise ReleaseError(
            f"{folder}/image: no image lies in it below {release.root}{nested_archives(release)}"
        )
    stems = list(images)
    plain = all(stem.isdecimal() and len(stem) < 16 for stem in stems)
    number = [int(stem) for stem in stems] if plain else list(range(1, len(stems) + 1))
    if len(set(number)) < len(number):
        number = list(range(1, len(stems) + 1))
    if not annos and not annotated:
        return SplitFiles(list(images.values()), None, number)
    for stem, name in images.items():
        if stem not in annos:
            raise ReleaseError(f"{name}: has no annotation ({folder}/annos/{stem}.json)")
    for stem, name in annos.items():
        if stem not in images:
            raise ReleaseError(f"{name}: has no image ({folder}/image/{stem}.jpg)")
    places = []
    for stem in stems:
        place = picture_location(release, annos[stem])
        check_readable(place)
        places.append(place)
    return SplitFiles(list(images.values()), places, number)


# ------------------------------------------------------------------------------ the benchmark
class Items:
    """The objects of each image, read from its json when they are asked for."""

    def __init__(self, places: Sequence[Location | None], form: Format, start: np.ndarray):
        self.places, self.form, self.start = places, form, start
        self.box = self.size = None

    def fitted(self, box: np.ndarray, size: np.ndarray) -> Items:
        """The same objects with boxes [m 4] that were checked, in images of size [n 2] (width, height)."""
        result = Items(self.places, self.form, self.start)
        result.box, result.size = box, size
        return result

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> list[dict[str, Any]]:
        if self.places[row] is None:
            return []
        items = list(read_annotation(self.places[row], self.form).items.values())
        if len(items) != self.start[row + 1] - self.start[row]:
            raise ReleaseError(f"{self.places[row].label}: has changed while the dataset was built")
        boxes = self.box[self.start[row] : self.start[row + 1]]
        return [self._features(item, box, self.size[row]) for item, box in zip(items, boxes, strict=True)]

    def _features(self, item: Item, box: np.ndarray, size: np.ndarray) -> dict[str, Any]:
        fields = {
            "category": item.category,
            "box": box,
            "segmentation": item.mask.text,
            "area": np.float32(item.mask.area),
            "iscrowd": 0,
            "style": item.style,
            **dict(zip(LEVELS, item.level)),
        }
        if self.form.named:
            fields |= {"color": item.color, "style_name": item.style_name}
        if self.form.landmarks is not None:
            most = max(self.form.landmarks)
            landmark, visibility = np.zeros((most, 2), np.float32), np.full(most, NOT_USED, np.uint8)
            count = self.form.landmarks[item.category]
            visibility[:count] = CUT_OFF
            if item.points is not None:
                landmark[:count] = item.points[:, :2] / size
                visibility[:count] = [VISIBILITY[int(v)] for v in item.points[:, 2]]
                landmark[visibility == CUT_OFF] = 0
            fields |= {"landmark": landmark, "visibility": visibility}
        return fields


class Checked(NamedTuple):
    """Every json of the benchmark, checked, in the form of `Records`."""

    places: Places
    image: list[str]
    split: dict[str, np.ndarray]
    objects: Objects
    columns: dict[str, Any]
    notes: tuple[str, ...]


def check_all(splits: dict[str, SplitFiles], form: Format, update: Callable[[], object]) -> Checked:
    """Read every json once; `update` is called after each image."""
    image: list[str] = []
    where: list[Where] = []
    jsons: list[Location | None] = []
    of: dict[str, np.ndarray] = {}
    row, box, key, count = [], [], [], [0]
    columns: dict[str, list] = {name: [] for name in ("coco_id", "source", "pair_id", "annotated")}
    bare = 0
    for split, files in splits.items():
        of[split] = np.arange(len(image), len(image) + len(files.image))
        for name, place, number in zip(files.image, files.annos or [None] * len(files.image), files.number):
            found = Annotation(2, NO_PAIR, {}) if place is None else read_annotation(place, form)
            for item_key, item in found.items.items():
                row.append(len(image))
                box.append(item.box)
                key.append(f"{item_key}.bounding_box")
                bare += item.mask.box is None
            values = (number, found.source, found.pair_id, place is not None)
            for column, value in zip(columns.values(), values):
                column.append(value)
            image.append(name)
            where.append(Where(name if place is None else place.label))
            jsons.append(place)
            count.append(len(row))
            update()
    notes = [f"{bare} items have a box but no polygon"] if bare else []
    objects = Objects(np.asarray(row, np.int64), np.asarray(box, np.float64).reshape(-1, 4), key)
    arrays = {name: np.asarray(values, np.int64) for name, values in columns.items()}
    columns = arrays | {"instance": Items(jsons, form, np.asarray(count))}
    return Checked(Places(where), image, of, objects, columns, tuple(notes))


class ItemBuilder(InstanceBuilder, skip_registration=True):
    """A builder of a benchmark in this format: subclasses give the tables."""

    SPLITS: ClassVar[dict[str, tuple[str, ...]]] = {}  # split → the folders that may hold it
    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # splits that may be missing or without annotations
    FORMAT: ClassVar[Format]

    def open(self) -> Release:
        names = [name for folders in self.SPLITS.values() for name in folders]
        return open_split_folders(self.builder_config.manual_dir, names)

    def vocabulary(self, release: Release) -> Vocabulary:
        return Vocabulary(category=list(self.FORMAT.categories))

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return instance_features(self.FORMAT.categories, **_item_features(self.FORMAT)) | _image_features()

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        form = self.FORMAT
        ids = range(form.first_id, form.first_id + len(form.categories))
        self.info.metadata["category_ids"] = list(ids)
        found, notes = _find_splits(release, self.SPLITS, self.OPTIONAL)
        total = sum(len(files.image) for files in found.values())
        with progress_bar(total, "reading annotations", self.builder_config.progress) as bar:
            checked = check_all(found, form, bar.update)
        self.objects = checked.objects
        return Records(
            checked.places, checked.image, checked.split, checked.columns, notes=notes + checked.notes
        )


def _item_features(form: Format) -> dict[str, Any]:
    """What the format says of an item beside its box and mask."""
    found = {name: tfds.features.Scalar(dtype=np.int32) for name in ("style", *LEVELS)}
    if form.named:
        found |= {name: tfds.features.Text() for name in ("color", "style_name")}
    if form.landmarks is not None:
        most = max(form.landmarks)
        found["landmark"] = tfds.features.Tensor(shape=(most, 2), dtype=np.float32)
        found["visibility"] = tfds.features.Tensor(shape=(most,), dtype=np.uint8)
    return found


def _image_features() -> dict[str, Any]:
    """What the format says of an image."""
    return {
        "source": tfds.features.ClassLabel(names=list(SOURCES)),
        "pair_id": tfds.features.Scalar(dtype=np.int64),
        "annotated": tfds.features.Scalar(dtype=np.uint8),
    }


def _find_splits(
    release: Release, splits: dict[str, tuple[str, ...]], optional: tuple[str, ...]
) -> tuple[dict[str, SplitFiles], tuple[str, ...]]:
    """Split → its files, and notes of what is not there."""
    found: dict[str, SplitFiles] = {}
    notes: tuple[str, ...] = ()
    for split, folders in splits.items():
        there = [folder for folder in folders if list_folder(release, folder, "image", PICTURE_SUFFIXES)]
        if len(there) > 1:
            raise ReleaseError(f"{' and '.join(there)} are both there; the split {split} must be one folder")
        if there:
            found[split] = list_split(release, there[0], annotated=split not in optional)
            if found[split].annos is None:
                notes += (f"{there[0]}: has no annotations; its records have no instances",)
        elif split in optional:
            notes += (f"{folders[0]}: not there, so there is no split {split}",)
        else:
            raise ReleaseError(
                f"{' or '.join(folders)}/image: not found below {release.root}, neither unpacked nor in a "
                f"zip archive{nested_archives(release)}"
            )
    return found, notes
