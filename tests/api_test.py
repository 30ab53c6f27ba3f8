"""The Python API: snippets of the documents, results as the commands print them, threads, cheap import."""

import json
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save, save_drawn
from close import assert_rounded, relative_rounding
from commands import run
from outfits import photo, save_model
from PIL import Image

import fashionjax
from experiments import demo, mask_rcnn
from fashionjax.reports import detection

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the checkpoints and images that the snippets name."""
    root = tmp_path_factory.mktemp("api")
    save(root / "runs" / "demo" / "train", "demo")
    save(root / "runs" / "retrieval", "global")
    detector = mask_rcnn.get_config("tiny=true")
    detector.labels = {"category": ["top", "skirt"], "category_id": [3, 7]}
    save_drawn(root / "runs" / "parsing", detector, 0)
    save_model(root / "runs" / "outfits", "mask")
    for number, name in enumerate(("look.jpg", "top.jpg", "shoes.jpg", "photos/a.png", "photos/b.png")):
        photo(root / name, number)
    for number in range(8):
        photo(root / "shop" / f"{number}.png", number)
        photo(root / "wardrobe" / f"{number}.png", number + 50)
    return root


@pytest.fixture
def at_place(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def snippets(document: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.S))


@pytest.mark.slow
@pytest.mark.parametrize("document", ["docs/api.md", "README.md"])
def test_snippets_of_the_documents_run(document, at_place, capsys):
    code = snippets(document)
    assert "fashionjax.load(" in code
    exec(compile(code, document, "exec"), {})
    assert "look.jpg" in capsys.readouterr().out


def test_import_is_cheap():
    code = (
        "import sys, fashionjax; assert fashionjax.__version__; dir(fashionjax)\n"
        "assert not {'jax', 'numpy', 'PIL', 'absl'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_resolve():
    for name in fashionjax.__all__:
        assert getattr(fashionjax, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = fashionjax.nope


@pytest.mark.slow
def test_files_arrays_and_pil_images_are_predicted_alike(at_place):
    """And as the command prints them."""
    model = fashionjax.load("runs/demo/train", batch_size=4)
    pixels = np.asarray(Image.open("photos/a.png").convert("RGB"))
    by_path, by_pil, by_array = model.predict(["photos/a.png", Image.fromarray(pixels), pixels])
    assert (by_path.image, by_pil.image, by_array.image) == ("photos/a.png", "image_1", "image_2")
    assert by_path.category == by_pil.category == by_array.category
    assert by_path.landmark == by_array.landmark and model.predict(pixels)[0].attribute == by_path.attribute
    done = run("predict", "photos/a.png", "--checkpoint=runs/demo/train", "--topk=5", "--out=out")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed.pop("annotated")
    listed = by_path.to_dict()
    assert printed.keys() == listed.keys() and printed["landmark"][0]["name"] == "landmark_1"
    assert [e["name"] for e in printed["category"]] == [e["name"] for e in listed["category"]]
    scores = ([entry["score"] for entry in found["category"]] for found in (printed, listed))
    np.testing.assert_allclose(*scores, rtol=0, atol=relative_rounding(9 * 64, layers=20))  # of 1, a softmax
    text = str(by_path)
    assert text.startswith("photos/a.png (60 x 80)") and by_path.category[0].name in text


@pytest.mark.slow
def test_a_detector_returns_instances(at_place):
    """Of several sizes, each in its own pixels; the result serialises and prints."""
    model = fashionjax.load("runs/parsing", batch_size=2)
    images = [np.full((64, 40, 3), 90, np.uint8), np.full((30, 90, 3), 200, np.uint8)]
    results = model.predict([*images, "none.jpg"])
    for image, result in zip(images, results, strict=False):
        assert (
            isinstance(result, fashionjax.Segmentation) and (result.height, result.width) == image.shape[:2]
        )
        plain = json.loads(result.to_json())
        assert len(plain["instances"]) == len(result.instances) > 0
        for instance in result.instances:
            assert (instance.category, instance.category_id) in (("top", 3), ("skirt", 7))
            x1, y1, x2, y2 = instance.box
            assert 0 <= x1 <= x2 <= result.width and 0 <= y1 <= y2 <= result.height
            assert tuple(instance.segmentation["size"]) == image.shape[:2]
        assert str(result.instances[0]) in str(result)
        drawn = detection.annotate(np.repeat(np.repeat(image, 2, 0), 2, 1), result)
        assert drawn.shape == (2 * image.shape[0], 2 * image.shape[1], 3)
    assert isinstance(results[2], fashionjax.Segmentation) and results[2].instances is None


def test_one_bad_image_leaves_the_others(at_place):
    model = fashionjax.load("runs/demo/train")
    good, bad = model.predict(["look.jpg", "none.jpg"])
    assert good.error is None and "no such file" in bad.error and bad.to_dict().keys() == {"image", "error"}
    assert str(bad) == bad.error
    with pytest.raises(fashionjax.UserError, match="expected a uint8 array"):
        raise fashionjax.UserError(model.predict(np.zeros((4, 4, 3)))[0].error)
    with pytest.raises(fashionjax.UserError, match="has no embedding"):
        model.embed("look.jpg")
    with pytest.raises(fashionjax.UserError, match="needs a model of the task retrieval, got attributes"):
        fashionjax.Gallery.build(model, "shop")


@pytest.mark.slow
def test_a_gallery_of_images_in_memory(at_place):
    model = fashionjax.load("runs/retrieval")
    images = [np.asarray(Image.open(f"shop/{n}.png")) for n in range(3)]
    gallery = fashionjax.Gallery.build(model, images)
    assert gallery.ids == ("image_0", "image_1", "image_2") and len(gallery) == 3
    norm = np.linalg.norm(np.float64(gallery.embedding), axis=1)
    assert_rounded(norm, np.ones(3), operations=gallery.embedding.shape[1] + 8 + 1)
    (result,) = gallery.search("shop/1.png", k=2)
    assert result.matches[0].id == "image_1" and len(result.matches) == 2
    done = run("search", "shop/1.png", "--checkpoint=runs/retrieval", "--gallery=shop", "--topk=2")
    printed = json.loads(done.stdout)
    assert printed.keys() == result.to_dict().keys()
    assert printed["matches"][0].keys() == result.to_dict()["matches"][0].keys()


@pytest.mark.slow
def test_outfits_take_folders_and_refuse_unknown_types(at_place):
    model = fashionjax.load("runs/outfits")
    entries = fashionjax.complete_outfit(model, ["top.jpg"], "wardrobe", types=["tops"], k=2)
    assert all(entry.rank <= 2 and entry.type != "tops" for entry in entries) and entries
    assert entries[0].to_dict().keys() == {"type", "rank", "id", "score"}
    score = fashionjax.score_outfit(model, ["top.jpg", "shoes.jpg"], types=["tops", "shoes"])
    assert score.to_dict()["weakest"].keys() == {"a", "b", "distance"} and "score" in str(score)
    with pytest.raises(fashionjax.UserError, match="'socks' is not a type"):
        fashionjax.complete_outfit(model, ["top.jpg"], "wardrobe", missing=["socks"])
    with pytest.raises(fashionjax.UserError, match=r"top2\.jpg: no such file"):
        fashionjax.score_outfit(model, ["top2.jpg"])


def test_off_the_main_thread(at_place):
    """Loading and predicting, with the process's warning filters and signal handlers as they were."""
    import logging
    import signal

    before = list(warnings.filters), signal.getsignal(signal.SIGTERM), logging.getLogger("absl").level
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(fashionjax.load("runs/demo/train").predict("look.jpg"))
    )
    thread.start()
    thread.join()
    assert found and found[0].category
    after = list(warnings.filters), signal.getsignal(signal.SIGTERM), logging.getLogger("absl").level
    assert after == before


def test_version_is_that_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text and re.fullmatch(r"\d+\.\d+\.\d+", fashionjax.__version__)
    assert demo.get_config().task == "attributes"
