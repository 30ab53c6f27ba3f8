"""DeepFashion2 (Ge et al., CVPR 2019, arXiv:1901.07973) from the files its users receive: a json per image.

13 categories with boxes, masks, 294 landmarks, styles and pairs of shop and user images.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tfds_builders.benchmark import BenchmarkConfig, Records, Vocabulary
from tfds_builders.item_json import Format
from tfds_builders.release import Release
from tfds_builders.split_folders import ItemBuilder

# category, points of its landmark group, left/right pairs in it (numbered from 1 as in the benchmark's
# figure; a point that is in no pair lies on the middle line)
_TABLE = """
short sleeve top | 25 | 2-6 3-5 7-25 8-24 9-23 10-22 11-21 12-20 13-19 14-18 15-17
long sleeve top | 33 | 2-6 3-5 7-33 8-32 9-31 10-30 11-29 12-28 13-27 14-26 15-25 16-24 17-23 18-22 19-21
short sleeve outwear | 31 | 2-26 3-5 4-6 7-25 8-24 9-23 10-22 11-21 12-20 13-19 14-18 15-17 16-29 27-30 28-31
long sleeve outwear | 39 | 2-6 3-5 4-34 7-33 8-32 9-31 10-30 11-29 12-28 13-27 14-26 15-25 16-24 17-23 18-22 19-21 20-37 35-38 36-39
vest | 15 | 2-6 3-5 7-15 8-14 9-13 10-12
sling | 15 | 2-6 3-5 7-15 8-14 9-13 10-12
shorts | 10 | 1-3 4-10 5-9 6-8
trousers | 14 | 1-3 4-14 5-13 6-12 7-11 8-10
skirt | 8 | 1-3 4-8 5-7
short sleeve dress | 29 | 2-6 3-5 7-29 8-28 9-27 10-26 11-25 12-24 13-23 14-22 15-21 16-20 17-19
long sleeve dress | 37 | 2-6 3-5 7-37 8-36 9-35 10-34 11-33 12-32 13-31 14-30 15-29 16-28 17-27 18-26 19-25 20-24 21-23
vest dress | 19 | 2-6 3-5 7-19 8-18 9-17 10-16 11-15 12-14
sling dress | 19 | 2-6 3-5 7-19 8-18 9-17 10-16 11-15 12-14
"""  # noqa: E501
_ROWS = [[cell.strip() for cell in row.split("|")] for row in _TABLE.strip().splitlines()]
CATEGORIES = tuple(name for name, _, _ in _ROWS)
LANDMARKS = tuple(int(count) for _, count, _ in _ROWS)


def flip_pairs() -> list[list[int]]:
    """Pairs of the 294 landmark slots, from 0, that a horizontal flip swaps."""
    first = np.cumsum((0, *LANDMARKS))
    pairs = [pair.split("-") for _, _, row in _ROWS for pair in row.split()]
    starts = [int(start) for (_, _, row), start in zip(_ROWS, first) for _ in row.split()]
    return [[start + int(a) - 1, start + int(b) - 1] for start, (a, b) in zip(starts, pairs, strict=True)]


class Builder(ItemBuilder):
    """Garments in images of shops and users."""

    DESCRIPTION = "DeepFashion2: boxes, masks, landmarks, styles and pairs of 13 categories of garments."
    HOMEPAGE = "https://github.com/switchablenorms/DeepFashion2"
    BUILDER_CONFIGS: ClassVar = [BenchmarkConfig(name="original", description="The annotations as released.")]
    SPLITS: ClassVar = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
    OPTIONAL = ("test",)
    FORMAT = Format(CATEGORIES, 1, LANDMARKS)
    PUBLISHED: ClassVar = {"original": {"train": 390_884, "val": 33_669, "test": 67_342}}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for DeepFashion2 at https://github.com/switchablenorms/DeepFashion2 (non-commercial research only). Its
archives have a password that comes with the agreement: unpack them, and put the folders into manual_dir:
  train/image/…         images of train
  train/annos/…         their annotations, a json per image
  validation/image/…    images of val; the folder may be called val
  validation/annos/…    their annotations
  test/image/…          optional: images of test
  test/annos/…          optional: their annotations"""

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        self.info.metadata["landmark_counts"] = list(LANDMARKS)
        self.info.metadata["landmark_flip"] = flip_pairs()
        return super().records(release, vocabulary)
