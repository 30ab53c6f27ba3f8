"""How well the items on some images go together, and what of a gallery would complete them.

    fashionjax outfit score    top.jpg shoes.jpg bag.jpg --checkpoint=runs/outfits
    fashionjax outfit complete top.jpg shoes.jpg --checkpoint=runs/outfits --gallery=photos --topk=5

`score` prints one JSON object, `complete` a JSON object a line, best first; both write a page beside it
(docs/outfits.md).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.gallery.embed import Candidate
from fashionjax.inference import model as inference
from fashionjax.inference import photos
from fashionjax.outfit import completion, score, typed_gallery
from fashionjax.outfit import items as outfit_items
from fashionjax.outfit import page as outfit_page
from fashionjax.outfit.items import Outfit
from fashionjax.runtime import parallel

BATCH, FEW = 16, 8  # images that go through the model together, with a folder as gallery and without
SHOWN = (outfit_page.SIDE, outfit_page.SIDE)  # longer side of an image that is kept, least and largest
# flags that only `complete` reads
COMPLETE_FLAGS = ("gallery", "missing", "topk", "save_gallery", "gallery_types", "data_dir")


def asked_types(text: str, known: Sequence[str]) -> list[str]:
    """`--missing` → types, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(","))) if text else []
    for name in names:
        typed_gallery.check_type(name, known, "--missing")
    return names


def _run_score(outfit: Outfit, model: inference.Model, params: Any, out: Path, command: str) -> None:
    result = score.score(outfit, model.config, params)
    print(result.to_json(), flush=True)
    words = score.in_words(result, model.config)
    weakest = matrix = None
    if result.weakest is None:
        print(words[0], file=sys.stderr)
    else:
        weakest = result.weakest.a_index, result.weakest.b_index
        matrix = outfit_page.png(outfit_page.matrix(outfit.items, score.distances(result), weakest))
        print(f"matrix: {photos.write_new(matrix, out, 'matrix', 'png')}", file=sys.stderr)
    page = outfit_page.render(outfit.items, words, weakest=weakest, matrix_png=matrix, command=command)
    _write_page(page, out, "score")


def _run_complete(
    outfit: Outfit,
    found: typed_gallery.TypedGallery,
    model: inference.Model,
    params: Any,
    missing: Sequence[str],
    topk: int,
    out: Path,
    command: str,
) -> None:
    rank = completion.make_ranker(model.config, params)
    ranked, lacking = completion.complete(outfit.embedding, outfit.category, found, rank, missing, topk)
    notes = [f"The gallery has no {name}." for name in lacking]
    if not missing:
        notes.append("Nothing is missing: the outfit has every type that the gallery has.")
    for line in notes:
        print(line, file=sys.stderr)
    picture, shown = typed_gallery.pictures(found), []
    for name, entries in ranked.items():
        for entry, _ in entries:
            print(entry.to_json(), flush=True)
        shown.append((name, [Candidate(e.rank, e.id, e.score, picture(row)) for e, row in entries]))
    words = score.in_words(score.score(outfit, model.config, params), model.config)[:2]
    words.append(f"Ranked: {len(found.id):,} items of the gallery. Each score is {_meaning(model.config)}.")
    page = outfit_page.render(outfit.items, words, missing=shown, notes=notes, command=command)
    _write_page(page, out, "complete")


def _meaning(config: ConfigDict) -> str:
    if config.model.kind == "set_transformer":
        return "the probability of the outfit with the candidate"
    return "1 minus the candidate's mean distance to the items of the outfit"


def _write_page(page: str, out: Path, stem: str) -> None:
    text = page.encode("utf-8", "backslashreplace")  # names of files need not be UTF-8
    print(f"page: {photos.write_new(text, out, stem, 'html')}", file=sys.stderr)


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run")
    flags.DEFINE_string("types", "", "type of each image, TYPE,TYPE,… (empty entries: predicted)")
    flags.DEFINE_string("out", None, "folder for the page (default: CHECKPOINT/outfits)")
    flags.DEFINE_string("gallery", None, "complete: folder of images, saved gallery, or dataset:NAME:SPLIT")
    flags.DEFINE_string("missing", "", "complete: types to look for (default: all that the outfit lacks)")
    flags.DEFINE_integer("topk", 5, "complete: candidates of each missing type", lower_bound=1)
    flags.DEFINE_string("save_gallery", None, "complete: file to keep the embedded gallery in")
    flags.DEFINE_string("gallery_types", None, "complete: CSV file id,type of the gallery's items")
    flags.DEFINE_string("data_dir", "", "complete: of --gallery=dataset:…, where it is not the config's")
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # images may stand before the flags


def check_arguments(argv: Sequence[str], given: Sequence[str]) -> tuple[str, list[str]]:
    """The words after `outfit` and the names of the flags beside them → (score or complete, the images)."""
    what = argv[0] if argv else ""
    if what not in ("score", "complete"):
        raise UserError(f"outfit {what}: write `outfit score IMG…` or `outfit complete IMG… --gallery=…`")
    paths = photos.expand(argv[1:])
    if not paths:
        raise UserError(f"no image given; name the items of the outfit: outfit {what} IMG…")
    unread = [name for name in COMPLETE_FLAGS if name in given]
    if what == "score" and unread:
        raise UserError(f"--{unread[0]} belongs to `outfit complete`")
    if what == "complete" and "gallery" not in given:
        raise UserError(
            "outfit complete needs --gallery: a folder, a saved gallery or dataset:NAME/CONFIG:SPLIT"
        )
    return what, paths


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    what, paths = check_arguments(argv[1:], [name for name in args if args[name].present])
    parallel.use_compilation_cache()
    model = outfit_items.load(args.checkpoint)
    types = outfit_items.given_types(args.types, paths, model.config)
    known = list(model.config.labels.category)
    asked = asked_types(args.missing, known)
    gallery_types = typed_gallery.read_types(args.gallery_types, known) if args.gallery_types else {}
    out = photos.out_folder(args.out, args.checkpoint, "outfits")
    many = what == "complete" and os.path.isdir(args.gallery)
    predictor = photos.predictor(model, BATCH if many else FEW)
    outfit = outfit_items.read(paths, types, model.config, predictor, SHOWN)
    if not isinstance(outfit, Outfit):
        for error in outfit:
            print(f"error: {error}", file=sys.stderr)
        return 1
    params = jax.device_get(model.params)
    command = shlex.join(["fashionjax", "outfit", *sys.argv[1:]])
    if what == "score":
        _run_score(outfit, model, params, out, command)
        return 0
    for item in outfit.items:
        share = "given" if item.probability is None else f"predicted, {item.probability:.2f}"
        print(f"{item.path}: {item.type} ({share})", file=sys.stderr)
    found, unread = typed_gallery.open_typed_gallery(
        args.gallery, model, predictor, gallery_types, args.data_dir
    )
    if args.save_gallery:
        typed_gallery.save(found, args.save_gallery)
        print(f"gallery: {args.save_gallery} ({len(found.id):,} items)", file=sys.stderr)
    missing = asked or completion.types_to_add([item.type for item in outfit.items], found)
    _run_complete(outfit, found, model, params, missing, args.topk, out, command)
    return 1 if unread else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
