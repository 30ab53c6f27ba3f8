"""What a model says of one image, as typed results that serialise as `fashionjax predict` prints them.

A task names its kind of result in `TaskEntry.photo_results`; a task whose models say something new of an
image brings a subclass of `Result` with its fields.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

SHOWN = 3  # landmarks in the printed form


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
class Instance:
    """One object in an image.

    category_id: the dataset's own. score in [0, 1]. box: (x1, y1, x2, y2) in pixels of the image as
    displayed. segmentation: COCO's run-length encoding {"size": [h, w], "counts": text}; None of a model
    without masks.
    """

    category: str
    category_id: int
    score: float
    box: tuple[float, float, float, float]
    segmentation: dict | None = None

    def __str__(self) -> str:
        return f"{self.category} {self.score:.2f} ({', '.join(f'{side:.0f}' for side in self.box)})"


@dataclasses.dataclass(frozen=True)
class Result:
    """One image's result; subclasses add what their models say, None where the model does not predict it.

    image: the path, or the name of an image in memory. width, height: pixels as displayed. annotated: path of
    the annotated image, where one was written. error: why the image could not be read; all else is None then.
    """

    image: str
    width: int | None = None
    height: int | None = None
    _: dataclasses.KW_ONLY
    annotated: str | None = None
    error: str | None = None

    def lines(self) -> list[str]:
        """The parts of the result, a line each, as `print` shows them."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists with the fields that are set: a line of `fashionjax predict`."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        last = {name: fields.pop(name) for name in ("annotated", "error") if name in fields}
        return _plain(fields | last)

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        head = f"{self.image} ({self.width} x {self.height})"
        return "\n".join([head, *(f"  {line}" for line in self.lines())])


@dataclasses.dataclass(frozen=True)
class Prediction(Result):
    """Labels and landmarks of an image. category and attribute: best first, at most `topk`. landmark: all, in
    the model's order."""

    category: tuple[Label, ...] | None = None
    attribute: tuple[Label, ...] | None = None
    landmark: tuple[Landmark, ...] | None = None

    def lines(self) -> list[str]:
        parts = {"category": self.category, "attribute": self.attribute}
        lines = [f"{name}: {', '.join(map(str, labels))}" for name, labels in parts.items() if labels]
        if self.landmark:
            seen = [point for point in self.landmark if point.visible]
            shown = [*map(str, seen[:SHOWN]), *(["…"] if len(seen) > SHOWN else [])]
            lines.append(
                f"landmark: {len(seen)} of {len(self.landmark)} visible: {', '.join(shown)}".rstrip(": ")
            )
        return lines


@dataclasses.dataclass(frozen=True)
class Segmentation(Result):
    """The objects that a detector finds in an image, best first."""

    instances: tuple[Instance, ...] | None = None

    def lines(self) -> list[str]:
        return [str(instance) for instance in self.instances or ()]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {name: item for name, item in vars(value).items() if item is not None}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
