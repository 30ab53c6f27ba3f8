"""Consumer-to-shop clothes retrieval: MMFashion's retriever (33881 items, 303 attributes).

    fashionjax import vgg16-397923af.pth --backbone_only --config=experiments/consumer2shop.py \
        --workdir=runs/vgg16
    fashionjax train --config=experiments/consumer2shop.py:backbone=vgg16,pool=landmark \
        --workdir=runs/consumer2shop --config.init_from=runs/vgg16
    fashionjax evaluate --checkpoint=runs/consumer2shop --split=query+gallery --out=runs/consumer2shop/test

| argument | row of the zoo document | published recall@5 | images per GPU × GPUs, epochs |
|---|---|---|---|
| `backbone=vgg16,pool=landmark` | consumer-to-shop, VGG-16, landmark pooling | 7.18 | 8 × 3, 100 |

Other backbones and global pooling have no row; they train by the same constants, those of
configs/retriever_consumer_to_shop/roi_retriever_vgg.py. An anchor is the consumer's image of a pair, its
positive the shop's image that it is paired with last, its negative a shop's image of another item; a
batch holds 24 such triplets. The default evaluates the original protocol (pairs of `test`, each image
once). `faithful=zoo` reads the config `val_test` of the dataset, in which val and test are merged and a
image repeats once per pair, and turns on S1, S2, S7, S8, S13, S15 and for landmark pooling S3 and S4 (the
row is of January 2020, after PyTorch 1.3: S5 stays off); see docs/faithful.md. `tiny=true` runs the same
system on a laptop, on synthetic images.
"""

from experiments import common

PER_GPU, GPUS, EPOCHS = 8, 3, 100
ARGUMENTS = {
    "backbone": tuple(common.BACKBONES),
    "pool": tuple(common.POOLS),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, backbone="vgg16", pool="landmark", faithful="none", tiny=False)
    config = common.base()
    common.retrieval(config, common.choose("backbone", args["backbone"], common.BACKBONES))
    config.dataset = "deepfashion_consumer2shop"
    config.synthetic.config = "consumer_to_shop"
    config.model.pooling = common.choose("pool", args["pool"], common.POOLS)
    config.loss = {"id": 1.0, "attribute": 1.0, "pair": 1.0}
    config.retrieval.sampler = "pair_triplet"
    common.zoo(config, lr=1e-3, drops=(20, 40), epochs=EPOCHS, batch=3 * PER_GPU * GPUS)

    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.dataset = "deepfashion_consumer2shop/val_test"
        config.quirks = ("s1_random_crop_at_test", "s2_landmark_not_moved", "s7_pair_label_halved")
        config.quirks += ("s8_attribute_zero", "s13_share_of_matches", "s15_gallery_per_pair")
        if config.model.pooling == "roi":
            config.quirks += ("s3_roi_scramble_group", "s4_landmark_scaled_twice")
            config.images_per_gpu = PER_GPU
    if args["tiny"]:
        common.tiny(config, "train_items=30,val_items=6,test_items=8,size=64")
        config.model.embedding = 16
    return config
