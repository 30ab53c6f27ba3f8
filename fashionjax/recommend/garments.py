"""Garments of photos → embeddings, by a retrieval model of their cut-outs or by the box features of a model
that embeds what a detector finds (task recommendation)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fashionjax import segment, tasks
from fashionjax.data import detections, photo
from fashionjax.errors import UserError
from fashionjax.gallery import embed as gallery
from fashionjax.inference import model as inference
from fashionjax.inference import photos, segmenter

COMMANDS = ("search", "embed")  # of the tasks whose models embed garments
STEP = 8  # boxes of an image are padded to a multiple, so that few shapes are compiled


class Entry(NamedTuple):
    """A photo with the garments that are to be embedded: what index.jsonl of a segmented database says of
    them. root: the folder that their pictures are relative to, None where the photo alone is there."""

    image: str
    objects: Sequence[Mapping[str, Any]]
    root: Path | None


class Embedder(NamedTuple):
    """A model that embeds garments. of_boxes: from the photo and the garments' boxes; else from cut-outs."""

    model: inference.Model
    of_boxes: bool
    batch_size: int


def load(path: str, batch_size: int) -> Embedder:
    """The embedder of a checkpoint of the tasks retrieval or recommendation."""
    model = photos.load(path)
    command = tasks.entry(model.config.task).command
    if command not in COMMANDS or photos.takes_landmarks(model.config):
        what = "pools at landmarks" if command in COMMANDS else f"is of the task {model.config.task}"
        raise UserError(
            f"{path}: its model {what} and embeds no garments; use a checkpoint of experiments/cgd.py, "
            "experiments/retrieval.py or experiments/recommendation.py"
        )
    return Embedder(model, command == "embed", batch_size)


def embedded(entries: Sequence[Entry], embedder: Embedder) -> Iterator[np.ndarray | UserError]:
    """For each photo, in order, the embeddings of its garments f32 [n d], or what is wrong with a file."""
    return _of_boxes(entries, embedder) if embedder.of_boxes else _of_pictures(entries, embedder)


# ------------------------------------------------------------------------------ from cut-outs
def _of_pictures(entries: Sequence[Entry], embedder: Embedder) -> Iterator[np.ndarray | UserError]:
    predictor = photos.predictor(embedder.model, embedder.batch_size)
    for start in range(0, len(entries), embedder.batch_size):
        chunk = entries[start : start + embedder.batch_size]
        pictures = [_pictures(entry) for entry in chunk]
        flat = [image for found in pictures if not isinstance(found, UserError) for image in found]
        rows = iter(photos.embeddings(flat, predictor))
        for found in pictures:
            if isinstance(found, UserError):
                yield found
                continue
            got = [next(rows) for _ in found]
            wrong = [row for row in got if isinstance(row, UserError)]
            yield wrong[0] if wrong else np.stack([row[1] for row in got])


def _pictures(entry: Entry) -> list[photos.Source] | UserError:
    """The garments on white: their pictures, or what their masks or boxes cut out of the photo."""
    try:
        whole = None
        found = []
        for number, garment in enumerate(entry.objects):
            if entry.root is not None and garment.get("file"):
                image = photo.read_photo(entry.root / garment["file"])
            else:
                whole = photo.read_photo(entry.image) if whole is None else whole
                image = cut(whole, garment)
            found.append(photos.Source(f"{entry.image}#{number}", image))
        return found
    except UserError as error:
        return error


def cut(image: np.ndarray, garment: Mapping[str, Any]) -> np.ndarray:
    """image u8 [h w 3] → the garment u8 [h' w' 3] on white, or its box where it has no mask."""
    if garment.get("segmentation"):
        piece = detections.cutout(image, garment["segmentation"])
        if piece is not None:
            return detections.on_white(piece)
    height, width = image.shape[:2]
    x1, y1 = (int(np.clip(v, 0, side - 1)) for v, side in zip(garment["box"][:2], (width, height)))
    x2, y2 = (max(int(np.ceil(v)), low + 1) for v, low in zip(garment["box"][2:], (x1, y1)))
    return image[y1:y2, x1:x2]


