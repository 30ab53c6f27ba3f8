"""The page of an outfit: its items and types, how well they go together, the matrix of pairs, candidates."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fashionjax.data import photo
from fashionjax.gallery.embed import Candidate
from fashionjax.outfit.items import Item
from fashionjax.reports import draw, report

SIDE = 320  # longer side of an image on the page
CELLS = (44, 112)  # side of a cell of the matrix, at least and at most
MATRIX = 900  # the matrix is about as wide as this while its cells fit
FAR = (0, 92, 140)  # the largest distance; the smallest is paper
LEGEND = (
    "Distance of every pair: the darker, the further apart, from the nearest to the farthest pair of this "
    "outfit; framed: the weakest pair."
)


def matrix(items: Sequence[Item], distance: np.ndarray, weakest: tuple[int, int] | None) -> np.ndarray:
    """distance [n n], of which the part below the diagonal is read → the image, uint8 [h w 3].

    Row i and column j < i are items i and j, with their images at the left and below.
    """
    count = len(items)
    cell = int(np.clip(MATRIX // (count + 1), *CELLS))
    sheet = Image.new("RGB", (cell * count, cell * count), draw.PAPER)
    pen = ImageDraw.Draw(sheet)
    below = distance[np.tril_indices(count, -1)]
    low, high = (float(below.min()), float(below.max())) if len(below) else (0.0, 0.0)
    face = draw.font(max(11, cell // 5))
    for i in range(1, count):
        _thumbnail(sheet, items[i].shown, (0, (i - 1) * cell), cell)
        for j in range(i):
            share = (distance[i, j] - low) / (high - low) if high > low else 0.0
            colour = tuple(round(p + (f - p) * share) for p, f in zip(draw.PAPER, FAR, strict=True))
            x, y = (j + 1) * cell, (i - 1) * cell
            pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), fill=colour, outline=(200, 204, 208))
            ink = draw.PAPER if share > 0.5 else draw.INK
            pen.text((x + cell / 2, y + cell / 2), _short(distance[i, j]), ink, face, anchor="mm")
            if weakest in ((i, j), (j, i)):
                width = max(3, cell // 20)
                pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), outline=draw.WRONG, width=width)
    for j in range(count - 1):
        _thumbnail(sheet, items[j].shown, ((j + 1) * cell, (count - 1) * cell), cell)
    return np.array(sheet)


def _short(value: float) -> str:
    """0.437, -12.3, 1.23e+04: what fits into the smallest cell."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _thumbnail(sheet: Image.Image, picture: np.ndarray, corner: tuple[int, int], cell: int) -> None:
    small = Image.fromarray(photo.display(picture, cell - 6))
    sheet.paste(small, (corner[0] + (cell - small.width) // 2, corner[1] + (cell - small.height) // 2))


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def render(
    items: Sequence[Item],
    words: Sequence[str],
    *,
    weakest: tuple[int, int] | None = None,
    matrix_png: bytes | None = None,
    missing: Sequence[tuple[str, Sequence[Candidate]]] = (),
    notes: Sequence[str] = (),
    command: str = "",
) -> str:
    """The page as HTML: one file that fetches nothing. `words` say the score, `missing` are the ranked
    candidates of each missing type, `notes` what could not be done."""
    return report.render_page(
        "outfit/page.html.jinja",
        items=[_figure(number, item, weakest) for number, item in enumerate(items)],
        words=words,
        matrix="data:image/png;base64," + base64.b64encode(matrix_png).decode() if matrix_png else None,
        legend=LEGEND,
        missing=[(kind, [_candidate(entry) for entry in found]) for kind, found in missing],
        notes=notes,
        command=command,
    )


def _figure(number: int, item: Item, weakest: tuple[int, int] | None) -> dict[str, Any]:
    return {
        "source": report.data_uri(photo.display(item.shown, SIDE)),
        "path": item.path,
        "type": item.type,
        "probability": item.probability,
        "weak": weakest is not None and number in weakest,
    }


def _candidate(entry: Candidate) -> dict[str, Any]:
    picture = entry.picture
    source = None if picture is None else report.data_uri(photo.display(picture, SIDE))
    return {"source": source, "id": entry.id, "rank": entry.rank, "score": entry.score}
