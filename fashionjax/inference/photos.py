"""Images of users (files, folders, patterns, PIL images, arrays) → what a model says of each: read in
parallel, batched, one trace."""

from __future__ import annotations

import functools
import glob
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from fashionjax import tasks
from fashionjax.data import photo
from fashionjax.data.preprocess import VISIBLE
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.runtime import checkpoint
from fashionjax.task import PhotoResults

# what a file is called that is read from a folder
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo",
            ".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".heic", ".heif", ".hif")  # fmt: skip
# image files that a folder may hold and nothing here reads: named, never skipped in silence
UNREAD_SUFFIXES = (".jxl", ".svg", ".psd", ".eps", ".ico", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".cr3",
                   ".nef", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw")  # fmt: skip
READERS = min(4, os.cpu_count() or 1)  # each may hold a 100-megapixel photo
# Quirks that `load` turns off. They repeat how the published numbers were measured, and under them an
# answer depends on chance (S1), on the other images of the batch (S3, F1) or on whether an image comes from a
# released list (S6): the same garment would embed differently as a photo and in a gallery.
OFF = (
    "s1_random_crop_at_test",
    "s3_roi_scramble_group",
    "s6_landmark_list_shifted",
    "r4_flipped_at_evaluation",
    "f1_rois_of_first_image",
)
UNUSED = 3  # a landmark that the detector does not see: as the slots that a garment has no landmark for

Pixels = str | os.PathLike | Image.Image | np.ndarray  # a file, or an image in memory


class Source(NamedTuple):
    """An image to read, and what it is called in results and errors."""

    name: str
    image: Pixels


class Predictor(NamedTuple):
    """A restored model, ready for images of any size."""

    preprocess: Callable[[dict, None], dict]  # {"image": uint8 [h w 3]} → example with image and frame
    run: Callable[[dict], dict]  # batch of `batch_size` numpy examples → {name: numpy [b …]}
    names: Mapping[str, Sequence[str]]  # "category", "attribute", "landmark"
    batch_size: int
    detector: Predictor | None = None  # finds the landmarks that are given to the model
    collate: Callable[[Sequence[dict]], dict] | None = None  # as of the task; None: examples are stacked
    config: ConfigDict | None = None
    results: PhotoResults | None = None  # of the task


def command_of(config: ConfigDict) -> str:
    """The command that serves a config's model: predict, search, …"""
    return tasks.entry(config.task).command


def attribute_record(config: ConfigDict, attribute: str = "", *, every: bool = False) -> dict:
    """What a record has beside its image for a model that looks at it for one attribute: its number, or with
    `every` the numbers of all; {} for any other model.

    A UserError that lists the attributes where such a model is not told which, and for an unknown name.
    """
    if not tasks.entry(config.task).per_attribute:
        if attribute:
            raise UserError(f"--attribute={attribute}: this checkpoint's model takes no attribute")
        return {}
    names = list(config.labels.attribute)
    if every:
        return {"attribute": np.arange(len(names), dtype=np.int32)}
    found = [number for number, name in enumerate(names) if spelled(name) == spelled(attribute)]
    if len(found) != 1:
        known = ", ".join(repr(name) for name in names)
        said = f"--attribute={attribute!r} is unknown" if attribute else "no attribute given"
        raise UserError(
            f"{said}: this model compares images by one attribute at a time; choose --attribute from {known}"
        )
    return {"attribute": np.asarray(found[0], np.int32)}


def spelled(name: str) -> str:
    """A name of an attribute as it is compared: "Sleeve length" is "sleeve_length"."""
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


class Photo(NamedTuple):
    """What is kept of an image once it is read: not its pixels, which may be 300 MB."""

    path: str  # or the name of an image in memory
    size: tuple[int, int]  # width, height as displayed
    example: dict  # what the model gets
    shown: np.ndarray | None  # uint8 [h w 3], at the size it is to be shown


def load(
    path: str | os.PathLike, command: str | None = None, which: str = "best", part: str | None = None
) -> inference.Model:
    """The model of a checkpoint for photos and galleries of users: the quirks `OFF` are off, so that a
    photo is stretched to the input size once and always answered alike. `which`: best, last or a step;
    `part`: the part of the model that is run, for a task that has parts.

    A UserError where its task is not one of `command`, naming the command that fits.
    """
    model = inference.load(path, which, {"part": part or ""}, quirks_off=OFF)
    entry = tasks.entry(model.config.task)
    if part and part not in entry.parts:
        raise UserError(f"--part={part}: models of the task {model.config.task} have no parts; leave it out")
    fits = entry.command
    if command not in (None, fits, *entry.also_serves):
        raise UserError(
            f"{path}: is a checkpoint of the task {model.config.task}, which {command} does not serve; use "
            f"`fashionjax {fits}`"
        )
    return model


def takes_landmarks(config: ConfigDict) -> bool:
    """Whether the model pools at landmarks that are given beside the picture."""
    spec = config.model
    return spec.get("pooling") == "roi" and spec.get("landmark_source") == "given"


def load_detector(path: str | os.PathLike | None, model: inference.Model) -> inference.Model | None:
    """The detector of --landmarks, for a `model` that pools at given landmarks; None for any other model.

    A UserError where one is lacking or useless, and where it finds other landmarks than the model takes.
    """
    if not takes_landmarks(model.config):
        if path:
            raise UserError(f"--landmarks={path}: this checkpoint's model takes no landmarks; leave it out")
        return None
    if not path:
        raise UserError(
            "this checkpoint's model pools at given landmarks, and a photo has none: name a checkpoint that "
            "detects them, --landmarks=DIR (experiments/landmarks.py), or use a model trained with "
            "landmark_source=predicted"
        )
    found = load(path)
    detects = found.config.task == "landmarks" or "landmark" in found.config.model.get("labels_predicted", ())
    if not detects or takes_landmarks(found.config):
        raise UserError(
            f"--landmarks={path}: a checkpoint of the task {found.config.task}, which detects no landmarks "
            "on a bare photo; name one of experiments/landmarks.py"
        )
    _check_landmarks(path, found, model)
    return found


def predictor(
    model: inference.Model,
    batch_size: int = 16,
    detector: inference.Model | None = None,
    record: Mapping | None = None,
) -> Predictor:
    """One trace serves every picture: batches are padded, to a whole number of pictures a device.

    With a `detector` its landmarks are given to the model, and stand among the outputs. `record` holds what
    every record has beside its image (`attribute_record`).
    """
    whole = -(-batch_size // model.mesh.size) * model.mesh.size
    names = {label: list(names) for label, names in model.config.get("labels", {}).items() if names}
    finder = None if detector is None else predictor(detector, batch_size)
    if finder is not None and "landmark" in finder.names:
        names.setdefault("landmark", finder.names["landmark"])
    run = functools.partial(inference.run, model)
    entry = tasks.entry(model.config.task)
    task = model.task

    def preprocess(fields: dict, rng: None) -> dict:
        return task.preprocess(fields | (record or {}), rng)

    return Predictor(preprocess, run, names, whole, finder, task.collate, model.config, entry.photo_results)


def outputs(
    images: Sequence[Pixels | Source], model: Predictor, sides: tuple[int, int] | None = None
) -> Iterator[tuple[Photo, dict] | tuple[UserError, None]]:
    """For each image, in order, the photo with its outputs (arrays without the batch axis), or what is wrong
    with it. `sides` are the least and the largest longer side of `Photo.shown`; None: not shown.

    A photo whose landmarks are to be detected is read twice: its pixels may be too many to be kept between.
    """
    sources = named(images)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(sources), model.batch_size):
            chunk = sources[start : start + model.batch_size]
            given = [({}, {})] * len(chunk)
            if model.detector is not None:
                given = [_detected(*found) for found in outputs(chunk, model.detector)]
            read = functools.partial(_read, preprocess=model.preprocess, sides=sides)
            loaded = list(pool.map(read, chunk, given))
            found = _outputs([item for item in loaded if isinstance(item, Photo)], model)
            for item, marks in zip(loaded, given, strict=True):
                yield (item, marks[1] | next(found)) if isinstance(item, Photo) else (item, None)


def embeddings(
    images: Sequence[Pixels | Source], model: Predictor, sides: tuple[int, int] | None = None
) -> Iterator[tuple[Photo, np.ndarray] | UserError]:
    """For each image, in order, the photo with its embedding f32 [d], or what is wrong with it."""
    for item, output in outputs(images, model, sides):
        found = item if output is None else embedding_of(item, output)
        yield found if isinstance(found, UserError) else (item, found)


def embedding_of(item: Photo, output: Mapping[str, np.ndarray]) -> np.ndarray | UserError:
    """The embedding f32 [d] among a photo's outputs; UserError (returned) where it is not finite."""
    if "embedding" not in output:
        raise UserError(f"this model has no embedding; its outputs are {', '.join(output)}")
    if not np.isfinite(output["embedding"]).all():
        return UserError(f"{item.path}: the model's embedding is not finite; use another checkpoint")
    return np.asarray(output["embedding"], np.float32)


# ------------------------------------------------------------------------------ which images
def named(images: Iterable[Pixels | Source]) -> list[Source]:
    """Each image with its name: a file's path, `image_3` for the fourth image where it is in memory."""
    found = []
    for index, image in enumerate(images):
        if not isinstance(image, Source):
            is_path = isinstance(image, (str, os.PathLike))
            image = Source(os.fspath(image) if is_path else f"image_{index}", image)
        found.append(image)
    return found


def collect(images: Pixels | Iterable[Pixels]) -> list[Source]:
    """One image or many → sources. Paths may name folders and glob patterns, as on the command line."""
    if isinstance(images, (str, os.PathLike, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim in (2, 3)
    ):
        images = [images]
    found: list[Pixels] = []
    for image in images:
        found += expand([os.fspath(image)]) if isinstance(image, (str, os.PathLike)) else [image]
    return named(found)


def expand(arguments: Sequence[str]) -> list[str]:
    """Files, folders (the images directly in them) and glob patterns → paths, in the order given.

    What matches nothing, a broken link and a folder without images stay as they are, so that they are
    reported like any unreadable file.
    """
    paths: list[str] = []
    for argument in arguments:
        if os.path.lexists(argument):
            paths += _in_folder(argument) if os.path.isdir(argument) else [argument]
        else:
            for match in _matches(argument) or [argument]:
                paths += _in_folder(match) if os.path.isdir(match) else [match]
    return paths


def _in_folder(folder: str) -> list[str]:
    try:
        entries = sorted(Path(folder).iterdir())
    except OSError:
        return [folder]
    note_unread(folder, entries)
    return [str(entry) for entry in entries if is_picture(entry)] or [folder]


def _matches(pattern: str) -> list[str]:
    """What a glob pattern matches, sorted. A file that `**` also reaches through links to folders above it
    comes once, by its shortest path."""
    shortest: dict[tuple[str, str], str] = {}
    for path in sorted(glob.glob(pattern, recursive=True), key=lambda path: (len(path), path)):
        folder, name = os.path.split(path)
        shortest.setdefault((os.path.realpath(folder), name), path)
    return sorted(shortest.values())


def is_picture(path: Path) -> bool:
    """Whether a folder's entry is taken for an image: called like one, broken links included, so that they
    are reported; hidden files are not (`._x.jpg` is macOS's companion of x.jpg)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def note_unread(folder: str, entries: Iterable[Path]) -> None:
    """A line on standard error for the image files of a folder whose format nothing here reads."""
    unread = [path for path in entries if path.suffix.lower() in UNREAD_SUFFIXES and path.name[0] != "."]
    if unread:
        kinds = ", ".join(sorted({path.suffix.lower() for path in unread}))
        print(
            f"warning: {folder}: files of unsupported formats skipped: {len(unread)} ({kinds}; first: "
            f"{unread[0].name}); supported: {photo.FORMAT_NAMES}",
            file=sys.stderr,
        )


# ------------------------------------------------------------------------------ files written
def write_new(data: bytes, folder: Path, stem: str, suffix: str) -> Path:
    """The data as FOLDER/STEM.SUFFIX, or STEM-2.SUFFIX …: the first name that is free."""
    for number in itertools.count(1):
        path = folder / (f"{stem}.{suffix}" if number == 1 else f"{stem}-{number}.{suffix}")
        try:
            with path.open("xb") as file:  # fails where the name is taken, also by a run beside this one
                file.write(data)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); give another --out") from error
    raise AssertionError("unreachable")


def out_folder(out: str | None, run: str, name: str) -> Path:
    """The folder of --out, by default NAME beside the checkpoints of `run`; made where it is missing."""
    checkpoints, _ = checkpoint.locate(run)
    beside = checkpoints.parent if checkpoints.name == checkpoint.FOLDER else checkpoints
    path = Path(out) if out else beside / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); give another --out") from error
    return path


def _check_landmarks(path, detector: inference.Model, model: inference.Model) -> None:
    """A UserError unless the landmarks that `detector` finds are those that `model` takes."""
    names = [each.config.get("labels", {}).get("landmark") for each in (detector, model)]
    image = {"image": np.zeros((8, 8, 3), np.uint8)}
    example = _batch_of_one(detector.task.preprocess(image, None))
    found = jax.eval_shape(detector.task.predict, detector.params, detector.model_state, example)
    count = found["landmark"].shape[1]
    marks = {"landmark": np.zeros((count, 2), np.float32), "visibility": np.zeros(count, np.int32)}
    example = _batch_of_one(model.task.preprocess(image | marks, None))
    wanted, _ = jax.eval_shape(model.task.init, jax.random.PRNGKey(0), example)
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (wanted, model.params)]
    if shapes[0] != shapes[1] or (all(names) and list(names[0]) != list(names[1])):
        raise UserError(
            f"--landmarks={path}: finds {count} landmarks, and this checkpoint's model takes others; name a "
            "detector that was trained on the landmarks of the model's dataset"
        )


def _batch_of_one(example: Mapping) -> dict:
    return {name: value[None] for name, value in example.items()}


def _detected(item: Photo | UserError, output: dict | None) -> tuple[dict, dict] | UserError:
    """What a detector says of a photo → (landmark [k 2] in [0, 1] of the photo and visibility [k] as a record
    has them, the same as outputs); the UserError of a photo that cannot be read."""
    if output is None:
        return item
    landmark, seen = (np.asarray(output[name], np.float32) for name in ("landmark", "visibility"))
    if not np.isfinite(landmark).all():
        return UserError(f"{item.path}: the detector's landmarks are not finite; use another --landmarks")
    frame = np.asarray(item.example["frame"], np.float32)
    landmark = (frame[:2] + landmark * (frame[2:] - frame[:2])) / np.asarray(item.size, np.float32)
    visible = seen >= 0.5
    # an unseen point is a guess that no loss has corrected; records have 0 where a garment has no such point
    placed = {"landmark": landmark * visible[:, None], "visibility": np.where(visible, VISIBLE, UNUSED)}
    return placed, {"landmark": landmark, "visibility": seen}


def _read(
    source: Source,
    given: tuple[dict, dict] | UserError,
    *,
    preprocess: Callable,
    sides: tuple[int, int] | None,
) -> Photo | UserError:
    """`given` are the record fields that the photo has beside its pixels."""
    if isinstance(given, UserError):
        return given
    name, image = source
    try:
        if not isinstance(image, (str, os.PathLike)):
            image = photo.to_array(image, name)
        elif os.path.isdir(image):
            readable = os.access(image, os.R_OK | os.X_OK)
            why = f"no image files in this folder (supported: {photo.FORMAT_NAMES})"
            raise UserError(
                f"{name}: {why if readable else 'this folder cannot be read; check its permissions'}"
            )
        else:
            image = photo.read_photo(image, name)
    except UserError as error:
        return error
    height, width = image.shape[:2]
    shown = None
    if sides is not None:
        shown = photo.display(image, int(np.clip(max(height, width), *sides)))
    return Photo(name, (width, height), preprocess({"image": image} | given[0], None), shown)


def _outputs(photos: Sequence[Photo], model: Predictor) -> Iterator[dict]:
    """One dict of arrays for each photo; the batch is filled up with copies of the first."""
    if not photos:
        return
    rows = [item.example for item in photos]
    rows += rows[:1] * (model.batch_size - len(rows))
    stack = model.collate or (lambda rows: {name: np.stack([row[name] for row in rows]) for name in rows[0]})
    found = model.run(stack(rows))
    for index in range(len(photos)):
        yield {name: value[index] for name, value in found.items()}
