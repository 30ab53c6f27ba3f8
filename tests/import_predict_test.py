"""A PyTorch file with MMFashion's names → import → predict on a bare photo, one command each."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from runs import run
from torch_writers import save_zip

from fashionjax import parity_draws

MANIFEST = Path(__file__).parent / "fixtures" / "parity" / "mmf_attr_global_vgg16_lite" / "manifest.json"


def test_an_imported_checkpoint_predicts_on_a_bare_photo(tmp_path):
    tensors = parity_draws.state_dict(json.loads(MANIFEST.read_text()))
    file = save_zip(tmp_path / "epoch_40.pth", tensors, "state_dict")
    done = run(
        "import_weights",
        *(file, "--config=experiments/attributes.py:backbone=vgg16,pool=global"),
        *(f"--workdir={tmp_path / 'imported'}", f"--config.data_dir={tmp_path}"),
        *("--config.model.hidden=48", "--config.model.features=64"),  # the fixture's narrow head
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["unread"] == counts["unfilled"] == [] and counts["tensors"] == len(tensors)
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    done = run("predict", photo, f"--checkpoint={tmp_path / 'imported'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, done.stdout.splitlines())
    assert (record["width"], record["height"]) == (60, 90) and len(record["attribute"]) == 5
    assert 0 < record["attribute"][0]["score"] < 1
