"""Cascade Mask R-CNN with a ResNet-101 pyramid on DeepFashion2, then on K-Fashion.

    fashionjax prepare deepfashion2 --data_dir=data --manual_dir=DIR
    fashionjax train --config=experiments/cascade.py --workdir=runs/df2
    fashionjax train --config=experiments/cascade.py:stage=kfashion --workdir=runs/kf \
        --config.init_from=runs/df2
    fashionjax evaluate --checkpoint=runs/kf --split=test --out=runs/kf/test

| argument | row of the zoo document | published box AP, mask AP |
|---|---|---|
| `stage=deepfashion2` | DeepFashion2 val | 55.866, 52.244 |
| `stage=kfashion` | K-Fashion test (a second revision of the document: 48.194, 42.243) | 59.341, 51.726 |
| `model=mask_rcnn` | none: ResNet-50, one stage, by the same recipe | |
| `annotations=fr` | | shop images, first polygons and their extremes, as the rows were trained and measured |
| `small=true`, `tiny=true` | none: ResNet-18, half width, synthetic instances | |

A stage starts from any detection checkpoint (`config.init_from`); the leaves that `config.init_skip` names
start fresh, and the run prints which. Constants: src/configs.yaml, detectron2 and its
configs/Misc/cascade_mask_rcnn_R_101_FPN_3x.yaml of Donghwa-KIM/fashion-recommendation.
"""

from experiments import common

STAGES = {"deepfashion2": ("deepfashion2", "val", "val"), "kfashion": ("kfashion", "val", "test")}
MODELS = {"cascade": "resnet101", "mask_rcnn": "resnet50"}
ANNOTATIONS = {"all": False, "fr": True}
ARGUMENTS = {
    "stage": tuple(STAGES),
    "model": tuple(MODELS),
    "annotations": tuple(ANNOTATIONS),
    "small": ("false", "true"),
}
# what a stage cannot take over: the outputs of other classes; from one stage to three, the box heads
CLASS_OUTPUTS = (r"box_predictor_\d+/cls_score/", r"mask_head/predictor/")


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg, stage="deepfashion2", model="cascade", annotations="all", small=False, tiny=False
    )
    config = common.base()
    common.detection(config, common.choose("model", args["model"], MODELS))
    dataset = common.choose("stage", args["stage"], STAGES)
    config.dataset, config.eval_split, config.test_split = dataset
    detectron2(config)
    if args["model"] == "cascade":
        cascade(config)
    fresh = [*CLASS_OUTPUTS]
    if args["model"] == "mask_rcnn":
        fresh.append(r"box_predictor_\d+/bbox_pred/")
    elif args["stage"] == "deepfashion2":  # published: from the plain Mask R-CNN of COCO
        fresh += [r"box_head_\d+/", r"box_predictor_\d+/bbox_pred/"]
    config.init_skip = tuple(dict.fromkeys(fresh))
    if common.choose("annotations", args["annotations"], ANNOTATIONS):
        config.truth.update({"first_polygon": True, "box_from_mask": True, "drop_origin": True})
        config.truth.half_pixel = True
        config.sampler.shop_only = True
    config.best = ""  # no labelled part is left to choose on: the last checkpoint is the one that counts
    if args["small"] or args["tiny"]:
        common.small_detector(config)
        config.best = "standard/mask_ap"  # of val; test is apart
    if args["tiny"]:
        common.tiny_detector(config)
    return config


def detectron2(config) -> None:
    """What both models share."""
    config.model.stride_in_1x1, config.model.frozen_bn, config.model.frozen_stages = True, True, 1
    config.resize.update({"short_train": (640, 672, 704, 736, 768, 800), "short_test": 800})
    config.resize.update({"longest": 1333, "flip": 0.5, "buckets": ((800, 1344), (1344, 800), (1344, 1344))})
    config.sampler.repeat_threshold = 1.0
    config.batch_size, config.epochs, config.steps = 4, 0, 40_000
    config.optim.update({"optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4})
    config.optim.update({"decay_biases": True, "schedule": "step", "gamma": 0.1})
    config.optim.boundary_steps = (20_000, 30_000)
    config.optim.update({"warmup_steps": 1000, "warmup_ratio": 0.001, "clip_norm": 0.0})
    config.optim.frozen = (
        r"backbone/(conv1|bn1)/",
        r"backbone/layer1_",
        r"backbone/bn1/",
        r"backbone/layer\d_\d+/(bn\d|downsample_1)/",
    )
    config.save_every, config.seed = 5000, 7


def cascade(config) -> None:
    """Three stages of rising IoU with one box regression for all classes."""
    config.model.settings.update({"stage_iou": (0.5, 0.6, 0.7), "class_agnostic": True})
    config.model.settings.stage_weights = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    config.model.settings.proposals_train = 2000
