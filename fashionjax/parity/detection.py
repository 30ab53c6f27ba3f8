"""Detectors and the CGD head: how the outputs of their folders are computed and compared.

Proposals and detections are sets: rows of the recorded set are matched by class and IoU before anything is
compared.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax.errors import UserError
from fashionjax.models import cgd
from fashionjax.models.detection import rcnn
from fashionjax.ops import boxes, masks, roi_align
from fashionjax.parity import draws
from fashionjax.parity.results import Recording, dense
from fashionjax.weights import key_maps

CGD_FOLDER = "fr_cgd_head"  # sibling of a cascade's folder, whose weights its cgd_* outputs were made with
IOU, SCORE, UNMATCHED = 0.99, 1e-3, 0.02  # of a match; share of recorded rows that may go without one
PIXELS, AREA = 5e-3, 1e-2  # share of mask pixels, and of a mask's area, that may differ
SMALLEST_AREA = 100  # px; of smaller masks one pixel is more than that share
PASTED = (0, 1, 2, 10)  # boxes whose pasted masks are recorded


def run_of(manifest: dict, recording: Recording) -> tuple:
    """The fields of `models.Run` for a detector's folder."""
    return partial(arguments, manifest), partial(outputs, recording), init, difference


def arguments(manifest: dict, inputs: dict) -> tuple:
    """Inputs of a folder -> (image [1 H W 3] RGB padded to multiples of 32, size [1 2], boxes [1 n 4],
    classes).
    """
    image = rearrange(inputs["image"], "c h w -> 1 h w c")[..., ::-1]
    h, w = image.shape[1:3]
    padded = np.pad(image, ((0, 0), (0, -h % rcnn.ALIGNMENT), (0, -w % rcnn.ALIGNMENT), (0, 0)))
    output = np.array(manifest.get("output_size", (h, w)), np.int32)
    return (
        np.ascontiguousarray(padded),
        np.array([[h, w]], np.int32),
        inputs["boxes"][None],
        inputs["mask_classes"].astype(np.int32),
        output,
    )


def init(model, image, size, *_):
    return model.init(jax.random.key(0), image, size)


def outputs(recording: Recording, model, variables, arguments) -> dict:
    """Every output by its recorded name, sets in the order of the recorded ones."""
    folder, stored = recording
    image, size, box, classes, output_size = arguments
    call = partial(model.apply, variables)
    found, detections = _network(model, variables, image, size)
    maps = found.pop("maps")
    found |= _heads(model, variables, maps, size, box, classes)
    h, w = (int(x) for x in size[0])
    scale = np.tile(np.array([output_size[1] / w, output_size[0] / h], np.float32), 2)
    det_box = detections.box * scale
    order = match_rows(
        stored["det_boxes"], stored["det_classes"], det_box, detections.label, detections.valid
    )
    row = np.maximum(order, 0)
    missing = (order < 0).reshape(-1, 1)
    found |= {
        "det_boxes": np.where(missing, np.nan, det_box[row]),
        "det_scores": np.where(order < 0, np.nan, detections.score[row]),
        "det_classes": np.where(order < 0, -1, detections.label[row]),
        "cgd_pool_boxes": np.where(missing, np.nan, detections.box[row]),
    }
    probability = jax.nn.sigmoid(detections.mask_logits[row])
    pasted = jax.jit(partial(masks.paste, height=int(output_size[0]), width=int(output_size[1])))
    area = [
        np.asarray(pasted(probability[i : i + 10], det_box[row[i : i + 10]]) >= 0.5).sum(axis=(1, 2))
        for i in range(0, len(row), 10)
    ]
    found["det_mask_area"] = np.concatenate(area).astype(np.float32)
    if "cgd_pool_boxes" in stored:
        pooled = call(maps, detections.box[None, row], size, model.settings.box_pool, method="pool")[0]
        found["cgd_pool_feature"] = rearrange(pooled, "n h w c -> n c h w")
        head, head_variables = sibling_head(folder.parent / CGD_FOLDER)
        found["cgd_embed"] = head.apply(head_variables, pooled)[0]
    order = match_rows(
        stored["proposal_boxes"], None, found["proposal_boxes"], None, found.pop("proposal_valid")
    )
    for name in ("proposal_boxes", "proposal_logits"):
        rows = found[name][np.maximum(order, 0)]
        found[name] = np.where((order < 0).reshape(-1, *[1] * (rows.ndim - 1)), np.nan, rows)
    return found


