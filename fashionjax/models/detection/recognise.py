"""Which detector a state dict belongs to, told from its keys and shapes: the module with every width
filled in.
"""

from collections.abc import Mapping

from fashionjax.models.backbones import resnet
from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.detection import torch_keys
from fashionjax.models.detection.rcnn import BGR_MEAN, BGR_STD, RCNN, RGB_MEAN, RGB_STD
from fashionjax.models.detection.settings import CASCADE, MASK_RCNN, MMDETECTION

Shapes = Mapping[str, tuple[int, ...]]


def is_detector(keys) -> bool:
    """Whether the names are detectron2's or mmdetection 1.x's."""
    return torch_keys.is_detectron2(keys) or torch_keys.is_mmdetection(keys)


def model_of(shapes: Shapes, **fields) -> RCNN:
    """Keys with their shapes -> the detector that they fit, `fields` of the module replaced; KeyError for
    a key that is missing, ValueError for a backbone or head that is none of the published ones.
    """
    return (_detectron2 if torch_keys.is_detectron2(shapes) else _mmdetection)(shapes, fields)


def _backbone(shapes: Shapes, stem: str, bottleneck: str, caffe: bool) -> ResNet:
    counts = torch_keys.blocks(shapes)
    for depth, known in resnet.BLOCKS.items():
        if known == counts and (depth in resnet.BOTTLENECK_DEPTHS) == (bottleneck in shapes):
            return ResNet(
                depth=depth,
                width=shapes[stem][0],
                stride_in_1x1=caffe,
                frozen_bn=True,
                frozen_stages=1,
            )
    raise ValueError(f"a ResNet with {counts} blocks")


def _detectron2(shapes: Shapes, fields: dict) -> RCNN:
    cascade = "roi_heads.box_head.0.fc1.weight" in shapes
    head, predictor = (f"roi_heads.box_{part}" + (".0" if cascade else "") for part in ("head", "predictor"))
    stem, bottleneck = "backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.res2.0.conv3.weight"
    classes = shapes[f"{predictor}.cls_score.weight"][0] - 1
    regressed = shapes[f"{predictor}.bbox_pred.weight"][0]
    agnostic = regressed == 4 and classes > 1
    if not agnostic and regressed != 4 * classes:
        raise ValueError(f"{regressed} box outputs of {classes} classes")
    settings = (CASCADE if cascade else MASK_RCNN)._replace(class_agnostic=agnostic)
    return RCNN(
        **{
            "backbone": _backbone(shapes, stem, bottleneck, caffe=True),
            "classes": classes,
            "settings": settings,
            "channels": shapes["backbone.fpn_lateral2.weight"][0],
            "box_width": shapes[f"{head}.fc1.weight"][0],
            "mask_convolutions": sum(
                f"roi_heads.mask_head.mask_fcn{i}.weight" in shapes for i in range(1, 10)
            ),
            "masks": any(key.startswith("roi_heads.mask_head.") for key in shapes),
            "pixel_mean": BGR_MEAN,
            "pixel_std": BGR_STD,
            **fields,
        }
    )


def _mmdetection(shapes: Shapes, fields: dict) -> RCNN:
    classes = shapes["bbox_head.fc_cls.weight"][0] - 1
    regressed = shapes["bbox_head.fc_reg.weight"][0]
    if regressed != 4 * (classes + 1):
        raise ValueError(f"{regressed} box outputs of {classes + 1} classes with background")
    return RCNN(
        **{
            "backbone": _backbone(
                shapes, "backbone.conv1.weight", "backbone.layer1.0.conv3.weight", caffe=False
            ),
            "classes": classes,
            "settings": MMDETECTION,
            "channels": shapes["neck.lateral_convs.0.conv.weight"][0],
            "box_width": shapes["bbox_head.shared_fcs.0.weight"][0],
            "mask_convolutions": sum(f"mask_head.convs.{i}.conv.weight" in shapes for i in range(10)),
            "masks": any(key.startswith("mask_head.") for key in shapes),
            "bgr": False,
            "pixel_mean": RGB_MEAN,
            "pixel_std": RGB_STD,
            **fields,
        }
    )
