"""How good predictions of two classes are: one score, its interval, and the difference of two models.

Everything here is a function of arrays: labels (0 or 1), probabilities, decisions (0 or 1) and, for
intervals, the cluster each row's entity hashes into. Rows of one entity resemble each other, so the
bootstrap draws whole clusters, never single rows. Unlabelled rows are the caller's to leave out; they
raise here, so that none is counted as a negative. Thresholds and verdicts do not belong here.

A metric is defined by the labels alone, whatever a model predicts: accuracy needs a row; f1, precision,
recall and average precision need a positive; balanced accuracy and ROC AUC need both classes. An
undefined metric is None. A model that predicts no positive where there are some has precision and f1 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ml_platform.contract.tasks import METRICS, Metric
from ml_platform.machine_learning import ranking
from ml_platform.machine_learning.arrays import Floats, Integers
from ml_platform.machine_learning.bootstrap import (
    DIFFERENCE_REPLICATES,
    INTERVAL_REPLICATES,
    Difference,
    difference_of,
    interval_of,
)


def score(
    metric: Metric,
    label: ArrayLike,
    probability: ArrayLike,
    decision: ArrayLike,
    weight: ArrayLike | None = None,
) -> float | None:
    """``metric`` over all rows, or None where it is undefined (see the module's convention).

    Args:
        weight: what each row counts for, at least 0; 1 each without it.

    Raises:
        ValueError: lengths differ, a label or decision is not 0 or 1, a probability is not in [0, 1].
    """
    from sklearn import metrics as sk

    y, p, d = _checked(label, probability, decision)
    w = None if weight is None else np.asarray(weight, dtype=np.float64)
    counted = y if w is None else y[w > 0]
    if not _defined(metric, positives=int(counted.sum()), rows=len(counted)):
        return None
    match metric:
        case "f1":
            value = sk.f1_score(y, d, sample_weight=w, zero_division=0)
        case "precision":
            value = sk.precision_score(y, d, sample_weight=w, zero_division=0)
        case "recall":
            value = sk.recall_score(y, d, sample_weight=w)
        case "accuracy":
            value = sk.accuracy_score(y, d, sample_weight=w)
        case "balanced_accuracy":
            value = sk.balanced_accuracy_score(y, d, sample_weight=w)
        case "roc_auc":
            value = sk.roc_auc_score(y, p, sample_weight=w)
        case "average_precision":
            value = sk.average_precision_score(y, p, sample_weight=w)
        case _:
            raise ValueError(f"{metric} is no metric of labels that are 0 or 1")
    return float(value)


def summary(label: ArrayLike, probability: ArrayLike, decision: ArrayLike) -> dict[str, float | int | None]:
    """Every figure reported of one set of predictions; None for what is undefined."""
    from sklearn.metrics import log_loss

    y, p, d = _checked(label, probability, decision)
    tn, fp, fn, tp = (int(count) for count in np.bincount(2 * y + d, minlength=4))
    names: tuple[Metric, ...] = ("precision", "recall", "f1", "accuracy", "roc_auc", "average_precision")
    figures: dict[str, float | int | None] = {name: score(name, y, p, d) for name in names}
    return figures | {
        "log_loss": float(log_loss(y, p, labels=[0, 1])) if len(y) else None,
        "brier_score": float(np.mean((p - y) ** 2)) if len(y) else None,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "rows": len(y),
        "positives": tp + fn,
        "positive_rate": (tp + fn) / len(y) if len(y) else None,
    }


def interval(
    metric: Metric,
    label: ArrayLike,
    probability: ArrayLike,
    decision: ArrayLike,
    cluster: ArrayLike,
    *,
    replicates: int = INTERVAL_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of ``metric`` by a bootstrap of clusters.

    Returns:
        Lower and upper bound; None when the metric is undefined or its clusters are too few to tell.
    """
    y, p, d = _checked(label, probability, decision)
    if not _defined(metric, positives=int(y.sum()), rows=len(y)):
        return None
    return interval_of(
        lambda codes, drawn: _resampled(metric, y, p, d, codes, drawn),
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def paired_difference(
    metric: Metric,
    label: ArrayLike,
    challenger_probability: ArrayLike,
    challenger_decision: ArrayLike,
    champion_probability: ArrayLike,
    champion_decision: ArrayLike,
    cluster: ArrayLike,
    *,
    replicates: int = DIFFERENCE_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """How much better the challenger is: both models scored on each resample of the same clusters."""
    y, p1, d1 = _checked(label, challenger_probability, challenger_decision)
    _, p2, d2 = _checked(label, champion_probability, champion_decision)
    return difference_of(
        (score(metric, y, p1, d1), score(metric, y, p2, d2)),
        (
            lambda codes, drawn: _resampled(metric, y, p1, d1, codes, drawn),
            lambda codes, drawn: _resampled(metric, y, p2, d2, codes, drawn),
        ),
        METRICS[metric].sign,
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


# -- arrays ----------------------------------------------------------------------------------------


def _checked(
    label: ArrayLike, probability: ArrayLike, decision: ArrayLike
) -> tuple[Integers, Floats, Integers]:
    y, p, d = (np.asarray(values, dtype=np.float64) for values in (label, probability, decision))
    if not (y.ndim == 1 and y.shape == p.shape == d.shape):
        raise ValueError(
            f"labels, probabilities and decisions differ in length: {len(y)}, {len(p)}, {len(d)}"
        )
    for name, values in (("label", y), ("decision", d)):
        wrong = int(np.sum((values != 0) & (values != 1)))
        if wrong:
            raise ValueError(
                f"{wrong} of {len(values)} rows have a {name} that is not 0 or 1; leave them out"
            )
    wrong = int(np.sum(~((p >= 0) & (p <= 1))))
    if wrong:
        raise ValueError(f"{wrong} of {len(p)} rows have a probability that is not between 0 and 1")
    return y.astype(np.int64), p, d.astype(np.int64)


def _defined(metric: Metric, *, positives: int, rows: int) -> bool:
    match metric:
        case "accuracy":
            return rows > 0
        case "f1" | "precision" | "recall" | "average_precision":
            return positives > 0
        case _:
            return 0 < positives < rows


# -- the bootstrap ---------------------------------------------------------------------------------


def _resampled(
    metric: Metric, y: Integers, p: Floats, d: Integers, codes: Integers, weights: Floats
) -> Floats:
    """``metric`` under each row of cluster ``weights``; NaN where it is undefined."""
    # All sums are of whole numbers below 2**53, so they are exact and the rows' order can't matter.
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "roc_auc" or metric == "average_precision":
            return ranking.resampled(metric, y, p, codes, weights)
        cells = np.bincount(4 * codes + 2 * y + d, minlength=4 * weights.shape[1])
        tn, fp, fn, tp = (weights @ cells.reshape(-1, 4).astype(np.float64)).T
        values: Floats
        match metric:
            case "f1":
                values = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
            case "precision":
                values = np.where(tp + fn > 0, tp / np.maximum(tp + fp, 1), np.nan)
            case "recall":
                values = tp / (tp + fn)
            case "accuracy":
                values = (tp + tn) / (tp + tn + fp + fn)
            case _:
                values = (tp / (tp + fn) + tn / (tn + fp)) / 2
        return values
