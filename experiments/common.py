"""What every experiment config starts from, and the argument behind the colon of `--config=file.py:arg`."""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict

BACKBONES = {"vgg16": "vgg16", "resnet50": "resnet50"}
POOLS = {"global": "global", "landmark": "roi"}
SWITCHED = {"none": False, "zoo": True}


def parse_arg(arg: str | None, **known) -> dict:
    """ "pool=landmark,size=96" → the known arguments with these values, converted to the type of the default.

    An unknown name or value of the wrong type is a ValueError that lists what there is. A bare name of a
    boolean argument sets it.
    """
    values = dict(known)
    for part in filter(None, (arg or "").split(",")):
        name, given, value = part.partition("=")
        if name not in known:
            raise ValueError(f"unknown config argument {name!r}; there are {', '.join(known)}")
        kind = type(known[name])
        if kind is bool:
            if value.lower() not in ("", "true", "false", "1", "0"):
                raise ValueError(f"config argument {name}={value!r}: use true or false")
            values[name] = not given or value.lower() in ("true", "1")
            continue
        try:
            values[name] = kind(value)
        except ValueError as error:
            raise ValueError(f"config argument {name}={value!r}: expected {kind.__name__}") from error
    return values


def choose(name: str, value, choices: dict):
    """choices[value], or a ValueError that lists them."""
    if value not in choices:
        raise ValueError(f"config argument {name}={value!r}; there are {', '.join(map(str, choices))}")
    return choices[value]


