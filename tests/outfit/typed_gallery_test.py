"""A gallery of garments: made from photos or a dataset, saved, refused where it does not fit, shown."""

import json

import numpy as np
import pytest
from close import assert_sums_close
from outfits import TYPES, photo, save_model
from PIL import Image
from safetensors.numpy import load_file, save_file

from fashionjax.data import builders
from fashionjax.errors import UserError
from fashionjax.gallery import embed
from fashionjax.inference import photos
from fashionjax.outfit import items as outfit_items
from fashionjax.outfit import typed_gallery


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return outfit_items.load(save_model(tmp_path_factory.mktemp("run"), "mask"))


@pytest.fixture(scope="module")
def predictor(model):
    return photos.predictor(model, 8)


@pytest.fixture
def folder(tmp_path):
    """Ten photos in two folders, a text, and one that is damaged."""
    for number in range(10):
        photo(tmp_path / "look" / ("deep" if number % 2 else ".") / f"{number}.png", number)
    (tmp_path / "look" / "notes.txt").write_text("none")
    (tmp_path / "look" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path / "look"


def test_a_folder(folder, model, predictor, capfd):
    found, unread = typed_gallery.open_typed_gallery(
        str(folder), model, predictor, {"4.png": 9, "gone.png": 1}
    )
    assert found.id == tuple(f"{n}.png" for n in (0, 2, 4, 6, 8)) + tuple(
        f"deep/{n}.png" for n in (1, 3, 5, 7, 9)
    )
    assert unread == 1 and found.embedding.dtype == np.float32 and found.types == tuple(TYPES)
    ((_, output),) = photos.outputs([str(folder / "6.png")], predictor)
    assert_sums_close(found.embedding[3], output["embedding"], 9 * 32)  # 3 x 3 kernels over 32 channels
    assert found.category[3] == np.argmax(output["category_logits"]) and found.category[2] == 9
    _, err = capfd.readouterr()
    assert "broken.jpg" in err and "left out" in err and "embedded 11/11" in err and "img/s" in err
    assert "1 of 2 ids are not in" in err and "gone.png" in err
    shown = typed_gallery.pictures(found)(1)
    np.testing.assert_array_equal(shown, np.asarray(Image.open(folder / "2.png")))
    (folder / "2.png").unlink()
    assert typed_gallery.pictures(found)(1) is None


def test_folders_that_cannot_serve(tmp_path, model, predictor):
    with pytest.raises(UserError, match="no image files in this folder"):
        typed_gallery.open_typed_gallery(str(tmp_path), model, predictor, {})
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(UserError, match="none of 1 images can be read"):
        typed_gallery.open_typed_gallery(str(tmp_path), model, predictor, {})
    with pytest.raises(UserError, match="no such gallery"):
        typed_gallery.open_typed_gallery(str(tmp_path / "none"), model, predictor, {})


def test_an_embedding_that_is_not_finite(folder, model, predictor):
    def broken(batch):
        outputs = predictor.run(batch)
        return outputs | {"embedding": outputs["embedding"] * np.nan}

    with pytest.raises(UserError, match=r"'0.png' \(row 0\) is not finite"):
        typed_gallery.from_folder(str(folder), model, predictor._replace(run=broken), {})


def test_without_a_type_head(folder, tmp_path):
    bare = outfit_items.load(save_model(tmp_path / "run", "headless"))
    own = photos.predictor(bare, 8)
    given = {f"{'deep/' if n % 2 else ''}{n}.png": n for n in range(10)}
    with pytest.raises(UserError, match=r"no type head .* for 1 images"):
        typed_gallery.from_folder(str(folder), bare, own, given)
    found, _ = typed_gallery.open_typed_gallery(str(folder), bare, own, given | {"broken.jpg": 0})
    assert found.category.tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]


def made(model, n=4, d=16) -> typed_gallery.TypedGallery:
    rng = np.random.default_rng(0)
    return typed_gallery.TypedGallery(
        rng.normal(size=(n, d)).astype(np.float32),
        np.arange(n, dtype=np.int32),
        tuple(f"ä/{i}.jpg" for i in range(n)),
        tuple(TYPES),
        {"folder": "/nowhere"},
        np.arange(n, dtype=np.int32),
        embed.fingerprint(model),
    )


def test_save_and_load(tmp_path, model, predictor):
    path = str(tmp_path / "sub" / "gallery.safetensors")
    saved = made(model)
    typed_gallery.save(saved, path)
    again, unread = typed_gallery.open_typed_gallery(path, model, predictor, {"ä/1.jpg": 7})
    np.testing.assert_array_equal(again.embedding, saved.embedding)
    assert unread == 0 and again.category.tolist() == [0, 7, 2, 3]
    assert again._replace(embedding=0, category=0, record=0) == saved._replace(
        embedding=0, category=0, record=0
    )
    assert typed_gallery.pictures(again)(0) is None
    with pytest.raises(UserError, match="cannot be written"):
        (tmp_path / "file").write_text("")
        typed_gallery.save(saved, str(tmp_path / "file" / "gallery"))


