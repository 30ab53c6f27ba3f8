"""The demo: render a synthetic benchmark, train, evaluate, predict on held-out images, write the report.

    make demo        (python -m fashionjax.demo --out=runs/demo)

One process does what prepare, train, evaluate and predict do one after the other.
"""

from __future__ import annotations

import time
from pathlib import Path

from absl import flags

from experiments import demo as experiment
from fashionjax import cli, evaluate, files, predict, train
from fashionjax.errors import UserError
from fashionjax.results import Prediction
from fashionjax.runtime import datasets, parallel

PHOTOS = 8  # held-out images that are written out and predicted on


def run(out: Path, steps: str) -> dict:
    """Everything, into `out`; → the report."""
    started = time.monotonic()
    if (out / "train").exists():
        raise UserError(f"{out}: holds an earlier demo; delete it, or give another --out")
    config = experiment.get_config(f"steps={steps}" if steps else None)
    config.data_dir = str(out / "data")
    say(f"render {config.synthetic.set}")
    test = datasets.open_split(config, "test")
    say("train")
    train.train(config, out / "train")
    say("predict on held-out images")
    records = predict_held_out(out, test)
    say("evaluate")
    result = evaluate.evaluate(out / "train", "test", out, started=started)
    for record in records[:2]:
        best = record.category[0]
        say(f"{Path(record.image).name}: {best.name} ({best.score:.2f})")
    for name in ("standard/category_top1", "standard/attribute_map", "standard/landmark_ne_visible"):
        others = {key: values[name] for key, values in result["baselines"].items() if name in values}
        compared = ", ".join(f"{key} {value:.3f}" for key, value in others.items())
        say(f"{name} {result['metrics'][name]:.3f}  ({compared})")
    say(f"synthetic test split of {result['n']} images, {result['seconds_total']:.0f} s in all")
    say(f"report: {out / 'report.html'}")
    return result


def predict_held_out(out: Path, test) -> list[Prediction]:
    """The first test images as files, their predictions as predictions.jsonl and annotated images."""
    photos, annotated = out / "photos", out / "predictions"
    for folder in (photos, annotated):
        folder.mkdir(parents=True)
    paths = []
    for index in range(min(PHOTOS, len(test))):
        path = photos / f"test_{index}.jpg"
        path.write_bytes(test[index]["image"])
        paths.append(str(path))
    predictor = predict.load(out / "train", PHOTOS)
    records = list(predict.predict(paths, predictor, out=annotated))
    lines = "".join(record.to_json() + "\n" for record in records)
    files.write_text(out / "predictions.jsonl", lines)
    return records


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def add_flags() -> None:
    flags.DEFINE_string("out", "runs/demo", "folder for data, checkpoints, predictions and report")
    flags.DEFINE_string("steps", "", "training steps, where not the config's")


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    parallel.use_compilation_cache()
    run(Path(flags.FLAGS.out), flags.FLAGS.steps)
    return 0


if __name__ == "__main__":
    cli.run(main, add_flags)
