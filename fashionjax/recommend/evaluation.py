"""A feature database judged by its pairs: every garment asks for garments of its category."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fashionjax import files
from fashionjax.data import photo
from fashionjax.errors import UserError
from fashionjax.metrics import recommendation
from fashionjax.recommend import database as features
from fashionjax.recommend.database import Database
from fashionjax.recommend.rules import Garment
from fashionjax.reports import recommendation as shown
from fashionjax.reports import report


def run(found: Database, embedding: np.ndarray, queries: str | None, whiten: bool, out: Path) -> int:
    """Writes report.json, report.html and recommendations.jsonl into `out` and prints the figures."""
    asked, asked_embedding = found, embedding
    if queries:
        asked = features.read(queries)
        if asked.origin["model"] != found.origin["model"]:
            raise UserError(f"--queries={queries}: was embedded by another model than {found.folder}")
        asked_embedding = features.whitened(found, asked.embedding) if whiten else asked.embedding
    query = as_garments(asked.garments, asked_embedding)
    known = as_garments(found.garments, embedding)
    same = not queries
    ranked = recommendation.rank(query, known, other_images=same)
    values = recommendation.metrics(ranked)
    scored = sum(len(ranks) > 0 for line in ranked.values() for ranks in line.ranks)
    if not scored:
        raise UserError(
            f"no garment has another of its pair and category in {found.folder}; were pairs given to "
            "`fashionjax embed --pairs`?"
        )
    image_of = functools.lru_cache(maxsize=64)(photo.read_photo)

    def picture(of: Database, row: int) -> np.ndarray:
        image = features.picture(of, image_of, of.garments[row])
        return np.full((32, 32, 3), 200, np.uint8) if image is None else image

    tiles = shown.grid(
        shown.evenly(ranked),
        lambda row: recommendation.matches_of(query, known, row, shown.SHOWN, other_images=same),
        lambda row: picture(asked, row),
        lambda row: picture(found, row),
        lambda row: f"{asked.garments[row].id} · pair {asked.garments[row].pair_id}",
    )
    panels = [*shown.tables(ranked), tiles]
    label = "synthetic" if found.origin.get("synthetic") else "own-images"
    report.write_report(
        out,
        {
            "label": label,
            "dataset": str(found.folder),
            "split": str(asked.folder),
            "n": scored,
            "n_total": len(asked.garments),
            "metrics": values,
            "definitions": recommendation.DEFINITIONS,
            "switches": list(found.origin.get("quirks", ())),
        },
        panels,
    )
    _write_matches(out, query, known, asked.garments, found.garments, same)
    for name, value in values.items():
        print(f"{name:40} {value:.4f}")
    print(f"{scored} of {len(asked.garments)} garments have another of their pair and category")
    print(f"report: {out / 'report.html'}", file=sys.stderr)
    return 0


def as_garments(garments: Sequence[Garment], embedding: np.ndarray) -> recommendation.Garments:
    """What the metrics read."""
    columns = [np.asarray([getattr(g, name) for g in garments]) for name in ("category", "pair_id", "image")]
    return recommendation.Garments(embedding, *columns)


def _write_matches(out: Path, query, known, asked: Sequence[Garment], found: Sequence[Garment], same) -> None:
    def lines():
        for row, garment in enumerate(asked):
            matches = recommendation.matches_of(query, known, row, shown.SAVED, other_images=same)
            ids = [found[place].id for place in matches.row]
            yield shown.line_of(garment.id, garment.category, matches, ids)

    files.write_lines(out / shown.FILE, lines())
