"""Your own photos: what `fashionjax finetune` trains, on `own_photos` and `coco_instances`. Ours.

    fashionjax finetune photos/ --workdir=runs/mine
    fashionjax train    --config=experiments/own.py:labels=category --config.data_dir=data --workdir=runs/mine
    fashionjax evaluate --checkpoint=runs/mine --split=test --out=runs/mine/test

| `task` | what it learns | from |
|---|---|---|
| `labels` | `labels`, joined by `+`: category, attribute, landmark | folders, or columns of a table |
| `retrieval` | an embedding in which photos of one item are near each other | the column `item` |
| `detection` | boxes and masks | COCO's files |

The recipe for `labels`: a narrow ResNet-18 from nothing, random crops, flips, colour, erased boxes, CutMix
and mixup, label smoothing, AdamW with a cosine rate, and a moving average of the weights, which is what is
evaluated. Where classes are uneven (`balance=true`), rare ones are drawn more often, by the square root of
their number. `backbone=…` is any other (`width=0`: as published), for `--config.init_from`; `freeze=true`
keeps its weights, computes its features once (`config.feature_views` views of each image) and trains what
lies behind them.

The constants are ours and were not tuned on any split that is reported; docs/own_photos.md has the figures.
`tiny=true` runs on a laptop, on synthetic images.
"""

from experiments import common

LABELS = ("category", "attribute", "landmark")
BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn",
             "vit_s16", "vit_b16", "vit_l16")  # fmt: skip
TASKS = ("labels", "retrieval", "detection")
ARGUMENTS = {"task": TASKS, "freeze": (False, True), "balance": (False, True)}
EPOCHS = 150  # over few photos; finetune makes steps of it
BEST = {  # what chooses the checkpoint, by the first label learned
    "category": ("standard/category_top1", "max"),
    "attribute": ("standard/attribute_map", "max"),
    "landmark": ("standard/landmark_ne_visible", "min"),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg,
        task="labels",
        labels="category",
        form="folders",
        backbone="resnet18",
        width=-1,
        freeze=False,
        balance=False,
        tiny=False,
    )
    task = common.choose("task", args["task"], {name: name for name in TASKS})
    backbone = common.choose("backbone", args["backbone"], {name: name for name in BACKBONES})
    if task == "detection":
        return detection(args)
    config = common.base()
    config.dataset = f"own_photos/{args['form']}"
    if task == "retrieval":
        retrieval(config, backbone)
    else:
        labelled(config, backbone, args["labels"].split("+"))
        config.class_balance = 0.5 if args["balance"] else 0.0
    modern(config)
    if args["width"] >= 0 and not backbone.startswith("vit"):
        config.model.backbone_fields.width = args["width"] or None
    if args["freeze"]:
        freeze(config)
    if args["tiny"]:
        tiny(config)
    return config


def labelled(config, backbone: str, labels: list[str]) -> None:
    """Category, attributes and landmarks, those that there are, in one model."""
    for label in labels:
        common.choose("labels", label, {name: name for name in LABELS})
    config.task = "attributes"
    config.model = common.model(backbone)
    config.model.labels_predicted = tuple(name for name in LABELS if name in labels)
    config.best, config.best_mode = BEST[config.model.labels_predicted[0]]
    config.loss = {}
    weights = {"attribute": {"attribute": 6.0}, "category": {"category": 1.0},
               "landmark": {"landmark": 10.0, "visibility": 0.5}}  # fmt: skip
    for label in config.model.labels_predicted:
        config.loss.update(weights[label])
    config.label_smoothing = 0.1
    config.blend = (
        {"mixup": 0.1, "cutmix": 0.3} if "landmark" not in labels else {"mixup": 0.0, "cutmix": 0.0}
    )


def retrieval(config, backbone: str) -> None:
    """A unit embedding, every positive of an item against the batch."""
    common.retrieval(config, backbone)
    config.eval_split, config.test_split = "val", "test"
    config.synthetic.config = "in_shop"
    config.model.update({"embedding": 128, "normalise": True, "id_head": "none"})
    config.loss = {"info_nce": 1.0}
    config.retrieval.update({"sampler": "identity", "per_item": 4})
    config.best = "standard/recall@1"


def modern(config) -> None:
    """What all of them share."""
    config.image_size, config.canvas_size, config.box_margin = 112, 128, 8.0
    config.augment.update({"scale": (0.35, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "erase": 0.1})
    config.augment.update({"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.05})
    config.model.update({"global_pooling": "average", "features": 256, "normalise_pooled": True})
    config.model.update({"dropout": 0.0, "dropout_pooled": 0.1, "cells": 1})
    if config.model.backbone.startswith("resnet"):
        config.model.backbone_fields.width = 16
    config.batch_size, config.epochs = 64, EPOCHS
    config.optim.update({"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.05, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 200, "clip_norm": 5.0, "average": 0.998})
    config.log_every, config.eval_every, config.save_every = 20, 500, 200
    config.similar_pairs = config.own_images = True


def freeze(config) -> None:
    """The backbone stays as it is; its features are computed once for several views of each image."""
    config.optim.frozen = ("backbone",)
    config.feature_views = 2
    config.augment.update({"scale": (0.6, 1.0), "erase": 0.0, "brightness": 0.2, "contrast": 0.2})
    config.augment.update({"saturation": 0.2, "hue": 0.0})
    config.model.update({"cells": 3, "dropout_pooled": 0.2})
    if config.task == "attributes":  # a linear classifier from zero; docs/own_photos.md has the measurement
        config.model.update({"features": None, "init": "zero_heads"})
    config.model.global_levels = (-2, -1) if not config.model.backbone.startswith("vit") else (-1,)
    config.optim.update({"optimizer": "sgd", "momentum": 0.9, "lr": 3e-3, "weight_decay": 1e-4})
    config.optim.average = 0.99
    config.epochs, config.eval_every = 60, 200


def detection(args: dict):
    """The small detector of the synthetic benchmark, on COCO's files."""
    config = common.base()
    common.detection(config, "resnet18")
    common.small_detector(config)
    config.dataset, config.own_images = "coco_instances", True
    config.resize.update({"short_train": (256,), "short_test": 256, "longest": 384})
    config.resize.buckets = ((256, 384), (384, 256), (384, 384))
    if args["tiny"]:
        common.tiny_detector(config)
        config.dataset = "coco_instances"
    return config


def tiny(config) -> None:
    """The same at 32 px with narrow layers on synthetic images, for tests and a look on a laptop."""
    config.dataset, config.synthetic.set = "synthetic", "train=48,val=21,test=13,size=64"
    config.image_size, config.canvas_size = 32, 36
    config.batch_size, config.epochs, config.steps = 16, 0, 12
    if config.model.features is not None:
        config.model.features = 16
    config.model.backbone_fields.width = 4
    config.log_every, config.eval_every, config.save_every = 4, 8, 4
    config.optim.warmup_steps = 2
    if config.task == "retrieval":
        config.model.embedding, config.synthetic.set = 8, "train_items=20,test_items=6,size=64"
        config.eval_split, config.test_split, config.validation.share = "validation", "query+gallery", 0.2
