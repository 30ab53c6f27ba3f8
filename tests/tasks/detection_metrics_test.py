"""The accumulator of detectors on made-up outputs: places in the stored image, hosts, filters."""

import json
import pickle

import numpy as np
import pytest

from fashionjax.data.detections import cutout, found_in, on_white
from fashionjax.reports.detection import DetectionReport
from fashionjax.task import Context
from fashionjax.tasks.detection.metrics import RESULTS_FILE, DetectionMetrics

TRUTH = dict.fromkeys(("first_polygon", "box_from_mask", "drop_origin", "half_pixel"), False)
BOXES = ([(2, 4, 20, 24), (8, 8, 16, 30)], [(1, 1, 9, 9)], [])


def record(index: int) -> dict:
    boxes = BOXES[index]
    rings = [json.dumps([[x1, y1, x2, y1, x2, y2, x1, y2]]) for x1, y1, x2, y2 in boxes]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    instance = {"category": np.arange(len(boxes)), "box": np.asarray(boxes, np.float32).reshape(-1, 4)}
    instance |= {"segmentation": rings, "area": np.float32(areas), "iscrowd": np.zeros(len(boxes), np.uint8)}
    identity = {"image_id": f"{index}.jpg", "coco_id": 10 + index, "height": 32, "width": 24}
    return identity | {"instance": instance, "source": index % 2}


def outputs(boxes, slots: int = 3, scale: float = 2.0, top: float = 0.9) -> dict:
    """Perfect detections in an image that the model sees at `scale` times its stored size."""
    box, category = np.zeros((slots, 4), np.float32), np.zeros(slots, np.int32)
    box[: len(boxes)] = scale * np.asarray(boxes, np.float32).reshape(-1, 4)
    category[: len(boxes)] = np.arange(len(boxes))
    score = np.linspace(top, 0.5, slots, dtype=np.float32)
    logits = np.full((slots, 4, 4), 20.0, np.float32)
    valid = np.arange(slots) < len(boxes)
    return {"box": box, "score": score, "category": category, "detection_valid": valid, "mask_logits": logits}


def measured(tmp_path, shown=BOXES, last=0.9, record=record, excluded=None, **options):
    """Figures of three images by one host."""
    excluded = set() if excluded is None else excluded
    context = Context(record=record, size=3, out=tmp_path, exclude=excluded.update)
    metrics = DetectionMetrics(["a", "b"], context, truth=TRUTH, **options)
    metrics.update(*stream(shown, last))
    return metrics.result()


def stream(shown=BOXES, last=0.9, rows=slice(None)) -> tuple[dict, dict]:
    """(prediction, batch) of three images and one row of padding."""
    found = [outputs(boxes) for boxes in shown[:2]] + [outputs(shown[2], top=last)]
    found += [outputs([(0, 0, 5, 5)])]  # the last row is padding
    batch = {"index": np.array([0, 1, 2, -1]), "example_valid": np.array([True, True, True, False])}
    batch |= {"size": np.full((4, 2), (64, 48)), "original_size": np.full((4, 2), (32, 24))}
    prediction = {name: np.stack([each[name] for each in found]) for name in found[0]}
    return tuple({name: value[rows] for name, value in part.items()} for part in (prediction, batch))


def test_perfect_detections_have_an_ap_of_one(tmp_path):
    result = measured(tmp_path)
    assert result["standard/box_ap"] == pytest.approx(1) and result["standard/mask_ap50"] == pytest.approx(1)
    written = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert [row["image_id"] for row in written] == [10, 10, 11]
    assert written[0]["bbox"] == [2, 4, 18, 20] and written[0]["segmentation"]["size"] == [32, 24]


@pytest.mark.parametrize("shop_only", [False, True])
def test_two_hosts_measure_and_write_what_one_does(tmp_path, shop_only):
    """Each sees two rows of a batch, the other's come by `gather`; nothing waits for the end."""
    shown = (BOXES[0], [(1, 1, 9, 7)], [(3, 3, 9, 9)])
    one, excluded = tmp_path / "one", set()
    expected = measured(one, shown=shown, excluded=excluded, shop_only=shop_only)
    sent = []

    def host(rows, gather, out):
        seen = set()
        context = Context(record=record, size=3, out=out, gather=gather, exclude=seen.update)
        metrics = DetectionMetrics(["a", "b"], context, truth=TRUTH, shop_only=shop_only)
        metrics.update(*stream(shown, rows=rows))
        return metrics, seen

    def sends(rows):
        sent.append(rows)
        return {}  # as where no host has an example

    def receives(rows):
        both = (rows, pickle.loads(pickle.dumps(sent[0])))
        return {name: np.concatenate([part[name] for part in both]) for name in rows}

    host(slice(2, 4), sends, None)
    metrics, seen = host(slice(0, 2), receives, tmp_path / "two")
    assert metrics.evaluator.images == ({10, 12} if shop_only else {10, 11, 12})
    assert metrics.result() == expected and seen == excluded == ({1} if shop_only else set())
    written = [(folder / RESULTS_FILE).read_text() for folder in (one, tmp_path / "two")]
    assert written[0] == written[1] and json.loads(written[0])


def test_detections_in_images_without_objects_count_against(tmp_path):
    result = measured(tmp_path, shown=(*BOXES[:2], [(1, 1, 9, 9)]), last=0.99)
    assert result["standard/box_ap"] < 1


