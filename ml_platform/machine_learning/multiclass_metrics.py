"""How good predictions of many classes are: one score, its interval, and the difference of two models.

Everything here is a function of arrays: labels and predicted classes as numbers from 0, the probabilities of
all classes (a row each, a column a class) and, for intervals, the cluster each row's entity hashes into.
Unlabelled rows are the caller's to leave out; they raise here.

Every metric needs a row, and no more. A class counts in balanced accuracy where rows have it, and in F1 where
rows have it or are predicted to: the others say nothing of a model. An undefined metric is None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_platform.contract.tasks import METRICS, Metric
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.bootstrap import (
    DIFFERENCE_REPLICATES,
    INTERVAL_REPLICATES,
    Difference,
    difference_of,
    interval_of,
)

#: No probability counts as less: of those that are stored with six decimals it is the greatest that becomes
#: 0. With the least one of a double, which scikit-learn takes, one such row would cost as much as dozens.
LEAST_PROBABILITY = 5e-7
#: Of a row they may add up to so much more or less than 1: they are rounded when they are stored.
_ROUNDING = 1e-3

_Classes = tuple[Integers, Integers, Floats]


def score(
    metric: Metric, label: ArrayLike, predicted: ArrayLike, probability: ArrayLike, *, k: int | None = None
) -> float | None:
    """``metric`` over all rows, or None without any.

    Args:
        k: how many of the most probable classes ``top_k_accuracy`` looks at.

    Raises:
        ValueError: lengths differ, a class or a probability is none, or the metric is not of many classes.
    """
    checked = _checked(label, predicted, probability)
    if not len(checked[0]):
        return None
    sums = _sums(metric, checked, np.zeros(len(checked[0]), np.int64), 1, k)
    return float(_of_sums(metric, sums, checked[2].shape[1])[0])


def summary(label: ArrayLike, predicted: ArrayLike, probability: ArrayLike) -> dict[str, float | int | None]:
    """Every figure reported of one set of predictions; None for what is undefined."""
    names: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss")
    figures: dict[str, float | int | None] = {
        name: score(name, label, predicted, probability) for name in names
    }
    return figures | {"rows": len(np.asarray(label))}


def interval(
    metric: Metric,
    label: ArrayLike,
    predicted: ArrayLike,
    probability: ArrayLike,
    cluster: ArrayLike,
    *,
    k: int | None = None,
    replicates: int = INTERVAL_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of ``metric`` by a bootstrap of clusters.

    Returns:
        Lower and upper bound; None without rows, or when the clusters are too few to tell.
    """
    checked = _checked(label, predicted, probability)
    return interval_of(
        lambda codes, drawn: _resampled(metric, checked, codes, drawn, k),
        cluster,
        len(checked[0]),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def paired_difference(
    metric: Metric,
    label: ArrayLike,
    challenger: tuple[ArrayLike, ArrayLike],
    champion: tuple[ArrayLike, ArrayLike],
    cluster: ArrayLike,
    *,
    k: int | None = None,
    replicates: int = DIFFERENCE_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """How much better the challenger is: both models scored on each resample of the same clusters.

    Args:
        challenger: the classes that it predicts, and its probabilities; ``champion`` likewise.
    """
    first, second = _checked(label, *challenger), _checked(label, *champion)
    return difference_of(
        (score(metric, *first, k=k), score(metric, *second, k=k)),
        (
            lambda codes, drawn: _resampled(metric, first, codes, drawn, k),
            lambda codes, drawn: _resampled(metric, second, codes, drawn, k),
        ),
        METRICS[metric].sign,
        cluster,
        len(first[0]),
        replicates=replicates,
        level=level,
        seed=seed,
    )


# -- arrays ----------------------------------------------------------------------------------------


def _checked(label: ArrayLike, predicted: ArrayLike, probability: ArrayLike) -> _Classes:
    y, d = (np.asarray(values, dtype=np.float64) for values in (label, predicted))
    p = np.asarray(probability, dtype=np.float64)
    if not (y.ndim == 1 and y.shape == d.shape and p.ndim == 2 and len(p) == len(y)):
        raise ValueError(f"labels, classes and probabilities differ in length: {len(y)}, {len(d)}, {len(p)}")
    for name, values in (("label", y), ("predicted class", d)):
        known = (values >= 0) & (values < p.shape[1]) & (values == np.floor(values))
        if not known.all():
            raise ValueError(
                f"{int(np.sum(~known))} of {len(values)} rows have a {name} that is none of the "
                f"{p.shape[1]} classes; leave them out"
            )
    total = p.sum(axis=1)
    wrong = int(np.sum(~(((p >= 0) & (p <= 1)).all(axis=1) & (np.abs(total - 1) <= _ROUNDING * p.shape[1]))))
    if wrong:
        raise ValueError(f"{wrong} of {len(p)} rows have probabilities that don't add up to 1")
    return y.astype(np.int64), d.astype(np.int64), p


def is_among_first(label: Integers, probability: Floats, k: int) -> NDArray[np.bool_]:
    """Whether each row's label is among its most probable classes; of equal ones the later counts as more."""
    first = np.argsort(probability, axis=1, kind="stable")[:, ::-1][:, :k]
    found: NDArray[np.bool_] = (first == label[:, np.newaxis]).any(axis=1)
    return found


# -- the bootstrap ---------------------------------------------------------------------------------


def _resampled(metric: Metric, checked: _Classes, codes: Integers, drawn: Floats, k: int | None) -> Floats:
    """``metric`` under each row of cluster weights ``drawn``; NaN where it is undefined."""
    sums = _sums(metric, checked, codes, drawn.shape[1], k)
    return _of_sums(metric, drawn @ sums, checked[2].shape[1])


def _sums(metric: Metric, checked: _Classes, codes: Integers, clusters: int, k: int | None) -> Floats:
    """What the metric is computed from, as sums over the rows of each cluster.

    They are the number of rows and a sum, or of each class the rows that have it, are predicted to have it,
    and both.
    """
    y, d, p = checked
    match metric:
        case "log_loss":
            row = -np.log(np.clip(p[np.arange(len(y)), y], LEAST_PROBABILITY, 1))
        case "top_k_accuracy":
            row = is_among_first(y, p, k or 1).astype(np.float64)
        case "accuracy":
            row = (y == d).astype(np.float64)
        case "balanced_accuracy" | "macro_f1" | "weighted_f1":
            classes = p.shape[1]
            hit = y == d
            return np.hstack(
                [
                    np.bincount(codes[rows] * classes + of[rows], minlength=clusters * classes)
                    .reshape(clusters, classes)
                    .astype(np.float64)
                    for of, rows in ((y, slice(None)), (d, slice(None)), (y, hit))
                ]
            )
        case _:
            raise ValueError(f"{metric} is no metric of many classes")
    counts = np.bincount(codes, minlength=clusters).astype(np.float64)
    return np.column_stack([counts, np.bincount(codes, weights=row, minlength=clusters)])


def _of_sums(metric: Metric, sums: Floats, classes: int) -> Floats:
    """The metric of each row of :func:`_sums`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric not in ("balanced_accuracy", "macro_f1", "weighted_f1"):
            values: Floats = sums[:, 1] / sums[:, 0]
            return values
        have, said, both = (sums[:, part * classes : (part + 1) * classes] for part in range(3))
        if metric == "balanced_accuracy":
            return _mean_where(both / have, have > 0)
        f1 = 2 * both / (have + said)
        if metric == "macro_f1":
            return _mean_where(f1, have + said > 0)
        weighted: Floats = np.nansum(np.where(have > 0, f1 * have, 0.0), axis=1) / have.sum(axis=1)
        return weighted


def _mean_where(values: Floats, counts: NDArray[np.bool_]) -> Floats:
    mean: Floats = np.where(counts, values, 0.0).sum(axis=1) / counts.sum(axis=1)
    return mean
