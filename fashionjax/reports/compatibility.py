"""What an evaluation of outfits finds beyond the numbers: every question with its answers, images of
some, a table per pair of types, and what colours or an untrained network would answer."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fashionjax import files, quirks
from fashionjax.data import photo
from fashionjax.metrics import compatibility
from fashionjax.reports import attributes, draw
from fashionjax.reports.panels import Bars, Curve, Images, Panel, Table, Tiles

FILES = ("fill_in_blank.jsonl", "outfits.jsonl", "type_pairs.jsonl")
SHOWN = 12  # questions in a grid
MEANS = ("mean_real", "mean_artificial", "auc")  # of a row of the table of type pairs


class Found(NamedTuple):
    """The items of a split, what was said of its outfits and questions, by whom, and the types' names."""

    items: compatibility.Items
    scorer: compatibility.Scorer
    scored: compatibility.OutfitScores
    types: Sequence[str]


class OutfitReport:
    """`metrics` is the OutfitMetrics of the same stream, whose items and scores are shown."""

    def __init__(self, context, metrics: compatibility.OutfitMetrics):
        self.context, self.metrics = context, metrics

    def update(self, prediction: dict, batch: dict) -> None:
        """Nothing beyond what the metrics keep."""

    @functools.cached_property
    def found(self) -> Found:
        metrics = self.metrics
        return Found(metrics.items(), metrics.scorer, metrics.scored, self.context.labels["category"])

    def panels(self) -> list[Panel]:
        context, rows = self.context, self.metrics.rows.whole()
        result = panels(context.config, self.found, context.image)
        if self.metrics.types:
            result += attributes.category_panels(context, rows, self.found.types)
        return result

    def artifacts(self) -> list[Path]:
        """fill_in_blank.jsonl, outfits.jsonl and type_pairs.jsonl."""
        return (
            write(self.context.out, self.found, self.context.column("image_id")) if self.context.out else []
        )


def write(out: str | os.PathLike, found: Found, ids: Sequence[str]) -> list[Path]:
    """Three files in OUT, one object a line; `ids` name the records:

    fill_in_blank.jsonl: {"question", "answers", "scores", "chosen", "correct"}, the last two as places among
    the answers; outfits.jsonl: {"items", "label", "score"}; type_pairs.jsonl: {"types", "n_real",
    "n_artificial", "mean_real", "mean_artificial", "auc"}.
    """
    scored = found.scored
    blanks = (
        {
            "question": [ids[row] for row in question],
            "answers": [ids[row] for row in answers],
            "scores": [round(float(score), 6) for score in scores],
            "chosen": int(np.argmax(scores)),
            "correct": np.flatnonzero(right).tolist(),
        }
        for question, answers, right, scores in zip(
            scored.question, scored.answer, scored.correct, scored.answer_score, strict=True
        )
    )
    outfits = (
        {"items": [ids[row] for row in rows], "label": int(label), "score": _number(score)}
        for rows, label, score in zip(scored.outfit, scored.label, scored.score, strict=True)
    )
    pairs = (
        row | {"types": [found.types[t] for t in row["types"]]} | {key: _number(row[key]) for key in MEANS}
        for row in type_pairs(found)
    )
    written = []
    for name, lines in zip(FILES, (blanks, outfits, pairs), strict=True):
        written.append(Path(out) / name)
        files.write_lines(written[-1], (json.dumps(line) + "\n" for line in lines))
    return written


def _number(score: float) -> float | None:
    return round(float(score), 6) if np.isfinite(score) else None


# ------------------------------------------------------------------------------ panels
def panels(config, found: Found, images: Images) -> list[Panel]:
    """Grids of questions, the ROC curve, accuracy per type of the blank, a table per pair of types.

    `images` gives the image of a record.
    """
    scored, names = found.scored, found.types
    result: list[Panel] = [
        Table("Model", ["", ""], [["variant", variant_name(config)], ["questions", len(scored.question)]])
    ]
    if len(scored.question):
        credit = compatibility.right_answers(scored.answer_score, scored.correct)
        spread = np.linspace(0, len(credit) - 1, min(SHOWN, len(credit))).round().astype(int)
        result.append(_grid("Questions", np.unique(spread), scored, images))
        wrong = np.flatnonzero(credit == 0)
        if len(wrong):
            margin = [_lost(scored, q) for q in wrong]
            worst = wrong[np.argsort(margin)[::-1][:SHOWN]]
            result.append(_grid("Questions answered worst", worst, scored, images))
        result.append(_by_blank(scored, credit, found.items.category, names))
    known = np.isfinite(scored.score)
    if 0 < scored.label[known].sum() < known.sum():
        x, y = compatibility.roc_curve(scored.score[known], scored.label[known])
        curve = {"model": (x.tolist(), y.tolist()), "chance": ([0, 1], [0, 1])}
        title = "Real outfits against artificial ones"
        result.append(Curve(title, "artificial outfits accepted", "real outfits accepted", curve))
    result.append(_type_pairs(found))
    return result


