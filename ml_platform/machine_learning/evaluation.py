"""How good the predictions of the last labelled days were, for every day of a range at once.

``model_performance[d]`` looks at the ``window_days`` event days that end with the last one whose labels can
be known on the morning after *d*. Rows without a label by then are never negatives; they
are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter
from pyspark.sql import GroupedData, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.days import DayRange
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import aggregation, buckets
from ml_platform.data_engineering.day_rows import RowsInFolder, mapped, subschema
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.machine_learning import predicted_rows
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.predicted_rows import PREDICTIONS
from ml_platform.machine_learning.retraining import JudgedOn
from ml_platform.machine_learning.training_data import (
    SAMPLE_STEPS,
    clusters,
    sampled,
    share_of,
)
from ml_platform.spark.tasks import Session, in_tasks, spare_next_task
from ml_platform.storage.tables import Tables, column

#: Days evaluated by one task; each task reads its days' windows once.
_DAYS_A_TASK = 16
_DECIMALS = 9
_BLOCK = "_block"
_SCORED_BY = ("model_as_of", "model_fingerprint")

Verdict = Literal["passed", "failed", "insufficient"]
Champions = Mapping[date, "Champion | None"]


@dataclass(frozen=True)
class Champion:
    """The model that serves a day."""

    as_of: date
    fingerprint: str


@dataclass(frozen=True)
class Evaluation:
    """The performance over one window; ``champion_*`` counts only what the day's champion is judged on.

    That is what it has scored itself, unless ``champion_judged_on`` says otherwise. ``figures`` are those
    that the kind of label reports beside the fields.
    """

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
    champion_fingerprint: str | None = None
    champion_judged_on: JudgedOn = "scored"
    champion_rows: int = 0
    champion_positives: int = 0
    champion_value: float | None = None
    figures: dict[str, float] = field(default_factory=dict)


_PLAIN = TypeAdapter(Evaluation)


def verdict(product: Product, value: float | None, rows: int, positives: int) -> Verdict:
    """Whether a metric over so many labelled rows is good enough, or too thin to say."""
    if value is None or not has_evidence(product, rows, positives):
        return "insufficient"
    return "passed" if product.metric.is_enough(value, product.evaluation.threshold) else "failed"


def evaluate(
    session: Session,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    scored: Mapping[date, int],
    champions: Champions,
) -> dict[date, Evaluation]:
    """Evaluate each of ``days``.

    Where the tables lie in a folder tasks read their days' windows themselves, or this process does if there
    is little to read; otherwise Spark brings them to the tasks. What is computed of them is the same.

    Args:
        scored: the event days that may be counted, with their numbers of predictions.
        champions: for each of ``days`` the model that serves it.
    """
    empty = {day: _empty(product, day, champions.get(day)) for day in days}
    windows = {day: days_evaluated(product, day) for day in days}
    needed = sorted(day for day in scored if any(day in window for window in windows.values()))
    if not needed:
        return empty
    largest = max(sum(n for day, n in scored.items() if day in window) for window in windows.values())
    blocks = _Blocks(product, windows, dict(champions), share_of(product.evaluation.maximum_rows, largest))
    by_block = _in_files(session, tables, blocks, needed)
    if by_block is None:
        by_block = _by_spark(session(), tables, blocks, needed)
    return empty | by_block


@dataclass(frozen=True)
class _Blocks:
    """What is computed of the windows of days that follow one another. It travels to the tasks.

    Args:
        share: the millionths of the entities that are counted.
    """

    product: Product
    windows: Mapping[date, DayRange]
    champions: Champions
    share: int

    @property
    def predictions(self) -> pa.Schema:
        """The columns that are read of the predictions."""
        return subschema(
            predicted_rows.schema(self.product),
            [*self.product.identity, *kind_of(self.product).read, *_SCORED_BY],
        )

    @property
    def labels(self) -> pa.Schema:
        """The columns that are read of the MRDS."""
        names = [*self.product.identity, self.product.label, LABEL_KNOWN_ON]
        return subschema(aggregation.schema(self.product), names)

    def bounds(self, block: Sequence[date]) -> tuple[date, date]:
        """The first and the last day that the windows of some days in order reach."""
        return self.windows[block[0]].first, self.windows[block[-1]].last

    def thinned(self, rows: pa.Table) -> pa.Table:
        """Some rows of either table, of the entities that are counted."""
        return sampled(self.product, rows, "sample", self.share)

    def evaluate(self, block: Sequence[date], predictions: pa.Table, labels: pa.Table) -> list[Evaluation]:
        """The evaluations of some days, of the rows that their windows reach; none without predictions."""
        if not len(predictions):
            return []
        labels = labels.rename_columns({self.product.label: "_label"})
        rows = predictions.join(labels, self.product.identity, join_type="left outer")
        rows = rows.append_column("_cluster", pa.array(clusters(self.product, rows)))
        is_sample = self.share < SAMPLE_STEPS
        return _evaluate_days(self.product, rows.to_pandas(), block, self.champions, is_sample)


def _in_files(
    session: Session, tables: Tables, blocks: _Blocks, needed: Sequence[date]
) -> dict[date, Evaluation] | None:
    """Evaluate what tasks read of files; None where they can't."""
    product = blocks.product
    predictions, labels = (tables.day_files(product.name, table) for table in (PREDICTIONS, MRDS))
    if predictions is None or labels is None:
        return None
    versions = [tables.version(product.name, table) for table in (PREDICTIONS, MRDS)]

    def evaluate_block(block: Sequence[date]) -> Iterator[tuple[date, Evaluation]]:
        first, last = blocks.bounds(block)
        inside = [day for day in needed if first <= day <= last]
        scored_rows = RowsInFolder(predictions, versions[0], inside, blocks.predictions)
        labelled = RowsInFolder(labels, versions[1], inside, blocks.labels)
        read = [rows.map(blocks.thinned, rows.schema) for rows in (scored_rows, labelled)]
        for evaluated in blocks.evaluate(block, *read):
            yield evaluated.event_day, evaluated

    rows = sum(predictions.sizes(versions[0])[day] for day in needed)
    # Joined and sorted in pandas a row takes nine times what it takes in a column.
    size = buckets.csv_bytes(rows, len(blocks.predictions))
    here = len(blocks.windows) <= buckets.DAYS_HERE and size <= buckets.HELD_BYTES
    days = sorted(blocks.windows)
    return in_tasks(session, days, evaluate_block, Evaluation, here=here, days_a_task=_DAYS_A_TASK)


