"""Configs of checkpoints that earlier versions wrote."""

import json

import checkpoints
import pytest

from fashionjax import inference, quirks
from fashionjax.runtime import checkpoint_files


def test_switches_of_earlier_versions_become_quirks():
    old = {
        "model": {"learns": ["attribute"]},
        "faithful": {"s1_random_crop_at_test": True, "s2_landmark_not_moved": False},
    }
    config = checkpoint_files.convert(old | {"faithful": old["faithful"] | {"s3_roi_scramble_group": 16}})
    assert config == {
        "model": {"labels_predicted": ["attribute"]},
        "quirks": ["s1_random_crop_at_test", "s3_roi_scramble_group"],
        "images_per_gpu": 16,
    }
    assert checkpoint_files.convert(dict(config)) == config
    config = checkpoint_files.convert({"faithful": {"s3_roi_scramble_group": None}})
    assert config == {"quirks": [], "images_per_gpu": 0}


def test_the_share_of_validation_items_had_another_name():
    old = {"validation": {"items": 0.1, "seed": 3}}
    assert checkpoint_files.convert(old) == {"validation": {"share": 0.1, "seed": 3}}


@pytest.mark.parametrize("group", [None, 4])
def test_a_checkpoint_of_an_earlier_version_loads(tmp_path, group):
    checkpoints.save(tmp_path, "landmark")
    file = checkpoint_files.step_folder(tmp_path) / checkpoint_files.CONFIG
    config = json.loads(file.read_text())
    del config["quirks"], config["images_per_gpu"]
    config["faithful"] = dict.fromkeys(quirks.QUIRKS, False) | {"s3_roi_scramble_group": group}
    file.write_text(json.dumps(config))
    config = inference.model.load(tmp_path).config
    assert quirks.names_on(config) == (["s3_roi_scramble_group"] if group else [])
    assert quirks.scramble_group(config) == (group or 1)
