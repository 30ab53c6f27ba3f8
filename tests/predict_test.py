import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import demo
from fashionjax import predict, task, tasks
from fashionjax.errors import UserError
from fashionjax.reports import photo_results
from fashionjax.results import Label, Landmark
from fashionjax.runtime import checkpoint, state

NAMES = {"category": ["Tee", "Skirt <a>", "Dress"], "attribute": ["striped", "lace"]}


def photo(path, width=60, height=40, **options):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 0 * x + 90], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def frame_of_whole(record, rng):
    assert rng is None
    height, width = record["image"].shape[:2]
    small = np.asarray(Image.fromarray(record["image"]).resize((8, 8)))
    return {"image": small, "frame": np.array([0, 0, width, height], np.float32)}


def fixed(batch_size=4, **outputs):
    """A predictor with constant outputs, which notes the batches it is given."""
    batches = []

    def run(batch):
        batches.append({name: value.shape for name, value in batch.items()})
        return {name: np.stack([np.asarray(value)] * batch_size) for name, value in outputs.items()}

    results = photo_results.LABELLED
    return predict.Predictor(frame_of_whole, run, NAMES, batch_size, results=results), batches


def test_landmarks_come_back_in_displayed_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 60 x 40, shown 40 x 60
    path = photo(tmp_path / "turned.jpg", exif=exif)
    predictor, _ = fixed(landmark=[[0.25, 0.5], [1.0, 0.0]], visibility=[0.9, 0.1])
    (record,) = predict.predict([path], predictor)
    assert record.to_dict() == {
        "image": path,
        "width": 40,
        "height": 60,
        "landmark": [
            {"name": "landmark_1", "x": 10.0, "y": 30.0, "visible": True},
            {"name": "landmark_2", "x": 40.0, "y": 0.0, "visible": False},
        ],
    }


def test_landmarks_of_a_frame_inside_the_photo():
    names = {"landmark": ["left collar"]}
    seen = task.Seen({"frame": np.array([10, 20, 30, 100])}, (40, 120), names, None, 5)
    found = photo_results.parts({"landmark": np.array([[0.5, 1.0]])}, seen)
    assert found == {"landmark": (Landmark("left collar", 20.0, 100.0, True),)}


def test_scores_are_softmax_and_sigmoid_best_first():
    logits = {"category_logits": np.log([0.2, 0.7, 0.1]), "attribute_logits": np.array([-800.0, 0.0])}
    found = photo_results.parts(logits, task.Seen({}, (1, 1), NAMES, None, 2))
    assert found["category"] == (Label("Skirt <a>", 0.7), Label("Tee", 0.2))
    assert found["attribute"] == (Label("lace", 0.5), Label("striped", 0.0))


def test_one_bad_photo_does_not_stop_the_others(tmp_path):
    good = [photo(tmp_path / f"{i}.png") for i in range(5)]
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    paths = [*good[:2], str(text), *good[2:], str(tmp_path / "missing.jpg")]
    predictor, batches = fixed(batch_size=3, category_logits=[0.0, 1.0, 2.0])
    records = [found.to_dict() for found in predict.predict(paths, predictor)]
    assert [record["image"] for record in records] == paths
    assert ["error" in record for record in records] == [False, False, True, False, False, False, True]
    assert "not an image" in records[2]["error"] and "no such file" in records[6]["error"]
    assert {"image", "error"} == set(records[2])
    assert {batch["image"] for batch in batches} == {(3, 8, 8, 3)}, "one shape, so one trace"


def test_annotated_pictures_never_overwrite(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "look.jpg").write_bytes(b"mine")
    paths = [photo(tmp_path / "a" / "look.png"), photo(tmp_path / "b" / "look.jpg")]
    predictor, _ = fixed(
        category_logits=[0.0, 1.0, 2.0],
        attribute_logits=[0.0, 1.0],
        landmark=[[0.2, 0.2], [0.8, 0.8]],
        visibility=[1.0, 0.0],
    )
    records = list(predict.predict(paths, predictor, out=out))
    assert (out / "look.jpg").read_bytes() == b"mine"
    assert [record.annotated for record in records] == [str(out / f"look-{i}.jpg") for i in (2, 3)]
    with Image.open(out / "look-2.jpg") as annotated:
        assert annotated.width == predict.ANNOTATED_SIDES[0] and annotated.height > 320
    with pytest.raises(UserError, match="cannot be written"):
        list(predict.predict(paths, predictor, out=tmp_path / "not there"))


def test_outputs_that_cannot_be_shown(tmp_path):
    path = photo(tmp_path / "a.png")
    predictor, _ = fixed(category_logits=[0.0, np.nan, 1.0])
    (record,) = predict.predict([path], predictor)
    assert "category_logits is not finite" in record.error
    predictor, _ = fixed(embedding=[1.0, 2.0])
    with pytest.raises(UserError, match="outputs are embedding"):
        list(predict.predict([path], predictor))


