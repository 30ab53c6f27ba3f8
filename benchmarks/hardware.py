"""What a measurement ran on, the published peak rates of accelerators, and the clock."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jaxlib

# Dense bfloat16 TFLOP/s of one device by `jax.Device.device_kind`, from the vendors' data sheets.
BFLOAT16_PEAK = {
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H200": 989,
    "NVIDIA L4": 121,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}


def describe(devices: list) -> dict:
    """Names and versions that a result file carries."""
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """Vendor's model name and the widest vector extension, as Linux tells them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in info.read_text().splitlines() if ":" in line
    )
    flags = fields.get("flags", "").split()
    vector = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")
    model = f"{fields.get('model name', platform.machine())} (family {fields.get('cpu family', '?')})"
    return f"{model} {vector}".strip()


def utilisation(device_kind: str, dtype: str, flops_per_second: float) -> float | None:
    """Share of the peak that is used; None where the peak is not known."""
    peak = BFLOAT16_PEAK.get(device_kind) if dtype == "bfloat16" else None
    return None if peak is None else flops_per_second / (peak * 1e12)


def timed(run: Callable[[int], None]) -> Callable[[int], tuple[float, float]]:
    """steps -> (seconds, processor seconds of the process)."""

    def clocked(steps: int) -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        run(steps)
        return time.perf_counter() - start, time.process_time() - cpu

    return clocked
