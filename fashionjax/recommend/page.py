"""The page of recommendations: each photo with its garments drawn, the garment that is asked with, and what
was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import photo
from fashionjax.reports import draw_instances, report

SIDE = 240  # longer side of an image on the page


class Shown(NamedTuple):
    """A query: photo u8 [h w 3] with its `objects` (as index.jsonl lists them), the garment that is asked
    with (its place among them and its picture), and the lines that were printed with a picture each. None:
    an image that is gone."""

    path: str
    image: np.ndarray | None
    objects: Sequence[Mapping[str, Any]]
    asked: int
    garment: np.ndarray | None
    lines: Sequence[Mapping[str, Any]]
    pictures: Sequence[np.ndarray | None]


def render(shown: Sequence[Shown], words: Sequence[str], notes: Sequence[str] = (), command: str = "") -> str:
    """The page as HTML: one file that fetches nothing."""
    return report.render_page(
        "recommend/page.html.jinja",
        queries=[
            {
                "photo": None if query.image is None else report.data_uri(drawn(query)),
                "path": query.path,
                "garment": _source(query.garment),
                "category": query.objects[query.asked]["category"],
                "matches": [
                    {**line, "source": _source(picture)}
                    for line, picture in zip(query.lines, query.pictures, strict=True)
                ],
            }
            for query in shown
        ],
        words=words,
        notes=notes,
        command=command,
    )


def _source(image: np.ndarray | None) -> str | None:
    return None if image is None else report.data_uri(photo.display(image, SIDE))


def drawn(query: Shown) -> np.ndarray:
    """The photo with the boxes and masks of its garments."""
    named = [entry for entry in query.objects if entry["category"]]
    names = sorted({entry["category"] for entry in named})
    masks = [entry["segmentation"] for entry in named if "segmentation" in entry]
    return draw_instances.instances(
        query.image,
        np.asarray([entry["box"] for entry in named]).reshape(-1, 4),
        [names.index(entry["category"]) for entry in named],
        names,
        masks if len(masks) == len(named) else None,
        [entry["score"] for entry in named],
        2 * SIDE,
    )
