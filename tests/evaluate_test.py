"""From a trained checkpoint to report and predictions by the documented commands."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import save_drawn
from close import relative_rounding
from commands import damaged_copy, environment, on_two_hosts, run, train_to_its_end

from experiments import mask_rcnn
from fashionjax.data import builders, source


@pytest.fixture(scope="module")
def workdir(synthetic_dir, tmp_path_factory):
    """A run of 20 steps."""
    folder = tmp_path_factory.mktemp("run")
    done = train_to_its_end(folder, synthetic_dir, "--config.eval_every=10", steps=20)
    assert done.returncode == 0, done.stderr
    assert len((folder / "evaluations.jsonl").read_text().splitlines()) == 2
    assert "already prepared" not in done.stderr, "opening a dataset is no news"
    return folder


def test_a_missing_split_fails_before_training(synthetic_dir, tmp_path):
    done = train_to_its_end(tmp_path / "run", synthetic_dir, "--config.eval_split=dev", steps=20)
    assert done.returncode == 2 and "no split 'dev'" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluate_writes_the_report(workdir, tmp_path):
    done = run("evaluate", f"--checkpoint={workdir}", "--split=test", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["label"] == "synthetic" and report["split"] == "test" and report["n"] == 13
    assert report["dataset"].startswith("synthetic_fashion/attributes") and report["seconds_total"] > 0
    shown = ("standard/category_top1", "standard/attribute_map", "standard/landmark_ne_visible")
    assert all(np.isfinite(report["metrics"][name]) for name in shown)
    assert set(report["baselines"]) == {"majority", "linear_pixels", "mean_landmark"}
    for baseline, metric in zip(("majority", "linear_pixels", "mean_landmark"), shown, strict=False):
        assert np.isfinite(report["baselines"][baseline].get(metric, 0.0))
    assert "standard/category_top1" in report["baselines"]["linear_pixels"]
    assert "standard/landmark_ne_visible" in report["baselines"]["mean_landmark"]
    page = (tmp_path / "report.html").read_text()
    assert "synthetic" in page and page.count("<img") + page.count("<svg") >= 5


def reports_of_one_and_two_hosts(checkpoint, data_dir, out) -> tuple[dict, dict]:
    """report.json of the test split by one process of four devices and by two of two."""
    line = [sys.executable, "-m", "fashionjax.evaluate", f"--checkpoint={checkpoint}", "--split=test"]
    line.append(f"--data_dir={data_dir}")
    one = subprocess.run([*line, f"--out={out / 'one'}"], env=environment(4), capture_output=True, text=True)
    assert one.returncode == 0, one.stderr[-3000:]
    hosts = on_two_hosts([*line, f"--out={out / 'two'}"], devices=2)
    assert [status for status, _ in hosts] == [0, 0], [error[-3000:] for _, error in hosts]
    return tuple(json.loads((out / name / "report.json").read_text()) for name in ("one", "two"))


def assert_same_figures(one: dict, two: dict) -> None:
    """Metrics and baselines equal but for rounding: a host's batches have other shapes."""
    assert one["n"] == two["n"] == one["n_total"] and one["missing"] == two["missing"] == []
    for here, there in zip(*([r["metrics"], *r["baselines"].values()] for r in (one, two)), strict=True):
        assert here == pytest.approx(there, rel=relative_rounding(9 * 64, layers=20), nan_ok=True)


@pytest.mark.slow
def test_two_hosts_measure_what_one_does(workdir, synthetic_dir, tmp_path):
    """13 records: the hosts' shares are of different sizes."""
    one, two = reports_of_one_and_two_hosts(workdir, synthetic_dir, tmp_path)
    assert (
        one["baselines"].keys() == two["baselines"].keys() == {"majority", "linear_pixels", "mean_landmark"}
    )
    assert_same_figures(one, two)


@pytest.mark.full
def test_two_hosts_measure_a_detector_as_one_does(tmp_path):
    """Matches are gathered batch by batch. 7 records, batches of 4."""
    sizes = {"train": "4", "val": "2", "test": "7", "size": "64"}
    name = "synthetic_fashion/instances"
    builders.prepare(name, data_dir=tmp_path / "data", overrides=sizes, progress=False)
    config = mask_rcnn.get_config("tiny=true")
    config.dataset, config.parallel = name, "shard_map"
    config.labels = dict(source.open_split(name, "test", tmp_path / "data").labels)
    checkpoint = save_drawn(tmp_path / "run", config, 0)
    assert_same_figures(*reports_of_one_and_two_hosts(checkpoint, tmp_path / "data", tmp_path))


@pytest.mark.slow
def test_predict_needs_the_checkpoint_alone(workdir, synthetic_dir, tmp_path):
    split = source.open_split("synthetic_fashion/attributes", "test", synthetic_dir)
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(split[0]["image"])
    bad.write_bytes(b"not an image")
    done = run("predict", good, bad, f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["width"], first["height"]) == (64, 64)
    assert len(first["landmark"]) == 8 and set(first["landmark"][0]) == {"name", "x", "y", "visible"}
    assert first["category"][0]["score"] >= first["category"][1]["score"]
    assert first["category"][0]["name"] in split.labels["category"]
    assert "bad.jpg" in second["error"] and (tmp_path / "out" / "good.jpg").is_file()


@pytest.mark.slow
def test_damaged_records_stop_an_evaluation_unless_allowed(workdir, synthetic_dir, tmp_path):
    copy = damaged_copy(synthetic_dir, tmp_path / "data", "test")
    flags = (f"--checkpoint={workdir}", "--split=test", f"--out={tmp_path / 'out'}", f"--data_dir={copy}")
    done = run("evaluate", *flags)
    assert done.returncode == 2 and "--allow_missing" in done.stderr and "test[" in done.stderr
    assert not (tmp_path / "out" / "report.json").exists()
    done = run("evaluate", *flags, "--allow_missing", "--nobaselines")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["n"] + len(report["missing"]) == 13 and report["missing"]
    assert f"{report['n']} of 13" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--checkpoint=/nowhere"], "/nowhere"),
        (["--checkpoint={empty}"], "holds no checkpoint"),
        (["--checkpoint={run}", "--split=dev"], "no split 'dev'"),
        (["--checkpoint={run}", "--step=7"], "no step '7'"),
        (["--checkpoint={run}", "--dataset=deepfashion_landmarks"], "fashionjax prepare"),
        (["--checkpoint={run}", "--out={run}/metrics.jsonl/x"], "give another --out"),
    ],
)
def test_bad_input_is_one_line(workdir, tmp_path, flags, message):
    filled = [flag.format(run=workdir, empty=tmp_path) for flag in flags]
    done = run("evaluate", f"--out={tmp_path / 'out'}", *filled)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in done.stderr


@pytest.mark.slow
def test_checkpoint_of_another_model_is_refused(workdir, synthetic_dir):
    done = train_to_its_end(workdir, synthetic_dir, "--config.model.features=32", steps=20)
    assert done.returncode == 2 and "does not fit this config" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_checkpoint_with_cut_off_files_is_one_line(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    for file in filter(Path.is_file, tmp_path.glob("run/checkpoints/20/state/**/d/*")):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    done = run("evaluate", f"--checkpoint={tmp_path / 'run'}", "--step=20", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and f"{tmp_path}/run/checkpoints/20: not a readable" in done.stderr
    assert "Traceback" not in done.stderr