def test_folders_and_patterns(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "sub/c.jpg", "odd[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    root = str(tmp_path)
    assert predict.expand([root]) == [f"{root}/{name}" for name in ("a.png", "b.JPG", "odd[1].png")]
    assert predict.expand([f"{root}/*.png"]) == [f"{root}/a.png", f"{root}/odd[1].png"]
    assert predict.expand([f"{root}/odd[1].png", f"{root}/notes.txt"]) == [
        f"{root}/odd[1].png",
        f"{root}/notes.txt",
    ]
    assert predict.expand([f"{root}/**/*.jpg"]) == [f"{root}/sub/c.jpg"]
    for nothing in (f"{root}/none.jpg", f"{root}/*.webp", f"{root}/empty"):
        assert predict.expand([nothing]) == [nothing]


def test_folders_pass_companions_over_and_name_what_is_not_read(tmp_path, capsys):
    """A folder copied from a Mac or Windows; kinds of images that nothing here reads."""
    for name in (
        "a.jpg",
        "b.HEIC",
        "c.avif",
        "d.mpo",
        "e.jp2",
        "._a.jpg",
        ".DS_Store",
        "Thumbs.db",
        "raw.NEF",
    ):
        (tmp_path / name).touch()
    found = [os.path.basename(path) for path in predict.expand([str(tmp_path)])]
    assert found == ["a.jpg", "b.HEIC", "c.avif", "d.mpo", "e.jp2"]
    assert "unsupported formats skipped: 1 (.nef; first: raw.NEF)" in capsys.readouterr().err
    hidden = str(tmp_path / "._a.jpg")
    assert predict.expand([hidden]) == [hidden], "named itself"


def test_links_that_lead_nowhere_cost_their_file_alone(tmp_path):
    """Named, matched by a pattern and in a folder; a link to the folder above does not multiply files."""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "none.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "self").symlink_to(tmp_path)
    good = photo(tmp_path / "good.png")
    root = str(tmp_path)
    links = [f"{root}/gone.jpg", f"{root}/loop.jpg"]
    for arguments in (links, [f"{root}/*.jpg"], [f"{root}/**/*.jpg"]):
        assert predict.expand(arguments) == links
    assert predict.expand([root]) == [links[0], good, links[1]]
    predictor, _ = fixed(category_logits=[0.0, 1.0, 2.0])
    records = list(predict.predict(predict.expand([root, f"{root}/none"]), predictor))
    assert [record.error is not None for record in records] == [True, False, True, True]
    assert "is a broken link" in records[0].error and "symbolic links" in records[2].error


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "._a.jpg").touch()
    predictor, _ = fixed(category_logits=[0.0, 1.0, 2.0])
    (record,) = predict.predict(predict.expand([str(tmp_path)]), predictor)
    assert record.error.startswith(f"{tmp_path}: no image files in this folder (supported: JPEG")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of the demo's model, tiny and untrained; drawn by numpy, which need not be compiled."""
    workdir = tmp_path_factory.mktemp("run")
    config = demo.get_config()
    config.image_size = config.canvas_size = 32
    config.model.backbone_fields.width = 4
    config.model.features = 8
    config.labels = NAMES
    task = tasks.make(config)
    example = task.preprocess({"image": np.zeros((40, 60, 3), np.uint8)}, None)
    batch = {name: value[None] for name, value in example.items()}
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.PRNGKey(0), batch)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes[0])
    model_state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes[1])
    run = state.TrainState(np.int32(7), params, model_state, {}, jax.random.PRNGKey(1))
    manager = checkpoint.open_manager(workdir)
    checkpoint.save(manager, run, config)
    manager.wait_until_finished()
    manager.close()
    return workdir


def command(*arguments, cwd):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-m", "fashionjax.predict", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_the_command(trained, tmp_path):
    """No config, no dataset, another working directory: the checkpoint is all it needs."""
    photos = [photo(tmp_path / "a.jpg", 300, 500), photo(tmp_path / "b.png")]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    done = command("*.jpg", photos[1], f"--checkpoint={trained}", "--topk=2", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["image"] for record in records] == ["a.jpg", "broken.jpg", photos[1]]
    assert set(records[1]) == {"image", "error"}
    first = records[0]
    assert (first["width"], first["height"]) == (300, 500)
    assert len(first["category"]) == len(first["attribute"]) == 2 and len(first["landmark"]) == 8
    assert first["category"][0]["score"] >= first["category"][1]["score"] > 0
    assert {entry["name"] for entry in first["attribute"]} == set(NAMES["attribute"])
    assert sorted(path.name for path in (trained / "predictions").iterdir()) == ["a.jpg", "b.jpg"]


def test_predictions_do_not_depend_on_the_batch(trained, tmp_path):
    paths = [photo(tmp_path / f"{i}.png", 30 + 10 * i, 50) for i in range(3)]
    together = list(predict.predict(paths, predict.load(trained, 3)))
    padded = list(predict.predict(paths[1:2], predict.load(trained, 3)))
    assert padded[0].category == together[1].category
    assert padded[0].landmark == together[1].landmark


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        predict.load(tmp_path / "none")
    with pytest.raises(UserError, match="holds no checkpoint"):
        predict.load(tmp_path)
