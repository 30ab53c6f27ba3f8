"""The page of a search: each query image beside its matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.data import photo
from fashionjax.gallery.embed import Candidate
from fashionjax.reports import report

SIDE = 240  # longer side of an image on the page
QUERIES, MATCHES = 50, 24  # queries on a page, and matches of each: all of them are on standard output


class Query(NamedTuple):
    """A query image, uint8 [h w 3], and the best of its matches."""

    path: str
    shown: np.ndarray
    matches: Sequence[Candidate]


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
                "path": query.path,
                "matches": [match._asdict() | {"source": _source(match.picture)} for match in query.matches],
            }
            for query in queries
        ],
        words=words,
        notes=notes,
        command=command,
    )


def _source(picture: np.ndarray | None) -> Any:
    return None if picture is None else report.data_uri(photo.display(picture, SIDE))
