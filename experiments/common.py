"""What every experiment config starts from, and the argument behind the colon of `--config=file.py:arg`."""

from __future__ import annotations

from ml_collections import ConfigDict


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
            raise ValueError(f"config argument {name}={value!r} is no {kind.__name__}") from error
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
    config.labels = ConfigDict()  # filled from the dataset when a run starts

    config.image_size = 224
    config.canvas_size = 256
    config.crop_box = False
    config.box_margin = 10.0
    config.augment = ConfigDict({"scale": (0.6, 1.0), "ratio": (0.85, 1.18), "flip": 0.5, "erase": 0.0})
    config.augment.update({"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.0})
    config.augment.move_landmark = True

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
    fields = ConfigDict({"backbone": backbone, "backbone_fields": ConfigDict(), "sync_bn": False})
    fields.update({"pooling": "global", "global_pooling": "mlp", "hidden": 4096, "features": 4096})
    fields.update({"landmark_source": "given", "roi_level": -1})
    fields.update({"landmark_features": 64, "landmark_levels": 3})
    return fields
