"""Images → the images of a gallery that show the same garment, nearest first.

    fashionjax search look.jpg --checkpoint=runs/inshop --gallery=shop/ --save_gallery=shop.gallery
    fashionjax search photos/ --checkpoint=runs/inshop --gallery=shop.gallery --topk=10
    fashionjax search look.jpg --checkpoint=runs/stage2 --gallery=shop/ --attribute="sleeve length"

One JSON object a line for each image on standard output, and a page of images beside their matches
(docs/retrieval.md). Compared by cosine, exactly, as in an evaluation. A model that compares images by one
attribute at a time needs --attribute; the page then shows where it looked (docs/fine_grained.md).
"""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from fashionjax import cli
from fashionjax.data import photo
from fashionjax.errors import UserError
from fashionjax.gallery import collection, embed
from fashionjax.gallery import index as gallery
from fashionjax.gallery.collection import Collection, SearchResult
from fashionjax.gallery.embed import Candidate
from fashionjax.inference import photos
from fashionjax.inference.photos import Predictor
from fashionjax.runtime import parallel
from fashionjax.search import page as search_page

LOOKED = ("attention", "crop_box")  # outputs of models that say where they looked
SHOWN = (search_page.SIDE, search_page.SIDE)  # longer side of an image that is kept, least and largest


class Query(NamedTuple):
    """An image with its embedding f32 [d], or what is wrong with it; if it is on the page, its pixels uint8
    [h w 3] and where the model looked, `attention` and `crop_box` of its outputs, if it says so."""

    path: str
    embedding: np.ndarray | UserError
    shown: np.ndarray | None = None
    looked: Mapping[str, np.ndarray] | None = None


def embed_queries(paths: Sequence[str], predictor: Predictor) -> list[Query]:
    """The images, in order; pixels are kept of the first `search_page.QUERIES` that can be read."""
    found, kept, started = [], 0, time.monotonic()
    for number, (path, (item, output)) in enumerate(
        zip(paths, photos.outputs(paths, predictor, SHOWN), strict=True), 1
    ):
        embedding = item if output is None else photos.embedding_of(item, output)
        if isinstance(embedding, UserError):
            found.append(Query(path, embedding))
        else:
            looked = {name: output[name] for name in LOOKED} if set(LOOKED) <= set(output) else None
            seen = (item.shown, looked) if kept < search_page.QUERIES else (None, None)
            found.append(Query(path, embedding, *seen))
            kept += 1
        embed.show_progress(number, len(paths), predictor.batch_size, started, "read")
    return found


def search(queries: Sequence[Query], found: Collection, topk: int) -> tuple[list[SearchResult], np.ndarray]:
    """A result for each image, in order, and the gallery's rows of the matches, i32 [readable images, k]."""
    names, embeddings = [query.path for query in queries], [query.embedding for query in queries]
    return collection.answers(found.rows, names, embeddings, topk)


def page(
    queries: Sequence[Query],
    results: Sequence[SearchResult],
    row: np.ndarray,
    found: Collection,
    name: str,
    command: str,
) -> str:
    """The first images beside their matches, as HTML; `name` is what the user calls the gallery."""
    full = embed.pictures(found.source, found.rows.id, found.record)

    @functools.lru_cache(maxsize=1024)
    def picture(place: int) -> np.ndarray | None:
        whole = full(place)
        return None if whole is None else photo.display(whole, search_page.SIDE)

    readable = [pair for pair in zip(queries, results, strict=True) if pair[1].error is None]
    shown = []
    for (query, result), places in zip(readable, row.tolist(), strict=True):
        if query.shown is not None:
            best = zip(result.matches[: search_page.MATCHES], places, strict=False)
            matches = [Candidate(match.rank, match.id, match.score, picture(place)) for match, place in best]
            shown.append(search_page.Query(query.path, query.shown, matches, query.looked))
    of = f" of {found.attributes[0]}" if found.attributes else ""
    words = [
        f"{_count(len(readable), 'query image')} against {_count(len(found.rows.id), 'image')} of {name}: "
        f"cosine similarity{of}, highest first."
    ]
    if len(shown) < len(readable):
        words.append(f"The first {len(shown)} queries are shown; all are on standard output.")
    notes = [result.error for result in results if result.error is not None]
    return search_page.render(shown, words, _some(notes), command)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _some(lines: Sequence[str], most: int = 20) -> list[str]:
    rest = len(lines) - most
    return [*lines[:most], *([f"{rest} more images cannot be read."] if rest > 0 else [])]


