"""Attribute-specific retrieval: RPF (region to patch) in two stages, ASEN, and an unconditioned baseline.

    fashionjax prepare fashionai/published --data_dir=data --manual_dir=DIR
    fashionjax import resnet50-19c8e357.pth --backbone_only --config=experiments/rpf.py \
        --workdir=runs/resnet50
    fashionjax train --config=experiments/rpf.py --workdir=runs/stage1 --config.init_from=runs/resnet50
    fashionjax import imagenet21k_ViT-B_16.npz --backbone_only --config=experiments/rpf.py:stage=2 \
        --workdir=runs/stage2_start --config.init_from=runs/stage1
    fashionjax train --config=experiments/rpf.py:stage=2 --workdir=runs/stage2 \
        --config.init_from=runs/stage2_start
    fashionjax evaluate --checkpoint=runs/stage2 --split=test --out=runs/stage2/test

| `dataset` | published MAP of stage 2, test | weight of the region (`config.model.beta`) |
|---|---|---|
| `fashionai` | 70.11 | 0.3 |
| `darn` | 58.80 | 0.3 |
| `deepfashion_fine` | 10.22 | 0.4 |
| `synthetic` | none | 0.3 |

`stage=2` goes on from stage 1 with the patch branch, whose transformer comes from Google's ImageNet-21k
file; without that file, `--config.init_from=runs/stage1 --config.init_skip="('patch/',)"` starts it from
scratch. `variant=asen` is ASEN's region branch (stage 1 alone). `negatives=in_batch` compares every row with
the other values of its attribute in the batch in place of triplets (ours). `conditioned=false` is the same
backbone with one embedding for all attributes, for comparison. `small=true` is the system at a size that two
cores train in minutes, from scratch, on synthetic images; `tiny=true` a few steps of it.

Constants: config/*/s1.yaml and s2.yaml of HuiGuanLab/RPF at 1999e63, and ASEN's of Maryeon/asen.
docs/fine_grained.md has the quirks that are on.
"""

from ml_collections import ConfigDict, config_dict

from experiments import common

# the dataset, and the weight of the region in its published embedding
DATASETS = {
    "fashionai": ("fashionai/published", 0.3),
    "darn": ("darn/published", 0.3),
    "deepfashion_fine": ("deepfashion_fine/published", 0.4),
    "synthetic": ("synthetic", 0.3),
}
VARIANTS = ("rpf", "asen")
# stage: loss in triplets, and with negatives from the batch
LOSSES = {
    1: ({"triplet": 1.0}, {"in_batch": 1.0}),
    2: (
        {"triplet": 1.0, "patch_triplet": 0.1, "contrast": 0.04},
        {"in_batch": 1.0, "patch_in_batch": 0.1, "contrast": 0.04},
    ),
}
# what the published numbers were made with
QUIRKS = (
    "r7_complement_not_projected",
    "r10_black_past_the_edge",
    "r11_two_crop_offsets",
    "r13_class_token_unused",
    "r15_other_attributes_are_negatives",
    "r18_statistics_by_role",
    "r21_zero_without_candidate",
)
ARGUMENTS = {
    "dataset": tuple(DATASETS),
    "stage": (1, 2),
    "variant": VARIANTS,
    "negatives": ("triplet", "in_batch"),
    "conditioned": ("true", "false"),
    "small": ("false", "true"),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg,
        dataset="fashionai",
        stage=1,
        variant="rpf",
        negatives="triplet",
        conditioned=True,
        small=False,
        tiny=False,
    )
    stage = args["stage"]
    triplet, in_batch = common.choose("stage", stage, LOSSES)
    variant = common.choose("variant", args["variant"], dict(zip(VARIANTS, VARIANTS, strict=True)))
    if stage == 2 and (variant != "rpf" or not args["conditioned"]):
        raise ValueError("config argument stage=2: only variant=rpf,conditioned=true has a second stage")
    dataset, beta = common.choose("dataset", args["dataset"], DATASETS)
    config = base(beta)
    config.dataset, config.model.patch = dataset, stage == 2
    config.model.variant, config.model.conditioned = variant, args["conditioned"]
    negatives = common.choose("negatives", args["negatives"], {"triplet": triplet, "in_batch": in_batch})
    config.loss, config.fine_grained.sampler = negatives, args["negatives"]
    if args["negatives"] == "in_batch":
        config.batch_size = 64  # 4 groups of one attribute
    (stage1 if stage == 1 else stage2)(config)
    if variant == "asen":
        asen(config)
    if args["small"] or args["tiny"]:
        small(config)
    if args["tiny"]:
        tiny(config)
    return config


