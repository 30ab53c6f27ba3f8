"""PyTorch names of attribute-aware models: RPF's two stages, ASEN, and which model a set of names needs.

Key lists: model classes of HuiGuanLab/RPF and Maryeon/asen.
"""

from collections.abc import Mapping

import flax.linen as nn

from fashionjax.models.backbones import resnet, vit
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.backbones.vit import ViT
from fashionjax.models.region_patch import STRIDES, PatchBranch, RegionPatch
from fashionjax.models.torch_keys import (
    CONV,
    SAME,
    Ignore,
    KeyRule,
    Layout,
    Rules,
    linear_rules,
    norm_rules,
    prefixed,
)

HEAD_SIZE = 64  # channels of one attention head of the published ViT
GLOBAL, LOCAL, ASEN = "choices.global.", "choices.local.basenet.", "embeddingnet."
POINTWISE = Layout(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])  # a 1x1 convolution

TABLE, SCORES = f"{GLOBAL}attrnet.attr_embedding.weight", f"{GLOBAL}attnnet.conv.weight"
PATCHES, POSITIONS = f"{LOCAL}embeddings.patch_embeddings.weight", f"{LOCAL}embeddings.position_embeddings"
PARTS = {
    "attribute table": TABLE,
    "region attention": SCORES,
    "patch branch": f"{LOCAL}attr2query.weight",
    "ASEN attention": f"{ASEN}mask_fc1.weight",
}
# the region branch's backbone as `weights.recognise` looks for backbones
ALIASES = ((f"{GLOBAL}basenet.", "backbone."), (f"{ASEN}backbonenet.", "backbone."))


def _pointwise_rules(torch: str, flax: str) -> Rules:
    weight, bias = linear_rules(torch, flax)
    return weight._replace(layout=POINTWISE), bias


# the vision transformer inside the patch branch
VIT_KEYS: Rules = (
    KeyRule(r"embeddings\.patch_embeddings\.weight", "params/patch_embed_proj/kernel", CONV),
    KeyRule(r"embeddings\.patch_embeddings\.bias", "params/patch_embed_proj/bias", SAME),
    KeyRule(r"embeddings\.cls_token", "params/cls_token", SAME),
    KeyRule(r"embeddings\.position_embeddings", "params/pos_embed", SAME),
    *norm_rules(r"encoder\.layer\.(\d+)\.attention_norm", r"blocks_\1/norm1"),
    *norm_rules(r"encoder\.layer\.(\d+)\.ffn_norm", r"blocks_\1/norm2"),
    *linear_rules(r"encoder\.layer\.(\d+)\.attn\.(query|key|value)", r"blocks_\1/attn_\2"),
    *linear_rules(r"encoder\.layer\.(\d+)\.attn\.out", r"blocks_\1/attn_proj"),
    *linear_rules(r"encoder\.layer\.(\d+)\.ffn\.(fc1|fc2)", r"blocks_\1/mlp_\2"),
)
PATCH_KEYS: Rules = (
    *prefixed(VIT_KEYS, "", "vit"),
    KeyRule("type_embed", "params/type_embed", SAME),
    *linear_rules("attr2query", "attr2query"),
    *norm_rules(r"crossencoder\.cross_attention_norm", "cross_attention_norm"),
    *linear_rules(r"crossencoder\.cross_attn\.(query|key|value|out)", r"cross_\1"),
    *linear_rules(r"crossencoder\.fc", "fc"),
    *norm_rules(r"crossencoder\.ffn_norm", "ffn_norm"),
    *linear_rules(r"crossencoder\.ffn\.(fc1|fc2)", r"ffn/\1"),
    *norm_rules("norm", "norm"),
)
_ATTENTION_KEYS: Rules = (
    *linear_rules(r"attr_transform1", "attr_transform1"),
    *_pointwise_rules("conv", "conv"),
    *linear_rules("feature_fc", "feature_fc"),
    *norm_rules("(x|a|mlp)_layer_norm", r"\1_layer_norm"),
    *linear_rules(r"mlp\.(fc1|fc2)", r"mlp/\1"),
)
RPF_KEYS: Rules = (
    *prefixed(resnet.TORCH_KEYS, f"{GLOBAL}basenet.", "backbone"),
    KeyRule(r"choices\.global\.attrnet\.attr_embedding\.weight", "params/attr_embedding/embedding", SAME),
    *prefixed(_ATTENTION_KEYS, f"{GLOBAL}attnnet.", "attention_net"),
    *prefixed(PATCH_KEYS, LOCAL, "patch"),
)
ASEN_KEYS: Rules = (
    *prefixed(resnet.TORCH_KEYS, f"{ASEN}backbonenet.", "backbone"),
    *prefixed(linear_rules("(mask_fc1|mask_fc2|fc1|fc2|feature_fc)", r"\1"), ASEN, "attention_net"),
    *prefixed(_pointwise_rules("(conv1|conv2)", r"\1"), ASEN, "attention_net"),
)


