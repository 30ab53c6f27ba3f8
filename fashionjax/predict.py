"""Images → one JSON object a line on standard output, and annotated images.

    fashionjax predict look.jpg photos/ 'more/*.png' --checkpoint=runs/demo/train
    fashionjax predict look.jpg --checkpoint=runs/coarse --landmarks=runs/landmarks
    fashionjax predict look.jpg --checkpoint=runs/fashionnet --part=blue

Needs neither annotations nor a config: the checkpoint carries the config and the label names. A model that
pools at given landmarks gets those that the checkpoint of --landmarks detects. Exit status 1 where an image
cannot be read; the others are answered.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.inference import answers, photos
from fashionjax.inference.photos import Predictor, expand
from fashionjax.results import Result
from fashionjax.runtime import parallel, progress

ANNOTATED_SIDES = (480, 1280)  # longer side of an annotated image, at least and at most


def load(
    path: str | os.PathLike,
    batch_size: int = 16,
    landmarks: str | os.PathLike | None = None,
    part: str | None = None,
) -> Predictor:
    """The best (or else the last) checkpoint of a run. One trace serves every image: batches are padded.

    `landmarks` is the checkpoint of the detector, for a model that pools at given landmarks; `part` as for
    `photos.load`.
    """
    model = photos.load(path, "predict", part=part)
    return photos.predictor(model, batch_size, photos.load_detector(landmarks, model))


def predict(
    paths: Sequence[str], predictor: Predictor, *, topk: int = 5, out: Path | None = None
) -> Iterator[Result]:
    """A result for each path, in order. With `out`, `annotated` names the image written there; nothing that
    exists is overwritten."""
    for found, item in answers.predict(paths, predictor, topk=topk, sides=ANNOTATED_SIDES):
        if out is None or item is None:
            yield found
        else:
            picture = _jpeg(predictor.results.annotate(item.shown, found))
            written = photos.write_new(picture, out, Path(item.path).stem, "jpg")
            yield dataclasses.replace(found, annotated=str(written))


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run")
    flags.DEFINE_string("landmarks", None, "checkpoint that detects landmarks, where the model takes them")
    flags.DEFINE_string("part", None, "of a FashionNet: blue (landmarks, category), red_green or whole")
    flags.DEFINE_string("out", None, "folder for annotated images (default: CHECKPOINT/predictions)")
    flags.DEFINE_integer("topk", 5, "categories and attributes listed for each image", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "images that go through the model together", lower_bound=1)
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # images may stand before the flags


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = expand(argv[1:])
    if not paths:
        raise UserError("no image given; name files, folders or patterns: predict IMG… --checkpoint=DIR")
    parallel.use_compilation_cache()
    predictor = load(args.checkpoint, min(args.batch_size, len(paths)), args.landmarks, args.part)
    out = photos.out_folder(args.out, args.checkpoint, "predictions")
    failed = 0
    for count, found in enumerate(predict(paths, predictor, topk=args.topk, out=out), 1):
        print(found.to_json(), flush=True)
        failed += found.error is not None
        _progress(count, len(paths), predictor.batch_size)
    print(f"annotated images of {len(paths) - failed} photos: {out}", file=sys.stderr)
    return 1 if failed else 0


def _progress(count: int, total: int, every: int) -> None:
    if total > every and (count % every == 0 or count == total):
        progress.show(f"predicted {count}/{total}", last=count == total)


if __name__ == "__main__":
    cli.run(main, add_flags)
