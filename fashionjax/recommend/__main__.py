"""A photo → garments of a database: similar ones of a category, or what goes with a garment of the photo.

    fashionjax recommend look.jpg --database=garments --category=skirt --top=10 --out=page
    fashionjax recommend look.jpg --database=garments --complement=jacket --top=5
    fashionjax recommend --database=garments --garment=skirt --complement=outer --top=5 --out=page
    fashionjax recommend --database=garments --queries=test_garments --out=report

One JSON object a line on standard output, best first: {"rank", "id", "pair_id", "category", "score"}, score
being the cosine similarity; with several photos each line has "image" too. Of each product (pair_id) the
nearest garment is listed. With --category the photo's best garment of that category is compared with the
database's; without it the photo's best garment, with those of its category. --complement takes the best
garment of another group (upper, lower, outer) than the wanted category's, looks for photos that show
something like it together with the wanted category, and lists what they show of that; a group may be wanted,
too. With --garment a garment of the database asks in place of a photo's, named by its id or drawn from a
category; it is compared with those of other pairs, and no model is needed.

Without either the database is evaluated: every garment of --queries (or of the database itself, against the
other photos) asks for garments of its category; recall, hit and MRR at 1, 2, 5, 10 and 20 as published and
standard, in report.json and report.html of --out.
"""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fashionjax import cli, files, quirks, segment
from fashionjax.data import photo
from fashionjax.errors import UserError
from fashionjax.gallery import embed as gallery
from fashionjax.inference import photos, segmenter
from fashionjax.recommend import answers, evaluation, garments, page, response, rules
from fashionjax.recommend import database as features
from fashionjax.recommend.answers import Answer, Asked
from fashionjax.recommend.database import Database
from fashionjax.runtime import parallel

NO_DETECTOR = "none"  # --detector


def open_models(found: Database, args) -> tuple[garments.Embedder, Any]:
    """(embedder, detector or None) of the flags, else of the database: its photos and the queries are
    segmented alike."""
    checkpoint = args.checkpoint or found.origin["checkpoint"]
    embedder = garments.load(checkpoint, 1)
    if gallery.fingerprint(embedder.model) != found.origin["model"]:
        raise UserError(f"{checkpoint}: is not the model that embedded {found.folder}; name that one")
    if args.detector == NO_DETECTOR:
        return embedder, None
    if args.detector:
        return embedder, segmenter.load(args.detector)
    detector = garments.open_detector(found.folder, found.origin.get("detector", ""))
    if detector is None and not embedder.of_boxes:
        print(
            f"note: {found.folder} does not say which detector segmented it: each photo is one garment as a "
            "whole; --detector=DIR finds its garments",
            file=sys.stderr,
        )
    return embedder, detector


def ask_photos(
    paths: Sequence[str], asked: Asked, found: Database, embedding: np.ndarray, args
) -> tuple[list[Answer], list[UserError]]:
    """Prints the lines of each photo; → what was answered, and what was wrong with the others."""
    embedder, detector = open_models(found, args)
    score = segment.read_origin(found.folder).get("score", 0.5) if args.score is None else args.score
    given, failed = [], []
    for path in paths:
        try:
            entry = garments.found_in(path, embedder, detector, score)
            answer = answers.of_photo(entry, asked, found, embedding, embedder)
        except UserError as error:
            failed.append(error)
            print(f"error: {path}: {error}".replace(f"{path}: {path}:", f"{path}:"), file=sys.stderr)
            if args.response:
                response.write(Path(args.response), path, error=error)
            continue
        given.append(answer)
        print_lines(answer.lines if len(paths) == 1 else [{"image": path} | line for line in answer.lines])
        if args.response:
            response.write(Path(args.response), path, lines=answer.lines, root=found.folder)
    return given, failed


def print_lines(lines: Iterable[dict[str, Any]]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False), flush=True)


def show(given: Sequence[Answer], found: Database, out: Path, words: list[str], notes: list[str]) -> None:
    """OUT/recommendations.html, and recommendations.json with the same lines."""
    image_of = functools.lru_cache(maxsize=64)(photo.read_photo)
    shown = []
    for each in given:
        entry = each.entry
        if each.garment is None:
            image = photo.read_photo(entry.image)
            cut = garments.cut(image, entry.objects[each.asked])
        else:  # photos of a database may be gone
            image = photo.read_photo(entry.image) if Path(entry.image).is_file() else None
            cut = features.picture(found, image_of, each.garment)
        pictures = [features.picture(found, image_of, found.garments[hit.shown]) for hit in each.hits]
        shown.append(page.Shown(entry.image, image, entry.objects, each.asked, cut, each.lines, pictures))
    command = shlex.join(["fashionjax", "recommend", *sys.argv[1:]])
    files.write_text(out / "recommendations.html", page.render(shown, words, notes, command))
    twin = [{"image": each.entry.image, "query": each.entry.objects[each.asked]["category"],
             "matches": each.lines} for each in given]  # fmt: skip
    files.write_text(out / "recommendations.json", json.dumps(twin, indent=1, ensure_ascii=False) + "\n")
    print(f"page: {out / 'recommendations.html'}", file=sys.stderr)