def _by_spark(
    spark: SparkSession, tables: Tables, blocks: _Blocks, needed: Sequence[date]
) -> dict[date, Evaluation]:
    """Evaluate what Spark brings to the tasks."""
    batches = _batches(sorted(blocks.windows), _DAYS_A_TASK)
    bounds = [(number, *blocks.bounds(block)) for number, block in enumerate(batches)]

    def by_block(table: str, schema: pa.Schema) -> GroupedData:
        rows = tables.read_days(spark, blocks.product.name, table, needed)
        rows = rows.select(*[column(name) for name in schema.names])
        if blocks.share < SAMPLE_STEPS:
            rows = mapped(rows, blocks.thinned, schema, schema)
        reached = rows[EVENT_DAY].between(F.col("_first"), F.col("_last"))
        # Of one frame that is joined twice Spark would not know the columns apart.
        reaching = spark.createDataFrame(bounds, f"{_BLOCK} int, _first date, _last date")
        return rows.join(F.broadcast(reaching), reached).drop("_first", "_last").groupBy(_BLOCK)

    predictions, labels = blocks.predictions, blocks.labels

    def evaluate_block(scored_rows: pa.Table, labelled: pa.Table) -> pa.Table:
        found: list[Evaluation] = []
        if len(scored_rows):
            block = batches[scored_rows[_BLOCK][0].as_py()]
            left = scored_rows.select(predictions.names).cast(predictions)
            found = blocks.evaluate(block, left, labelled.select(labels.names).cast(labels))
        spare_next_task()
        return pa.table(
            {"result": pa.array([_PLAIN.dump_json(part).decode() for part in found], pa.string())}
        )

    grouped = by_block(PREDICTIONS, predictions).cogroup(by_block(MRDS, labels))
    rows = grouped.applyInArrow(evaluate_block, "result string").collect()
    evaluations = [_PLAIN.validate_json(row["result"]) for row in rows]
    return {evaluation.event_day: evaluation for evaluation in evaluations}


def has_evidence(product: Product, rows: int, positives: int) -> bool:
    """Whether so many labelled rows are enough to say something of a model."""
    needed = product.evaluation.minimum_positives if product.task.has_positives else 0
    return rows >= product.evaluation.minimum_rows and positives >= needed


