"""Drift of columns between two windows of days, measured by Evidently and guarded against what fools it.

Population stability index (PSI) and its kin compare the shares of bins or categories in two samples. They
don't see nulls, an outlier makes all but one bin empty, small samples differ by chance, and a column
without values takes the whole report with it. Which windows are compared, and how they are read, is
decided elsewhere; a page for people is made in :mod:`.drift_report`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ml_platform.contract.monitoring import MASK
from ml_platform.contract.product import Product
from ml_platform.mlops.quality.expectations import number

if TYPE_CHECKING:
    import pandas as pd

#: Numbers are compared in bins of equal widths or, by quantiles, in bins that hold equally many values of the
#: reference.
Kind = Literal["numeric", "quantiles", "categorical"]
Role = Literal["feature", "label", "prediction"]
Verdict = Literal["drifted", "stable", "insufficient", "no values", "no reference"]

#: Both samples are clipped to these quantiles of the reference before they are binned.
CLIPPED = (0.001, 0.999)
#: Categories of the reference that are compared one by one; the others count as one.
CATEGORIES = 30
OTHERS = "(others)"
#: Numbers with at most so many values are compared value by value, as the library does.
FEW_VALUES = 20
LISTED = 10
#: The order of the rows, which has no meaning, shows in the last bits of a sum.
SCORE_DECIMALS = 9
#: Bins of numbers that are compared by quantiles.
QUANTILES = 10


@dataclass(frozen=True)
class Column:
    """A column that is measured."""

    name: str
    kind: Kind
    role: Role


@dataclass(frozen=True)
class Summary:
    """What is known of a column over a whole window, not of a sample: counts, and the range of a number."""

    rows: int = 0
    nulls: int = 0
    minimum: float | None = None
    maximum: float | None = None

    @property
    def values(self) -> int:
        return self.rows - self.nulls

    @property
    def null_share(self) -> float | None:
        return self.nulls / self.rows if self.rows else None


@dataclass(frozen=True)
class Window:
    """A span of days: a bounded sample of its values by column, and a summary of each column.

    Attributes:
        name: what people read, like ``2013-03``.
        sample: a series per column, of its own length; numbers, text, or null.
    """

    name: str
    sample: Mapping[str, pd.Series]
    summaries: Mapping[str, Summary]


@dataclass(frozen=True)
class ColumnDrift:
    """One column against one reference. ``score`` is None where none could be measured."""

    column: str
    kind: Kind
    role: Role
    reference: str
    score: float | None
    threshold: float
    verdict: Verdict
    reasons: tuple[str, ...]
    nulls_before: float | None
    nulls_now: float | None
    range_before: str
    range_now: str
    new_categories: tuple[str, ...] = ()
    new_count: int = 0
    gone_count: int = 0
    gone_categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All columns against one reference, and Evidently's own page of those it could measure."""

    reference: str
    columns: tuple[ColumnDrift, ...]
    html: bytes | None = field(default=None, repr=False)

    @property
    def drifted(self) -> list[ColumnDrift]:
        return [column for column in self.columns if column.verdict == "drifted"]

    @property
    def measured(self) -> list[ColumnDrift]:
        return [column for column in self.columns if column.verdict in ("drifted", "stable")]

    @property
    def share(self) -> float | None:
        """The drifted columns' share of those that could be judged."""
        return len(self.drifted) / len(self.measured) if self.measured else None


def compare(product: Product, columns: Sequence[Column], current: Window, reference: Window) -> Comparison:
    """Measure the drift of ``current`` from ``reference``.

    A column is drifted if its score reaches the threshold, or its share of nulls has changed by more than
    the contract allows. Columns that a window has fewer values of than the contract's minimum are
    insufficient, and never drifted by their score.
    """
    known = [column for column in columns if column.name in current.summaries]
    fit = [column for column in known if _unfit(product, column, current, reference) is None]
    prepared = {column.name: _shown(product, column, _prepared(column, current, reference)) for column in fit}
    scores, html = _measure(product, prepared) if fit else ({}, None)
    found = [_column(product, column, current, reference, scores.get(column.name)) for column in known]
    return Comparison(reference.name, tuple(found), html)


def _unfit(
    product: Product, column: Column, current: Window, reference: Window
) -> tuple[Verdict, str] | None:
    """Why a column can't be measured, if it can't."""
    if column.name not in reference.summaries:
        return "no reference", f"{reference.name} has no {column.name}"
    minimum = product.drift.minimum_rows
    for window in (current, reference):
        values = window.summaries[column.name].values
        if values == 0 or window.sample[column.name].notna().sum() == 0:
            return "no values", f"{window.name} has no values"
        if values < minimum:
            return "insufficient", f"{window.name} has {values:,} values, needed are {minimum:,}"
    return None


