"""FashionJAX: fashion-vision systems on JAX and Flax.

    import fashionjax

    model = fashionjax.load("runs/demo/train")
    print(model.predict("look.jpg")[0])

docs/api.md describes the functions below. They are imported on first use, so that `import fashionjax` is
cheap and does not start JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fashionjax.errors import UserError
    from fashionjax.gallery.collection import Gallery, Match, SearchResult
    from fashionjax.inference.photo_model import PhotoModel, load
    from fashionjax.outfit.complete import complete_outfit
    from fashionjax.outfit.completion import Completion
    from fashionjax.outfit.score import OutfitScore, score_outfit
    from fashionjax.outfit.typed_gallery import TypedGallery
    from fashionjax.results import Instance, Label, Landmark, Prediction, Result, Segmentation

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Gallery",
    "Instance",
    "Label",
    "Landmark",
    "Match",
    "OutfitScore",
    "PhotoModel",
    "Prediction",
    "Result",
    "SearchResult",
    "Segmentation",
    "TypedGallery",
    "UserError",
    "__version__",
    "complete_outfit",
    "load",
    "score_outfit",
]

_MODULES = {
    "UserError": "errors",
    "load": "inference.photo_model",
    "PhotoModel": "inference.photo_model",
    "Prediction": "results",
    "Result": "results",
    "Segmentation": "results",
    "Instance": "results",
    "Label": "results",
    "Landmark": "results",
    "Gallery": "gallery.collection",
    "Match": "gallery.collection",
    "SearchResult": "gallery.collection",
    "TypedGallery": "outfit.typed_gallery",
    "complete_outfit": "outfit.complete",
    "Completion": "outfit.completion",
    "score_outfit": "outfit.score",
    "OutfitScore": "outfit.score",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fashionjax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fashionjax.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