def _empty(product: Product, day: date, champion: Champion | None) -> Evaluation:
    return Evaluation(
        day,
        product.evaluation.metric,
        champion_as_of=champion.as_of if champion else None,
        champion_fingerprint=champion.fingerprint if champion else None,
    )


def _evaluate_days(
    product: Product,
    frame: pd.DataFrame,
    days: Sequence[date],
    champions: Champions,
    sampled: bool,
) -> list[Evaluation]:
    kind = kind_of(product)
    frame = frame.sort_values([EVENT_DAY, "_cluster", kind.read[0]], kind="stable")
    event_day = ordinals(frame[EVENT_DAY])
    known_on = ordinals(frame[LABEL_KNOWN_ON])
    model = ordinals(frame["model_as_of"])
    fingerprints, scored_by = pd.factorize(frame["model_fingerprint"])
    known_models = {fingerprint: code for code, fingerprint in enumerate(scored_by)}
    label, predictions = kind.labels(frame["_label"]), kind.of_table(frame)
    clusters = frame["_cluster"].to_numpy(dtype=np.int64)

    results = []
    for day in days:
        bounds = days_evaluated(product, day)
        start = np.searchsorted(event_day, bounds.first.toordinal(), side="left")
        stop = np.searchsorted(event_day, bounds.last.toordinal(), side="right")
        inside = slice(int(start), int(stop))
        as_of = day + timedelta(days=1)
        known = (known_on[inside] <= as_of.toordinal()) & ~np.isnan(label[inside])
        champion = champions.get(day)
        code = known_models.get(champion.fingerprint) if champion else None
        by_champion = known & (fingerprints[inside] == code) if code is not None else np.zeros_like(known)
        results.append(
            _evaluate(
                product,
                day,
                label[inside],
                of_rows(predictions, inside),
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
    predictions: Predictions,
    clusters: npt.NDArray[np.int64],
    model: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    by_champion: npt.NDArray[np.bool_],
    champion: Champion | None,
    sampled: bool,
) -> Evaluation:
    kind = kind_of(product)
    y, made = label[known], of_rows(predictions, known)
    whole = kind.summary(y, made)
    bounds = kind.interval(y, made, clusters[known])
    y_champion = label[by_champion]
    return Evaluation(
        event_day=day,
        metric=product.evaluation.metric,
        rows=len(label),
        labelled=len(y),
        positives=kind.positives(y),
        value=rounded(kind.score(y, made)),
        lower=rounded(bounds[0]) if bounds else None,
        upper=rounded(bounds[1]) if bounds else None,
        precision=rounded(whole.get("precision")),
        recall=rounded(whole.get("recall")),
        roc_auc=rounded(whole.get("roc_auc")),
        tp=int(whole.get("tp") or 0),
        fp=int(whole.get("fp") or 0),
        fn=int(whole.get("fn") or 0),
        tn=int(whole.get("tn") or 0),
        baseline=rounded(kind.score(y, kind.constant(y, made))),
        sampled=sampled,
        models=tuple(str(date.fromordinal(int(name))) for name in np.unique(model)),
        champion_as_of=champion.as_of if champion else None,
        champion_fingerprint=champion.fingerprint if champion else None,
        champion_rows=len(y_champion),
        champion_positives=kind.positives(y_champion),
        champion_value=rounded(kind.score(y_champion, of_rows(predictions, by_champion))),
        figures={
            name: round(float(figure), _DECIMALS)
            for name, figure in whole.items()
            if figure is not None and name in kind.figures
        },
    )


def of_rows(predictions: Predictions, rows: Any) -> Predictions:
    """The predictions for some of the rows."""
    return tuple(values[rows] for values in predictions)


def ordinals(days: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """Days as proleptic Gregorian ordinals; a day that is not known lies beyond all others."""
    far = date.max.toordinal()
    codes, values = pd.factorize(days)
    ordinals = np.array([value.toordinal() for value in values] + [far], dtype=np.int64)
    return ordinals[codes]


def rounded(value: float | None) -> float | None:
    """A figure as it is recorded."""
    return None if value is None else round(float(value), _DECIMALS)


def _batches(days: Sequence[date], size: int) -> list[list[date]]:
    return [list(days[n : n + size]) for n in range(0, len(days), size)]
