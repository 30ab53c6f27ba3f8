"""What a retrieval evaluation finds, beyond the numbers: the ids of the nearest gallery pictures of every
query, a picture grid of queries with their top five, a table per category."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fashionjax import files
from fashionjax.data import photo
from fashionjax.data.source import Joined, Split
from fashionjax.errors import UserError
from fashionjax.metrics import retrieval
from fashionjax.reports import draw
from fashionjax.reports.panels import Bars, Curve, Images, Panel, Table, Tiles
from fashionjax.tasks.retrieval import QUERY, Ranking, matched, rank

FILE = "matches.json"
SAVED, SHOWN, QUERIES = 20, 5, 12  # matches kept for a query, matches and queries in a grid
TOLD = 5  # queries named in one line


def is_retrieval(predicted: dict, truth: dict) -> bool:
    """Whether the arrays of an evaluation are embeddings of queries and a gallery."""
    return "embedding" in predicted and "role" in truth and "identity" in truth


def scored(truth: dict, split: Split | Joined, *, allow_missing: bool = False) -> np.ndarray:
    """[n] bool: the records that a retrieval evaluation can use; False for queries whose item has no picture
    in the gallery. They are named, and are an error unless `allow_missing`."""
    kept = matched(truth)
    if kept.all():
        return kept
    rows = np.asarray(truth["index"])[~kept]
    item, picture = (split.column(name)[rows] for name in ("item_id", "image_id"))
    shown = ", ".join(f"{name} of item {label}" for name, label in zip(picture[:TOLD], item[:TOLD]))
    shown += f" and {len(rows) - TOLD} more" if len(rows) > TOLD else ""
    queries = int((np.asarray(truth["role"]) == QUERY).sum())
    told = f"{len(rows)} of {queries} queries have no picture of their item in the gallery: {shown}"
    if not allow_missing:
        raise UserError(f"{split.dataset}/{split.name}: {told}; pass --allow_missing to evaluate the others")
    print(f"warning: {told}; evaluated without them", file=sys.stderr)
    return kept


def find(predicted: dict, truth: dict) -> Ranking:
    """The ranking with the matches that are kept; every picture once."""
    return rank(predicted, truth, SAVED)


def write(out: str | os.PathLike, found: Ranking, truth: dict, ids: Sequence[str]) -> Path:
    """OUT/matches.json: {"k", "queries": [{"id", "matches": [{"id", "score", "correct"}]}]}, best first.

    `ids` name the rows of the evaluation (image_id).
    """
    correct = _correct(found, truth)
    queries = [
        {
            "id": ids[row],
            "matches": [
                {"id": ids[match], "score": round(float(score), 6), "correct": bool(right)}
                for match, score, right in zip(found.top[q], found.score[q], correct[q], strict=True)
            ],
        }
        for q, row in enumerate(found.query.tolist())
    ]
    path = Path(out) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps({"k": int(found.top.shape[1]), "queries": queries}, indent=1) + "\n")
    return path


def panels(found: Ranking, truth: dict, names: Sequence[str], images: Images, ids: Sequence[str]) -> list:
    """Grids of queries (evenly spread, and those whose first match comes last), recall by k, per category.

    `images` gives the picture of a row, `names` those of the categories ([] where there are none).
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
