"""Predictions: each row of the MRDS scored with the model that served its day.

Where the tables lie in a folder tasks read, score and write whole days, or parts of large ones, and this
process does what a single task would do (:mod:`.scoring_in_tasks`); elsewhere Spark reads and writes
(:mod:`.scoring_by_spark`). The rows are made by :mod:`.predicted_rows`. Which model serves which day is
decided in :mod:`.promotion` and comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.data_engineering.served_rows import corrected_days
from ml_platform.data_engineering.served_states import IS_SCORED
from ml_platform.machine_learning import scoring_by_spark
from ml_platform.machine_learning.kinds import kind_of
from ml_platform.machine_learning.predicted_rows import PREDICTIONS, ServingModel, schema
from ml_platform.machine_learning.scoring_in_tasks import InTasks, Scored
from ml_platform.spark.tasks import Session
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import Tables


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
        return self.counted.counts("rows", "positives")


def write(
    session: Session,
    product: Product,
    tables: Tables,
    serving: Mapping[date, ServingModel],
    *,
    run_id: str,
    keep: Sequence[date] = (),
    as_corrected: bool = False,
) -> dict[date, ScoredDay]:
    """Score and write the days of ``serving``, each with its model, in one commit.

    Args:
        serving: the model of each day.
        keep: days among these whose present predictions stay; only rows that have none are scored.
        as_corrected: score rows as they are now; otherwise as they were on the first morning on which their
            day could be scored.
    """
    days = sorted(serving)
    corrected = frozenset[date]() if as_corrected else corrected_days(session, product, tables, days)
    # A version number is a label: the same model may be registered under another one elsewhere.
    content = [name for name in schema(product).names if name != "model_version"]
    counting = Counting(kind_of(product).counted, content, has_positives=product.task.has_positives)
    kept = frozenset(keep) if tables.exists(product.name, PREDICTIONS) else frozenset()
    source, place = (tables.day_files(product.name, table) for table in (MRDS, PREDICTIONS))
    if source is None or place is None:
        spark = session()
        version = scoring_by_spark.write(spark, product, tables, serving, kept, corrected, run_id)
        written = tables.read_days(spark, product.name, PREDICTIONS, days)
        counted = counting.of_frame(written, schema(product))
        models = _models_of(written)
        return {
            day: ScoredDay(counted.get(day) or counting.of_parts([]), version, models.get(day, {}))
            for day in days
        }
    kept_version = tables.version(product.name, PREDICTIONS) if kept else -1

    def of_table(table: str, files: DayFiles, chosen: Sequence[date]) -> dict[date, Scored]:
        versions = (tables.version(product.name, table), kept_version)
        work = InTasks(product, dict(serving), files, place, versions, kept, counting)
        return work.score(session, chosen) if chosen else {}

    done = of_table(MRDS, source, [day for day in days if day not in corrected])
    if corrected:
        as_served = tables.day_files(product.name, MRDS_SERVED)
        assert as_served is not None, "the tables of a product lie together"
        done |= of_table(MRDS_SERVED, replace(as_served, where=IS_SCORED), sorted(corrected))
    files = {day: scored.files for day, scored in done.items()}
    version = tables.replace_days_by(product.name, PREDICTIONS, schema(product), files, days, run_id=run_id)
    return {
        day: ScoredDay(counting.of_parts(done[day].parts), version, done[day].models)
        if day in done
        else ScoredDay(counting.of_parts([]), version, {})
        for day in days
    }


def _models_of(predictions: DataFrame) -> dict[date, dict[str, int]]:
    """The rows of each day and model."""
    found: dict[date, dict[str, int]] = {}
    for row in predictions.groupBy(EVENT_DAY, "model_fingerprint").count().collect():
        found.setdefault(row[EVENT_DAY], {})[row["model_fingerprint"]] = row["count"]
    return found


def remove(session: Session, product: Product, tables: Tables, days: Sequence[date], *, run_id: str) -> None:
    """Take the rows of some days away."""
    if tables.day_files(product.name, PREDICTIONS) is not None:
        tables.replace_days_by(product.name, PREDICTIONS, schema(product), {}, days, run_id=run_id)
        return
    spark = session()
    nothing = spark.createDataFrame([], from_arrow_schema(schema(product)))
    tables.replace_days(spark, product.name, PREDICTIONS, nothing, days, run_id=run_id)
