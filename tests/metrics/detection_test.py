"""COCO figures against pycocotools and by hand; padding, crowds, images without objects or detections."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fashionjax.errors import UserError
from fashionjax.metrics.detection import DEFINITIONS, FIGURES, CocoEvaluator

NAMES = ["top", "skirt", "bag"]
SIDE = 160


def rle_of(box):
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    x1, y1, x2, y2 = np.round(box).astype(int)
    mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
    return reference_mask.encode(mask)["counts"]


def make_batch(rng, first_id, images, objects, detections, start_score=0.0):
    """Padded arrays: some images without objects, some crowds, detections near objects and elsewhere."""
    corner = rng.uniform(0, 100, (images, objects, 2))
    truth = np.concatenate([corner, corner + rng.uniform(5, 120, (images, objects, 2))], axis=-1).clip(
        0, SIDE
    )
    of = rng.integers(0, objects, (images, detections))
    box = np.take_along_axis(truth, of[..., None], axis=1) + rng.normal(0, 6, (images, detections, 4))
    box[..., 2:] = np.maximum(box[..., 2:], box[..., :2] + 1)
    category = rng.integers(0, 3, (images, objects))
    batch = {
        "image_id": np.arange(first_id, first_id + images),
        "height": np.full(images, SIDE),
        "width": np.full(images, SIDE),
        "example_valid": np.arange(images) < images - 1,
        "truth_box": truth,
        "truth_category": category,
        "truth_valid": np.arange(objects) < rng.integers(0, objects + 1, (images, 1)),
        "truth_crowd": rng.random((images, objects)) < 0.15,
        "truth_rle": [[rle_of(b) for b in row] for row in truth],
    }
    prediction = {
        "box": box,
        "score": np.round(rng.random((images, detections)), 2),  # ties
        "category": np.take_along_axis(category, of, axis=1),
        "detection_valid": rng.random((images, detections)) < 0.9,
        "rle": [[rle_of(b) for b in row] for row in box],
    }
    return prediction, batch


def pycocotools_figures(pairs, kind):
    """The twelve figures by pycocotools itself, and precision [t r c a m]."""
    dataset = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)],
    }
    results = []
    for prediction, batch in pairs:
        for b in np.flatnonzero(batch["example_valid"]):
            image = int(batch["image_id"][b])
            dataset["images"].append({"id": image, "height": SIDE, "width": SIDE})
            for g in np.flatnonzero(batch["truth_valid"][b]):
                x1, y1, x2, y2 = batch["truth_box"][b, g].tolist()
                rle = {"size": [SIDE, SIDE], "counts": batch["truth_rle"][b][g]}
                area = float(reference_mask.area(rle))
                made = {"id": len(dataset["annotations"]) + 1, "image_id": image, "area": area}
                made |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle}
                made |= {"category_id": int(batch["truth_category"][b, g]) + 1}
                dataset["annotations"].append(made | {"iscrowd": int(batch["truth_crowd"][b, g])})
            for n in np.flatnonzero(prediction["detection_valid"][b]):
                x1, y1, x2, y2 = prediction["box"][b, n].tolist()
                found = {"image_id": image, "category_id": int(prediction["category"][b, n]) + 1}
                found |= {"score": float(prediction["score"][b, n])}
                if kind == "mask":
                    found |= {"segmentation": {"size": [SIDE, SIDE], "counts": prediction["rle"][b][n]}}
                else:
                    found |= {"bbox": [x1, y1, x2 - x1, y2 - y1]}
                results.append(found)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), {"box": "bbox", "mask": "segm"}[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats, evaluation.eval["precision"]


def evaluated(pairs, **options):
    evaluator = CocoEvaluator(NAMES, **options)
    for prediction, batch in pairs:
        evaluator.update(prediction, batch)
    return evaluator


@pytest.mark.parametrize("detections", [12, 150])
def test_equals_pycocotools(detections):
    rng = np.random.default_rng(0)
    # the second batch's images come before the first's: ids need not ascend
    pairs = [make_batch(rng, first, 9, 5, detections) for first in (40, 7, 90)]
    evaluator = evaluated(pairs)
    figures = evaluator.result()
    for kind in ("box", "mask"):
        stats, precision = pycocotools_figures(pairs, kind)
        for name, (place, _) in FIGURES.items():
            assert figures[f"standard/{kind}_{name}"] == pytest.approx(stats[place], abs=1e-9), name
        np.testing.assert_allclose(evaluator.curves(kind).precision, precision[:, :, :, 0, -1], atol=1e-9)
        per_category = [row[f"{kind}_ap"] for row in evaluator.per_category()]
        np.testing.assert_allclose(per_category, precision[:, :, :, 0, -1].mean(axis=(0, 1)), atol=1e-9)
    assert 0.05 < figures["standard/box_ap"] < 0.95


def simple(truth, found, size=100):
    """One image: truth and found as lists of (box, category[, score])."""
    pad = ((0, 0, 0, 0), 0, 0.0)
    found, truth = found or [pad], truth or [pad]
    valid = np.array([[f is not pad for f in found]])
    prediction = {
        "box": np.array([[f[0] for f in found]], np.float32),
        "category": np.array([[f[1] for f in found]]),
        "score": np.array([[f[2] for f in found]], np.float32),
        "detection_valid": valid,
    }
    batch = {
        "image_id": np.array([1]), "height": [size], "width": [size], "example_valid": np.array([True]),
        "truth_box": np.array([[t[0] for t in truth]], np.float32),
        "truth_category": np.array([[t[1] for t in truth]]),
        "truth_valid": np.array([[t is not pad for t in truth]]),
    }  # fmt: skip
    return prediction, batch


def test_by_hand():
    # IoU 1 and, of the second object, 80 of 120: matched up to 0.65, 4 of 10 thresholds. Recall 1 there, else
    # precision 1 up to recall 1/2: 51 of 101 points.
    pair = simple(
        [((0, 0, 40, 40), 0), ((50, 50, 60, 60), 0)], [((0, 0, 40, 40), 0, 0.9), ((50, 52, 60, 62), 0, 0.8)]
    )
    figures = evaluated([pair], kinds=("box",)).result()
    assert figures["standard/box_ap"] == pytest.approx((4 + 6 * 51 / 101) / 10)
    assert figures["standard/box_ap50"] == pytest.approx(1) and figures["standard/box_ap75"] == pytest.approx(
        51 / 101
    )
    assert figures["standard/box_ap_medium"] == pytest.approx(1) and figures[
        "standard/box_ap_small"
    ] == pytest.approx(0.4)
    assert "standard/box_ap_large" not in figures  # no such object
    assert figures["standard/box_ar@1"] == 0.5 and figures["standard/box_ar@100"] == pytest.approx(0.7)


def test_no_detection_at_all():
    evaluator = evaluated([simple([((0, 0, 40, 40), 1)], [])], kinds=("box",))
    assert evaluator.result()["standard/box_ap"] == 0
    assert [row["box_ap"] for row in evaluator.per_category()] == [None, 0.0, None]
    assert [row["objects"] for row in evaluator.per_category()] == [0, 1, 0]


def test_images_without_objects_count_as_false_positives():
    empty = simple([], [((0, 0, 30, 30), 0, 0.95)])
    empty[1]["image_id"] = np.array([2])
    full = simple([((0, 0, 40, 40), 0)], [((0, 0, 40, 40), 0, 0.9)])
    assert evaluated([full, empty], kinds=("box",)).result()["standard/box_ap"] == pytest.approx(0.5)


def test_padding_changes_nothing():
    rng = np.random.default_rng(3)
    prediction, batch = make_batch(rng, 1, 6, 4, 8)
    expected = evaluated([(prediction, batch)], kinds=("box",)).result()
    padded = {k: np.concatenate([v, np.full_like(v, 0)], axis=1) for k, v in prediction.items() if k != "rle"}
    wider = dict(batch)
    for key in ("truth_box", "truth_category", "truth_valid", "truth_crowd"):
        wider[key] = np.concatenate([batch[key], np.zeros_like(batch[key])], axis=1)
    assert evaluated([(padded, wider)], kinds=("box",)).result() == expected


def test_given_area_decides_the_size():
    pair = simple([((0, 0, 40, 40), 0)], [((0, 0, 40, 40), 0, 0.9)])
    pair[1]["truth_area"] = np.array([[500.0]])
    figures = evaluated([pair], kinds=("box",)).result()
    assert "standard/box_ap_medium" not in figures and figures["standard/box_ap_small"] == pytest.approx(1)


def test_results_file_is_coco_json(tmp_path):
    rng = np.random.default_rng(4)
    pair = make_batch(rng, 1, 4, 3, 5)
    path = tmp_path / "new/results.json"
    evaluator = evaluated([pair], ids=[11, 22, 33], results_file=path)
    assert not path.exists()
    evaluator.close()
    results = json.loads(path.read_text())
    assert len(results) == pair[0]["detection_valid"][:3].sum()
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert {r["category_id"] for r in results} <= {11, 22, 33} and {r["image_id"] for r in results} <= {
        1,
        2,
        3,
    }
    assert results[0]["segmentation"]["size"] == [SIDE, SIDE]
    none = CocoEvaluator(NAMES, kinds=("box",), results_file=tmp_path / "none.json")
    none.close()
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_errors():
    pair = simple([((0, 0, 40, 40), 0)], [((0, 0, 40, 40), 0, 0.9)])
    with pytest.raises(UserError, match="image id 1 came twice"):
        evaluated([pair, pair], kinds=("box",))
    with pytest.raises(UserError, match="none of the 1 images has an object"):
        evaluated([simple([], [((0, 0, 9, 9), 0, 0.5)])], kinds=("box",)).result()
    bad = simple([((0, 0, 40, 40), 0)], [((0, 0, np.nan, 40), 0, 0.9)])
    with pytest.raises(UserError, match="image id 1: a detection is not finite"):
        evaluated([bad], kinds=("box",))
    with pytest.raises(UserError, match="category 5 of an object"):
        evaluated([simple([((0, 0, 40, 40), 5)], [])], kinds=("box",))
    with pytest.raises(UserError, match="a detection has category 7"):
        evaluated([simple([], [((0, 0, 9, 9), 7, 0.5)])], kinds=("box",))
    with pytest.raises(UserError, match="kinds of evaluation are box, mask"):
        CocoEvaluator(NAMES, kinds=("boxes",))
    with pytest.raises(UserError, match="3 categories need as many different ids"):
        CocoEvaluator(NAMES, ids=[1, 1, 2])


def test_every_figure_has_a_definition():
    for name in evaluated([simple([((0, 0, 40, 40), 0)], [])], kinds=("box",)).result():
        assert name.split("@")[0] in {known.split("@")[0] for known in DEFINITIONS}