def test_galleries_of_other_models_are_refused(tmp_path, model):
    path = str(tmp_path / "gallery.safetensors")
    typed_gallery.save(made(model), path)
    for fields in ({"seed": 1}, {"image_size": 40}):
        other = outfit_items.load(save_model(tmp_path / str(fields), "mask", **fields))
        with pytest.raises(UserError, match="by another model, or another step"):
            typed_gallery.load(path, embed.fingerprint(other))
    again = outfit_items.load(save_model(tmp_path / "again", "mask"))
    assert typed_gallery.load(path, embed.fingerprint(again)).id == made(model).id


def test_damaged_galleries_are_refused(tmp_path, model):
    path, own = str(tmp_path / "gallery.safetensors"), embed.fingerprint(model)
    typed_gallery.save(made(model), path)
    tensors = load_file(path)
    metadata = {"format": typed_gallery.FORMAT, "types": json.dumps(TYPES), "source": "{}", "model": own}
    category = tensors["category"]
    for changed, changed_metadata, message in (
        ({"category": category + 8}, metadata, "types or records do not fit"),
        ({"category": category[:3]}, metadata, "types or records do not fit"),
        ({"record": category.astype(np.float32)}, metadata, "types or records do not fit"),
        ({"embedding": tensors["embedding"] * np.inf}, metadata, "not finite"),
        ({"embedding": tensors["embedding"][:0]}, metadata, "neither of them 0"),
        ({}, metadata | {"types": "{"}, "damaged"),
        ({}, {"format": typed_gallery.FORMAT}, "damaged"),
        (
            {},
            metadata | {"format": "fashionjax-gallery-1"},
            "wrong gallery format 'fashionjax-gallery-1', expected .*; `fashionjax search` reads it",
        ),
    ):
        save_file(tensors | changed, path, changed_metadata)
        with pytest.raises(UserError, match=message):
            typed_gallery.load(path, own)
    save_file({"embedding": tensors["embedding"], "id": tensors["id"]}, path, metadata)
    with pytest.raises(UserError, match="damaged"):
        typed_gallery.load(path, own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,kind\na,tops\n", "line 1: the columns must be id,type"),
        ("", "line 1: the columns must be id,type"),
        ("id,type\na,tops\nb,socks\n", "line 3: 'socks' is not a type; use one of accessories, .*, tops"),
        ("id,type\na,tops\na,bags\n", "line 3: a is tops in a line above"),
        ("id,type\na\n", "line 2: None is not a type"),
        (b"id,type\n\xff,tops\n", "cannot be read as CSV"),
    ],
)
def test_tables_of_types_that_cannot_serve(tmp_path, text, message):
    path = tmp_path / "types.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        typed_gallery.read_types(str(path), TYPES)


def test_a_table_of_types(tmp_path):
    path = tmp_path / "types.csv"
    path.write_text('﻿id,type\r\n"a, b.jpg",tops\r\nc.jpg,bags\r\nc.jpg,bags\r\n')
    assert typed_gallery.read_types(str(path), TYPES) == {"a, b.jpg": 10, "c.jpg": 2}
    with pytest.raises(UserError, match="cannot be read"):
        typed_gallery.read_types(str(tmp_path / "none.csv"), TYPES)


def test_a_split_of_a_dataset(tmp_path, model, predictor, capfd):
    sizes = {"train": "24", "val": "8", "test": "8", "size": "48"}
    builders.prepare("synthetic_fashion/outfits", data_dir=tmp_path, overrides=sizes, progress=False)
    name = "dataset:synthetic_fashion/outfits:test"
    found, unread = typed_gallery.open_typed_gallery(name, model, predictor, {}, str(tmp_path))
    split = embed.source.open_split("synthetic_fashion/outfits", "test", tmp_path)
    assert unread == 0 and found.id == tuple(split.column("image_id"))
    names = [split.labels["category"][number] for number in split.column("category")]
    assert [TYPES[number] for number in found.category] == names
    path = str(tmp_path / "gallery.safetensors")
    typed_gallery.save(found, path)
    again = typed_gallery.load(path, embed.fingerprint(model))
    assert typed_gallery.pictures(again)(2).shape == (48, 48, 3)
    np.testing.assert_array_equal(typed_gallery.pictures(again)(2), embed.preprocess.picture(split[2]))
    gone = again._replace(source=again.source | {"data_dir": str(tmp_path / "gone")})
    assert typed_gallery.pictures(gone)(2) is None
    for bad, message in (
        ("dataset:synthetic_fashion", "write dataset:NAME/CONFIG:SPLIT"),
        ("dataset:synthetic_fashion/outfits:dev", "no split 'dev'"),
        ("dataset:synthetic_fashion/none:test", "no prepared dataset"),
    ):
        with pytest.raises(UserError, match=message):
            typed_gallery.open_typed_gallery(bad, model, predictor, {}, str(tmp_path))
