"""The page of a search: each query image beside its matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import photo
from fashionjax.gallery.embed import Candidate
from fashionjax.reports import draw, report

SIDE = 240  # longer side of an image on the page
QUERIES, MATCHES = 50, 24  # queries on a page, and matches of each: all of them are on standard output


class Query(NamedTuple):
    """A query image, uint8 [h w 3], the best of its matches, and where the model looked: `attention` [m n]
    over the image's central square and `crop_box` [4] xyxy in [0, 1] of it."""

    path: str
    shown: np.ndarray
    matches: Sequence[Candidate]
    looked: Mapping[str, np.ndarray] | None = None


def render(
    queries: Sequence[Query], words: Sequence[str], notes: Sequence[str] = (), command: str = ""
) -> str:
    """The page as HTML: one file that fetches nothing. `words` say what was searched, `notes` what could not
    be read."""
    return report.render_page(
        "search/page.html.jinja",
        queries=[
            {
                "source": _source(query.shown),
                "looked": _looked(query),
                "path": query.path,
                "matches": [match._asdict() | {"source": _source(match.picture)} for match in query.matches],
            }
            for query in queries
        ],
        words=words,
        notes=notes,
        command=command,
    )


def _looked(query: Query) -> Any:
    """The central square of a query under its attention, with the crop's box, and the crop."""
    if query.looked is None:
        return None
    height, width = query.shown.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = query.shown[top : top + side, left : left + side]
    box = np.clip(np.asarray(query.looked["crop_box"], np.float32), 0, 1) * side
    bright = draw.attention(square, query.looked["attention"])
    x0, y0, x1, y1 = (int(v) for v in (*np.floor(box[:2]), *np.ceil(box[2:])))
    crop = square[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return {"attention": _source(draw.boxes(bright, box[None])), "crop": _source(crop)}


def _source(picture: np.ndarray | None) -> Any:
    return None if picture is None else report.data_uri(photo.display(picture, SIDE))
