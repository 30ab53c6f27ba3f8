"""FashionNet: landmarks, category, attributes and an embedding from one trunk, in three stages.

    fashionjax import vgg16.h5 --backbone_only --config=experiments/fashionnet.py --workdir=runs/vgg16
    fashionjax train --config=experiments/fashionnet.py:stage=blue --workdir=runs/blue \
        --config.init_from=runs/vgg16
    fashionjax train --config=experiments/fashionnet.py:stage=red_green --workdir=runs/red_green \
        --config.init_from=runs/blue
    fashionjax train --config=experiments/fashionnet.py:stage=joint --workdir=runs/joint \
        --config.init_from=runs/red_green
    fashionjax evaluate --checkpoint=runs/joint --split=query+gallery --out=runs/joint/test

| `stage` | trained | terms | rate | the original's stage, validation top-1 of blue, of red + green |
|---|---|---|---|---|
| `blue` | all but the trunk | blue's category and landmarks, a tenth of the others | 1e-4 | 1: 0.576, – |
| `red_green` | red, green, their heads | category, attributes, triplets | 1e-4 | 2: –, 0.581 |
| `joint` | all but the trunk | all | 3e-5 | 3: 0.635, – |

The original's stage 4, top-1 0.666, is `stage=red_green` again with `--config.optim.lr=1e-5`, from `joint`.
Its figures are top-1 on the query images, which chose the checkpoint; it never looked at the gallery images.

`faithful=upstream` trains as the notebook did: no triplets, the weights 730 / count of its category loss,
joint training at the weights of `blue`, no held-out items, and the quirks F1 to F11 of docs/faithful.md.
`small=true` is a narrow net on synthetic images that two cores train in minutes, from scratch, so that its
trunk is trained too. `tiny=true` is a look at it in 20 steps. docs/fashionnet.md has figures.

Constants: src/FashionNet.ipynb of Jasonsey/FashionNet. Epochs are those it ran. Augmentation by our own
crops, flips and colours; its rotations and noise are not repeated.
"""

from experiments import common

QUIRKS = (
    "f1_rois_of_first_image",
    "f2_roi_logits",
    "f3_roi_corner",
    "f4_roi_two_points",
    "f5_attribute_weights_swapped",
    "f6_categories_collapsed",
    "f7_absent_landmarks_visible",
    "f8_flip_keeps_sides",
    "f9_outside_stays_visible",
    "f10_no_attribute_is_first",
    "f11_frozen_blue_uses_batch",
)
# training images of the original by category; the others' outputs are never used
COUNTS = {0: 468, 1: 260, 2: 1241, 3: 395, 4: 2144, 5: 16, 6: 2010, 7: 813, 8: 7319, 9: 4046, 10: 714}
COUNTS |= {12: 3464, 13: 672, 14: 871, 15: 215, 17: 804, 19: 886}
CATEGORIES = 23
TYPE_1 = {"blue_category": 1.0, "landmark": 1.0, "visibility": 1.0, "category": 0.1, "attribute": 0.1}
TRUNK, BLUE = "backbone/", "blue_"
# stage: (terms, frozen, rate, epochs)
STAGES = {
    "blue": (TYPE_1, (TRUNK,), 1e-4, 16),
    "red_green": ({"category": 1.0, "attribute": 1.0, "triplet": 1.0}, (TRUNK, BLUE), 1e-4, 11),
    "joint": ({**dict.fromkeys(TYPE_1, 1.0), "triplet": 1.0}, (TRUNK,), 3e-5, 10),
}
FAITHFUL = {"none": False, "upstream": True}
ARGUMENTS = {"stage": tuple(STAGES), "faithful": tuple(FAITHFUL)}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, stage="blue", faithful="none", small=False, tiny=False)
    terms, frozen, rate, epochs = common.choose("stage", args["stage"], STAGES)
    config = common.base()
    config.task = "fashionnet"
    config.dataset = "deepfashion_inshop"
    config.synthetic.config = "in_shop"
    # a tenth of the training items chooses the checkpoint: the release has no other validation
    config.validation.share, config.eval_split, config.test_split = 0.1, "validation", "query+gallery"
    config.part = "whole"  # what predictions compute: blue, red_green, whole

    config.model = {"backbone": "vgg16", "backbone_fields": {"width": 64}, "sync_bn": False}
    config.model.update({"fc": 4096, "green": 1024, "blue_running": args["stage"] == "red_green"})
    config.loss = dict(terms)
    config.triplet_margin = 0.3
    config.balance = {"attribute_rate": 0.04143, "category_weights": ()}

    config.image_size, config.canvas_size = 224, 256
    config.augment.update({"scale": (0.5, 1.0), "ratio": (0.8, 1.25), "flip": 0.5, "erase": 0.0})
    config.augment.update({"brightness": 0.1, "contrast": 0.25, "saturation": 0.0, "hue": 0.0})
    config.batch_size, config.epochs, config.steps = 72 if "triplet" in terms else 64, epochs, 0
    config.optim.update({"optimizer": "adam", "lr": rate, "frozen": frozen})
    config.eval_every, config.save_every = 400, 400
    config.best = "standard/blue_category_top1" if args["stage"] == "blue" else "standard/category_top1"

    if common.choose("faithful", args["faithful"], FAITHFUL):
        upstream(config)
    if args["small"] or args["tiny"]:
        small(config, args["stage"])
    if args["tiny"]:
        tiny(config)
    return config


def upstream(config) -> None:
    """The notebook's training. Its `val` are the query images, which it chose the checkpoint on."""
    config.quirks = QUIRKS
    config.balance.category_weights = tuple(
        730 / COUNTS[c] if c in COUNTS else 0.0 for c in range(CATEGORIES)
    )
    config.loss = TYPE_1 if "blue_category" in config.loss else {"category": 1.0, "attribute": 1.0}
    config.batch_size, config.validation.share = 64, 0.0
    config.eval_split, config.test_split, config.best = "query", "gallery", ""


def small(config, stage: str) -> None:
    """The same system at an eighth of the width and 96 px, trained from scratch: its trunk is a VGG-11 with
    batch normalisation. Images are framed by the garment's box, as those of In-shop are released. Ours."""
    config.dataset, config.synthetic.set = "synthetic", "train_items=900,test_items=200,size=112"
    config.model.update({"backbone": "vgg11_bn", "fc": 256, "green": 64})
    config.model.backbone_fields.width = 8
    config.image_size, config.canvas_size = 96, 108
    config.crop_box, config.augment.scale = True, (0.7, 1.0)
    config.balance.update({"attribute_rate": 0.2, "category_weights": ()})
    if "landmark" in config.loss:
        config.loss.landmark = 20.0  # squares of image sides are small beside cross-entropies
    config.batch_size, config.epochs = 33, 0
    config.steps = {"blue": 800, "red_green": 400, "joint": 400}[stage]
    config.optim.update({"lr": {"blue": 1e-3, "red_green": 1e-3, "joint": 3e-4}[stage], "schedule": "cosine"})
    config.optim.update({"warmup_steps": 50, "frozen": (TRUNK, BLUE) if stage == "red_green" else ()})
    config.log_every, config.eval_every, config.save_every = 20, 100, 100


def tiny(config) -> None:
    config.synthetic.set = "train_items=40,test_items=10,size=64"
    config.model.update({"fc": 32, "green": 16})
    config.model.backbone_fields.width = 4
    config.image_size, config.canvas_size = 64, 72
    config.batch_size, config.steps = 24, 20
    config.log_every, config.eval_every, config.save_every = 5, 0, 0
