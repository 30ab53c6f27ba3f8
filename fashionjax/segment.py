"""Photos → garments: COCO results, annotated images and cut-outs, or a database of segmented images.

    fashionjax segment photos/*.jpg --checkpoint=runs/parsing --out=segmented
    fashionjax segment photos/ --checkpoint=runs/kfashion --database=garments

OUT/ gets detections.json (COCO results), images.json (the images and categories that its ids mean),
{name}.jpg with the instances drawn and cutouts/{name}_{class}_{rank}.png with the mask as alpha. The database
is {name}/{class}_{rank}.png and index.jsonl, one line an image. Both are resumed: images that are in
index.jsonl are not run again.
"""

from __future__ import annotations

import collections
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from fashionjax import cli, files
from fashionjax.data import detections, masks, photo
from fashionjax.errors import UserError
from fashionjax.gallery import embed
from fashionjax.inference import model as inference
from fashionjax.inference import photos, segmenter
from fashionjax.reports import draw_instances
from fashionjax.runtime import parallel, progress

INDEX, ORIGIN = "index.jsonl", "segmented.json"
LAYOUTS = ("fashionjax", "upstream")
LISTED = 0.05  # scores from here on are in detections.json
SHOWN = (480, 1280)  # longer side of an annotated image, at least and at most


class Labels(NamedTuple):
    """names and ids of the categories, in the order of the model's labels."""

    names: list[str]
    ids: list[int]


def labels_of(model: inference.Model) -> Labels:
    """The categories that a checkpoint was trained on."""
    labels = model.config.labels
    return Labels(list(labels.category), detections.category_ids(labels))


# ------------------------------------------------------------------------------ one image
def objects_of(item: segmenter.Segmented, labels: Labels) -> list[dict[str, Any]]:
    """What index.jsonl says of the instances, best first; rank counts those of a category."""
    ranks, result = collections.Counter(), []
    for entry in detections.listed(item.found, labels.names, labels.ids):
        ranks[entry["category_id"]] += 1
        entry["rank"] = ranks[entry["category_id"]]
        if "segmentation" in entry:
            entry["area"] = masks.area(entry["segmentation"])
        result.append(entry)
    return result


def write_results(
    item: segmenter.Segmented, name: str, out: Path, labels: Labels, score: float
) -> list[dict]:
    """The annotated image and the cut-outs of an image; → its objects."""
    objects = objects_of(item, labels)
    shown = [entry for entry in objects if entry["score"] >= score]
    for entry in shown:
        if "segmentation" in entry:
            cut = detections.cutout(item.image, entry["segmentation"])
            if cut is not None:
                file = f"cutouts/{name}_{_plain(entry['category'])}_{entry['rank']}.png"
                _write_image(out / file, cut)
                entry["file"] = file
    side = int(np.clip(max(item.image.shape[:2]), *SHOWN))
    picture = draw_instances.instances(
        item.image,
        np.asarray([entry["box"] for entry in shown]).reshape(-1, 4),
        [labels.names.index(entry["category"]) for entry in shown],
        labels.names,
        [entry["segmentation"] for entry in shown] if all("segmentation" in e for e in shown) else None,
        [entry["score"] for entry in shown],
        side,
    )
    _write_image(out / f"{name}.jpg", picture)
    return objects


def write_garments(
    item: segmenter.Segmented, name: str, out: Path, labels: Labels, score: float, *, upstream: bool, fit: int
) -> list[dict]:
    """The cut-outs of an image for a database; → the objects of at least `score`.

    upstream: fashion-recommendation's segDB, {class}.png on white, where a second garment of a class replaces
    the first, so that the one with the lowest score stays (src/seg_img.py). fit: longer side of a cut-out, 0
    for that of the photo.
    """
    objects = [entry for entry in objects_of(item, labels) if entry["score"] >= score]
    for entry in objects:
        cut = detections.cutout(item.image, entry["segmentation"])
        if cut is None:
            continue
        cut = detections.on_white(cut) if upstream else cut
        rank = "" if upstream else f"_{entry['rank']}"
        entry["file"] = f"{name}/{_plain(entry['category'])}{rank}.png"
        _write_image(out / entry["file"], photo.display(cut, fit) if fit else cut)
    if upstream:  # a file belongs to the last entry that was written to it
        last = {entry["file"]: entry for entry in objects if "file" in entry}
        for entry in objects:
            if "file" in entry and last[entry["file"]] is not entry:
                del entry["file"]
    return objects