def base(beta: float):
    """The fields of the task, at RPF's values."""
    config = common.base()
    config.task = "fine_grained"
    config.synthetic.config = "fine_grained"
    for unused in ("crop_box", "box_margin", "box_clip", "shrink_first", "augment", "images_per_gpu"):
        del config[unused]
    config.quirks = QUIRKS
    config.image_size = 224
    # sides of the canvas that crops are taken from: in training, and in evaluation, where a larger square is
    # shrunk to the last
    config.canvas_size, config.test_canvases = 448, (512, 768, 1024, 1536, 2048)
    config.mirror = 0.0  # probability that the region input is mirrored, in training

    spec = config.model = ConfigDict({"backbone": "resnet50", "sync_bn": False})
    spec.backbone_fields = {"width": config_dict.placeholder(int)}
    spec.update({"variant": "rpf", "conditioned": True, "embedding": 1024, "attribute_width": 512})
    spec.update({"common": 512, "hidden": 512, "dropout": 0.1, "threshold": 0.1, "crop": "attention"})
    spec.update({"patch": False, "patch_hidden": 512, "beta": beta})
    spec.vit = {"width": 768, "depth": 12, "heads": 12, "patch": 16, "grid": 14}

    config.fine_grained = ConfigDict({"sampler": "triplet", "triplets": 100_000})
    config.fine_grained.update({"group_values": 4, "group_images": 4})  # of a group of sampler=in_batch
    config.fine_grained.update({"margin": 0.2, "temperature": 0.07, "alpha": 12.0})

    config.batch_size, config.epochs, config.steps = 48, 50, 0  # 16 triplets
    config.optim.update({"optimizer": "adam", "schedule": "step", "gamma": 0.9})
    config.eval_every, config.save_every, config.best = 6250, 2000, "zoo/map"
    return config


def stage1(config) -> None:
    """The region branch on whole images."""
    config.optim.lr, config.optim.boundaries = 5e-5, tuple(range(3, 50, 3))
    config.mirror = 0.5


def stage2(config) -> None:
    """Both branches; the region branch at a lower rate."""
    config.optim.lr, config.optim.boundaries = 5.5e-5, tuple(range(2, 50, 2))
    config.optim.groups = ((r"(backbone|attr_embedding|attention_net)/", 1e-5 / 5.5e-5),)


def asen(config) -> None:
    """ASEN's training: its rate falls every epoch, 200 of them."""
    config.optim.lr, config.optim.boundaries = 1e-4, tuple(range(1, 200))
    config.optim.gamma, config.epochs = 0.985, 200


def small(config) -> None:
    """A size that two cores train in minutes, from scratch, on synthetic images. Ours."""
    config.dataset = "synthetic"
    config.quirks = ("r7_complement_not_projected", "r15_other_attributes_are_negatives")
    config.image_size, config.canvas_size, config.test_canvases = 96, 192, (200, 256)
    config.best = "standard/map"
    spec = config.model
    spec.backbone, spec.backbone_fields.width = "resnet18", 16
    spec.update({"embedding": 64, "attribute_width": 64, "common": 64, "hidden": 64, "patch_hidden": 64})
    spec.vit.update({"width": 64, "depth": 4, "heads": 4, "patch": 8, "grid": 12})
    spec.beta, spec.threshold = 0.5, 0.4  # the map has 6 x 6 cells: with 0.1 a crop is nearly the whole image
    config.batch_size, config.epochs, config.steps = 48, 0, 1500
    config.optim.update({"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 50, "boundaries": (), "groups": (), "clip_norm": 1.0})
    config.log_every, config.eval_every, config.save_every = 50, 500, 0
    config.loss = config.loss.to_dict() | {
        "value": 1.0
    }  # a classifier of values beside, to start from scratch
    if config.fine_grained.sampler == "in_batch" and not spec.patch:
        config.fine_grained.sampler, config.batch_size = "image", 32  # every image with all its labels
    config.fine_grained.temperature, spec.dropout = 0.1, 0.0
    if spec.patch:
        config.init_skip = ("patch/",)  # there is no file of so small a transformer


def tiny(config) -> None:
    """`small` at a few steps, for a look on a laptop and for tests."""
    config.synthetic.set = "train=24,val=12,test=12,size=64"
    config.image_size, config.canvas_size, config.test_canvases = 32, 64, (64, 96)
    spec = config.model
    spec.backbone_fields.width = 8
    spec.update({"embedding": 32, "attribute_width": 16, "common": 16, "hidden": 16, "patch_hidden": 16})
    spec.vit.update({"width": 16, "depth": 2, "heads": 2, "grid": 4})
    config.batch_size, config.steps = 12, 4
    config.fine_grained.update({"group_values": 2, "group_images": 3})
    config.log_every, config.eval_every = 1, 0
