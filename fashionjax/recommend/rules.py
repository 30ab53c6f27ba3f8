"""The rules of a recommendation: groups of categories, which garments of a database compete, and in which
order they are shown.

Sources: src/configs.yaml (section rec), src/image2seg.py of Donghwa-KIM/fashion-recommendation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fashionjax.errors import UserError
from fashionjax.ops.distances import unit_rows

# group → categories: K-Fashion's as published, then those of the other benchmarks by the same idea
GROUPS: dict[str, tuple[str, ...]] = {
    "upper": (
        *("t-shirts", "top", "hoody", "blouse", "knitwear", "shirts", "bratop", "dress"),
        *("short sleeve top", "long sleeve top", "sling", "short sleeve dress", "long sleeve dress"),
        *("vest dress", "sling dress", "tee", "sweater", "tank", "shirt", "polo", "sweatshirt"),
        *("tshirt", "t-shirt", "jersey", "halter", "henley", "hoodie", "romper", "kaftan"),
    ),
    "lower": (
        *("pants", "jean", "leggings", "skirt", "jogger pants"),
        *("shorts", "trousers", "jeans", "joggers", "chinos", "sweatpants", "culottes"),
    ),
    "outer": (
        *("jacket", "padded jacket", "coat", "jumper", "cardigan", "jumpsuit", "vest", "zipup"),
        *("short sleeve outwear", "long sleeve outwear", "blazer", "robe", "parka", "anorak", "poncho"),
    ),
}
# names that fashion-recommendation's service takes
KOREAN = {
    **{"재킷": "jacket", "가디건": "cardigan", "코트": "coat", "티셔츠": "t-shirts", "블라우스": "blouse"},
    **{"니트웨어": "knitwear", "탑": "top", "팬츠": "pants", "청바지": "jean", "스커트": "skirt"},
}


class Garment(NamedTuple):
    """A garment of a database. id: NAME/CATEGORY_RANK.png of the segmented database, whether or not it has
    that picture; image: the photo's path; box xyxy in its pixels; pair_id: the product that the photo shows.
    """

    id: str
    image: str
    name: str
    pair_id: str
    category: str
    score: float
    box: tuple[float, float, float, float]
    color: str = ""
    style: str = ""


class Hit(NamedTuple):
    """A row of the database and its cosine similarity; `shown` is the row of the garment that is recommended,
    another one of the same photo in a complement."""

    row: int
    score: float
    shown: int


class NoAnswer(UserError):
    """There is nothing to recommend; `code` is that of fashion-recommendation's service."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def read_groups(path: str) -> dict[str, tuple[str, ...]]:
    """A JSON file {group: [category, …]} in place of `GROUPS`."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--groups={path}: cannot be read as JSON ({error})") from error
    good = isinstance(content, dict) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values()
    )
    if not good:
        raise UserError(f"--groups={path}: expected an object of lists, {{group: [category, …]}}")
    return {group: tuple(names) for group, names in content.items()}


def group_of(category: str, groups: Mapping[str, Sequence[str]] = GROUPS) -> str | None:
    """The group that lists a category, None where none does."""
    return next((group for group, names in groups.items() if category in names), None)


def category_named(name: str, known: Sequence[str], groups: Sequence[str] = ()) -> str:
    """A category of the database by its name, also in Korean; UserError listing those there are, and the
    groups that would do as well."""
    english = KOREAN.get(name, name)
    if english not in known:
        have = ", ".join(sorted(known))
        or_group = f" (groups: {', '.join(groups)})" if groups else ""
        raise NoAnswer("FAIL_001", f"category {name!r} is not in the database; it has {have}{or_group}")
    return english


def wanted_of(
    name: str, known: Sequence[str], groups: Mapping[str, Sequence[str]] = GROUPS
) -> tuple[str, tuple[str, ...]]:
    """What --complement names, a category of the database or a group → (group, the categories wanted)."""
    if name in groups:
        return name, tuple(groups[name])
    category = category_named(name, known, tuple(groups))
    group = group_of(category, groups)
    if group is None:
        raise NoAnswer("FAIL_005", f"category {category!r} is in no group; --groups=FILE names the groups")
    return group, (category,)


# ------------------------------------------------------------------------------ the same category
def similar(
    query: np.ndarray,
    embedding: np.ndarray,
    garments: Sequence[Garment],
    category: str | None,
    top: int,
    *,
    other_than: str | None = None,
) -> list[Hit]:
    """query [d], embedding [g d] of the garments → the `top` nearest of a category (None: of all), of each
    pair the nearest, without those of the pair `other_than`."""
    rows = [
        row
        for row, garment in enumerate(garments)
        if category in (None, garment.category) and garment.pair_id != other_than
    ]
    return _nearest(query, embedding, garments, rows, top)


def _nearest(query, embedding, garments, rows: Sequence[int], top: int) -> list[Hit]:
    """Of equal similarities the earlier row comes first."""
    if not len(rows):
        return []
    similarity = unit_rows(embedding[rows]) @ unit_rows(query[None])[0]
    hits, pairs = [], set()
    for place in np.argsort(-similarity, kind="stable").tolist():
        row = int(rows[place])
        if garments[row].pair_id not in pairs:
            pairs.add(garments[row].pair_id)
            hits.append(Hit(row, float(similarity[place]), row))
            if len(hits) == top:
                break
    return hits


# ------------------------------------------------------------------------------ what goes with a garment
def query_of(found: Sequence[str], own: str, groups: Mapping[str, Sequence[str]] = GROUPS) -> int:
    """Categories of the garments found in a photo, best first, and the group of what is wanted → the first
    garment of another group."""
    if not found:
        raise NoAnswer("FAIL_003", "no garment was found in the photo")
    for place, category in enumerate(found):
        if group_of(category, groups) not in (None, own):
            return place
    raise NoAnswer(
        "FAIL_004",
        f"the photo shows {', '.join(dict.fromkeys(found))}, and what is wanted is {own} as well: a "
        "complement needs a garment of another group",
    )


def complements(
    query: np.ndarray,
    category: str,
    wanted: Sequence[str],
    embedding: np.ndarray,
    garments: Sequence[Garment],
    top: int,
    *,
    color: str = "",
    style: str = "",
    search_all: bool = False,
    other_than: str | None = None,
) -> list[Hit]:
    """Garments of the categories `wanted` worn with something like the query (of `category`): photos that
    show both are compared by their garments of the query's category, and the best wanted garment of each
    photo is shown. `color` and `style` are what it must have, where given; pairs as for `similar`.

    search_all: every garment of these photos is compared with the query, whatever its category, as upstream.
    """
    best: dict[str, int] = {}
    for row, garment in enumerate(garments):
        fits = garment.category in wanted and color in ("", garment.color) and style in ("", garment.style)
        if fits and (garment.name not in best or garment.score > garments[best[garment.name]].score):
            best[garment.name] = row
    both = {garment.name for garment in garments if garment.category == category} & best.keys()
    rows = [
        row
        for row, garment in enumerate(garments)
        if garment.name in both
        and garment.pair_id != other_than
        and (search_all or garment.category == category)
    ]
    if not rows:
        what = ", ".join(wanted)
        raise NoAnswer("FAIL_006", f"no photo of the database shows {category!r} together with such a {what}")
    hits = _nearest(query, embedding, garments, rows, top)
    return [hit._replace(shown=best[garments[hit.row].name]) for hit in hits]


def first_box_features(
    garments: Sequence[Garment], embedding: np.ndarray
) -> tuple[list[Garment], np.ndarray]:
    """Quirk K1: of each photo one record per category, all with the features of its best garment."""
    by_photo: dict[str, list[int]] = {}
    for row, garment in enumerate(garments):
        by_photo.setdefault(garment.name, []).append(row)
    kept, source = [], []
    for rows in by_photo.values():
        rows = sorted(rows, key=lambda row: -garments[row].score)
        seen: dict[str, Any] = {}
        for row in rows:
            seen.setdefault(garments[row].category, row)
        kept += seen.values()
        source += [rows[0]] * len(seen)
    return [garments[row] for row in kept], embedding[source]
