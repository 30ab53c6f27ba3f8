"""Databases of segmented images on made-up detections: both layouts, sizes, images without a garment."""

import json

import numpy as np
from PIL import Image

from fashionjax import segment
from fashionjax.data import masks
from fashionjax.data.detections import Found
from fashionjax.inference.segmenter import Segmented

LABELS = segment.Labels(["top", "skirt"], [7, 9])
SHAPE = (30, 40)


def item(boxes, scores, categories) -> Segmented:
    """An image of noise with rectangular garments."""
    image = np.random.default_rng(0).integers(0, 200, (*SHAPE, 3), dtype=np.uint8)
    rle = []
    for x1, y1, x2, y2 in boxes:
        mask = np.zeros(SHAPE, bool)
        mask[y1:y2, x1:x2] = True
        rle.append(masks.encode(mask))
    box = np.asarray(boxes, np.float64).reshape(-1, 4)
    return Segmented("photos/a.jpg", image, Found(box, np.asarray(scores), np.asarray(categories, int), rle))


TWO_TOPS = item([(2, 3, 12, 20), (20, 5, 36, 25), (5, 8, 15, 12)], [0.6, 0.9, 0.7], [0, 0, 1])


def written(tmp_path, **options) -> tuple[list[dict], dict[str, np.ndarray]]:
    objects = segment.write_garments(
        TWO_TOPS, "a", tmp_path, LABELS, 0.5, **{"upstream": False, "fit": 0} | options
    )
    files = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "a").iterdir()}
    return objects, files


def test_every_garment_has_a_file(tmp_path):
    objects, files = written(tmp_path)
    assert [(entry["category"], entry["rank"], entry["file"]) for entry in objects] == [
        *(("top", 1, "a/top_1.png"), ("skirt", 1, "a/skirt_1.png"), ("top", 2, "a/top_2.png"))
    ]
    assert files["top_1.png"].shape == (20, 16, 4) and files["top_2.png"].shape == (17, 10, 4)
    np.testing.assert_array_equal(files["top_1.png"][..., :3], TWO_TOPS.image[5:25, 20:36])
    json.dumps(objects)


def test_upstream_keeps_the_last_garment_of_a_class(tmp_path):
    """Its file is the one of the lowest score; the others are in the index without a file."""
    objects, files = written(tmp_path, upstream=True)
    assert set(files) == {"top.png", "skirt.png"}
    np.testing.assert_array_equal(files["top.png"], TWO_TOPS.image[3:20, 2:12])
    assert [entry.get("file") for entry in objects] == [None, "a/skirt.png", "a/top.png"]


def test_fit_is_the_longer_side(tmp_path):
    _, files = written(tmp_path, fit=10)
    assert files["top_1.png"].shape == (10, 8, 4) and files["skirt_1.png"].shape == (4, 10, 4)


def test_an_image_without_garments_is_listed(tmp_path):
    nothing = item([], [], [])
    assert segment.write_garments(nothing, "b", tmp_path, LABELS, 0.5, upstream=False, fit=0) == []
    assert segment.write_results(nothing, "b", tmp_path, LABELS, 0.3) == []
    assert Image.open(tmp_path / "b.jpg").size[0] >= SHAPE[1] and not (tmp_path / "b").exists()
