"""A database of segmented images → the feature database that `recommend` searches.

    fashionjax segment photos/ --checkpoint=runs/kf --database=garments
    fashionjax embed --database=garments --checkpoint=runs/rec --pairs=pairs.csv --pca=256
    fashionjax recommend look.jpg --database=garments --category=skirt --top=10

The checkpoint is one of the task retrieval, which embeds the cut-outs (experiments/cgd.py), or of the task
recommendation, which embeds the boxes' features in the photos (experiments/recommendation.py). --pairs says
which product a photo shows: a CSV file with the columns image, pair_id and optionally color, style, or the
`annos` folder of a release; without it every photo shows a product of its own.

Embeddings are written to DATABASE/features in parts of --part photos. A killed run is started again with the
same command and goes on; photos that are segmented later are embedded by running it once more.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from absl import flags

from fashionjax import cli, quirks, segment
from fashionjax.errors import UserError
from fashionjax.recommend import database, garments
from fashionjax.runtime import parallel, progress

SEED = 7  # of the randomised PCA of quirk K5, upstream's seed of everything else


def origin_of(
    embedder: garments.Embedder, checkpoint: str, detector: str | None, pairs: dict, names: tuple[str, ...]
) -> dict:
    """What features.json says beside the model's fingerprint."""
    digest = hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).hexdigest()[:16] if pairs else ""
    config = embedder.model.config
    return {
        "checkpoint": str(Path(checkpoint).resolve()),
        "detector": str(Path(detector).resolve()) if detector else "",
        "pairs": digest,
        "quirks": list(names),
        "synthetic": bool(config.get("trained_on_synthetic", False)),
    }


def run(folder: Path, embedder: garments.Embedder, origin: dict, pairs: dict, part: int) -> list[UserError]:
    """Embeds what is left, with a line of progress after each part; → what is wrong with photos."""
    total, before = len(segment.read_index(folder)), len(database.embedded_images(folder))
    if before:
        print(f"{before} of {total} photos are embedded already", file=sys.stderr)
    started, count, damaged = time.monotonic(), before, []
    for seen, errors in database.build(folder, embedder, origin, pairs, part):
        count += seen
        damaged += errors
        rate = (count - before) / max(time.monotonic() - started, 1e-9)
        line = f"embedded {count}/{total}  {rate:.1f} img/s  left {progress.clock((total - count) / rate)}"
        progress.show(line, last=count == total, every=False)
    return damaged


def add_flags() -> None:
    flags.DEFINE_string("database", None, "folder that `fashionjax segment --database` wrote")
    flags.DEFINE_string("checkpoint", None, "the --workdir of a run of the task retrieval or recommendation")
    flags.DEFINE_string("pairs", None, "CSV file (image, pair_id, color, style) or folder of annotations")
    flags.DEFINE_string(
        "detector",
        None,
        "where the checkpoint that segmented the photos is now; recommend finds garments by it",
    )
    flags.DEFINE_integer("pca", 0, "fit PCA with whitening of so many components; 0: none", lower_bound=0)
    flags.DEFINE_integer("batch_size", 8, "photos that go through the model together", lower_bound=1)
    flags.DEFINE_integer(
        "part", database.PART, "photos in a part, which a killed run may lose", lower_bound=1
    )
    flags.DEFINE_list("quirks", None, "upstream's peculiarities (docs/faithful.md); default: the model's own")
    flags.mark_flags_as_required(["database", "checkpoint"])


def main(argv: list[str]) -> int:
    cli.no_arguments(argv)
    args = flags.FLAGS
    folder = Path(args.database)
    if not (folder / segment.INDEX).is_file():
        raise UserError(
            f"{folder}: is no database of segmented images; run `fashionjax segment … --database={folder}`"
        )
    parallel.use_compilation_cache()
    pairs = database.read_pairs(args.pairs) if args.pairs else {}
    if args.detector:
        garments.open_detector(folder, args.detector)
    embedder = garments.load(args.checkpoint, args.batch_size)
    own = [name for name in embedder.model.config.get("quirks", ()) if name in quirks.RECOMMENDATION]
    names = quirks.of_flag(own if args.quirks is None else args.quirks, "recommendation")
    origin = origin_of(embedder, args.checkpoint, args.detector, pairs, names)
    damaged = run(folder, embedder, origin, pairs, args.part)
    found = database.read(folder)
    if args.pca:
        seed = SEED if "k5_randomised_pca" in names else None
        database.fit_pca(folder, args.pca, randomised=seed)
    whitening = f", PCA to {args.pca} values" if args.pca else ""
    print(
        f"features: {folder / database.FOLDER} ({len(found.garments):,} garments of "
        f"{len({garment.name for garment in found.garments}):,} photos, {found.embedding.shape[1]} values"
        f"{whitening})",
        file=sys.stderr,
    )
    for error in damaged:
        print(f"error: {error}", file=sys.stderr)
    return 1 if damaged else 0


if __name__ == "__main__":
    cli.run(main, add_flags)
