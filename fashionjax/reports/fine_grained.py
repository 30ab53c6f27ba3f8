"""What an evaluation of attribute-specific retrieval shows: a table in the shape of the published ones, what
each attribute's queries find, where the model looks, and the nearest candidates of every query as a file."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from fashionjax import files
from fashionjax.data import photo
from fashionjax.metrics import fine_grained
from fashionjax.metrics.collect import Rows
from fashionjax.metrics.fine_grained import PART, FineGrainedMetrics
from fashionjax.reports import draw
from fashionjax.reports.panels import Bars, Panel, Table, Tiles

FILE = "matches.jsonl"
SAVED, SHOWN = 20, 5  # candidates kept for a query, and shown
QUERIES, ATTRIBUTES = 2, 12  # queries of an attribute, and attributes, in a grid
LINES = {  # key of `FineGrainedReport.table` → its line in the table
    "zoo/map": "MAP, percent (as published)",
    "standard/map": "MAP of queries with a match",
    "random": "MAP of a random order, percent",
    PART: "attention inside the part",
    "queries": "queries",
    "candidates": "candidates",
}
KEPT = {"attention": np.float16, "crop_box": np.float32}  # of each prediction, where it has them


class FineGrainedReport:
    """`metrics` is the FineGrainedMetrics of the same stream. Keeps attention maps [h w] and crop boxes [4]
    (xyxy in [0, 1] of the image's central square), where the model predicts them."""

    def __init__(self, context, metrics: FineGrainedMetrics):
        self.context, self.metrics = context, metrics
        self.rows = Rows(context.gather)

    def update(self, prediction: dict, batch: dict) -> None:
        kept = {name: np.asarray(prediction[name], of) for name, of in KEPT.items() if name in prediction}
        if "part_box" in batch:
            kept["part_box"] = np.asarray(batch["part_box"], np.float32)
        self.rows.add(batch, kept)

    @functools.cached_property
    def figures(self) -> dict[str, float]:
        """The metrics' result."""
        return self.metrics.result()

    @functools.cached_property
    def table(self) -> dict[str, dict[str, float | int | None]]:
        """Attribute, then "overall" → queries, candidates, MAP as published and as the field's, that of a
        random order, and the share of attention inside the part where it is measured."""
        names, rankings = self.metrics.names, self.metrics.ranked(SAVED)
        found, chance = {}, {}
        for attribute, ranking in rankings.items():
            sizes = [len(ranks) for ranks in ranking.ranks]
            chance[attribute] = np.asarray(
                [fine_grained.random_precision(size, len(ranking.candidate)) for size in sizes]
            )
            found[names[attribute]] = self._row(f"/{names[attribute]}") | {
                "queries": len(ranking.query),
                "candidates": len(ranking.candidate),
                "random": 100 * float(chance[attribute].mean()),
            }
        whole = {
            "queries": sum(row["queries"] for row in found.values()),
            "candidates": sum(row["candidates"] for row in found.values()),
            "random": 100 * fine_grained.weighted_mean(chance),
        }
        return found | {"overall": self._row("") | whole}

    def _row(self, ending: str) -> dict[str, float | None]:
        get = self.figures.get
        row = {"zoo/map": get(f"zoo/map{ending}"), "standard/map": get(f"standard/map{ending}")}
        inside = get(f"{PART}{ending}")
        return row if inside is None else row | {PART: inside}

    def panels(self) -> list[Panel]:
        return [*self._tables(), *self._found(), *self._looked()]

    def artifacts(self) -> list[Path]:
        """matches.jsonl."""
        if not self.context.out:
            return []
        path = Path(self.context.out) / FILE
        files.write_lines(path, self._lines())
        return [path]

    # -------------------------------------------------------------------------- figures
    def _tables(self) -> list[Panel]:
        table = self.table
        names = list(table)
        lines = [
            [what, *(table[name].get(key) for name in names)]
            for key, what in LINES.items()
            if any(row.get(key) is not None for row in table.values())
        ]
        note = "Overall is the mean over all queries: attributes weigh by their number of queries."
        attributes = names[:-1]
        bars = Bars(
            "MAP per attribute",
            attributes,
            [table[name]["zoo/map"] for name in attributes],
            reference=[table[name]["random"] for name in attributes],
            reference_name="random order",
            caption="Percent; a query without a candidate of its value counts 0, as published.",
            maximum=100.0,
        )
        title = "MAP per attribute, as in the published tables"
        return [Table(title, ["", *names], lines, note, printed=True), bars]

    # -------------------------------------------------------------------------- examples
    @functools.cached_property
    def ids(self) -> list[str]:
        """image_id of each row."""
        return self.context.column("image_id")[self.metrics.rows.whole()["index"]].tolist()

    def _value(self, row: int) -> str:
        """The name of a row's value; its number where the dataset has no names."""
        rows = self.metrics.rows.whole()
        attribute, value = int(rows["attribute"][row]), int(rows["value"][row])
        names = self.context.labels.get("attribute_value", ())
        known = attribute < len(names) and value < len(names[attribute])
        return str(names[attribute][value]) if known else str(value)

    def _square(self, row: int) -> np.ndarray:
        """The central square of a row's image, uint8 [s s 3] at display size."""
        record = self.context.record(int(self.metrics.rows.whole()["index"][row]))
        image = photo.decode_record(record["image"], str(record.get("image_id", row)))
        side = min(image.shape[:2])
        top, left = ((size - side) // 2 for size in image.shape[:2])
        return photo.display(image[top : top + side, left : left + side])

    def _found(self) -> list[Panel]:
        """Per attribute evenly spread queries and their nearest candidates."""
        rows, tiles = self.metrics.rows.whole(), []
        rankings = self.metrics.ranked(SAVED)
        for attribute, ranking in list(rankings.items())[:ATTRIBUTES]:
            for q in _spread(len(ranking.query), QUERIES):
                query, top = int(ranking.query[q]), ranking.top[q][:SHOWN]
                correct = (rows["value"][top] == rows["value"][query]).tolist()
                captions = [self._value(query), *(self._value(int(row)) for row in top)]
                images = [self._square(int(row)) for row in top]
                sheet = draw.contact_sheet(self._square(query), images, correct, captions)
                ranks = ranking.ranks[q]
                first = f"first match at {ranks.min()}" if len(ranks) else "no candidate has its value"
                tiles.append((sheet, f"{self.metrics.names[attribute]} · {self.ids[query]} · {first}"))
        note = "The value below each image; ticked: the query's value."
        return [Tiles("Queries and the nearest five candidates of their attribute", note, tiles)]

    def _looked(self) -> list[Panel]:
        """The attention of one query per attribute, with the crop that follows from it."""
        kept = self.rows.whole() if self.rows.parts or self.rows.joined else {}
        if "attention" not in kept:
            return []
        tiles = []
        for attribute, ranking in list(self.metrics.ranked(SAVED).items())[:ATTRIBUTES]:
            for q in _spread(len(ranking.query), QUERIES):
                row = int(ranking.query[q])
                image = self._square(row)
                scale = np.float32(image.shape[1])
                drawn = draw.attention(image, kept["attention"][row])
                boxes = [
                    (kept[name][row] * scale, colour) for name, colour in COLOURS.items() if name in kept
                ]
                if boxes:
                    corners, colours = zip(*boxes, strict=True)
                    drawn = draw.boxes(drawn, np.stack(corners), colours=colours)
                name = f"{self.metrics.names[attribute]}: {self._value(row)}"
                tiles.append((draw.picture_row([image, drawn], [None, None], ["", ""]), name))
        note = "Bright: high attention. Orange: the crop that follows; blue: the garment part, where known."
        return [Tiles("Where the model looks", note, tiles)]

    def _lines(self):
        """{"id", "attribute", "value", "matches": [{"id", "value", "score", "correct"}]} of every query."""
        rows, names = self.metrics.rows.whole(), self.metrics.names
        for attribute, ranking in self.metrics.ranked(SAVED).items():
            for q, query in enumerate(ranking.query.tolist()):
                matches = [
                    {
                        "id": self.ids[row],
                        "value": self._value(row),
                        "score": round(float(score), 6),
                        "correct": bool(rows["value"][row] == rows["value"][query]),
                    }
                    for row, score in zip(ranking.top[q].tolist(), ranking.score[q], strict=True)
                ]
                line = {"id": self.ids[query], "attribute": names[attribute], "value": self._value(query)}
                yield json.dumps(line | {"matches": matches}, ensure_ascii=False) + "\n"


COLOURS = {"crop_box": draw.PREDICTION, "part_box": draw.TRUTH}


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` places, evenly over 0 … count - 1."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()
