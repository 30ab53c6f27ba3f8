"""Figures over several seeds."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """{"mean", "sd"} of at least one value; sd is the sample's standard deviation, 0 of one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), digits), "sd": round(deviation, digits)}