def test_images_of_users_do_not_count_under_shop_only(tmp_path):
    nothing = (BOXES[0], [(20, 20, 22, 22)], [])  # wrong in image 1 alone, a user's
    excluded = set()
    found = measured(tmp_path, shown=nothing, shop_only=True, excluded=excluded)
    assert found["standard/box_ap"] == pytest.approx(1) and excluded == {1}
    assert measured(tmp_path, shown=nothing)["standard/box_ap"] < 1


def test_an_object_without_a_mask_counts_for_boxes_alone(tmp_path):
    """Its detection is right as a box, and as a mask neither right nor wrong."""

    def bare(index: int) -> dict:
        found = record(index)
        found["instance"]["segmentation"] = [
            "[]" if index == 1 else text for text in found["instance"]["segmentation"]
        ]
        return found

    found = measured(tmp_path, record=bare)
    assert found["standard/box_ap"] == pytest.approx(1) and found["standard/mask_ap"] == pytest.approx(1)
    missed = measured(tmp_path, record=bare, shown=(BOXES[0], [], []))
    assert missed["standard/box_ap"] < 1 and missed["standard/mask_ap"] == pytest.approx(1)


def test_legacy_boxes_end_behind_their_last_pixel():
    found = found_in(outputs([(2, 4, 19, 23)], scale=1.0), (32, 24), (32, 24), legacy=True)
    np.testing.assert_array_equal(found.box, [[2, 4, 20, 24]])


def test_cutouts_hold_the_mask_as_alpha():
    found = found_in(outputs(BOXES[1], scale=1.0), (32, 24), (32, 24))
    image = np.random.default_rng(0).integers(0, 200, (32, 24, 3), dtype=np.uint8)
    cut = cutout(image, found.rle[0])
    rows, columns = slice(1, 9), slice(1, 9)
    inside = cut[..., 3] == 255
    assert cut.shape == (8, 8, 4) and inside.sum() >= 40
    np.testing.assert_array_equal(cut[..., :3], image[rows, columns])
    assert (on_white(cut)[~inside] == 255).all() and (on_white(cut)[inside] == cut[inside][:, :3]).all()
    assert cutout(image, {"size": [32, 24], "counts": [32 * 24]}) is None


def test_report_shows_tables_curves_and_pairs_of_images(tmp_path):
    """One of the three objects is missed; the second category has one object, the third none."""
    context = Context(
        record=record, size=3, out=tmp_path, image=lambda index: np.zeros((32, 24, 3), np.uint8)
    )
    metrics = DetectionMetrics(["a", "b", "c"], context, truth=TRUTH)
    report = DetectionReport(context, metrics)
    metrics.update(*stream((BOXES[0], [], [])))
    measured = metrics.result()
    panels = {panel.title: panel for panel in report.panels()}
    assert list(measured)[:2] == ["standard/box_ap", "standard/mask_ap"]  # what the page is headed by
    summary = panels["AP (%)"]
    assert [row[0] for row in summary.rows] == ["boxes", "masks"]
    assert summary.rows[0][1] == 100 * measured["standard/box_ap"] and summary.rows[0][-1] is None
    # of category a one of two is found: precision 1 up to a recall of 1/2, 51 of 101 points; of b all
    assert summary.rows[0][1] == pytest.approx(100 * (51 / 101 + 1) / 2)
    table = {row[0]: row[1:] for row in panels["AP per category"].rows}
    assert [table[name][0] for name in "abc"] == [2, 1, 0] and table["c"][1:] == [None, None]
    assert table["b"][1:] == [pytest.approx(100)] * 2
    recall, precision = panels["Precision and recall: boxes"].series["IoU 0.50"]
    assert [precision[0], precision[-1], recall[-1]] == pytest.approx([1, 1 / 2, 1])
    tiles = panels["Instances"].tiles
    assert [text for _, text in tiles] == ["0.jpg", "1.jpg", "2.jpg"]
    left, right = tiles[0][0][:, :270], tiles[0][0][:, 276:]
    assert tiles[0][0].shape == (360, 546, 3) and left.any() and right.any()
    assert not tiles[1][0][:, 276:].any() and not tiles[2][0][:, :270].any()  # nothing found, nothing there
    assert report.artifacts() == [tmp_path / RESULTS_FILE]


def test_300_objects_and_no_detection(tmp_path):
    """All objects count, at most 100 detections an image do: a third of them is found, or none."""
    corners = [(x, y) for y in range(0, 300, 15) for x in range(0, 300, 20)]
    boxes = [(x, y, x + 10, y + 10) for x, y in corners]

    def many(index: int) -> dict:
        rings = [json.dumps([[x1, y1, x2, y1, x2, y2, x1, y2]]) for x1, y1, x2, y2 in boxes]
        instance = {"category": np.zeros(300, int), "box": np.float32(boxes), "segmentation": rings}
        instance |= {"area": np.full(300, 100, np.float32), "iscrowd": np.zeros(300, np.uint8)}
        return {"image_id": "0.jpg", "coco_id": 1, "height": 300, "width": 300, "instance": instance}

    batch = {"index": [0], "example_valid": [True], "size": [(300, 300)], "original_size": [(300, 300)]}
    recall = []
    for found in (100, 0):
        metrics = DetectionMetrics(["a", "b"], Context(record=many), truth=TRUTH, masks=False)
        prediction = outputs(boxes[:found], slots=100, scale=1.0) | {"category": np.zeros(100, int)}
        metrics.update(
            {name: value[None] for name, value in prediction.items() if name != "mask_logits"}, batch
        )
        recall.append(metrics.result()["standard/box_ar@100"])
        assert metrics.evaluator.objects.tolist() == [300, 0]
    assert recall == [pytest.approx(1 / 3), 0]
