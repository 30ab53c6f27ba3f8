"""The wheel, installed outside the checkout: packaged experiments, templates and the Python API."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import SYNTHETIC_SET, environment

ROOT = Path(__file__).parents[1]
TINY = [
    *("--config.image_size=32", "--config.canvas_size=36", "--config.batch_size=16"),
    *("--config.model.backbone=vgg11_bn", "--config.model.backbone_fields.width=4"),
    *("--config.model.features=16", "--config.model.landmark_features=8", "--config.model.landmark_levels=2"),
    f"--config.synthetic.set={SYNTHETIC_SET}",
]


@pytest.mark.full
def test_the_wheel_works_outside_the_checkout(tmp_path):
    """Needs `uv` and a package index; the pinned versions of requirements.txt are installed beside it."""
    uv = str(Path(sys.executable).with_name("uv"))
    python = tmp_path / "venv" / "bin" / "python"

    def done(*line) -> subprocess.CompletedProcess:
        words = [str(word) for word in line]
        found = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-3000:]
        return found

    done(uv, "build", "--wheel", "--out-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("fashionjax-*.whl")
    done(uv, "venv", "--python", sys.executable, tmp_path / "venv")
    done(uv, "pip", "install", "--python", python, "-r", ROOT / "requirements.txt", wheel)
    where = done(python, "-c", "import fashionjax; print(fashionjax.__file__)").stdout
    assert str(tmp_path) in where and (Path(where.strip()).parent / "py.typed").is_file()
    command = python.with_name("fashionjax")
    done(command, "train", "--config=experiments/demo.py:steps=2", "--workdir=run", *TINY)
    done(command, "evaluate", "--checkpoint=run", "--split=test", "--nobaselines")
    assert (tmp_path / "run" / "evaluation" / "test" / "report.html").is_file()
    code = (
        "import fashionjax, numpy as np\n"
        "print(fashionjax.load('run').predict(np.zeros((40, 60, 3), np.uint8))[0])"
    )
    assert "image_0 (60 x 40)" in done(python, "-c", code).stdout