# ------------------------------------------------------------------------------ from box features
def _of_boxes(entries: Sequence[Entry], embedder: Embedder) -> Iterator[np.ndarray | UserError]:
    model, rows = embedder.model, embedder.batch_size
    rows = -(-rows // model.mesh.size) * model.mesh.size
    for start in range(0, len(entries), rows):
        chunk = entries[start : start + rows]
        examples = [_example(entry, model) for entry in chunk]
        good = [example for example in examples if not isinstance(example, UserError)]
        if good:
            slots = -(-max(len(example["given_box"]) for example in good) // STEP) * STEP
            padded = [_padded(example, slots) for example in good]
            batch = model.task.collate(padded + padded[:1] * (rows - len(padded)))
            embedding = iter(np.asarray(inference.run(model, batch)["embedding"], np.float32))
        for entry, example in zip(chunk, examples, strict=True):
            if isinstance(example, UserError):
                yield example
                continue
            found = next(embedding)[: len(entry.objects)]
            finite = np.isfinite(found).all()
            yield found if finite else UserError(f"{entry.image}: the model's embedding is not finite")


def _example(entry: Entry, model: inference.Model) -> dict | UserError:
    try:
        example = model.task.preprocess({"image": photo.read_photo(entry.image)}, None)
    except UserError as error:
        return error
    (height, width), (stored_height, stored_width) = example["size"], example["original_size"]
    scale = np.tile([width / stored_width, height / stored_height], 2)
    box = np.asarray([garment["box"] for garment in entry.objects], np.float64).reshape(-1, 4) * scale
    return example | {"given_box": box.astype(np.float32)}


def _padded(example: dict, slots: int) -> dict:
    box = example["given_box"]
    rest = np.zeros((slots - len(box), 4), np.float32)
    return example | {"given_box": np.concatenate([box, rest]), "given_valid": np.arange(slots) < len(box)}


# ------------------------------------------------------------------------------ a user's photo
def open_detector(folder: Path, named: str = "") -> inference.Model | None:
    """The detector that segmented the database `folder`, by the checkpoint that segmented.json or `named`
    says; None where neither does. UserError where that checkpoint holds another model by now."""
    origin = segment.read_origin(folder)
    path = named or origin.get("checkpoint", "")
    if not path:
        return None
    way_out = "--detector=DIR names its checkpoint, --detector=none does without"
    if not named and not Path(path).exists():
        raise UserError(f"{folder}: was segmented by {path}, which is gone; {way_out}")
    detector = segmenter.load(path)
    if origin.get("model") != gallery.fingerprint(detector):
        raise UserError(f"{path}: is not the detector that segmented {folder}; {way_out}")
    return detector


def found_in(path: str, embedder: Embedder, detector: inference.Model | None, score: float) -> Entry:
    """The garments of a photo, best first, by the detector, or by the embedder's own; the whole photo as one
    garment without a category where there is neither."""
    if detector is not None:
        ((_, item),) = segmenter.segmented([path], detector, 1, score)
        if isinstance(item, UserError):
            raise item
        names, found = list(detector.config.labels.category), item.found
        rle = found.rle or [None] * len(found.score)
        listed = [
            _object(names[int(c)], float(s), box, mask)
            for c, s, box, mask in zip(found.category, found.score, found.box, rle)
        ]
        return Entry(path, sorted(listed, key=lambda garment: -garment["score"]), None)
    image = photo.read_photo(path)
    if not embedder.of_boxes:
        whole = _object("", 1.0, (0, 0, image.shape[1], image.shape[0]), None)
        return Entry(path, [whole], None)
    model = embedder.model
    example = model.task.preprocess({"image": image}, None)
    batch = model.task.collate([example] * model.mesh.size)
    output = {name: value[0] for name, value in inference.run(model, batch).items()}
    output["detection_valid"] = output["detection_valid"] & (output["score"] >= score)
    found = detections.found_in(output, example["size"], example["original_size"])
    names = list(model.config.labels.category)
    triples = zip(found.category, found.score, found.box)
    return Entry(path, [_object(names[int(c)], float(s), box, None) for c, s, box in triples], None)


def _object(category: str, score: float, box, rle) -> dict[str, Any]:
    entry = {"category": category, "score": score, "box": [float(v) for v in box]}
    return entry | ({} if rle is None else {"segmentation": rle})
