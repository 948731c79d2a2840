"""The bootstrap that all metrics share: whole clusters of rows are drawn, never single rows.

Rows of one entity resemble each other, so that resampling rows would make an interval far too narrow. What is
computed of each resample is the business of a kind of label's metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ml_platform.machine_learning.arrays import Floats, Integers

CLUSTERS = 1000
"""The caller hashes entities into cluster ids from 0 to 999."""

MINIMUM_CLUSTERS = 10
"""Fewer give no interval: below, simulated as-good models beat the champion in more than 5 % of cases."""

INTERVAL_REPLICATES, DIFFERENCE_REPLICATES = 500, 2000
"""Resamples of an interval that people read, and of one that decides which model serves."""

_DEFINED_SHARE = 0.9


@dataclass(frozen=True)
class Difference:
    """Two models' scores on the same rows, and the interval of how much better the challenger is.

    ``difference`` is positive where the challenger is better, also of an error. All None when the metric is
    undefined; only the bounds when there are too few clusters for them.
    """

    challenger: float | None
    champion: float | None
    difference: float | None
    lower: float | None
    upper: float | None

    @classmethod
    def undefined(cls) -> Difference:
        return cls(None, None, None, None, None)


def coded(cluster: ArrayLike, rows: int) -> tuple[Integers, int]:
    """Each row's cluster as a number from 0 without gaps, and how many clusters are present."""
    values = np.asarray(cluster)
    if values.shape != (rows,):
        raise ValueError(f"{rows} rows, but {len(values)} clusters")
    present, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), len(present)


@lru_cache(maxsize=8)
def weights(clusters: int, replicates: int, seed: int) -> Floats:
    """How often each replicate (row) draws each cluster (column)."""
    drawn = np.random.default_rng(seed).integers(clusters, size=(replicates, clusters))
    cells = drawn + clusters * np.arange(replicates)[:, np.newaxis]
    times = np.bincount(cells.ravel(), minlength=replicates * clusters).astype(np.float64)
    times.flags.writeable = False
    return times.reshape(replicates, clusters)


def bounds(values: Floats, level: float) -> tuple[float, float] | None:
    """The percentile interval of what resamples gave; None where too many of them are undefined (NaN)."""
    defined = values[~np.isnan(values)]
    if len(defined) < _DEFINED_SHARE * len(values):
        return None
    lower, upper = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


Resampled = Callable[[Integers, Floats], Floats]
"""A metric under each row of cluster weights, given each row's cluster; NaN where it is undefined."""


def interval_of(
    resampled: Resampled, cluster: ArrayLike, rows: int, *, replicates: int, level: float, seed: int
) -> tuple[float, float] | None:
    """The percentile interval of a metric that is defined; None where clusters are too few to tell."""
    codes, clusters = coded(cluster, rows)
    if clusters < MINIMUM_CLUSTERS:
        return None
    return bounds(resampled(codes, weights(clusters, replicates, seed)), level)


def difference_of(
    scores: tuple[float | None, float | None],
    resampled: tuple[Resampled, Resampled],
    sign: int,
    cluster: ArrayLike,
    rows: int,
    *,
    replicates: int,
    level: float,
    seed: int,
) -> Difference:
    """How much better a challenger is than a champion, both on each resample of the same clusters.

    Args:
        scores: the challenger's and the champion's, on all rows; ``resampled`` likewise.
        sign: -1 of a metric that is an error.
    """
    codes, clusters = coded(cluster, rows)
    challenger, champion = scores
    if challenger is None or champion is None:
        return Difference.undefined()
    found = None
    if clusters >= MINIMUM_CLUSTERS:
        drawn = weights(clusters, replicates, seed)
        better, worse = (each(codes, drawn) for each in resampled)
        found = bounds(sign * (better - worse), level)
    lower, upper = found or (None, None)
    return Difference(challenger, champion, sign * (challenger - champion), lower, upper)
