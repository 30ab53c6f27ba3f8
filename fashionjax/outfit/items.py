"""The items of an outfit: images read and embedded, with the types that were given or predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.inference.photos import Pixels, Source
from fashionjax.outfit import typed_gallery


class Item(NamedTuple):
    """An item of the outfit. probability: of a predicted type, None for a given one."""

    path: str
    type: str
    probability: float | None
    shown: np.ndarray | None  # uint8 [h w 3]


class Outfit(NamedTuple):
    """The items with their general embeddings f32 [n d] and types [n] i32."""

    items: tuple[Item, ...]
    embedding: np.ndarray
    category: np.ndarray


def load(path: str) -> inference.Model:
    """A compatibility model."""
    model = photos.load(path)
    typed_gallery.check_task(model.config, path)
    return model


def given_types(text: str, paths: Sequence[str], config: ConfigDict) -> list[int | None]:
    """`--types` → the type of every image, None where it is to be predicted."""
    names = [name.strip() for name in text.split(",")] if text else None
    if names is not None and len(names) != len(paths):
        raise UserError(
            f"--types={text} has {len(names)} entries for {len(paths)} images; give one for each (empty: "
            "predicted)"
        )
    return numbered_types(names, paths, config)


def numbered_types(
    names: Sequence[str | None] | None, paths: Sequence[str], config: ConfigDict
) -> list[int | None]:
    """A type's name for every image ("" or None: predicted) → its number; without names all are predicted."""
    known = list(config.labels.category)
    names = [None] * len(paths) if names is None else list(names)
    if len(names) != len(paths):
        raise UserError(f"types: got {len(names)} for {len(paths)} images, expected one for each")
    for name, path in zip(names, paths, strict=True):
        typed_gallery.check_type(name or known[0], known, f"type of {path}")
    if not all(names) and not typed_gallery.has_type_head(config):
        raise UserError(
            "this checkpoint has no type head; give the type of each image with --types=TYPE,TYPE,… "
            f"({', '.join(known)})"
        )
    return [known.index(name) if name else None for name in names]


def read(
    images: Sequence[Pixels | Source],
    types: Sequence[int | None],
    config: ConfigDict,
    predictor: photos.Predictor,
    sides: tuple[int, int] | None = None,
) -> Outfit | list[UserError]:
    """The images embedded; or, of those that cannot be read, what is wrong with each. `sides` as for
    `photos.outputs`."""
    names = list(config.labels.category)
    found = list(photos.outputs(images, predictor, sides))
    broken = [item for item, output in found if output is None]
    if broken:
        return broken
    items, category = [], []
    for (item, output), given in zip(found, types, strict=True):
        if not all(np.isfinite(value).all() for value in output.values()):
            raise UserError(f"{item.path}: the model's embedding is not finite; use another checkpoint")
        kind, share = given, None
        if given is None:
            logits = np.asarray(output["category_logits"], np.float64)
            kind = int(np.argmax(logits))
            share = float(1 / np.exp(logits - logits[kind]).sum())
        items.append(Item(item.path, names[kind], share, item.shown))
        category.append(kind)
    embedding = np.stack([output["embedding"] for _, output in found]).astype(np.float32)
    return Outfit(tuple(items), embedding, np.asarray(category, np.int32))
