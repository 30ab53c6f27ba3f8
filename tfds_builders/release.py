"""A benchmark's files as its users have them: unpacked folders or zip parts, text tables, images.

Nothing here writes to disk: zip members are read in place, so an archive can never put a file anywhere.
Every complaint is a `ReleaseError` of one line that names the file and, for tables, the 1-based line.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

PICTURE_FOLDERS = ("img", "img_highres")  # never walked: hundreds of thousands of files
TABLE_SUFFIXES = (".txt", ".json")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
COMPANIONS = ("thumbs.db", "desktop.ini")  # left in folders by desktops, beside names with a leading dot
SYNTHETIC = "SYNTHETIC.txt"  # marks what `synthetic_fashion.release` writes in a benchmark's layout
STORED, DEFLATED = 0, 8  # the zip methods that are read without the zipfile module
ENCRYPTED = 0x1
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


class ReleaseError(ValueError):
    """The release contradicts itself or is incomplete; the message is one line: `file:line: what is
    wrong`.
    """


class Location(NamedTuple):
    """Where an image's bytes lie: a plain file, or a zip member by its offset (so that processes share no
    state).
    """

    label: str  # as messages name it: the path below manual_dir
    path: str
    offset: int = -1  # of the member's local header; -1: a plain file
    packed: int = 0
    method: int = STORED
    crc: int = 0
    size: int = 0  # unpacked; 0 for a plain file, whose size is not looked up


class TextFile(NamedTuple):
    """A text file of the release, plain or inside an archive."""

    label: str
    path: str
    member: str | None = None

    def error(self, line: int | None, message: str) -> ReleaseError:
        """`Anno/list_bbox.txt:17: …`, or without the line when the whole file is at fault."""
        return ReleaseError(f"{self.label}:{line}: {message}" if line else f"{self.label}: {message}")


class Row(NamedTuple):
    """One line of a table: its 1-based number in the file and its blank-separated fields."""

    line: int
    fields: list[str]


class Release(NamedTuple):
    """What was found below manual_dir."""

    root: str
    texts: tuple[TextFile, ...]
    archived: dict[str, Location]  # image name as lists spell it ('img/…') → zip member
    picture_bases: tuple[str, ...]  # folders that lists' image names are joined to
    nested: tuple[str, ...] = ()  # archives within archives, which are not read


# ------------------------------------------------------------------------------ finding files
def open_release(
    manual_dir: str | os.PathLike[str],
    *,
    tables: tuple[str, ...] = TABLE_SUFFIXES,
    folders: tuple[str, ...] = PICTURE_FOLDERS,
    has_pictures: Callable[[str], bool] = os.path.isdir,
    suffixes: tuple[str, ...] = PICTURE_SUFFIXES,
    last: str | None = None,
) -> Release:
    """List the tables and zip members below `manual_dir`; images in plain folders are looked up by name
    later.

    `tables` are the suffixes of tables, `folders` what image names begin with; such a folder is walked like
    any other where `has_pictures` denies it. `suffixes` are those of the zip members in them. Of images
    that lie at several places, those in the folder or archive `last` are taken last. Companion files
    (`._x.jpg`, `.DS_Store`, `Thumbs.db`) are passed over. Raises ReleaseError when the folder is missing or
    an archive cannot be read.
    """
    root = os.fspath(manual_dir)
    if not os.path.isdir(root):
        raise ReleaseError(f"{root}: no such folder; give the folder that holds the benchmark's own files")
    texts: list[TextFile] = []
    archived: dict[str, Location] = {}
    bases: list[str] = []
    nested: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # links may lead back
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        left = {s for s in subfolders if s in folders and has_pictures(os.path.join(folder, s))}

        def order(name: str) -> tuple[bool, str]:
            return PurePosixPath(name).stem == last, name

        if left:
            bases.append(folder)
        for inner in (os.path.join(folder, s) for s in sorted(left)):  # img/img/…: a benchmark's Img/img/…
            if any(os.path.isdir(os.path.join(inner, s)) for s in folders):
                bases.append(inner)
        subfolders[:] = sorted((s for s in subfolders if s not in left and not is_companion(s)), key=order)
        for name in sorted((name for name in names if not is_companion(name)), key=order):
            path = os.path.join(folder, name)
            label = os.path.relpath(path, root).replace(os.sep, "/")
            if name.lower().endswith(tables):
                texts.append(TextFile(label, path))
            elif name.lower().endswith(".zip"):
                for member in archive_members(path, label, last):
                    inside = f"{label}/{member.filename}"
                    if member.filename.lower().endswith(tables):
                        texts.append(TextFile(inside, path, member.filename))
                    elif member.filename.lower().endswith(".zip"):
                        nested.append(inside)
                    elif (key := _listed_name(path, member.filename, folders, suffixes)) is not None:
                        archived.setdefault(key, member_location(inside, path, member))
    return Release(root, tuple(texts), archived, tuple(bases), tuple(nested))


def archive_members(path: str, label: str, last: str | None = None) -> list[zipfile.ZipInfo]:
    """The files of an archive that stay inside it; those in a folder `last` at the end."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise ReleaseError(f"{label}: not a readable zip archive ({error}); fetch it again") from error
    kept = [
        member
        for member in members
        if not member.is_dir()
        and _is_inside(member.filename)
        and PurePosixPath(member.filename).parts[0] != "__MACOSX"
        and not is_companion(PurePosixPath(member.filename).name)
    ]
    return sorted(kept, key=lambda member: last in PurePosixPath(member.filename).parts)


