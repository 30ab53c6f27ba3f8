"""Recorded metrics and losses: the stored inputs through this project's functions, beside what the
original code returned.

One table: file -> the names of its inputs, and what to compute. A quantity without a function here belongs to
a system that is not built yet and is reported as such.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from fashionjax import losses
from fashionjax.data import fine_grained as fine_grained_examples
from fashionjax.data import masks
from fashionjax.errors import UserError
from fashionjax.gallery import index as gallery
from fashionjax.metrics import classification, compatibility, detection, fine_grained, landmarks, retrieval
from fashionjax.ops import attention_crop, type_spaces
from fashionjax.parity.results import Result, array_difference, load_arrays

FRAME = 224.0
EXACT, METRIC, LOSS = 0.0, 1e-9, 1e-5
FLOAT32 = 1e-6  # of shares that are stored in float32
# types 1 to 4 of RPF's loss: whether the positive is the row itself, whether other values are negatives
RPF_CONTRASTS = ((False, True), (False, False), (True, True), (True, False))


class Golden(NamedTuple):
    inputs: Callable[[str], bool]  # whether a stored array is an input
    compute: Callable[[dict], dict]  # stored arrays -> quantities by name
    bound: Callable[[str], float]  # largest relative difference of a quantity


def check_folder(folder: Path) -> list[Result]:
    """Every stored quantity of every .npz and .json file in `folder`, in the order of file and quantity.

    A file that cannot be read fails as one quantity of its own name, one whose inputs cannot be used with all
    its quantities; why is printed, and the other files are compared.
    """
    results = []
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.json")]):
        try:
            results += _check_file(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            results.append(Result("metrics", path.stem, "diff", math.nan, "FAIL"))
    return results


def _check_file(path: Path) -> list[Result]:
    golden = GOLDENS.get(path.stem)
    if golden is None:
        names = load_arrays(path) if path.suffix == ".npz" else ["stats"]
        return [Result("metrics", f"{path.stem}/{name}", "diff", math.nan, "later") for name in names]
    arrays = load_arrays(path) if path.suffix == ".npz" else _load_json(path)
    try:
        computed = golden.compute(arrays)
    except (UserError, KeyError, IndexError, TypeError, ValueError) as error:  # of the file's own arrays
        what = f"has no array {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        print(f"error: {path}: {what}", file=sys.stderr)
        computed = {}
    results = []
    for name in arrays:
        if golden.inputs(name):
            continue
        label = f"{path.stem}/{name}"
        difference = array_difference(computed.get(name), arrays[name])
        state = "ok" if difference <= golden.bound(name) else "FAIL"
        results.append(Result("metrics", label, "diff", difference, state))
    return results


def _attribute_topk(a: dict) -> dict:
    result = {}
    for k in map(int, a["topk"]):
        counts = classification.topk_counts(a["pred"], a["target"], k)
        result |= {f"{name}_top{k}": count for name, count in counts._asdict().items()}
        result[f"recall_top{k}"] = classification.zoo_attribute_recall(counts)
        result[f"precision_top{k}"] = classification.zoo_attribute_precision(counts)
        result[f"accuracy_top{k}"] = classification.zoo_attribute_accuracy(counts)
    return result


def _category_topk(a: dict) -> dict:
    result = {}
    for k in map(int, a["topk"]):
        tp, fn = classification.category_counts(a["pred"], a["target"], k)
        result |= {f"tp_top{k}": tp, f"fn_top{k}": fn}
        result[f"recall_top{k}"] = 100 * classification.macro_recall(tp, fn)
    return result


def _landmark(a: dict) -> dict:
    batches, batch, _ = a["vis"].shape
    points = [
        rearrange(a[name].astype(np.float64), "n b (k xy) -> (n b) k xy", xy=2) / FRAME
        for name in ("pred_landmark", "landmark")
    ]
    seen = rearrange(a["vis"], "n b k -> (n b) k")
    error, detected = landmarks.zoo_slots(*points, seen)
    vis = rearrange(a["pred_vis"], "n b k -> (n b) k")
    per_batch = [slice(i * batch, (i + 1) * batch) for i in range(batches)]
    every = landmarks.ZOO_EVERY
    return {
        "norm_error_per_batch": [landmarks.zoo_mean(error[rows]) for rows in per_batch],
        "det_percent_per_batch": [100 * landmarks.zoo_mean(detected[rows]) for rows in per_batch],
        "vis_accuracy_per_batch": [
            landmarks.zoo_visibility_accuracy(vis[rows], seen[rows]) for rows in per_batch
        ],
        "reported_norm_error": landmarks.zoo_mean(error, batch, every),
        "reported_det_percent": 100 * landmarks.zoo_mean(detected, batch, every),
        "all_batches_norm_error": landmarks.zoo_mean(error, batch),
        "all_batches_det_percent": 100 * landmarks.zoo_mean(detected, batch),
    }


def _retrieval(a: dict) -> dict:
    rows = gallery.build([(a["gallery"], range(len(a["gallery"])))], metric="cosine")
    _, index = gallery.search(rows, a["query"], int(max(a["topk"])))
    match = retrieval.matches(index, a["query_id"], a["gallery_id"])
    relevant = [len(found) for found in retrieval.relevant_rows(a["query_id"], a["gallery_id"])]
    per_query = np.stack([retrieval.zoo_recall(match, relevant, k) for k in map(int, a["topk"])])
    return {"per_query": per_query, "recall": 100 * per_query.mean(axis=1)}


def _fine_grained(a: dict) -> dict:
    precision = {}
    for i in range(len(a["query_count"])):
        query, candidate, *values = (
            a[f"{name}_{i}"] for name in ("query", "candidate", "query_value", "candidate_value")
        )
        ranks, _, _ = fine_grained.rank(query, candidate, fine_grained.relevant_candidates(*values))
        precision[i] = fine_grained.average_precisions(ranks)
    return {
        "per_attribute_map": [values.mean() for values in precision.values()],
        "total_map": fine_grained.weighted_mean(precision),
    }


def _cgd_recall(a: dict) -> dict:
    """Queries among themselves with their own row left out, and in the gallery; nearest first, Euclidean."""

    def recall(rows, label, ranks, left_out: int) -> list[float]:
        placed = gallery.build([(rows, range(len(rows)))], metric="euclidean")
        _, index = gallery.search(placed, a["feature"], int(max(ranks)) + left_out)
        if left_out:  # a row is nearest to itself
            own = index == np.arange(len(index))[:, None]
            index = np.stack([row[~mine] for row, mine in zip(index, own)])
        match = retrieval.matches(index, a["label"], label)
        return [float(np.mean(retrieval.hit(match, k))) for k in map(int, ranks)]

    return {
        "recall_self": recall(a["feature"], a["label"], a["rank_self"], 1),
        "recall_gallery": recall(a["gallery"], a["gallery_label"], a["rank_gallery"], 0),
    }


def _outfits(a: dict) -> dict:
    """Items come with their embedding in every type space; the last row, the general one, is not compared."""
    item_type, n = a["item_type"], int(a["item_type"].max()) + 1
    table = type_spaces.space_table(a["space_pairs"], range(n))
    outfit, question = ([rows[rows >= 0] for rows in a[name]] for name in ("comp_items", "fitb_question"))
    answer = a["fitb_answer"]

    def distances(metric, pairs):
        space = table[item_type[pairs.first], item_type[pairs.second]]
        first, second = (a["embed"][rows, space] for rows in (pairs.first, pairs.second))
        return np.asarray(type_spaces.distance(type_spaces.Spaces(metric=metric), first, second))

    result = {}
    for name, metric in (("euclidean", None), ("metric", a["metric_weight"][0])):
        pairs = compatibility.pairs_within(outfit)
        between = distances(metric, pairs)
        score = 1 - compatibility.mean_distance(between, pairs.group, len(outfit), np.float32)
        pairs = compatibility.pairs_across(question, answer)
        between = distances(metric, pairs)
        total = compatibility.summed_distance(between, pairs.group, answer.size, np.float32)
        scored = compatibility.auc_metrics(score, a["comp_label"])
        scored |= compatibility.fill_in_blank_metrics(-total.reshape(answer.shape), a["fitb_correct"])
        result[f"auc_{name}"] = scored["zoo/compatibility_auc"]
        result[f"fitb_acc_{name}"] = scored["zoo/fill_in_blank"] / 100
    return result


def _losses(a: dict) -> dict:
    triplet = (a["in_emb_a"], a["in_emb_p"], a["in_emb_n"])
    near, far, has = a["in_dist_a"], a["in_dist_b"], a["in_has"]
    pixels = a["in_lm_feat"] @ a["in_reg_w"].T + a["in_reg_b"]
    true = rearrange(a["in_lm_target"], "b (k xy) -> b k xy", xy=2)
    visibility_logits = (a["in_lm_feat"] @ a["in_vis_w"].T + a["in_vis_b"])[..., 0]
    smoothed = losses.softmax_ce(a["in_cgd_logits"] / 0.5, a["in_cgd_label"], smoothing=0.1)
    embedding, label = a["in_cgd_embed"], a["in_cgd_label"]
    norms, n = (12.5, 0.0, 0.0), 8  # the scalars behind the norm losses, which the file does not store
    per_example = {
        "bce_mean": losses.sigmoid_bce(a["in_logits"], a["in_multi_target"]),
        "ce": losses.softmax_ce(a["in_class_logits"], a["in_class_target"]),
        "triplet_cosine_margin0": losses.cosine_pairs(*triplet, margin=0.0),
        "triplet_cosine_margin02": losses.cosine_pairs(*triplet, margin=0.2),
        "triplet_l2_margin02": losses.l2_triplet(*triplet, margin=0.2),
        "margin_ranking_03": losses.margin_ranking(near, far, margin=0.3),
        "l2norm": 5e-4 * losses.mean_norm(norms, n**0.5),
        "l1norm_avg": 5e-4 * losses.mean_norm(norms, n),
        "l1norm_noavg": 5e-3 * losses.mean_norm(norms),
        "landmark_vis_loss": losses.visibility_bce_double_sigmoid(visibility_logits, a["in_vis"]),
        "landmark_regress_loss_mean": losses.landmark_regression_zoo(pixels, true, a["in_vis"]),
        "cgd_label_smoothing_01_t05": smoothed,
        "fr_label_smoothing_01_t05": smoothed,
        "cgd_batch_hard_01": losses.batch_hard_triplet(
            embedding, label, embedding, label, jnp.arange(len(label)), margin=0.1
        ),
        "fr_batch_hard_01": losses.batch_hard_triplet(
            embedding, label, embedding, label, jnp.arange(len(label)), margin=0.1, added=1e-6
        ),
    }
    rows = losses.AttributeRows(
        *(a[f"in_de_{name}"] for name in ("region", "patch", "complement", "attr", "value"))
    )
    per_example["rpf_triplet_ranking_02"] = losses.cosine_triplet(*triplet, margin=0.2)
    for number, (self_positive, negatives) in enumerate(RPF_CONTRASTS, 1):
        form = {"self_positive": self_positive, "negatives": negatives}
        per_example[f"rpf_de_type{number}"] = losses.foreground_background(rows, rows, **form)
    result = {name: jnp.mean(value) for name, value in per_example.items()}
    selective = losses.selective_margin(near, far, has, margin=0.3)
    result["selective_margin_03"] = 5e-5 * losses.masked_mean(selective, has)
    return result


def _crops(a: dict) -> dict:
    """Crop boxes in pixels of the original image."""
    boxes = []
    for attention, (width, height), threshold in zip(
        a["attention"], a["image_wh"].tolist(), a["threshold"].tolist(), strict=True
    ):
        left, top, side = fine_grained_examples.square_of(height, width)
        pixels = fine_grained_examples.pixel_table(int(FRAME), side)
        box = attention_crop.crop_box(attention, pixels, threshold, clamp=False)
        boxes.append(np.asarray(box) + [left, top, left, top])
    return {"crop_xyxy": np.stack(boxes)}


def _load_json(path: Path) -> dict:
    """The parts of a COCO recording; its figures `stats` by kind."""
    try:
        parts = json.loads(path.read_text())
        return {part: parts[part] for part in ("ground_truth", "detections")} | parts["stats"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a recording of a COCO evaluation: {error!r}"[:200]) from error


def _coco(a: dict) -> dict:
    """COCO's twelve figures of boxes and of masks. Sizes are the annotations' areas."""
    truth = a["ground_truth"]
    ids = [category["id"] for category in truth["categories"]]
    evaluator = detection.CocoEvaluator([category["name"] for category in truth["categories"]], ids=ids)

    def xyxy(x, y, width, height):
        return [x, y, x + width, y + height]

    for image in truth["images"]:
        size = image["height"], image["width"]
        real = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        found = [entry for entry in a["detections"] if entry["image_id"] == image["id"]]
        prediction = {
            "box": np.asarray([[xyxy(*entry["bbox"]) for entry in found]], np.float64).reshape(1, -1, 4),
            "score": [[entry["score"] for entry in found]],
            "category": [[ids.index(entry["category_id"]) for entry in found]],
            "detection_valid": np.ones((1, len(found)), bool),
            "rle": [[masks.rle([entry["polygon"]], *size) for entry in found]],
        }
        batch = {"image_id": [image["id"]], "height": [size[0]], "width": [size[1]], "example_valid": [True]}
        batch |= {
            "truth_box": [[xyxy(*entry["bbox"]) for entry in real]],
            "truth_category": [[ids.index(entry["category_id"]) for entry in real]],
            "truth_valid": np.ones((1, len(real)), bool),
            "truth_crowd": [[bool(entry["iscrowd"]) for entry in real]],
            "truth_area": [[entry["area"] for entry in real]],
            "truth_rle": [[masks.rle(entry["segmentation"], *size) for entry in real]],
        }
        evaluator.update(prediction, batch)
    result = evaluator.result()
    return {
        kind: [result.get(f"standard/{name}_{figure}", -1.0) for figure in detection.FIGURES]
        for name, kind in detection.KINDS.items()
    }


def _is_one_of(*names: str) -> Callable[[str], bool]:
    return lambda name: name in names


def _counts_exact(name: str) -> float:
    return EXACT if name.startswith(("tp_", "fn_", "fp_", "tn_")) else METRIC


_TOPK = Golden(_is_one_of("pred", "target", "topk"), _attribute_topk, _counts_exact)
GOLDENS = {
    "attr_topk_coarse": _TOPK,
    "attr_topk_fine": _TOPK,
    "cate_topk": _TOPK._replace(compute=_category_topk),
    "landmark": Golden(
        _is_one_of("pred_vis", "pred_landmark", "vis", "landmark"), _landmark, lambda name: METRIC
    ),
    "retrieval_recall": Golden(
        _is_one_of("query", "gallery", "query_id", "gallery_id", "topk"), _retrieval, lambda name: METRIC
    ),
    "rpf_map": Golden(
        lambda name: name.startswith(("query", "candidate")), _fine_grained, lambda name: METRIC
    ),
    "polyvore": Golden(
        lambda name: not name.startswith(("auc_", "fitb_acc_")), _outfits, lambda name: METRIC
    ),
    "cgd_recall": Golden(
        _is_one_of("feature", "label", "gallery", "gallery_label", "rank_self", "rank_gallery"),
        _cgd_recall,
        lambda name: FLOAT32,
    ),
    "rpf_crop": Golden(_is_one_of("attention", "image_wh", "threshold"), _crops, lambda name: EXACT),
    "coco_eval": Golden(_is_one_of("ground_truth", "detections"), _coco, lambda name: METRIC),
    # one compiled program: hundreds of small ones take ten times as long
    "losses": Golden(lambda name: name.startswith("in_"), jax.jit(_losses), lambda name: LOSS),
}
