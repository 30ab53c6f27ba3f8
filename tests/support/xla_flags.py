"""XLA's flags for the tests: so many devices on this CPU, and little time spent on optimising tiny programs."""

import os

# a test program runs a few times, and compiling it without LLVM's optimisations takes half the time; the flags
# of a full run are XLA's own, or those given in the environment, e.g. XLA_FLAGS=--xla_cpu_max_isa=AVX2
CHOSEN = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
COUNT = "--xla_force_host_platform_device_count"


def for_devices(count: int) -> str:
    """The value of XLA_FLAGS for that many CPU devices."""
    kept = [flag for flag in CHOSEN.split() if not flag.startswith(COUNT)]
    return " ".join([*kept, f"{COUNT}={count}"])