def _plain(category: str) -> str:
    """A category as part of a file name."""
    return category.replace("/", "-").replace(os.sep, "-")


def _write_image(path: Path, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    kind = {"quality": 92, "subsampling": 0} if path.suffix == ".jpg" else {}
    Image.fromarray(image).save(buffer, "JPEG" if kind else "PNG", **kind)
    try:
        files.write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


# ------------------------------------------------------------------------------ many images
def free_name(path: str, taken: set[str]) -> str:
    """The stem of a path, or stem-2, stem-3 … where it is taken."""
    stem = Path(path).stem
    return next(
        name
        for name in itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        if name not in taken
    )


def read_index(folder: Path) -> dict[str, dict]:
    """index.jsonl as {image: line}; a last line that a kill cut off is removed."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        files.write_lines(path, (line + "\n" for line in lines[:-1]))
    found = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            found[entry["image"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: expected a JSON object with `image`; remove the line"
            ) from error
    return found


def segment(
    paths: Sequence[str],
    model: inference.Model,
    folder: Path,
    write: Callable[[segmenter.Segmented, str], list[dict]],
    *,
    batch_size: int,
    score: float,
    settings: dict[str, Any],
    checkpoint: str = "",
) -> Iterator[tuple[str, UserError | None]]:
    """Each path that index.jsonl of `folder` does not have, written and then listed there; → with its error.

    `settings` stand in segmented.json with the model's fingerprint; a folder of others is refused. So does
    the model's `checkpoint`, which may move.
    """
    _check_origin(folder, {"model": embed.fingerprint(model), **settings}, checkpoint)
    return _each(paths, model, folder, write, batch_size, score)


def _each(paths, model, folder, write, batch_size, score) -> Iterator[tuple[str, UserError | None]]:
    """The paths that index.jsonl lacks, one by one; see `segment`."""
    done = read_index(folder)
    left = [path for path in dict.fromkeys(paths) if path not in done]
    taken = {entry["name"] for entry in done.values()}
    with (folder / INDEX).open("a", encoding="utf-8") as index:
        for path, item in segmenter.segmented(left, model, batch_size, score):
            if isinstance(item, UserError):
                yield path, item
                continue
            name = free_name(path, taken)
            taken.add(name)
            height, width = item.image.shape[:2]
            line = {"image": path, "name": name, "width": width, "height": height}
            index.write(json.dumps(line | {"objects": write(item, name)}) + "\n")
            index.flush()
            yield path, None


def read_origin(folder: Path) -> dict[str, Any]:
    """segmented.json: the detector's fingerprint (`model`), its `checkpoint`, score, categories, layout; {}
    where a folder has none."""
    path = folder / ORIGIN
    if not path.is_file():
        return {}
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(origin, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); give another folder") from error
    return origin


def _check_origin(folder: Path, origin: dict[str, Any], checkpoint: str) -> None:
    before = read_origin(folder)
    changed = [name for name in origin if before.get(name) != origin[name]]
    if before and changed:
        raise UserError(
            f"{folder}: was written with another {', '.join(changed)}; give another folder, or the same "
            "flags to go on with it"
        )
    origin = origin | {"checkpoint": str(Path(checkpoint).resolve()) if checkpoint else ""}
    if before != origin:
        files.write_text(folder / ORIGIN, json.dumps(origin, indent=1) + "\n")


def write_coco(folder: Path, paths: Sequence[str], labels: Labels) -> Path:
    """detections.json (COCO results) and images.json (what their ids mean) of the images of index.jsonl."""
    done = read_index(folder)
    images = [done[path] for path in dict.fromkeys(paths) if path in done]
    listed = [
        {"id": i, "file_name": entry["image"], "width": entry["width"], "height": entry["height"]}
        for i, entry in enumerate(images, 1)
    ]
    categories = [{"id": int(i), "name": name} for i, name in zip(labels.ids, labels.names, strict=True)]
    files.write_text(folder / "images.json", json.dumps({"images": listed, "categories": categories}) + "\n")

    def lines() -> Iterator[str]:
        before = "["
        for i, entry in enumerate(images, 1):
            for found in entry["objects"]:
                x1, y1, x2, y2 = found["box"]
                result = {"image_id": i, "category_id": found["category_id"]}
                result |= {"bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "score": found["score"]}
                result |= {name: found[name] for name in ("segmentation",) if name in found}
                yield before + "\n" + json.dumps(result)
                before = ","
        yield "\n]\n" if before == "," else "[]\n"

    path = folder / "detections.json"
    files.write_lines(path, lines())
    return path


# ------------------------------------------------------------------------------ the command
def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run of a detector")
    flags.DEFINE_string("out", None, "folder of detections.json, annotated images and cut-outs")
    flags.DEFINE_string("database", None, "folder of a database of segmented images, instead of --out")
    flags.DEFINE_enum("layout", LAYOUTS[0], LAYOUTS, "of --database; upstream: NAME/CLASS.png on white")
    flags.DEFINE_integer("fit", 0, "longer side of the database's images; 0: as in the photo", lower_bound=0)
    flags.DEFINE_float(
        "score", None, "least score that is drawn or cut out (0.3; of a database 0.5)", 0.0, 1.0
    )
    flags.DEFINE_integer("batch_size", 4, "photos that go through the model together", lower_bound=1)
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # photos may stand before the flags


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = photos.expand(argv[1:])
    if not paths:
        raise UserError(
            "no photo given; name files, folders or patterns: segment IMG… --checkpoint=DIR --out=DIR"
        )
    if bool(args.out) == bool(args.database):
        raise UserError("give exactly one of --out=DIR and --database=DIR")
    if args.out and (args.layout != LAYOUTS[0] or args.fit):
        raise UserError("--layout and --fit belong to --database")
    parallel.use_compilation_cache()
    model = segmenter.load(args.checkpoint)
    labels = labels_of(model)
    if args.database and model.config.model.mask_form == "none":
        raise UserError(f"{args.checkpoint}: this model has no mask head; a database needs masks")
    folder = cli.make_folder(args.out or args.database, "--out" if args.out else "--database")
    score = args.score if args.score is not None else (0.3 if args.out else 0.5)
    settings = {"score": score, "categories": labels.names}
    if args.out:
        least = min(LISTED, score)
        write = lambda item, name: write_results(item, name, folder, labels, score)  # noqa: E731
    else:
        least, upstream = score, args.layout == "upstream"
        settings |= {"layout": args.layout, "fit": args.fit}
        write = lambda item, name: write_garments(  # noqa: E731
            item, name, folder, labels, score, upstream=upstream, fit=args.fit
        )
    found = segment(
        paths,
        model,
        folder,
        write,
        batch_size=min(args.batch_size, len(paths)),
        score=least,
        settings=settings,
        checkpoint=args.checkpoint,
    )
    damaged = _shown(found, len(set(paths)), len(set(paths) & read_index(folder).keys()))
    if args.out:
        print(f"results: {write_coco(folder, paths, labels)}", file=sys.stderr)
    print(f"segmented images: {folder}", file=sys.stderr)
    for error in damaged:
        print(f"error: {error}", file=sys.stderr)
    return 1 if damaged else 0


def _shown(found: Iterator[tuple[str, UserError | None]], total: int, before: int) -> list[UserError]:
    """Runs `found` to its end with a line of progress; → the errors."""
    started, damaged, count = time.monotonic(), [], before
    if before:
        print(f"{before} of {total} images are there already", file=sys.stderr)
    for _, error in found:
        count += 1
        damaged += [error] if error else []
        elapsed = time.monotonic() - started
        rate = (count - before) / max(elapsed, 1e-9)
        line = f"segmented {count}/{total}  {rate:.1f} img/s  left {progress.clock((total - count) / rate)}"
        progress.show(line, last=count == total, every=False)
    return damaged


if __name__ == "__main__":
    cli.run(main, add_flags)
