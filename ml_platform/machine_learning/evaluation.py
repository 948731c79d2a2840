"""How good the predictions of the last labelled days were, for every day of a range at once.

``model_performance[d]`` looks at the ``window_days`` event days that end with the last one whose labels can
be known on the morning after *d*. Rows without a label by then are never negatives; they
are left out and counted. All is as it was known on that morning: what was corrected later counts as it stood
then, and who was scored later doesn't count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pydantic import TypeAdapter
from pyspark.sql import DataFrame, GroupedData, SparkSession
from pyspark.sql import functions as F

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.contract.windows import days_evaluated
from ml_platform.data_engineering import aggregation, buckets, served_rows
from ml_platform.data_engineering.day_rows import RowsInFolder, mapped, subschema
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.machine_learning import predicted_rows
from ml_platform.machine_learning.kind import Predictions
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.predicted_rows import PREDICTIONS
from ml_platform.machine_learning.retraining import JudgedOn
from ml_platform.machine_learning.training_data import (
    SAMPLE_STEPS,
    clusters,
    sample_steps,
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
#: What tells predictions apart, and the step of the sample from which on an entity counts.
_NUMBER, _STEP = "_number", "_step"

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
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
    scored: Mapping[date, Mapping[date, int]],
    champions: Champions,
) -> dict[date, Evaluation]:
    """Evaluate some days.

    Where the tables lie in a folder tasks read their days' windows themselves, or this process does if there
    is little to read; otherwise Spark brings them to the tasks. What is computed of them is the same.

    Args:
        scored: for each of the days the event days of its window that count, with their numbers of
            predictions.
        champions: for each of the days the model that serves it.
    """
    empty = {day: _empty(product, day, champions.get(day)) for day in scored}
    sizes = {event_day: rows for counted in scored.values() for event_day, rows in counted.items()}
    if not sizes:
        return empty
    maximum = product.evaluation.maximum_rows
    shares = {day: share_of(maximum, sum(counted.values())) for day, counted in scored.items()}
    blocks = _Blocks(product, {day: frozenset(counted) for day, counted in scored.items()}, champions, shares)
    by_block = _in_files(session, tables, blocks, sizes)
    if by_block is None:
        by_block = _by_spark(session(), tables, blocks, sizes)
    return empty | by_block


@dataclass(frozen=True)
class _Blocks:
    """What is computed of the windows of days that follow one another. It travels to the tasks.

    Args:
        counted: the event days that count for each day.
        shares: the millionths of the entities that are counted for each.
    """

    product: Product
    counted: Mapping[date, Collection[date]]
    champions: Champions
    shares: Mapping[date, int]

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

    @property
    def states(self) -> pa.Schema:
        """The columns that are read of the states of corrected days, and that all labels have in the end."""
        return served_rows.with_states(self.product, self.labels)

    def bounds(self, block: Sequence[date]) -> tuple[date, date]:
        """The first and the last day that the windows of some days in order reach."""
        windows = [days_evaluated(self.product, day) for day in (block[0], block[-1])]
        return windows[0].first, windows[1].last

    @property
    def share(self) -> int:
        """The millionths of the entities that are read."""
        return max(self.shares.values())

    def thinned(self, rows: pa.Table) -> pa.Table:
        """Some rows of either table, of the entities that are counted."""
        return sampled(self.product, rows, "sample", self.share)

    def evaluate(self, block: Sequence[date], predictions: pa.Table, labels: pa.Table) -> list[Evaluation]:
        """The evaluations of some days, of the rows that their windows reach; none without predictions.

        Args:
            labels: in the columns of :attr:`states`.
        """
        if not len(predictions):
            return []
        labels = labels.rename_columns({self.product.label: "_label"})
        predictions = predictions.append_column(_NUMBER, pa.array(np.arange(len(predictions))))
        rows = predictions.join(labels, self.product.identity, join_type="left outer")
        rows = rows.append_column("_cluster", pa.array(clusters(self.product, rows)))
        if min(self.shares[day] for day in block) < SAMPLE_STEPS:
            rows = rows.append_column(_STEP, pa.array(sample_steps(self.product, rows, "sample")))
        return _evaluate_days(self, rows.to_pandas(), block)


def _in_files(
    session: Session, tables: Tables, blocks: _Blocks, sizes: Mapping[date, int]
) -> dict[date, Evaluation] | None:
    """Evaluate what tasks read of files; None where they can't."""
    product = blocks.product
    predictions, labels = (tables.day_files(product.name, table) for table in (PREDICTIONS, MRDS))
    if predictions is None or labels is None:
        return None
    versions = [tables.version(product.name, table) for table in (PREDICTIONS, MRDS)]
    corrected = served_rows.corrected_days(session, product, tables, sizes)
    states = tables.day_files(product.name, MRDS_SERVED) if corrected else None
    of_states = tables.version(product.name, MRDS_SERVED) if corrected else -1

    def evaluate_block(block: Sequence[date]) -> Iterator[tuple[date, Evaluation]]:
        first, last = blocks.bounds(block)
        inside = [day for day in sizes if first <= day <= last]
        scored_rows = RowsInFolder(predictions, versions[0], inside, blocks.predictions)
        as_they_are = [day for day in inside if day not in corrected]
        labelled = [RowsInFolder(labels, versions[1], as_they_are, blocks.labels)]
        if states is not None:
            as_served = [day for day in inside if day in corrected]
            labelled.append(RowsInFolder(states, of_states, as_served, blocks.states))
        read = [rows.map(blocks.thinned, rows.schema) for rows in (scored_rows, *labelled)]
        known = pa.concat_tables([served_rows.as_states(product, part) for part in read[1:]])
        for evaluated in blocks.evaluate(block, read[0], known):
            yield evaluated.event_day, evaluated

    rows = sum(predictions.sizes(versions[0])[day] for day in sizes)
    # Joined and sorted in pandas a row takes nine times what it takes in a column.
    size = buckets.csv_bytes(rows, len(blocks.predictions))
    here = len(blocks.counted) <= buckets.DAYS_HERE and size <= buckets.HELD_BYTES
    days = sorted(blocks.counted)
    return in_tasks(session, days, evaluate_block, Evaluation, here=here, days_a_task=_DAYS_A_TASK)


