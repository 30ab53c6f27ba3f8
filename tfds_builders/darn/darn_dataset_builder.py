"""DARN (Huang et al., ICCV 2015) in the splits of ASEN (Ma et al., AAAI 2020).

The dataset is a list of URLs, of which more are dead every year: images that are listed but absent are left
out, counted, and reported beside upstream's number. An image may have several of the nine attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tfds_builders.benchmark import Records
from tfds_builders.fine_benchmark import FineGrainedBuilder, evaluated
from tfds_builders.fine_split import Names, numbered
from tfds_builders.release import Release, decode, find_text, open_release, read_lines

UPSTREAM = 214_619  # images that the authors of ASEN could still fetch
URLS = ("darn_url.txt", "urls.txt", "url.txt")
COUNTS = {
    "clothes category": 20,
    "clothes button": 13,
    "clothes color": 55,
    "clothes length": 7,
    "clothes pattern": 28,
    "clothes shape": 11,
    "collar shape": 26,
    "sleeve length": 8,
    "sleeve shape": 17,
}


class Builder(FineGrainedBuilder):
    """Shop and customer photos, labelled for up to nine attributes."""

    HOMEPAGE = "https://github.com/Maryeon/asen"
    DESCRIPTION = "DARN: nine attributes of 185 values, splits of ASEN, images from a list of URLs."
    PUBLISHED: ClassVar = {"published": {"train": 171_697, "val": 21_461, "test": 21_461}}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Fetch the images of the URL list that https://github.com/Maryeon/asenpp links (dead links are left out),
take the split files from the same page's data.zip and put these, unpacked or as zip archives,
into manual_dir:
  pic/…                      the images: pic/<id>/<name>.jpg for the line "<id>/<name> <url>"
  DARN/filenames_train.txt filenames_valid.txt filenames_test.txt   lists of images
  DARN/label_train.txt       image, then attribute and value, once or more
  DARN/query_valid.txt query_test.txt candidate_valid.txt candidate_test.txt   image, attribute, value
  DARN/meta.json             optional: names
  DARN/darn_url.txt          optional: the list, to tell which missing images have a link"""
    dataset: ClassVar[str] = "DARN"
    known = Names(list(COUNTS), [numbered(count) for count in COUNTS.values()])

    def open(self) -> Release:
        return open_release(self.builder_config.manual_dir, folders=("pic",))

    def listed_name(self, name: str) -> Sequence[str]:
        """As listed, or as pic/<id>_<name>.jpg of flat downloads."""
        folder, _, rest = name.partition("/")
        return (name, f"{folder}/{rest.replace('/', '_')}")

    def checked(self, release: Release, records: Records) -> Records:
        """The records whose images are there, with a note that counts the others."""
        links = read_urls(release)
        before = evaluated(records)
        kept, lost = self.present(records)
        after = evaluated(kept)
        total = sum(map(len, kept.split.values()))
        missing = sum(lost.values())
        self.info.metadata["missing_images"] = lost
        note = f"{total:,} of {len(records.image):,} listed images are there (upstream had {UPSTREAM:,})"
        if missing:
            parts = [f"{split} {count:,}" for split, count in lost.items() if count]
            note += f"; missing: {', '.join(parts)}"
            for split, counts in before.items():
                gone = [a - b for a, b in zip(counts, after[split], strict=True)]
                if any(gone):
                    note += f"; {split} lacks {gone[0]:,} queries and {gone[1]:,} candidates"
            note += "; figures on fewer images are not those of the published splits"
        if links is not None:
            have = set(kept.image)
            linked = sum(name in links for name in dict.fromkeys(records.image) if name not in have)
            note += f"; {len(links):,} links, one for {linked:,} of the missing images"
        return kept._replace(notes=(*kept.notes, note))

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | {"missing_images": {}}


def read_urls(release: Release) -> set[str] | None:
    """`<id>/<name> <url>` a line → the images as lists name them, pic/<id>/<name>.jpg; None without it."""
    text = find_text(release, URLS, ("DARN",), never=("FashionAI", "DeepFashion"))
    if text is None:
        return None
    found = set()
    for number, raw in read_lines(text):
        fields = decode(text, number, raw).split()
        if len(fields) != 2 or "/" not in fields[0] or "://" not in fields[1]:
            raise text.error(number, "expected an image (<id>/<name>) and its URL")
        found.add(f"pic/{fields[0].removeprefix('pic/').removesuffix('.jpg')}.jpg")
    return found
