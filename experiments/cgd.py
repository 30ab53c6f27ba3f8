"""Combined global descriptors (CGD, arXiv:1903.10663) on DeepFashion In-shop.

    fashionjax import resnet50.pth --backbone_only --config=experiments/cgd.py --workdir=runs/resnet50
    fashionjax train --config=experiments/cgd.py --workdir=runs/cgd --config.init_from=runs/resnet50
    fashionjax evaluate --checkpoint=runs/cgd --split=query+gallery --out=runs/cgd/test

| argument | row | published R@1, 10, 20, 30, 40, 50 |
|---|---|---|
| (none) | In-shop, ResNet-50, descriptors GS | 83.6, 95.7, 97.1, 97.7, 98.1, 98.4 |
| `backbone=resnext50` | In-shop, ResNeXt-50 32x4d, GS | 85.0, 96.1, 97.3, 97.9, 98.2, 98.4 |
| `descriptors=SMG` (S, M, G in any combination) | none | |
| `small=true`, `tiny=true` | none: ResNet-18, narrow, synthetic | |

`descriptors`: S mean (SPoC), M maximum (MAC), G power mean with exponent 3 (GeM); `S` alone is plain average
pooling. The auxiliary classifier reads the first one, so their order counts. Whole images, 252 px cut to 224,
batches of 32 items with 4 images each; statistics of the backbone's normalisations stay those of ImageNet.
Constants: train.py, model.py and utils.py of leftthomas/CGD. Upstream kept the epoch with the best recall on
the test queries; here the last one counts.
"""

from experiments import common

BACKBONES = {"resnet50": "resnet50", "resnext50": "resnext50"}
DESCRIPTORS = {name: name for name in ("S", "M", "G", "SM", "MS", "SG", "GS", "MG", "GM", "SMG", "SGM",
                                       "MSG", "MGS", "GSM", "GMS")}  # fmt: skip
ARGUMENTS = {"backbone": tuple(BACKBONES), "descriptors": ("GS", "S", "SMG"), "small": ("false", "true")}
STAGE_STRIDES = (1, 2, 1, 2)  # the third stage keeps its resolution


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, backbone="resnet50", descriptors="GS", small=False, tiny=False)
    config = common.base()
    common.retrieval(config, common.choose("backbone", args["backbone"], BACKBONES))
    config.dataset, config.synthetic.config = "deepfashion_inshop", "in_shop"
    config.trained_items_only = True  # 3,997 classes, where the release has 7,982 items
    config.model.descriptors = common.choose("descriptors", args["descriptors"], DESCRIPTORS)
    config.model.update({"embedding": 1536, "normalise": True})
    config.model.backbone_fields.stage_strides = STAGE_STRIDES
    config.model.backbone_fields.frozen_bn = True
    config.loss = {"id": 1.0, "batch_hard": 1.0}
    config.retrieval.update({"sampler": "identity", "per_item": 4, "margin": 0.1})
    config.retrieval.update({"id_temperature": 0.5, "smoothing": 0.1})

    config.image_size, config.canvas_size = 224, 252
    share = (224 / 252) ** 2  # of the area: every crop has the output's size
    config.augment.update({"scale": (share, share), "ratio": (1.0, 1.0), "flip": 0.5, "erase": 0.0})
    config.augment.update({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0})
    config.batch_size, config.epochs = 128, 20
    config.optim.update({"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "step"})
    config.optim.update({"boundaries": (12, 16), "gamma": 0.1, "warmup_steps": 0, "clip_norm": 0.0})
    config.save_every = 500
    if args["small"] or args["tiny"]:
        small(config)
    if args["tiny"]:
        common.tiny(config, "train_items=40,test_items=10,size=64")
        config.model.embedding = 12
    return config


def small(config) -> None:
    """At a size that two cores train in minutes, from scratch, on synthetic images. Ours."""
    config.dataset = "synthetic"
    config.synthetic.set = "train_items=400,test_items=200,size=80"
    config.image_size, config.canvas_size = 64, 72
    config.model.backbone, config.model.backbone_fields.width = "resnet18", 16
    config.model.backbone_fields.frozen_bn = False  # there are no published statistics to keep
    config.model.embedding = 96
    config.retrieval.alternate_views = True
    config.augment.update({"scale": (0.7, 1.0), "ratio": (0.9, 1.11), "flip": 0.5})
    config.augment.update({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2})
    config.batch_size, config.epochs, config.steps = 64, 0, 1000
    config.eval_split, config.validation.share = "validation", 0.1
    config.optim.update({"lr": 2e-3, "schedule": "cosine", "warmup_steps": 50, "boundaries": ()})
    config.log_every = 50
