"""Retrieval as it is done for accuracy today, for in-shop and consumer-to-shop. No row of the zoo.

    fashionjax import resnet50-11ad3fa6.pth --backbone_only --config=experiments/retrieval.py \
        --workdir=runs/resnet50
    fashionjax train --config=experiments/retrieval.py:benchmark=inshop,loss=proxy_anchor \
        --workdir=runs/retrieval --config.init_from=runs/resnet50
    fashionjax evaluate --checkpoint=runs/retrieval --split=query+gallery --out=runs/retrieval/test

A unit embedding of 512 values on the averaged last map, AdamW, a cosine rate, mild crops, and one of

| `loss` | | constants of |
|---|---|---|
| `proxy_anchor` | one learned vector per item, alpha 32, delta 0.1, its rate × 100 | Kim et al. 2020 |
| `batch_hard` | farthest positive against nearest negative, margin 0.1 (ours) | Hermans et al. 2017 |
| `info_nce` | every positive against the batch, temperature 0.07 | Khosla et al. 2020 |

Batches hold 4 images of each item (in consumer-to-shop of both views) and are compared over all devices.
`backbone` is resnet50, vit_s16 or vit_b16; `pool=landmark` adds features pooled at annotated landmarks.
Batch, rates and epochs are ours and not tuned on the benchmarks. `tiny=true` runs on a laptop, on synthetic
images.
"""

from experiments import common

BACKBONES = {"resnet50": "resnet50", "vit_s16": "vit_s16", "vit_b16": "vit_b16"}
BENCHMARKS = {
    "inshop": ("deepfashion_inshop", "in_shop", "train_items=40,test_items=10,size=64"),
    "consumer2shop": (
        "deepfashion_consumer2shop",
        "consumer_to_shop",
        "train_items=30,val_items=6,test_items=8,size=64",
    ),
}
# loss: (sampler, id head, learning rate)
LOSSES = {
    "proxy_anchor": ("identity", "proxy", 1e-4),
    "batch_hard": ("identity", "none", 1e-4),
    "info_nce": ("identity", "none", 1e-4),
}
ARGUMENTS = {
    "benchmark": tuple(BENCHMARKS),
    "backbone": tuple(BACKBONES),
    "pool": tuple(common.POOLS),
    "loss": tuple(LOSSES),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(
        arg, benchmark="inshop", backbone="resnet50", pool="global", loss="proxy_anchor", tiny=False
    )
    config = common.base()
    common.retrieval(config, common.choose("backbone", args["backbone"], BACKBONES))
    dataset, synthetic, records = common.choose("benchmark", args["benchmark"], BENCHMARKS)
    config.dataset, config.synthetic.config = dataset, synthetic
    sampler, id_head, lr = common.choose("loss", args["loss"], LOSSES)

    config.model.update({"global_pooling": "average", "features": 1024, "embedding": 512})
    config.model.update({"normalise": True, "id_head": id_head})
    config.model.pooling = common.choose("pool", args["pool"], common.POOLS)
    config.loss = {args["loss"]: 1.0}
    config.retrieval.update({"sampler": sampler, "margin": 0.1})
    config.retrieval.alternate_views = args["benchmark"] == "consumer2shop"

    config.crop_box = True
    config.augment.update({"scale": (0.4, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "erase": 0.25})
    config.batch_size, config.epochs = 128, 40
    config.optim.update({"optimizer": "adamw", "lr": lr, "weight_decay": 1e-4, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 500, "clip_norm": 10.0})
    if id_head == "proxy":
        config.optim.groups = (("embed_extractor/proxies", 100.0),)
    config.eval_every, config.best = 2000, "standard/recall@1"
    if args["benchmark"] == "consumer2shop":
        config.eval_split = "val"
    else:  # no validation items in the release: a tenth of the training items choose the checkpoint
        config.eval_split, config.validation.share = "validation", 0.1
    if args["tiny"]:
        tiny(config, records)
    return config


def tiny(config, records: str) -> None:
    common.tiny(config, records)
    config.model.embedding, config.eval_every = 16, 0
    if config.model.backbone.startswith("vit"):
        config.model.backbone_fields = {"width": 32, "depth": 2, "heads": 2}
