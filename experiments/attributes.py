"""Attribute prediction: MMFashion's coarse predictors (1000 attributes) and its in-shop ones (463).

    fashionjax import vgg16-397923af.pth --backbone_only --config=experiments/attributes.py \
        --workdir=runs/vgg16
    fashionjax train --config=experiments/attributes.py:backbone=vgg16,pool=global --workdir=runs/coarse \
        --config.init_from=runs/vgg16
    fashionjax evaluate --checkpoint=runs/coarse --split=test --out=runs/coarse/test

| argument | row of the zoo document | published recall@5, accuracy@5 | images per GPU × GPUs, epochs |
|---|---|---|---|
| `backbone=vgg16,pool=global` | coarse, VGG-16, global pooling | 13.70, 99.81 | 16 × 1, 40 |
| `backbone=vgg16,pool=landmark` | coarse, VGG-16, landmark pooling | 14.79, 99.27 | 32 × 4, 80 |
| `backbone=resnet50,pool=global` | coarse, ResNet-50, global pooling | 23.52, 99.29 | 8 × 2, 40 |
| `backbone=resnet50,pool=landmark` | coarse, ResNet-50, landmark pooling | 30.84, 99.30 | 32 × 4, 40 |
| `benchmark=inshop,…` | none; these configs do not run as published | | 8 × 4 or 4 × 4, 40 |

Constants: configs/attribute_predict_coarse/{global,roi}_predictor_{vgg,resnet}_attr.py. Initial values are
PyTorch's defaults, since GlobalPredictor and RoIPredictor never call their initialiser; the global models
start from ImageNet weights of the backbone, the VGG landmark model from nothing, the ResNet one from a file
that was not published. `recipe=modern` is ours: AdamW, cosine, mild crops, chosen from common practice and
not tuned on the benchmark. `faithful=zoo` turns on the switches behind the published numbers
(docs/faithful.md): S1, S2, S12 and, for landmark pooling, S3 with the images per GPU and S5 (the rows of 2019
predate PyTorch 1.3). `tiny=true` runs the same system on a laptop, on synthetic images.
"""

from experiments import common

# (benchmark, backbone, pool): (images per GPU, GPUs, epochs)
TRAINING = {
    ("coarse", "vgg16", "global"): (16, 1, 40),
    ("coarse", "vgg16", "landmark"): (32, 4, 80),
    ("coarse", "resnet50", "global"): (8, 2, 40),
    ("coarse", "resnet50", "landmark"): (32, 4, 40),
    ("inshop", "vgg16", "global"): (8, 4, 40),
    ("inshop", "vgg16", "landmark"): (8, 4, 40),
    ("inshop", "resnet50", "global"): (4, 4, 40),
    ("inshop", "resnet50", "landmark"): (4, 4, 40),
}
DATASETS = {"coarse": "deepfashion_attributes/coarse", "inshop": "deepfashion_inshop"}
RECIPES = {"zoo": "zoo", "modern": "modern"}
ARGUMENTS = {
    "benchmark": tuple(DATASETS),
    "backbone": tuple(common.BACKBONES),
    "pool": tuple(common.POOLS),
    "recipe": tuple(RECIPES),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg, benchmark="coarse", backbone="vgg16", pool="global", recipe="zoo", faithful="none", tiny=False
    )
    backbone = common.choose("backbone", args["backbone"], common.BACKBONES)
    config = common.base()
    config.task = "attributes"
    config.dataset = common.choose("benchmark", args["benchmark"], DATASETS)
    config.synthetic.config = "attributes"
    if args["benchmark"] == "inshop":
        config.eval_split = config.test_split = "query"

    config.model = common.model(backbone)
    config.model.labels_predicted = ("attribute",)
    config.model.pooling = common.choose("pool", args["pool"], common.POOLS)
    config.model.init = "torch"
    config.loss = {"attribute": 1.0}

    per_gpu, gpus, epochs = TRAINING[args["benchmark"], backbone, args["pool"]]
    common.zoo(config, lr=1e-3, drops=(10, 20), epochs=epochs, batch=per_gpu * gpus)
    if common.choose("recipe", args["recipe"], RECIPES) == "modern":
        modern(config)
        if config.eval_split == config.test_split:  # in-shop has no validation images
            config.eval_split, config.validation.share = "validation", 0.1
    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.box_clip = False
        config.quirks = ("s1_random_crop_at_test", "s2_landmark_not_moved", "s12_best_50_attributes")
        if config.model.pooling == "roi":
            config.quirks += ("s3_roi_scramble_group", "s5_align_corners")
            config.images_per_gpu = per_gpu
    if args["tiny"]:
        common.tiny(config, "train=200,val=40,test=40,size=64")
        config.eval_split, config.test_split, config.validation.share = "val", "test", 0.0
    return config


def modern(config) -> None:
    """AdamW with a cosine rate, an averaged map in place of 49 c × 4096 weights, mild crops."""
    config.model.update({"init": "zoo", "global_pooling": "average", "features": 1024})
    config.augment.update({"scale": (0.4, 1.0), "brightness": 0.2, "contrast": 0.2})
    config.batch_size, config.epochs = 256, 20
    config.optim.update({"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 1000, "warmup_ratio": 0.0, "clip_norm": 1.0})
    config.eval_every, config.best = 2000, "standard/attribute_map"
