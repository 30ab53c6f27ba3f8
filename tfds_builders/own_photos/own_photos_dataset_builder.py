"""Anybody's photos: a folder for each class, or a table that names photos and what is on them.

Configs: `folders` (CLASS/photo or SPLIT/CLASS/photo) and `table` (CSV or TSV). COCO's files are the dataset
`coco_instances`. Every photo is decoded before anything is written: damaged ones are listed, copies of one
photo stay in one split, and splits that the input does not give are made by a seeded rule.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders import pictures
from tfds_builders.annotations import Boxes
from tfds_builders.benchmark import (
    BenchmarkBuilder,
    BenchmarkConfig,
    Records,
    Vocabulary,
    attribute_feature,
    progress_bar,
    rows_by_split,
)
from tfds_builders.own_photos import holdout, photos, protocol, table
from tfds_builders.own_photos.listing import SPLITS, Listing, read_folders
from tfds_builders.own_photos.photos import Inspected
from tfds_builders.release import Location, Release, ReleaseError, open_release

KEEP_FIRST = ("test", "val", "train")  # of copies in several splits, the one in the first of these stays
LISTED = 20  # damaged photos named in an error


@dataclasses.dataclass
class OwnConfig(BenchmarkConfig):
    """val, test: shares of the training photos (or items) that make a split which the input does not have; 0:
    no such split. seed: of that choice. longest: pixels of a stored photo's longer side; 0: as it is. table:
    path of the table below manual_dir, where there are several.
    """

    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    longest: int = 640
    table: str = ""


class Builder(BenchmarkBuilder):
    """Photos with any of category, attributes, item, view, box and landmarks."""

    DESCRIPTION = "Photos of their owner, read from class folders or from a table."
    HOMEPAGE = ""
    BUILDER_CONFIGS: ClassVar = [
        OwnConfig(name="folders", description="CLASS/photo, or train|val|test/CLASS/photo."),
        OwnConfig(name="table", description="A CSV or TSV with a row for each photo."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Put your photos (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC), unpacked or in zip archives, into manual_dir:
  CLASS/photo.jpg         config folders: a folder for each class, or
  SPLIT/CLASS/photo.jpg   with the split (train, val, test) above them
  photos.csv              config table (or a .tsv): a header with image, and any of category, attributes
                          (a;b;c), item, view (shop, consumer), split, x0 y0 x1 y1,
                          landmark_NAME_x landmark_NAME_y landmark_NAME_v
Missing splits are made: --set=val=0.15 --set=test=0.15 --set=seed=0. Boxes and masks in COCO files: the
dataset coco_instances"""

    @functools.cached_property
    def listing(self) -> Listing:
        """What folders or table say."""
        root, config = self.release.root, self.builder_config
        found = photos.find(root)
        if config.name == "folders":
            return read_folders(root, found)
        return table.read_table(table.find_table(self.release.texts, config.table, root), root, found)

    def open(self) -> Release:
        self._check_config()
        return open_release(self.builder_config.manual_dir, tables=table.SUFFIXES, folders=(), suffixes=())

    def _check_config(self) -> None:
        config = self.builder_config
        for field in ("val", "test"):
            if not 0 <= getattr(config, field) < 1:
                raise ReleaseError(f"--set={field}={getattr(config, field)}: a share of at least 0, below 1")
        if config.val + config.test >= 1:
            raise ReleaseError(
                f"--set=val={config.val} --set=test={config.test}: nothing is left to train on"
            )
        if config.longest < 0:
            raise ReleaseError(f"--set=longest={config.longest}: a number of pixels, or 0")

    # ---------------------------------------------------------------------------- names and features
    def vocabulary(self, release: Release) -> Vocabulary:
        category, attribute = self.listing.category, self.listing.attribute
        names = None if attribute is None else sorted({name for row in attribute for name in row})
        return Vocabulary(
            None if category is None else sorted(set(category)),
            names,
            None if names is None else ["attribute"] * len(names),
        )

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        listing = self.listing
        features: dict[str, Any] = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image_id": tfds.features.Text(),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        if listing.category is not None:
            features["category"] = tfds.features.ClassLabel(names=vocabulary.category)
        features |= attribute_feature(vocabulary)
        if listing.landmark is not None:
            slots = len(listing.landmark_names)
            features["landmark"] = tfds.features.Tensor(shape=(slots, 2), dtype=np.float32)
            features["visibility"] = tfds.features.Tensor(shape=(slots,), dtype=np.int32)
        if listing.item is not None:
            features["item_id"] = tfds.features.Text()
            features["role"] = tfds.features.Scalar(dtype=np.int32)
        if listing.view is not None:
            features["view"] = tfds.features.ClassLabel(names=list(table.VIEWS))
        return features

    def landmark_metadata(self) -> dict[str, list]:
        """Slots whose names differ in left and right alone are exchanged by a horizontal flip."""
        names = list(self.listing.landmark_names)
        flipped = [re.sub(r"left", "right", name) for name in names]
        pairs = [
            [left, names.index(other)]
            for left, (name, other) in enumerate(zip(names, flipped))
            if other != name and other in names
        ]
        return {"landmark_names": names, "landmark_flip": pairs}

    # ---------------------------------------------------------------------------- records
    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        listing, notes = self.listing, list(self.listing.notes)
        seen = self._inspect(dict(zip(listing.image, listing.place)))
        listing = self._without_damaged(listing, seen)
        listing, more = self._without_crossing_copies(listing, seen)
        notes += more
        split = self._split(listing, seen)
        notes += protocol.class_notes(listing, split)
        if listing.item is not None:
            role, more = protocol.roles(listing, split)
            notes += more
        self.inspected = seen
        size = np.asarray([seen[name][:2] for name in listing.image], np.int64).reshape(-1, 2)
        columns: dict[str, Any] = {"image_id": listing.image}
        whole = np.concatenate([np.zeros_like(size), size], 1).astype(np.float64)
        boxes = None
        if listing.box is None:
            columns["box"] = whole.astype(np.float32)
        else:
            given = np.where(np.isnan(listing.box), whole, listing.box)
            boxes = Boxes(_Placed(listing, np.arange(len(given))), given)
        if listing.category is not None:
            number = {name: i for i, name in enumerate(vocabulary.category)}
            columns["category"] = np.asarray([number[name] for name in listing.category], np.int64)
        if listing.attribute is not None:
            columns["attribute"] = _multi_hot(listing.attribute, vocabulary.attribute)
        if listing.landmark is not None:
            columns |= {"landmark": listing.landmark, "visibility": listing.visibility}
        if listing.item is not None:
            columns |= {"item_id": listing.item, "role": role}
        if listing.view is not None:
            columns["view"] = np.asarray([table.VIEWS.index(view) for view in listing.view], np.int64)
        self.places = dict(zip(listing.image, listing.place))
        rows = {name: rows for name, rows in rows_by_split(split, SPLITS).items() if len(rows)}
        return Records(listing.lines, listing.image, rows, columns, boxes, notes=tuple(notes))

    def _inspect(self, places: dict[str, Location]) -> dict[str, Inspected]:
        """Every photo, decoded once."""
        config = self.builder_config
        executor = pictures.start_workers(pictures.worker_count(len(places), config.processes))
        try:
            with progress_bar(len(places), "inspecting photos", config.progress) as bar:
                seen = {}
                for name, result in zip(
                    places, pictures.ordered_map(photos.inspect, places.values(), executor)
                ):
                    seen[name] = result
                    bar.update()
                return seen
        finally:
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def _without_damaged(self, listing: Listing, seen: dict[str, Inspected]) -> Listing:
        config = self.builder_config
        damaged = {name: found.damage for name, found in seen.items() if found.damage is not None}
        allowed = len(damaged) if config.skip_damaged else config.allow_damaged
        if len(damaged) > allowed:
            named = "; ".join(f"{name} ({why})" for name, why in list(damaged.items())[:LISTED])
            more = f"; and {len(damaged) - LISTED} more" if len(damaged) > LISTED else ""
            raise ReleaseError(
                f"{len(damaged)} damaged photos, {allowed} allowed (--allow_damaged={len(damaged)} leaves "
                f"them out): {named}{more}"
            )
        self.skipped += [{"id": name, "reason": why} for name, why in damaged.items()]
        kept = [i for i, name in enumerate(listing.image) if name not in damaged]
        if not kept:
            raise ReleaseError(f"{self.release.root}: every one of {len(seen)} photos is damaged")
        return listing.rows(kept)

    def _without_crossing_copies(
        self, listing: Listing, seen: dict[str, Inspected]
    ) -> tuple[Listing, list[str]]:
        """Photos whose pixels are those of a photo in another split leave the split that matters less."""
        copies: dict[bytes, list[int]] = {}
        for i, name in enumerate(listing.image):
            copies.setdefault(seen[name].digest, []).append(i)
        groups = [rows for rows in copies.values() if len({listing.image[i] for i in rows}) > 1]
        notes, dropped = [], set()
        if groups:
            count = sum(len({listing.image[i] for i in rows}) - 1 for rows in groups)
            notes.append(f"copies of other photos (the same pixels): {count}; copies stay in one split")
        for rows in groups if listing.split is not None else ():
            best = min(rows, key=lambda i: KEEP_FIRST.index(listing.split[i]))
            for i in rows:
                if listing.split[i] != listing.split[best]:
                    dropped.add(i)
                    reason = f"the same pixels as {listing.image[best]} of split {listing.split[best]}"
                    self.skipped.append({"id": listing.image[i], "reason": reason})
        if dropped:
            notes.append(f"left out as copies of photos in another split: {len(dropped)}")
        notes += protocol.disagreeing(listing, groups)
        return listing.rows([i for i in range(len(listing.image)) if i not in dropped]), notes

    def _split(self, listing: Listing, seen: dict[str, Inspected]) -> list[str]:
        """The split of each photo: as given, and what is not given made of the training photos."""
        config, given = self.builder_config, listing.split or ["train"] * len(listing.image)
        shares = {name: getattr(config, name) for name in ("test", "val") if name not in given}
        training = [i for i, split in enumerate(given) if split == "train"]
        if not training:
            raise ReleaseError(f"{self.release.root}: no photo of split train is left")
        if not any(shares.values()):
            return list(given)
        part = listing.rows(training)
        digests = [seen[name].digest for name in part.image]
        group = holdout.groups(digests, part.item) if part.item is not None else holdout.groups(digests)
        stratum = part.category or [""] * len(training)
        made = holdout.hold_out(group, part.item or part.image, stratum, shares, config.seed)
        missing = [name for name, share in shares.items() if share and name not in made]
        if missing:
            what = "items" if part.item is not None else "photos"
            raise ReleaseError(
                f"{self.release.root}: {group.max() + 1} {what} are too few to hold out a split "
                f"{missing[0]}; add {what}, or build without it (--set={missing[0]}=0)"
            )
        result = list(given)
        for i, name in zip(training, made):
            result[i] = name
        return result

    # ---------------------------------------------------------------------------- images
    def locate(self, records: Records) -> dict[str, Location]:
        return self.places

    def measured(
        self, located: dict[str, Location], executor: ProcessPoolExecutor | None
    ) -> dict[str, pictures.Probe]:
        return {name: pictures.Probe(*self.inspected[name][:2]) for name in located}

    @property
    def load(self) -> Callable[[Location], pictures.Picture]:
        return functools.partial(photos.load, longest=self.builder_config.longest)

    def _fit(
        self, records: Records, located: dict[str, Location], probes: dict[str, pictures.Probe]
    ) -> tuple[Records, dict[str, str]]:
        """Boxes are checked in the photo as it came and written in the pixels that are stored."""
        records, damaged = super()._fit(records, located, probes)
        size = np.asarray([probes[name][:2] for name in records.image], np.float64)
        longest = self.builder_config.longest
        stored = np.asarray([photos.stored_size(probes[name][:2], longest) for name in records.image])
        box = (records.columns["box"] * np.tile(stored / size, 2)).astype(np.float32)
        return records._replace(columns=records.columns | {"box": box}), damaged


class _Placed:
    """A listing's places, as the check of boxes asks for them: `line` [n] orders the records."""

    def __init__(self, listing: Listing, line: np.ndarray):
        self.listing, self.line = listing, line

    def error(self, i: int, message: str) -> ReleaseError:
        return self.listing.lines.error(i, message)


def _multi_hot(rows: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(names)}
    found = np.zeros((len(rows), len(names)), np.uint8)
    for i, row in enumerate(rows):
        found[i, [number[name] for name in row]] = 1
    return found
