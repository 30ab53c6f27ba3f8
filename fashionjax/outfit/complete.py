"""`fashionjax.complete_outfit`: what of a gallery would complete the items on some images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import jax

from fashionjax.gallery import embed
from fashionjax.inference.photo_model import PhotoModel
from fashionjax.inference.photos import Pixels
from fashionjax.outfit import completion
from fashionjax.outfit.completion import Completion
from fashionjax.outfit.score import open_outfit
from fashionjax.outfit.typed_gallery import TypedGallery, check_type


def complete_outfit(
    model: PhotoModel,
    images: Iterable[Pixels],
    gallery: TypedGallery | str | os.PathLike,
    *,
    missing: Sequence[str] | None = None,
    types: Sequence[str | None] | None = None,
    k: int = 5,
) -> list[Completion]:
    """The k best items of the gallery for each missing type, given the items on `images` (one on each).

    gallery: a TypedGallery, a file that one was saved in, a folder of images, or `dataset:NAME/CONFIG:SPLIT`.
    missing: types to look for; by default all that the gallery has and the outfit has not; a type the gallery
    lacks gives nothing. types: a type for each image, None where it is to be predicted. UserError for an
    image that cannot be read, an unknown type, or a model of another task.
    """
    outfit = open_outfit(model, images, types)
    if not isinstance(gallery, TypedGallery):
        name = os.fspath(gallery)
        build = name.startswith(embed.DATASET) or os.path.isdir(name)
        gallery = TypedGallery.build(model, name) if build else TypedGallery.load(name, model)
    for name in missing or ():
        check_type(name, gallery.types, "missing")
    if missing is None:
        missing = completion.types_to_add([item.type for item in outfit.items], gallery)
    rank = completion.make_ranker(model.config, jax.device_get(model.model.params))
    ranked, _ = completion.complete(outfit.embedding, outfit.category, gallery, rank, missing, k)
    return [entry for entries in ranked.values() for entry, _ in entries]
