"""Category and fine attributes together (50 categories, 26 attributes): MMFashion's AttrCate predictors.

    fashionjax import resnet50-19c8e357.pth --backbone_only \
        --config=experiments/category_attributes.py:backbone=resnet50 --workdir=runs/resnet50
    fashionjax train --config=experiments/category_attributes.py:backbone=resnet50,pool=landmark \
        --workdir=runs/fine --config.init_from=runs/resnet50
    fashionjax evaluate --checkpoint=runs/fine --split=test --out=runs/fine/test

| argument | row of the zoo document | category, attribute recall@5 | images per GPU × GPUs, epochs |
|---|---|---|---|
| `backbone=vgg16,pool=global` | fine, VGG-16, global pooling | 35.91, 25.44 | 128 × 2, 50 |
| `backbone=vgg16,pool=landmark` | fine, VGG-16, landmark pooling | 37.71, 26.69 | 128 × 2, 50 |
| `backbone=resnet50,pool=global` | fine, ResNet-50, global pooling | 42.87, 29.37 | 64 × 3, 50 |
| `backbone=resnet50,pool=landmark` | fine, ResNet-50, landmark pooling | 48.25, 32.57 | 64 × 3, 50 |

Constants: configs/category_attribute_predict/{global,roi}_predictor_{vgg,resnet}.py. The loss is the plain
sum of both terms. `faithful=zoo` turns on S1, S2, S12 and, for landmark pooling, S3 with the images per GPU
(docs/faithful.md); the rows are of July 2020, after PyTorch 1.3, so S5 stays off. `recipe=modern` is ours,
not tuned on the benchmark. `tiny=true` runs the same system on a laptop, on synthetic images.
"""

from experiments import attributes, common

# backbone: (images per GPU, GPUs, width of the pooled feature)
TRAINING = {"vgg16": (128, 2, 1024), "resnet50": (64, 3, 2048)}
ARGUMENTS = {
    "backbone": tuple(common.BACKBONES),
    "pool": tuple(common.POOLS),
    "recipe": tuple(attributes.RECIPES),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, backbone="vgg16", pool="global", recipe="zoo", faithful="none", tiny=False)
    backbone = common.choose("backbone", args["backbone"], common.BACKBONES)
    per_gpu, gpus, features = TRAINING[backbone]
    config = common.base()
    config.task = "attributes"
    config.dataset = "deepfashion_attributes/fine"
    config.synthetic.config = "attributes"

    config.model = common.model(backbone)
    config.model.labels_predicted = ("attribute", "category")
    config.model.pooling = common.choose("pool", args["pool"], common.POOLS)
    config.model.hidden, config.model.features = 1024, features
    config.loss = {"attribute": 1.0, "category": 1.0}

    common.zoo(config, lr=1e-3, drops=(10, 20), epochs=50, batch=per_gpu * gpus)
    if common.choose("recipe", args["recipe"], attributes.RECIPES) == "modern":
        attributes.modern(config)
        config.batch_size, config.eval_every, config.best = 128, 500, "standard/category_top1"
    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.box_clip = False
        config.quirks = ("s1_random_crop_at_test", "s2_landmark_not_moved", "s12_best_50_attributes")
        if config.model.pooling == "roi":
            config.quirks += ("s3_roi_scramble_group",)
            config.images_per_gpu = per_gpu
    if args["tiny"]:
        common.tiny(config, "train=200,val=40,test=40,size=64")
    return config