def _by_spark(
    spark: SparkSession, tables: Tables, blocks: _Blocks, sizes: Mapping[date, int]
) -> dict[date, Evaluation]:
    """Evaluate what Spark brings to the tasks."""
    product = blocks.product
    batches = _batches(sorted(blocks.counted), _DAYS_A_TASK)
    bounds = [(number, *blocks.bounds(block)) for number, block in enumerate(batches)]
    corrected = served_rows.corrected_days(lambda: spark, product, tables, sizes)

    def read(table: str, days: Collection[date], schema: pa.Schema) -> DataFrame:
        rows = tables.read_days(spark, product.name, table, days)
        rows = rows.select(*[column(name) for name in schema.names])
        if blocks.share < SAMPLE_STEPS:
            rows = mapped(rows, blocks.thinned, schema, schema)
        return rows

    def by_block(rows: DataFrame) -> GroupedData:
        reached = rows[EVENT_DAY].between(F.col("_first"), F.col("_last"))
        # Of one frame that is joined twice Spark would not know the columns apart.
        reaching = spark.createDataFrame(bounds, f"{_BLOCK} int, _first date, _last date")
        return rows.join(F.broadcast(reaching), reached).drop("_first", "_last").groupBy(_BLOCK)

    predictions, states = blocks.predictions, blocks.states
    as_they_are = read(MRDS, [day for day in sizes if day not in corrected], blocks.labels)
    never = F.lit(None).cast("date")
    labelled = as_they_are.withColumns({KNOWN_FROM: never, KNOWN_TO: never, IS_SCORED: F.lit(True)})
    if corrected:
        labelled = labelled.unionByName(read(MRDS_SERVED, corrected, states))

    def evaluate_block(scored_rows: pa.Table, labelled: pa.Table) -> pa.Table:
        found: list[Evaluation] = []
        if len(scored_rows):
            block = batches[scored_rows[_BLOCK][0].as_py()]
            left = scored_rows.select(predictions.names).cast(predictions)
            found = blocks.evaluate(block, left, labelled.select(states.names).cast(states))
        spare_next_task()
        return pa.table(
            {"result": pa.array([_PLAIN.dump_json(part).decode() for part in found], pa.string())}
        )

    grouped = by_block(read(PREDICTIONS, sizes, predictions)).cogroup(by_block(labelled))
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


