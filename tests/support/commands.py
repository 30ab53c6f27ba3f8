"""How tests start the project's commands: processes of their own, on a tiny model and a tiny dataset."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import xla_flags
from warm_commands import execute

SYNTHETIC = {"train": "48", "val": "21", "test": "13", "size": "64"}
SYNTHETIC_SET = ",".join(f"{field}={value}" for field, value in SYNTHETIC.items())
STEPS = 60


def command(workdir, data_dir, *flags, steps=STEPS) -> list[str]:
    """The demo's config made tiny, as a user would start it."""
    return [
        *(sys.executable, "-m", "fashionjax.train", f"--config=experiments/demo.py:steps={steps}"),
        *(f"--workdir={workdir}", f"--config.data_dir={data_dir}", f"--config.synthetic.set={SYNTHETIC_SET}"),
        *("--config.image_size=32", "--config.canvas_size=36", "--config.batch_size=16"),
        *("--config.model.backbone_fields.width=4", "--config.model.features=16"),
        *("--config.model.landmark_features=8", "--config.model.landmark_levels=2"),
        "--config.model.backbone=vgg11_bn",  # fewer layers to compile and dispatch than the demo's
        *("--config.log_every=5", "--config.save_every=10", "--config.eval_every=0"),
        *flags,
    ]


def environment(devices: int = 1) -> dict:
    return os.environ | {"XLA_FLAGS": xla_flags.for_devices(devices), "JAX_PLATFORMS": "cpu"}


def run(module, *flags, kill_when=None) -> subprocess.CompletedProcess:
    """`python -m fashionjax.MODULE FLAG…` to its end, with what it printed; `kill_when` as of `execute`."""
    line = [sys.executable, "-m", f"fashionjax.{module}", *map(str, flags)]
    return execute(line, environment(), kill_when)


def train_to_its_end(*args, **kw) -> subprocess.CompletedProcess:
    """What `start` starts, run to its end."""
    return execute(command(*args, **kw), environment())


def start(*args, devices=1, **kw) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*args, **kw), env=environment(devices), **pipes)


def on_two_hosts(line: list[str], devices: int) -> list[tuple[int, str]]:
    """A command in two processes of so many devices that join on localhost → (status, stderr) of each."""
    for _ in range(2):  # the port that is free just now may be taken before the first process binds it
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        joined = (f"--coordinator={address}", "--process_count=2")
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        hosts = [
            subprocess.Popen([*line, *joined, f"--process_id={i}"], env=environment(devices), **pipes)
            for i in range(2)
        ]
        errors = [host.communicate(timeout=900)[1] for host in hosts]
        if not any("ddress already in use" in error for error in errors):
            break
    return [(host.returncode, error) for host, error in zip(hosts, errors, strict=True)]


def damaged_copy(data_dir, to: Path, split: str) -> Path:
    """A copy of a data_dir in which the first image of an attributes split is overwritten with zeros."""
    shutil.copytree(data_dir, to)
    (file,) = to.glob(f"synthetic_fashion/attributes/**/*{split}.array_record*")
    raw = bytearray(file.read_bytes())
    begin = raw.index(b"\xff\xd8\xff")  # a JPEG's first bytes
    raw[begin : begin + 40] = bytes(40)
    file.write_bytes(raw)
    return to


def finish(process: subprocess.Popen, timeout=900) -> tuple[str, str]:
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out, err
