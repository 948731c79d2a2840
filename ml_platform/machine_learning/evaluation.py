"""How good the predictions of the last labelled days were, for every day of a range at once.

``model_performance[d]`` looks at the ``window_days`` event days that end with the last one whose labels can
be known on the morning after *d*. Rows without a label by then are never negatives; they
are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering.mrds import MRDS
from ml_platform.machine_learning import metrics
from ml_platform.machine_learning.asof import (
    CLUSTER,
    CLUSTERS,
    can_hash_in_memory,
    cluster,
    entity_hash,
    entity_hashes_of,
)
from ml_platform.machine_learning.scoring import PREDICTIONS
from ml_platform.product import EVENT_DAY, LABEL_KNOWN_ON, DayRange, Product
from ml_platform.storage.tables import Tables, column
from ml_platform.tasks import in_tasks

#: Days evaluated by one task; each task reads its days' windows once.
_DAYS_A_TASK = 16
_DECIMALS = 9
_SCORED = ("probability", "decision", "model_as_of")

Verdict = Literal["passed", "failed", "insufficient"]


@dataclass(frozen=True)
class Evaluation:
    """The performance over one window; ``champion_*`` counts only what the current champion scored."""

    event_day: date
    metric: str
    rows: int = 0
    labelled: int = 0
    positives: int = 0
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    precision: float | None = None
    recall: float | None = None
    roc_auc: float | None = None
    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    baseline: float | None = None
    sampled: bool = False
    models: tuple[str, ...] = ()
    champion_as_of: date | None = None
    champion_rows: int = 0
    champion_positives: int = 0
    champion_value: float | None = None


_PLAIN = TypeAdapter(Evaluation)


def window(product: Product, day: date) -> DayRange:
    """The event days that ``model_performance`` of a day looks at."""
    last = product.last_labelled_day(day + timedelta(days=1))
    return DayRange(last - timedelta(days=product.evaluation.window_days - 1), last)


def verdict(product: Product, value: float | None, rows: int, positives: int) -> Verdict:
    """Whether a metric over so many labelled rows is good enough, or too thin to say."""
    rules = product.evaluation
    if value is None or rows < rules.minimum_rows or positives < rules.minimum_positives:
        return "insufficient"
    return "passed" if value >= rules.threshold else "failed"


def evaluate(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    scored: Mapping[date, int],
    champions: Mapping[date, date | None],
) -> dict[date, Evaluation]:
    """Evaluate each of ``days``, in one Spark job.

    Where the tables lie in a folder and no window is sampled, its tasks read their days' windows themselves.

    Args:
        scored: the event days that may be counted, with their numbers of predictions.
        champions: for each of ``days`` the as-of date of the model that serves it.
    """
    empty = {
        day: Evaluation(day, product.evaluation.metric, champion_as_of=champions.get(day)) for day in days
    }
    windows = {day: window(product, day) for day in days}
    needed = sorted(day for day in scored if any(day in days_ for days_ in windows.values()))
    if not needed:
        return empty
    largest = max(sum(n for day, n in scored.items() if day in days_) for days_ in windows.values())
    sampled = largest > product.evaluation.maximum_rows
    predictions, labels = (tables.day_files(product.name, table) for table in (PREDICTIONS, MRDS))
    if sampled or predictions is None or labels is None or not can_hash_in_memory(product):
        rows = _rows(spark, product, tables, needed, largest)
        return empty | _by_spark(spark, product, rows, windows, champions, sampled)
    versions = [tables.version(product.name, table) for table in (PREDICTIONS, MRDS)]

    def evaluate_block(block: Sequence[date]) -> Iterator[tuple[date, Evaluation]]:
        first, last = windows[block[0]].first, windows[block[-1]].last
        inside = [day for day in needed if first <= day <= last]
        scored_rows = predictions.read_all(versions[0], inside, [*identity, *_SCORED])
        labelled = labels.read_all(versions[1], inside, [*identity, product.label, LABEL_KNOWN_ON])
        frame = _joined(product, scored_rows, labelled)
        if len(frame):
            for one in _evaluate_days(product, frame, block, champions, sampled):
                yield one.event_day, one

    identity = product.identity
    return empty | in_tasks(spark, sorted(days), evaluate_block, Evaluation, days_a_task=_DAYS_A_TASK)


def _by_spark(
    spark: SparkSession,
    product: Product,
    rows: DataFrame,
    windows: Mapping[date, DayRange],
    champions: Mapping[date, date | None],
    sampled: bool,
) -> dict[date, Evaluation]:
    """Evaluate rows that Spark has read and joined, in one job; a day without any is left out."""
    blocks = _batches(sorted(windows), _DAYS_A_TASK)
    bounds = spark.createDataFrame(
        [(n, windows[block[0]].first, windows[block[-1]].last) for n, block in enumerate(blocks)],
        "_block int, _first date, _last date",
    )
    exploded = rows.join(F.broadcast(bounds), rows[EVENT_DAY].between(F.col("_first"), F.col("_last")))

    def evaluate_block(frame: pd.DataFrame) -> pd.DataFrame:
        block = blocks[int(frame["_block"].iloc[0])]
        found = _evaluate_days(product, frame, block, champions, sampled)
        return pd.DataFrame({"result": [_PLAIN.dump_json(one).decode() for one in found]})

    results = exploded.groupBy("_block").applyInPandas(evaluate_block, "result string").collect()
    evaluations = [_PLAIN.validate_json(row["result"]) for row in results]
    return {one.event_day: one for one in evaluations}


def _joined(product: Product, predictions: pa.Table, labels: pa.Table) -> pd.DataFrame:
    """What :func:`_rows` has, of rows that are held in memory."""
    labels = labels.rename_columns({product.label: "_label"})
    rows = predictions.join(labels, product.identity, join_type="left outer")
    clusters = entity_hashes_of(product, rows, CLUSTER, CLUSTERS)
    frame: pd.DataFrame = rows.append_column("_cluster", pa.array(clusters)).to_pandas()
    return frame


def _rows(
    spark: SparkSession, product: Product, tables: Tables, days: Sequence[date], largest: int
) -> DataFrame:
    """Predictions beside the labels of their rows; above the contract's bound, a sample by entity."""
    identity = product.identity
    predictions = tables.read_days(spark, product.name, PREDICTIONS, days)
    maximum = product.evaluation.maximum_rows
    if largest > maximum:
        parts = 1_000_000
        predictions = predictions.where(
            entity_hash(product, "sample", parts) < int(parts * maximum / largest)
        )
    labels = tables.read_days(spark, product.name, MRDS, days).select(
        *[column(name) for name in identity], column(product.label).alias("_label"), column(LABEL_KNOWN_ON)
    )
    return predictions.join(labels, identity, "left").select(
        EVENT_DAY,
        *_SCORED,
        "_label",
        LABEL_KNOWN_ON,
        cluster(product).alias("_cluster"),
    )


