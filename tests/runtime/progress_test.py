"""The progress line on a terminal and in a log file."""

import io

import pytest

from fashionjax.runtime import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, **options):
    monkeypatch.setattr("sys.stderr", stream)
    progress.show("step 1/2, a long line", last=False, **options)
    progress.show("step 2/2", last=True, **options)
    return stream.getvalue()


@pytest.mark.parametrize("every", [True, False])
def test_a_terminal_shows_one_line(monkeypatch, every):
    text = shown(monkeypatch, Terminal(), every=every)
    first, second = text.split("\r")
    assert first.startswith("step 1/2") and second.rstrip(" \n") == "step 2/2" and text.endswith("\n")
    assert len(first) == len(second.rstrip("\n")), "nothing is left of the longer line"


def test_a_file_gets_lines(monkeypatch):
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert [line.rstrip() for line in lines] == ["step 1/2, a long line", "step 2/2"]
    assert shown(monkeypatch, io.StringIO(), every=False).rstrip() == "step 2/2"


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds, shown):
    assert progress.clock(seconds) == shown
