"""PyTorch's names of compatibility models: MMFashion's and the original author's, and models read off shapes.

Sources: mmfashion/models/{fashion_recommender,type_specific_net,triplet_net}; mvasil/fashion-compatibility.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import flax.linen as nn
from einops import rearrange

from fashionjax.models import backbones
from fashionjax.models.compatibility import SIDE, TypeAware
from fashionjax.models.torch_keys import (
    BATCH_COUNTER,
    LINEAR,
    SAME,
    Ignore,
    KeyRule,
    Layout,
    Rules,
    batch_norm_rules,
    chw_linear,
    linear_rules,
    norm_rules,
    prefixed,
)

ORIGIN_PREFIX = "embeddingnet.embeddingnet."  # of the original author's backbone
ROW = Layout(lambda x: rearrange(x, "1 d -> d"), lambda x: rearrange(x, "d -> 1 d"))


def _head_rules(text: str, metric: str) -> Rules:
    return (
        *linear_rules(rf"{text}\.fc1\.0", "text_branch/fc1_0"),
        *batch_norm_rules(rf"{text}\.fc1\.1", "text_branch/fc1_1"),
        *linear_rules(rf"{text}\.fc2", "text_branch/fc2"),
        Ignore(rf"{text}\.fc1\.1\.num_batches_tracked", BATCH_COUNTER.why),
        KeyRule(rf"{text}\.words\.weight", "params/text_branch/words/embedding", SAME),
        KeyRule(rf"{metric}\.weight", "params/metric_branch", ROW),
        *linear_rules(r"type_head", "type_head"),
    )


def _space_rules(masks: str) -> Rules:
    """`#` stacks: tensor i of the file is row i of the leaf."""
    return (
        KeyRule(rf"{masks}\.weight", "params/type_specific_net/mask", SAME),
        KeyRule(rf"{masks}\.(\d+)\.weight", r"params/type_specific_net/kernel#\1", LINEAR),
        KeyRule(rf"{masks}\.(\d+)\.bias", r"params/type_specific_net/bias#\1", SAME),
    )


# MMFashion's names of everything but the backbone; a model of this project without a counterpart there is
# written with them too
TORCH_KEYS = (
    *linear_rules(r"global_pool\.global_layers", "global_pool/global_layers", chw_linear(SIDE, SIDE)),
    *linear_rules(r"global_pool\.fc_embed", "global_pool/fc_embed"),
    *_space_rules(r"type_specific_net\.masks"),
    *_head_rules(r"triplet_net\.text_branch", r"triplet_net\.metric_branch"),
    *linear_rules(r"set_scorer\.(item|logit)", r"set_scorer/\1"),
    *linear_rules(r"set_scorer\.(layer\d+)_(query|key|value|out|up|down)", r"set_scorer/\1_\2"),
    *norm_rules(r"set_scorer\.(layer\d+)_(norm\d)", r"set_scorer/\1_\2"),
    *norm_rules(r"set_scorer\.(input|output)_norm", r"set_scorer/\1_norm"),
    KeyRule(r"set_scorer\.type\.weight", "params/set_scorer/type/embedding", SAME),
    KeyRule(r"set_scorer\.start", "params/set_scorer/start", SAME),
)
# the original author's, who averages
ORIGIN_KEYS = (
    *linear_rules(r"embeddingnet\.embeddingnet\.fc_embed", "global_pool/fc_embed"),
    *_space_rules(r"embeddingnet\.masks"),
    *_head_rules("text_branch", "metric_branch"),
)


def torch_keys(model: nn.Module, keys: Iterable[str] | None = None) -> Rules:
    """Key rules of a whole model, with the names of a file's `keys`. None: the names of the code that has
    this model, the original author's for type spaces behind an average.
    """
    if keys is None:
        origin = isinstance(model, TypeAware) and model.pool == "average"
    else:
        origin = names_of_origin(keys)
    backbone = backbones.torch_keys(model.backbone)
    prefix, keys = (ORIGIN_PREFIX, ORIGIN_KEYS) if origin else ("backbone.", TORCH_KEYS)
    return prefixed(backbone, prefix, "backbone") + keys


# parts that a file may have, in MMFashion's names; words are an encoder of texts instead of given features
PARTS = {
    "type masks": "type_specific_net.masks.weight",
    "type layers": "type_specific_net.masks.0.weight",
    "learned metric": "triplet_net.metric_branch.weight",
    "set transformer": "set_scorer.logit.weight",
    "text branch": "triplet_net.text_branch.fc2.weight",
    "word vectors": "triplet_net.text_branch.words.weight",
    "type head": "type_head.weight",
}
# the original author's names → MMFashion's, the first that fits
ALIASES = (
    ("embeddingnet.embeddingnet.fc_embed.", "global_pool.fc_embed."),
    (ORIGIN_PREFIX, "backbone."),
    ("embeddingnet.masks.", "type_specific_net.masks."),
    ("text_branch.", "triplet_net.text_branch."),
    ("metric_branch.", "triplet_net.metric_branch."),
)


def names_of_origin(keys: Iterable[str]) -> bool:
    """Whether a file has the names of the original author's code."""
    return any(key.startswith("embeddingnet.") for key in keys)


class Sizes(NamedTuple):
    """What the shapes of a file say, whether or not they are possible; None: nothing."""

    spaces: int | None  # type spaces
    types: int | None  # outputs of the type head, or rows of the set transformer's types
    text: int | None  # length of a text feature


def sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """{MMFashion's name: shape} → sizes."""

    def side(key: str, axis: int) -> int | None:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) == 2 else None

    masks = [re.fullmatch(r"type_specific_net\.masks\.(\d+)\.\w+", key) for key in shapes]
    layers = len({match[1] for match in masks if match})
    types = side("type_head.weight", 0), side("set_scorer.type.weight", 0)
    words = PARTS["word vectors"] in shapes
    return Sizes(
        layers or side(PARTS["type masks"], 0),
        types[1] if types[0] is None else types[0],
        None if words else side("triplet_net.text_branch.fc1.0.weight", 1),
    )


def pooling(shapes: Mapping) -> str:
    """'average' or 'flatten', see `compatibility.GeneralEmbedding`."""
    return "average" if "global_pool.fc_embed.weight" in shapes else "flatten"


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> TypeAware:
    """{MMFashion's name: shape} → the type-aware model; KeyError or ValueError where parts are missing."""
    read = sizes(shapes)
    if not read.spaces:
        raise ValueError("the type spaces are neither masks nor layers")
    if read.text is None:
        raise ValueError("there is no text branch beside the type spaces")
    masks = PARTS["type masks"] in shapes
    return TypeAware(
        backbone,
        embedding=shapes[PARTS["type masks" if masks else "type layers"]][-1],
        pool=pooling(shapes),
        types=read.types,
        text="features",
        spaces=read.spaces,
        projection="mask" if masks else "fc",
        metric=PARTS["learned metric"] in shapes,
    )
