"""Outfit compatibility: MMFashion's type-aware recommender on Polyvore Outfits, and a set transformer.

    fashionjax prepare polyvore_outfits/disjoint --manual_dir=DIR --data_dir=data
    fashionjax import resnet18-5c106cde.pth --backbone_only --config=experiments/compatibility.py \\
        --workdir=runs/resnet18
    fashionjax train --config=experiments/compatibility.py:split=disjoint,projection=mask --workdir=runs/outfits \\
        --config.init_from=runs/resnet18
    fashionjax evaluate --checkpoint=runs/outfits --split=test --out=runs/outfits/test

| argument | row of the zoo document | published fill in the blank, AUC | batch, epochs |
|---|---|---|---|
| `split=disjoint,projection=fc` | Disjoint, "fully-connected layer" | 50.4, 0.80 | 2 triplets, 10 |
| `split=disjoint,projection=mask` | Disjoint, "learned metric" | 55.6, 0.84 | 32 triplets, 16 |
| `split=nondisjoint,projection=fc` | Nondisjoint, "fully-connected layer" | 53.5, 0.85 | 8 triplets, 10 |

The row named "learned metric" compares masked embeddings by Euclidean distance; the rows named after the layer
have a learned metric. `split=nondisjoint,projection=mask` is no row. Adam 5e-5, linear warm-up over 500 steps,
x 0.1 from epoch 8; weights are upstream's. `faithful=zoo` turns on S1 and C1 to C5, for the nondisjoint row C6
too, of `recipe=origin` C2 and C4, of `recipe=set` nothing; see docs/faithful.md. Constants: configs/fashion_recommendation/*.py and losses of open-mmlab/mmfashion.

| `recipe` | |
|---|---|
| `zoo` | the row as published; a type head (weight 0.1, ours) is added, so that bare photos have a type |
| `origin` | the original authors' network and weights: 112 px, three stages, 64 values, batch 256, masks or fc; theirs keeps the epoch with the best sum of both metrics, this the best fill in the blank |
| `set` | ours: a set transformer on ResNet-18 embeddings, trained on whole outfits to tell real from artificial ones and to fill a blank (after OutfitTransformer, Sarkar et al. 2022) |

`text` is features (the released vectors), words (a learned encoder of the title's words) or none.
`types=false` leaves the type head away, as the published files have none. `small=true` is a narrow network and a
short schedule for synthetic outfits on a laptop, in stages: `stage=texts` learns types and texts of images, in place
of ImageNet weights; masks start from it, and `fc` and `set`, which learn slowly from there, from the network that the
masks trained (docs/outfits.md has the figures). `tiny=true` is a few steps for tests.

    fashionjax train --config=experiments/compatibility.py:small=true,stage=texts --workdir=runs/texts
    fashionjax train --config=experiments/compatibility.py:small=true,projection=mask --workdir=runs/outfits \\
        --config.init_from=runs/texts
    fashionjax train --config=experiments/compatibility.py:small=true,projection=fc --workdir=runs/linear \\
        --config.init_from=runs/outfits
"""  # noqa: E501

from experiments import common

SPLITS = {"disjoint": "disjoint", "nondisjoint": "nondisjoint"}
PROJECTIONS = {"mask": "mask", "fc": "fc"}
TEXTS = {"features": "features", "words": "words", "none": "none"}
# (split, projection): (weight of triplet, of text similarity, batch in triplets, epochs)
ROWS = {
    ("disjoint", "fc"): (1.0, 5e-5, 2, 10),
    ("disjoint", "mask"): (5e-4, 5e-4, 32, 16),
    ("nondisjoint", "fc"): (5e-5, 5e-5, 8, 10),
    ("nondisjoint", "mask"): (5e-4, 5e-4, 32, 16),  # no row: the disjoint one's
}
RECIPES = ("zoo", "origin", "set")
# what faithful=zoo turns on; the original authors' code shares two quirks, our own recipe has none
QUIRKS = {
    "zoo": (
        "s1_random_crop_at_test",
        "c1_zoo_names",
        "c2_raw_masks",
        "c3_no_text",
        "c4_same_type_apart",
        "c5_vse_weighted_twice",
    ),
    "origin": ("c2_raw_masks", "c4_same_type_apart"),
    "set": (),
}
STAGES = {"texts": "texts", "outfits": "outfits"}  # of small=true
ARGUMENTS = {
    "split": tuple(SPLITS),
    "projection": tuple(PROJECTIONS),
    "recipe": RECIPES,
    "text": tuple(TEXTS),
    "types": (True, False),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg,
        split="disjoint",
        projection="mask",
        recipe="zoo",
        text="features",
        types=True,
        faithful="none",
        small=False,
        stage="outfits",
        tiny=False,
    )
    split = common.choose("split", args["split"], SPLITS)
    projection = common.choose("projection", args["projection"], PROJECTIONS)
    recipe = common.choose("recipe", args["recipe"], {name: name for name in RECIPES})
    config = common.base()
    config.task = "compatibility"
    config.dataset = f"polyvore_outfits/{split}"
    config.synthetic.config = "outfits"
    config.shrink_first = False
    config.model = common.model("resnet18")
    config.model.update({"kind": "type_aware", "embedding": 256, "pool": "flatten", "statistics": "role"})
    config.model.update({"projection": projection, "metric": projection == "fc"})
    config.model.update({"text": common.choose("text", args["text"], TEXTS), "text_features": 6000})
    config.model.update({"depth": 2, "heads": 4, "width": 128})
    config.outfit = {"slots": 6, "candidates": 3}
    zoo(config, *ROWS[split, projection])
    if recipe == "origin":
        origin(config)
    if recipe == "set":
        sets(config)
    if not args["types"] and recipe != "set":
        del config.loss["category"]
    if config.model.text == "none":
        for term in {"text_similarity", "vse"} & set(config.loss):
            del config.loss[term]
    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.quirks = QUIRKS[recipe]
        if recipe == "zoo" and split == "nondisjoint":
            config.quirks += ("c6_tested_on_disjoint",)
    stage = common.choose("stage", args["stage"], STAGES)
    if args["small"] or args["tiny"]:
        small(config, stage)
    if args["tiny"]:
        tiny(config)
    return config


