"""What an item is: category, attributes and the exact look of a garment, a pure function of (seed, item
number).

An item keeps its look (colours, pattern scale and phase, lengths, trimmings) in every image of it; pose,
place, light, occluders and ground belong to the image and are drawn in `scene.py`. Item numbers are
global: two splits never share a number, so identities of the test split are unseen in training by
construction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GARMENT_TYPES = ("upper", "lower", "full")

# attribute group → its values, in the order of the attribute vector
_VALUES = """
color black white grey red orange yellow green blue purple pink brown
pattern solid stripe check dot floral
sleeve sleeveless short elbow long
neckline crew v_neck scoop square high collar hood lapel
hem cropped hip thigh knee calf ankle
fit slim regular loose
fabric cotton denim knit satin quilted
closure none button zip belt
"""
ATTRIBUTES = {row.split()[0]: tuple(row.split()[1:]) for row in _VALUES.strip().splitlines()}
ATTRIBUTE_NAMES = tuple(f"{group}_{value}" for group, values in ATTRIBUTES.items() for value in values)
ATTRIBUTE_GROUPS = tuple(group for group, values in ATTRIBUTES.items() for _ in values)

PALETTE = {
    "black": (34, 33, 38),
    "white": (238, 237, 232),
    "grey": (136, 138, 143),
    "red": (194, 36, 44),
    "orange": (232, 124, 36),
    "yellow": (238, 205, 66),
    "green": (52, 134, 74),
    "blue": (46, 88, 176),
    "purple": (118, 62, 150),
    "pink": (236, 140, 172),
    "brown": (116, 74, 48),
}

# y of the hem in body units (neck base 0, waist 1.9, hip 2.7, knee 4.8, ankle 6.7; see figure.py)
HEM_Y = {
    "cropped": (1.75, 2.0),
    "hip": (2.6, 2.95),
    "thigh": (3.4, 3.9),
    "knee": (4.5, 4.9),
    "calf": (5.4, 5.9),
    "ankle": (6.35, 6.7),
}
# part of the arm (shoulder to wrist) that a sleeve covers
SLEEVE_REACH = {"sleeveless": (0.0, 0.0), "short": (0.24, 0.36), "elbow": (0.5, 0.64), "long": (0.92, 1.0)}


class Category(NamedTuple):
    """What an item of a category may be; a value repeated is more likely."""

    garment_type: str
    sleeve: tuple[str, ...]
    neckline: tuple[str, ...]
    hem: tuple[str, ...]
    fit: tuple[str, ...]
    fabric: tuple[str, ...]
    closure: tuple[str, ...]


# category: garment type | sleeve | neckline | hem | fit | fabric | closure
_CATEGORIES = """
tee: upper | short short elbow | crew v_neck scoop | cropped hip hip | * | cotton cotton satin knit | none
tank: upper | sleeveless | scoop square v_neck | cropped hip hip | * | cotton cotton satin knit | none
shirt: upper | short long long | collar | hip hip hip thigh | * | cotton cotton denim satin | button
sweater: upper | long | crew v_neck high | cropped hip hip | * | knit knit cotton | none
hoodie: upper | long | hood | cropped hip hip | regular loose | cotton cotton knit | none zip
jacket: upper | long | high collar | cropped hip hip | regular loose | denim quilted satin cotton | zip zip button
blazer: upper | long | lapel | hip | * | cotton satin knit | button
jeans: lower | | | calf ankle ankle | * | denim | button
trousers: lower | | | calf ankle ankle | regular loose | cotton cotton satin knit | none belt
leggings: lower | | | calf ankle ankle | slim | cotton satin knit | none
shorts: lower | | | thigh thigh knee | regular loose | cotton denim satin | none belt button
skirt: lower | | | thigh knee calf | * | cotton denim satin knit | none button zip
dress: full | * | crew v_neck scoop square | thigh knee calf ankle | * | cotton cotton satin knit | none none belt
jumpsuit: full | sleeveless short long | crew v_neck scoop square collar | calf ankle | * | cotton denim satin | zip belt none
coat: full | long | lapel | thigh knee calf | regular loose | cotton knit quilted | button button belt
robe: full | elbow long | v_neck | knee calf ankle | loose | satin cotton knit | belt
"""  # noqa: E501


def _rules(row: str) -> tuple[str, Category]:
    """A row of the table; * stands for every value of the group."""
    name, _, rest = row.partition(":")
    garment_type, *cells = (cell.strip() for cell in rest.split("|"))
    groups = Category._fields[1:]
    values = [ATTRIBUTES[g] if cell == "*" else tuple(cell.split()) for g, cell in zip(groups, cells)]
    return name, Category(garment_type, *values)


CATEGORIES = dict(_rules(row) for row in _CATEGORIES.strip().splitlines())
CATEGORY_NAMES = tuple(CATEGORIES)


class Item(NamedTuple):
    """One garment. Lengths in body units, colours RGB in 0..255, attribute values by name ("" = does not
    apply).
    """

    number: int
    category: str
    garment_type: str
    color: str
    pattern: str
    sleeve: str
    neckline: str
    hem: str
    fit: str
    fabric: str
    closure: str
    base: tuple[float, float, float]
    accent: tuple[float, float, float]
    trim: tuple[float, float, float]
    period: float
    phase: tuple[float, float]
    hem_y: float
    reach: float
    ease: float
    flare: float
    waist_y: float
    neck: tuple[float, float]
    extra: tuple[bool, bool, bool]


def rng_of(*key: int) -> np.random.Generator:
    """A generator of its own for a tuple of non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def pick(rng: np.random.Generator, values):
    return values[int(rng.integers(len(values)))]


