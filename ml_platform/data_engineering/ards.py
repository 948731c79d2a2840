"""The analytics-ready data set: the typed, de-duplicated rows of the deliveries, and the quarantine.

A day's rows come from that day's delivery alone: the latest row of each key, and the latest label. What
can't be used goes to the quarantine; nothing is dropped. How the records of a day are brought together
depends on its size: :mod:`.small_days`, :mod:`.large_days`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import large_days, small_days
from ml_platform.data_engineering.day_statistics import Counted, Counting, Statistics
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.resolution import (
    Account,
    Refusal,
    Resolution,
    ards_columns,
    quarantine_schema,
)
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import EMPTY
from ml_platform.storage.locations import on_days
from ml_platform.storage.tables import Tables

ARDS = "ards"
QUARANTINE = "quarantine"

#: Says which of some days have other files than when they were looked at.
Changed = Callable[[Sequence[date]], Iterable[date]]

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

    ``delivered`` = ``rows`` + ``superseded`` + ``labels_applied`` + ``labels_not_yet`` + ``quarantined``,
    always.
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
    return _SPARK_TYPES[product.source.columns[name].type]


def write(
    spark: SparkSession,
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
    counting = Counting(product.label, columns(product), statistics=statistics)
    rows_in, quarantine_in = (tables.day_files(product.name, table) for table in (ARDS, QUARANTINE))
    if rows_in and quarantine_in and all(small_days.is_small(delivery) for delivery in deliveries):
        places = (rows_in, quarantine_in)
        done = _write_in_tasks(spark, product, tables, deliveries, places, counting, run_id, changed)
    else:
        done = _write_by_spark(spark, product, tables, deliveries, counting, run_id, changed)
    return {day: ArdsDay(refusal=why) for day, why in done.refusals.items()} | {
        day: _day(account, done.counted.get(day, Counted()), done.version)
        for day, account in done.accounts.items()
    }


@dataclass(frozen=True)
class _Done:
    """The days that were written, each with its account and what it holds, and those that can't be read."""

    accounts: Mapping[date, Account]
    refusals: Mapping[date, Refusal]
    counted: Mapping[date, Counted] = field(default_factory=dict)
    version: int | None = None


def _write_in_tasks(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    places: tuple[DayFiles, DayFiles],
    counting: Counting,
    run_id: str,
    changed: Changed,
) -> _Done:
    written = small_days.write(spark, product, deliveries, *places, counting)
    for day in changed(list(written)):
        del written[day]
    accounts = {day: one.account for day, one in written.items() if one.account is not None}
    refusals = {day: one.refusal for day, one in written.items() if one.refusal is not None}
    days = sorted(accounts)
    if not days:
        return _Done(accounts, refusals)
    unfit = {day: written[day].quarantine for day in days}
    with tables.hold(product.name, ARDS, days):
        if any(unfit.values()) or tables.has_days(product.name, QUARANTINE, days):
            schema = quarantine_schema()
            tables.replace_days_by(product.name, QUARANTINE, schema, unfit, days, run_id=run_id)
        rows, schema = {day: written[day].rows for day in days}, small_days.rows_schema(product)
        version = tables.replace_days_by(product.name, ARDS, schema, rows, days, run_id=run_id)
    return _Done(accounts, refusals, {day: written[day].counted for day in days}, version)


def _write_by_spark(
    spark: SparkSession,
    product: Product,
    tables: Tables,
    deliveries: Sequence[Delivery],
    counting: Counting,
    run_id: str,
    changed: Changed,
) -> _Done:
    resolutions = _resolve(spark, product, deliveries)
    try:
        refusals = {day: why for one in resolutions for day, why in one.refusals.items()}
        accounts = {day: account for one in resolutions for day, account in one.accounts.items()}
        other = set(changed([*refusals, *accounts]))
        refusals = {day: why for day, why in refusals.items() if day not in other}
        accounts = {day: account for day, account in accounts.items() if day not in other}
        days = sorted(accounts)
        if not days:
            return _Done(accounts, refusals)
        unfit = any(account.quarantined for account in accounts.values())
        with tables.hold(product.name, ARDS, days):
            if unfit or tables.has_days(product.name, QUARANTINE, days):
                quarantine = reduce(DataFrame.unionByName, [one.quarantine for one in resolutions])
                quarantine = quarantine.where(on_days(days)) if other else quarantine
                tables.replace_days(spark, product.name, QUARANTINE, quarantine, days, run_id=run_id)
            rows = reduce(DataFrame.unionByName, [one.rows for one in resolutions])
            rows = rows.where(on_days(days)) if other else rows
            version = tables.replace_days(spark, product.name, ARDS, rows, days, run_id=run_id)
    finally:
        for one in resolutions:
            one.release()
    # The rows of small days are read from their files once more when they are written.
    other = set(changed(days))
    accounts = {day: accounts[day] for day in days if day not in other}
    days = sorted(accounts)
    rows = tables.read_days(spark, product.name, ARDS, days)
    counted = counting.of_frame(rows, small_days.rows_schema(product)) if days else {}
    return _Done(accounts, refusals, counted, version)


def _resolve(spark: SparkSession, product: Product, deliveries: Sequence[Delivery]) -> list[Resolution]:
    small = [delivery for delivery in deliveries if small_days.is_small(delivery)]
    large = [delivery for delivery in deliveries if not small_days.is_small(delivery)]
    found = []
    if small:
        found.append(small_days.resolve(spark, product, small))
    if large:
        found.append(large_days.resolve(spark, product, large))
    return found


def _day(account: Account, counted: Counted, version: int | None) -> ArdsDay:
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
    )
