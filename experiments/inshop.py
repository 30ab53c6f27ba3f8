"""In-shop clothes retrieval: MMFashion's retrievers (7982 items, 463 attributes).

    fashionjax import vgg16-397923af.pth --backbone_only --config=experiments/inshop.py --workdir=runs/vgg16
    fashionjax train --config=experiments/inshop.py:backbone=vgg16,pool=landmark --workdir=runs/inshop \
        --config.init_from=runs/vgg16
    fashionjax evaluate --checkpoint=runs/inshop --split=query+gallery --out=runs/inshop/test

| argument | row of the zoo document | published recall@5 | images per GPU × GPUs, epochs |
|---|---|---|---|
| `backbone=vgg16,pool=global` | in-shop, VGG-16, global pooling | 38.76 | 16 × 4, 100 |
| `backbone=vgg16,pool=landmark` | in-shop, VGG-16, landmark pooling | 46.29 | 32 × 4, 200 |
| `backbone=resnet50,pool=global` | in-shop, ResNet-50, global pooling | 41.81 | 16 × 4, 100 |
| `backbone=resnet50,pool=landmark` | in-shop, ResNet-50, landmark pooling | 48.82 | 16 × 4, 150 |

The rows do not say which loss they used. `loss=row`, the default, is the most likely config: `id` for VGG-16
with global pooling (global_retriever_vgg_loss_id.py was used with that row's file), `full` for the others.

| `loss` | terms | upstream's configs |
|---|---|---|
| `full` | cross-entropy of the item, attributes, pairs | {global,roi}_retriever_{vgg,resnet}.py |
| `triplet` | item, pairs | global_retriever_vgg_triplet.py, roi_retriever_{vgg,resnet}_triplet.py |
| `id` | item | {global,roi}_retriever_vgg_loss_id.py |

Pairs are trained where upstream's training set looks for triplets (`find_three`): not in the VGG-16 configs
with global pooling, whose `triplet` is therefore the item alone. A batch in triplets has three images per
image of upstream's count. Constants: configs/retriever_in_shop/*.py. `faithful=zoo` turns on S1, S2, S13 and
for landmark pooling S3 with the images per GPU, S4, S5 (rows of 2019) and S6; see docs/faithful.md.
`tiny=true` runs the same system on a laptop, on synthetic images.
"""

from experiments import common

LOSSES = {
    "full": ("id", "attribute", "pair"),
    "triplet": ("id", "pair"),
    "id": ("id",),
}
# (backbone, pool, loss): (images per GPU, GPUs, epochs, warm-up steps); None: any other loss
TRAINING = {
    ("vgg16", "global", None): (16, 4, 100, 500),
    ("vgg16", "landmark", "full"): (32, 4, 200, 1000),
    ("vgg16", "landmark", None): (8, 4, 100, 500),
    ("resnet50", "global", None): (16, 4, 100, 500),
    ("resnet50", "landmark", "triplet"): (16, 4, 180, 500),
    ("resnet50", "landmark", None): (16, 4, 150, 500),
}
ROW_LOSS = {("vgg16", "global"): "id"}  # full elsewhere
WITHOUT_PAIRS = {("vgg16", "global")}
ARGUMENTS = {
    "backbone": tuple(common.BACKBONES),
    "pool": tuple(common.POOLS),
    "loss": ("row", *LOSSES),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, backbone="vgg16", pool="global", loss="row", faithful="none", tiny=False)
    backbone = common.choose("backbone", args["backbone"], common.BACKBONES)
    pooling, key = common.choose("pool", args["pool"], common.POOLS), (backbone, args["pool"])
    loss = ROW_LOSS.get(key, "full") if args["loss"] == "row" else args["loss"]
    terms = common.choose("loss", loss, LOSSES)
    per_gpu, gpus, epochs, warmup = TRAINING.get((*key, loss)) or TRAINING[*key, None]

    config = common.base()
    common.retrieval(config, backbone)
    config.dataset = "deepfashion_inshop"
    config.synthetic.config = "in_shop"
    config.model.pooling = pooling
    config.loss = {term: 1.0 for term in terms if term != "pair" or key not in WITHOUT_PAIRS}
    triplets = "pair" in config.loss
    batch = per_gpu * gpus * (3 if triplets else 1)
    common.zoo(config, lr=1e-3, drops=(20, 40), epochs=epochs, batch=batch, warmup=warmup)
    config.retrieval.sampler = "triplet" if triplets else "shuffle"

    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.box_clip = False
        config.quirks = ("s1_random_crop_at_test", "s2_landmark_not_moved", "s13_share_of_matches")
        if pooling == "roi":
            config.quirks += ("s3_roi_scramble_group", "s4_landmark_scaled_twice", "s5_align_corners")
            config.quirks += ("s6_landmark_list_shifted",)
            config.images_per_gpu = per_gpu
    if args["tiny"]:
        common.tiny(config, "train_items=40,test_items=10,size=64")
        config.model.embedding = 16
    return config
