"""Photos → one JSON object a line on standard output, and annotated pictures.

    python -m fashionjax.predict look.jpg photos/ 'more/*.png' --checkpoint=runs/demo/train
    fashionjax predict look.jpg --checkpoint=runs/coarse --landmarks=runs/landmarks

Needs neither annotations nor a config: the checkpoint carries the config and the label names. A model that
pools at given landmarks gets those that the checkpoint of `--landmarks` detects.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.inference import photos
from fashionjax.inference.photos import Photo, Predictor, expand
from fashionjax.reports import draw
from fashionjax.runtime import parallel, progress

ANNOTATED_SIDES = (480, 1280)  # longer side of an annotated picture, at least and at most
OUTPUTS = ("category_logits", "attribute_logits", "landmark")


def load(
    path: str | os.PathLike, batch_size: int = 16, landmarks: str | os.PathLike | None = None
) -> Predictor:
    """The best (or else the last) checkpoint of a run. One trace serves every picture: batches are padded.

    `landmarks` is the checkpoint of the detector, for a model that pools at given landmarks.
    """
    model = photos.load(path, "predict")
    return photos.predictor(model, batch_size, photos.load_detector(landmarks, model))


def predict(
    paths: Sequence[str], predictor: Predictor, *, topk: int = 5, out: Path | None = None
) -> Iterator[dict]:
    """A record for each path, in order: {"image", "width", "height", parts …} or {"image", "error"}.

    category and attribute are lists of {"name", "score"}, best first (softmax, sigmoid); landmark is a list
    of {"x", "y", "visible"} in pixels of the photo as displayed, also where a detector gave them to the
    model. With `out`, "annotated" names the picture
    written there; nothing that exists is overwritten.
    """
    found = photos.outputs(paths, predictor, ANNOTATED_SIDES)
    for path, (item, output) in zip(paths, found, strict=True):
        if output is None:
            yield {"image": path, "error": str(item)}
        else:
            yield _finish(item, output, predictor.names, topk, out)


def describe(
    output: Mapping[str, np.ndarray], names: Mapping, frame: np.ndarray, topk: int
) -> dict[str, list[dict]]:
    """One example's outputs (arrays without the batch axis) → the parts of its record.

    `frame` [4] is the region of the photo that the model saw, xyxy in its pixels.
    """
    record: dict[str, list[dict]] = {}
    if "category_logits" in output:
        logits = np.asarray(output["category_logits"], np.float64)
        share = np.exp(logits - logits.max())
        record["category"] = _best(share / share.sum(), names["category"], topk)
    if "attribute_logits" in output:
        logits = np.asarray(output["attribute_logits"], np.float64)
        record["attribute"] = _best(np.exp(-np.logaddexp(0.0, -logits)), names["attribute"], topk)
    if "landmark" in output:
        frame = np.asarray(frame, np.float64)
        points = frame[:2] + np.asarray(output["landmark"], np.float64) * (frame[2:] - frame[:2])
        visible = np.asarray(output.get("visibility", np.ones(len(points)))) >= 0.5
        record["landmark"] = [
            {"x": round(float(x), 2), "y": round(float(y), 2), "visible": bool(seen)}
            for (x, y), seen in zip(points, visible, strict=True)
        ]
    return record


def annotate(shown: np.ndarray, record: Mapping) -> np.ndarray:
    """A photo at display size and its record → the picture with landmarks drawn and scores below."""
    if "landmark" in record:
        size = np.asarray([record["width"], record["height"]], np.float64)
        points = np.asarray([[point["x"], point["y"]] for point in record["landmark"]]) / size
        shown = draw.landmarks(shown, points, np.asarray([point["visible"] for point in record["landmark"]]))
    lines: list[str] = []
    scores: list[float | None] = []
    for part in ("category", "attribute"):
        if record.get(part):
            lines += [part, *(entry["name"] for entry in record[part])]
            scores += [None, *(entry["score"] for entry in record[part])]
    return draw.caption(shown, lines, scores) if lines else shown


def _finish(item: Photo, output: dict, names: Mapping, topk: int, out: Path | None) -> dict:
    if not any(name in output for name in OUTPUTS):
        raise UserError(
            f"this checkpoint's model gives {', '.join(output)}, and predict shows category, attribute and "
            "landmark; use the command of its task"
        )
    broken = [name for name, value in output.items() if not np.isfinite(value).all()]
    if broken:
        why = f"the model's {', '.join(broken)} is not finite; use another checkpoint"
        return {"image": item.path, "error": f"{item.path}: {why}"}
    record: dict[str, Any] = {"image": item.path, "width": item.size[0], "height": item.size[1]}
    record |= describe(output, names, item.example["frame"], topk)
    if out is not None:
        picture = _jpeg(annotate(item.shown, record))
        record["annotated"] = str(photos.write_new(picture, out, Path(item.path).stem, "jpg"))
    return record


def _best(scores: np.ndarray, names: Sequence[str], topk: int) -> list[dict]:
    order = np.argsort(-scores, kind="stable")[:topk]
    return [{"name": names[i], "score": round(float(scores[i]), 6)} for i in order]


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run")
    flags.DEFINE_string("landmarks", None, "checkpoint that detects landmarks, where the model takes them")
    flags.DEFINE_string("out", None, "folder for annotated pictures (default: CHECKPOINT/predictions)")
    flags.DEFINE_integer("topk", 5, "categories and attributes listed for each photo", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "photos that go through the model together", lower_bound=1)
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # photos may stand before the flags


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = expand(argv[1:])
    if not paths:
        raise UserError("no photo given; name files, folders or patterns: predict IMG… --checkpoint=DIR")
    parallel.use_compilation_cache()
    predictor = load(args.checkpoint, min(args.batch_size, len(paths)), args.landmarks)
    out = photos.out_folder(args.out, args.checkpoint, "predictions")
    failed = 0
    for count, record in enumerate(predict(paths, predictor, topk=args.topk, out=out), 1):
        print(json.dumps(record), flush=True)
        failed += "error" in record
        _progress(count, len(paths), predictor.batch_size)
    print(f"annotated pictures of {len(paths) - failed} photos: {out}", file=sys.stderr)
    return 1 if failed else 0


def _progress(count: int, total: int, every: int) -> None:
    if total > every and (count % every == 0 or count == total):
        progress.show(f"predicted {count}/{total}", last=count == total)


if __name__ == "__main__":
    cli.run(main, add_flags)
