"""One image: who wears what, where the camera stands, and what can be read from the result.

Every image is a pure function of (seed, purpose, image number, items). `Image.landmark` is in [0, 1]
of the image, visibility has DeepFashion's codes (0 visible, 1 occluded, 2 cut off by the frame, 3 slot
not used); a cut-off landmark has the coordinates (0, 0), an occluded one keeps its place.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfds_builders.synthetic_fashion import ground, paint
from tfds_builders.synthetic_fashion.figure import Figure, make_figure
from tfds_builders.synthetic_fashion.garments import SLOTS, Garment, make_garment
from tfds_builders.synthetic_fashion.world import Item, make_item, pick

COMPANION = {
    "upper": ("trousers", "leggings", "skirt"),
    "lower": ("tee", "tank", "shirt"),
    "full": (),
}
OUTERWEAR = ("jacket", "hoodie", "blazer", "sweater")
CLOSEST = 0.36  # share of the frame that a body unit (a head is 1.2) takes at most
COMPANION_NUMBERS = 1 << 40  # numbers of garments that only fill an outfit lie above every item


class Seen(NamedTuple):
    """One garment in an image. mask [h w] bool, box [4] float32 xyxy pixels around what is seen of it."""

    item: Item
    mask: np.ndarray
    box: np.ndarray
    landmark: np.ndarray
    visibility: np.ndarray


class Picture(NamedTuple):
    jpeg: bytes
    width: int
    height: int
    seen: tuple[Seen, ...]
    joints: np.ndarray  # [14 2] pixels of the (first) person, see `joints`
    codes: np.ndarray  # [h w] uint8, what is seen where, see paint.py


def spread(
    outlines: np.ndarray, rng, size, turn: float, cover: tuple[float, float], freedom: float = 1.0
) -> np.ndarray:
    """Matrix [2 3] body units → canvas pixels: outlines [n 2] turned, scaled to a share of the frame, moved
    about by `freedom` of the room that is left.
    """
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = outlines @ rotation.T
    low, high = turned.min(0), turned.max(0)
    frame = np.asarray(size, np.float64) * paint.SUPERSAMPLE
    share = rng.uniform(*cover)
    scale = min(share / np.max((high - low) / frame), CLOSEST * frame.min())
    extent = (high - low) * scale / frame
    slack = freedom * (0.85 * np.abs(1 - extent) / 2 + 0.05)
    centre = (0.5 + rng.uniform(-1, 1, 2) * slack) * frame
    return np.concatenate([rotation * scale, (centre - (low + high) / 2 * scale)[:, None]], 1)


def _outline(garment: Garment) -> np.ndarray:
    return np.concatenate([part.outline for part in garment.parts])


def _tuck(rng, upper: Item, chance: float) -> bool:
    """Whether the lower garment is drawn over the hem of the upper one."""
    return upper.category not in OUTERWEAR and rng.random() < chance


def _outfit(rng, item: Item, seed: int) -> list[Item]:
    """The item, and a plain companion where it leaves the other half bare; in painting order."""
    if not COMPANION[item.garment_type]:
        return [item]
    other = make_item(
        seed, COMPANION_NUMBERS + item.number, pick(rng, COMPANION[item.garment_type]), plain=True
    )
    if item.garment_type == "upper":
        return [other, item]
    return [other, item] if _tuck(rng, other, 0.9) else [item, other]


def render(
    rng, size, persons: list[paint.Person], consumer: bool, *, things: bool = True
) -> tuple[Image.Image, np.ndarray]:
    """Image and codes [h w] at supersampled size; `things`: now and then a bag or a telephone."""
    canvas_size = tuple(paint.SUPERSAMPLE * v for v in size)
    on = paint.canvas((ground.cluttered if consumer else ground.plain)(rng, canvas_size))
    for person in persons:
        paint.paint_person(on, person, rng)
        if things and rng.random() < (0.3 if consumer else 0.16):
            ground.bag(on, person, rng)
        if things and rng.random() < (0.2 if consumer else 0.04):
            ground.phone(on, person, rng)
    image = ground.photograph(rng, on.image.reduce(paint.SUPERSAMPLE), consumer)
    return image, np.asarray(on.codes)


def _visibility(codes: np.ndarray, pixels: np.ndarray, worn: paint.Worn) -> np.ndarray:
    """Codes of the 8 slots from what the map shows around each landmark (pixels [8 2] of the canvas)."""
    height, width = codes.shape
    result = np.full(8, 3, np.int32)
    for slot in range(SLOTS[worn.item.garment_type]):
        x, y = np.floor(pixels[slot]).astype(int)
        if not (0 <= x < width and 0 <= y < height):
            result[slot] = 2
            continue
        around = codes[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        own = around == 16 * worn.number + paint.PART_CODE[worn.garment.layer[slot]]
        result[slot] = 0 if codes[y, x] // 16 == worn.number and own.mean() > 0.5 else 1
    return result


def bounds(mask: np.ndarray) -> np.ndarray:
    """mask [h w] → box [4] float32 xyxy, far edges exclusive; zeros when the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _reduced(codes: np.ndarray) -> np.ndarray:
    """The map at the size of the image."""
    return codes[1 :: paint.SUPERSAMPLE, 1 :: paint.SUPERSAMPLE]


