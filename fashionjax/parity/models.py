"""Which model a parity folder holds, told from its state dict's keys and shapes, and how its recorded outputs
are computed.

Outputs come back in PyTorch's layout (channels first, landmarks in pixels of the 224 frame), under the
folder's names.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.errors import UserError
from fashionjax.models import backbones, compatibility, pooled_features
from fashionjax.models.backbones import resnet, vgg
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.backbones.vgg import VGG
from fashionjax.models.backbones.vit import ViT
from fashionjax.models.heads import FRAME
from fashionjax.models.landmark_detector import LandmarkDetector
from fashionjax.models.predictor import Predictor
from fashionjax.models.retriever import Retriever
from fashionjax.models.torch_keys import Rules
from fashionjax.parity import outfits
from fashionjax.weights.recognise import names_of_origin

Shapes = dict[str, tuple[int, ...]]
HEAD_SIZE = 64  # channels of one attention head in every published ViT


class Recognised(NamedTuple):
    model: Any
    rules: Rules
    arguments: Callable[[dict], tuple]  # inputs of the folder -> positional arguments of the model
    outputs: Callable[[Any, dict, tuple], dict]  # (model, variables, arguments) -> jax arrays by output name
    init: Callable = lambda model, *arguments: model.init(jax.random.key(0), *arguments)


class UnknownModel(UserError):
    """No model of the project has these keys."""


def recognise(shapes: Shapes, model_args: dict | None = None) -> Recognised:
    """State-dict keys with their shapes -> the model; UnknownModel when there is none that they fit.

    `model_args` of the manifest, where it has them, say what keys cannot: the weights of losses.
    """
    try:
        found = _recognise(shapes, model_args or {})
    except (KeyError, IndexError, ValueError) as error:  # a part of a known model, or a shape of wrong rank
        raise UnknownModel(f"keys or shapes of a known model are missing or wrong: {error}") from error
    strangers = [key for key in shapes if not any(re.fullmatch(rule.torch, key) for rule in found.rules)]
    if strangers:
        raise UnknownModel(f"{len(strangers)} keys belong to no known model, first: {strangers[0]}")
    return found


def _recognise(shapes: Shapes, model_args: dict) -> Recognised:
    if outfits.is_outfit_model(shapes):
        return _outfit_model(shapes, model_args)
    inner = {key.removeprefix("backbone."): s for key, s in shapes.items() if key.startswith("backbone.")}
    if inner:
        model = _zoo_model(backbone_from(inner), shapes)
        return Recognised(model, pooled_features.torch_keys(model), _zoo_arguments, _zoo_outputs)
    model = backbone_from(shapes)
    outputs = {ResNet: _resnet_outputs, VGG: _vgg_outputs, ViT: _vit_outputs}[type(model)]
    return Recognised(model, backbones.torch_keys(model), _image_argument, outputs)


def _outfit_model(shapes: Shapes, model_args: dict) -> Recognised:
    prefix = outfits.backbone_prefix(shapes)
    inner = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    model = outfits.model_of(backbone_from(inner), shapes)
    origin = names_of_origin(shapes)
    outputs = partial(outfits.outputs, outfits.config_of(shapes, model_args), origin)
    rules = compatibility.torch_keys(model, origin)
    return Recognised(model, rules, outfits.arguments, outputs, outfits.init)


def backbone_from(shapes: Shapes):
    """Keys of a torchvision ResNet or VGG or a timm ViT, without a prefix -> the module that they fit."""
    for build in (_resnet_from, _vgg_from, _vit_from):
        module = build(shapes)
        if module is not None:
            return module
    raise UnknownModel("the keys are not those of a ResNet, VGG or ViT")


def _classes(shapes: Shapes, key: str) -> int | None:
    return shapes[key][0] if key in shapes else None


def _resnet_from(shapes: Shapes) -> ResNet | None:
    blocks = {}
    for key in shapes:
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.conv1\.weight", key):
            blocks[int(match[1])] = max(blocks.get(int(match[1]), 0), int(match[2]) + 1)
    if not blocks or "conv1.weight" not in shapes or len(shapes["conv1.weight"]) != 4:
        return None
    counts, bottleneck = tuple(blocks[stage] for stage in sorted(blocks)), "layer1.0.conv3.weight" in shapes
    for depth, known in resnet.BLOCKS.items():
        if known[: len(counts)] == counts and (depth in resnet.BOTTLENECK_DEPTHS) == bottleneck:
            return ResNet(
                depth=depth,
                width=shapes["conv1.weight"][0],
                stage_strides=(1, 2, 2, 2)[: len(counts)],
                num_classes=_classes(shapes, "fc.weight"),
            )
    return None


def _vgg_from(shapes: Shapes) -> VGG | None:
    convs = [
        key
        for key, shape in shapes.items()
        if re.fullmatch(r"features\.\d+\.weight", key) and len(shape) == 4
    ]
    for depth in vgg.STAGES:
        for batch_norm in (False, True):
            indices = vgg.conv_indices(depth, batch_norm)
            if convs == [f"features.{i}.weight" for stage in indices for i in stage]:
                return VGG(
                    depth=depth,
                    batch_norm=batch_norm,
                    width=shapes[convs[0]][0],
                    num_classes=_classes(shapes, "classifier.6.weight"),
                )
    return None


def _vit_from(shapes: Shapes) -> ViT | None:
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= shapes.keys():
        return None
    width, _, patch, _ = shapes["patch_embed.proj.weight"]
    return ViT(
        width=width,
        depth=1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
        heads=width // HEAD_SIZE,
        patch=patch,
        grid=round((shapes["pos_embed"][1] - 1) ** 0.5),
        num_classes=_classes(shapes, "head.weight"),
    )


def _zoo_model(backbone, shapes: Shapes):
    """The MMFashion model around `backbone`, every width read from the shapes."""
    first, last = "global_pool.global_layers.0.weight", "global_pool.global_layers.3.weight"
    if first not in shapes or last not in shapes:
        raise UnknownModel("there is no two-layer global pooling beside the backbone")
    fields = {"backbone": backbone, "hidden": shapes[first][0], "features": shapes[last][0]}
    if "landmark_regression.linear.weight" in shapes:
        vector = shapes["landmark_regression.linear.weight"][1]
        total = shapes["landmark_feature_extractor.linear.weight"][0]
        return LandmarkDetector(**fields, landmarks=total // vector, landmark_features=vector)
    fields["pooling"] = "roi" if "roi_pool.linear.0.weight" in shapes else "global"
    fields["attributes"] = _classes(shapes, "attr_predictor.linear_attr.weight")
    if "embed_extractor.embed_linear.weight" in shapes:
        return Retriever(
            **fields,
            embedding=shapes["embed_extractor.embed_linear.weight"][0],
            ids=_classes(shapes, "embed_extractor.id_linear.weight"),
        )
    return Predictor(**fields, categories=_classes(shapes, "cate_predictor.linear_cate.weight"))


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
