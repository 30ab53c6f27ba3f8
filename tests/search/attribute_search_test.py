"""`search --attribute`: galleries for one attribute and for all, what is refused, where the model looked."""

import json

import numpy as np
import pytest
from checkpoints import save_drawn
from close import relative_rounding
from commands import run
from outfits import photo

from experiments import rpf
from fashionjax.data import builders
from fashionjax.errors import UserError
from fashionjax.gallery import collection, embed
from fashionjax.gallery.collection import Gallery
from fashionjax.inference import photos
from fashionjax.inference.photo_model import PhotoModel

COSINE = relative_rounding(9 * 64, layers=18)  # of unit embeddings, computed in other programs
NAMES = ["collar", "sleeve_length", "hem"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A stage-2 model, untrained."""
    config = rpf.get_config("tiny=true,stage=2")
    config.labels = {"attribute": NAMES, "attribute_value": [["a", "b"]] * len(NAMES)}
    return save_drawn(tmp_path_factory.mktemp("rpf"), config, 0)


@pytest.fixture(scope="module")
def model(checkpoint):
    return photos.load(checkpoint, "search")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    for number in range(5):
        photo(root / f"{number}.png", number)
    return root


@pytest.fixture(scope="module")
def every(model, shop):
    predictor = photos.predictor(model, 4)
    found, unread = collection.open_collection(str(shop), model, predictor, every_attribute=True)
    assert unread == 0 and found.attributes == tuple(NAMES) and len(found.rows.id) == 15
    return found


def test_a_gallery_of_all_attributes_holds_that_of_each(model, shop, every):
    predictor = photos.predictor(model, 4)
    alone, _ = collection.open_collection(str(shop), model, predictor, attribute="Sleeve length")
    part = every.for_attribute("sleeve-length")
    assert alone.attributes == part.attributes == ("sleeve_length",) and alone.rows.id == part.rows.id
    np.testing.assert_allclose(part.rows.embedding, alone.rows.embedding, rtol=0, atol=COSINE)
    np.testing.assert_array_equal(part.record, np.arange(5))
    other = every.for_attribute("hem")
    assert np.abs(other.rows.embedding - part.rows.embedding).max() > 1e-3
    with pytest.raises(UserError, match="embedded for 'sleeve_length', not for 'hem'"):
        alone.for_attribute("hem")


def test_saved_galleries_keep_their_attributes(model, every, tmp_path):
    path = str(tmp_path / "all.gallery")
    collection.save(every, path)
    again = collection.load(path, embed.fingerprint(model))
    assert again.attributes == every.attributes
    np.testing.assert_array_equal(again.rows.embedding, every.rows.embedding)
    collection.save(every._replace(attributes=("collar", "hem")), path)
    with pytest.raises(UserError, match="15 rows are not those of 2 attributes"):
        collection.load(path, embed.fingerprint(model))


def test_gallery_of_a_split_counts_images_not_pairs(model, tmp_path):
    sizes = {"train": "4", "val": "3", "test": "3", "size": "64"}
    builders.prepare("synthetic_fashion/fine_grained", data_dir=tmp_path, overrides=sizes, progress=False)
    name = "dataset:synthetic_fashion/fine_grained:test"
    found, _ = collection.open_collection(
        name, model, photos.predictor(model, 4), None, str(tmp_path), attribute="hem"
    )
    assert len(found.rows.id) == 3 and found.attributes == ("hem",)
    assert embed.pictures(found.source, found.rows.id, found.record)(2).shape == (64, 64, 3)


def test_the_attribute_is_asked_for(model):
    with pytest.raises(UserError, match="choose --attribute from 'collar', 'sleeve_length', 'hem'"):
        photos.attribute_record(model.config)
    with pytest.raises(UserError, match="--attribute='colour' is unknown"):
        photos.attribute_record(model.config, "colour")


def test_python_api(model, shop, every):
    wrapped = PhotoModel(model, batch_size=4, attribute="hem")
    found = Gallery.build(wrapped, str(shop))
    assert len(found) == 5
    result = found.search(str(shop / "3.png"), k=2)[0]
    assert result.matches[0].id == "3.png" and result.matches[0].score == pytest.approx(1, abs=COSINE)
    with pytest.raises(UserError, match="choose --attribute"):
        PhotoModel(model).embed(str(shop / "3.png"))
    with pytest.raises(UserError, match="'colour' is unknown"):
        PhotoModel(model, attribute="colour")


@pytest.mark.slow
def test_command(checkpoint, shop, model, tmp_path):
    query, saved = str(shop / "2.png"), tmp_path / "all.gallery"
    line = ("search", query, f"--checkpoint={checkpoint}", f"--gallery={shop}", f"--out={tmp_path}")
    refused = run(*line)
    assert refused.returncode == 2 and "choose --attribute from 'collar'" in refused.stderr
    done = run(*line, "--attribute=hem", "--topk=2", "--gallery_attributes=all", f"--save_gallery={saved}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["image"] == query and found["matches"][0]["id"] == "2.png"
    assert len(found["matches"]) == 2
    page = (tmp_path / "search.html").read_text()
    assert "cosine similarity of hem" in page and "attention (bright) and crop" in page
    assert collection.load(str(saved), embed.fingerprint(model)).attributes == tuple(NAMES)
