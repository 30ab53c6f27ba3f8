"""Attribute-aware models: how the recorded outputs of RPF's folders are computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.models import region_patch, region_patch_keys
from fashionjax.models.region_patch import RegionPatch
from fashionjax.ops.distances import unit
from fashionjax.parity import draws
from fashionjax.weights import key_maps

BETA = 0.3  # of the FashionAI config


def run_of(manifest: dict) -> tuple:
    """The fields of `models.Run`; the entries of a Google checkpoint in the manifest overwrite the patch
    branch's transformer."""
    if not manifest.get("npz_entries"):
        return arguments, outputs, init
    return (
        arguments,
        lambda model, variables, given: outputs(model, initialised(model, variables, manifest), given),
        init,
    )


def arguments(inputs: dict) -> tuple:
    """Inputs of a folder → (image or None, crop or None, both [b h w 3], attribute [b])."""
    image, crop = (
        None if name not in inputs else np.ascontiguousarray(rearrange(inputs[name], "b c h w -> b h w c"))
        for name in ("image", "crop_image")
    )
    return image, crop, inputs["attribute"].astype(np.int32)


def init(model: RegionPatch, image, crop, attribute):
    """The variables; the region branch is built on the crop where a folder has no image."""
    return model.init(jax.random.key(0), crop if image is None else image, attribute)


def outputs(model: RegionPatch, variables: dict, arguments: tuple) -> dict:
    """Every output that the inputs allow, by its recorded name."""

    def run(variables, image, crop, attribute):
        found = {}
        if image is not None:
            region, state = model.apply(
                variables,
                image,
                attribute,
                method="region",
                capture_intermediates=lambda module, _: module.name == "backbone",
                mutable=["intermediates"],
            )
            found["backbone"] = rearrange(
                state["intermediates"]["backbone"]["__call__"][0][-1], "b h w c -> b c h w"
            )
            found |= {"region_embed": region["region"], "attention": region["attention"]}
            found |= {"region_normalised": unit(region["region"]), "region_hat_embed": region["complement"]}
        if crop is not None and model.patch is not None:
            patch, state = model.apply(
                variables, crop, attribute, method="of_crop", mutable=["intermediates"]
            )
            inner = state["intermediates"]["patch"]
            found |= {"patch_embed": patch, "vit_tokens": inner["vit_tokens"][0]}
            found |= {"cross_out": inner["mapped"][0], "patch_tokens": inner["vit"]["embedded"][0]}
        if "region_embed" in found and "patch_embed" in found:
            found["fused"] = region_patch.fused(found["region_embed"], found["patch_embed"], BETA)
        return found

    return jax.jit(run)(variables, *jax.tree.map(jnp.asarray, arguments))


def initialised(model: RegionPatch, variables: dict, manifest: dict) -> dict:
    """`variables` with the patch branch's transformer from the drawn Google checkpoint, as an import with
    --backbone_only reads it: its class token and last normalisation are left out."""
    vit = variables["params"]["patch"]["vit"]
    template = {"params": {name: leaf for name, leaf in vit.items() if name != "cls_token"}}
    rules = region_patch_keys.npz_keys(class_token=False)
    filled, _ = key_maps.fill(template, draws.npz_arrays(manifest), rules)
    patch = variables["params"]["patch"] | {"vit": vit | filled["params"]}
    return variables | {"params": variables["params"] | {"patch": patch}}
