"""Orders of training on (image, attribute) pairs: triplets of one attribute, and balanced groups of its
values. As in `samplers`, each is a pure function (seed, position) → pair.
"""

from __future__ import annotations

import dataclasses
import functools
import sys

import numpy as np

from fashionjax.data.samplers import Sampler, permutation
from fashionjax.errors import UserError

TRIPLETS = 100_000  # of an epoch upstream, whatever the size of the dataset
TRIES = 100  # negatives drawn for a triplet before its values are drawn again


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, for the caches below
class Values:
    """Pairs by attribute and value. attributes [k]: those that triplets can be drawn of; shown[a] the values
    of an attribute that have a pair, anchors[a] those with pairs of two images; of[a][v] the pairs of a
    value, in file order; record [n] of each pair; labels: (record, attribute, value) of every pair."""

    attributes: np.ndarray
    shown: dict[int, np.ndarray]
    anchors: dict[int, np.ndarray]
    of: dict[int, dict[int, np.ndarray]]
    record: np.ndarray
    labels: frozenset


def values_of(attribute, value, record) -> Values:
    """attribute, value, record [n] of the pairs of a split. Values with one image cannot be an anchor's, and
    attributes without an anchor or a second value are left out; both are counted on stderr."""
    attribute, value, record = (np.asarray(column, np.int64) for column in (attribute, value, record))
    of: dict[int, dict[int, np.ndarray]] = {}
    shown, anchors = {}, {}
    for a in np.unique(attribute).tolist():
        rows = np.flatnonzero(attribute == a)
        names, code = np.unique(value[rows], return_inverse=True)
        of[a] = {v: rows[code == i] for i, v in enumerate(names.tolist())}
        shown[a] = names
        anchors[a] = np.asarray([v for v, own in of[a].items() if len(set(record[own].tolist())) > 1])
    usable = [a for a in of if len(anchors[a]) and len(shown[a]) > 1]
    if not usable:
        raise UserError("no attribute of this split has two values, one of them of two images")
    single = sum(len(shown[a]) - len(anchors[a]) for a in of)
    if single or len(usable) < len(of):
        note = f"{single} values occur in one image only and give no anchors"
        note += f", {len(of) - len(usable)} attributes are left out" if len(usable) < len(of) else ""
        print(f"note: {note}", file=sys.stderr)
    labels = frozenset(zip(record.tolist(), attribute.tolist(), value.tolist(), strict=True))
    return Values(np.asarray(usable), shown, anchors, of, record, labels)


def attribute_triplets(
    attribute, value, record, triplets: int = TRIPLETS, *, strict: bool = True, by_image: bool = False
) -> Sampler:
    """Anchor, positive, negative of one attribute at consecutive positions; `triplets` make an epoch.

    The attribute is uniform, then an ordered pair of two different values, then two images of the first and
    one of the second: uniform over values, not over images. `strict`: a negative that also has the anchor's
    value (or is the anchor itself), which happens where images have several values of an attribute, is drawn
    again; upstream keeps it. Source: RPF, modules/data/samplers. `by_image`: the negative is uniform over the
    images of all other values, as in ASEN.
    """
    drawn = values_of(attribute, value, record)
    return Sampler(3 * triplets, functools.partial(_triplet_at, drawn, strict, by_image))


def _triplet_at(drawn: Values, strict: bool, by_image: bool, seed: int, position: int) -> int:
    number, role = divmod(position, 3)
    return _triplet(drawn, strict, by_image, seed, number)[role]


@functools.lru_cache(maxsize=64)
def _triplet(drawn: Values, strict: bool, by_image: bool, seed: int, number: int) -> tuple[int, int, int]:
    rng = np.random.default_rng((seed, 5, number))
    for _ in range(TRIES):
        a = int(rng.choice(drawn.attributes))
        own = int(rng.choice(drawn.anchors[a]))
        values = drawn.shown[a][drawn.shown[a] != own]
        share = np.asarray([len(drawn.of[a][v]) for v in values.tolist()], np.float64)
        other = int(rng.choice(values, p=share / share.sum() if by_image else None))
        anchor = int(rng.choice(drawn.of[a][own]))
        same = drawn.of[a][own]
        positive = int(rng.choice(same[drawn.record[same] != drawn.record[anchor]]))
        for _ in range(TRIES):
            negative = int(rng.choice(drawn.of[a][other]))
            if not strict or (int(drawn.record[negative]), a, own) not in drawn.labels:
                return anchor, positive, negative
    raise UserError(
        f"{TRIES} draws in a row found no negative: images with one value of an attribute nearly always have "
        "the other values too"
    )


def attribute_balanced(attribute, value, record, values: int, per_value: int) -> Sampler:
    """Groups of `values` × `per_value` consecutive positions: one attribute, `values` of its values,
    `per_value` images of each, for losses whose negatives are the other values in the batch.

    Attributes come equally often, in a fresh order each time around. An attribute with fewer values repeats
    them with further images; a value with fewer images repeats those. An epoch has as many positions as there
    are pairs.
    """
    if per_value < 2 or values < 2:
        raise UserError(f"{values} values of {per_value} images: both must be at least 2")
    drawn = values_of(attribute, value, record)
    return Sampler(len(drawn.record), functools.partial(_balanced_at, drawn, values, per_value))


def _balanced_at(drawn: Values, values: int, per_value: int, seed: int, position: int) -> int:
    group, slot = divmod(position, values * per_value)
    return int(_group(drawn, values, per_value, seed, group)[slot])


@functools.lru_cache(maxsize=64)
def _group(drawn: Values, values: int, per_value: int, seed: int, group: int) -> np.ndarray:
    """The pairs of one group, [values * per_value]."""
    rng = np.random.default_rng((seed, 6, group))
    epoch, place = divmod(group, len(drawn.attributes))
    a = int(drawn.attributes[permutation(seed, epoch, len(drawn.attributes))[place]])
    order = rng.permutation(drawn.shown[a])
    chosen = np.resize(order, values)
    used: dict[int, int] = {}
    rows = []
    for v in chosen.tolist():
        own = np.random.default_rng((seed, 7, group, v)).permutation(drawn.of[a][v])
        start = used.get(v, 0)
        rows.append(own[(start + np.arange(per_value)) % len(own)])
        used[v] = start + per_value
    return np.concatenate(rows)


def whole_images(attribute, value, record, attributes: int) -> Sampler:
    """Images in a fresh order each epoch, each with its value of every attribute: labels `attribute` and
    `value` [attributes], value -1 where it has none. Of several values of one attribute the first counts."""
    attribute, value, record = (np.asarray(column, np.int64) for column in (attribute, value, record))
    _, first, number = np.unique(record, return_index=True, return_inverse=True)
    table = np.full((len(first), attributes), -1, np.int32)
    for pair in range(len(record) - 1, -1, -1):
        table[number[pair], attribute[pair]] = value[pair]
    return Sampler(len(first), functools.partial(_image_at, first, table))


def _image_at(first: np.ndarray, table: np.ndarray, seed: int, position: int) -> tuple[int, dict]:
    epoch, place = divmod(position, len(first))
    image = permutation(seed, epoch, len(first))[place]
    labels = {"attribute": np.arange(table.shape[1], dtype=np.int32), "value": table[image]}
    return int(first[image]), labels
