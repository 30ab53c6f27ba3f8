"""Any folder of images with COCO instances json files: people's own masks.

A split per json. Which is which is set by the config's fields `train`, `val` and `test`, or by the
files' names.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from tfds_builders import coco, pictures
from tfds_builders.benchmark import BenchmarkConfig, Records, Vocabulary
from tfds_builders.coco_instances import files
from tfds_builders.instances import InstanceBuilder, instance_features, read_json
from tfds_builders.own_photos import holdout
from tfds_builders.release import (
    Location,
    Release,
    ReleaseError,
    TextFile,
    check_readable,
    open_release,
    read_picture,
)

SPLITS = ("train", "val", "test")


@dataclasses.dataclass
class CocoConfig(BenchmarkConfig):
    """train, val, test: the json of each split, as a path below manual_dir; where none is given, every COCO
    instances json there, by the split's name in its path, or a single json as train. images: the folder that
    file_name is relative to; "": found by the end of the path. exif: apply EXIF orientation. val_share,
    test_share: shares of the training images that make a split which no json gives, by `seed`; 0: none.
    """

    train: str = ""
    val: str = ""
    test: str = ""
    images: str = ""
    exif: bool = True
    val_share: float = 0.0
    test_share: float = 0.0
    seed: int = 0


class Builder(InstanceBuilder):
    """Images with instances, as COCO's annotation files describe them."""

    DESCRIPTION = "Images with boxes and instance masks from COCO instances json files."
    HOMEPAGE = "https://cocodataset.org/#format-data"
    BUILDER_CONFIGS: ClassVar = [CocoConfig(name="original", description="The annotations as they are.")]
    HINT = " (--set=exif=false if the annotations refer to the stored pixels)"
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Put images and annotations, unpacked or in zip archives, into manual_dir:
  annotations/*train*.json    instances: images, annotations, categories
  annotations/*val*.json      optional: the split val
  annotations/*test*.json     optional: the split test
  images/…                    the images, in any folders
Files with other names are given with --set=train=FILE --set=val=FILE --set=test=FILE, and the folder that
file_name is relative to with --set=images=FOLDER"""

    @property
    def probe(self) -> Callable[[Location], pictures.Probe]:
        return pictures.probe_upright if self.builder_config.exif else pictures.probe

    @property
    def load(self) -> Callable[[Location], pictures.Picture]:
        return pictures.load_upright_rgb if self.builder_config.exif else pictures.load_rgb

    def open(self) -> Release:
        return open_release(self.builder_config.manual_dir, folders=())

    @functools.cached_property
    def parts(self) -> dict[str, coco.Coco]:
        """Split → its json, read and checked."""
        given = {split: getattr(self.builder_config, split) for split in SPLITS}
        if any(given.values()):
            chosen = {s: (_named(self.release, name, s), None) for s, name in given.items() if name}
        else:
            chosen = _found(self.release)
        return {split: coco.read_coco(text, content) for split, (text, content) in chosen.items()}

    def vocabulary(self, release: Release) -> Vocabulary:
        """Category names of the first split, by id; the others may number them otherwise."""
        first = next(iter(self.parts.values()))
        return Vocabulary(category=[category.name for category in first.categories])

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return instance_features(vocabulary.category)

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        joined = coco.join(self.parts, vocabulary.category, unique=False)
        self.objects = joined.objects
        first = next(iter(self.parts.values()))
        self.info.metadata["category_ids"] = [category.id for category in first.categories]
        # one file name may be in two splits' folders: records are named by split then
        names = joined.image
        if len(set(names)) < len(names):
            names = [f"{split}/{names[i]}" for split, rows in joined.split.items() for i in rows]
        columns = joined.columns | {"image_id": names}
        records = Records(joined.places, names, joined.split, columns, notes=joined.notes)
        self.places = self._find(records)
        return records._replace(split=self._held_out(records))

    def _held_out(self, records: Records) -> dict[str, np.ndarray]:
        """The splits, those that no json gives made of the training images by the config's shares: copies of
        one file stay together, images of rare categories are in every split."""
        config, given = self.builder_config, records.split
        shares = {"test": config.test_share, "val": config.val_share}
        for name, share in shares.items():
            if not 0 <= share < 1 or sum(shares.values()) >= 1:
                raise ReleaseError(f"--set={name}_share={share}: shares are of at least 0, together below 1")
        shares = {name: share for name, share in shares.items() if share and name not in given}
        if not shares or "train" not in given:
            return given
        rows = given["train"].tolist()
        names = [records.image[row] for row in rows]
        digests = [hashlib.blake2b(read_picture(self.places[name])).digest() for name in names]
        shown = [[entry["category"] for entry in records.columns["instance"][row]] for row in rows]
        count = collections.Counter(label for labels in shown for label in set(labels))
        stratum = [min(labels, key=lambda label: (count[label], label), default=-1) for labels in shown]
        group = holdout.groups(digests)
        made = np.asarray(holdout.hold_out(group, names, stratum, shares, config.seed))
        if not set(shares) <= set(made.tolist()):  # too few images of each category
            stratum = [bool(labels) for labels in shown]
            made = np.asarray(holdout.hold_out(group, names, stratum, shares, config.seed))
        for name in shares:
            if name not in made:
                raise ReleaseError(f"{len(rows)} images are too few to hold out a split {name}")
        parts = {name: given["train"][made == name] for name in ("train", *shares)} | {
            name: rows for name, rows in given.items() if name != "train"
        }
        return {name: parts[name] for name in SPLITS if name in parts}

    def locate(self, records: Records) -> dict[str, Location]:
        return self.places

    def _find(self, records: Records) -> dict[str, Location]:
        """Where every image lies; two splits must not share one."""
        index = files.index_images(self.release.root)
        located: dict[str, Location] = {}
        first: dict[tuple[str, int], str] = {}
        folder = self.builder_config.images.strip("/")
        for split, rows in records.split.items():
            part = self.parts[split]
            hints = (split, *PurePosixPath(part.text.label).parts[:-1])
            for row, name in zip(rows.tolist(), part.image, strict=True):
                found = files.resolve(index, name, folder, hints)
                if not found:
                    where = os.path.join(self.release.root, folder)
                    raise records.lines.error(row, f"image {name} is missing below {where}")
                if len(found) > 1:
                    raise records.lines.error(
                        row, f"image {name} may be {found[0][0]} or {found[1][0]}; give --set=images=FOLDER"
                    )
                place = found[0][1]
                check_readable(place)
                before = first.setdefault((place.path, place.offset), split)
                if before != split:
                    raise records.lines.error(row, f"image {place.label} is in split {before} too")
                located[records.image[row]] = place
        return located


def _named(release: Release, name: str, split: str) -> TextFile:
    wanted = name.removeprefix("./")
    for text in release.texts:
        if text.label == wanted or os.path.abspath(text.path) == os.path.abspath(name):
            return text
    raise ReleaseError(f"--set={split}={name}: no such file below {release.root}")


def _found(release: Release) -> dict[str, tuple[TextFile, Any]]:
    """Split → its json and what it holds, by the files' names."""
    instances = []
    for text in release.texts:
        if text.label.lower().endswith(".json"):
            content = read_json(text)
            if coco.is_instances(content):
                instances.append((text, content))
    if not instances:
        raise ReleaseError(
            f"{release.root}: no COCO instances json (with images, annotations, categories) lies below it"
        )
    if len(instances) == 1 and not _splits_in(instances[0][0].label):
        return {"train": instances[0]}
    chosen: dict[str, tuple[TextFile, Any]] = {}
    for text, content in instances:
        splits = _splits_in(text.label)
        if len(splits) != 1:
            raise ReleaseError(
                f"{text.label}: its name does not say which split it is; give --set=train=FILE "
                "--set=val=FILE --set=test=FILE"
            )
        if splits[0] in chosen:
            other = chosen[splits[0]][0].label
            raise ReleaseError(
                f"{text.label}: {other} is a json of {splits[0]} too; give --set={splits[0]}=FILE"
            )
        chosen[splits[0]] = (text, content)
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _splits_in(label: str) -> list[str]:
    """The splits that a file's name holds; where it holds none, those of its folders."""
    for part in reversed(PurePosixPath(label.lower()).parts):
        found = [split for split in SPLITS if split in part]
        if found:
            return found
    return []