def _read(codes: np.ndarray, person: paint.Person, worn: paint.Worn) -> Seen:
    """Mask, box, landmarks and visibility of one garment."""
    mask = _reduced(codes) // 16 == worn.number
    pixels = paint.to_pixels(person.matrix, worn.garment.landmark)
    visibility = _visibility(codes, pixels, worn)
    landmark = (pixels / codes.shape[::-1]).astype(np.float32)
    landmark[visibility >= 2] = 0
    return Seen(worn.item, mask, bounds(mask), np.clip(landmark, 0, 1), visibility)


def joints(person: paint.Person) -> np.ndarray:
    """Head, neck, then left and right of the image: shoulder, elbow, wrist, hip, knee, ankle; [14 2]
    pixels.
    """
    limbs = [
        limb.path[at]
        for pair in (person.figure.arms, person.figure.legs)
        for at in (0, 6, 12)
        for limb in pair
    ]
    body = np.stack([paint.head_centre(person.figure), np.zeros(2), *limbs])
    return paint.to_pixels(person.matrix, body) / paint.SUPERSAMPLE


def encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _wear(figure: Figure, items: list[Item], first: int = 1) -> tuple[paint.Worn, ...]:
    return tuple(paint.Worn(item, make_garment(item, figure), first + n) for n, item in enumerate(items))


def single(
    rng: np.random.Generator,
    item: Item,
    seed: int,
    size: tuple[int, int],
    consumer: bool,
    freedom: float = 1.0,
) -> Picture:
    """An image of one item, worn, framed around it; size (width, height) in pixels. `freedom` scales how
    much place, size and turn vary: 1 the full range, 0 a garment that always fills the middle of the frame.
    """
    figure = make_figure(rng)
    worn = _wear(figure, _outfit(rng, item, seed))
    own = next(w for w in worn if w.item.number == item.number)
    turn = freedom * rng.normal(0, 13 if consumer else 6)
    closest = 1.05 if consumer else 1.0
    cover = (closest - freedom * (0.5 if consumer else 0.4), closest)
    person = paint.Person(figure, worn, spread(_outline(own.garment), rng, size, turn, cover, freedom))
    image, codes = render(rng, size, [person], consumer)
    return Picture(encode(image), *size, (_read(codes, person, own),), joints(person), _reduced(codes))


def _dressed(rng, items: list[Item], first: int) -> tuple[Figure, tuple[paint.Worn, ...]]:
    """A figure in an outfit of one full or an upper and a lower item, in painting order."""
    figure = make_figure(rng)
    order = sorted(items, key=lambda item: item.garment_type != "lower")
    if len(order) == 2 and _tuck(rng, order[1], 0.4):
        order = order[::-1]
    return figure, _wear(figure, order, first)


def several(
    rng: np.random.Generator, outfits: list[list[Item]], size: tuple[int, int], consumer: bool
) -> Picture:
    """An image of one or more dressed figures that may overlap; every garment of at least 0.2 % of the
    image is seen.
    """
    dressed, first = [], 1
    for items in outfits:
        dressed.append(_dressed(rng, items, first))
        first += len(items)
    shifts = np.cumsum([0.0] + [rng.uniform(1.3, 3.4) for _ in dressed[1:]])
    drops = rng.normal(0, 0.35, len(dressed))
    moved = [np.array([shift, drop]) for shift, drop in zip(shifts, drops)]
    everything = [
        _outline(worn.garment) + move for (_, outfit), move in zip(dressed, moved) for worn in outfit
    ]  # fmt: skip
    cover = (0.7, 1.25) if consumer else (0.6, 1.1)
    matrix = spread(np.concatenate(everything), rng, size, rng.normal(0, 9 if consumer else 3), cover)
    persons = []
    for (figure, outfit), move in zip(dressed, moved):
        shifted = np.concatenate([matrix[:, :2], (matrix[:, :2] @ move + matrix[:, 2])[:, None]], 1)
        persons.append(paint.Person(figure, outfit, shifted))
    if rng.random() < 0.5:
        persons = persons[::-1]
    image, codes = render(rng, size, persons, consumer)
    seen = tuple(_read(codes, person, worn) for person in persons for worn in person.worn)
    least = 0.002 * size[0] * size[1]
    seen = tuple(found for found in seen if found.mask.sum() >= least)
    return Picture(encode(image), *size, seen, joints(persons[0]), _reduced(codes))