def _write_gallery(found: Collection, file: str | None, faiss_file: str | None, attribute: str) -> None:
    """Saves all that was embedded; FAISS gets the rows of one attribute."""
    if file:
        collection.save(found, file)
        count = len(found.rows.id) // max(len(found.attributes), 1)
        of = f", {', '.join(found.attributes)}" if found.attributes else ""
        print(f"gallery: {file} ({_count(count, 'image')}{of})", file=sys.stderr)
    if faiss_file:
        try:
            gallery.export_faiss(found.for_attribute(attribute).rows, faiss_file)
        except (OSError, RuntimeError) as error:  # the latter is FAISS's own
            raise UserError(f"{faiss_file}: cannot be written ({error}); give another file") from error
        print(f"FAISS index: {faiss_file}, ids: {faiss_file}.ids.json", file=sys.stderr)


def check_arguments(argv: Sequence[str], given: Iterable[str]) -> list[str]:
    """The words after `search` and the names of the flags beside them → the images.

    None are needed where the gallery is only to be written.
    """
    paths, given = photos.expand(argv), set(given)
    if "gallery" not in given:
        raise UserError("search needs --gallery: a folder, a saved gallery or dataset:NAME/CONFIG:SPLIT")
    if not paths and not given & {"save_gallery", "export_faiss"}:
        raise UserError("no image given; name files, folders or patterns: search IMG… --gallery=…")
    if "export_faiss" in given:
        gallery.need_faiss()  # reported now, not after an hour of embedding
    return paths


def add_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "the --workdir of a training run of a retrieval experiment")
    flags.DEFINE_string("gallery", None, "folder of images, saved gallery, or dataset:NAME/CONFIG:SPLIT")
    flags.DEFINE_string(
        "attribute",
        "",
        'what to compare by ("sleeve length"), where the model compares one attribute at a time',
    )
    flags.DEFINE_enum(
        "gallery_attributes",
        "query",
        ("query", "all"),
        "attributes that a gallery is embedded for: that of --attribute, or all (to save and ask later)",
    )
    flags.DEFINE_integer("topk", 5, "matches of each image", lower_bound=1)
    flags.DEFINE_string("landmarks", None, "checkpoint that detects landmarks, where the model takes them")
    flags.DEFINE_string("save_gallery", None, "file to keep the embedded gallery in")
    flags.DEFINE_string("export_faiss", None, "file for the gallery as a FAISS index")
    flags.DEFINE_string("out", None, "folder for the page (default: CHECKPOINT/search)")
    flags.DEFINE_string("data_dir", "", "of --gallery=dataset:…, where it is not the config's")
    flags.DEFINE_integer("batch_size", 16, "images that go through the model together", lower_bound=1)
    flags.mark_flag_as_required("checkpoint")
    flags.FLAGS.set_gnu_getopt(True)  # images may stand before the flags


def main(argv: list[str]) -> int:
    args = flags.FLAGS
    paths = check_arguments(argv[1:], [name for name in args if args[name].present])
    parallel.use_compilation_cache()
    model = photos.load(args.checkpoint, "search")
    detector = photos.load_detector(args.landmarks, model)
    every = args.gallery_attributes == "all"
    if every and not photos.attribute_record(model.config, every=True):
        raise UserError("--gallery_attributes=all: this checkpoint's model takes no attribute")
    # a gallery for all attributes that is only written needs none
    given = {} if every and not paths else photos.attribute_record(model.config, args.attribute)
    predictor = photos.predictor(model, args.batch_size, detector, given)
    out = photos.out_folder(args.out, args.checkpoint, "search") if paths else None
    queries = embed_queries(paths, predictor)
    found, unread = collection.open_collection(
        args.gallery,
        model,
        predictor,
        detector,
        args.data_dir,
        attribute=args.attribute,
        every_attribute=every,
    )
    _write_gallery(found, args.save_gallery, args.export_faiss, args.attribute)
    if out is None:
        return 1 if unread else 0
    found = found.for_attribute(args.attribute, args.gallery)
    results, row = search(queries, found, args.topk)
    for result in results:
        print(result.to_json(), flush=True)
    failed = sum(result.error is not None for result in results)
    if failed < len(results):
        command = shlex.join(["fashionjax", "search", *sys.argv[1:]])
        text = page(queries, results, row, found, args.gallery, command)
        # a file name that is no UTF-8 is shown with its bytes escaped
        written = photos.write_new(text.encode(errors="backslashreplace"), out, "search", "html")
        print(f"page: {written}", file=sys.stderr)
    return 1 if failed or unread else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