def zoo(config, triplet: float, similarity: float, batch: int, epochs: int) -> None:
    """The published row, with the weights that every term has in effect but for quirk C5."""
    common.zoo(config, lr=5e-5, drops=(8, 10), epochs=epochs, batch=3 * batch)
    config.optim.optimizer = "adam"
    config.crop_box = False
    config.canvas_size = 300  # the released images, so that the random crop is taken from all their pixels
    config.loss = {
        "triplet": triplet,
        "image_similarity": 5e-5,
        "text_similarity": similarity,
        "vse": 5e-3,
        "embedding_norm": 5e-4,
        "space_norm": 5e-4,
        "category": 0.1,
    }


def origin(config) -> None:
    """The original repository's defaults: main.py of mvasil/fashion-compatibility."""
    config.image_size = config.canvas_size = 112
    config.augment.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
    config.model.backbone_fields.stage_strides = (1, 2, 2)
    config.model.update({"embedding": 64, "pool": "average"})
    config.loss.update({"triplet": 1.0, "text_similarity": 5e-5, "vse": 5e-3})
    config.batch_size, config.epochs = 3 * 256, 10
    # 5e-5 x 0.985^epoch, their epochs counted from 1
    config.optim.update({"lr": 5e-5 * 0.985, "schedule": "step", "boundaries": tuple(range(1, 10))})
    config.optim.update({"gamma": 0.985, "warmup_steps": 0})
    config.seed, config.eval_every, config.best = 1, 1000, "standard/fill_in_blank"


def sets(config) -> None:
    """Ours, not tuned on the benchmark."""
    config.model.update({"kind": "set_transformer", "text": "none", "pool": "average", "statistics": "batch"})
    config.loss = {"outfit": 1.0, "blank": 1.0, "category": 0.3}
    config.batch_size, config.epochs = 6 * 32, 20
    config.augment.update({"scale": (0.5, 1.0)})
    config.optim.update({"optimizer": "adamw", "lr": 2e-4, "weight_decay": 1e-4, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 500, "clip_norm": 1.0})
    config.eval_every, config.best = 1000, "standard/fill_in_blank"


def small(config, stage: str) -> None:
    """For synthetic outfits: 64 px, width 16, weights that train in minutes. Not a row."""
    config.dataset = "synthetic"
    config.image_size, config.canvas_size = 64, 72
    config.model.backbone_fields.width = 16
    config.model.update({"pool": "average", "statistics": "batch", "embedding": 64, "width": 64})
    config.augment.update({"scale": (0.7, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0})
    config.epochs, config.steps, config.save_every = 0, 1000, 500
    config.optim.update({"optimizer": "adam", "lr": 2e-3, "schedule": "cosine", "warmup_steps": 50})
    config.optim.clip_norm = 5.0
    config.eval_every, config.best = 0, ""
    config.init_skip = ("type_specific_net", "metric_branch", "set_scorer", "text_branch")
    config.batch_size = 96  # 32 triplets or 16 outfits
    if stage == "texts":
        config.model.update({"kind": "type_aware", "projection": "mask", "metric": False, "text": "features"})
        config.loss = {"category": 1.0, "vse": 1.0, "embedding_norm": 5e-4}
        config.steps, config.optim.lr, config.init_skip = 500, 3e-3, ()
    elif config.model.kind == "type_aware":
        config.loss.triplet = 1.0
        if config.model.projection == "mask":
            config.steps = 2000
        else:
            config.loss.space_norm = 1e-5  # upstream's 5e-4 outweighs the triplets of a small embedding
    else:
        config.steps, config.optim.lr = 500, 1e-3


def tiny(config) -> None:
    """A few steps of `small` for tests."""
    config.synthetic.set = "train=24,val=12,test=12,size=64"
    config.model.backbone_fields.width = 8
    config.model.update({"embedding": 16, "width": 16, "heads": 2})
    config.batch_size = 24  # eight triplets or four outfits
    config.steps, config.log_every, config.save_every = 20, 5, 0