def _evaluate_days(blocks: _Blocks, frame: pd.DataFrame, days: Sequence[date]) -> list[Evaluation]:
    """Evaluate some days, of predictions with their rows of the MRDS, which may have several states."""
    product, kind = blocks.product, kind_of(blocks.product)
    order = [EVENT_DAY, "_cluster", kind.read[0], _NUMBER, KNOWN_FROM]
    frame = frame.sort_values(order, kind="stable", ignore_index=True)
    event_day = ordinals(frame[EVENT_DAY])
    states = _States.of(frame, event_day)
    known_on = ordinals(frame[LABEL_KNOWN_ON])
    model = ordinals(frame["model_as_of"])
    fingerprints, scored_by = pd.factorize(frame["model_fingerprint"])
    known_models = {fingerprint: code for code, fingerprint in enumerate(scored_by)}
    label, predictions = kind.labels(frame["_label"]), kind.of_table(frame)
    clusters = frame["_cluster"].to_numpy(dtype=np.int64)

    results = []
    for day in days:
        as_of = (day + timedelta(days=1)).toordinal()
        rows, is_there = states.on(as_of, [counted.toordinal() for counted in blocks.counted[day]])
        share = blocks.shares[day]
        if share < SAMPLE_STEPS:
            chosen = frame[_STEP].to_numpy()[rows] < share
            rows, is_there = rows[chosen], is_there[chosen]
        known = is_there & (known_on[rows] <= as_of) & ~np.isnan(label[rows])
        champion = blocks.champions.get(day)
        code = known_models.get(champion.fingerprint) if champion else None
        by_champion = known & (fingerprints[rows] == code) if code is not None else np.zeros_like(known)
        results.append(
            _evaluate(
                product,
                day,
                label[rows],
                of_rows(predictions, rows),
                clusters[rows],
                model[rows],
                known,
                by_champion,
                champion,
                share < SAMPLE_STEPS,
            )
        )
    return results


@dataclass(frozen=True)
class _States:
    """Predictions, each with one or more states of its row of the MRDS, next to one another.

    Attributes:
        event_day: of each state, as an ordinal.
        begins: where the states of each prediction begin.
        known_from, known_to: the mornings, as ordinals, from one on and before another a state stood; none of
            predictions whose rows are gone.
        scored_on: of each prediction, the morning on which it could first be scored.
    """

    event_day: Integers
    begins: Integers
    known_from: Integers
    known_to: Integers
    scored_on: Integers

    @classmethod
    def of(cls, frame: pd.DataFrame, event_day: Integers) -> _States:
        """Those of rows by prediction."""
        begins = np.flatnonzero(np.diff(frame[_NUMBER].to_numpy(), prepend=-1) != 0)
        known_from = np.where(frame[KNOWN_FROM].isna(), 0, ordinals(frame[KNOWN_FROM]))
        known_to = np.where(frame[IS_SCORED].isna(), 0, ordinals(frame[KNOWN_TO]))
        is_scored = frame[IS_SCORED].eq(True).to_numpy()
        never = np.iinfo(np.int64).max
        first = np.minimum.reduceat(np.where(is_scored, known_from, never), begins)
        # What has no such state was scored from rows that are gone.
        return cls(event_day, begins, known_from, known_to, np.where(first == never, 0, first))

    def on(self, as_of: int, counted: Sequence[int]) -> tuple[Integers, Flags]:
        """The predictions of some event days as known on a morning.

        A day that could not be used then has no state that stood, and counts none.

        Returns:
            A state of each, and whether that stood.
        """
        if not len(counted):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
        # Rows are in the order of days: all but those of the window are left out at once.
        first = int(np.searchsorted(self.event_day, min(counted), side="left"))
        beyond = int(np.searchsorted(self.event_day, max(counted), side="right"))
        of_window = slice(*np.searchsorted(self.begins, [first, beyond]))
        begins, scored_on = self.begins[of_window] - first, self.scored_on[of_window]
        if not len(begins):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
        event_day = self.event_day[first:beyond]
        stood = (self.known_from[first:beyond] <= as_of) & (as_of < self.known_to[first:beyond])
        stood &= np.isin(event_day, counted)
        usable = np.unique(event_day[stood])
        found = np.minimum.reduceat(np.where(stood, np.arange(len(stood)), len(stood)), begins)
        is_there = found < len(stood)
        rows = np.where(is_there, found, begins)
        counts = np.isin(event_day[rows], usable) & (scored_on <= as_of)
        return rows[counts] + first, is_there[counts]


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