def variant_name(config) -> str:
    """What the model is; under quirk C1 as the zoo names it."""
    if config.model.kind == "set_transformer":
        return "set transformer"
    if quirks.on(config, "c1_zoo_names"):
        return "fully-connected layer" if config.model.projection == "fc" else "learned metric"
    space = "linear maps" if config.model.projection == "fc" else "masks"
    return f"type spaces by {space}, {'learned metric' if config.model.metric else 'Euclidean distance'}"


def _lost(scored: compatibility.OutfitScores, q: int) -> float:
    """How far the right answer is behind the chosen one."""
    scores, right = np.asarray(scored.answer_score[q]), np.asarray(scored.correct[q], bool)
    return float(scores.max() - scores[right].max()) if right.any() else 0.0


def _grid(title: str, chosen: np.ndarray, scored: compatibility.OutfitScores, images: Images) -> Tiles:
    tiles = []
    for q in chosen:
        question, answers, scores = scored.question[q], scored.answer[q], scored.answer_score[q]
        right, best = np.asarray(scored.correct[q], bool), int(np.argmax(scores))
        marks = [
            True if right[i] and i == best else False if i == best else None for i in range(len(answers))
        ]
        captions = [f"{score:.2f}" + (" right" if right[i] else "") for i, score in enumerate(scores)]
        shown = [[photo.display(images(int(row))) for row in rows] for rows in (question, answers)]
        none = [None] * len(question)
        sheet = draw.stacked(
            [
                draw.picture_row(shown[0], none, [""] * len(question), side=150),
                draw.picture_row(shown[1], marks, captions, side=150),
            ]
        )
        tiles.append((sheet, f"question {q}: {'right' if right[best] else 'wrong'}"))
    caption = (
        "The outfit's items; below, the answers with their score, higher is better; the chosen one is framed."
    )
    return Tiles(title, caption, tiles)


def _by_blank(
    scored: compatibility.OutfitScores, credit: np.ndarray, category: np.ndarray, names: Sequence[str]
) -> Bars:
    """Accuracy per type of the right answer."""
    blank = np.asarray(
        [
            category[rows[int(np.argmax(right))]]
            for rows, right in zip(scored.answer, scored.correct, strict=True)
        ]
    )
    types = np.unique(blank)
    return Bars(
        "Fill in the blank by the type of the blank",
        [f"{names[t]} ({(blank == t).sum()})" for t in types],
        [float(credit[blank == t].mean()) for t in types],
        reference=[np.mean([1 / len(scored.answer[q]) for q in np.flatnonzero(blank == t)]) for t in types],
        reference_name="chance",
        caption="Share answered rightly; in brackets the questions.",
        maximum=1.0,
    )


def type_pairs(found: Found) -> list[dict]:
    """Pairs of items of real and artificial outfits, per pair of types: rows of
    `compatibility.type_pair_table`."""
    pairs = compatibility.pairs_within(found.scored.outfit)
    category = found.items.category
    distance = found.scorer.pairs(found.items.embedding, category, pairs.first, pairs.second)
    return compatibility.type_pair_table(
        distance, found.scored.label[pairs.group], category[pairs.first], category[pairs.second]
    )


def _type_pairs(found: Found) -> Table:
    rows = [
        [
            " – ".join(found.types[t] for t in row["types"]),
            *(row[key] for key in ("n_real", "n_artificial", *MEANS)),
        ]
        for row in type_pairs(found)
    ]
    columns = ["types", "n", "n artificial", "distance", "artificial", "AUC"]
    caption = "Pairs of real outfits and of artificial ones, and their mean distances. AUC: how often the "
    caption += "distance of a real pair is the smaller one."
    return Table("Pairs of types", columns, rows, caption)
