"""The analytics-ready data set: the typed, de-duplicated rows of the deliveries, and the quarantine.

A day's rows come from that day's delivery alone: the latest row of each key, and the latest label. What
can't be used goes to the quarantine; nothing is dropped. How records that are together are resolved is
:mod:`.resolution`'s business; how they come together, and are written, depends on whether tasks may write
(:mod:`.ards_in_tasks`) or only Spark may (:mod:`.ards_by_spark`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import ARDS_VERSIONS
from ml_platform.contract.column_types import COLUMN_TYPES
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import ards_in_tasks
from ml_platform.data_engineering.ards_by_spark import Delivered, Facts
from ml_platform.data_engineering.ards_in_tasks import Places, WrittenDay
from ml_platform.data_engineering.day_statistics import Counting, Statistics
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import (
    Account,
    Refusal,
    ards_columns,
    quarantine_schema,
    rows_schema,
)
from ml_platform.data_engineering.row_versions import DayHistory, ards_schema
from ml_platform.spark.tasks import Session
from ml_platform.storage.fingerprints import EMPTY
from ml_platform.storage.tables import Tables

ARDS = "ards"
QUARANTINE = "quarantine"

#: Says which of some days have other files than when they were looked at.
Changed = Callable[[Sequence[date]], Iterable[date]]


@dataclass(frozen=True)
class ArdsDay:
    """The result of one day's delivery.

    ``delivered`` = ``rows`` + ``superseded`` + ``labels_applied`` + ``labels_not_yet`` + ``quarantined``,
    always. ``history`` is what the day held before later files changed it, if any did; ``of_files`` are the
    records of each file that were delivered and that can't be used.
    """

    refusal: Refusal | None = None
    rows: int = 0
    delivered: int = 0
    superseded: int = 0
    labels_applied: int = 0
    labels_not_yet: int = 0
    quarantined: int = 0
    labelled: int = 0
    fingerprint: str = EMPTY
    delta_version: int | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    history: DayHistory | None = None
    of_files: Mapping[int, Account] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "delivered": self.delivered,
            "rows": self.rows,
            "superseded": self.superseded,
            "labels_applied": self.labels_applied,
            "labels_not_yet": self.labels_not_yet,
            "quarantined": self.quarantined,
            "labelled": self.labelled,
        }


columns = ards_columns


def spark_type(product: Product, name: str) -> str:
    """The Spark SQL type of a column of the ARDS."""
    if name in (EVENT_DAY, LABEL_KNOWN_ON):
        return "date"
    return COLUMN_TYPES[product.columns[name].type].sql


def write(
    session: Session,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    *,
    run_id: str,
    statistics: Statistics | None = None,
    changed: Changed = lambda days: (),
) -> dict[date, ArdsDay]:
    """Write the ARDS and the quarantine of some days, each table in one commit, none beside another run's.

    Args:
        deliveries: readable ones, of different days; these days are replaced, and no others.
        statistics: figures over each day's rows, found in the pass that counts them.
        changed: which of some days have files that are not those of ``deliveries`` any more. It is asked
            after files have been read and before what was read is committed.

    Returns:
        One result a day, but for days whose files have changed meanwhile: they are to be done again. A day
        with a file that can't be read to its end comes back with a ``refusal``, and what the tables held of
        it stays.
    """
    counting = Counting(
        product.source.label,
        columns(product),
        statistics=statistics,
        has_positives=product.task.has_positives,
    )
    if places := Places.of(product, tables):
        done = _write_in_tasks(session, product, tables, deliveries, places, counting, run_id, changed)
    else:
        done = _write_by_spark(session, product, tables, deliveries, counting, run_id, changed)
    return {day: ArdsDay(refusal=why) for day, why in done.refusals.items()} | {
        day: _day(found, done.version, counting) for day, found in done.made.items()
    }


def prepare_versions(session: Session, product: Product, tables: Tables, day: date, *, run_id: str) -> None:
    """Make the table of the rows that had several states, unless it is there, without any of a day."""
    if tables.exists(product.name, ARDS_VERSIONS):
        return
    schema = ards_schema(product)
    if Places.of(product, tables):
        tables.replace_days_by(product.name, ARDS_VERSIONS, schema, {}, [day], run_id=run_id)
    else:
        spark = session()
        nothing = spark.createDataFrame([], from_arrow_schema(schema))
        tables.replace_days(spark, product.name, ARDS_VERSIONS, nothing, [day], run_id=run_id)


@dataclass(frozen=True)
class _Done:
    """The days that were written, each with what it has become, and why others can't be read."""

    made: Mapping[date, WrittenDay | Facts]
    refusals: Mapping[date, Refusal]
    version: int | None = None

    @classmethod
    def of(cls, found: Mapping[date, WrittenDay | Facts]) -> _Done:
        """Days that are still to be written, and those that can't be read."""
        refusals = {day: written.refusal for day, written in found.items() if written.refusal is not None}
        return cls({day: found[day] for day in sorted(found) if day not in refusals}, refusals)


