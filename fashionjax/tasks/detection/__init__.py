"""Instance segmentation: Mask R-CNN (He et al. 2017) and Cascade Mask R-CNN (Cai & Vasconcelos 2018).

`config.model.settings` and `config.model.geometry` hold every number of `models.detection.settings`; a
cascade is a config whose `stage_iou` has several entries. Images keep their own size and are padded to the
buckets of `config.resize`, see `data.detection`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fashionjax.data import detection as examples
from fashionjax.data import samplers
from fashionjax.data.instances import used_rows
from fashionjax.errors import UserError
from fashionjax.metrics import detection as coco
from fashionjax.models import backbones
from fashionjax.models.detection import rcnn
from fashionjax.models.detection.settings import Geometry, Settings
from fashionjax.ops import masks
from fashionjax.reports.detection import PHOTO_RESULTS, DetectionReport
from fashionjax.task import AXIS, Batch, Context, Task, TaskEntry
from fashionjax.tasks import supervised
from fashionjax.tasks.detection.metrics import DetectionMetrics
from fashionjax.tasks.detection.weight_files import WEIGHTS

INIT_SIDE = 64  # px; parameters do not depend on the image


def make(config: ConfigDict) -> Task:
    """The task of a config whose `labels` are filled."""
    model = make_model(config)
    names = supervised.label_names(config, "category")
    buckets = examples.check_buckets(config.resize.buckets, config.resize.longest)
    target = make_mask_target(config, model.settings)

    def init(rng, batch: Batch):
        del batch
        image, size = jnp.zeros((1, INIT_SIDE, INIT_SIDE, 3), jnp.uint8), jnp.full((1, 2), INIT_SIDE)
        variables = model.init(rng, image, size)
        return variables["params"], variables.get("batch_stats", {})

    def loss(params, model_state, batch: Batch, rng):
        keys = jax.vmap(lambda slot: jax.random.fold_in(rng, slot))(batch["slot"])
        size = jnp.maximum(batch["size"], 1)  # 0 where a record could not be read
        terms, model_state = rcnn.losses(
            model,
            {"params": params, "batch_stats": model_state},
            batch["image"],
            size,
            truth_of(batch),
            keys,
            target,
            weight=batch["example_valid"],
            axis_name=AXIS,
        )
        scalars = {f"loss_{name}": value for name, value in terms.items()}
        return sum(terms.values()), (model_state, scalars)

    def predict(params, model_state, batch: Batch) -> dict:
        variables = {"params": params, "batch_stats": model_state}
        found = rcnn.detect(model, variables, batch["image"], jnp.maximum(batch["size"], 1))
        # channels beyond the dataset's categories were never trained
        valid = found.valid & (found.label < len(names))
        outputs = {
            "box": found.box,
            "score": found.score,
            "category": jnp.where(valid, found.label, 0),
            "detection_valid": valid,
        }
        return outputs | ({"mask_logits": found.mask_logits} if model.masks else {})

    return Task(
        examples.make_preprocess(
            config.resize.to_dict(),
            padding_of(config),
            truth=truth_fields(config),
            inclusive=config.model.geometry.inclusive_boxes,
        ),
        init,
        loss,
        predict,
        functools.partial(metrics, config),
        functools.partial(sampler, config),
        # each host collates its own share: on several, all must choose the same bucket
        functools.partial(examples.collate, buckets=buckets if jax.process_count() == 1 else buckets[-1:]),
    )


# ------------------------------------------------------------------------------ the model
def make_model(config: ConfigDict) -> rcnn.RCNN:
    """The flax module of a config."""
    spec = config.model
    fields = {name: value for name, value in spec.backbone_fields.items() if value is not None}
    dtype = jnp.dtype(config.dtype)
    try:
        backbone = backbones.build(
            spec.backbone,
            dtype=dtype,
            bn_axis_name=AXIS if spec.sync_bn else None,
            stride_in_1x1=spec.stride_in_1x1,
            frozen_bn=spec.frozen_bn,
            frozen_stages=spec.frozen_stages,
            norm=spec.norm,
            **fields,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model.backbone={spec.backbone!r}: {error}") from error
    categories = len(supervised.label_names(config, "category"))
    if spec.classes and spec.classes < categories:
        raise UserError(
            f"config.model.classes={spec.classes}: the dataset has {categories}; at least as many"
        )
    return rcnn.RCNN(
        backbone=backbone,
        classes=spec.classes or categories,
        settings=make_settings(config),
        channels=spec.channels,
        box_width=spec.box_width,
        mask_convolutions=spec.mask_convolutions,
        masks=spec.mask_form != "none",
        norm=spec.fpn_norm,
        bgr=spec.bgr,
        pixel_mean=tuple(spec.pixel_mean),
        pixel_std=tuple(spec.pixel_std),
        dtype=dtype,
    )


def make_settings(config: ConfigDict) -> Settings:
    """`config.model.settings` and `config.model.geometry`, in which no field may be missing."""
    spec = config.model
    parts = {"settings": set(Settings._fields) - {"geometry"}, "geometry": set(Geometry._fields)}
    for name, wanted in parts.items():
        wrong = wanted ^ set(spec[name].keys())
        if wrong:
            raise UserError(f"config.model.{name}: {', '.join(sorted(wrong))} is missing or unknown")
    values = {name: _tuples(value) for name, value in spec.settings.items()}
    if len(values["stage_iou"]) != len(values["stage_weights"]):
        raise UserError(
            "config.model.settings: stage_iou and stage_weights must have one entry for each stage"
        )
    return Settings(geometry=Geometry(**spec.geometry), **values)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


# ------------------------------------------------------------------------------ ground truth
def padding_of(config: ConfigDict) -> examples.Padding:
    """How the ground truth of an image is padded."""
    spec = config.model
    if spec.mask_form not in examples.MASK_FORMS:
        raise UserError(f"config.model.mask_form={spec.mask_form!r}: one of {', '.join(examples.MASK_FORMS)}")
    if spec.mask_form == "polygon" and spec.geometry.inclusive_boxes:
        raise UserError("config.model.mask_form=polygon: mask targets under inclusive_boxes need bitmap")
    return examples.Padding(config.truth.objects, spec.mask_form, config.truth.rings, config.truth.points)


def truth_fields(config: ConfigDict) -> dict[str, bool]:
    """Arguments of `instances.instances`: where boxes and masks come from."""
    names = ("first_polygon", "box_from_mask", "drop_origin", "half_pixel")
    return {name: bool(config.truth[name]) for name in names}


def truth_of(batch: Batch) -> rcnn.Truth:
    """The padded ground truth of a batch; none where a record could not be read."""
    masked = {
        name: batch[name] for name in ("truth_ring", "truth_ring_length", "truth_bitmap") if name in batch
    }
    return rcnn.Truth(
        batch["truth_box"], batch["truth_label"], batch["truth_valid"], masked, batch.get("truth_masked")
    )


def make_mask_target(config: ConfigDict, settings: Settings):
    """(masks of one image, instance [n], box [n 4]) → targets [n m m] of the RoIs."""
    size = 2 * settings.mask_pool
    if config.model.mask_form == "polygon":

        def target(masked, instance, box):
            ring, length = masked["truth_ring"][instance], masked["truth_ring_length"][instance]
            return masks.polygon_targets(ring, length, box, size=size)

        return target
    legacy = settings.geometry.inclusive_boxes
    of_bitmaps = masks.legacy_bitmap_targets if legacy else masks.bitmap_targets

    def target(masked, instance, box):
        bitmap = jnp.unpackbits(masked["truth_bitmap"], axis=-1)
        return of_bitmaps(bitmap, instance, box, size=size)

    return target


# ------------------------------------------------------------------------------ order, metrics
def sampler(config: ConfigDict, column) -> samplers.Sampler:
    """Images with objects, by `config.sampler`: repeated for rare categories (repeat_threshold > 0), only a
    shop's (shop_only), brought together by orientation (by_orientation)."""
    spec = config.sampler
    category = _not_crowd(column)
    rows = used_rows(
        category,
        column("source") if spec.shop_only else None,
        shop_only=spec.shop_only,
        with_objects=not spec.empty_images,
    )
    if not len(rows):
        raise UserError(f"{config.dataset}: no image of {config.train_split} has an object to train on")
    if spec.repeat_threshold:
        order = samplers.repeated(category, spec.repeat_threshold, rows)
    else:
        order = samplers.Sampler(len(rows), functools.partial(_shuffled, rows))
    if spec.by_orientation:
        landscape = np.asarray(column("width")) > np.asarray(column("height"))
        order = examples.by_orientation(order, landscape, config.batch_size)
    return order


