"""Photos → the results of the model's task, one each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fashionjax.errors import UserError
from fashionjax.inference import photos
from fashionjax.inference.photos import Photo, Pixels, Predictor, Source
from fashionjax.results import Result
from fashionjax.task import Seen


def predict(
    images: Sequence[Pixels | Source], predictor: Predictor, *, topk: int = 5, sides: tuple | None = None
) -> Iterator[tuple[Result, Photo | None]]:
    """Each image's result, in order, with the photo it came from (None for one that cannot be read).

    `sides` are the least and the largest longer side of `Photo.shown`. UserError where the model has nothing
    to say of a photo by itself.
    """
    sources = photos.named(images)
    for source, (item, output) in zip(sources, photos.outputs(sources, predictor, sides), strict=True):
        if output is None:
            yield kind_of(predictor)(source.name, error=str(item)), None
            continue
        broken = [name for name, value in output.items() if not np.isfinite(value).all()]
        parts = {}
        if predictor.results is not None and not broken:
            seen = Seen(item.example, item.size, predictor.names, predictor.config, topk)
            parts = predictor.results.parts(output, seen)
        if broken:
            why = f"the model's {', '.join(broken)} is not finite; use another checkpoint"
            yield kind_of(predictor)(source.name, error=f"{source.name}: {why}"), None
        elif not parts:
            raise UserError(
                f"this model's outputs are {', '.join(output)}: predict shows none of these (embeddings are "
                "for `fashionjax search` and `outfit`)"
            )
        else:
            yield predictor.results.kind(source.name, *item.size, **parts), item


def kind_of(predictor: Predictor) -> type[Result]:
    """The class of a predictor's results."""
    return Result if predictor.results is None else predictor.results.kind
