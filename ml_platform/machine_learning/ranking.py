"""ROC AUC and average precision under many weights of clusters at once, as a bootstrap asks for them.

What a replicate has between two thresholds is a product of few whole numbers: the rows of each cluster there,
and how often each cluster is drawn. Such sums are exact, whatever their order. Only thresholds that a row of
one class lies at change a metric, so these alone are looked at, as many at once as a processor's cache holds.
Memory is that of the weights, half as much again, and some ten numbers a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ml_platform.machine_learning.arrays import Floats, Integers

Ranking = Literal["roc_auc", "average_precision"]

#: Replicates, and cells (thresholds times replicates), that are worked out at once.
_REPLICATES, _CELLS = 512, 1 << 17
#: Thresholds that are summed up one by one before their sums are.
_RUN = 8


def resampled(metric: Ranking, y: Integers, p: Floats, codes: Integers, weights: Floats) -> Floats:
    """A ranking metric under each row of ``weights``; NaN where it is undefined.

    Args:
        y: the labels, 0 or 1; at least one row.
        p: the scores; equal ones are one threshold.
        codes: each row's cluster.
        weights: how often each replicate (row) counts each cluster (column); whole numbers.
    """
    if metric == "roc_auc" and 2 * int(y.sum()) > len(y):
        # How often a positive beats a negative is the same question from either side; the rarer class asks.
        y, p = 1 - y, -p
    totals = [weights @ np.bincount(codes[y == of], minlength=weights.shape[1]) for of in (1, 0)]
    order = np.argsort(-p, kind="stable")
    y, p, codes = y[order], p[order], codes[order]
    threshold = np.cumsum(np.append(False, p[1:] != p[:-1]))
    asks = np.bincount(threshold, weights=y) > 0
    # A step ends with a threshold that a positive lies at; rows below the last of these are in no step.
    step: Integers = (np.cumsum(asks) - asks)[threshold]
    shape, fits = (int(asks.sum()), weights.shape[1]), np.max(totals[0] + totals[1]) < 2**31
    numbers: Any = np.int32 if fits else np.float64

    def counts(rows: NDArray[np.bool_]) -> Any:
        from scipy import sparse

        rows = rows & (step < shape[0])
        return sparse.csr_matrix((np.ones(int(rows.sum()), numbers), (step[rows], codes[rows])), shape)

    positive = y == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "average_precision":
            return _average_precision([counts(positive), counts(~positive)], weights) / totals[0]
        of_steps = [counts(rows) for rows in (positive, ~positive, ~positive & asks[threshold])]
        pairs = totals[0] * totals[1]
        won: Floats = (pairs - _pairs_lost(of_steps, weights)) / pairs
    return won


def _average_precision(of_steps: Sequence[Any], weights: Floats) -> Floats:
    """The precision at each positive's threshold, summed over the positives."""
    found, above = np.zeros(len(weights)), np.zeros((2, len(weights)))
    for drawn, _, (new, fp) in in_steps(of_steps, weights):
        tp = new.copy()
        for sums, carried in zip((tp, fp), above, strict=True):
            run_on(sums, carried[drawn])
        fp += tp
        if not fp[0].all():
            np.maximum(fp, 1, out=fp)  # before the first row that is drawn nothing is found
        found[drawn] += np.einsum("ij,ij->j", new.astype(np.float64), tp / fp)
    return found


def _pairs_lost(of_steps: Sequence[Any], weights: Floats) -> Floats:
    """The pairs whose negative lies above the positive, and half of those that tie."""
    found, above = np.zeros(len(weights)), np.zeros(len(weights))
    has_ties = of_steps[-1].nnz > 0
    for drawn, _, (new, fp, *tied) in in_steps(of_steps if has_ties else of_steps[:-1], weights):
        run_on(fp, above[drawn])
        asked = new.astype(np.float64)
        found[drawn] += np.einsum("ij,ij->j", asked, fp.astype(np.float64))
        for half in tied:
            found[drawn] -= np.einsum("ij,ij->j", asked, half.astype(np.float64)) / 2
    return found


def in_steps(of_steps: Sequence[Any], weights: Floats) -> Iterator[tuple[slice, slice, list[Any]]]:
    """Some replicates, and what each has in each of some steps (rows) that follow those before.

    Args:
        of_steps: matrices of what each step has of each cluster.

    Yields:
        Which replicates, which steps, and arrays of the steps and replicates, one of each matrix.
    """
    some = [
        (slice(start, start + _REPLICATES), weights[start : start + _REPLICATES])
        for start in range(0, len(weights), _REPLICATES)
    ]
    columns = [(drawn, np.ascontiguousarray(of.T, dtype=of_steps[0].dtype)) for drawn, of in some]
    at_once = max(1, _CELLS // min(_REPLICATES, len(weights)))
    for start in range(0, of_steps[0].shape[0], at_once):
        steps = slice(start, start + at_once)
        parts = [matrix[steps] for matrix in of_steps]
        for drawn, times in columns:
            yield drawn, steps, [part @ times for part in parts]


def run_on(values: NDArray[Any], carried: Floats) -> None:
    """Sum numbers up from row to row, in place, on from ``carried``, which becomes the last row's."""
    values[0] += carried.astype(values.dtype)
    _sum_up(values)
    carried[:] = values[-1]


def _sum_up(values: NDArray[Any]) -> None:
    """A cumulative sum along the rows, in place; numpy's own takes several times as long along this axis."""
    whole = len(values) // _RUN * _RUN
    if len(values) <= 2 * _RUN:
        whole = 0
    else:
        runs = values[:whole].reshape(-1, _RUN, values.shape[1])
        for row in range(1, _RUN):
            runs[:, row] += runs[:, row - 1]
        sums = runs[:, -1].copy()
        _sum_up(sums)
        runs[1:] += sums[:-1, np.newaxis]
    for row in range(max(whole, 1), len(values)):
        values[row] += values[row - 1]