def _network(model, variables, image, size) -> tuple[dict, rcnn.Detections]:
    """Maps, RPN outputs, anchors and proposals by name, and the detections of the image: one program, since
    compiling takes most of the time."""

    @jax.jit
    def run(variables, image, size):
        call = partial(model.apply, variables)
        maps = call(image, size, method="maps")
        return (
            call(image, size, method="normalise"),
            call(image, size, method="bottom_up"),
            maps,
            call(maps, method="rpn_outputs"),
            call(maps, size, train=False, method="propose"),
            call(image, size, method="detect")[0],
        )

    padded, bottom, maps, rpn_outputs, proposals, detections = run(variables, image, size)
    found = {"padded_image": _first(padded), "maps": maps}
    found |= {f"bottom_res{i + 2}": _first(x) for i, x in enumerate(bottom)}
    for i, (logit, delta) in enumerate(rpn_outputs):
        found[f"fpn_p{i + 2}"] = _first(maps[i])
        found[f"rpn_objectness_p{i + 2}"] = _first(logit)
        found[f"rpn_deltas_p{i + 2}"] = _first(rearrange(delta, "b h w a xywh -> b h w (a xywh)"))
    levels = rcnn.rpn.levels(model.settings, [x.shape[1:3] for x in maps])
    found |= {f"anchors_p{i + 2}": level.anchor for i, level in enumerate(levels)}
    found |= {
        "proposal_boxes": np.asarray(proposals.box[0]),
        "proposal_logits": np.asarray(proposals.logit[0]),
        "proposal_valid": np.asarray(proposals.valid[0]),
    }
    return found, jax.tree.map(lambda x: np.asarray(x[0]), detections)


def _first(x):
    return rearrange(x, "b h w c -> b c h w")


def _heads(model, variables, maps, size, box, classes) -> dict:
    """Box and mask heads on the folder's fixed boxes."""
    found, probability, mask_box = jax.jit(partial(_head_outputs, model))(variables, maps, size, box, classes)
    found = {name: np.asarray(value) for name, value in found.items()}
    found["box_level"] = roi_align.assign_level(jnp.asarray(box[0]), levels=len(model.settings.roi_strides))
    h, w = (int(x) for x in size[0])
    chosen = np.array(PASTED)
    whole = masks.paste(probability[chosen], mask_box[chosen], height=h, width=w) >= 0.5
    found["pasted_masks_packed"] = np.packbits(np.asarray(whole).reshape(len(chosen), -1), axis=1)
    return found


def _head_outputs(model, variables, maps, size, box, classes):
    call = partial(model.apply, variables)
    side, mask_side = model.settings.box_pool, model.settings.mask_pool
    stages = len(model.settings.stage_iou)
    pooled = call(maps, box, size, side, method="pool")[0]
    found = {"box_roi": rearrange(pooled, "n h w c -> n c h w")}
    found["box_head"] = call(pooled, 0, method="box_head_feature")
    mean, current = 0.0, jnp.asarray(box)
    for stage in range(stages):
        logits, delta = call(maps, current, size, stage, method="box_outputs")
        weights = model.settings.stage_weights[stage]
        moved = boxes.decode(current[:, :, None], delta, weights)
        mean = mean + jax.nn.softmax(logits)[0] / stages
        names = {"in_boxes": current[0], "cls_logits": logits[0], "out_boxes": moved[0, :, 0]}
        names["deltas"] = rearrange(delta[0], "n k xywh -> n (k xywh)")
        found |= {f"stage{stage}_{name}": x for name, x in names.items()}
        flat = rearrange(moved[0], "n k xywh -> n (k xywh)")
        found |= {"cls_logits": logits[0], "box_deltas": names["deltas"], "decoded_boxes": flat}
        current = boxes.clip(moved, size[:, None, None])[:, :, 0]
    found |= {"cls_prob": mean, "mean_prob": mean}
    # A cascade's masks were recorded on the last stage's boxes, with negative coordinates set to 0.
    mask_box = jnp.maximum(moved[:, :, 0], 0) if stages > 1 else jnp.asarray(box)
    mask_roi = call(maps, mask_box, size, mask_side, method="pool")[0]
    found["mask_roi"] = rearrange(mask_roi, "n h w c -> n c h w")
    logits = call(maps, mask_box, size, method="mask_logits")[0]
    found["mask_logits"] = rearrange(logits, "n h w k -> n k h w")
    probability = jax.nn.sigmoid(logits[jnp.arange(len(classes)), :, :, classes])
    found["mask_prob_class"] = probability
    return found, probability, mask_box[0]