def is_companion(name: str) -> bool:
    """Whether a desktop left the file there: hidden ones, `Thumbs.db`, `desktop.ini`."""
    return name.startswith(".") or name.lower() in COMPANIONS


def _listed_name(archive: str, member: str, folders: Sequence[str], suffixes: tuple[str, ...]) -> str | None:
    """What lists call an image of an archive: its path from one of `folders` on (the last one of img/img/…),
    which may be the archive's own name; None for other files."""
    if not member.lower().endswith(suffixes):
        return None
    parts = PurePosixPath(member).parts
    start = next((i for i, part in enumerate(parts[:-1]) if part in folders), None)
    if start is not None:
        while start + 2 < len(parts) and parts[start + 1] in folders:
            start += 1
        return "/".join(parts[start:])
    stem = PurePosixPath(archive).stem
    return "/".join((stem, *parts)) if stem in folders else None


def member_location(label: str, path: str, member: zipfile.ZipInfo) -> Location:
    method = -1 if member.flag_bits & ENCRYPTED else member.compress_type
    place = (member.header_offset, member.compress_size, method, member.CRC, member.file_size)
    return Location(label, path, *place)


def _is_inside(name: str) -> bool:
    """Whether a path taken from a list or an archive stays below its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def find_text(
    release: Release,
    names: str | Sequence[str],
    folders: Sequence[str],
    *,
    never: Sequence[str] = (),
    only: bool = False,
) -> TextFile | None:
    """The file called one of `names`, preferably in the first of `folders` ('Anno'); None when there is none.

    A folder may be a zip's name, and capitals do not count. Plain files win over zip members, and shallow
    ones over deep ones; files in a folder of `never`, or with `only` in none of `folders`, are left alone
    (the other variant of the same benchmark, whose files have the same names).
    """
    wanted = [name.lower() for name in ([names] if isinstance(names, str) else names)]
    folders, never = ([folder.lower() for folder in given] for given in (folders, never))
    ranked = []
    for text in release.texts:
        path = PurePosixPath(text.label.lower())
        if path.name not in wanted:
            continue
        parents = [part.removesuffix(".zip") for part in path.parts[:-1]]
        if any(part in never for part in parents):
            continue
        if only and not any(folder in parents for folder in folders):
            continue
        rank = min((i for i, folder in enumerate(folders) if folder in parents), default=len(folders))
        ranked.append((rank, text.member is not None, len(parents), wanted.index(path.name), text))
    return min(ranked, key=lambda entry: entry[:4] + (entry[4].label,))[4] if ranked else None


def require_text(
    release: Release, names: str | Sequence[str], folders: Sequence[str], **where: Any
) -> TextFile:
    """`find_text`, raising ReleaseError when the file is not there."""
    text = find_text(release, names, folders, **where)
    if text is None:
        name = names if isinstance(names, str) else " or ".join(names)
        raise ReleaseError(
            f"{folders[0]}/{name}: not found below {release.root}, neither unpacked nor in a zip archive"
            + nested_archives(release)
        )
    return text


def nested_archives(release: Release) -> str:
    """What to do about archives within archives, for the error about something that is not there."""
    if not release.nested:
        return ""
    first = release.nested[0]
    outer = first[: first.lower().index(".zip/") + 4]
    return f"; {outer} holds archives itself ({PurePosixPath(first).name}), which are not read: unpack it"


def picture_location(release: Release, name: str) -> Location | None:
    """Where the image that a list calls `name` ('img/…') lies; None when it is missing or its path leaves
    the release.
    """
    if not _is_inside(name):
        return None
    for base in release.picture_bases:
        path = os.path.join(base, name)
        try:
            if stat.S_ISREG(os.stat(path).st_mode):
                return Location(os.path.relpath(path, release.root).replace(os.sep, "/"), path)
        except (OSError, ValueError):  # no such file, or no such name: one with a NUL
            continue
    return release.archived.get(name)


def check_readable(location: Location) -> None:
    """Raise ReleaseError for a member of an encrypted or unusually packed archive."""
    if location.method not in (STORED, DEFLATED):
        kind = "is encrypted" if location.method < 0 else f"uses zip method {location.method}"
        raise ReleaseError(
            f"{location.label}: {kind}; unpack the archive (with its password, if it has one) first"
        )


def read_picture(location: Location, limit: int | None = None) -> bytes:
    """The image's bytes, or about its first `limit` ones. Raises OSError or ValueError when they cannot
    be had.
    """
    with open(location.path, "rb") as file:
        if location.offset < 0:
            return file.read(-1 if limit is None else limit)
        file.seek(location.offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("the archive is damaged here")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        file.seek(name_length + extra_length, os.SEEK_CUR)
        packed = file.read(location.packed if limit is None else min(location.packed, limit))
    if location.method == STORED:
        data = packed
    else:
        try:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflate.decompress(packed, location.size + 1 if limit is None else limit)
        except zlib.error as error:
            raise ValueError(f"the archive is damaged here ({error})") from error
    if limit is None and (len(data) != location.size or zlib.crc32(data) != location.crc):
        raise ValueError("the archive is damaged here (checksum)")
    return data


# ------------------------------------------------------------------------------ text tables
def open_text(text: TextFile) -> BinaryIO:
    """The file's bytes as a stream."""
    try:
        if text.member is None:
            return open(text.path, "rb")
        return zipfile.ZipFile(text.path).open(text.member)  # type: ignore[return-value]
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise text.error(None, f"cannot be read ({error})") from error


