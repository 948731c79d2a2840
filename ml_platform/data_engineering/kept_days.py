"""What is kept of days for trailing windows is made of the ARDS, and written: by tasks, or by Spark."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import pyarrow as pa
from pyspark.sql import SparkSession

from ml_platform.contract.assets import DAILY_AGGREGATES, DAILY_AGGREGATES_VERSIONS
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering.daily_aggregates import (
    ROW_GROUP,
    aggregate,
    columns,
    schema,
    states_of,
    versions_schema,
)
from ml_platform.data_engineering.day_statistics import Counted, CountedPart, Counting
from ml_platform.data_engineering.entity_days import ArdsFiles, EntityDays, Made
from ml_platform.data_engineering.entity_days_by_spark import EntityDaysBySpark, written_without_refused
from ml_platform.spark.tasks import Session
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.fingerprints import EMPTY, ContentSums
from ml_platform.storage.tables import Tables


@dataclass(frozen=True)
class KeptDay:
    """What is kept of a day: so many entities, and states of such, with a hash of both; or why nothing is."""

    rows: int = 0
    states: int = 0
    fingerprint: str = EMPTY
    delta_version: int | None = None
    refusal: str | None = None


def write(
    session: Session,
    product: Product,
    tables: Tables,
    days: Mapping[date, date],
    *,
    corrected: Collection[date] = (),
    run_id: str,
) -> dict[date, KeptDay]:
    """Keep of some days of the ARDS what windows need, each table in one commit.

    A day with a sum that its type doesn't hold, or with an entity that no task can hold, comes back with a
    ``refusal``, and loses what was kept of it.

    Args:
        days: each with the morning on which rows of it first came.
        corrected: those of them with rows that have had several states.

    """
    name, nothing = product.name, dict[date, list[DayFile]]()
    source = ArdsFiles.of(product, tables, with_states=bool(corrected))
    kept = tables.day_files(name, DAILY_AGGREGATES)
    versions = tables.day_files(name, DAILY_AGGREGATES_VERSIONS)
    if source is None or kept is None or versions is None:
        return _BySpark(session(), product, tables, dict(days), frozenset(corrected)).write(run_id)
    kept = replace(kept, row_group=ROW_GROUP)
    make = _Make(product, kept, versions, dict(days))
    chosen = list(days)
    done = EntityDays(session, product, source, columns(product), frozenset(corrected), make, kept).write(
        chosen
    )
    files = {day: made.files for day, made in done.items() if not made.refusal}
    states = {day: made.states for day, made in done.items() if not made.refusal}
    with tables.hold(name, DAILY_AGGREGATES, chosen):
        if any(states.values()) or tables.has_days(name, DAILY_AGGREGATES_VERSIONS, chosen):
            tables.replace_days_by(
                name,
                DAILY_AGGREGATES_VERSIONS,
                versions_schema(product),
                states or nothing,
                chosen,
                run_id=run_id,
            )
        version = tables.replace_days_by(
            name, DAILY_AGGREGATES, schema(product), files or nothing, chosen, run_id=run_id
        )
    return {day: _kept_day(product, done.get(day, Made()), version) for day in chosen}


def _kept_day(product: Product, made: Made, version: int) -> KeptDay:
    if made.refusal:
        return KeptDay(delta_version=version, refusal=made.refusal)
    rows = sum((part.content for part in made.parts), ContentSums())
    states = sum(made.states_parts, ContentSums())
    hashes = [rows.fingerprint(schema(product).names), states.fingerprint(versions_schema(product).names)]
    return KeptDay(rows.rows, states.rows, fingerprint_of(hashes), version)


@dataclass(frozen=True)
class _Make:
    """What is kept of a day's rows of some entities, and of a corrected day the states of that."""

    product: Product
    kept: DayFiles
    versions: DayFiles
    first: Mapping[date, date]

    def __call__(self, day: date, rows: pa.Table, states: pa.Table | None, *, is_whole: bool) -> Made:
        product = self.product
        now = aggregate(product, day, rows)
        content = ContentSums.of(now, now.column_names)
        part = CountedPart(len(now), 0, 0, content, ContentSums(), {})
        made = Made([part], self.kept.write(day, now))
        if states is None:
            return made
        earlier = states_of(product, day, self.first[day], rows, states)
        content = ContentSums.of(earlier, earlier.column_names)
        return replace(made, states=self.versions.write(day, earlier), states_parts=[content])


@dataclass(frozen=True)
class _BySpark:
    """The same where Spark brings the rows of days together, and writes.

    Attributes:
        first: by day the morning on which rows of it first came.
        corrected: the days with rows that have had several states.
    """

    spark: SparkSession
    product: Product
    tables: Tables
    first: Mapping[date, date]
    corrected: Collection[date]

    def write(self, run_id: str) -> dict[date, KeptDay]:
        """Write the days, each table in one commit."""
        version, refusals = self._written(run_id)
        schemas = {
            DAILY_AGGREGATES: schema(self.product),
            DAILY_AGGREGATES_VERSIONS: versions_schema(self.product),
        }
        rows, states = (self._counted(table, of_table) for table, of_table in schemas.items())
        return {
            day: KeptDay(delta_version=version, refusal=refusals[day])
            if day in refusals
            else KeptDay(
                rows[day].rows,
                states[day].rows,
                fingerprint_of([rows[day].fingerprint, states[day].fingerprint]),
                version,
            )
            for day in self.first
        }

    def _written(self, run_id: str) -> tuple[int, dict[date, str]]:
        """The version of the table, and why days are refused, which lose what was kept of them."""
        product, tables, spark, first = self.product, self.tables, self.spark, dict(self.first)
        days, refusals, corrected = list(first), dict[date, str](), self.corrected
        source = EntityDaysBySpark(spark, product, tables, columns(product))
        counts = source.counts(days, refusals)

        def make(day: date, rows: pa.Table) -> pa.Table:
            return aggregate(product, day, rows)

        def make_states(day: date, rows: pa.Table, states: pa.Table) -> pa.Table:
            return states_of(product, day, first[day], rows, states)

        def write(chosen: Sequence[date]) -> int:
            with tables.hold(product.name, DAILY_AGGREGATES, days):
                of_chosen = [day for day in chosen if day in corrected]
                if of_chosen or tables.has_days(product.name, DAILY_AGGREGATES_VERSIONS, days):
                    states = source.states(of_chosen, counts, make_states, versions_schema(product))
                    tables.replace_days(
                        spark, product.name, DAILY_AGGREGATES_VERSIONS, states, days, run_id=run_id
                    )
                rows = source.current(chosen, counts, make, schema(product))
                return tables.replace_days(spark, product.name, DAILY_AGGREGATES, rows, days, run_id=run_id)

        def look(chosen: Sequence[date]) -> Mapping[date, str]:
            of_chosen = [day for day in chosen if day in corrected]
            return source.refusals(chosen, counts, make, of_chosen, make_states)

        return written_without_refused(days, refusals, write, look), refusals

    def _counted(self, table: str, of_table: pa.Schema) -> dict[date, Counted]:
        """What a table holds of each of the days."""
        counting = Counting(None, of_table.names, has_positives=False)
        found: dict[date, Counted] = {}
        if self.tables.exists(self.product.name, table):
            rows = self.tables.read_days(self.spark, self.product.name, table, list(self.first))
            found = counting.of_frame(rows, of_table)
        return {day: found.get(day) or counting.of_parts([]) for day in self.first}
