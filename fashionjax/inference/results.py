"""What a model says of one image, as typed results that serialise as `fashionjax predict` prints them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fashionjax.errors import UserError
from fashionjax.inference import photos
from fashionjax.inference.photos import Photo, Pixels, Predictor, Source

OUTPUTS = ("category_logits", "attribute_logits", "landmark")  # of a model, that a Prediction shows
SHOWN_LANDMARKS = 3  # in the printed form


@dataclasses.dataclass(frozen=True)
class Label:
    """A category or attribute; score in [0, 1]: softmax of categories, sigmoid of an attribute."""

    name: str
    score: float

    def __str__(self) -> str:
        return f"{self.name} {self.score:.2f}"


@dataclasses.dataclass(frozen=True)
class Landmark:
    """A point in pixels of the image as displayed. The name is the dataset's, else `landmark_1` …"""

    name: str
    x: float
    y: float
    visible: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.x:.0f}, {self.y:.0f})"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One image's result; a part that the model does not predict is None.

    image: the path, or the name of an image in memory. width, height: pixels as displayed. category and
    attribute: best first, at most `topk`. landmark: all, in the model's order. annotated: path of the
    annotated image, where one was written. error: why the image could not be read; all else is None then.
    """

    image: str
    width: int | None = None
    height: int | None = None
    category: tuple[Label, ...] | None = None
    attribute: tuple[Label, ...] | None = None
    landmark: tuple[Landmark, ...] | None = None
    annotated: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists with the fields that are set: a line of `fashionjax predict`."""
        return _plain({name: value for name, value in vars(self).items() if value is not None})

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        lines = [f"{self.image} ({self.width} x {self.height})"]
        for part in ("category", "attribute"):
            if getattr(self, part):
                lines.append(f"  {part}: {', '.join(map(str, getattr(self, part)))}")
        if self.landmark:
            seen = [point for point in self.landmark if point.visible]
            shown = ", ".join(map(str, seen[:SHOWN_LANDMARKS])) + (
                ", …" if len(seen) > SHOWN_LANDMARKS else ""
            )
            lines.append(f"  landmark: {len(seen)} of {len(self.landmark)} visible: {shown}".rstrip(": "))
        return "\n".join(lines)


def predict(
    images: Sequence[Pixels | Source], predictor: Predictor, *, topk: int = 5, sides: tuple | None = None
) -> Iterator[tuple[Prediction, Photo | None]]:
    """Each image's result, in order, with the photo it came from (None for one that cannot be read).

    `sides` are the least and the largest longer side of `Photo.shown`. UserError where the model has none
    of `OUTPUTS`.
    """
    sources = photos.named(images)
    for source, (item, output) in zip(sources, photos.outputs(sources, predictor, sides), strict=True):
        if output is None:
            yield Prediction(source.name, error=str(item)), None
            continue
        if not any(name in output for name in OUTPUTS):
            raise UserError(
                f"this model's outputs are {', '.join(output)}; predict shows category, attribute and "
                "landmark (search and outfit take the others)"
            )
        broken = [name for name, value in output.items() if not np.isfinite(value).all()]
        if broken:
            why = f"the model's {', '.join(broken)} is not finite; use another checkpoint"
            yield Prediction(source.name, error=f"{source.name}: {why}"), None
            continue
        parts = describe(output, predictor.names, item.example["frame"], topk)
        yield Prediction(source.name, *item.size, **parts), item


def describe(
    output: Mapping[str, np.ndarray], names: Mapping, frame: np.ndarray, topk: int
) -> dict[str, tuple]:
    """One example's outputs (arrays without the batch axis) → the parts of its Prediction.

    `frame` [4] is the region of the photo that the model saw, xyxy in its pixels.
    """
    parts: dict[str, tuple] = {}
    if "category_logits" in output:
        logits = np.asarray(output["category_logits"], np.float64)
        share = np.exp(logits - logits.max())
        parts["category"] = _best(share / share.sum(), names["category"], topk)
    if "attribute_logits" in output:
        logits = np.asarray(output["attribute_logits"], np.float64)
        parts["attribute"] = _best(np.exp(-np.logaddexp(0.0, -logits)), names["attribute"], topk)
    if "landmark" in output:
        frame = np.asarray(frame, np.float64)
        points = frame[:2] + np.asarray(output["landmark"], np.float64) * (frame[2:] - frame[:2])
        visible = np.asarray(output.get("visibility", np.ones(len(points)))) >= 0.5
        known = names.get("landmark") or [f"landmark_{n}" for n in range(1, len(points) + 1)]
        parts["landmark"] = tuple(
            Landmark(str(name), round(float(x), 2), round(float(y), 2), bool(seen))
            for name, (x, y), seen in zip(known, points, visible, strict=True)
        )
    return parts


def _best(scores: np.ndarray, names: Sequence[str], topk: int) -> tuple[Label, ...]:
    order = np.argsort(-scores, kind="stable")[:topk]
    return tuple(Label(str(names[i]), round(float(scores[i]), 6)) for i in order)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