def read_lines(text: TextFile) -> Iterator[tuple[int, bytes]]:
    """(1-based line, its bytes without surrounding blanks); empty lines are allowed at the end of the file
    only.
    """
    blank = 0
    with open_text(text) as file:
        try:
            for number, raw in enumerate(file, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                line = raw.strip()
                if not line:
                    blank = blank or number
                    continue
                if blank:
                    raise text.error(blank, "empty line inside the table")
                yield number, line
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise text.error(None, f"cannot be read to its end ({error})") from error


def decode(text: TextFile, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise text.error(number, f"not UTF-8 text ({error.reason} at byte {error.start})") from error


class Table(NamedTuple):
    """A table whose first line is its number of rows; `lines` must be consumed to its end, where the count
    is checked.
    """

    text: TextFile
    count: int
    columns: list[str]  # the column names, [] where the format has no such line
    lines: Iterator[tuple[int, bytes]]

    def rows(self) -> Iterator[Row]:
        for number, line in self.lines:
            yield Row(number, decode(self.text, number, line).split())


def read_table(text: TextFile, *, names: bool = True) -> Table:
    """Open DeepFashion's text format: row count, column names (unless `names` is False), blank-separated
    rows.

    Consuming `lines` raises ReleaseError when the count line disagrees with the rows. A file whose rows
    repeat (some copies list an image twice) may count either all rows or the different ones.
    """
    lines = read_lines(text)
    number, first = next(lines, (1, b""))
    try:
        count = int(first)
    except ValueError:
        shown = first[:40].decode("utf-8", "replace")
        raise text.error(1, f"the first line must be the number of rows, not {shown!r}") from None
    if count < 1:
        raise text.error(number, f"the first line says {count} rows; the table is empty")
    columns: list[str] = []
    if names:
        number, line = next(lines, (2, b""))
        columns = decode(text, number, line).split()
        if not columns or "/" in columns[0]:
            raise text.error(2, "the second line must hold the column names")
    return Table(text, count, columns, _counted(text, count, lines))


def _counted(text: TextFile, count: int, lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    total = 0
    different: set[int] = set()
    for number, line in lines:
        total += 1
        different.add(hash(line))
        yield number, line
    if count not in (total, len(different)):
        raise text.error(1, f"the first line says {count} rows, the file has {total}")


def integers(text: TextFile, row: Row, fields: Sequence[str], what: str) -> list[int]:
    """`fields` as whole numbers (leading zeros are common in these files); ReleaseError names the one that
    is not.
    """
    wrong = next((field for field in fields if not WHOLE_NUMBER.fullmatch(field)), None)
    if wrong is not None:
        raise text.error(row.line, f"{what}: {wrong[:40]!r} is not a whole number")
    return [int(field) for field in fields]
