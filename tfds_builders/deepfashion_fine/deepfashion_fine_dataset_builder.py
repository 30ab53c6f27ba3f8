"""DeepFashion Category and Attribute Prediction Benchmark for attribute-specific retrieval, in the splits of
ASEN (Ma et al., AAAI 2020).

The five attribute types are the attributes, the 1000 coarse attributes their values. An image has several
values of a type; each image of val and test is evaluated for one of them. The archive's `label_valid.txt` and
`label_test.txt`, which no code reads, hold the others.
"""

from __future__ import annotations

import functools
from typing import ClassVar

from tfds_builders import labels
from tfds_builders.fine_benchmark import FineGrainedBuilder
from tfds_builders.fine_split import Names, numbered
from tfds_builders.release import Release, find_text

COUNTS = {
    "texture-related": 156,
    "fabric-related": 218,
    "shape-related": 180,
    "part-related": 216,
    "style-related": 230,
}


class Builder(FineGrainedBuilder):
    """DeepFashion's images, each labelled with values of five attribute types."""

    DESCRIPTION = "DeepFashion attributes by type: five attributes of 1000 values, splits of ASEN."
    PUBLISHED: ClassVar = {"published": {"val": 27_625, "test": 27_625}}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Ask for the Category and Attribute Prediction Benchmark at
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/AttributePrediction.html (non-commercial research only),
take the split files from ASEN++'s data.zip (https://github.com/Maryeon/asenpp) and put these, unpacked or
as zip archives, into manual_dir:
  Img/img/…                              the images (or Img/img.zip)
  Anno_coarse/list_attr_cloth.txt        optional: names and types of the 1000 attributes (or Anno/)
  DeepFashion/filenames_train.txt filenames_valid.txt filenames_test.txt   lists of images
  DeepFashion/label_train.txt            image, then attribute and value, once or more
  DeepFashion/query_valid.txt query_test.txt candidate_valid.txt candidate_test.txt   the same, evaluated
  DeepFashion/label_valid.txt label_test.txt   optional: all labels of the evaluated images
  DeepFashion/meta.json                  optional: names"""
    dataset: ClassVar[str] = "DeepFashion"
    known = Names(list(COUNTS), [numbered(count) for count in COUNTS.values()])

    @functools.cached_property
    def types(self) -> tuple[list[str], list[int]] | None:
        """Names and 0-based types of the release's attributes, where they are there."""
        never = ("Anno_fine", *self.others)
        text = find_text(self.release, "list_attr_cloth.txt", ("Anno_coarse", "Anno"), never=never)
        if text is None:
            return None
        names, kinds = labels.read_names(text, typed=True, unique=False)
        expected = [len(of) for of in super().attribute_names(self.release).value]
        for row, kind in enumerate(kinds):
            if not 1 <= kind <= len(expected):
                raise text.error(row + 3, f"type {kind} is not in 1…{len(expected)}")
        for kind, count in enumerate(expected, 1):
            if kinds.count(kind) != count:
                raise text.error(
                    None, f"{kinds.count(kind)} attributes of type {kind}; the splits have {count} values"
                )
        return names, [kind - 1 for kind in kinds]

    def attribute_names(self, release: Release) -> Names:
        """Values are the attributes of a type in the order of their rows."""
        found, numbers = super().attribute_names(release), self.numbers(release)
        if numbers is None:
            return found
        names = self.types[0]
        return Names(found.attribute, [[names[row] for row in of] for of in numbers])

    def numbers(self, release: Release) -> list[list[int]] | None:
        if self.types is None:
            return None
        kinds = self.types[1]
        return [[row for row, kind in enumerate(kinds) if kind == a] for a in range(max(kinds) + 1)]
