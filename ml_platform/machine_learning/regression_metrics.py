"""How good predictions of a number are: one score, its interval, and the difference of two models.

Everything here is a function of arrays: labels and values predicted, both finite, and, for intervals, the
cluster each row's entity hashes into. Unlabelled rows are the caller's to leave out; they raise here.

A metric is defined by the labels alone, whatever a model predicts: each needs a row, the mean absolute
percentage error no label that is 0, and r2 two labels that differ. An undefined metric is None, and so is one
that no double holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ml_platform.contract.tasks import METRICS, Metric
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.bootstrap import (
    DIFFERENCE_REPLICATES,
    INTERVAL_REPLICATES,
    Difference,
    difference_of,
    interval_of,
)

MEDIAN = 0.5
#: Sorted errors that are counted together, to find the median of each resample: more are fewer steps of
#: counting, and more memory (8 bytes for each, and each cluster or resample).
_ERRORS_TOGETHER = 512
#: Of the sum of squares of a resample's labels around the mean of all, less is rounding.
_ALIKE = 1e-12


def score(
    metric: Metric, label: ArrayLike, predicted: ArrayLike, *, quantile: float | None = None
) -> float | None:
    """``metric`` over all rows, or None where it is undefined (see the module's convention).

    Args:
        quantile: that ``pinball`` is of.

    Raises:
        ValueError: lengths differ, a label or a predicted value is not finite, or it is another metric.
    """
    y, p = _checked(label, predicted)
    if not _defined(metric, y):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "median_absolute_error":
            value = float(np.median(np.abs(y - p)))
        else:
            ones = np.ones((1, 1))
            value = float(_of_sums(metric, ones @ _sums(metric, y, p, np.zeros(len(y), int), 1, quantile))[0])
    return value if np.isfinite(value) else None


def summary(label: ArrayLike, predicted: ArrayLike) -> dict[str, float | int | None]:
    """Every figure reported of one set of predictions; None for what is undefined."""
    y, p = _checked(label, predicted)
    names: tuple[Metric, ...] = ("rmse", "mae", "median_absolute_error", "mape", "r2")
    figures: dict[str, float | int | None] = {name: score(name, y, p) for name in names}
    rows = len(y)
    return figures | {
        "mean_error": float(np.mean(p - y)) if rows else None,
        "mean_label": float(np.mean(y)) if rows else None,
        "rows": rows,
    }


def interval(
    metric: Metric,
    label: ArrayLike,
    predicted: ArrayLike,
    cluster: ArrayLike,
    *,
    quantile: float | None = None,
    replicates: int = INTERVAL_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of ``metric`` by a bootstrap of clusters.

    Returns:
        Lower and upper bound; None when the metric is undefined or its clusters are too few to tell.
    """
    y, p = _checked(label, predicted)
    if not _defined(metric, y):
        return None
    return interval_of(
        lambda codes, drawn: _resampled(metric, y, p, codes, drawn, quantile),
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def paired_difference(
    metric: Metric,
    label: ArrayLike,
    challenger: ArrayLike,
    champion: ArrayLike,
    cluster: ArrayLike,
    *,
    quantile: float | None = None,
    replicates: int = DIFFERENCE_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """How much better the challenger is: both models scored on each resample of the same clusters."""
    y, p1 = _checked(label, challenger)
    _, p2 = _checked(label, champion)
    return difference_of(
        (score(metric, y, p1, quantile=quantile), score(metric, y, p2, quantile=quantile)),
        (
            lambda codes, drawn: _resampled(metric, y, p1, codes, drawn, quantile),
            lambda codes, drawn: _resampled(metric, y, p2, codes, drawn, quantile),
        ),
        METRICS[metric].sign,
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


# -- arrays ----------------------------------------------------------------------------------------


def _checked(label: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    y, p = (np.asarray(values, dtype=np.float64) for values in (label, predicted))
    if not (y.ndim == 1 and y.shape == p.shape):
        raise ValueError(f"labels and predicted values differ in length: {len(y)}, {len(p)}")
    for name, values in (("label", y), ("predicted value", p)):
        wrong = int(np.sum(~np.isfinite(values)))
        if wrong:
            raise ValueError(
                f"{wrong} of {len(values)} rows have a {name} that is not finite; leave them out"
            )
    return y, p


def _defined(metric: Metric, y: Floats) -> bool:
    match metric:
        case "mape":
            return len(y) > 0 and bool(np.all(y != 0))
        case "r2":
            return len(y) > 1 and bool(np.any(y != y[0]))
        case _:
            return len(y) > 0


# -- the bootstrap ---------------------------------------------------------------------------------


def _resampled(
    metric: Metric, y: Floats, p: Floats, codes: Integers, drawn: Floats, quantile: float | None
) -> Floats:
    """``metric`` under each row of cluster weights ``drawn``; NaN where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if metric == "median_absolute_error":
            values = _medians(np.abs(y - p), codes, drawn)
        else:
            values = _of_sums(metric, drawn @ _sums(metric, y, p, codes, drawn.shape[1], quantile))
    return np.where(np.isfinite(values), values, np.nan)


def _sums(
    metric: Metric, y: Floats, p: Floats, codes: Integers, clusters: int, quantile: float | None
) -> Floats:
    """What the metric is computed from, as sums over the rows of each cluster: the first is their number."""
    error = y - p
    match metric:
        case "rmse":
            parts = [error * error]
        case "mae":
            parts = [np.abs(error)]
        case "mape":
            parts = [np.abs(error) / np.abs(y)]
        case "pinball":
            share = MEDIAN if quantile is None else quantile
            parts = [np.where(error >= 0, share * error, (share - 1) * error)]
        case "r2":
            around = y - y.mean()
            parts = [error * error, around, around * around]
        case _:
            raise ValueError(f"{metric} is no metric of numbers")
    return np.column_stack(
        [
            np.bincount(codes, minlength=clusters).astype(np.float64),
            *(np.bincount(codes, weights=part, minlength=clusters) for part in parts),
        ]
    )


def _of_sums(metric: Metric, sums: Floats) -> Floats:
    """The metric of each row of :func:`_sums`."""
    rows, first = sums[:, 0], sums[:, 1]
    values: Floats
    match metric:
        case "rmse":
            values = np.sqrt(first / rows)
        case "r2":
            around, squares = sums[:, 2], sums[:, 3]
            spread = squares - around * around / rows
            values = np.where(spread > _ALIKE * squares, 1 - first / spread, np.nan)
        case _:
            values = first / rows
    return values


def _medians(errors: Floats, codes: Integers, drawn: Floats) -> Floats:
    """The median of the errors of each resample: of an even number of rows the mean of the middle two.

    Errors are sorted once, and counted by cluster in bins of neighbours; only the bin that holds the middle
    is looked at row by row.
    """
    order = np.argsort(errors, kind="stable")
    errors, codes = errors[order], codes[order]
    clusters = drawn.shape[1]
    size = -(-len(errors) // _ERRORS_TOGETHER)
    bins = -(-len(errors) // size)
    cells = codes * bins + np.arange(len(errors)) // size
    counts = np.bincount(cells, minlength=clusters * bins).reshape(clusters, bins).astype(np.float64)
    up_to = np.cumsum(drawn @ counts, axis=1)
    rows = up_to[:, -1]

    def at(position: Floats) -> Floats:
        """The error at a position of each resample's sorted rows, from 0."""
        found = np.argmax(up_to > position[:, np.newaxis], axis=1)
        before = np.where(found > 0, up_to[np.arange(len(found)), found - 1], 0.0)
        inside = found[:, np.newaxis] * size + np.arange(size)
        present = inside < len(errors)
        inside = np.minimum(inside, len(errors) - 1)
        times = np.take_along_axis(drawn, codes[inside], axis=1) * present
        reached = before[:, np.newaxis] + np.cumsum(times, axis=1) > position[:, np.newaxis]
        found_errors: Floats = errors[inside[np.arange(len(found)), np.argmax(reached, axis=1)]]
        return found_errors

    return (at(np.floor((rows - 1) / 2)) + at(np.floor(rows / 2))) / 2
