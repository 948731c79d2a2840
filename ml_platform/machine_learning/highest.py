"""Metrics of the highest rows of each day, for whoever acts on so many of them and on no others.

A row is among the highest as a share from 0 to 1. In a day's own predictions it is 0 or 1, as the day's ranks
say. Where only some of a day's rows are at hand, as those of held-out entities are, the same share of them is
taken as k is of the whole day: the highest k of a tenth would lie ten times as deep. What is then left of a
row, or of rows that tie there, counts as that share.

A resample of clusters has other rows, so that its cut lies elsewhere: it takes the same share of each day's
rows once more. With the rows that were chosen in the sample, recall would vary too much and precision too
little. Everything here is a function of arrays; which rows those are, and how deep, is said by others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

#: Replicates, and cells (rows times replicates), that are worked out at once.
_REPLICATES, _CELLS = 512, 1 << 16
#: How much deeper than the sample's the cut of a resample is looked for first.
_DEEPER, _MORE = 1.5, 20


@dataclass(frozen=True)
class Highest:
    """Rows, and how much of each is among the highest of its day.

    Attributes:
        day: of each row, as a number.
        place: its place in its day, lowest first; rows of one place tie.
        chosen: the share of it that is among the highest, 0 to 1.
    """

    day: Integers
    place: Floats
    chosen: Floats


def chosen(day: Integers, place: Floats, share: Floats) -> Floats:
    """How much of each row is among the highest of its day.

    Args:
        share: of the day's rows that are taken, 0 to 1; the same for all rows of a day.
    """
    if not len(day):
        return np.zeros(0)
    order, group, of_group = _grouped(day, place)
    size = np.bincount(group).astype(np.float64)
    rows = np.bincount(of_group, weights=size)
    before = np.cumsum(size) - size
    first = np.cumsum(rows) - rows
    target = share[order][first.astype(np.int64)] * rows
    part = np.clip((target + first)[of_group] - before, 0, size) / size
    found = np.empty(len(day))
    found[order] = part[group]
    return found


def in_whole_rows(day: Integers, place: Floats, tie: Integers, share: Floats) -> Integers:
    """Which rows are among the highest of their days, where no row can be so in part.

    What a day has too little of for one more row is carried over to the days after it, so that all days
    together have as many as the shares say.

    Args:
        tie: of rows of one place that with less goes first.
    """
    if not len(day):
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort([tie, place, day])
    _, first, rows = np.unique(day[order], return_index=True, return_counts=True)
    # A share is a quotient, and a sum of such: what is a hair below a whole number is one.
    ends = np.floor(np.cumsum(share[order][first] * rows) + 1e-9).astype(np.int64)
    takes = np.minimum(np.diff(ends, prepend=0), rows)
    position = np.arange(len(day)) - np.repeat(first, rows)
    found = np.empty(len(day), dtype=np.int64)
    found[order] = position < np.repeat(takes, rows)
    return found


def score(metric: Metric, label: ArrayLike, rows: Highest) -> float | None:
    """``metric`` of labelled rows, of which the highest are decided to be 1; None where it is undefined.

    ``precision_at_k`` is the share of positives among the highest, ``recall_at_k`` the share of the positives
    that is among them, ``lift_at_k`` how many times as many positives there are among them as among as many
    rows at random. All are undefined without a positive, and precision and lift without a row among them.
    """
    y = _checked(label, rows)
    hits = float(rows.chosen @ y)
    found = _metric(metric, *(np.array([float(n)]) for n in (hits, rows.chosen.sum(), y.sum(), len(y))))[0]
    return None if np.isnan(found) else float(found)


def interval(
    metric: Metric,
    label: ArrayLike,
    rows: Highest,
    cluster: ArrayLike,
    *,
    replicates: int = INTERVAL_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of ``metric`` by a bootstrap of clusters; None where there is none."""
    y = _checked(label, rows)
    if score(metric, y, rows) is None:
        return None
    return interval_of(
        lambda codes, drawn: resampled(metric, y, rows, codes, drawn),
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def paired_difference(
    metric: Metric,
    label: ArrayLike,
    challenger: Highest,
    champion: Highest,
    cluster: ArrayLike,
    *,
    replicates: int = DIFFERENCE_REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """How much better the challenger is: both models scored on each resample of the same clusters."""
    y = _checked(label, challenger)
    return difference_of(
        (score(metric, y, challenger), score(metric, y, champion)),
        (
            lambda codes, drawn: resampled(metric, y, challenger, codes, drawn),
            lambda codes, drawn: resampled(metric, y, champion, codes, drawn),
        ),
        METRICS[metric].sign,
        cluster,
        len(y),
        replicates=replicates,
        level=level,
        seed=seed,
    )


def resampled(metric: Metric, y: Integers, rows: Highest, codes: Integers, weights: Floats) -> Floats:
    """``metric`` under each row of cluster ``weights``; NaN where it is undefined."""
    clusters = weights.shape[1]
    _, day = np.unique(rows.day, return_inverse=True)
    share = np.bincount(day, weights=rows.chosen) / np.bincount(day)
    taken, positives, all_rows = (
        weights @ np.bincount(codes, weights=counts, minlength=clusters)
        for counts in (share[day], y.astype(np.float64), np.ones(len(y)))
    )
    hits = _hits(y, day, rows.place, share, codes, weights)
    return _metric(metric, hits, taken, positives, all_rows)


def _metric(metric: Metric, hits: Floats, taken: Floats, positives: Floats, rows: Floats) -> Floats:
    """``metric``, from how many rows were taken, and how many of them were positive."""
    negatives, nothing = rows - positives, np.full(len(hits), np.nan)
    values: Floats
    with np.errstate(divide="ignore", invalid="ignore"):
        match metric:
            case "precision_at_k":
                values = np.where(taken > 0, hits / taken, nothing)
            case "recall_at_k" | "recall":
                values = hits / positives
            case "lift_at_k":
                values = np.where(taken > 0, hits / taken, nothing) * rows / positives
            case "precision":
                values = np.where(taken > 0, hits / taken, 0.0)
            case "f1":
                values = 2 * hits / (taken + positives)
            case "accuracy":
                return np.where(rows > 0, (negatives - taken + 2 * hits) / rows, nothing)
            case "balanced_accuracy":
                values = (hits / positives + 1 - (taken - hits) / negatives) / 2
                values = np.where(negatives > 0, values, nothing)
            case _:
                raise ValueError(f"{metric} is no metric of the highest rows")
    return np.where(positives > 0, values, nothing)


def _hits(
    y: Integers, day: Integers, place: Floats, share: Floats, codes: Integers, weights: Floats
) -> Floats:
    """The positives among the highest under each row of ``weights``, each day's cut being where it falls.

    Args:
        day: of each row, as a number from 0 without gaps.
        share: of each day's rows that are taken.
    """
    order, group, of_group = _grouped(day, place)
    y, codes, rows = y[order], codes[order], np.bincount(day)
    begins = np.flatnonzero(np.diff(group, prepend=-1)) - (np.cumsum(rows) - rows)[of_group]
    all_rows = _counts(day[order], codes, np.ones(len(y)), (len(rows), weights.shape[1]))
    target = share[:, np.newaxis] * (all_rows @ np.ascontiguousarray(weights.T))
    depth = np.where(share > 0, np.ceil(_DEEPER * share * rows) + _MORE, 0)
    while True:
        # A resample's cut seldom lies much deeper than the sample's, so the rows far below it are left out.
        kept = (begins < depth[of_group])[group]
        found = _hits_within(
            _counts(group[kept], codes[kept], np.ones(int(kept.sum())), (len(of_group), weights.shape[1])),
            _counts(group[kept], codes[kept], y[kept], (len(of_group), weights.shape[1])),
            of_group,
            target,
            weights,
        )
        if found is not None:
            return found
        depth = np.where(depth < rows, 4 * depth, depth)


def _hits_within(
    rows: Any, positives: Any, of_group: Integers, target: Floats, weights: Floats
) -> Floats | None:
    """The positives among the highest, of groups of rows from the highest of each day on.

    Args:
        rows: how many of each group and cluster there are; ``positives`` likewise.
        of_group: the day of each group.
        target: how many rows of each day each replicate takes.

    Returns:
        None if the rows of some day end above the cut of a replicate.
    """
    used = np.flatnonzero(np.diff(rows.indptr))
    rows, positives, of_group = rows[used], positives[used], of_group[used]
    by_day = _counts(of_group, np.arange(len(used)), np.ones(len(used)), (len(target), len(used)))
    there = (by_day @ rows) @ np.ascontiguousarray(weights.T)
    if (there < target - 1e-6).any():
        return None
    limit = np.cumsum(there, axis=0) - there + target
    found, above = np.zeros(len(weights)), np.zeros(len(weights))
    for drawn, groups, (here, hits) in ranking.in_steps([rows, positives], weights):
        below = here.copy()
        ranking.run_on(below, above[drawn])
        # What of a group lies above the cut: all of it, some, or nothing.
        part = limit[of_group[groups], drawn] - below + here
        np.clip(part, 0, here, out=part)
        part *= hits
        np.maximum(here, 1, out=here)
        part /= here
        found[drawn] += part.sum(axis=0)
    return found


def _grouped(day: Integers, place: Floats) -> tuple[Integers, Integers, Integers]:
    """The order of rows by day and place, the tie that each row in it is of, and the day of each tie."""
    order = np.lexsort([place, day])
    days, places = day[order], place[order]
    is_new = np.append(True, (days[1:] != days[:-1]) | (places[1:] != places[:-1]))
    _, codes = np.unique(days[is_new], return_inverse=True)
    return order, np.cumsum(is_new) - 1, codes


def _counts(row: Integers, column: Integers, numbers: Floats | Integers, shape: tuple[int, int]) -> Any:
    """What numbers add up to in each cell of a matrix of which most are 0."""
    from scipy import sparse

    return sparse.csr_matrix((numbers.astype(np.float64), (row, column)), shape)


def _checked(label: ArrayLike, rows: Highest) -> Integers:
    y = np.asarray(label, dtype=np.float64)
    if not y.ndim == 1 or any(y.shape != values.shape for values in (rows.day, rows.place, rows.chosen)):
        raise ValueError(f"{len(y)} labels, but {len(rows.day)} rows that may be among the highest")
    wrong = int(np.sum((y != 0) & (y != 1)))
    if wrong:
        raise ValueError(f"{wrong} of {len(y)} rows have a label that is not 0 or 1; leave them out")
    return y.astype(np.int64)
