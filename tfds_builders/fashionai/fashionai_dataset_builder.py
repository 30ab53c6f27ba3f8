"""FashionAI Global Challenge 2018, attribute recognition, in the splits of ASEN (Ma et al., AAAI 2020).

Every image has one attribute. The lists refer to the two training archives of the challenge; label tables
(`label.csv`, and `question.csv` of the rank part) are compared with the lists where they are there.
"""

from __future__ import annotations

import re
from typing import ClassVar

from tfds_builders.benchmark import Records
from tfds_builders.fine_benchmark import FineGrainedBuilder
from tfds_builders.fine_split import Names
from tfds_builders.release import Release, Row, TextFile, decode, open_release, read_lines

KEY = "_labels"  # the release's name of an attribute ends in it
TABLES = re.compile(r"(label|question|\w+_labels|\w*answer\w*)\.csv", re.IGNORECASE)  # names of label tables
LETTERS = re.compile(r"[ymn]+")
VALUES = """
skirt_length: Invisible, Short Length, Knee Length, Midi Length, Ankle Length, Floor Length
sleeve_length: Invisible, Sleeveless, Cup Sleeves, Short Sleeves, Elbow Sleeves, 3/4 Sleeves, Wrist Length, Long Sleeves, Extra Long Sleeves
coat_length: Invisible, High Waist Length, Regular Length, Long Length, Micro Length, Knee Length, Midi Length, Ankle&Floor Length
pant_length: Invisible, Short Pant, Mid Length, 3/4 Length, Cropped Pant, Full Length
collar_design: Invisible, Shirt Collar, Peter Pan, Puritan Collar, Rib Collar
lapel_design: Invisible, Notched, Collarless, Shawl Collar, Plus Size Shawl
neckline_design: Invisible, Strapless Neck, Deep V Neckline, Straight Neck, V Neck, Square Neckline, Off Shoulder, Round Neckline, Sweat Heart Neck, OneShoulder Neckline
neck_design: Invisible, Turtle Neck, Ruffle Semi-High Collar, Low Turtle Neck, Draped Collar
"""  # noqa: E501


def _table() -> Names:
    rows = [row.partition(": ") for row in VALUES.strip().splitlines()]
    return Names([name for name, _, _ in rows], [values.split(", ") for _, _, values in rows])


class Builder(FineGrainedBuilder):
    """Photos of one garment, each labelled for one of eight attributes."""

    HOMEPAGE = "https://tianchi.aliyun.com/competition/entrance/231671"
    DESCRIPTION = "FashionAI Global Challenge 2018: eight attributes of 54 values, splits of ASEN."
    PUBLISHED: ClassVar = {"published": {"train": 144_335, "val": 18_000, "test": 18_000}}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
Sign up for the FashionAI Global Challenge 2018 at
https://tianchi.aliyun.com/competition/entrance/231671, take the split files from ASEN++'s data.zip
(https://github.com/Maryeon/asenpp) and put these, unpacked or as zip archives, into manual_dir:
  fashionAI_attributes_train1/Images/…   the images, in folders such as skirt_length_labels
  fashionAI_attributes_train2/Images/…   more of them
  FashionAI/filenames_train.txt filenames_valid.txt filenames_test.txt   lists of images
  FashionAI/label_train.txt              image, attribute, value
  FashionAI/query_valid.txt query_test.txt candidate_valid.txt candidate_test.txt   the same, evaluated
  FashionAI/meta.json                    optional: names
  fashionAI_attributes_train1/Annotations/label.csv   optional, as that of train2: compared with the lists"""
    dataset: ClassVar[str] = "FashionAI"
    known = _table()

    def open(self) -> Release:
        return open_release(
            self.builder_config.manual_dir, tables=(".txt", ".json", ".csv"), folders=("Images",)
        )

    def listed_name(self, name: str) -> tuple[str, ...]:
        """`fashionAI_attributes_train1/Images/…/x.jpg` is found as `Images/…/x.jpg` in whichever part."""
        return (name[name.find("Images/") :],) if "Images/" in name else (name,)

    def checked(self, release: Release, records: Records) -> Records:
        """Lists and label tables say the same; maybes ('m') are counted."""
        found, maybe, unlabelled = read_tables(release, self.pair_names)
        if not found:
            return records
        covered = set()
        for row, name in enumerate(records.image):
            key = self.listed_name(name)[0]
            if key not in found:
                continue
            covered.add(key)
            for pair in zip(
                records.columns["attribute"][row].tolist(), records.columns["value"][row].tolist()
            ):
                if pair != found[key][:2]:
                    label = tuple(self._labelled(*of) for of in (pair, found[key][:2]))
                    text, line = found[key][2:]
                    raise text.error(line, f"image {key} is {label[1]}; {label[0]} in the published lists")
        note = f"label tables: {len(covered)} listed images are labelled alike, {maybe} rows have a maybe"
        note += (
            f", {len(found) - len(covered)} labelled images are in no list, {unlabelled} rows have no letters"
        )
        return records._replace(notes=(*records.notes, note))

    def _labelled(self, attribute: int, value: int) -> str:
        names = self.pair_names
        return f"{names.attribute[attribute]} {value} ({names.value[attribute][value]})"


def read_tables(release: Release, names: Names) -> tuple[dict[str, tuple[int, int, TextFile, int]], int, int]:
    """The label tables of image, attribute, letters → ({image: (attribute, value, file, line)}, rows with a
    maybe, rows without letters, as in the rank part's questions).

    The letters are one per value: y the value, m maybe, n not; exactly one y.
    """
    found: dict[str, tuple[int, int, TextFile, int]] = {}
    maybe = unlabelled = 0
    for text in release.texts:
        if not TABLES.fullmatch(text.label.rpartition("/")[2]):
            continue
        for number, raw in read_lines(text):
            row = Row(number, [field.strip() for field in decode(text, number, raw).split(",")])
            if len(row.fields) not in (2, 3):
                raise text.error(number, f"{len(row.fields)} fields instead of 3 (image, attribute, letters)")
            name, key = row.fields[:2]
            attribute = key.removesuffix(KEY)
            if attribute not in names.attribute or not key.endswith(KEY):
                raise text.error(number, f"attribute {key!r} is unknown")
            if len(row.fields) == 2 or not row.fields[2]:
                unlabelled += 1
                continue
            letters, index = row.fields[2], names.attribute.index(attribute)
            count = len(names.value[index])
            if not LETTERS.fullmatch(letters) or letters.count("y") != 1:
                raise text.error(number, f"{letters[:40]!r} is not of the letters y, m, n with one y")
            if len(letters) != count:
                raise text.error(number, f"{len(letters)} letters instead of {count} for {attribute}")
            name = name[max(name.find("Images/"), 0) :]
            if name in found and found[name][:2] != (index, letters.index("y")):
                other, line = found[name][2:]
                raise text.error(number, f"image {name} has another label in {other.label}:{line}")
            found[name] = (index, letters.index("y"), text, number)
            maybe += "m" in letters
    return found, maybe, unlabelled