def npz_keys(class_token: bool) -> Rules:
    """Google's ViT file into the patch branch's transformer. The original leaves out the class token, which
    stays at zeros, and the encoder's last normalisation, which the branch does not have."""
    kept = tuple(rule for rule in vit.NPZ_KEYS if class_token or rule.torch != "cls")
    return (
        *kept,
        *(() if class_token else (Ignore("cls", "the original keeps a class token of zeros"),)),
        Ignore("Transformer/encoder_norm/(scale|bias)", "the patch branch has no last normalisation"),
        Ignore(r"(head|pre_logits)/(kernel|bias)", "a classifier"),
    )


def torch_keys(model: RegionPatch) -> Rules:
    """The key rules of a model; its unconditioned form, which no original has, takes RPF's names."""
    return ASEN_KEYS if model.variant == "asen" and model.conditioned else RPF_KEYS


def from_shapes(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> RegionPatch:
    """{PyTorch name: shape} -> the model; KeyError, IndexError or ValueError where parts are missing.

    `backbone` is the ResNet that `weights.recognise` found under `backbone.`.
    """
    if not isinstance(backbone, ResNet) or len(backbone.stage_strides) != len(STRIDES):
        raise ValueError("the region branch has a ResNet that stops after its third stage")
    if f"{ASEN}mask_fc1.weight" in shapes:
        common, attributes = shapes[f"{ASEN}mask_fc1.weight"]
        return RegionPatch(
            backbone,
            attributes,
            variant="asen",
            embedding=shapes[f"{ASEN}feature_fc.weight"][0],
            common=common,
            hidden=shapes[f"{ASEN}fc1.weight"][0],
        )
    attributes, width = shapes[TABLE]
    return RegionPatch(
        backbone,
        attributes,
        patch=_patch_branch(shapes) if PARTS["patch branch"] in shapes else None,
        embedding=shapes[f"{GLOBAL}attnnet.feature_fc.weight"][0],
        attribute_width=width,
        common=shapes[SCORES][0],
        hidden=shapes[f"{GLOBAL}attnnet.mlp.fc1.weight"][0],
    )


def _patch_branch(shapes: Mapping[str, tuple[int, ...]]) -> PatchBranch:
    width, _, patch, _ = shapes[PATCHES]
    prefix = f"{LOCAL}encoder.layer."
    blocks = {int(key.removeprefix(prefix).split(".")[0]) for key in shapes if key.startswith(prefix)}
    vit = make_vit(
        width=width,
        depth=1 + max(blocks),
        heads=max(1, width // HEAD_SIZE),
        patch=patch,
        grid=round((shapes[POSITIONS][1] - 1) ** 0.5),
    )
    hidden, embedding = shapes[f"{LOCAL}crossencoder.ffn.fc1.weight"]
    return PatchBranch(vit, embedding, hidden)


def make_vit(dropout: float = 0.1, **fields) -> ViT:
    """The patch branch's transformer: separate query, key and value, no last normalisation, and initial class
    token and positions of zeros, as the original has them before it reads Google's file."""
    return ViT(joint_qkv=False, final_norm=False, token_init=0.0, dropout=dropout, parent=None, **fields)
