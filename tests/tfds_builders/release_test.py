"""Finding and reading a release's files: preferences, archives, links, text tables."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import trees

from fashionjax.data import builders
from fashionjax.errors import UserError
from tfds_builders import pictures, release
from tfds_builders.release import ReleaseError


def table_of(path: Path, data: bytes, **options) -> list[release.Row]:
    path.write_bytes(data)
    return list(release.read_table(release.TextFile(path.name, str(path)), **options).rows())


def test_table(tmp_path: Path) -> None:
    rows = table_of(tmp_path / "t.txt", b"\xef\xbb\xbf2 \r\na b\r\nimg/x.jpg \t 1  \r\nimg/y.jpg 2")
    assert rows == [(3, ["img/x.jpg", "1"]), (4, ["img/y.jpg", "2"])]
    assert table_of(tmp_path / "t.txt", b"1\nid_1\n\n", names=False) == [(2, ["id_1"])]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t.txt:1: the first line must be the number of rows"),
        (b"0\na b\n", "t.txt:1: the first line says 0 rows"),
        (b"-1\na b\n", "t.txt:1: the first line says -1 rows"),
        (b"1\n", "t.txt:2: the second line must hold the column names"),
        (b"1\nimg/x.jpg 1\n", "t.txt:2: the second line must hold the column names"),
        (b"2\na b\nimg/x.jpg 1\n", "t.txt:1: the first line says 2 rows, the file has 1"),
        (b"1\na b\n\nimg/x.jpg 1\n", "t.txt:3: empty line"),
        (b"1\na b\nimg/\xff.jpg 1\n", "t.txt:3: not UTF-8"),
    ],
)
def test_broken_table(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        table_of(tmp_path / "t.txt", data)
    assert str(caught.value).startswith(message)


def test_numbers_are_ascii_digits() -> None:
    text, row = release.TextFile("t.txt", "t.txt"), release.Row(7, [])
    assert release.integers(text, row, ["007", "-3", "+4"], "box") == [7, -3, 4]
    for wrong in ("1_0", "1.0", "", "1e3", "٣", "9" * 30):
        with pytest.raises(ReleaseError, match=r"^t.txt:7: box: .* is not a whole number$"):
            release.integers(text, row, ["1", wrong], "box")


def test_preferred_folder_plain_before_archive(tmp_path: Path) -> None:
    for folder in ("Anno", "Anno_fine", "deep/Anno"):
        trees.plain(tmp_path / folder / "list_bbox.txt", [(folder,)])
    with zipfile.ZipFile(tmp_path / "Anno_coarse.zip", "w") as archive:
        archive.writestr("list_bbox.txt", "x")
    found = release.open_release(tmp_path)

    def label(folders: tuple[str, ...], **where) -> str:
        return release.find_text(found, "list_bbox.txt", folders, **where).label

    assert label(("Anno",)) == "Anno/list_bbox.txt"
    assert label(("Anno_fine",)) == "Anno_fine/list_bbox.txt"
    assert label(("Anno_coarse", "Anno")) == "Anno_coarse.zip/list_bbox.txt"
    assert label(("nowhere",), never=("Anno", "Anno_fine")) == "Anno_coarse.zip/list_bbox.txt"
    assert release.find_text(found, "list_bbox.txt", ("nowhere",), only=True) is None
    with pytest.raises(ReleaseError, match=r"^Anno/a.txt or b.txt: not found below"):
        release.require_text(found, ("a.txt", "b.txt"), ("Anno",))


def test_links_that_lead_back(tmp_path: Path) -> None:
    trees.plain(tmp_path / "Anno/a.txt", [("x",)])
    (tmp_path / "Anno/again").symlink_to(tmp_path)
    assert [text.label for text in release.open_release(tmp_path).texts] == ["Anno/a.txt"]


def test_picture_names_cannot_leave_the_release(tmp_path: Path) -> None:
    outside = trees.picture(tmp_path / "outside.jpg", 0)
    inside = trees.picture(tmp_path / "release/Img/img/a.jpg", 0)
    found = release.open_release(tmp_path / "release")
    assert release.picture_location(found, "img/a.jpg").path == str(inside)
    for name in ("img/../../../outside.jpg", str(outside), "img\\a.jpg", "img", ""):
        assert release.picture_location(found, name) is None


def test_what_is_listed_is_the_callers_choice(tmp_path: Path) -> None:
    """Other tables and image folders, at any depth; one that holds no images is walked."""
    first = trees.picture(tmp_path / "deep/images/a.jpg", 0)
    trees.plain(tmp_path / "images/b.csv", [("x",)])
    trees.plain(tmp_path / "deep/images/c.csv", [("x",)])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("d.jpg", "images/e.jpg", "d.csv", "__MACOSX/images/f.jpg"):
            archive.writestr(name, "x")
    found = release.open_release(
        tmp_path, tables=(".csv",), folders=("images",), has_pictures=lambda path: "deep" in path
    )
    assert [text.label for text in found.texts] == ["images.zip/d.csv", "images/b.csv"]
    assert set(found.archived) == {"images/d.jpg", "images/e.jpg"}
    assert release.picture_location(found, "images/a.jpg").path == str(first)


def test_small_letters_of_folders(tmp_path: Path) -> None:
    """img/img/… for Img/img/…, anno_fine for Anno_fine, unpacked and in an archive."""
    tree = trees.split_lists(tmp_path / "release")
    (tree / "Img").rename(tree / "img")
    (tree / "Anno_fine").rename(tree / "anno_fine")

    def build() -> dict:
        options = {"data_dir": tmp_path / "out", "manual_dir": tree, "progress": False, "overwrite": True}
        return builders.prepare("deepfashion_attributes/fine", **options)["splits"]

    assert build() == {"train": 6, "val": 3, "test": 4}
    trees.pack(tree / "img", tree / "images.zip", prefix="img/")
    trees.pack(tree / "anno_fine", tree / "anno_fine.zip")
    with zipfile.ZipFile(tree / "images.zip") as archive:
        assert all(name.startswith("img/img/") for name in archive.namelist())
    assert build() == {"train": 6, "val": 3, "test": 4}


def test_large_pictures_within_the_folder_of_pictures(tmp_path: Path) -> None:
    """img/img_highres alone is not taken for the small images."""
    tree = trees.in_shop(tmp_path / "release")
    (tree / "Img/img").rename(tree / "Img/img_highres")
    (tree / "Img").rename(tree / "img")
    options = {"data_dir": tmp_path / "out", "manual_dir": tree, "progress": False}
    assert builders.prepare("deepfashion_inshop", **options)["splits"] == {
        "train": 12,
        "query": 2,
        "gallery": 4,
    }


def test_archives_within_archives_are_named(tmp_path: Path) -> None:
    tree = trees.landmarks(tmp_path / "release")
    options = {"data_dir": tmp_path / "out", "manual_dir": tree, "progress": False}
    trees.pack(tree / "Img/img", tree / "Img/img.zip", prefix="img/")
    trees.pack(tree / "Img", tree / "FLD.zip", prefix="Img/")
    with pytest.raises(UserError, match=r"no folder or zip archive of images below") as caught:
        builders.prepare("deepfashion_landmarks", **options)
    hint = "FLD.zip holds archives itself (img.zip), which are not read: unpack it"
    assert str(caught.value).endswith(hint) and "\n" not in str(caught.value)
    (tree / "Anno/list_bbox.txt").unlink()
    with pytest.raises(UserError, match=r"^Anno/list_bbox.txt: not found below .*; FLD.zip holds archives"):
        builders.prepare("deepfashion_landmarks", **options)


def test_archive_members_equal_plain_files(tmp_path: Path) -> None:
    """Stored and deflated, behind a prefix of other bytes, whole and for the header alone."""
    path = trees.picture(tmp_path / "a.jpg", 3, size=(300, 200))
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.write(path, "img/stored.jpg")
        archive.write(path, "img/deflated.jpg", compress_type=zipfile.ZIP_DEFLATED)
        archive.write(path, "img/lzma.jpg", compress_type=zipfile.ZIP_LZMA)
    (tmp_path / "img.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "plain.zip").read_bytes())
    (tmp_path / "plain.zip").unlink()
    found = release.open_release(tmp_path)
    for name in ("img/stored.jpg", "img/deflated.jpg"):
        location = release.picture_location(found, name)
        release.check_readable(location)
        assert release.read_picture(location) == path.read_bytes()
        assert pictures.probe(location) == (300, 200, None)
    with pytest.raises(ReleaseError, match=r"img.zip/img/lzma.jpg: uses zip method 14; unpack"):
        release.check_readable(release.picture_location(found, "img/lzma.jpg"))


def test_encrypted_archive(tmp_path: Path) -> None:
    tree = trees.landmarks(tmp_path / "release")
    trees.pack(tree / "Img/img", tree / "Img/img.zip", prefix="img/")
    data = bytearray((tree / "Img/img.zip").read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:  # the encryption bit of every member
        data[at + 8] |= 1
        at = data.find(b"PK\x01\x02", at + 1)
    (tree / "Img/img.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"img/00000001.jpg: is encrypted; unpack the archive"):
        builders.prepare(
            "deepfashion_landmarks",
            data_dir=tmp_path / "out",
            manual_dir=tree,
            progress=False,
            skip_damaged=True,
        )


def test_companion_files_are_passed_over(tmp_path: Path, capsys) -> None:
    """What desktops leave beside every file, and in archives: none of it is a table, archive or image."""
    tree = trees.in_shop(tmp_path / "release")
    junk = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(120)
    folders = [tree, tree / "Anno", tree / "Eval", tree / "Img", tree / "Img/img"]
    for folder in folders:
        for path in list(folder.iterdir()):
            path.with_name(f"._{path.name}").write_bytes(junk)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._Img.zip"):
            (folder / name).write_bytes(junk)
    (tree / "Img/img_highres").mkdir()
    (tree / "Img/img_highres/.DS_Store").write_bytes(junk)
    options = {"manual_dir": tree, "progress": False}
    result = builders.prepare("deepfashion_inshop", data_dir=tmp_path / "out", **options)
    assert result["splits"] == {"train": 12, "query": 2, "gallery": 4} and result["skipped"] == []
    extra = [("img/._x.jpg", junk), ("img/Thumbs.db", junk), ("._list_bbox_inshop.txt", junk)]
    trees.pack(tree / "Img/img", tree / "Img/img.zip", prefix="img/", extra=extra)
    again = builders.prepare("deepfashion_inshop", data_dir=tmp_path / "zipped", **options)
    assert again == result
    names = release.open_release(tree)
    assert all("/._" not in text.label for text in names.texts)
    assert all("/._" not in name for name in names.archived)
