"""PyTorch names of the detectors: detectron2's Mask R-CNN and Cascade Mask R-CNN, mmdetection 1.x's Mask
R-CNN.
"""

from fashionjax.models.backbones import resnet
from fashionjax.models.detection.rcnn import RCNN
from fashionjax.models.torch_keys import (
    CONV,
    SAME,
    Ignore,
    KeyRule,
    Layout,
    Rules,
    chw_linear,
    linear_rules,
    norm_rules,
    prefixed,
)

# the names of one codebase for what another one calls otherwise, for `weights.recognise`
ALIASES = (
    ("backbone.bottom_up.", "backbone."),
    ("rpn_head.rpn_conv.", "proposal_generator.rpn_head.conv."),
    ("bbox_head.fc_cls.", "roi_heads.box_predictor.cls_score."),
    ("mask_head.conv_logits.", "roi_heads.mask_head.predictor."),
)
PARTS = {
    "RPN": "proposal_generator.rpn_head.conv.weight",
    "box head": "roi_heads.box_predictor.cls_score.weight",
    "cascade of box heads": "roi_heads.box_predictor.0.cls_score.weight",
    "mask head": "roi_heads.mask_head.predictor.weight",
}
DECONV = Layout(
    lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2)
)  # [i o a b] <-> [i a b o]
LEVELS = (2, 3, 4, 5)  # names of a pyramid's maps


def detectron2(model: RCNN) -> Rules:
    """detectron2 0.2 to 0.6, one box head or numbered ones for the stages of a cascade."""
    rules = [
        *_conv(r"backbone\.fpn_lateral(\d)", r"fpn/lateral\1"),
        *_conv(r"backbone\.fpn_output(\d)", r"fpn/output\1"),
        *norm_rules(r"backbone\.fpn_lateral(\d)\.norm", r"fpn/lateral\1_norm"),
        *norm_rules(r"backbone\.fpn_output(\d)\.norm", r"fpn/output\1_norm"),
        *prefixed(resnet.DETECTRON2_KEYS, "backbone.bottom_up.", "backbone"),
        *_conv(r"proposal_generator\.rpn_head\.conv", "rpn_head/conv"),
        *_conv(r"proposal_generator\.rpn_head\.objectness_logits", "rpn_head/objectness"),
        *_conv(r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_head/deltas"),
        # buffers of older checkpoints
        Ignore("pixel_mean", "a constant of the config", model.pixel_mean),
        Ignore("pixel_std", "a constant of the config", model.pixel_std),
        Ignore(r"proposal_generator\.anchor_generator\.cell_anchors\.(\d+)", "anchors, computed here"),
    ]
    number, own = (r"\.(\d)", r"_\1") if len(model.settings.stage_iou) > 1 else ("", "_0")
    head, predictor = rf"roi_heads\.box_head{number}", rf"roi_heads\.box_predictor{number}"
    side = model.settings.box_pool
    rules += [
        *linear_rules(rf"{head}\.fc1", f"box_head{own}/fc1", chw_linear(side, side)),
        *linear_rules(rf"{head}\.fc2", f"box_head{own}/fc2"),
        *linear_rules(rf"{predictor}\.cls_score", f"box_predictor{own}/cls_score"),
        *linear_rules(rf"{predictor}\.bbox_pred", f"box_predictor{own}/bbox_pred"),
        *_mask_head(r"roi_heads\.mask_head", "deconv", "predictor"),
    ]
    fcn = r"roi_heads\.mask_head\.mask_fcn(\d)"
    return (*rules, *_conv(fcn, r"mask_head/mask_fcn\1"))


def mmdetection(model: RCNN) -> Rules:
    """mmdetection 1.x: torchvision's names in the backbone, background first in the heads."""
    backbone = [rule for rule in resnet.TORCH_KEYS if not rule.torch.startswith("fc")]
    side = model.settings.box_pool
    rules = [
        *prefixed(tuple(backbone), "backbone.", "backbone"),
        *_conv(r"rpn_head\.rpn_conv", "rpn_head/conv"),
        *_conv(r"rpn_head\.rpn_cls", "rpn_head/objectness"),
        *_conv(r"rpn_head\.rpn_reg", "rpn_head/deltas"),
        *linear_rules(r"bbox_head\.shared_fcs\.0", "box_head_0/fc1", chw_linear(side, side)),
        *linear_rules(r"bbox_head\.shared_fcs\.1", "box_head_0/fc2"),
        *linear_rules(r"bbox_head\.fc_cls", "box_predictor_0/cls_score"),
        *linear_rules(r"bbox_head\.fc_reg", "box_predictor_0/bbox_pred"),
        *_mask_head(r"mask_head", "upsample", "conv_logits"),
    ]
    for index, level in enumerate(LEVELS):
        rules += _conv(rf"neck\.lateral_convs\.{index}\.conv", f"fpn/lateral{level}")
        rules += _conv(rf"neck\.fpn_convs\.{index}\.conv", f"fpn/output{level}")
        rules += norm_rules(rf"neck\.lateral_convs\.{index}\.gn", f"fpn/lateral{level}_norm")
        rules += norm_rules(rf"neck\.fpn_convs\.{index}\.gn", f"fpn/output{level}_norm")
    for index in range(model.mask_convolutions):
        rules += _conv(rf"mask_head\.convs\.{index}\.conv", f"mask_head/mask_fcn{index + 1}")
    return tuple(rules)


def torch_keys(model: RCNN) -> Rules:
    """The rules of the names that a model's conventions come with."""
    return mmdetection(model) if model.settings.geometry.background_first else detectron2(model)


def _conv(torch: str, flax: str) -> Rules:
    return linear_rules(torch, flax, CONV)


def _mask_head(torch: str, deconv: str, predictor: str) -> Rules:
    return (
        KeyRule(rf"{torch}\.{deconv}\.weight", "params/mask_head/deconv/kernel", DECONV),
        KeyRule(rf"{torch}\.{deconv}\.bias", "params/mask_head/deconv/bias", SAME),
        *_conv(rf"{torch}\.{predictor}", "mask_head/predictor"),
    )
