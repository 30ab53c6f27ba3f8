"""What a garment asks for → lines of recommendations. The garment is one of a photo, which models find and
embed, or one of the database itself, whose features are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax import segment
from fashionjax.errors import UserError
from fashionjax.recommend import database as features
from fashionjax.recommend import garments, rules
from fashionjax.recommend.database import Database


class Asked(NamedTuple):
    """What is wanted; groups of categories, the quirks that are on, whether features are whitened."""

    category: str
    complement: str
    color: str
    style: str
    top: int
    groups: Mapping[str, Sequence[str]]
    quirks: tuple[str, ...]
    whiten: bool


class Answer(NamedTuple):
    """The lines for a garment, with what the page shows of it."""

    entry: garments.Entry
    asked: int  # the garment of the entry that was compared
    hits: list[rules.Hit]
    lines: list[dict[str, Any]]
    garment: rules.Garment | None = None  # that of the database which asked


def of_photo(
    entry: garments.Entry, asked: Asked, found: Database, embedding: np.ndarray, embedder: garments.Embedder
) -> Answer:
    """The garments of a photo → what is recommended. `embedding` [g d] is what the garments of the database
    are compared by."""
    known = categories(found)
    if asked.complement:
        own = [garment["category"] for garment in entry.objects]
        group, _ = rules.wanted_of(asked.complement, known, asked.groups)
        place = rules.query_of(own, group, asked.groups)
    else:
        place = query_place(entry, rules.category_named(asked.category, known) if asked.category else None)
    query = query_features(entry, place, asked, found, embedder)
    return _answer(entry, place, query, asked, found, embedding)


def of_garment(row: int, asked: Asked, found: Database, embedding: np.ndarray) -> Answer:
    """A garment of the database → what is recommended among those of other pairs."""
    garment = found.garments[row]
    if asked.complement:
        group, _ = rules.wanted_of(asked.complement, categories(found), asked.groups)
        rules.query_of([garment.category], group, asked.groups)
    line = segment.read_index(found.folder).get(garment.image)
    if line is None:
        raise UserError(f"{found.folder / segment.INDEX}: does not list {garment.image}")
    place = [each.id for each in features.garments_of(line, {})].index(garment.id)
    entry = garments.Entry(garment.image, line["objects"], found.folder)
    answer = _answer(entry, place, embedding[row], asked, found, embedding, other_than=garment.pair_id)
    return answer._replace(garment=garment)


def choose_garment(name: str, seed: int, asked: Asked, found: Database) -> int:
    """The row of the garment that --garment names: its id, or a category, of which `seed` draws one; for a
    complement among those of photos that show what is wanted."""
    rows = [row for row, garment in enumerate(found.garments) if garment.id == name]
    if rows:
        return rows[0]
    known = categories(found)
    if name not in known and rules.KOREAN.get(name) not in known:
        raise UserError(
            f"--garment={name}: neither the id of a garment of {found.folder} (as index.jsonl has it) nor a "
            f"category; it has {', '.join(known)}"
        )
    category = rules.category_named(name, known)
    rows = [row for row, garment in enumerate(found.garments) if garment.category == category]
    if asked.complement:
        _, wanted = rules.wanted_of(asked.complement, known, asked.groups)
        shown = {garment.name for garment in found.garments if garment.category in wanted}
        rows = [row for row in rows if found.garments[row].name in shown]
    if not rows:
        raise UserError(f"--garment={name}: none of them is on a photo that shows {asked.complement}")
    return int(np.random.default_rng(seed).choice(rows))


def categories(found: Database) -> list[str]:
    """Those of the database, sorted."""
    return sorted({garment.category for garment in found.garments})


def _answer(
    entry,
    place: int,
    query: np.ndarray,
    asked: Asked,
    found: Database,
    embedding,
    other_than: str | None = None,
) -> Answer:
    known, category = categories(found), entry.objects[place]["category"]
    if asked.complement:
        hits = rules.complements(
            query,
            category,
            rules.wanted_of(asked.complement, known, asked.groups)[1],
            embedding,
            found.garments,
            asked.top,
            color=asked.color,
            style=asked.style,
            search_all="k6_complement_searches_all" in asked.quirks,
            other_than=other_than,
        )
    else:
        if not category and asked.category:  # the photo as a whole
            category = rules.category_named(asked.category, known)
        hits = rules.similar(
            query, embedding, found.garments, category or None, asked.top, other_than=other_than
        )
        if not hits:
            other = " of another pair" if other_than is not None else ""
            raise UserError(
                f"the database has no garment{other} of the category {category!r}: {', '.join(known)}"
            )
    lines = []
    for rank, hit in enumerate(hits, 1):
        shown = found.garments[hit.shown]
        lines.append({"rank": rank, "id": shown.id, "pair_id": shown.pair_id, "category": shown.category,
                      "score": round(hit.score, 6)})  # fmt: skip
    return Answer(entry, place, hits, lines)


def query_place(entry: garments.Entry, category: str | None) -> int:
    """The photo's best garment of a category, or its best; UserError that lists what it shows."""
    own = [garment["category"] for garment in entry.objects]
    if not own:
        raise UserError(f"{entry.image}: no garment was found; lower --score, or use a better detector")
    if category is None or own == [""]:
        return 0
    if category not in own:
        raise UserError(
            f"{entry.image}: shows {', '.join(dict.fromkeys(own))} and no {category}; "
            f"--complement={category} recommends what goes with it"
        )
    return own.index(category)


def query_features(entry, place: int, asked: Asked, found: Database, embedder) -> np.ndarray:
    """The garment's embedding [d], whitened where asked; under quirk K1 still its own, as upstream's."""
    (rows,) = garments.embedded([entry], embedder)
    if isinstance(rows, UserError):
        raise rows
    query = rows[place]
    if query.shape[0] != found.embedding.shape[1]:
        raise UserError(f"the model gives {query.shape[0]} values, the database {found.embedding.shape[1]}")
    return features.whitened(found, query[None])[0] if asked.whiten else query
