"""The pieces of an outfit: photos read and embedded, with the types that were given or predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.outfit import page as outfit_page
from fashionjax.outfit import typed_gallery
from fashionjax.outfit.page import Item

SHOWN = (outfit_page.SIDE, outfit_page.SIDE)  # longer side of a photo that is kept, least and largest


class Outfit(NamedTuple):
    """The pieces with their general embeddings f32 [n d] and types [n] i32."""

    items: tuple[Item, ...]
    embedding: np.ndarray
    category: np.ndarray


def load(path: str) -> inference.Model:
    """A compatibility model."""
    model = photos.load(path)
    if model.config.task != "compatibility":
        raise UserError(
            f"{path}: is a checkpoint of the task {model.config.task}; outfits need one of compatibility "
            "(experiments/compatibility.py)"
        )
    return model


def given_types(text: str, paths: Sequence[str], config: ConfigDict) -> list[int | None]:
    """`--types` → the type of every photo, None where it is to be predicted."""
    known = list(config.labels.category)
    names = [name.strip() for name in text.split(",")] if text else [""] * len(paths)
    if len(names) != len(paths):
        raise UserError(
            f"--types={text} has {len(names)} entries for {len(paths)} photos; give one for each (empty: "
            "predicted)"
        )
    for name, path in zip(names, paths, strict=True):
        check_type(name or known[0], known, f"--types: {path}")
    if not all(names) and not typed_gallery.has_type_head(config):
        raise UserError(
            "this checkpoint has no type head; say what is on each photo with --types=TYPE,TYPE,… "
            f"({', '.join(known)})"
        )
    return [known.index(name) if name else None for name in names]


def check_type(name: str, known: Sequence[str], where: str) -> None:
    if name not in known:
        raise UserError(f"{where}: {name!r} is no type of this checkpoint; it knows {', '.join(known)}")


def read(
    paths: Sequence[str], types: Sequence[int | None], config: ConfigDict, predictor: photos.Predictor
) -> Outfit | list[UserError]:
    """The photos embedded; or, of those that cannot be read, what is wrong with each."""
    names = list(config.labels.category)
    found = list(photos.outputs(paths, predictor, SHOWN))
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