def _not_crowd(column) -> list[np.ndarray]:
    """Categories of the objects of each record that are no crowds."""
    pairs = zip(column("instance/category"), column("instance/iscrowd"), strict=True)
    return [np.asarray(category)[np.asarray(crowd) == 0] for category, crowd in pairs]


def _shuffled(rows: np.ndarray, seed: int, position: int) -> int:
    epoch, place = divmod(position, len(rows))
    return int(rows[samplers.permutation(seed, epoch, len(rows))[place]])


def metrics(config: ConfigDict, context: Context) -> DetectionMetrics:
    """COCO's figures of boxes and, where the model has a mask head, masks."""
    return DetectionMetrics(
        supervised.label_names(config, "category"),
        context,
        ids=config.labels.get("category_id"),
        masks=config.model.mask_form != "none",
        legacy=config.model.geometry.inclusive_boxes,
        truth=truth_fields(config),
        shop_only=config.sampler.shop_only,
    )


ENTRY = TaskEntry(
    make=make,
    make_model=make_model,
    definitions={
        key: {name: line for name, line in coco.DEFINITIONS.items() if name.startswith(f"standard/{kind}_")}
        for key, kind in (("box", "box"), ("mask_logits", "mask"))
    },
    report=DetectionReport,
    command="segment",
    photo_results=PHOTO_RESULTS,
    unread_labels=("landmark", "landmark_flip", "landmark_count", "attribute"),
    weights=WEIGHTS,
)
