"""PyTorch files with MMFashion's names → import → predict or search on a bare photo, one command each."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save
from commands import run
from PIL import Image
from torch_writers import save_zip

from experiments import attributes, inshop
from fashionjax import import_weights, predict
from fashionjax.gallery import collection
from fashionjax.inference import photos
from fashionjax.parity import draws
from fashionjax.search import __main__ as search

FOLDERS = Path(__file__).parents[1] / "fixtures" / "parity"


def weight_file(name, folder) -> str:
    """The weights of a fixture as a file of PyTorch."""
    tensors = draws.state_dict(json.loads((FOLDERS / name / "manifest.json").read_text()))
    return str(save_zip(folder / f"{name}.pth", tensors, "state_dict"))


@pytest.mark.slow
def test_an_imported_checkpoint_predicts_on_a_bare_photo(tmp_path):
    file = weight_file("mmf_attr_global_vgg16_lite", tmp_path)
    done = run(
        "import_weights",
        *(file, "--config=experiments/attributes.py:backbone=vgg16,pool=global"),
        *(f"--workdir={tmp_path / 'imported'}", f"--config.data_dir={tmp_path}"),
        *("--config.model.hidden=48", "--config.model.features=64"),  # the fixture's narrow head
        *("--config.image_size=64", "--config.canvas_size=64"),
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["unread"] == counts["unfilled"] == [] and counts["tensors"] > 0
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    done = run("predict", photo, f"--checkpoint={tmp_path / 'imported'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, done.stdout.splitlines())
    assert (record["width"], record["height"]) == (60, 90) and len(record["attribute"]) == 5
    assert 0 < record["attribute"][0]["score"] < 1


@pytest.mark.slow
def test_imported_models_that_pool_at_landmarks_answer_with_a_detector(tmp_path):
    """The zoo's attribute predictor and retriever, under the switches of their rows."""
    sources = {
        "mmf_attr_roi_vgg16_lite": attributes.get_config("backbone=vgg16,pool=landmark,faithful=zoo"),
        "mmf_inshop_roi_vgg16_lite": inshop.get_config("backbone=vgg16,pool=landmark,faithful=zoo"),
    }
    sources["mmf_inshop_roi_vgg16_lite"].model.embedding = 32
    runs = {"landmark": str(save(tmp_path / "landmark", "detector"))}
    for name, config in sources.items():
        config.model.hidden, config.model.features = 48, 64  # the fixtures' narrow heads, as is the embedding
        config.data_dir, config.image_size, config.canvas_size = str(tmp_path), 64, 64
        runs[name.split("_")[1]] = str(tmp_path / name)
        import_weights.run(weight_file(name, tmp_path), config, str(tmp_path / name))
    rng = np.random.default_rng(0)
    (tmp_path / "shop").mkdir()
    paths = [str(tmp_path / "shop" / f"{number}.png") for number in range(2)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(path)

    (record,) = predict.predict(paths[:1], predict.load(runs["attr"], 1, runs["landmark"]))
    assert len(record.attribute) == 5 and len(record.landmark) == 8

    model = photos.load(runs["inshop"], "search")
    detector = photos.load_detector(runs["landmark"], model)
    predictor = photos.predictor(model, 2, detector)
    found, _ = collection.open_collection(str(tmp_path / "shop"), model, predictor, detector)
    (record,), _ = search.search(search.embed_queries(paths[1:], predictor), found, 5)
    assert [match.id for match in record.matches] == ["1.png", "0.png"]
