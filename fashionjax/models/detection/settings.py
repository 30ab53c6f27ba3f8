"""Every number of the two detectors that is no width of a layer, with the conventions of the published
models.
"""

from typing import NamedTuple

Weights = tuple[float, float, float, float]


class Geometry(NamedTuple):
    """Conventions that change numbers. The defaults are detectron2's, `LEGACY` is mmdetection 1.x."""

    inclusive_boxes: bool = False  # a side is x2 - x1 + 1, clipping ends at the last pixel
    rounded_anchors: bool = False  # corners on whole pixels, centred in the cell
    aligned_rois: bool = True  # RoIAlign shifts by half a cell
    roi_samples: int = 0  # per bin and axis; 0: as many as cells fit into a bin
    roi_sample_limit: int | None = None  # at most so many of these
    inclusive_rois: bool = False  # RoIs end at x2 + 1
    background_first: bool = False  # class 0 of the heads' outputs is background; else the last one is
    last_claim_wins: bool = False  # which ground truth a low-quality match gets, see ops.matching.match
    anchors_inside: bool = False  # in training, anchors that leave the image are left out


CURRENT = Geometry()
LEGACY = Geometry(
    inclusive_boxes=True,
    rounded_anchors=True,
    aligned_rois=False,
    roi_samples=2,
    background_first=True,
    last_claim_wins=True,
    anchors_inside=True,
)


class Settings(NamedTuple):
    """One stage (Mask R-CNN) or several (cascade): `stage_iou` and `stage_weights` have one entry for
    each.
    """

    geometry: Geometry = CURRENT
    # region proposals
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    anchor_scale: float = 8  # an anchor's side is scale * stride: 32 .. 512
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    anchor_foreground: float = 0.7  # IoU
    anchor_background: float = 0.3
    anchor_low_quality: float = 0.0  # least IoU of an anchor that is the best of a ground truth
    anchors_sampled: int = 256  # per image
    anchor_foreground_share: float = 0.5
    anchor_beta: float = 0.0  # of the smooth L1
    candidates_train: int = 2000  # best of each level, before NMS
    candidates_test: int = 1000
    proposals_train: int = 1000  # after NMS, all levels together
    proposals_test: int = 1000
    proposal_nms: float = 0.7
    # RoI heads
    roi_strides: tuple[int, ...] = (4, 8, 16, 32)
    rois_sampled: int = 512
    roi_foreground_share: float = 0.25
    stage_iou: tuple[float, ...] = (0.5,)
    stage_weights: tuple[Weights, ...] = ((10.0, 10.0, 5.0, 5.0),)
    class_agnostic: bool = False  # one box regression for all classes
    roi_beta: float = 0.0
    box_pool: int = 7
    mask_pool: int = 14  # mask logits have twice the side
    # detections
    score_threshold: float = 0.05
    detection_nms: float = 0.5
    detections: int = 100


MASK_RCNN = Settings()
CASCADE = Settings(
    proposals_train=2000,
    stage_iou=(0.5, 0.6, 0.7),
    stage_weights=((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
    class_agnostic=True,
)
# MMFashion's configs/fashion_parsing_segmentation/mask_rcnn_r50_fpn_1x.py
MMDETECTION = Settings(
    geometry=LEGACY,
    anchor_low_quality=0.3,
    anchor_beta=1 / 9,
    candidates_train=2000,
    proposals_train=2000,
    roi_beta=1.0,
)
