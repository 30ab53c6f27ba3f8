"""What the builders of released benchmarks share: config fields, the record features, and writing with the
picture test.

A builder reads its tables into `Records` (everything validated), then `BenchmarkBuilder` looks at every
picture's header, checks the boxes against the sizes, and only then writes: in list order, shard by shard,
decoding each picture once, in several processes where there are many.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders import annotations, pictures
from tfds_builders.annotations import GARMENT_TYPES, SLOTS, VISIBLE, Boxes, Lines
from tfds_builders.release import (
    SYNTHETIC,
    Location,
    Release,
    ReleaseError,
    check_readable,
    find_text,
    nested_archives,
    open_release,
    picture_location,
)

SHARD_BYTES = 64 << 20  # of pictures; one shard's records are held in memory while it is written
ANNOTATION_FRAME = 256  # side of the square pictures that annotations of high-resolution releases refer to


@dataclasses.dataclass
class BenchmarkConfig(tfds.core.BuilderConfig):
    """One reading of a benchmark. The fields below `clip_boxes` say how to build, not what."""

    clip_boxes: bool = False  # move box edges that lie outside the picture onto its edge instead of refusing
    manual_dir: str = ""
    skip_damaged: bool = False
    processes: int | None = None  # None: one per core for large benchmarks
    progress: bool = False


class Vocabulary(NamedTuple):
    """Names that the release itself lists."""

    category: list[str] | None = None
    attribute: list[str] | None = None
    attribute_group: list[str] | None = None


class Records(NamedTuple):
    """A benchmark's annotations, validated, with the row of every record in `columns` arrays of equal first
    axis.

    `columns` holds final feature values except `landmark`, which is in pixels here and divided by the
    picture's size when it is written. `box` is checked against that size.
    """

    lines: Lines  # where each picture is named
    image: list[str]  # as the list spells them; several records may share a picture
    split: dict[str, np.ndarray]  # split name → rows, in order
    columns: dict[str, Any]
    boxes: Boxes | None = None
    framed: bool = False  # boxes and landmarks refer to the 256-pixel square version of a larger picture
    picture_folder: str = "img"  # what stands for the list's leading 'img'
    notes: tuple[str, ...] = ()  # worth telling the user: merged duplicates and the like
    item_names: list[str] | None = None  # the release's item list, whose rows number the items


# ------------------------------------------------------------------------------ features
def image_features() -> dict[str, Any]:
    """The features every benchmark has."""
    return {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image_id": tfds.features.Text(),
        "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "landmark": tfds.features.Tensor(shape=(SLOTS, 2), dtype=np.float32),
        "visibility": tfds.features.Tensor(shape=(SLOTS,), dtype=np.int32),
    }


def garment_type_feature() -> dict[str, Any]:
    return {"garment_type": tfds.features.ClassLabel(names=list(GARMENT_TYPES))}


def attribute_feature(vocabulary: Vocabulary) -> dict[str, Any]:
    """The 0/1 vector, if the release has attributes."""
    if vocabulary.attribute is None:
        return {}
    return {"attribute": tfds.features.Tensor(shape=(len(vocabulary.attribute),), dtype=np.uint8)}


# ------------------------------------------------------------------------------ builder
class BenchmarkBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A builder of a released benchmark: subclasses say how its names and tables are read."""

    VERSION = tfds.core.Version("1.0.0")
    HOMEPAGE = "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html"
    DESCRIPTION = ""
    PUBLISHED: ClassVar[dict[str, dict[str, int]]] = {}  # config → split → size in the literature

    probe = staticmethod(pictures.probe)  # size of a picture
    load = staticmethod(pictures.load_rgb)  # its bytes as they are stored

    def locate(self, records: Records) -> dict[str, Location]:
        """Where every picture lies."""
        return locate(self.release, records)

    def vocabulary(self, release: Release) -> Vocabulary:
        """Read the name lists."""
        return Vocabulary()

    @abc.abstractmethod
    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The record's features."""

    def landmark_metadata(self) -> dict[str, list]:
        """Names and left/right pairs of the landmark slots."""
        return annotations.landmark_metadata()

    @abc.abstractmethod
    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        """Read and validate every table."""

    @functools.cached_property
    def release(self) -> Release:
        if not self.builder_config.manual_dir:
            raise ReleaseError(
                "the builder config needs manual_dir, the folder with the benchmark's files. "
                + self.MANUAL_DOWNLOAD_INSTRUCTIONS
            )
        return self.open()

    def open(self) -> Release:
        """The files below manual_dir."""
        return open_release(self.builder_config.manual_dir)

    @functools.cached_property
    def names(self) -> Vocabulary:
        return self.vocabulary(self.release)

    def _info(self) -> tfds.core.DatasetInfo:
        features = self.features(self.names)
        metadata: dict[str, Any] = self.landmark_metadata() if "landmark" in features else {}
        if self.names.attribute is not None:
            metadata |= {
                "attribute_names": self.names.attribute,
                "attribute_groups": self.names.attribute_group,
            }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.DESCRIPTION} {self.builder_config.description}",
            features=tfds.features.FeaturesDict(features),
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(**metadata),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        config = self.builder_config
        self.skipped: list[dict[str, str]] = []
        records = self.records(self.release, self.names)
        if records.item_names is not None:
            self.info.metadata["item_names"] = records.item_names
        located = self.locate(records)
        total = sum(len(rows) for rows in records.split.values())
        processes = pictures.worker_count(len(set(records.image)), config.processes)
        executor = pictures.start_workers(processes)
        if executor is not None:
            self._stack.callback(executor.shutdown, cancel_futures=True)
        probes = measure(self.probe, located, executor, config.progress)
        records, damaged = self._fit(records, located, probes)
        self.notes = list(records.notes)
        if find_text(self.release, SYNTHETIC, ()) is not None:
            self.info.metadata["synthetic"] = True
            self.notes.append(f"{SYNTHETIC}: drawn pictures in the benchmark's layout, not the benchmark")
        bar = self._stack.enter_context(progress_bar(total, "writing", config.progress))
        write = functools.partial(self._write, records, located, probes, damaged, executor, bar)
        shards = {}
        for split, rows in records.split.items():
            good = [row for row in rows if records.image[row] not in damaged]
            if not good:
                raise ReleaseError(f"every picture of split {split} is damaged ({records.image[rows[0]]}, …)")
            number = max(1, min(len(rows), _total_bytes(located, records, rows) // SHARD_BYTES + 1))
            shards[split] = [
                functools.partial(write, part) for part in np.array_split(np.asarray(rows), number)
            ]
        return shards

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        self._stack = contextlib.ExitStack()
        try:
            super()._download_and_prepare(*args, **kwargs)
        finally:
            self._stack.close()
        empty = [name for name, split in self.info.splits.items() if not split.num_examples]
        if empty:
            raise ReleaseError(f"every picture of split {empty[0]} is damaged")

    def _fit(
        self, records: Records, located: dict[str, Location], probes: dict[str, pictures.Probe]
    ) -> tuple[Records, dict[str, str]]:
        """Boxes and landmarks in pixels of the stored picture, boxes checked; and the pictures without a
        size.
        """
        damaged = {name: probe.damage for name, probe in probes.items() if probe.damage is not None}
        for name, reason in damaged.items():
            self._damaged(located[name], name, reason)
        size = np.array([probes[name][:2] for name in records.image], np.int64).reshape(-1, 2)
        return fit_to_pictures(records, size, clip=self.builder_config.clip_boxes), damaged

    def _damaged(self, location: Location, name: str, reason: str) -> None:
        if not self.builder_config.skip_damaged:
            raise ReleaseError(
                f"{location.label}: damaged picture ({reason}); replace it, or build with --skip_damaged"
            )
        self.skipped.append({"id": name, "reason": reason})

    def _write(
        self,
        records: Records,
        located: dict[str, Location],
        probes: dict[str, pictures.Probe],
        damaged: dict[str, str],
        executor: ProcessPoolExecutor | None,
        bar: tqdm,
        rows: np.ndarray,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = [int(row) for row in rows if records.image[row] not in damaged]
        places = (located[records.image[row]] for row in rows)
        for row, picture in zip(rows, pictures.ordered_map(self.load, places, executor)):
            name = records.image[row]
            bar.update()
            if picture.damage is not None:
                if name not in damaged:
                    self._damaged(located[name], name, picture.damage)
                    damaged[name] = picture.damage
                continue
            record = {key: column[row] for key, column in records.columns.items()}
            if "landmark" in record:
                record["landmark"] = record["landmark"] / np.float32(probes[name][:2])
            record.setdefault("image_id", name)
            yield row, {"image": picture.data, **record}


def locate(release: Release, records: Records) -> dict[str, Location]:
    """Where every picture of the lists lies; ReleaseError names the list's line of the first one that is
    missing.
    """
    located: dict[str, Location] = {}
    for i, name in enumerate(records.image):
        if name in located:
            continue
        actual = name
        if records.picture_folder != "img" and name.startswith("img/"):
            actual = f"{records.picture_folder}/{name[4:]}"
        location = picture_location(release, actual)
        if location is None:
            raise records.lines.error(i, _missing(release, actual))
        check_readable(location)
        located[name] = location
    return located


def _missing(release: Release, name: str) -> str:
    """That a picture is missing, or that all pictures are."""
    folder = name.split("/")[0]
    if not release.picture_bases and not release.archived:
        what = f"no folder or zip archive of pictures below {release.root}; Img/{folder}/… is missing"
        return f"picture {name}: {what}{nested_archives(release)}"
    return f"picture {name} is missing from {release.root} (Img/{name}){nested_archives(release)}"


def measure(
    probe: Callable[[Location], pictures.Probe],
    located: dict[str, Location],
    executor: ProcessPoolExecutor | None,
    progress: bool,
) -> dict[str, pictures.Probe]:
    """The size of every picture, from its header."""
    sizes = pictures.ordered_map(probe, located.values(), executor)
    with progress_bar(len(located), "reading picture sizes", progress) as bar:
        probes = {}
        for name, probe in zip(located, sizes):
            probes[name] = probe
            bar.update()
    return probes


def progress_bar(total: int, what: str, shown: bool) -> tqdm:
    """Rate and time left on stderr; in a log file, a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=total, unit=" pictures", desc=what, disable=not shown, mininterval=interval)


def fit_to_pictures(records: Records, size: np.ndarray, *, clip: bool) -> Records:
    """Check boxes [n 4] against the picture sizes [n 2] (width, height), and bring annotations into its
    pixels.

    The far edge may equal the picture's width or height. Visible landmarks beyond it are counted in a note.
    For `framed` records of pictures larger than 256
    pixels the annotations refer to the picture fitted centrally into a 256-pixel square; they are checked
    there, then mapped. Pictures of unknown size (0, 0) are left out of the check.
    """
    columns = dict(records.columns)
    known = size[:, 0] > 0
    large = np.full(len(size), records.framed) & (size.max(1, initial=0) > ANNOTATION_FRAME)
    frame = np.where(large[:, None], ANNOTATION_FRAME, size)
    if records.boxes is not None:
        box = records.boxes.box.astype(np.float32)
        limit = np.concatenate([frame, frame], 1)
        outside = known & ((box < 0) | (box > limit)).any(1)
        if outside.any() and not clip:
            rows = np.flatnonzero(outside)
            i = int(rows[np.argmin(records.boxes.lines.line[rows])])
            corners = " ".join(str(int(v)) for v in box[i])
            raise records.boxes.lines.error(
                i,
                f"box {corners} leaves its picture {records.image[i]} of {frame[i, 0]} x {frame[i, 1]} pixels"
                " (--set=clip_boxes=true clips)",
            )
        columns["box"] = np.clip(box, 0, limit)
        empty = known & (columns["box"][:, :2] >= columns["box"][:, 2:]).any(1)
        if empty.any():
            i = int(np.flatnonzero(empty)[0])
            raise records.boxes.lines.error(i, f"box lies outside its picture {records.image[i]}")
    notes = records.notes
    if "landmark" in columns:
        points, seen = columns["landmark"], columns["visibility"] == VISIBLE
        beyond = known[:, None] & seen & ((points < 0) | (points > frame[:, None])).any(-1)
        if beyond.any():
            first = records.image[int(np.flatnonzero(beyond.any(1))[0])]
            notes += (f"{int(beyond.sum())} visible landmarks lie outside their pictures ({first}, …)",)
    if large.any():
        scale = np.where(large, size.max(1) / ANNOTATION_FRAME, 1).astype(np.float32)[:, None]
        margin = np.where(large[:, None], (size.max(1, keepdims=True) - size) / 2, 0).astype(np.float32)
        if "box" in columns:
            moved = columns["box"] * scale - np.tile(margin, 2)
            columns["box"] = np.where(large[:, None], np.clip(moved, 0, np.tile(size, 2)), columns["box"])
        if "landmark" in columns:
            points = columns["landmark"]
            used = (columns["visibility"] < 2)[..., None] | (points != 0).any(-1, keepdims=True)
            moved = points * scale[:, None] - margin[:, None]
            columns["landmark"] = np.where(large[:, None, None] & used, moved, points)
    if "box" in columns:
        columns["box"] = columns["box"].astype(np.float32)
    if "landmark" in columns:
        columns["landmark"] = columns["landmark"].astype(np.float32)
    return records._replace(columns=columns, notes=notes)


def _total_bytes(located: dict[str, Location], records: Records, rows: np.ndarray) -> int:
    """Bytes of a split's pictures, estimated from at most 1000 of them."""
    sample = rows[:: max(1, len(rows) // 1000)]
    places = [located[records.image[row]] for row in sample]
    sizes = [place.size if place.offset >= 0 else os.path.getsize(place.path) for place in places]
    return int(np.mean(sizes) * len(rows))


def rows_by_split(split: list[str], order: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Split name → rows, in the benchmark's order."""
    names = np.asarray(split)
    return {name: np.flatnonzero(names == name) for name in order}
