"""PyTorch files of detectors: detectron2's and mmdetection 1.x's names, and what a config says for one."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from fashionjax.models.detection import recognise
from fashionjax.models.detection.torch_keys import ALIASES, PARTS, torch_keys
from fashionjax.task import Weights
from fashionjax.tasks import supervised

Shapes = Mapping[str, tuple[int, ...]]
CODEBASES = ("detectron2", "mmdetection 1.x")


def pooling(shapes: Shapes) -> str:
    """Whose RoIs: the names go with the conventions of their codebase."""
    return f"{CODEBASES[recognise.is_mmdetection(shapes)]} RoI"


def fitting_config(backbone: str, pooling: str, parts: tuple[str, ...]) -> str:
    """The experiment whose model has these parts."""
    if pooling.startswith(CODEBASES[1]):
        experiment = "experiments/mask_rcnn.py"
    else:
        model = "cascade" if "cascade of box heads" in parts else "mask_rcnn"
        experiment = f"experiments/cascade.py:model={model}"
    without = "" if "mask head" in parts else " model.mask_form=none"
    return f"{experiment} (task=detection) model.backbone={backbone}{without}"


def fit_config(config: ConfigDict, shapes: Shapes, known: Mapping[str, list], given: bool) -> list[str]:
    """See `task.Weights.fit_config`; the label is category.

    The dataset's names are kept where the file has as many classes, or more of them and mmdetection's names:
    MMFashion left COCO's number of classes in place.
    """
    del given
    labels, remarks = dict(known), []
    names = list(known.get("category", ()))
    classes = recognise.classes_of(shapes)
    if classes is not None and classes >= 1:
        unused = recognise.is_mmdetection(shapes) and 0 < len(names) < classes
        if unused:
            remarks.append(
                f"{classes} classes, of which the first {len(names)} are those of {config.dataset}; the "
                "others stay in the softmax and are never reported"
            )
        elif len(names) != classes:
            has = f"has {len(names)}" if names else "is not prepared"
            remarks.append(f"{classes} categories are named by number ({config.dataset} {has})")
            labels = {"category": supervised.numbered("category", classes)}
        with config.unlocked():
            config.model.classes = classes if unused else 0
    with config.unlocked():
        config.labels = ConfigDict(labels)
    return remarks


WEIGHTS = Weights(
    key_rules=lambda model, keys=None: torch_keys(model),
    parts=PARTS,
    defining=("RPN",),
    from_shapes=recognise.from_shapes,
    pooling=pooling,
    fitting_config=fitting_config,
    fit_config=fit_config,
    aliases=ALIASES,
    sizes=lambda shapes: {"classes": recognise.classes_of(shapes)},
)
