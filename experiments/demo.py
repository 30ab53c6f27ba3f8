"""The demo: category, attributes and landmarks in one small model that pools at its own landmarks.

    python -m fashionjax.train --config=experiments/demo.py --workdir=runs/demo/train

ResNet-18 of width 16 at 96 px on the synthetic benchmark; `make demo` runs it end to end. The constants are
ours, chosen on the synthetic validation split for a few minutes on two CPU cores. `tiny=true` is a few steps
of the same system.
"""

from experiments import common


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, steps=1300, tiny=False)
    config = common.base()
    config.task = "attributes"
    config.synthetic.config = "attributes"
    config.image_size = 96
    config.canvas_size = 104
    config.synthetic.set = "train=6000,val=400,test=800,size=104,cluttered=0.1,freedom=0.2,per_item=1"
    config.augment.update({"scale": (0.8, 1.0), "ratio": (0.95, 1.05)})
    config.augment.update({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0})  # colour is a label

    config.batch_size = 32
    config.steps = args["steps"]
    config.eval_every = args["steps"] // 2
    config.best = "standard/category_top1"

    config.model = common.model("resnet18")
    config.model.labels_predicted = ("attribute", "category", "landmark")
    config.model.backbone_fields.width = 16
    config.model.pooling = "roi"
    config.model.global_pooling = "average"
    config.model.features = 128
    config.model.dropout = 0.1
    config.model.normalise_pooled = True
    config.model.landmark_source = "predicted"
    config.model.roi_levels = config.model.global_levels = (0, 1, 2, 3)  # colour lives in the first
    config.loss = {"attribute": 12.0, "category": 2.0, "landmark": 25.0, "visibility": 0.5}

    config.optim.update({"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.02, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 50, "clip_norm": 10.0})
    if args["tiny"]:
        common.tiny(config, "train=200,val=40,test=40,size=64")
        config.eval_every = 0
    return config
