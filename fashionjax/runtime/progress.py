"""The progress line of a command on standard error: one line that is overwritten on a terminal."""

from __future__ import annotations

import sys

WIDTH = 78  # a shorter line is filled up, so that nothing is left of a longer one before it


def show(line: str, *, last: bool, every: bool = True) -> None:
    """Print `line`; the last one stays. Without a terminal each is a line of its own, or with `every=False`
    only the last is printed."""
    terminal = sys.stderr.isatty()
    if terminal or last or every:
        end = "\r" if terminal and not last else "\n"
        print(line.ljust(WIDTH), end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
