"""Models as users' photos meet them: what is off, and landmarks that another model detects."""

import json

import numpy as np
import pytest
from checkpoints import save
from close import assert_rounded, assert_sums_close
from commands import run
from outfits import photo

from fashionjax.data.photo import read_photo
from fashionjax.errors import UserError
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.outfit import items as outfit_items

POINTS = np.linspace(0.1, 0.9, 16, dtype=np.float32).reshape(8, 2)
SEEN = np.asarray([0.9, 0.1, 0.5, 0.8, 0.2, 0.7, 0.9, 0.9], np.float32)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{kind: workdir}; 96 px, so that a map has places to pool at."""
    kinds = ("global", "landmark", "zoo", "attributes", "detector")
    return {kind: save(tmp_path_factory.mktemp(kind), kind, image_size=96) for kind in kinds}


def found(*paths, model, finder=None) -> list[dict]:
    """Outputs of the photos, with what `finder` says of landmarks."""
    predictor = photos.predictor(model, 8)._replace(detector=finder)
    return [output for _, output in photos.outputs(list(paths), predictor)]


def finder(landmark=POINTS, visibility=SEEN, frame=None) -> photos.Predictor:
    """A detector that always says the same."""

    def preprocess(record, rng):
        height, width = record["image"].shape[:2]
        whole = np.asarray([0, 0, width, height], np.float32)
        return {"image": np.zeros((2, 2, 3), np.uint8), "frame": whole if frame is None else frame}

    def run(batch):
        return {"landmark": np.stack([landmark] * 8), "visibility": np.stack([visibility] * 8)}

    return photos.Predictor(preprocess, run, {}, 8)


@pytest.mark.parametrize("kind", ["landmark", "zoo"])
def test_detected_landmarks_are_given_as_a_record_has_them(kind, runs, tmp_path):
    """The same embedding as of a record with these landmarks, in the model's frame and under its switches."""
    model, path = photos.load(runs[kind]), photo(tmp_path / "a.png", 1)
    (output,) = found(path, model=model, finder=finder())
    seen = SEEN >= 0.5
    record = {
        "image": read_photo(path),
        "landmark": POINTS * seen[:, None],
        "visibility": np.where(seen, 0, 3),
    }
    example = model.task.preprocess(record, None)
    assert example["landmark"].dtype == example["visibility"].dtype == np.float32
    assert example["visibility"].tolist() == seen.tolist()
    expected = inference.run(model, {name: np.stack([value] * 8) for name, value in example.items()})
    assert_sums_close(output["embedding"], expected["embedding"][0], 9 * 32)  # 3 x 3 kernels over 32 channels
    assert_rounded(output["landmark"], POINTS, operations=8)  # into the model's frame and back
    (elsewhere,) = found(path, model=model, finder=finder(POINTS[::-1]))
    assert not np.allclose(output["embedding"], elsewhere["embedding"], rtol=1e-3)


def test_points_of_a_frame_inside_the_photo(runs, tmp_path):
    model, path = photos.load(runs["landmark"]), photo(tmp_path / "a.png", 1)  # 60 x 80
    frame = np.asarray([15, 20, 45, 60], np.float32)
    (output,) = found(path, model=model, finder=finder(frame=frame))
    assert_rounded(output["landmark"], 0.25 + POINTS / 2, operations=8)


def test_photos_that_no_detector_reads(runs, tmp_path):
    model, path = photos.load(runs["landmark"]), photo(tmp_path / "a.png", 1)
    predictor = photos.predictor(model, 8)._replace(detector=finder(POINTS * np.nan))
    (tmp_path / "bad.jpg").write_bytes(b"none")
    errors = [str(item) for item, output in photos.outputs([path, str(tmp_path / "bad.jpg")], predictor)]
    assert "the detector's landmarks are not finite; use another --landmarks" in errors[0]
    assert "not an image" in errors[1]


@pytest.mark.slow
def test_an_answer_does_not_depend_on_chance_or_the_other_photos(runs, tmp_path):
    """Of a model with MMFashion's quirks: neither random crops nor the landmarks of other photos."""
    paths = [photo(tmp_path / f"{number}.png", number) for number in range(3)]
    assert "s3_roi_scramble_group" in inference.load(runs["zoo"]).config.quirks
    model = photos.load(runs["zoo"])
    detector = photos.load_detector(runs["detector"], model)
    predictor = photos.predictor(model, 16, detector)  # two photos a device
    together = [output["embedding"] for _, output in photos.outputs(paths, predictor)]
    ((_, alone),) = photos.outputs(paths[1:2], predictor)
    np.testing.assert_array_equal(together[1], alone["embedding"])
    assert not np.array_equal(together[0], together[1])


def test_outfits_are_not_cropped_either(tmp_path):
    model = outfit_items.load(save(tmp_path / "run", "outfits", quirks=("s1_random_crop_at_test",)))
    image = {"image": read_photo(photo(tmp_path / "a.png", 1)), "image_id": "a"}
    one, other = (model.task.preprocess(image | {"image_id": name}, None)["image"] for name in "ab")
    np.testing.assert_array_equal(one, other)


def test_detectors_that_do_not_fit(runs, tmp_path):
    model = photos.load(runs["attributes"])
    with pytest.raises(UserError, match="--landmarks=DIR"):
        photos.load_detector(None, model)
    with pytest.raises(UserError, match="detects no landmarks on a bare photo"):
        photos.load_detector(runs["global"], model)
    with pytest.raises(UserError, match="detects no landmarks on a bare photo"):
        photos.load_detector(runs["attributes"], model)
    with pytest.raises(UserError, match="takes no landmarks; leave it out"):
        photos.load_detector(runs["detector"], photos.load(runs["global"]))
    assert photos.load_detector(None, photos.load(runs["global"])) is None
    six = photos.load(save(tmp_path / "six", "attributes", points=6, image_size=96))
    with pytest.raises(UserError, match="finds 8 landmarks, and this checkpoint's model takes others"):
        photos.load_detector(runs["detector"], six)


@pytest.mark.slow
def test_the_predict_command(runs, tmp_path):
    path = photo(tmp_path / "a.png", 1)
    line = ["predict", path, f"--checkpoint={runs['attributes']}", f"--out={tmp_path / 'out'}"]
    done = run(*line, f"--landmarks={runs['detector']}")
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, done.stdout.splitlines())
    assert len(record["attribute"]) == 3 and len(record["landmark"]) == 8
    done = run(*line)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "--landmarks=DIR" in done.stderr
