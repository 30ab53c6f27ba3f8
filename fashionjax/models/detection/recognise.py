"""The detector of a state dict, every width filled in from its shapes."""

from collections.abc import Mapping

from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.detection.rcnn import BGR_MEAN, BGR_STD, RCNN, RGB_MEAN, RGB_STD
from fashionjax.models.detection.settings import CASCADE, MASK_RCNN, MMDETECTION
from fashionjax.models.detection.torch_keys import PARTS

Shapes = Mapping[str, tuple[int, ...]]  # PyTorch names, those of `torch_keys.ALIASES` replaced


def is_mmdetection(shapes: Shapes) -> bool:
    """Whether a detector's names are mmdetection 1.x's; detectron2's otherwise."""
    return "neck.lateral_convs.0.conv.weight" in shapes


def classes_of(shapes: Shapes) -> int | None:
    """Classes without the background; None where there is no box head."""
    found = [shapes[PARTS[part]] for part in ("box head", "cascade of box heads") if PARTS[part] in shapes]
    return found[0][0] - 1 if found else None


def from_shapes(backbone: ResNet, shapes: Shapes) -> RCNN:
    """Keys with their shapes -> the detector that they fit, frozen as it was published; KeyError for a key
    that is missing, ValueError for a backbone or head that is none of the published ones.
    """
    if not isinstance(backbone, ResNet):
        raise ValueError(f"a detector on a {type(backbone).__name__}")
    legacy = is_mmdetection(shapes)
    frozen = backbone.clone(num_classes=None, stride_in_1x1=not legacy, frozen_bn=True, frozen_stages=1)
    return RCNN(backbone=frozen, **(_mmdetection if legacy else _detectron2)(shapes))


def _detectron2(shapes: Shapes) -> dict:
    cascade = PARTS["cascade of box heads"] in shapes
    head, predictor = (f"roi_heads.box_{part}" + (".0" if cascade else "") for part in ("head", "predictor"))
    classes = shapes[f"{predictor}.cls_score.weight"][0] - 1
    regressed = shapes[f"{predictor}.bbox_pred.weight"][0]
    agnostic = regressed == 4 and classes > 1
    if not agnostic and regressed != 4 * classes:
        raise ValueError(f"{regressed} box outputs of {classes} classes")
    return {
        "classes": classes,
        "settings": (CASCADE if cascade else MASK_RCNN)._replace(class_agnostic=agnostic),
        "channels": shapes["backbone.fpn_lateral2.weight"][0],
        "box_width": shapes[f"{head}.fc1.weight"][0],
        "mask_convolutions": sum(f"roi_heads.mask_head.mask_fcn{i}.weight" in shapes for i in range(1, 10)),
        "masks": PARTS["mask head"] in shapes,
        "pixel_mean": BGR_MEAN,
        "pixel_std": BGR_STD,
    }


def _mmdetection(shapes: Shapes) -> dict:
    classes = shapes[PARTS["box head"]][0] - 1
    regressed = shapes["bbox_head.fc_reg.weight"][0]
    if regressed != 4 * (classes + 1):
        raise ValueError(f"{regressed} box outputs of {classes + 1} classes with background")
    return {
        "classes": classes,
        "settings": MMDETECTION,
        "channels": shapes["neck.lateral_convs.0.conv.weight"][0],
        "box_width": shapes["bbox_head.shared_fcs.0.weight"][0],
        "mask_convolutions": sum(f"mask_head.convs.{i}.conv.weight" in shapes for i in range(10)),
        "masks": PARTS["mask head"] in shapes,
        "bgr": False,
        "pixel_mean": RGB_MEAN,
        "pixel_std": RGB_STD,
    }
