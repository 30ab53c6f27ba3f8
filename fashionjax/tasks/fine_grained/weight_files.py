"""PyTorch files of attribute-aware models: RPF's stages, ASEN; and Google's ViT for the patch branch."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from fashionjax import quirks
from fashionjax.models import region_patch_keys as names
from fashionjax.task import InnerBackbone, Weights
from fashionjax.tasks import supervised

ASEN_TABLE = names.PARTS["ASEN attention"]


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The experiment whose model has these parts."""
    del pooling
    variant = "asen" if "ASEN attention" in parts else "rpf"
    stage = 2 if "patch branch" in parts else 1
    where = f"experiments/rpf.py:variant={variant},stage={stage}"
    return f"task=fine_grained model.backbone={backbone} ({where})"


def attributes_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """How many attributes a file's table has; None without a table."""
    if len(shapes.get(names.TABLE, ())) == 2:
        return shapes[names.TABLE][0]
    return shapes[ASEN_TABLE][1] if len(shapes.get(ASEN_TABLE, ())) == 2 else None


def fit_config(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, list], given: bool
) -> list[str]:
    """See `task.Weights.fit_config`: the names of the attributes, numbers where the dataset's do not fit."""
    del given
    count, labels, remarks = attributes_of(shapes), dict(known), []
    have = len(known.get("attribute", ()))
    if (count or have or 1) != have:
        labels["attribute"] = supervised.numbered("attribute", count or 1)
        if count:
            dataset = f"has {have}" if have else "is not prepared or has none"
            remarks.append(f"{count} attributes are named by number ({config.dataset} {dataset})")
    with config.unlocked():
        config.labels = ConfigDict(labels)
    return remarks


def inner_backbones(model, config: ConfigDict) -> tuple[InnerBackbone, ...]:
    """The patch branch's transformer, which Google's ImageNet-21k file initialises."""
    if model.patch is None:
        return ()
    token = not quirks.on(config, "r13_class_token_unused")
    fresh = () if token else ("cls_token",)
    return (InnerBackbone("patch/vit", model.patch.vit, names.npz_keys(token), fresh),)


WEIGHTS = Weights(
    key_rules=lambda model, keys=None: names.torch_keys(model),
    parts=names.PARTS,
    defining=("region attention", "ASEN attention"),
    from_shapes=names.from_shapes,
    pooling=lambda shapes: "attention",
    fitting_config=fitting_config,
    fit_config=fit_config,
    aliases=names.ALIASES,
    sizes=lambda shapes: {"attributes": attributes_of(shapes)},
    inner_backbones=inner_backbones,
)
