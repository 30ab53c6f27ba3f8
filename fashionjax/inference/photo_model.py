"""The model that `fashionjax.load` returns: predictions and embeddings of images of any size."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.inference import answers, photos
from fashionjax.inference import model as inference
from fashionjax.inference.photos import Pixels, Predictor
from fashionjax.results import Result


class PhotoModel:
    """A trained model on all devices of this host.

    Images are paths (folders and glob patterns too), PIL images, or arrays uint8 [h w 3], one or many. They
    go through the model in batches of at most `batch_size`, padded to a power of two: one compilation per
    size. Answers do not depend on the batch. Safe to call from any thread.
    """

    def __init__(
        self,
        model: inference.Model,
        detector: inference.Model | None = None,
        batch_size: int = 16,
        attribute: str = "",
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected at least 1")
        self.model, self.detector, self.batch_size = model, detector, batch_size
        if attribute:
            photos.attribute_record(model.config, attribute)  # unknown ones are reported now
        self.attribute = attribute

    @property
    def config(self) -> ConfigDict:
        """The config it was trained with."""
        return self.model.config

    @property
    def task(self) -> str:
        """Its name in `tasks.TASKS`: attributes, landmarks, retrieval, …"""
        return self.config.task

    @property
    def step(self) -> int:
        """The training step of its checkpoint."""
        return self.model.step

    @property
    def labels(self) -> dict[str, list]:
        """{"category": names, "attribute": names, …}, in the order of the model's outputs."""
        return {name: list(names) for name, names in self.config.get("labels", {}).items() if names}

    def predict(self, images: Pixels | Iterable[Pixels], topk: int = 5) -> list[Result]:
        """A result for each image, in order; an image that cannot be read has its `error` set.

        The class is that of the task: `Prediction` of labels and landmarks, `Segmentation` of a detector.
        `topk` is the number of labels listed of a kind. UserError where the model only has embeddings.
        """
        sources = photos.collect(images)
        return [found for found, _ in answers.predict(sources, self.predictor(len(sources)), topk=topk)]

    def embed(self, images: Pixels | Iterable[Pixels]) -> np.ndarray:
        """The embedding of each image, float32 [n d], as an evaluation and a gallery have it.

        UserError for the first image that cannot be read, and where the model has no embedding.
        """
        rows = []
        for read in photos.embeddings(sources := photos.collect(images), self.predictor(len(sources))):
            if isinstance(read, UserError):
                raise read
            rows.append(read[1])
        if not rows:
            raise UserError("no image given; expected at least one")
        return np.stack(rows)

    def predictor(self, count: int) -> Predictor:
        """The model for a call with `count` images."""
        size = 1
        while size < min(count, self.batch_size):
            size *= 2
        given = photos.attribute_record(self.config, self.attribute)
        return photos.predictor(self.model, min(size, self.batch_size), self.detector, given)

    def __repr__(self) -> str:
        return f"<PhotoModel {self.task}, {self.config.model.get('backbone', '')}, step {self.step}>"


def load(
    path: str | os.PathLike,
    *,
    step: str | int = "best",
    landmarks: str | os.PathLike | None = None,
    batch_size: int = 16,
    attribute: str = "",
    part: str | None = None,
) -> PhotoModel:
    """The model of a checkpoint: `path` is the --workdir of a training run or of an import.

    step: best (by the config's metric, else the last), last or a number. landmarks: the checkpoint of a
    landmark detector, for a model that pools at given landmarks. attribute: its name ("sleeve length"), for a
    model that compares images by one attribute at a time. part: of a FashionNet, blue (landmarks and
    category), red_green (category and attributes) or whole. Raises UserError where there is no such
    checkpoint, or the two do not fit each other.
    """
    model = photos.load(Path(path), which=str(step), part=part)
    return PhotoModel(model, photos.load_detector(landmarks, model), batch_size, attribute)
