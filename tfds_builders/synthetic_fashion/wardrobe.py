"""What goes together: pieces of nine semantic types whose palette and style an outfit shares.

A palette gives every part of an outfit (`PARTS`) a hue of its own, so pieces that go together seldom have one
colour: shoes of one palette may be teal where its trousers are mustard. A style shows in the pattern of some
types, alike for all of them, and in the shape of the others, a shape of its own for each. The assignments are
fixed tables of this world; everything else about a piece is drawn at random.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_fashion.world import Item, luminance, make_item, pick, rng_of

HUES = {  # the first BASIC of them are the easiest to tell apart
    "red": (196, 38, 44),
    "orange": (234, 124, 40),
    "mustard": (224, 182, 52),
    "green": (46, 142, 76),
    "sky": (118, 180, 228),
    "cobalt": (40, 82, 184),
    "purple": (122, 64, 158),
    "pink": (238, 142, 178),
    "brown": (122, 76, 46),
    "teal": (30, 148, 150),
    "navy": (30, 40, 92),
    "olive": (112, 118, 48),
}
BASIC = 8
ACCENTS = ((242.0, 240.0, 234.0), (34.0, 33.0, 38.0), (150.0, 150.0, 152.0), (226.0, 212.0, 184.0))
PATTERNS = ("solid", "stripe", "check", "dot", "floral")
ADJECTIVE = {"solid": "plain", "stripe": "striped", "check": "checked", "dot": "dotted", "floral": "floral"}


class Kind(NamedTuple):
    """A semantic type: its shapes (category → words of a title) and whether the style shows in the shape
    or, if not, in the pattern.
    """

    shapes: dict[str, str]
    shape_is_style: bool


KINDS = {
    "all-body": Kind({"dress": "dress", "jumpsuit": "jumpsuit"}, False),
    "bags": Kind(
        {
            "tote": "tote bag",
            "clutch": "envelope clutch",
            "backpack": "backpack",
            "satchel": "satchel",
            "round_bag": "round bag",
        },
        True,
    ),
    "bottoms": Kind({"trousers": "trousers", "skirt": "skirt", "shorts": "shorts"}, False),
    "hats": Kind(
        {
            "cap": "cap",
            "beanie": "beanie",
            "sun_hat": "sun hat",
            "beret": "beret",
            "bucket_hat": "bucket hat",
        },
        True,
    ),
    "outerwear": Kind(
        {"jacket": "jacket", "blazer": "blazer", "coat": "coat", "hoodie": "hoodie", "robe": "kimono"}, False
    ),
    "scarves": Kind({"shawl": "shawl", "scarf": "scarf", "bandana": "bandana"}, False),
    "shoes": Kind(
        {"sneaker": "sneakers", "boot": "boots", "pump": "pumps", "flat": "flats", "sandal": "sandals"}, True
    ),
    "sunglasses": Kind(
        {
            "round_glasses": "round sunglasses",
            "square_glasses": "square sunglasses",
            "cat_eye": "cat eye sunglasses",
            "aviator": "aviator sunglasses",
            "shield": "shield sunglasses",
        },
        True,
    ),
    "tops": Kind({"tee": "tee", "tank": "tank top", "shirt": "shirt", "sweater": "sweater"}, False),
}
TYPES = tuple(sorted(KINDS))
GARMENT_KINDS = ("all-body", "bottoms", "outerwear", "tops")
MAX_PALETTES, MAX_STYLES = len(HUES), len(PATTERNS)

_EXTRA = ("new", "classic", "soft", "vintage", "modern", "everyday", "summer", "winter", "favourite")
VOCABULARY = tuple(
    sorted(
        {*HUES, *ADJECTIVE.values(), *_EXTRA}
        | {word for kind in KINDS.values() for noun in kind.shapes.values() for word in noun.split()}
    )
)


# types whose hue a palette chooses together
PARTS = (
    ("tops", "all-body"),
    ("bottoms", "scarves"),
    ("outerwear",),
    ("shoes", "bags"),
    ("hats", "sunglasses"),
)


def _shuffled(names: tuple[str, ...], key: int, stream: int) -> tuple[str, ...]:
    order = rng_of(20170, stream, key).permutation(len(names))
    return tuple(names[i] for i in order)


def _hues(part: int) -> tuple[str, ...]:
    return _shuffled(tuple(HUES)[:BASIC], part, 1) + _shuffled(tuple(HUES)[BASIC:], part, 4)


def _cues(kind: str) -> tuple[str, ...]:
    rules = KINDS[kind]
    return _shuffled(tuple(rules.shapes), TYPES.index(kind), 2) if rules.shape_is_style else PATTERNS


# type → its hue for each palette, and its shape or pattern for each style: the same in every seed
PALETTE_HUES = {kind: _hues(part) for part, kinds in enumerate(PARTS) for kind in kinds}
STYLE_CUES = {kind: _cues(kind) for kind in TYPES}


class Taste(NamedTuple):
    """How many palettes and styles there are and how closely pieces keep to them: `jitter` is the spread of
    a colour in levels of 0..255, `off_palette` the share of pieces in another hue than their palette's.
    """

    palettes: int = 8
    styles: int = 4
    jitter: float = 8.0
    off_palette: float = 0.08


class Piece(NamedTuple):
    """One thing to wear. item.category is its shape; title "" and has_text False for pieces without text."""

    item: Item
    kind: str
    palette: int
    style: int
    title: str
    has_text: bool


def _accent(rng: np.random.Generator, base) -> tuple[float, float, float]:
    """A neutral that can be told from the ground colour."""
    return pick(rng, [c for c in ACCENTS if abs(luminance(c) - luminance(base)) > 0.25])


def _title(rng: np.random.Generator, hue: str, pattern: str, noun: str) -> str:
    words = [pick(rng, _EXTRA)] if rng.random() < 0.4 else []
    words += [hue] if rng.random() < 0.9 else []
    words += [ADJECTIVE[pattern]] if rng.random() < (0.3 if pattern == "solid" else 0.85) else []
    return " ".join([*words, noun])


def make_piece(seed: int, number: int, kind: str, palette: int, style: int, taste: Taste) -> Piece:
    """The piece `number` of the world `seed`."""
    rng = rng_of(seed, 30, number)
    rules = KINDS[kind]
    cue = STYLE_CUES[kind][style]
    if rules.shape_is_style:
        shape, pattern = cue, "solid" if rng.random() < 0.6 else pick(rng, PATTERNS)
    else:
        shape, pattern = pick(rng, tuple(rules.shapes)), cue
    hue = PALETTE_HUES[kind][palette]
    if rng.random() < taste.off_palette:
        used = tuple(HUES)[: max(BASIC, taste.palettes)]
        hue = pick(rng, [other for other in used if other != hue])
    drift = rng.normal(0, taste.jitter, 3) + rng.normal(0, taste.jitter)
    base = tuple(float(v) for v in np.clip(np.asarray(HUES[hue]) + drift, 12, 246))
    dark = luminance(base) > 0.45
    garment = kind in GARMENT_KINDS
    item = make_item(seed, number, shape if garment else "skirt")
    item = item._replace(
        category=shape,
        color=hue,
        pattern=pattern,
        base=base,
        accent=_accent(rng, base),
        trim=tuple(v * (0.5 if dark else 1.0) + (0 if dark else 70) for v in base),
        period=float(rng.uniform(*(1.0, 1.0) if pattern == "solid" else (0.5, 0.8))),
        fabric=item.fabric if garment else pick(rng, ("cotton", "cotton", "satin")),
    )
    title = _title(rng, hue, pattern, rules.shapes[shape])
    absent = rng.random()  # a twentieth has no title, as many a title that no text feature belongs to
    return Piece(item, kind, palette, style, "" if absent < 0.05 else title, absent >= 0.1)


def text_vector(title: str) -> np.ndarray:
    """L2-normalised counts of the vocabulary's words, float32 [t]; zeros where it has none of them."""
    found = [VOCABULARY.index(word) for word in re.findall(r"[a-z]+", title.lower()) if word in VOCABULARY]
    counts = np.bincount(found, minlength=len(VOCABULARY)).astype(np.float32)
    return counts / np.float32(max(np.linalg.norm(counts), 1e-12))
