"""Predictions: each row of the MRDS scored with the model that served its day.

Scoring is distributed; the rows never pass through the driver. Small days are read, scored and written by
tasks alone, where the tables lie in a folder; others are read and written by Spark. Which model serves
which day is decided in :mod:`.promotion` and comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.data_engineering.mrds import MRDS, feature_columns
from ml_platform.machine_learning.training import probabilities
from ml_platform.spark.tasks import in_tasks, spare_next_task
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.locations import quoted
from ml_platform.storage.tables import Tables, column

PREDICTIONS = "predictions"

#: Matrix products may differ in the last bit with the size of a batch; stored probabilities don't.
PROBABILITY_DECIMALS = 6

#: Values of a day, rows times columns, up to which a task holds it in memory.
_SMALL_VALUES = 20_000_000
#: Rows that are scored at once: what a pipeline makes of its features may be far wider than they are.
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class ServingModel:
    """A model that serves some days: the fitted pipeline and what its predictions carry along."""

    pipeline: Any
    threshold: float
    name: str
    version: str
    as_of: date
    fingerprint: str


@dataclass(frozen=True)
class ScoredDay:
    """One day of predictions: what it holds, and the version of the table that has it.

    ``models`` are those that have scored its rows, by fingerprint, with the numbers of their rows.
    """

    counted: Counted
    delta_version: int
    models: Mapping[str, int]

    @property
    def counts(self) -> dict[str, int]:
        return {"rows": self.counted.rows, "positives": self.counted.positives}


@dataclass(frozen=True)
class _ScoredFiles:
    """The files of a day that a task has scored, and what they hold."""

    counted: Counted = field(default_factory=Counted)
    files: list[DayFile] = field(default_factory=list)


def schema(product: Product) -> pa.Schema:
    """The schema of the predictions."""
    entity = [name for name in product.entity if name != EVENT_DAY]
    return pa.schema(
        [
            *[(name, ARROW_TYPES[product.mrds_type(name)]) for name in entity],
            (EVENT_DAY, pa.date32()),
            ("probability", pa.float64()),
            ("decision", pa.int32()),
            ("threshold", pa.float64()),
            ("model_name", pa.string()),
            ("model_version", pa.string()),
            ("model_as_of", pa.date32()),
            ("model_fingerprint", pa.string()),
        ]
    )


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    *,
    run_id: str,
    keep: Sequence[date] = (),
) -> dict[date, ScoredDay]:
    """Score and write the days of ``serving``, each with its model: in one commit, or in one of the small
    days and one of the others.

    Args:
        serving: the model of each day.
        keep: days among these whose present predictions stay; only rows that have none are scored.
    """
    days = sorted(serving)
    # A version number is a label: the same model may be registered under another one elsewhere.
    content = [name for name in schema(product).names if name != "model_version"]
    counting = Counting("decision", content)
    done = _in_tasks(spark, product, tables, serving, [day for day in days if day not in keep], counting)
    others = [day for day in days if day not in done]
    counted = {day: one.counted for day, one in done.items()}
    models = {day: {serving[day].fingerprint: one.counted.rows} for day, one in done.items()}
    versions: dict[date, int] = {}
    if others:
        version = _by_spark(spark, product, tables, {day: serving[day] for day in others}, keep, run_id)
        versions |= dict.fromkeys(others, version)
        written = tables.read_days(spark, product.name, PREDICTIONS, others)
        counted |= counting.of_frame(written, schema(product))
        models |= _models_of(written)
    if done:
        files = {day: one.files for day, one in done.items()}
        version = tables.replace_days_by(
            product.name, PREDICTIONS, schema(product), files, list(done), run_id=run_id
        )
        versions |= dict.fromkeys(done, version)
    return {day: ScoredDay(counted.get(day, Counted()), versions[day], models.get(day, {})) for day in days}


def _models_of(predictions: DataFrame) -> dict[date, dict[str, int]]:
    """The rows of each day and model."""
    found: dict[date, dict[str, int]] = {}
    for row in predictions.groupBy(EVENT_DAY, "model_fingerprint").count().collect():
        found.setdefault(row[EVENT_DAY], {})[row["model_fingerprint"]] = row["count"]
    return found


def remove(
    spark: SparkSession, product: Product, tables: Tables, days: Sequence[date], *, run_id: str
) -> None:
    """Take the rows of some days away."""
    if tables.day_files(product.name, PREDICTIONS) is not None:
        tables.replace_days_by(product.name, PREDICTIONS, schema(product), {}, days, run_id=run_id)
        return
    nothing = spark.createDataFrame([], from_arrow_schema(schema(product)))
    tables.replace_days(spark, product.name, PREDICTIONS, nothing, days, run_id=run_id)


def _in_tasks(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    days: Sequence[date],
    counting: Counting,
) -> dict[date, _ScoredFiles]:
    """Score the small ones of ``days`` in tasks that write their files; nothing is committed yet."""
    source, place = (tables.day_files(product.name, table) for table in (MRDS, PREDICTIONS))
    if source is None or place is None:
        return {}
    version = tables.version(product.name, MRDS)
    sizes = source.sizes(version)
    names = [name for name in dict.fromkeys(feature_columns(product)) if name != EVENT_DAY]
    small = [day for day in days if sizes[day] * len(names) <= _SMALL_VALUES]
    return {day: _ScoredFiles() for day in small} | in_tasks(
        spark, small, _Scoring(product, dict(serving), source, version, names, place, counting), _ScoredFiles
    )


@dataclass(frozen=True)
class _Scoring:
    """What tasks do with small days. It travels to them."""

    product: Product
    models: Mapping[date, ServingModel]
    source: DayFiles
    version: int
    names: Sequence[str]
    place: DayFiles
    counting: Counting

    def __call__(self, days: Sequence[date]) -> Iterator[tuple[date, _ScoredFiles]]:
        for day, rows in self.source.read(self.version, days, self.names):
            scored = predictions(self.product, day, rows, self.models[day])
            yield day, _ScoredFiles(self.counting.of_rows(scored), self.place.write(day, scored))


def _by_spark(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    keep: Collection[date],
    run_id: str,
) -> int:
    """Score and write days in one commit; returns the version it made."""
    days, kept = sorted(serving), [day for day in serving if day in keep]
    scored = score(product, tables.read_days(spark, product.name, MRDS, days), serving)
    if kept:
        present = tables.read_days(spark, product.name, PREDICTIONS, kept)
        same = [
            F.col(f"scored.{quoted(name)}").eqNullSafe(F.col(f"present.{quoted(name)}"))
            for name in product.identity
        ]
        new = scored.alias("scored").join(present.alias("present"), same, "left_anti")
        scored = present.select(*[column(name) for name in scored.columns]).unionByName(new)
    if len(days) > 1:
        scored = scored.repartition(EVENT_DAY)
    return tables.replace_days(spark, product.name, PREDICTIONS, scored, days, run_id=run_id)


def score(product: Product, mrds: DataFrame, serving: Mapping[date, ServingModel]) -> DataFrame:
    """Predictions for rows of the MRDS, in :func:`schema`."""
    models = dict(serving)

    def score_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            for day in pc.unique(rows[EVENT_DAY]).to_pylist():
                of_day = rows.filter(pc.equal(rows[EVENT_DAY], pa.scalar(day)))
                yield from predictions(product, day, of_day, models[day]).to_batches()
        spare_next_task()

    rows = mrds.select(*[column(name) for name in dict.fromkeys(feature_columns(product))])
    return rows.mapInArrow(score_all, from_arrow_schema(schema(product)))


def predictions(product: Product, day: date, rows: pa.Table, model: ServingModel) -> pa.Table:
    """Predictions for a day's rows of the MRDS, in :func:`schema` and their order."""
    parts = [
        probabilities(model.pipeline, product, rows.slice(start, _ROWS_AT_ONCE).to_pandas())
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    probability = np.concatenate([np.zeros(0), *parts]).round(PROBABILITY_DECIMALS)
    found = {name: rows[name] for name in product.entity if name != EVENT_DAY} | {
        "probability": probability,
        "decision": (probability >= model.threshold).astype("int32"),
    }
    alike = {
        EVENT_DAY: day,
        "threshold": model.threshold,
        "model_name": model.name,
        "model_version": model.version,
        "model_as_of": model.as_of,
        "model_fingerprint": model.fingerprint,
    }
    ordered = schema(product)
    found |= {
        name: pa.repeat(pa.scalar(value, ordered.field(name).type), len(rows))
        for name, value in alike.items()
    }
    return pa.table({name: found[name] for name in ordered.names}).cast(ordered)