def _evaluate_days(
    product: Product,
    frame: pd.DataFrame,
    days: Sequence[date],
    champions: Mapping[date, date | None],
    sampled: bool,
) -> list[Evaluation]:
    frame = frame.sort_values([EVENT_DAY, "_cluster", "probability"], kind="stable")
    event_day = _ordinals(frame[EVENT_DAY])
    known_on = _ordinals(frame[LABEL_KNOWN_ON])
    model = _ordinals(frame["model_as_of"])
    label = frame["_label"].to_numpy(dtype=float, na_value=np.nan)
    probability = frame["probability"].to_numpy(dtype=float)
    decision = frame["decision"].to_numpy(dtype=np.int64)
    clusters = frame["_cluster"].to_numpy(dtype=np.int64)

    results = []
    for day in days:
        bounds = window(product, day)
        start = np.searchsorted(event_day, bounds.first.toordinal(), side="left")
        stop = np.searchsorted(event_day, bounds.last.toordinal(), side="right")
        inside = slice(int(start), int(stop))
        as_of = day + timedelta(days=1)
        known = (known_on[inside] <= as_of.toordinal()) & ~np.isnan(label[inside])
        champion = champions.get(day)
        by_champion = known & (model[inside] == (champion.toordinal() if champion else -1))
        results.append(
            _evaluate(
                product,
                day,
                label[inside],
                probability[inside],
                decision[inside],
                clusters[inside],
                model[inside],
                known,
                by_champion,
                champion,
                sampled,
            )
        )
    return results


def _evaluate(
    product: Product,
    day: date,
    label: npt.NDArray[np.float64],
    probability: npt.NDArray[np.float64],
    decision: npt.NDArray[np.int64],
    clusters: npt.NDArray[np.int64],
    model: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    by_champion: npt.NDArray[np.bool_],
    champion: date | None,
    sampled: bool,
) -> Evaluation:
    metric = product.evaluation.metric
    y, p, d = label[known].astype(np.int64), probability[known], decision[known]
    whole = metrics.summary(y, p, d)
    bounds = metrics.interval(metric, y, p, d, clusters[known])
    ones = np.ones_like(d)
    y_champion = label[by_champion].astype(np.int64)
    return Evaluation(
        event_day=day,
        metric=metric,
        rows=len(label),
        labelled=len(y),
        positives=int(y.sum()),
        value=_rounded(metrics.score(metric, y, p, d)),
        lower=_rounded(bounds[0]) if bounds else None,
        upper=_rounded(bounds[1]) if bounds else None,
        precision=_rounded(whole["precision"]),
        recall=_rounded(whole["recall"]),
        roc_auc=_rounded(whole["roc_auc"]),
        tp=int(whole["tp"] or 0),
        fp=int(whole["fp"] or 0),
        fn=int(whole["fn"] or 0),
        tn=int(whole["tn"] or 0),
        baseline=_rounded(metrics.score(metric, y, ones.astype(float), ones)),
        sampled=sampled,
        models=tuple(str(date.fromordinal(int(one))) for one in np.unique(model)),
        champion_as_of=champion,
        champion_rows=len(y_champion),
        champion_positives=int(y_champion.sum()),
        champion_value=_rounded(
            metrics.score(metric, y_champion, probability[by_champion], decision[by_champion])
        ),
    )


def _ordinals(days: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Days as proleptic Gregorian ordinals; a day that is not known lies beyond all others."""
    far = date.max.toordinal()
    codes, values = pd.factorize(days)
    ordinals = np.array([value.toordinal() for value in values] + [far], dtype=np.int64)
    return ordinals[codes]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DECIMALS)


def _batches(days: Sequence[date], size: int) -> list[list[date]]:
    return [list(days[n : n + size]) for n in range(0, len(days), size)]
