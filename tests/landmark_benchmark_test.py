"""A tree in the landmark benchmark's release layout through the commands; broken ones are refused."""

import json
import shutil

import numpy as np
import pytest
from commands import run

from tfds_builders.synthetic_fashion import release


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("release") / "landmarks"
    release.write_release("deepfashion_landmarks", root, 60, seed=1, size=64)
    return root


@pytest.mark.slow
def test_prepare_train_evaluate_predict(tree, tmp_path):
    data, workdir, out = tmp_path / "data", tmp_path / "run", tmp_path / "report"
    done = run("prepare", "deepfashion_landmarks", f"--manual_dir={tree}", f"--data_dir={data}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) >= {"dataset", "config", "splits", "skipped"} and sum(result["splits"].values()) == 60
    done = run(
        "train",
        "--config=experiments/landmarks.py:head=heatmap",
        *(f"--workdir={workdir}", f"--config.data_dir={data}", "--config.image_size=32"),
        *("--config.canvas_size=36", "--config.batch_size=8", "--config.steps=6", "--config.epochs=0"),
        *("--config.eval_every=0", "--config.model.backbone=resnet18", "--config.log_every=2"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = run("evaluate", f"--checkpoint={workdir}", "--split=test", f"--out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((out / "report.json").read_text())
    assert report["label"] == "synthetic"  # a drawn tree is one whatever its layout
    assert report["dataset"].startswith("deepfashion_landmarks")
    assert report["n"] == result["splits"]["test"]
    assert np.isfinite(report["metrics"]["zoo/landmark_ne"]) and (out / "report.html").stat().st_size > 10_000
    photo = next((tree / "Img").rglob("*.jpg"))
    done = run("predict", photo, f"--checkpoint={workdir}", f"--out={tmp_path / 'pictures'}")
    (record,) = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0 and len(record["landmark"]) == 8


@pytest.mark.parametrize(
    ("file", "line", "edit"),
    [
        ("Anno/list_landmarks.txt", 5, lambda row: " ".join([*row.split()[:3], "7", *row.split()[4:]])),
        ("Anno/list_bbox.txt", 4, lambda row: " ".join([row.split()[0], "50", "10", "20", "30"])),
        ("Eval/list_eval_partition.txt", 3, lambda row: row.split()[0] + " exam"),
    ],
)
def test_broken_trees_are_refused_by_file_and_line(tree, tmp_path, file, line, edit):
    broken, data = tmp_path / "tree", tmp_path / "data"
    shutil.copytree(tree, broken)
    rows = (broken / file).read_text().splitlines()
    rows[line - 1] = edit(rows[line - 1])
    (broken / file).write_text("\n".join(rows) + "\n")
    done = run("prepare", "deepfashion_landmarks", f"--manual_dir={broken}", f"--data_dir={data}")
    assert done.returncode != 0
    assert f"{file.split('/')[-1]}:{line}" in done.stderr.splitlines()[-1]
    assert not list(data.rglob("dataset_info.json"))
