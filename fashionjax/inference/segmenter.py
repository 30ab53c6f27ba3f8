"""Photos → the instances that a detector finds in them, in batches of one size and few shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from fashionjax.data import photo
from fashionjax.data.detections import Found, found_in
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos


class Segmented(NamedTuple):
    """image u8 [h w 3] as a viewer shows the file; found in its pixels."""

    path: str
    image: np.ndarray
    found: Found


def load(path: str) -> inference.Model:
    """The detector of a checkpoint; UserError for a model of another task."""
    return photos.load(path, "segment")


def segmented(
    paths: Sequence[str], model: inference.Model, batch_size: int = 4, score: float = 0.05
) -> Iterator[tuple[str, Segmented | UserError]]:
    """Each path in order with its instances of at least `score`, or with what is wrong with the file.

    A batch is filled up with copies of its first image to a whole number of images a device; at most
    `batch_size` images are held at their full size.
    """
    rows = -(-batch_size // model.mesh.size) * model.mesh.size
    with ThreadPoolExecutor(photos.READERS) as pool:
        for start in range(0, len(paths), rows):
            chunk = list(paths[start : start + rows])
            images = list(pool.map(_read, chunk))
            found = iter(
                _found([image for image in images if not isinstance(image, UserError)], model, rows, score)
            )
            for path, image in zip(chunk, images, strict=True):
                if isinstance(image, UserError):
                    yield path, image
                    continue
                result = next(found)
                if isinstance(result, str):
                    yield path, UserError(f"{path}: {result}")
                else:
                    yield path, Segmented(path, image, result)


def _read(path: str) -> np.ndarray | UserError:
    try:
        return photo.read_photo(path)
    except UserError as error:
        return error


def _found(
    images: Sequence[np.ndarray], model: inference.Model, rows: int, score: float
) -> Iterator[Found | str]:
    """One Found for each image, or one line where the model's outputs are not finite."""
    if not images:
        return
    examples = [model.task.preprocess({"image": image}, None) for image in images]
    batch = model.task.collate(examples + examples[:1] * (rows - len(examples)))
    outputs = inference.run(model, batch)
    legacy = model.config.model.geometry.inclusive_boxes
    for b in range(len(images)):
        output = {name: value[b] for name, value in outputs.items()}
        if not all(np.isfinite(value).all() for value in output.values()):
            yield "the model's detections are not finite; use another checkpoint"
            continue
        output["detection_valid"] = output["detection_valid"] & (output["score"] >= score)
        yield found_in(output, batch["size"][b], batch["original_size"][b], legacy=legacy)
