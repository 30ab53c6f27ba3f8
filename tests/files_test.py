import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from fashionjax import files


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_mode_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "new/a.json", "{}")
        files.write_atomically(tmp_path / "b", lambda path: save_file({"x": np.zeros(2)}, path))
    finally:
        os.umask(before)
    for name in ("new/a.json", "b"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "é")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "é"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
