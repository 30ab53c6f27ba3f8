"""XLA's flags for the tests: a number of CPU devices, and little time spent on optimising tiny programs."""

import os

# a test program runs a few times, and compiling it without LLVM's optimisations takes half the time;
# XLA_FLAGS in the environment replaces this, as `make test-full` does
CHOSEN = os.environ.get("XLA_FLAGS", "--xla_backend_optimization_level=0")
COUNT = "--xla_force_host_platform_device_count"


def for_devices(count: int) -> str:
    """The value of XLA_FLAGS for that many CPU devices."""
    kept = [flag for flag in CHOSEN.split() if not flag.startswith(COUNT)]
    return " ".join([*kept, f"{COUNT}={count}"])
