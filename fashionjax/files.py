"""Atomic file writes: a file appears complete or not at all, and an older one survives a failed write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path in the same folder)`, then rename the result to `path`.

    Missing folders are created. The mode follows the umask, as with `open`, whatever mode `write` leaves
    (safetensors writes 0600). On an error the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # os.umask can only be read by changing it, for all threads; a new file tells the mode just as well
        descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        write(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write texts one after the other as UTF-8, atomically; they need not fit into memory together."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(lines)

    write_atomically(path, write)
