"""What an evaluation of recommendation shows: the published table's shape, the same per category, and
garments with what is nearest to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fashionjax import files
from fashionjax.data import photo
from fashionjax.metrics import recommendation
from fashionjax.metrics.recommendation import KS, Matches, Ranked, matches_of
from fashionjax.reports import draw
from fashionjax.reports.panels import Bars, Panel, Table, Tiles

FILE = "recommendations.jsonl"
SHOWN, QUERIES = 5, 12  # matches and queries in the grid
SAVED = 20  # matches of a query in the file


class RecommendationReport:
    """`metrics` is the RecommendationMetrics of the same stream, whose rows are shown."""

    def __init__(self, context, metrics):
        self.context, self.metrics = context, metrics

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep."""

    def panels(self) -> list[Panel]:
        found, (query, database, same) = self.metrics.ranked(), self.metrics.split
        rows, ids = self.metrics.kept, self.context.column("image_id")
        asked = np.flatnonzero(rows["role"] <= 0)
        known = np.arange(len(rows["role"])) if same else np.flatnonzero(rows["role"] > 0)

        def cut(place: int) -> np.ndarray:
            return cut_box(self.context.image(int(rows["record"][place])), rows["box"][place])

        tiles = grid(
            evenly(found),
            lambda row: matches_of(query, database, row, SHOWN, other_images=same),
            lambda row: cut(asked[row]),
            lambda row: cut(known[row]),
            lambda row: f"{ids[rows['record'][asked[row]]]} · {self.metrics.names[query.category[row]]}",
        )
        return [*tables(found, self.metrics.names), tiles]

    def artifacts(self) -> list[Path]:
        """recommendations.jsonl."""
        if self.context.out is None:
            return []
        query, database, same = self.metrics.split
        rows, ids = self.metrics.kept, self.context.column("image_id")
        known = np.arange(len(rows["role"])) if same else np.flatnonzero(rows["role"] > 0)
        asked = np.flatnonzero(rows["role"] <= 0)
        name = lambda place: f"{ids[rows['record'][place]]}#{int(rows['index'][place])}"  # noqa: E731
        found = (matches_of(query, database, row, SAVED, other_images=same) for row in range(len(asked)))
        lines = (
            line_of(name(asked[row]), self.metrics.names[query.category[row]], matches,
                    [name(known[place]) for place in matches.row])
            for row, matches in enumerate(found)
        )  # fmt: skip
        path = self.context.out / FILE
        files.write_lines(path, lines)
        return [path]


def line_of(query: str, category: str, matches: Matches, ids: Sequence[str]) -> str:
    """A query's line of recommendations.jsonl."""
    listed = [
        {"rank": rank, "id": name, "score": round(float(score), 6), "correct": bool(right)}
        for rank, (name, score, right) in enumerate(zip(ids, matches.score, matches.correct), 1)
    ]
    return json.dumps({"id": query, "category": category, "matches": listed}, ensure_ascii=False) + "\n"


def tables(found: Mapping[object, Ranked], names: Sequence[str] | None = None) -> list[Panel]:
    """The published table (k; recall, hit, MRR in percent, means over categories), the standard figures
    beside it, and the same per category. `names` are those of numbered categories."""
    values, table = recommendation.metrics(found), recommendation.per_category(found)
    shown = [[k, *(values[f"zoo/recommend_{part}@{k}"] for part in ("recall", "hit", "mrr")),
              *(100 * values[f"standard/recommend_{part}@{k}"] for part in ("recall", "hit"))]
             for k in KS]  # fmt: skip
    caption = (
        "In percent. The first three as published: mean over the garments of a category, then over the "
        "categories. The others: mean over all garments. Left out are garments without another of their pair "
        "and category in the database."
    )
    columns = ["k", "Recall@k", "Hit@k", "MRR@k", "Recall@k, all garments", "Hit@k, all garments"]
    name = lambda label: str(label) if names is None else names[int(label)]  # noqa: E731
    parts = [f"{part}@{k}" for k in (1, 10) for part in ("recall", "hit", "mrr")]
    per = [
        [name(label), line["n"], line["left_out"], *(100 * line[p] if line["n"] else None for p in parts)]
        for label, line in table.items()
    ]
    scored = [(name(label), line["hit@10"]) for label, line in table.items() if line["n"]]
    heads = ["category", "garments", "left out", *parts]
    return [
        Table("Recommendation", columns, shown, caption),
        Table("Recommendation per category", heads, per, "In percent."),
        Bars(
            "Hit@10 per category",
            [n for n, _ in scored],
            [v for _, v in scored],
            caption="Share of a category's garments with one of their pair among the ten nearest.",
            maximum=1.0,
        ),
    ]


def evenly(found: Mapping[object, Ranked]) -> list[int]:
    """At most QUERIES query rows with a relevant garment, evenly spread over those of all categories."""
    rows = [
        int(row) for ranked in found.values() for row, ranks in zip(ranked.row, ranked.ranks) if len(ranks)
    ]
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(QUERIES, len(rows))).round().astype(int))
    return [rows[place] for place in chosen]


def grid(
    queries: Sequence[int],
    matches: Callable[[int], Matches],
    query_image: Callable[[int], np.ndarray],
    database_image: Callable[[int], np.ndarray],
    title: Callable[[int], str],
) -> Tiles:
    """Query garments beside their nearest."""
    tiles = []
    for row in queries:
        found = matches(row)
        captions = ["query", *(f"{score:.3f}" for score in found.score)]
        shown = [photo.display(database_image(int(place))) for place in found.row]
        sheet = draw.contact_sheet(photo.display(query_image(row)), shown, found.correct.tolist(), captions)
        tiles.append((sheet, title(row)))
    caption = "Cosine similarity below each; ticked: a garment of the same pair."
    return Tiles("Garments and their nearest", caption, tiles)


def cut_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """image u8 [h w 3], box xyxy in its pixels → what is inside, at least a pixel."""
    height, width = image.shape[:2]
    x1, y1 = (int(np.clip(np.floor(v), 0, side - 1)) for v, side in zip(box[:2], (width, height)))
    x2, y2 = (
        int(np.clip(np.ceil(v), low + 1, side)) for v, low, side in zip(box[2:], (x1, y1), (width, height))
    )
    return image[y1:y2, x1:x2]