def add_flags() -> None:
    flags.DEFINE_string("database", None, "folder that `fashionjax embed` wrote features into")
    flags.DEFINE_string("category", "", "category of the garments that are searched")
    flags.DEFINE_string("complement", "", "category or group of garments that go with one of the photo")
    flags.DEFINE_string(
        "garment",
        "",
        "instead of a photo: a garment of the database by its id, or a category to draw one from",
    )
    flags.DEFINE_integer("seed", 0, "of the draw of --garment=CATEGORY")
    flags.DEFINE_string("color", "", "color that a complement must have (column of --pairs)")
    flags.DEFINE_string("style", "", "style that a complement must have")
    flags.DEFINE_integer("top", 10, "recommendations of each photo", lower_bound=1)
    flags.DEFINE_bool("pca", False, "compare features through the database's whitened PCA")
    flags.DEFINE_string("checkpoint", None, "model that embedded the database, where it has moved")
    flags.DEFINE_string(
        "detector",
        None,
        "checkpoint that finds the photo's garments; default: the one that segmented the database; none: the "
        "model's own, or the whole photo as one garment",
    )
    flags.DEFINE_float(
        "score", None, "least score of a garment of the photo; default: as the database's, else 0.5", 0.0, 1.0
    )
    flags.DEFINE_string("groups", None, "JSON file {group: [category, …]} in place of the built-in groups")
    flags.DEFINE_list("quirks", [], "upstream's peculiarities (docs/faithful.md) beside the database's own")
    flags.DEFINE_string("queries", None, "another database, whose garments are the queries of an evaluation")
    flags.DEFINE_string("response", None, "folder for JSON answers in the form of upstream's service")
    flags.DEFINE_string("out", None, "folder of the page, or of the report of an evaluation")
    flags.mark_flag_as_required("database")
    flags.FLAGS.set_gnu_getopt(True)  # photos may stand before the flags


def check_flags(args, paths: Sequence[str]) -> None:
    """UserError for flags that do not go together."""
    if args.category and args.complement:
        raise UserError("give --category or --complement, not both")
    if (args.color or args.style) and not args.complement:
        raise UserError("--color and --style narrow a --complement")
    if args.garment and (paths or args.category or args.queries or args.response):
        raise UserError(
            "--garment asks in place of a photo; photos, --category, --queries and --response do not apply"
        )
    if args.queries and paths:
        raise UserError("--queries evaluates the database; give photos or --queries, not both")
    if not paths and not args.garment and not args.out:
        raise UserError(
            "no photo given: name photos or --garment; an evaluation of the database needs --out=DIR"
        )


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = photos.expand(argv[1:])
    check_flags(args, paths)
    found = features.read(args.database)
    embedding = features.whitened(found, found.embedding) if args.pca else found.embedding
    if not paths and not args.garment:
        return evaluation.run(found, embedding, args.queries, args.pca, cli.make_folder(args.out, "--out"))
    names = quirks.of_flag([*found.origin.get("quirks", ()), *args.quirks], "recommendation")
    groups = rules.read_groups(args.groups) if args.groups else rules.GROUPS
    asked = Asked(args.category, args.complement, args.color, args.style, args.top, groups, names, args.pca)
    if args.garment:
        row = answers.choose_garment(args.garment, args.seed, asked, found)
        given, failed = [answers.of_garment(row, asked, found, embedding)], []
        who = f"{found.garments[row].id} of the database"
        print(f"query: {who}", file=sys.stderr)
        print_lines(given[0].lines)
    else:
        parallel.use_compilation_cache()
        given, failed = ask_photos(paths, asked, found, embedding, args)
        who = f"{len(given)} photos"
    if args.out and given:
        what = f"complements: {args.complement}" if args.complement else "similar garments"
        words = [f"{who}, {what}, among {len(found.garments):,} garments of {found.folder}: "
                 "cosine similarity, highest first, one garment of each product."]  # fmt: skip
        show(given, found, cli.make_folder(args.out, "--out"), words, [str(error) for error in failed])
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
