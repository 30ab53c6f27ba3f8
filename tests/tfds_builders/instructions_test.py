"""What prepare prints when a benchmark's files are not there: a line per file."""

from __future__ import annotations

import re

import pytest

from fashionjax.data import builders

BENCHMARKS = [name for name in builders.builder_names() if name != "synthetic_fashion"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_files_stand_at_the_beginning_of_lines(name: str) -> None:
    """A path followed by what it is, on a line of its own: two blanks never stand before another path."""
    lines = builders.builder_class(name).MANUAL_DOWNLOAD_INSTRUCTIONS.split("\n")
    assert all(len(line) <= 110 and line == line.rstrip() for line in lines) and lines[-1]
    explained = [line for line in lines if re.search(r"\S {2,}\S", line)]
    assert len(explained) >= 3
    for line in explained:
        assert re.match(r" {2,4}(and )?\S*[/.{]\S*( \S+\.txt)*  +[a-z0-9]", line), line
    indented = [line for line in lines if line.startswith("  ")]
    assert not any("manual_dir" in line or "http" in line for line in indented)
    beginning = next(i for i, line in enumerate(lines) if line.startswith("  "))
    assert lines[beginning - 1].endswith("into manual_dir:")
