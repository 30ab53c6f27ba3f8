"""Photos named on a command line → what a model says of each: read side by side, batched, one trace."""

from __future__ import annotations

import functools
import glob
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fashionjax import checkpoint, draw, inference
from fashionjax.data import photo
from fashionjax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
READERS = min(4, os.cpu_count() or 1)  # each may hold a 100-megapixel photo


class Predictor(NamedTuple):
    """A restored model, ready for pictures of any size."""

    preprocess: Callable[[dict, None], dict]  # {"image": uint8 [h w 3]} → example with image and frame
    run: Callable[[dict], dict]  # batch of `batch_size` numpy examples → {name: numpy [b …]}
    names: Mapping[str, Sequence[str]]  # "category", "attribute"
    batch_size: int


class Photo(NamedTuple):
    """What is kept of a photo once it is read: not its pixels, which may be 300 MB."""

    path: str
    size: tuple[int, int]  # width, height as displayed
    example: dict  # what the model gets
    shown: np.ndarray | None  # uint8 [h w 3], at the size it is to be shown


def predictor(model: inference.Model, batch_size: int = 16) -> Predictor:
    """One trace serves every picture: batches are padded, to a whole number of pictures a device."""
    whole = -(-batch_size // model.mesh.size) * model.mesh.size
    names = {label: list(names) for label, names in model.config.get("labels", {}).items() if names}
    return Predictor(model.task.preprocess, functools.partial(inference.run, model), names, whole)


def outputs(
    paths: Sequence[str], model: Predictor, sides: tuple[int, int] | None = None
) -> Iterator[tuple[Photo, dict] | tuple[UserError, None]]:
    """For each path, in order, the photo with its outputs (arrays without the batch axis), or what is wrong
    with the file. `sides` are the least and the largest longer side of `Photo.shown`; None: not shown."""
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), model.batch_size):
            chunk = paths[start : start + model.batch_size]
            loaded = list(pool.map(lambda path: _read(path, model.preprocess, sides), chunk))
            found = _outputs([item for item in loaded if isinstance(item, Photo)], model)
            yield from ((item, next(found)) if isinstance(item, Photo) else (item, None) for item in loaded)


def expand(arguments: Sequence[str]) -> list[str]:
    """Files, folders (the pictures directly in them) and glob patterns → paths, in the order given.

    What matches nothing stays as it is, so that it is reported like any unreadable file.
    """
    paths: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            inside = (entry for entry in Path(argument).iterdir() if is_picture(entry))
            paths += sorted(str(entry) for entry in inside) or [argument]
        elif os.path.exists(argument):
            paths.append(argument)
        else:
            found = sorted(glob.glob(argument, recursive=True))
            paths += expand(found) if found else [argument]
    return paths


def is_picture(path: Path) -> bool:
    """A file that is called like one."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


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


def _read(path: str, preprocess: Callable, sides: tuple[int, int] | None) -> Photo | UserError:
    try:
        image = photo.read_photo(path)
    except UserError as error:
        return error
    height, width = image.shape[:2]
    shown = None
    if sides is not None:
        shown = draw.display(image, int(np.clip(max(height, width), *sides)))
    return Photo(path, (width, height), preprocess({"image": image}, None), shown)


def _outputs(photos: Sequence[Photo], model: Predictor) -> Iterator[dict]:
    """One dict of arrays for each photo; the batch is filled up with copies of the first."""
    if not photos:
        return
    rows = [item.example for item in photos]
    rows += rows[:1] * (model.batch_size - len(rows))
    found = model.run({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    for index in range(len(photos)):
        yield {name: value[index] for name, value in found.items()}