# -- guards ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """The two samples of a column as they are compared: without nulls, of one type, without outliers."""

    kind: Kind
    now: pd.Series
    before: pd.Series


def _prepared(column: Column, current: Window, reference: Window) -> _Pair:
    now, before = current.sample[column.name].dropna(), reference.sample[column.name].dropna()
    if column.kind == "quantiles":
        return _in_bins(now.astype("float64"), before.astype("float64"))
    if column.kind == "numeric":
        now, before = now.astype("float64"), before.astype("float64")
        low, high = (float(before.quantile(share)) for share in CLIPPED)
        # Of a number with few values a clip or bins would hide a new one: each value is a category.
        if low < high and before.nunique() > FEW_VALUES:
            return _Pair("numeric", now.clip(low, high), before.clip(low, high))
    now, before = _texts(column, now), _texts(column, before)
    frequent = set(_counts(before).index[:CATEGORIES])
    # What is new, or too rare to be compared by itself, is one category of its own.
    return _Pair(
        "categorical",
        now.where(now.isin(frequent), OTHERS),
        before.where(before.isin(frequent), OTHERS),
    )


def _in_bins(now: pd.Series, before: pd.Series) -> _Pair:
    """Both samples as the bins of their values, which hold equally many of the reference's as far as can be.

    A value that so many rows have that it is several of the bounds is a bin by itself: whether it moves up or
    down is seen. What lies beyond all values of the reference is in the outermost bins.
    """
    import numpy as np
    import pandas as pd

    bounds = np.quantile(before, np.arange(1, QUANTILES) / QUANTILES)
    inner, counts = np.unique(bounds, return_counts=True)
    # Bins end with their upper bound: one that ends just below such a value leaves it alone in the next.
    alone = np.nextafter(inner[(counts > 1) | (inner == before.min())], -np.inf)
    inner = np.unique(np.concatenate([inner, alone]))
    names = _names_of_bins(inner.tolist(), frozenset(alone.tolist()))
    return _Pair(
        "categorical",
        *(pd.Series(names[np.searchsorted(inner, sample, side="left")]) for sample in (now, before)),
    )


def _names_of_bins(edges: Sequence[float], below: frozenset[float]) -> Any:
    """What the bins between some edges are called, each with its number so that no two are called alike.

    Args:
        below: those of the edges that end just below a value, which the next bin has alone.
    """
    import numpy as np

    said = [number(value) for value in edges]
    names = [f"below {said[1]}" if edges[0] in below else f"up to {said[0]}"]
    for place, (low, high) in enumerate(pairwise(edges), start=1):
        if low in below:
            names.append(said[place])
        elif high in below:
            names.append(f"{said[place - 1]} to below {said[place + 1]}")
        else:
            names.append(f"{said[place - 1]} to {said[place]}")
    names.append(f"above {said[-1]}")
    return np.array([f"{n}: {name}" for n, name in enumerate(names, start=1)], dtype=object)


def _texts(column: Column, values: pd.Series) -> pd.Series:
    """Values as text. A label is a float where others of the window have not come, and no less the same."""
    is_text = len(values) > 0 and isinstance(values.iloc[0], str)
    return (values.astype("int64") if column.role == "label" and not is_text else values).astype(str)


def _counts(texts: pd.Series) -> pd.Series:
    """How often each text is there, the frequent ones first, whatever order the rows come in."""
    return texts.value_counts().sort_index().sort_values(ascending=False, kind="stable")


def _is_masked(product: Product, column: Column) -> bool:
    """Whether no value of a column may be shown: it is sensitive, or a prediction of a label that is."""
    tells_labels = column.role == "prediction" and not product.task.has_positives
    return column.name in product.sensitive or (tells_labels and product.label in product.sensitive)


def _shown(product: Product, column: Column, pair: _Pair) -> _Pair:
    """The pair as the library's page may show it: its scores don't depend on what is changed here.

    The page is full of scripts and escapes nothing, so no category may hold markup; of a sensitive column
    it shows neither values nor names.
    """
    if not _is_masked(product, column):
        if pair.kind == "numeric":
            return pair
        plain = str.maketrans("<>&\"'\\", "‹›+”’/")
        return _Pair(pair.kind, pair.now.str.translate(plain), pair.before.str.translate(plain))
    if pair.kind == "numeric":
        # Bins have equal widths, so that a linear change of all values leaves the shares as they are.
        low, high = float(pair.before.min()), float(pair.before.max())
        return _Pair(pair.kind, (pair.now - low) / (high - low), (pair.before - low) / (high - low))
    names = {name: f"category {n}" for n, name in enumerate(sorted({*pair.now, *pair.before}), start=1)}
    return _Pair(pair.kind, pair.now.map(names), pair.before.map(names))


