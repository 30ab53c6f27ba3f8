"""One compared quantity, its line, the arrays that are compared, and the measures of difference."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fashionjax.errors import UserError

DENSE_BOUND = 1e-4  # relative L2 of features, logits, embeddings, probabilities and losses in float32


class Recording(NamedTuple):
    """A folder and the arrays of its outputs.npz."""

    folder: Path
    stored: dict[str, np.ndarray]


class Result(NamedTuple):
    folder: str
    output: str
    measure: str  # 'rel_l2', 'diff'
    value: float
    state: str  # 'ok', 'FAIL', 'later'

    def line(self) -> str:
        return f"{self.folder} {self.output} {self.measure}={self.value:.3g} {self.state}"


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file; UserError when it is none. Pickled objects are never read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable as .npz ({' '.join(str(error).split())[:120]})") from error


def relative_l2(got, want) -> float:
    """|got - want| / |want| over all values in float64; inf when sizes differ or values are not finite."""
    got, want = np.asarray(got, np.float64).ravel(), np.asarray(want, np.float64).ravel()
    if got.size != want.size or not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-12))


def dense_difference(stored: dict, name: str, got) -> float:
    """Relative L2 distance of `got` (torch layout) to the stored output `name`; NaN when there is nothing to
    compare.

    A big output is stored as `name@idx` (flat positions), `name@val` (values there) and `name@stats` (mean,
    deviation, L2 norm, largest magnitude, size): the larger of the distance at these positions and the
    relative difference of the norms counts.
    """
    if got is None:
        return float("nan")
    got = np.asarray(got)
    if name in stored:
        return relative_l2(got, stored[name])
    if f"{name}@idx" not in stored:
        return float("nan")
    index, value, stats = (stored[f"{name}@{part}"] for part in ("idx", "val", "stats"))
    if got.size != int(stats[4]):
        return float("inf")
    flat = got.ravel()
    norm = float(np.linalg.norm(flat.astype(np.float64)))
    return max(relative_l2(flat[index], value), abs(norm - stats[2]) / max(stats[2], 1e-12))


def dense(stored: dict, name: str, got) -> tuple[str, float, float]:
    """(measure, difference, bound) of an array of fixed order."""
    return "rel_l2", dense_difference(stored, name, got), DENSE_BOUND


def array_difference(got, want) -> float:
    """Largest difference over the elements, relative to the wanted one where that is not 0; NaN without
    `got`.
    """
    if got is None:
        return float("nan")
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.max(np.abs(got - want) / np.where(want == 0, 1.0, np.abs(want)), initial=0.0))
