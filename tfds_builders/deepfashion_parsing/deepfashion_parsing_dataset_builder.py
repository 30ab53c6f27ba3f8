"""DeepFashion In-shop parsing (segmentation) annotations from the files their users receive.

Three COCO instances json files over the high-resolution In-shop images, 15 classes. Facts: MMFashion,
configs/fashion_parsing_segmentation/mmfashion.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tfds_builders import coco
from tfds_builders.benchmark import BenchmarkConfig, Records, Vocabulary
from tfds_builders.instances import InstanceBuilder, instance_features
from tfds_builders.release import (
    Location,
    Release,
    check_readable,
    nested_archives,
    picture_location,
    require_text,
)

SPLITS = ("train", "query", "gallery")
CATEGORIES = (
    *("top", "skirt", "leggings", "dress", "outer", "pants", "bag", "neckwear"),
    *("headwear", "eyeglass", "belt", "footwear", "hair", "skin", "face"),
)
FOLDERS = ("", "img_highres/", "img/")  # what may be left out of file_name


class Builder(InstanceBuilder):
    """Shop images with a mask per garment and body part."""

    DESCRIPTION = "DeepFashion In-shop images with instance masks of 15 classes."
    BUILDER_CONFIGS: ClassVar = [BenchmarkConfig(name="original", description="The annotations as released.")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the In-shop Clothes Retrieval Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (non-commercial research only) and
put its files, unpacked or as zip archives, into manual_dir:
  annotations/DeepFashion_segmentation_train.json      instances of train
  annotations/DeepFashion_segmentation_query.json      instances of query
  annotations/DeepFashion_segmentation_gallery.json    instances of gallery
  Img/img_highres/…                                    the large images; their archive has a password that
                                                       comes with the agreement: unpack it
The json files may lie in Anno/segmentation/ too."""

    def vocabulary(self, release: Release) -> Vocabulary:
        return Vocabulary(category=list(CATEGORIES))

    def features(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return instance_features(CATEGORIES)

    def records(self, release: Release, vocabulary: Vocabulary) -> Records:
        parts = {}
        for split in SPLITS:
            name = f"DeepFashion_segmentation_{split}.json"
            parts[split] = coco.read_coco(
                require_text(release, name, ("annotations", "segmentation", "Anno"))
            )
        joined = coco.join(parts, CATEGORIES)
        self.objects, notes = joined.objects, joined.notes
        for part in parts.values():
            listed = [coco.plain(category.name) for category in part.categories]
            if listed != [name for name in CATEGORIES if name in listed]:
                notes += (f"{part.text.label}: classes are not in the benchmark's order; matched by name",)
        self.info.metadata["category_ids"] = list(range(1, len(CATEGORIES) + 1))
        return Records(joined.places, joined.image, joined.split, joined.columns, notes=notes)

    def locate(self, records: Records) -> dict[str, Location]:
        located = {}
        for row, name in enumerate(records.image):
            found = (picture_location(self.release, f"{folder}{name}") for folder in FOLDERS)
            place = next((place for place in found if place is not None), None)
            if place is None:
                message = f"image {name} is missing from {self.release.root} (Img/img_highres/…)"
                raise records.lines.error(row, message + nested_archives(self.release))
            check_readable(place)
            located[name] = place
        return located