def _write_in_tasks(
    session: Session,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    places: Places,
    counting: Counting,
    run_id: str,
    changed: Changed,
) -> _Done:
    written = ards_in_tasks.write(session, product, deliveries, places, counting)
    for day in changed(list(written)):
        del written[day]
    done = _Done.of(written)
    days = list(done.made)
    if not days:
        return done
    unfit = {day: written[day].quarantine for day in days}
    with tables.hold(product.name, ARDS, days):
        if any(unfit.values()) or tables.has_days(product.name, QUARANTINE, days):
            schema = quarantine_schema()
            tables.replace_days_by(product.name, QUARANTINE, schema, unfit, days, run_id=run_id)
        versions = {day: written[day].versions for day in days}
        if any(versions.values()) or tables.has_days(product.name, ARDS_VERSIONS, days):
            schema = ards_schema(product)
            tables.replace_days_by(product.name, ARDS_VERSIONS, schema, versions, days, run_id=run_id)
        rows, schema = {day: written[day].rows for day in days}, rows_schema(product)
        version = tables.replace_days_by(product.name, ARDS, schema, rows, days, run_id=run_id)
    return replace(done, version=version)


def _write_by_spark(
    session: Session,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    counting: Counting,
    run_id: str,
    changed: Changed,
) -> _Done:
    spark = session()
    delivered = Delivered(spark, product, deliveries, counting)
    facts = delivered.facts()
    for day in changed(list(facts)):
        del facts[day]
    done = _Done.of(facts)
    days = list(done.made)
    if not days:
        return done
    unfit = any(found.account.quarantined for found in done.made.values())
    with tables.hold(product.name, ARDS, days):
        if unfit or tables.has_days(product.name, QUARANTINE, days):
            quarantine = delivered.quarantine({day: facts[day] for day in days})
            tables.replace_days(spark, product.name, QUARANTINE, quarantine, days, run_id=run_id)
        if any(facts[day].versions for day in days) or tables.has_days(product.name, ARDS_VERSIONS, days):
            versions = delivered.versions([day for day in days if facts[day].versions])
            tables.replace_days(spark, product.name, ARDS_VERSIONS, versions, days, run_id=run_id)
        rows = delivered.rows(days)
        version = tables.replace_days(spark, product.name, ARDS, rows, days, run_id=run_id)
    # The files were read once more when their rows were written.
    other = set(changed(days))
    made = {day: found for day, found in done.made.items() if day not in other}
    return replace(done, made=made, version=version)


def _day(found: WrittenDay | Facts, version: int | None, counting: Counting) -> ArdsDay:
    account, counted = found.account, counting.of_parts(found.parts)
    return ArdsDay(
        rows=counted.rows,
        delivered=account.delivered,
        superseded=account.delivered
        - counted.rows
        - account.labels_applied
        - account.labels_not_yet
        - account.quarantined,
        labels_applied=account.labels_applied,
        labels_not_yet=account.labels_not_yet,
        quarantined=account.quarantined,
        labelled=counted.labelled,
        fingerprint=counted.fingerprint,
        delta_version=version,
        statistics=counted.statistics,
        history=DayHistory.of(found.histories, counting),
        of_files=found.of_files,
    )
