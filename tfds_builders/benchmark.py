"""What the builders of released benchmarks share: config fields, the record features, and writing with the
image test.

A builder reads its tables into `Records` (everything validated), then `BenchmarkBuilder` looks at every
image's header, checks the boxes against the sizes, and only then writes: in list order, shard by shard,
decoding each image once, in several processes where there are many.
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
from tfds_builders.local_info import LocalInfo
from tfds_builders.release import (
    SYNTHETIC,
    Location,
    Release,
    ReleaseError,
    check_readable,
    find_text,
    is_companion,
    nested_archives,
    open_release,
    picture_location,
)

SHARD_BYTES = 64 << 20  # of images; one shard's records are held in memory while it is written
PICTURES = ("auto", "img", "img_highres")
SMALL = 0.75  # boxes that all end within this part of their images were made on images of another size
ENOUGH = 8  # boxes to tell that by


@dataclasses.dataclass
class BenchmarkConfig(tfds.core.BuilderConfig):
    """One reading of a benchmark. The fields below `clip_boxes` say how to build, not what."""

    clip_boxes: bool = False  # move box edges that lie outside the image onto its edge instead of refusing
    manual_dir: str = ""
    skip_damaged: bool = False
    allow_damaged: int = 0  # damaged images that are left out before one is an error
    processes: int | None = None  # None: one per core for large benchmarks
    progress: bool = False


@dataclasses.dataclass
class PicturesConfig(BenchmarkConfig):
    """pictures: "img" (the small images, which boxes and landmarks refer to), "img_highres", or "auto": img
    where it is there.
    """

    pictures: str = "auto"


class Frame(NamedTuple):
    """The small version of a larger image that its annotations refer to.

    padded: a square of `side` pixels into which the image was fitted centrally; else the image with its long
    side reduced to `side`. Images no larger than `side` are annotated as they are.
    """

    side: int
    padded: bool


class Vocabulary(NamedTuple):
    """Names that the release itself lists."""

    category: list[str] | None = None
    attribute: list[str] | None = None
    attribute_group: list[str] | None = None


class Records(NamedTuple):
    """A benchmark's annotations, validated, with the row of every record in `columns` arrays of equal first
    axis.

    `columns` holds final feature values except `landmark`, which is in pixels here and divided by the
    image's size when it is written. `box` is checked against that size.
    """

    lines: Lines  # where each image is named
    image: list[str]  # as the list spells them; several records may share an image
    split: dict[str, np.ndarray]  # split name → rows, in order
    columns: dict[str, Any]
    boxes: Boxes | None = None
    frame: Frame | None = None  # what boxes and landmarks of a larger image refer to
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

    probe = staticmethod(pictures.probe)  # size of an image
    load = staticmethod(pictures.load_rgb)  # its bytes as they are stored

    def locate(self, records: Records) -> dict[str, Location]:
        """Where every image lies."""
        return locate(self.release, records)

    def measured(
        self, located: dict[str, Location], executor: ProcessPoolExecutor | None
    ) -> dict[str, pictures.Probe]:
        """The size of every image."""
        return measure(self.probe, located, executor, self.builder_config.progress)

    def vocabulary(self, release: Release) -> Vocabulary:
        """Read the name lists."""
        return Vocabulary()

    @abc.abstractmethod
    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The record's features."""

    def landmark_metadata(self) -> dict[str, list]:
        """Names and left/right pairs of the landmark slots."""
        return annotations.landmark_metadata()

    def metadata(self) -> dict[str, Any]:
        """What else the dataset's metadata say; called when the vocabulary is read."""
        return {}

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
        metadata |= self.metadata()
        return LocalInfo(
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
        probes = self.measured(located, executor)
        records, damaged = self._fit(records, located, probes)
        self.notes = list(records.notes)
        if find_text(self.release, SYNTHETIC, ()) is not None:
            self.info.metadata["synthetic"] = True
            self.notes.append(f"{SYNTHETIC}: rendered images in the benchmark's layout, not the benchmark")
        bar = self._stack.enter_context(progress_bar(total, "writing", config.progress))
        write = functools.partial(self._write, records, located, probes, damaged, executor, bar)
        shards = {}
        for split, rows in records.split.items():
            good = [row for row in rows if records.image[row] not in damaged]
            if not good:
                raise ReleaseError(f"every image of split {split} is damaged ({records.image[rows[0]]}, …)")
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
            raise ReleaseError(f"every image of split {empty[0]} is damaged")

    def _fit(
        self, records: Records, located: dict[str, Location], probes: dict[str, pictures.Probe]
    ) -> tuple[Records, dict[str, str]]:
        """Boxes and landmarks in pixels of the stored image, boxes checked; and the images without a
        size.
        """
        damaged = {name: probe.damage for name, probe in probes.items() if probe.damage is not None}
        for name, reason in damaged.items():
            self._damaged(located[name], name, reason)
        size = np.array([probes[name][:2] for name in records.image], np.int64).reshape(-1, 2)
        return fit_to_pictures(records, size, clip=self.builder_config.clip_boxes), damaged

    def _damaged(self, location: Location, name: str, reason: str) -> None:
        config = self.builder_config
        if not config.skip_damaged and len(self.skipped) >= config.allow_damaged:
            beyond = f", beyond the {config.allow_damaged} allowed" if config.allow_damaged else ""
            raise ReleaseError(
                f"{location.label}: damaged image ({reason}){beyond}; replace it, or build with "
                "--skip_damaged"
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
    """Where every image of the lists lies; ReleaseError names the list's line of the first one that is
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
    """That an image is missing, or that all images are."""
    folder = name.split("/")[0]
    if not release.picture_bases and not release.archived:
        what = f"no folder or zip archive of images below {release.root}; Img/{folder}/… is missing"
        return f"image {name}: {what}{nested_archives(release)}"
    return f"image {name} is missing from {release.root} (Img/{name}){nested_archives(release)}"


def measure(
    probe: Callable[[Location], pictures.Probe],
    located: dict[str, Location],
    executor: ProcessPoolExecutor | None,
    progress: bool,
) -> dict[str, pictures.Probe]:
    """The size of every image, from its header."""
    sizes = pictures.ordered_map(probe, located.values(), executor)
    with progress_bar(len(located), "reading image sizes", progress) as bar:
        probes = {}
        for name, probe in zip(located, sizes):
            probes[name] = probe
            bar.update()
    return probes


def progress_bar(total: int, what: str, shown: bool) -> tqdm:
    """Rate and time left on stderr; in a log file, a line now and then."""
    interval = 0.2 if sys.stderr.isatty() else 30
    return tqdm(total=total, unit=" images", desc=what, disable=not shown, mininterval=interval)


def fit_to_pictures(records: Records, size: np.ndarray, *, clip: bool) -> Records:
    """Bring boxes [n 4] and landmarks into the pixels of the stored images of `size` [n 2] (width, height),
    and judge the boxes there.

    A box may end at the image's width or height. One that leaves the image, or the padding around it in its
    frame, is an error unless `clip`; then it is clipped, and an error if nothing is left of it. Visible
    landmarks outside are counted in a note. Images of unknown size (0, 0) are not checked.
    """
    columns, known, notes = dict(records.columns), size[:, 0] > 0, records.notes
    scale, margin, slack = _frame_of(records, size)
    if records.boxes is not None:
        box = records.boxes.box * scale[:, None] - np.tile(margin, 2)
        outside = known & ((box < -np.tile(slack, 2)) | (box > np.tile(size + slack, 2))).any(1)
        if outside.any() and not clip:
            raise _leaving(records, size, outside, known)
        columns["box"] = np.clip(box, 0, np.tile(size, 2)).astype(np.float32)
        empty = known & (columns["box"][:, :2] >= columns["box"][:, 2:]).any(1)
        if empty.any():
            i = _first(records.boxes, empty)
            raise records.boxes.lines.error(
                i, f"box {_corners(records, i)} lies outside its image {records.image[i]}"
            )
        notes += _size_notes(columns["box"][known], size[known])
    if "landmark" in columns:
        points = columns["landmark"]
        used = (columns["visibility"] < 2)[..., None] | (points != 0).any(-1, keepdims=True)
        moved = np.where(used, points * scale[:, None, None] - margin[:, None], points)
        columns["landmark"] = moved.astype(np.float32)
        beyond = ((moved < -slack[:, None]) | (moved > (size + slack)[:, None])).any(-1)
        beyond &= known[:, None] & (columns["visibility"] == VISIBLE)
        if beyond.any():
            first = records.image[int(np.flatnonzero(beyond.any(1))[0])]
            notes += (f"{int(beyond.sum())} visible landmarks lie outside their images ({first}, …)",)
    return records._replace(columns=columns, notes=notes)


def _frame_of(records: Records, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What takes annotations to pixels of the image, `annotation * scale [n] - margin [n 2]`, and how far
    [n 2] behind the image's edges its frame ends.
    """
    longest = size.max(1, initial=0)
    side = records.frame.side if records.frame else 0
    large = (longest > side) & bool(side)
    scale = np.where(large, longest / max(side, 1), 1.0)
    if records.frame and records.frame.padded:
        margin = np.where(large[:, None], (longest[:, None] - size) / 2, 0.0)
        return scale, margin, margin
    rounding = np.where(large, scale, 0.0)[:, None]  # the reduced image's short side is a whole number
    return scale, np.zeros(size.shape), np.tile(rounding, 2)


def _first(boxes: Boxes, wrong: np.ndarray) -> int:
    """The record whose box stands first in its file."""
    rows = np.flatnonzero(wrong)
    return int(rows[np.argmin(boxes.lines.line[rows])])


def _corners(records: Records, i: int) -> str:
    """A box as its file has it."""
    return " ".join(str(int(value)) for value in records.boxes.box[i])


def _leaving(records: Records, size: np.ndarray, outside: np.ndarray, known: np.ndarray) -> ReleaseError:
    i = _first(records.boxes, outside)
    where = f"{size[i, 0]} x {size[i, 1]} pixels"
    if records.frame and size[i].max() > records.frame.side:
        where += f", as annotated on its {records.frame.side}-pixel version"
    many = int(outside.sum())
    other = ""
    if many >= ENOUGH and many > known.sum() // 4:
        other = f"; so do {many} of {known.sum()}: the boxes may refer to images of another size"
    return records.boxes.lines.error(
        i,
        f"box {_corners(records, i)} leaves its image {records.image[i]} of {where} "
        f"(--set=clip_boxes=true clips){other}",
    )


def _size_notes(box: np.ndarray, size: np.ndarray) -> tuple[str, ...]:
    """A note where the boxes were made on smaller images than those there are."""
    if len(box) < ENOUGH:
        return ()
    reach = float((box[:, 2:] / size).max())
    if reach >= SMALL:
        return ()
    return (
        f"all boxes end within {reach:.0%} of their images' width and height: they may refer to smaller "
        "images than these; look at some records (large images belong into img_highres where the benchmark "
        "has both sizes)",
    )


def picture_folder(release: Release, choice: str) -> str:
    """Which of the release's image folders is read, for a `PicturesConfig`."""
    if choice not in PICTURES:
        raise ReleaseError(f"pictures={choice}: must be one of {', '.join(PICTURES)}")
    if choice != "auto":
        return choice
    return "img" if _has(release, "img") or not _has(release, "img_highres") else "img_highres"


def _has(release: Release, folder: str) -> bool:
    """Whether there are images in `folder`, and not only the folder that holds the folders of images."""
    for base in release.picture_bases:
        path = os.path.join(base, folder)
        if os.path.isdir(path):
            names = {entry.name for entry in os.scandir(path) if not is_companion(entry.name)}
            if not names <= {*PICTURES}:
                return True
    return any(name.startswith(f"{folder}/") for name in release.archived)


def _total_bytes(located: dict[str, Location], records: Records, rows: np.ndarray) -> int:
    """Bytes of a split's images, estimated from at most 1000 of them."""
    sample = rows[:: max(1, len(rows) // 1000)]
    places = [located[records.image[row]] for row in sample]
    sizes = [place.size if place.offset >= 0 else os.path.getsize(place.path) for place in places]
    return int(np.mean(sizes) * len(rows))


def rows_by_split(split: list[str], order: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Split name → rows, in the benchmark's order."""
    names = np.asarray(split)
    return {name: np.flatnonzero(names == name) for name in order}
