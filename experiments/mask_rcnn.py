"""Mask R-CNN with a ResNet-50 pyramid: garments as instances.

    fashionjax prepare deepfashion_parsing --data_dir=data --manual_dir=DIR
    fashionjax train --config=experiments/mask_rcnn.py --workdir=runs/parsing
    fashionjax evaluate --checkpoint=runs/parsing --split=gallery --out=runs/parsing/gallery

| argument | row of the zoo document | published box AP, mask AP |
|---|---|---|
| (none) | fashion parsing, Mask R-CNN ResNet-50 | 0.599, 0.584 |
| `small=true` | none: ResNet-18, half width, 128 px, from scratch, on synthetic instances | |
| `tiny=true` | none: the same, a few steps on tiny images | |

Constants: configs/fashion_parsing_segmentation/mask_rcnn_r50_fpn_1x.py of open-mmlab/mmfashion and
mmdetection 1.x, whose conventions are `config.model.geometry`. `config.model.classes` is 80 there (COCO's
number, left in place: 65 outputs have no examples but share the softmax); 0 is the dataset's own number.
Any dataset of the instance schema trains with `--config.dataset=coco_instances`.
"""

from experiments import common

ARGUMENTS = {"small": ("false", "true")}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, small=False, tiny=False)
    config = common.base()
    common.detection(config, "resnet50")
    config.dataset = "deepfashion_parsing"
    config.eval_split, config.test_split = "query", "gallery"
    mmdetection(config)
    if args["small"] or args["tiny"]:
        common.small_detector(config)
    if args["tiny"]:
        common.tiny_detector(config)
    return config


def mmdetection(config) -> None:
    """The recipe of the zoo's row."""
    spec = config.model
    spec.classes = 80
    spec.stride_in_1x1, spec.frozen_bn, spec.frozen_stages = False, True, 1
    spec.bgr, spec.pixel_mean, spec.pixel_std = False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    spec.mask_form = "bitmap"
    spec.geometry.update({"inclusive_boxes": True, "rounded_anchors": True, "aligned_rois": False})
    spec.geometry.update({"roi_samples": 2, "background_first": True, "last_claim_wins": True})
    spec.geometry.anchors_inside = True
    spec.settings.update({"anchor_low_quality": 0.3, "anchor_beta": 1 / 9, "roi_beta": 1.0})
    spec.settings.update({"candidates_train": 2000, "proposals_train": 2000})

    config.resize.update({"short_train": (750,), "short_test": 750, "longest": 1101, "flip": 0.5})
    config.resize.buckets = ((1120, 768), (768, 1120), (1120, 1120))

    # 8 GPUs of 2 images: the number is not stated, 0.02 is mmdetection's rate for it
    config.batch_size, config.epochs = 16, 12
    config.optim.update({"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4})
    config.optim.update({"decay_biases": True, "schedule": "step", "boundaries": (8, 11), "gamma": 0.1})
    config.optim.update({"warmup_steps": 500, "warmup_ratio": 1 / 3, "clip_norm": 35.0})
    # scale and bias of the later stages' batch norms train, their statistics do not move
    config.optim.frozen = (
        r"backbone/(conv1|bn1)/",
        r"backbone/layer1_",
    )
    config.save_every = 1000