def _measure(product: Product, prepared: Mapping[str, _Pair]) -> tuple[dict[str, float], bytes]:
    """The scores by column, and the library's page."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name, pair in prepared.items() if pair.kind == "numeric"],
            categorical_columns=[name for name, pair in prepared.items() if pair.kind == "categorical"],
        )

        def data(samples: Mapping[str, pd.Series]) -> Any:
            # The columns have lengths of their own; what is padded with nulls is left out by the library.
            aligned = {name: sample.reset_index(drop=True) for name, sample in samples.items()}
            return Dataset.from_pandas(pd.DataFrame(aligned), data_definition=definition)

        names = list(prepared)
        thresholds = {name: threshold_of(product, name) for name in names}
        usual = [name for name in names if thresholds[name] == product.drift.threshold]
        method = product.drift.method
        metrics: list[Any] = []
        if usual:
            preset = DataDriftPreset(
                columns=usual,
                method=method,
                threshold=product.drift.threshold,
                # The library calls a data set drifted from this share on, the contract above it.
                drift_share=max(product.drift.maximum_share, 1e-6),
            )
            metrics.append(preset)
        metrics += [
            ValueDrift(column=name, method=method, threshold=thresholds[name])
            for name in names
            if name not in usual
        ]
        # The current window comes first.
        snapshot = Report(metrics).run(
            data({name: pair.now for name, pair in prepared.items()}),
            data({name: pair.before for name, pair in prepared.items()}),
        )
    scores = {
        metric["config"]["column"]: round(float(metric["value"]), SCORE_DECIMALS)
        for metric in snapshot.dict()["metrics"]
        if metric["config"]["type"].endswith("ValueDrift")
    }
    return scores, snapshot.get_html_str(as_iframe=False).encode()


def threshold_of(product: Product, column: str) -> float:
    """The score from which a column counts as drifted."""
    return product.drift.thresholds.get(column, product.drift.threshold)


# -- verdicts ----------------------------------------------------------------------------------------


def _column(
    product: Product, column: Column, current: Window, reference: Window, score: float | None
) -> ColumnDrift:
    now = current.summaries[column.name]
    before = reference.summaries.get(column.name, Summary())
    unfit = _unfit(product, column, current, reference)
    threshold = threshold_of(product, column.name)
    reasons = [] if unfit is None else [unfit[1]]
    verdict: Verdict = "stable" if unfit is None else unfit[0]
    if score is not None and score >= threshold:
        verdict = "drifted"
        reasons.append(f"{product.drift.method} {score:.3f}, threshold {threshold:g}")
    if _nulls_changed(product, now, before):
        verdict = "drifted"
        reasons.append(f"nulls {before.null_share or 0:.1%} before, {now.null_share or 0:.1%} now")
    (new, new_count), (gone, gone_count) = _categories(product, column, current, reference)
    masked = _is_masked(product, column)
    return ColumnDrift(
        column=column.name,
        kind=column.kind,
        role=column.role,
        reference=reference.name,
        score=score,
        threshold=threshold,
        verdict=verdict,
        reasons=tuple(reasons),
        nulls_before=before.null_share,
        nulls_now=now.null_share,
        range_before=MASK if masked else _range(before),
        range_now=MASK if masked else _range(now),
        new_categories=new,
        new_count=new_count,
        gone_count=gone_count,
        gone_categories=gone,
    )


def _nulls_changed(product: Product, now: Summary, before: Summary) -> bool:
    """Whether the share of nulls differs by more than the contract allows, on enough rows to tell."""
    minimum = product.drift.minimum_rows
    if now.null_share is None or before.null_share is None or min(now.rows, before.rows) < minimum:
        return False
    return abs(now.null_share - before.null_share) > product.drift.maximum_null_change


def _range(summary: Summary) -> str:
    if summary.minimum is None or summary.maximum is None:
        return ""
    return f"{number(summary.minimum)} to {number(summary.maximum)}"


def _categories(
    product: Product, column: Column, current: Window, reference: Window
) -> tuple[tuple[tuple[str, ...], int], tuple[tuple[str, ...], int]]:
    """The categories that the samples have only now, and only before: the most frequent, and how many."""
    if column.kind != "categorical" or column.name not in reference.sample:
        return ((), 0), ((), 0)
    now = _counts(_texts(column, current.sample[column.name].dropna()))
    before = _counts(_texts(column, reference.sample[column.name].dropna()))
    return _only(product, column, now, before), _only(product, column, before, now)


def _only(
    product: Product, column: Column, some: pd.Series, others: pd.Series
) -> tuple[tuple[str, ...], int]:
    names = [name for name in some.index if name not in others.index]
    is_masked = _is_masked(product, column)
    return tuple(MASK if is_masked else str(name) for name in names[:LISTED]), len(names)
