"""Outfits of a split, and what is asked about them: tables of row numbers, drawn from (seed, split) alone.

An outfit is three to six pieces of different types, all of one palette and style. Artificial outfits and
wrong answers replace pieces by random ones of the same type, so the type alone says nothing.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from tfds_builders.release import ReleaseError
from tfds_builders.synthetic_fashion.wardrobe import (
    MAX_PALETTES,
    MAX_STYLES,
    TYPES,
    Piece,
    Taste,
    make_piece,
)
from tfds_builders.synthetic_fashion.world import pick, rng_of

SPLITS = ("train", "val", "test")
CHOICES = 4
MOST = 6  # pieces of an outfit
FEWEST = 3
NUMBERS_PER_SPLIT = 10_000_000
ADDED = ("bags", "hats", "outerwear", "scarves", "shoes", "sunglasses")
ODDS = (2.0, 1.0, 1.2, 1.0, 3.0, 1.0)  # of each of them to be the next one in
TYPE_SPACES = tuple(itertools.combinations_with_replacement(TYPES, 2))


class Outfits(NamedTuple):
    """Pieces in the order of their first appearance, and the outfits as rows of that list."""

    pieces: list[Piece]
    outfit: list[list[int]]


def check(sizes: dict[str, int], taste: Taste, shared: float) -> None:
    """ReleaseError for settings that no world has."""
    for name, count in sizes.items():
        if count < 1:
            raise ReleaseError(f"{name}={count}: must be at least 1 outfit")
    for name, value, most in (
        ("palettes", taste.palettes, MAX_PALETTES),
        ("styles", taste.styles, MAX_STYLES),
    ):
        if not 1 <= value <= most:
            raise ReleaseError(f"{name}={value}: must be between 1 and {most}")
    for name, value, most in (
        ("jitter", taste.jitter, 60),
        ("off_palette", taste.off_palette, 1),
        ("shared", shared, 0.9),
    ):
        if not 0 <= value <= most:
            raise ReleaseError(f"{name}={value}: must be between 0 and {most}")


def _kinds(rng: np.random.Generator) -> list[str]:
    """The types of an outfit, in no particular order."""
    count = int(rng.integers(FEWEST, MOST + 1))
    kinds = ["all-body"] if rng.random() < 0.3 else ["tops", "bottoms"]
    odds = np.asarray(ODDS) / sum(ODDS)
    kinds += rng.choice(ADDED, count - len(kinds), replace=False, p=odds).tolist()
    return [kinds[i] for i in rng.permutation(len(kinds))]


def draw(seed: int, split: str, count: int, taste: Taste, shared: float) -> Outfits:
    """`count` outfits. `shared` of the pieces (fewer while there are few outfits) are in two of them."""
    rng = rng_of(seed, 31, SPLITS.index(split))
    number = SPLITS.index(split) * NUMBERS_PER_SPLIT
    pieces: list[Piece] = []
    once: dict[tuple[str, int, int], list[int]] = {}  # pieces that are in one outfit so far
    outfit, again = [], 0  # places that take up a piece of an earlier outfit
    for _ in range(count):
        palette, style = int(rng.integers(taste.palettes)), int(rng.integers(taste.styles))
        rows = []
        for kind in _kinds(rng):
            free = once.setdefault((kind, palette, style), [])
            if free and again < shared * len(pieces):
                rows.append(free.pop(int(rng.integers(len(free)))))
                again += 1
                continue
            pieces.append(make_piece(seed, number + len(pieces), kind, palette, style, taste))
            rows.append(len(pieces) - 1)
            free.append(len(pieces) - 1)
        outfit.append(rows)
    return Outfits(pieces, outfit)


# ------------------------------------------------------------------------------ questions
def _mates(outfit: list[list[int]], count: int) -> list[set[int]]:
    """For each row the rows that share an outfit with it, itself among them."""
    mates: list[set[int]] = [{row} for row in range(count)]
    for rows in outfit:
        for row in rows:
            mates[row].update(rows)
    return mates


def _artificial(rng, rows: list[int], kinds: list[str], of_kind: dict[str, list[int]]) -> list[int]:
    """Every piece replaced by another one of its type (a type with a single piece keeps it)."""
    result = []
    for row in rows:
        others = [other for other in of_kind[kinds[row]] if other != row]
        result.append(pick(rng, others) if others else row)
    return result


def _question(
    rng, rows: list[int], kinds: list[str], of_kind: dict[str, list[int]], mates: list[set[int]]
) -> tuple[int, list[int]] | None:
    """Place of the blank and the wrong answers: of its type, and in no outfit with what is left of `rows`.
    None where no place has enough of them.
    """
    for place in rng.permutation(len(rows)).tolist():
        known = set().union(*(mates[row] for row in rows[:place] + rows[place + 1 :]))
        wrong = [row for row in of_kind[kinds[rows[place]]] if row not in known and row != rows[place]]
        if len(wrong) >= CHOICES - 1:
            return place, rng.choice(wrong, CHOICES - 1, replace=False).tolist()
    return None


def tables(
    seed: int, split: str, kinds: list[str], outfit: list[list[int]], stream: int = 32
) -> dict[str, list[Any]]:
    """The whole-split tables: outfits, lines of compatibility (each outfit, then its artificial twin) and a
    question per outfit. kinds: type of every row. ReleaseError where a split is too small for questions.
    """
    rng = rng_of(seed, stream, SPLITS.index(split))
    of_kind = {kind: [row for row, other in enumerate(kinds) if other == kind] for kind in TYPES}
    mates = _mates(outfit, len(kinds))
    names = ("compatibility", "compatibility_label", "question", "answer", "correct", "blank")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for rows in outfit:
        found["compatibility"] += [rows, _artificial(rng, rows, kinds, of_kind)]
        found["compatibility_label"] += [1, 0]
        asked = _question(rng, rows, kinds, of_kind, mates)
        if asked is None:
            raise ReleaseError(
                f"{split}={len(outfit)}: too few outfits for questions of {CHOICES} answers; take more"
            )
        place, answers = asked
        right = int(rng.integers(CHOICES))
        found["question"].append(rows[:place] + rows[place + 1 :])
        found["answer"].append([*answers[:right], rows[place], *answers[right:]])
        found["correct"].append([int(choice == right) for choice in range(CHOICES)])
        found["blank"].append(place + 1)
    return {"outfit": outfit, "outfit_id": [f"{split}_{n}" for n in range(len(outfit))]} | found