def luminance(color) -> float:
    return (0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]) / 255


def _jitter(rng, color, amount) -> tuple[float, float, float]:
    drift = rng.normal(0, amount, 3) + rng.normal(0, amount)
    return tuple(float(v) for v in np.clip(np.asarray(color) + drift, 12, 246))


def _accent(rng, base, name) -> tuple[float, float, float]:
    """A pattern colour that can be told from the ground: far away in luminance."""
    others = [c for c in PALETTE if c != name and abs(luminance(PALETTE[c]) - luminance(base)) > 0.28]
    return _jitter(rng, PALETTE[pick(rng, others)], 6)


_PERIODS = {
    "solid": (1.0, 1.0),
    "stripe": (0.34, 0.56),
    "check": (0.5, 0.8),
    "dot": (0.42, 0.62),
    "floral": (0.72, 1.05),
}
_EASE = {"slim": (0.0, 0.05), "regular": (0.13, 0.19), "loose": (0.3, 0.42)}


def make_item(seed: int, number: int, category: str | None = None, plain: bool = False) -> Item:
    """The item `number` of the world `seed`; `category` and `plain` are for companions that only fill an
    outfit.
    """
    rng = rng_of(seed, 1, number)
    drawn = pick(rng, CATEGORY_NAMES)
    category = category or drawn
    rules = CATEGORIES[category]
    color = pick(rng, tuple(PALETTE))
    fabric = pick(rng, rules.fabric)
    if fabric == "denim" and rng.random() < 0.6:
        color = pick(rng, ("blue", "blue", "black", "grey", "white"))
    if plain:
        color, fabric = pick(rng, ("black", "white", "grey", "grey", "brown")), "cotton"
    pattern = "solid" if plain or rng.random() < 0.3 else pick(rng, ATTRIBUTES["pattern"])
    if fabric == "quilted" or category == "jeans":
        pattern = "solid"
    base = _jitter(rng, PALETTE[color], 5)
    sleeve, neckline = (pick(rng, values) if values else "" for values in (rules.sleeve, rules.neckline))
    hem, fit = pick(rng, rules.hem), pick(rng, rules.fit)
    if plain:  # a companion must not hide the garment of the image
        fit, hem = "slim", "hip" if rules.garment_type == "upper" else hem
    flare = {"slim": (0.0, 0.03), "regular": (0.1, 0.17), "loose": (0.24, 0.36)}[fit]
    dark = luminance(base) > 0.45
    return Item(
        number=number,
        category=category,
        garment_type=rules.garment_type,
        color=color,
        pattern=pattern,
        sleeve=sleeve,
        neckline=neckline,
        hem=hem,
        fit=fit,
        fabric=fabric,
        closure=pick(rng, rules.closure),
        base=base,
        accent=_accent(rng, base, color),
        trim=tuple(float(v) * (0.5 if dark else 1.0) + (0 if dark else 70) for v in base),
        period=float(rng.uniform(*_PERIODS[pattern])),
        phase=tuple(float(v) for v in rng.random(2)),
        hem_y=float(rng.uniform(*HEM_Y[hem])),
        reach=float(rng.uniform(*SLEEVE_REACH[sleeve])) if sleeve else 0.0,
        ease=float(rng.uniform(*_EASE[fit])),
        flare=float(rng.uniform(*flare)),
        waist_y=float(rng.uniform(1.85, 2.2)),
        neck=tuple(float(v) for v in rng.uniform(0.9, 1.12, 2)),
        extra=tuple(bool(v) for v in rng.random(3) < 0.5),
    )


def attribute_vector(item: Item) -> np.ndarray:
    """attribute [a] uint8, 0 or 1; groups that do not apply to the garment type (sleeve of a skirt) are all
    0.
    """
    has = [int(getattr(item, group) == value) for group, values in ATTRIBUTES.items() for value in values]
    return np.asarray(has, np.uint8)


def item_id(item: Item) -> str:
    return f"id_{item.number:08d}"