def base() -> ConfigDict:
    """Fields that every config has; docs/configs.md explains them."""
    config = ConfigDict()
    config.task = ""
    config.dataset = "synthetic"
    config.data_dir = "data"
    config.synthetic = ConfigDict({"config": "attributes", "set": ""})
    config.train_split = "train"
    config.eval_split = "val"
    config.test_split = "test"
    # share of the training items held out as the split "validation", where a benchmark has none; 0: none
    config.validation = ConfigDict({"share": 0.0, "seed": 0})
    config.item_labels = False  # whether the dataset's items are labels
    config.quirks = ()  # names of docs/faithful.md
    config.images_per_gpu = 0  # of the original: the group of the quirk s3_roi_scramble_group
    config.labels = ConfigDict()  # filled from the dataset when a run starts

    config.image_size = 224
    config.canvas_size = 256
    config.normalisation = "auto"  # imagenet, caffe; auto: that of init_from, else imagenet
    config.crop_box = False
    config.box_margin = 10.0
    config.box_clip = True  # under s1: whether the frame may reach outside the picture
    config.shrink_first = True  # under s1: whether the frame is shrunk to image_size before the random crop
    config.augment = ConfigDict({"scale": (0.6, 1.0), "ratio": (0.85, 1.18), "flip": 0.5, "erase": 0.0})
    config.augment.update({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.0})

    config.seed = 0
    config.batch_size = 64
    config.steps = 0
    config.epochs = 0
    config.log_every = 20
    config.eval_every = 0  # steps; 0: at the end only
    config.save_every = 500
    config.best = ""
    config.best_mode = "max"
    config.workers = 0
    config.parallel = "pmap"
    config.accumulate = 1
    config.dtype = "float32"
    config.nonfinite = "skip"
    config.init_from = ""
    config.init_skip = ()

    config.optim = ConfigDict({"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0})
    config.optim.update({"schedule": "constant", "boundaries": (), "gamma": 0.1})
    config.optim.update({"warmup_steps": 0, "warmup_ratio": 0.0, "clip_norm": 0.0})
    config.optim.update({"groups": (), "frozen": ()})
    return config


def model(backbone: str) -> ConfigDict:
    """The model fields that the picture tasks share."""
    fields = ConfigDict({"backbone": backbone, "sync_bn": False})
    # of the backbone's module, None: as published (depth, heads, grid of positions: ViT alone)
    names = ("width", "depth", "heads", "grid")
    fields.backbone_fields = {name: config_dict.placeholder(int) for name in names}
    fields.update({"pooling": "global", "global_pooling": "mlp", "hidden": 4096, "features": 4096})
    fields.update({"landmark_source": "given", "roi_levels": (-1,), "global_levels": (-1,), "dropout": 0.5})
    fields.normalise_pooled = False
    fields.update({"landmark_features": 64, "landmark_levels": 3, "init": "zoo"})
    return fields


def zoo(config: ConfigDict, *, lr: float, drops: tuple, epochs: int, batch: int, warmup: int = 500) -> None:
    """MMFashion's training: SGD with momentum 0.9 and nothing else, the rate × 0.1 at the epochs `drops`, a
    linear warm-up from a tenth (mmcv 0.5.1), a frame around the box, torchvision's default random crop and
    flip. No validation decides anything.

    Constants: configs/*/*.py and core of open-mmlab/mmfashion. `batch` is images per GPU × GPUs.
    """
    config.image_size, config.canvas_size = 224, 256
    config.crop_box = True
    config.augment.update({"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "erase": 0.0})
    config.augment.update({"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0})
    config.batch_size, config.epochs, config.steps = batch, epochs, 0
    config.optim.update({"optimizer": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 0.0})
    config.optim.update({"schedule": "step", "boundaries": drops, "gamma": 0.1})
    config.optim.update({"warmup_steps": warmup, "warmup_ratio": 0.1, "clip_norm": 0.0})
    config.save_every = 2000


def tiny(config: ConfigDict, records: str) -> None:
    """The same system small enough for a laptop: synthetic `records`, 64 px, narrow layers, 20 steps."""
    config.dataset = "synthetic"
    config.synthetic.set = records
    config.image_size, config.canvas_size = 64, 72
    config.batch_size, config.epochs, config.steps = 24, 0, 20
    config.log_every, config.save_every = 5, 0
    config.model.backbone_fields.width = 8
    config.model.hidden = config.model.features = 32
    config.model.landmark_features = 16


def retrieval(config: ConfigDict, backbone: str) -> None:
    """What the retrieval systems share: items as labels, evaluation of query against gallery, MMFashion's
    embedding of 256 values read off a 4096-value feature, compared by cosine."""
    config.task = "retrieval"
    config.item_labels, config.trained_items_only = True, False
    config.eval_split = config.test_split = "query+gallery"
    config.box_margin = 20.0
    config.model = model(backbone)
    config.model.update({"embedding": 256, "normalise": False, "id_head": "linear"})
    config.retrieval = ConfigDict({"sampler": "shuffle", "per_item": 4, "alternate_views": False})
    config.retrieval.update({"margin": 0.0, "temperature": 0.07, "alpha": 32.0, "delta": 0.1})
    # of the cross-entropy of items: what logits are divided by, and label smoothing
    config.retrieval.update({"id_temperature": 1.0, "smoothing": 0.0})


# ------------------------------------------------------------------------------ detection
def detection(config: ConfigDict, backbone: str) -> None:
    """What the detectors share: detectron2's conventions and numbers (models/detection/settings.py describes
    each field)."""
    config.task = "detection"
    config.synthetic.config = "instances"
    for unused in (
        "image_size",
        "canvas_size",
        "crop_box",
        "box_margin",
        "box_clip",
        "shrink_first",
        "augment",
        "images_per_gpu",
        "normalisation",
    ):
        del config[unused]
    # sides in pixels; buckets (height, width) in multiples of 32: the shapes that batches are padded to
    config.resize = ConfigDict({"short_train": (800,), "short_test": 800, "longest": 1333, "flip": 0.5})
    config.resize.buckets = ((800, 1344), (1344, 800), (1344, 1344))
    # what training keeps: objects per image, rings per object, points per ring; then where boxes and masks
    # come from (data/instances.py)
    config.truth = ConfigDict({"objects": 64, "rings": 4, "points": 128})
    config.truth.update({"first_polygon": False, "box_from_mask": False, "drop_origin": False})
    config.truth.half_pixel = False
    config.sampler = ConfigDict({"repeat_threshold": 0.0, "shop_only": False, "empty_images": False})
    config.sampler.by_orientation = True
    config.best = "standard/mask_ap"

    spec = config.model = ConfigDict({"backbone": backbone, "sync_bn": False, "classes": 0})
    spec.backbone_fields = {"width": config_dict.placeholder(int)}
    spec.update({"stride_in_1x1": False, "frozen_bn": False, "norm": "batch"})
    spec.frozen_stages = config_dict.placeholder(int)
    spec.fpn_norm = config_dict.placeholder(str)
    spec.update({"channels": 256, "box_width": 1024, "mask_convolutions": 4})
    spec.mask_form = "polygon"  # polygon, bitmap (also for run-length encodings), none: boxes alone
    spec.update({"bgr": True, "pixel_mean": (103.530, 116.280, 123.675), "pixel_std": (1.0, 1.0, 1.0)})
    spec.geometry = {"inclusive_boxes": False, "rounded_anchors": False, "aligned_rois": True}
    spec.geometry.update({"roi_samples": 0, "inclusive_rois": False, "background_first": False})
    spec.geometry.update({"last_claim_wins": False, "anchors_inside": False})
    spec.geometry.roi_sample_limit = config_dict.placeholder(int)
    spec.settings = {"strides": (4, 8, 16, 32, 64), "anchor_scale": 8, "ratios": (0.5, 1.0, 2.0)}
    spec.settings.update({"anchor_foreground": 0.7, "anchor_background": 0.3, "anchor_low_quality": 0.0})
    spec.settings.update({"anchors_sampled": 256, "anchor_foreground_share": 0.5, "anchor_beta": 0.0})
    spec.settings.update({"candidates_train": 2000, "candidates_test": 1000})
    spec.settings.update({"proposals_train": 1000, "proposals_test": 1000, "proposal_nms": 0.7})
    spec.settings.update({"roi_strides": (4, 8, 16, 32), "rois_sampled": 512, "roi_foreground_share": 0.25})
    spec.settings.update({"stage_iou": (0.5,), "stage_weights": ((10.0, 10.0, 5.0, 5.0),)})
    spec.settings.update({"class_agnostic": False, "roi_beta": 0.0, "box_pool": 7, "mask_pool": 14})
    spec.settings.update({"score_threshold": 0.05, "detection_nms": 0.5, "detections": 100})


def small_detector(config: ConfigDict) -> None:
    """The system at a size that two cores can train, from scratch, on synthetic instances. Ours."""
    config.dataset, config.eval_split, config.test_split = "synthetic", "val", "test"
    config.synthetic.set = "train=5000,val=200,test=500,size=128"
    config.truth.update({"objects": 24, "first_polygon": False, "box_from_mask": False})
    config.truth.update({"drop_origin": False, "half_pixel": False})
    config.sampler.update({"repeat_threshold": 0.0, "shop_only": False})
    config.resize.update({"short_train": (128,), "short_test": 128, "longest": 128})
    config.resize.buckets = ((128, 128),)
    spec = config.model
    spec.update({"backbone": "resnet18", "classes": 0, "stride_in_1x1": False, "frozen_bn": False})
    spec.update({"norm": "group", "fpn_norm": "group", "channels": 64, "box_width": 256})
    spec.update({"mask_convolutions": 2, "mask_form": "bitmap"})
    # masks of 14 x 14: at 28 x 28 and 32 RoIs an image the mask head was 70 % of a step (docs/benchmarks.md)
    spec.settings.mask_pool = 7
    spec.frozen_stages = None
    spec.backbone_fields.width = 32
    spec.settings.update({"anchor_scale": 4, "candidates_train": 300, "candidates_test": 300})
    spec.settings.update({"proposals_train": 150, "proposals_test": 100, "rois_sampled": 64})
    spec.settings.update({"anchors_sampled": 128, "roi_foreground_share": 0.25, "detections": 50})
    config.batch_size, config.epochs, config.steps = 8, 0, 6000
    config.optim.update({"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine"})
    config.optim.update({"warmup_steps": 200, "warmup_ratio": 0.0, "clip_norm": 1.0, "boundaries": ()})
    config.optim.update({"boundary_steps": (), "decay_biases": False, "frozen": ()})
    config.log_every, config.eval_every, config.save_every, config.seed = 50, 2000, 500, 0


def tiny_detector(config: ConfigDict) -> None:
    """`small_detector` at a few steps, for a look on a laptop and for tests."""
    config.synthetic.set = "train=24,val=8,test=8,size=64"
    config.resize.update({"short_train": (64,), "short_test": 64, "longest": 64, "buckets": ((64, 64),)})
    config.truth.objects = 12
    config.model.update({"channels": 16, "box_width": 32})
    config.model.backbone_fields.width = 8
    config.model.settings.update({"candidates_train": 50, "candidates_test": 50, "proposals_train": 30})
    config.model.settings.update({"proposals_test": 20, "rois_sampled": 16, "anchors_sampled": 32})
    config.model.settings.update({"detections": 10, "mask_pool": 7})
    config.batch_size, config.steps = 4, 4
    config.log_every, config.eval_every, config.save_every = 1, 0, 0
