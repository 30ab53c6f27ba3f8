"""K-Fashion in the form that fashion-recommendation trains on: DeepFashion2's json per image, 21 categories.

Category ids count from 0. Source: fashion-recommendation, src/utils.py.
"""

from __future__ import annotations

from typing import ClassVar

from tfds_builders.benchmark import BenchmarkConfig
from tfds_builders.item_json import Format
from tfds_builders.split_folders import ItemBuilder

CATEGORIES = (
    *("cardigan", "knitwear", "dress", "leggings", "vest", "bratop", "blouse", "shirts", "skirt", "jacket"),
    *("jumper", "jumpsuit", "jogger pants", "zipup", "jean", "coat", "top", "t-shirts", "padded jacket"),
    *("pants", "hoody"),
)


class Builder(ItemBuilder):
    """Garments in images of Korean fashion shops."""

    DESCRIPTION = "K-Fashion: boxes and masks of 21 categories of garments, pairs, colours and styles."
    HOMEPAGE = "https://aihub.or.kr"
    BUILDER_CONFIGS: ClassVar = [BenchmarkConfig(name="original", description="The annotations as they are.")]
    SPLITS: ClassVar = {
        "train": ("train",),
        "val": ("val", "validation"),
        "test": ("test",),
        "test_sample": ("test_sample",),
    }
    OPTIONAL = ("test_sample",)
    FORMAT = Format(CATEGORIES, 0, levels_given=False, named=True)
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
K-Fashion is given out by AI Hub (https://aihub.or.kr) to people in Korea. Convert its annotations to a json
per image in DeepFashion2's format with category ids 0–20, and put the folders, unpacked or as zip archives,
into manual_dir:
  train/image/…        images of train
  train/annos/…        their annotations, a json per image
  val/image/…          images of val
  val/annos/…          their annotations
  test/image/…         images of test
  test/annos/…         their annotations
  test_sample/image/…  optional: a part of test
  test_sample/annos/…  optional: their annotations"""