def sibling_head(folder: Path):
    """The CGD head of a neighbouring folder with its drawn weights."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        drawn = draws.state_dict(manifest)
        shapes = {key: tuple(shape) for key, shape, _ in manifest["state_dict"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: needed for the cgd_* outputs, not readable: {error}") from error
    head = cgd.head_of(shapes)
    template = jax.eval_shape(
        partial(cgd_init, head), *cgd_arguments({"roi_feature": np.zeros((1, 256, 7, 7))})
    )
    return head, key_maps.fill(template, drawn, cgd.HEAD_KEYS)[0]


def cgd_arguments(inputs: dict) -> tuple:
    return (rearrange(inputs["roi_feature"], "n c h w -> n h w c").astype(np.float32),)


def cgd_init(head, feature):
    return {k: v for k, v in head.init(jax.random.key(0), feature).items() if k != "intermediates"}


def cgd_outputs(head, variables, arguments) -> dict:
    (embedding, logits), state = head.apply(variables, *arguments, mutable=["intermediates"])
    pooled = {f"pooled_p{i + 1}": x for i, x in enumerate(state["intermediates"]["pooled"])}
    return {"embed": embedding, "class_logits": logits, **pooled}


def match_rows(box, label, other_box, other_label, other_valid) -> np.ndarray:
    """box [n 4], label [n] (None: one class) -> index [n] of the row of other_box [m 4] of the same class
    with the highest IoU, each row once, -1 where that is below 0.99. Empty boxes match themselves.
    """
    overlap = np.array(boxes.iou(jnp.asarray(box), jnp.asarray(other_box)))
    same = np.abs(box[:, None] - other_box[None]).max(axis=-1) < 0.02  # px: also of slivers
    overlap = np.where(same, np.maximum(overlap, 1.0), overlap) * other_valid[None]
    if label is not None:
        overlap = np.where(label[:, None] == other_label[None], overlap, 0.0)
    index = np.full(len(box), -1)
    for i in range(len(box)):
        # of nearly equal boxes, the nearest one
        distance = np.abs(box[i] - other_box).max(axis=-1)
        usable = overlap[i] >= IOU
        if usable.any():
            index[i] = np.where(usable, distance, np.inf).argmin()
            overlap[:, index[i]] = 0
    return index


def difference(stored: dict, name: str, got) -> tuple[str, float, float]:
    """(measure, difference, bound) of one output of a detector."""
    if got is not None and name.startswith(("det_", "proposal_", "cgd_pool_boxes")):
        got, want = np.asarray(got, np.float64), np.asarray(stored[name], np.float64)
        if got.shape != want.shape:
            return "unmatched", float("inf"), UNMATCHED
        if name == "det_mask_area":
            return "rel_area", float((np.abs(got - want) / np.maximum(want, SMALLEST_AREA)).max()), AREA
        rows = np.abs(got - want).reshape(len(got), -1).max(axis=1)
        if name.endswith(("scores", "logits")):
            good = rows <= SCORE
        elif name == "det_classes":
            good = rows == 0
        else:
            good = np.isfinite(rows)
        return "unmatched", float(1 - good.mean()), UNMATCHED
    if got is not None and name == "pasted_masks_packed":
        index = stored.get(f"{name}@idx")
        want = stored[name].ravel() if index is None else stored[f"{name}@val"]
        flat = got.ravel() if index is None else got.ravel()[index]
        changed = np.unpackbits(flat.astype(np.uint8) ^ want.astype(np.uint8))
        return "pixels", float(changed.mean()), PIXELS
    return dense(stored, name, got)
