"""The analytics-ready data set: the typed, de-duplicated rows of the deliveries, and the quarantine.

A day's rows come from that day's delivery alone: the latest row of each key, and the latest label. What
can't be used goes to the quarantine; nothing is dropped. How the records of a day are brought together
depends on its size: :mod:`.small_days`, :mod:`.large_days`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from ml_platform.data_engineering import large_days, small_days
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import Account, Resolution, ards_columns, quarantine_schema
from ml_platform.product import EVENT_DAY, LABEL_KNOWN_ON, Product
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.tables import Tables, column, content_hash

CODE_VERSION = "1"
ARDS = "ards"
QUARANTINE = "quarantine"

_SPARK_TYPES = {
    "string": "string",
    "integer": "int",
    "long": "bigint",
    "double": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}


@dataclass(frozen=True)
class ArdsDay:
    """What became of one day's delivery.

    ``delivered`` = ``rows`` + ``superseded`` + ``labels_applied`` + ``quarantined``, always.
    """

    refusal: str | None = None
    rows: int = 0
    delivered: int = 0
    superseded: int = 0
    labels_applied: int = 0
    quarantined: int = 0
    labelled: int = 0
    fingerprint: str = ""
    delta_version: int | None = None
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "delivered": self.delivered,
            "rows": self.rows,
            "superseded": self.superseded,
            "labels_applied": self.labels_applied,
            "quarantined": self.quarantined,
            "labelled": self.labelled,
        }


columns = ards_columns


def spark_type(product: Product, name: str) -> str:
    """The Spark SQL type of a column of the ARDS."""
    if name in (EVENT_DAY, LABEL_KNOWN_ON):
        return "date"
    return _SPARK_TYPES[product.source.columns[name].type]


def write(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    *,
    run_id: str,
    statistics: Mapping[str, Column] | None = None,
) -> dict[date, ArdsDay]:
    """Write the ARDS and the quarantine of some days, each table in one commit.

    Args:
        deliveries: readable ones, of different days; these days are replaced, and no others.
        statistics: aggregates over a day's rows, computed in the pass that counts what was written.

    Returns:
        One result a day. A day with a file that can't be read to its end comes back with a
        ``refusal``, and what the tables held of it stays.
    """
    rows_in, quarantine_in = (tables.day_files(product.name, table) for table in (ARDS, QUARANTINE))
    if rows_in and quarantine_in and all(small_days.is_small(delivery) for delivery in deliveries):
        done = _write_in_tasks(spark, product, tables, deliveries, (rows_in, quarantine_in), run_id)
    else:
        done = _write_by_spark(spark, product, tables, deliveries, run_id)
    result = {day: ArdsDay(refusal=why) for day, why in done.refusals.items()}
    if done.accounts:
        written = _count(spark, product, tables, sorted(done.accounts), statistics or {})
        for day, account in done.accounts.items():
            result[day] = _day(account, written.get(day, {}), statistics or {}, done.version)
    return result


@dataclass(frozen=True)
class _Done:
    """The days that were written, each with its account, and those that can't be read."""

    accounts: Mapping[date, Account]
    refusals: Mapping[date, str]
    version: int | None = None


def _write_in_tasks(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    places: tuple[DayFiles, DayFiles],
    run_id: str,
) -> _Done:
    written = small_days.write(spark, product, deliveries, *places)
    accounts = {day: one.account for day, one in written.items() if one.account is not None}
    refusals = {day: one.refusal for day, one in written.items() if one.refusal is not None}
    days = sorted(accounts)
    if not days:
        return _Done(accounts, refusals)
    unfit = {day: written[day].quarantine for day in days}
    if any(unfit.values()) or tables.has_days(product.name, QUARANTINE, days):
        schema = quarantine_schema()
        tables.replace_days_by(product.name, QUARANTINE, schema, unfit, days, run_id=run_id)
    rows, schema = {day: written[day].rows for day in days}, small_days.rows_schema(product)
    version = tables.replace_days_by(product.name, ARDS, schema, rows, days, run_id=run_id)
    return _Done(accounts, refusals, version)


def _write_by_spark(
    spark: SparkSession, product: Product, tables: Tables, deliveries: Sequence[Delivery], run_id: str
) -> _Done:
    resolutions = _resolve(spark, product, deliveries)
    try:
        refusals = {day: why for one in resolutions for day, why in one.refusals.items()}
        accounts = {day: account for one in resolutions for day, account in one.accounts.items()}
        days = sorted(accounts)
        if not days:
            return _Done(accounts, refusals)
        unfit = any(account.quarantined for account in accounts.values())
        if unfit or tables.has_days(product.name, QUARANTINE, days):
            quarantine = reduce(DataFrame.unionByName, [one.quarantine for one in resolutions])
            tables.replace_days(spark, product.name, QUARANTINE, quarantine, days, run_id=run_id)
        rows = reduce(DataFrame.unionByName, [one.rows for one in resolutions])
        version = tables.replace_days(spark, product.name, ARDS, rows, days, run_id=run_id)
    finally:
        for one in resolutions:
            one.release()
    return _Done(accounts, refusals, version)


def _resolve(spark: SparkSession, product: Product, deliveries: Sequence[Delivery]) -> list[Resolution]:
    small = [delivery for delivery in deliveries if small_days.is_small(delivery)]
    large = [delivery for delivery in deliveries if not small_days.is_small(delivery)]
    found = []
    if small:
        found.append(small_days.resolve(spark, product, small))
    if large:
        found.append(large_days.resolve(spark, product, large))
    return found


def _day(
    account: Account, written: Mapping[str, Any], statistics: Mapping[str, Column], version: int | None
) -> ArdsDay:
    rows = written.get("_rows", 0)
    return ArdsDay(
        rows=rows,
        delivered=account.delivered,
        superseded=account.delivered - rows - account.labels_applied - account.quarantined,
        labels_applied=account.labels_applied,
        quarantined=account.quarantined,
        labelled=written.get("_labelled", 0),
        fingerprint=written.get("_fingerprint", "empty"),
        delta_version=version,
        statistics={name: written.get(name) for name in statistics},
    )


def _count(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    statistics: Mapping[str, Column],
) -> dict[date, dict[str, Any]]:
    """Counts and fingerprint of each day, read back from the table."""
    rows = tables.read_days(spark, product.name, ARDS, days)
    counted = rows.groupBy(EVENT_DAY).agg(
        F.count(F.lit(1)).alias("_rows"),
        F.count(column(product.label)).alias("_labelled"),
        content_hash(columns(product)).alias("_fingerprint"),
        *[aggregate.alias(name) for name, aggregate in statistics.items()],
    )
    return {row[EVENT_DAY]: row.asDict() for row in counted.collect()}
