"""What a retrieval evaluation finds, beyond the numbers: the ids of the nearest gallery images of every
query, an image grid of queries with their top five, a table per category."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fashionjax import files
from fashionjax.data import photo
from fashionjax.metrics import retrieval
from fashionjax.metrics.retrieval import Ranking, rank
from fashionjax.reports import draw
from fashionjax.reports.panels import Bars, Curve, Images, Panel, Table, Tiles

FILE = "matches.jsonl"
SAVED, SHOWN, QUERIES = 20, 5, 12  # matches kept for a query, matches and queries in a grid


class RetrievalReport:
    """`metrics` is the RetrievalMetrics of the same stream, whose rows are shown."""

    def __init__(self, context, metrics: retrieval.RetrievalMetrics):
        self.context, self.metrics = context, metrics

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep."""

    @functools.cached_property
    def found(self) -> Ranking:
        """The ranking with the matches that are kept; every image once."""
        rows = self.metrics.scored()
        return rank(rows, rows, SAVED)

    @functools.cached_property
    def ids(self) -> list[str]:
        """image_id of each row."""
        return self.context.column("image_id")[self.metrics.scored()["index"]].tolist()

    def panels(self) -> list[Panel]:
        rows, context = self.metrics.scored(), self.context
        names = list(context.config.labels.get("category", ()))
        image = lambda row: context.image(int(rows["index"][row]))  # noqa: E731
        shown = panels(self.found, rows, names, image, self.ids)
        if (context.config or {}).get("similar_pairs"):
            shown += doubtful_pairs(self.found, rows, image, self.ids)
        return shown

    def artifacts(self) -> list[Path]:
        """matches.jsonl."""
        found, rows, ids = self.found, self.metrics.scored(), self.ids
        return [write(self.context.out, found, rows, ids)] if self.context.out else []


def write(out: str | os.PathLike, found: Ranking, truth: dict, ids: Sequence[str]) -> Path:
    """OUT/matches.jsonl, a line for each query: {"id", "matches": [{"id", "score", "correct"}]}, best first.

    `ids` name the rows of the evaluation (image_id).
    """
    correct = _correct(found, truth)

    def lines():
        for q, row in enumerate(found.query.tolist()):
            matches = [
                {"id": ids[match], "score": round(float(score), 6), "correct": bool(right)}
                for match, score, right in zip(found.top[q], found.score[q], correct[q], strict=True)
            ]
            yield json.dumps({"id": ids[row], "matches": matches}) + "\n"

    path = Path(out) / FILE
    files.write_lines(path, lines())
    return path


def panels(found: Ranking, truth: dict, names: Sequence[str], images: Images, ids: Sequence[str]) -> list:
    """Grids of queries (evenly spread, and those whose first match comes last), recall by k, per category.

    `images` gives the image of a row, `names` those of the categories ([] where there are none).
    """
    first = np.asarray([ranks.min() for ranks in found.ranks])
    spread = np.unique(np.linspace(0, len(first) - 1, min(QUERIES, len(first))).round().astype(int))
    worst = np.argsort(-first, kind="stable")[:QUERIES]
    worst = worst[first[worst] > SHOWN]
    result: list[Panel] = [_grid("Queries and their nearest five", spread, found, truth, images, ids, first)]
    if len(worst):
        result.append(_grid("Queries whose first match comes last", worst, found, truth, images, ids, first))
    limits = sorted({1, 2, 3, 5, 10, 20, 30, 50})
    share = [float(np.mean(first <= k)) for k in limits]
    curve = {"queries with a match": (limits, share)}
    result.append(Curve("Queries with a match among the k nearest", "k", "share of queries", curve))
    if "category" in truth and len(names):
        result += _per_category(found, truth["category"][found.query], names)
    return result


def doubtful_pairs(found: Ranking, truth: dict, images: Images, ids: Sequence[str]) -> list[Panel]:
    """The nearest pairs of a query and a gallery image of another item."""
    correct, pairs = _correct(found, truth), {}
    for q, row in enumerate(found.query.tolist()):
        for match, score, right in zip(found.top[q].tolist(), found.score[q].tolist(), correct[q]):
            if not right:
                pairs.setdefault(tuple(sorted((row, match))), score)
                break
    nearest = sorted(pairs.items(), key=lambda pair: -pair[1])[:QUERIES]
    tiles = [
        (
            draw.contact_sheet(photo.display(images(one)), [photo.display(images(other))], [None], ["", ""]),
            f"{ids[one]} · {ids[other]} · {score:.3f}",
        )
        for (one, other), score in nearest
    ]
    caption = (
        "Cosine of the embeddings. One item under two names, a copy, or what the model cannot tell apart."
    )
    return [Tiles("Nearest images of different items", caption, tiles)] if tiles else []


def _per_category(found: Ranking, category: np.ndarray, names: Sequence[str]) -> list[Panel]:
    by_category = retrieval.per_category(found.ranks, category, (1, 5))
    columns = ("standard/recall@1", "standard/recall@5", "zoo/recall@5", "standard/map")
    rows = [[names[c], values["n"], *(values[name] for name in columns)] for c, values in by_category.items()]
    bars = Bars(
        "Recall@5 per category",
        [row[0] for row in rows],
        [row[3] for row in rows],
        caption="Share of a category's queries with an item match among the five nearest.",
        maximum=1.0,
    )
    return [bars, Table("Retrieval per category", ["category", "queries", *columns], rows)]


def _grid(title, queries, found: Ranking, truth: dict, images: Images, ids, first) -> Tiles:
    correct, tiles = _correct(found, truth), []
    for q in queries:
        shown = found.top[q][:SHOWN]
        captions = ["query", *(f"{score:.3f}" for score in found.score[q][:SHOWN])]
        pictures = [photo.display(images(int(row))) for row in shown]
        query = photo.display(images(int(found.query[q])))
        sheet = draw.contact_sheet(query, pictures, correct[q][:SHOWN].tolist(), captions)
        tiles.append((sheet, f"{ids[found.query[q]]} · first match at {first[q]}"))
    return Tiles(title, "Cosine similarity below each; ticked: the same item.", tiles)


def _correct(found: Ranking, truth: dict) -> np.ndarray:
    """[q k] bool: the match shows the query's item."""
    identity = truth["identity"]
    return (identity[found.top] == identity[found.query][:, None]).all(axis=-1)
