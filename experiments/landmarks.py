"""Landmark detection: eight clothing landmarks with visibility.

    fashionjax import vgg16-397923af.pth --backbone_only --config=experiments/landmarks.py \
        --workdir=runs/vgg16
    fashionjax train --config=experiments/landmarks.py:backbone=vgg16 --workdir=runs/landmarks \
        --config.init_from=runs/vgg16
    fashionjax evaluate --checkpoint=runs/landmarks --split=test --out=runs/landmarks/test

| argument | row of the zoo document | published error, detected % | images per GPU × GPUs, epochs |
|---|---|---|---|
| `backbone=vgg16` | landmark detection, VGG-16 | 0.0813, 55.35 | 32 × 4, 150 |
| `backbone=resnet50` | landmark detection, ResNet-50 | 0.0758, 56.32 | 32 × 4, 50 |
| `head=heatmap` | none: soft-argmax of heat maps over merged maps, as the field does since | | |

Constants: configs/landmark_detect/landmark_detect_{vgg,resnet}.py (rate 1e-6 on squared pixels).
`faithful=zoo` turns on S1, S2, S9, S10 and S11, the last with the test batch of 128 (VGG) or 64 (ResNet)
images; see docs/faithful.md. `head=heatmap` trains by AdamW with a cosine rate, ours, not tuned on the
benchmark. `tiny=true` runs the same system on a laptop, on synthetic images.
"""

from experiments import common

# backbone: (images per GPU, GPUs in training, in testing, epochs)
TRAINING = {"vgg16": (32, 4, 4, 150), "resnet50": (32, 4, 2, 50)}
HEADS = {"regression": "regression", "heatmap": "heatmap"}
ARGUMENTS = {
    "backbone": tuple(common.BACKBONES),
    "head": tuple(HEADS),
    "faithful": tuple(common.SWITCHED),
}


def get_config(arg: str | None = None):
    args = common.parse_arg(arg, backbone="vgg16", head="regression", faithful="none", tiny=False)
    backbone = common.choose("backbone", args["backbone"], common.BACKBONES)
    per_gpu, gpus, test_gpus, epochs = TRAINING[backbone]
    config = common.base()
    config.task = "landmarks"
    config.dataset = "deepfashion_landmarks"
    config.synthetic.config = "landmarks"

    config.model = common.model(backbone)
    config.model.head = common.choose("head", args["head"], HEADS)
    config.loss = {"landmark": 1.0, "visibility": 1.0}
    config.zoo_test_batch = per_gpu * test_gpus

    common.zoo(config, lr=1e-6, drops=(10, 20), epochs=epochs, batch=per_gpu * gpus)
    if config.model.head == "heatmap":
        heatmap(config)
    if common.choose("faithful", args["faithful"], common.SWITCHED):
        config.box_clip = False
        config.quirks = ("s1_random_crop_at_test", "s2_landmark_not_moved", "s9_double_sigmoid")
        config.quirks += ("s10_invisible_counts", "s11_every_20th_batch")
    if args["tiny"]:
        common.tiny(config, "train=200,val=40,test=40,size=64")
    return config


def heatmap(config) -> None:
    """Mean absolute error in image sides and cross-entropy of the visibility; crops that keep the garment."""
    config.loss = {"landmark": 10.0, "visibility": 0.5}
    config.augment.update({"scale": (0.6, 1.0), "brightness": 0.2, "contrast": 0.2, "saturation": 0.2})
    config.batch_size, config.epochs = 64, 20
    config.optim.update({"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 500, "warmup_ratio": 0.0, "clip_norm": 1.0})
    config.eval_every, config.best, config.best_mode = 2000, "standard/landmark_ne_visible", "min"
