"""How the recorded outputs of a parity folder are computed, by the model that its keys and shapes belong to.

Outputs come back in PyTorch's layout (channels first, landmarks in pixels of the 224 frame), under the
folder's names.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.errors import UserError
from fashionjax.models.backbones import vgg
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.backbones.vgg import VGG
from fashionjax.models.backbones.vit import ViT
from fashionjax.models.cgd import CGD, CGDHead
from fashionjax.models.compatibility import TypeAware
from fashionjax.models.detection.rcnn import RCNN
from fashionjax.models.heads import FRAME
from fashionjax.models.region_patch import RegionPatch
from fashionjax.models.torch_keys import Rules
from fashionjax.parity import detection, fine_grained, outfits
from fashionjax.parity.results import Recording, dense
from fashionjax.weights import recognise as weight_files

Shapes = dict[str, tuple[int, ...]]


class Run(NamedTuple):
    """How the outputs of a model are computed and compared."""

    arguments: Callable[[dict], tuple]  # inputs of the folder -> positional arguments of the model
    outputs: Callable[[Any, dict, tuple], dict]  # (model, variables, arguments) -> jax arrays by output name
    init: Callable = lambda model, *arguments: model.init(jax.random.key(0), *arguments)
    # (stored outputs, name, what was computed) -> (measure, difference, bound)
    difference: Callable[[dict, str, Any], tuple[str, float, float]] = dense


class Recognised(NamedTuple):
    model: Any
    rules: Rules
    run: Run


class UnknownModel(UserError):
    """No model of the project has these keys."""


def recognise(shapes: Shapes, manifest: dict | None = None, recording: Recording | None = None) -> Recognised:
    """State-dict keys with their shapes -> the model; UnknownModel when they fit none.

    `model_args` of the manifest, where it has them, give what keys cannot: the weights of losses. Sets of
    detections are put into the order of the `recording`.
    """
    try:
        found = weight_files.model_of(shapes)
    except (KeyError, IndexError, ValueError) as error:  # a part of a known model, or a shape of wrong rank
        raise UnknownModel(f"keys or shapes of a known model are missing or wrong: {error}") from error
    if found is None:
        raise UnknownModel("the keys are not those of a ResNet, VGG or ViT")
    model, rules = found
    unknown = [key for key in shapes if not any(re.fullmatch(rule.torch, key) for rule in rules)]
    if unknown:
        raise UnknownModel(f"{len(unknown)} keys belong to no known model, first: {unknown[0]}")
    if isinstance(model, TypeAware):
        outputs = outfits.outputs_of(shapes, (manifest or {}).get("model_args") or {})
        return Recognised(model, rules, Run(outfits.arguments, outputs, outfits.init))
    if isinstance(model, RegionPatch):
        return Recognised(model, rules, Run(*fine_grained.run_of(manifest or {})))
    if isinstance(model, RCNN):
        return Recognised(model, rules, Run(*detection.run_of(manifest or {}, recording)))
    return Recognised(model, rules, RUNS.get(type(model), Run(_zoo_arguments, _zoo_outputs)))


def _image_argument(inputs: dict) -> tuple:
    return (rearrange(inputs["image"], "b c h w -> b h w c"),)


def _zoo_arguments(inputs: dict) -> tuple:
    (image,) = _image_argument(inputs)
    landmark = inputs.get("landmark")
    if landmark is None:
        return image, None
    return image, rearrange(landmark, "b (k xy) -> b k xy", xy=2) / np.float32(FRAME)


def _channels_first(x):
    return rearrange(x, "b h w c -> b c h w")


def _resnet_outputs(model: ResNet, variables: dict, arguments: tuple) -> dict:
    def run(variables, image):
        pyramid, state = model.apply(variables, image, mutable=["intermediates"])
        maps = {f"layer{i + 1}": level for i, level in enumerate(pyramid)}
        maps |= {"bn1": state["intermediates"]["stem"][0], "maxpool": state["intermediates"]["maxpool"][0]}
        maps |= {"output": pyramid[-1], "features": pyramid[-1]}
        outputs = {name: _channels_first(x) for name, x in maps.items()}
        outputs["pooled"] = pyramid[-1].mean(axis=(1, 2))
        if model.num_classes is not None:
            outputs["logits"] = model.apply(variables, image, method="logits")
        return outputs

    return jax.jit(run)(variables, *arguments)


def _vgg_outputs(model: VGG, variables: dict, arguments: tuple) -> dict:
    def run(variables, image):
        pyramid = model.apply(variables, image)
        behind = 3 if model.batch_norm else 2  # convolution, [normalisation,] ReLU, pooling
        stages = vgg.conv_indices(model.depth, model.batch_norm)
        maps = {f"features_{stage[-1] + behind}": level for stage, level in zip(stages, pyramid, strict=True)}
        outputs = {name: _channels_first(x) for name, x in {**maps, "output": pyramid[-1]}.items()}
        if model.num_classes is not None:
            outputs["logits"] = model.apply(variables, image, method="logits")
        return outputs

    return jax.jit(run)(variables, *arguments)


def _vit_outputs(model: ViT, variables: dict, arguments: tuple) -> dict:
    def run(variables, image):
        tokens, state = model.apply(variables, image, method="tokens", mutable=["intermediates"])
        outputs = {f"block_{i}": x for i, x in enumerate(state["intermediates"]["blocks"])}
        outputs |= {"patch_embed": state["intermediates"]["patch_embed"][0]}
        outputs |= {"tokens": tokens, "class_token": tokens[:, 0]}
        if model.num_classes is not None:
            outputs["logits"] = model.apply(variables, image, method="logits")
        return outputs

    return jax.jit(run)(variables, *arguments)


_CAPTURED = {
    "global_pool": "global_feat",
    "roi_pool": "roi_feat",
    "concat": "fused",
    "landmark_feature_extractor": "landmark_feat",
}
_RETURNED = {
    "attribute_logits": (("attr_logits", lambda x: x), ("attr_prob", jax.nn.sigmoid)),
    # The original puts a sigmoid behind the category logits too, although it trains them with a softmax.
    "category_logits": (("cate_logits", lambda x: x), ("cate_prob", jax.nn.sigmoid)),
    "embedding": (("embed", lambda x: x),),
    "id_logits": (("id_logits", lambda x: x),),
    "landmark": (("landmarks", lambda x: x * FRAME),),
    "visibility_logits": (("vis_prob", jax.nn.sigmoid),),
}


def _zoo_outputs(model, variables: dict, arguments: tuple) -> dict:
    """One jitted call; the passes over equal inputs share their backbone after common-subexpression
    elimination.
    """

    def one_pass(variables, image, landmark, **options):
        returned, state = model.apply(
            variables,
            image,
            landmark,
            capture_intermediates=lambda module, _: module.name in (*_CAPTURED, "backbone"),
            mutable=["intermediates"],
            **options,
        )
        captured = state["intermediates"]
        outputs = {"backbone": _channels_first(captured["backbone"]["__call__"][0][-1])}
        outputs |= {name: captured[key]["__call__"][0] for key, name in _CAPTURED.items() if key in captured}
        for key, forms in _RETURNED.items():
            if key in returned:
                outputs |= {name: form(returned[key]) for name, form in forms}
        return outputs

    def run(variables, image, landmark):
        outputs = one_pass(variables, image, landmark)
        if landmark is not None:
            mixed = one_pass(variables, image, landmark, roi_group=image.shape[0])
            old = one_pass(variables, image, landmark, align_corners=True)
            outputs |= {f"{name}_batched": x for name, x in mixed.items()}
            outputs |= {f"{name}_align_corners": x for name, x in old.items()}
        return outputs

    return jax.jit(run)(variables, *jax.tree.map(jnp.asarray, arguments))


def _cgd_init(model: CGD, image) -> dict:
    variables = model.init(jax.random.key(0), image)
    return {name: variables[name] for name in ("params", "batch_stats")}


def _cgd_outputs(model: CGD, variables: dict, arguments: tuple) -> dict:
    def run(variables, image):
        returned, state = model.apply(variables, image, mutable=["intermediates"])
        sown = state["intermediates"]
        outputs = {"backbone": _channels_first(sown["feature"][0]), "embed": returned["embedding"]}
        outputs |= {f"pooled_{i}": x for i, x in enumerate(sown["head"]["pooled"])}
        return outputs | ({"class_logits": returned["id_logits"]} if "id_logits" in returned else {})

    return jax.jit(run)(variables, *arguments)


# module -> how it runs; the others are MMFashion's models
RUNS = {
    CGD: Run(_image_argument, _cgd_outputs, _cgd_init),
    ResNet: Run(_image_argument, _resnet_outputs),
    VGG: Run(_image_argument, _vgg_outputs),
    ViT: Run(_image_argument, _vit_outputs),
    CGDHead: Run(detection.cgd_arguments, detection.cgd_outputs, detection.cgd_init),
}
