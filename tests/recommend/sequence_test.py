"""The documented sequence from photos to a report on a tiny drawn detector, killed in both long steps."""

import json
import os
import signal
import subprocess
import sys
import time

import checkpoints
import pytest
from commands import environment, run

from experiments import cascade, recommendation
from fashionjax.recommend import database
from tfds_builders.synthetic_fashion import release
from tfds_builders.synthetic_fashion.world import CATEGORY_NAMES


def tiny(config, **labels):
    config.labels = {"category": list(CATEGORY_NAMES), **labels}
    config.model.backbone_fields.width, config.model.channels, config.model.box_width = 4, 8, 8
    config.model.mask_convolutions = 1
    config.model.settings.update({"detections": 4, "proposals_test": 6, "candidates_test": 6})
    return config


def killed(count, *arguments) -> None:
    """Starts a command and kills it (-9) once `count` () is true; fails where it ends before."""
    line = [sys.executable, "-m", *map(str, arguments)]
    process = subprocess.Popen(line, env=environment(), stderr=subprocess.PIPE, text=True)
    while not count():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_in_the_middle_the_sequence_goes_on(tmp_path):
    release.write_release("kfashion", tmp_path / "tree", 30, seed=0, size=64)
    photos = tmp_path / "tree/train/image"
    total = len(list(photos.iterdir()))
    detector = checkpoints.save_drawn(tmp_path / "det", tiny(cascade.get_config("tiny=true")), 1)
    config = tiny(recommendation.get_config("tiny=true"), item_id=["1", "2", "3"])
    model = checkpoints.save_drawn(tmp_path / "rec", config, 1)
    db = tmp_path / "garments"

    alone = "--batch_size=1"  # in every step: what one compiles the next finds in the cache
    segment = ("segment", photos, f"--checkpoint={detector}", f"--database={db}", "--score=0.06", alone)
    lines = lambda: len((db / "index.jsonl").read_text().splitlines()) if (db / "index.jsonl").exists() else 0  # noqa: E731
    killed(lambda: lines() >= 3, "fashionjax.segment", *segment[1:])
    assert 3 <= lines() < total
    done = run(*segment)
    assert done.returncode == 0 and lines() == total, done.stderr

    pairs = f"--pairs={tmp_path}/tree/train/annos"
    embed = ("embed", f"--database={db}", f"--checkpoint={model}", pairs, alone)
    parts = lambda: len(list(db.glob("features/part-*")))  # noqa: E731
    killed(lambda: parts() >= 1, "fashionjax.embed", *embed[1:], "--part=1")
    assert len(database.embedded_images(db)) < total
    done = run(*embed)
    assert done.returncode == 0 and "embedded already" in done.stderr, done.stderr
    found = database.read(db)
    listed = [json.loads(line) for line in (db / "index.jsonl").read_text().splitlines()]
    expected = [f"{line['name']}/{o['category']}_{o['rank']}.png" for line in listed for o in line["objects"]]
    assert sorted(garment.id for garment in found.garments) == sorted(expected)
    photo = next((tmp_path / "tree/test/image").iterdir())
    done = run("recommend.__main__", photo, f"--database={db}", "--top=3", f"--out={tmp_path / 'page'}")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["rank"] for line in done.stdout.splitlines()] == [1, 2, 3]
    done = run("recommend.__main__", f"--database={db}", f"--out={tmp_path / 'report'}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report/report.json").read_text())["n"] > 0
