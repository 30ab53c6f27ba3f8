"""PyTorch files of compatibility models: what a config says for one, and which types its spaces join.

A file does not say which types a type space joins: that comes from the release's `typespaces.p`, given by the
user, or from the prepared dataset; else types are numbered.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.models import compatibility_keys as names
from fashionjax.task import Weights
from fashionjax.tasks import supervised

OUTFIT_TYPES = 11  # of Polyvore Outfits
TYPES_LIMIT = 512  # a file that claims more is wrong, and its keys are reported
TEXT_LIMIT = 1 << 20  # as well


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The experiment, or the fields of a config, whose model has these parts."""
    text = "words" if "word vectors" in parts else "features" if "text branch" in parts else "none"
    if "set transformer" in parts:
        return f"task=compatibility model.kind=set_transformer model.pool={pooling} model.text={text}"
    recipe = "origin" if pooling == "average" else "zoo"
    projection = "fc" if "type layers" in parts else "mask"
    types = "true" if "type head" in parts else "false"
    arguments = f"recipe={recipe},projection={projection},text={text},types={types}"
    if ("learned metric" in parts) != (projection == "fc"):
        arguments += f" and model.metric={'learned metric' in parts}"
    return f"experiments/compatibility.py:{arguments}"


def fit_config(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, list], given: bool
) -> list[str]:
    """See `task.Weights.fit_config`; the labels are category (types) and type_space (pairs of types)."""
    sizes = names.sizes(shapes)
    labels, remarks, nondisjoint = known, [], config.dataset.endswith("/nondisjoint")
    if not {"category", "type_space"} <= set(known):
        labels = numbered(sizes)
        remarks.append(
            f"types and type spaces are named by number ({config.dataset} is not prepared). A file does not "
            "say which types a space joins, and comparisons in the wrong spaces mean nothing: pass "
            "--type_spaces=typespaces.p of the release that the model was trained on"
        )
    elif not given and nondisjoint and not quirks.on(config, "c6_tested_on_disjoint"):
        remarks.append(
            f"type spaces are named as in {config.dataset}; MMFashion's configs read those of the "
            "disjoint release: pass --type_spaces=disjoint/typespaces.p for its files"
        )
    with config.unlocked():
        config.labels = ConfigDict(labels)
        if config.model.text == "features" and sizes.text and sizes.text <= TEXT_LIMIT:
            config.model.text_features = sizes.text
    return remarks


def numbered(sizes: names.Sizes) -> dict[str, list]:
    """Labels of as many types as a file has: n of them make n (n + 1) / 2 spaces, and the nearest such number
    counts, so that a space too many or too few is reported by its keys."""
    if sizes.spaces is not None:
        types = round((math.sqrt(8 * max(sizes.spaces, 1) + 1) - 1) / 2)
    else:
        types = OUTFIT_TYPES if sizes.types is None else sizes.types
    called = supervised.numbered("type", types if 1 <= types <= TYPES_LIMIT else OUTFIT_TYPES)
    pairs = itertools.combinations_with_replacement(called, 2)
    return {"category": called, "type_space": [list(pair) for pair in pairs]}


WEIGHTS = Weights(
    key_rules=names.torch_keys,
    parts=names.PARTS,
    defining=("type masks", "type layers", "set transformer"),
    from_shapes=names.from_shapes,
    pooling=names.pooling,
    fitting_config=fitting_config,
    fit_config=fit_config,
    aliases=names.ALIASES,
    sizes=lambda shapes: {"type spaces": names.sizes(shapes).spaces},
    takes_type_spaces=True,
)
