"""Days of the MRDS get what is of trailing windows where only Spark writes: in a catalog, an object store.

Of each share of the entities the days on the way and what is kept of the days in their windows come together
in one task, which makes of them what :mod:`.windowed_rows` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import DAILY_AGGREGATES, DAILY_AGGREGATES_VERSIONS
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, daily_aggregates, parcels, served_states
from ml_platform.data_engineering.daily_aggregates import ENTITY_HASH
from ml_platform.data_engineering.entity_days_by_spark import REASONS, against, reasons
from ml_platform.data_engineering.windowed_rows import DayOnTheWay, Windowing, reached
from ml_platform.storage.tables import Tables, column

#: Values of rows that a task lays out or makes: 6,000,000 of each took 350 MB beside the libraries' 370 MB,
#: of which a Python function on serverless compute has a GB together.
VALUES_AT_ONCE = 6_000_000

_Complete = Callable[[Sequence[DayOnTheWay], pa.Table, pa.Table], pa.Table]


@dataclass(frozen=True)
class WindowedBySpark:
    """Days on the way, as frames, and what their windows are put together from.

    Attributes:
        days: those that are made, ascending.
        rows: their rows as they are now, in :func:`.aggregation.own_schema`.
        states: as they were served, in :func:`.served_states.own_schema`.
        shares: tasks among which the entities are divided.
    """

    spark: SparkSession
    tables: Tables
    windowing: Windowing
    days: Sequence[date]
    rows: DataFrame
    states: DataFrame
    shares: int

    @classmethod
    def of(
        cls,
        spark: SparkSession,
        tables: Tables,
        windowing: Windowing,
        days: Sequence[date],
        rows: DataFrame,
        states: DataFrame,
    ) -> WindowedBySpark:
        """The same in as many shares as it takes."""
        product, found = windowing.product, cls(spark, tables, windowing, days, rows, states, 1)
        schema = daily_aggregates.schema(product)
        entities = F.approx_count_distinct(column(ENTITY_HASH))
        kept = found._kept(DAILY_AGGREGATES, schema)
        facts = kept.agg(F.count("*").alias("rows"), entities.alias("entities")).collect()[0]
        made = len(days) * facts["entities"] if product.mrds.population is not None else facts["rows"]
        values = max(facts["rows"] * len(schema), made * len(aggregation.schema(product)))
        return replace(found, shares=max(1, -(-values // VALUES_AT_ONCE)))

    def current(self) -> DataFrame:
        """The days' rows of the MRDS."""
        windowing, schema = replace(self.windowing, mornings={}), aggregation.schema(self.windowing.product)

        def make(days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table) -> pa.Table:
            without = [DayOnTheWay(of_day.day, of_day.rows, of_day.states.slice(0, 0)) for of_day in days]
            done = [rows for _, rows, _ in windowing.complete(without, kept, versions)]
            return pa.concat_tables([schema.empty_table(), *done])

        return self._by_share(make, schema)

    def served(self) -> DataFrame:
        """What was served of them."""
        windowing, schema = self.windowing, served_states.served_schema(self.windowing.product)

        def make(days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table) -> pa.Table:
            done = [states for _, _, states in windowing.complete(days, kept, versions)]
            return pa.concat_tables([schema.empty_table(), *done])

        return self._by_share(make, schema)

    def refusals(self) -> dict[date, str]:
        """The days with a sum of a window that its type doesn't hold, each with the reason."""
        windowing = self.windowing

        def make(days: Sequence[DayOnTheWay], kept: pa.Table, versions: pa.Table) -> pa.Table:
            def complete(of_day: DayOnTheWay) -> list[object]:
                return list(windowing.complete([of_day], kept, versions))

            found = [against(partial(complete, of_day), of_day.day) for of_day in days]
            return pa.concat_tables([REASONS.empty_table(), *found])

        return reasons(self._by_share(make, REASONS))

    def _by_share(self, make: _Complete, schema: pa.Schema) -> DataFrame:
        product, days = self.windowing.product, list(self.days)
        schemas = [
            aggregation.own_schema(product),
            served_states.own_schema(product),
            daily_aggregates.schema(product),
            daily_aggregates.versions_schema(product),
        ]
        frames = [
            self.rows,
            self.states,
            self._kept(DAILY_AGGREGATES, schemas[2]),
            self._kept(DAILY_AGGREGATES_VERSIONS, schemas[3]),
        ]

        def make_share(tables: Sequence[pa.Table]) -> pa.Table:
            rows, states, kept, versions = tables
            on_the_way = [DayOnTheWay(day, _of_day(rows, day), _of_day(states, day)) for day in days]
            return make(on_the_way, kept, versions)

        return parcels.by_share(
            frames, schemas, days[0], product.entity_of_day, self.shares, make_share, schema
        )

    def _kept(self, table: str, schema: pa.Schema) -> DataFrame:
        """What is kept of the days in the windows, or its states."""
        product, tables = self.windowing.product, self.tables
        within = reached(product, self.days)
        if within is None or not tables.exists(product.name, table):
            return self.spark.createDataFrame([], from_arrow_schema(schema))
        rows = tables.read_days(self.spark, product.name, table, within)
        return rows.select(*[column(name) for name in schema.names])


def _of_day(rows: pa.Table, day: date) -> pa.Table:
    return rows.filter(pc.equal(rows[EVENT_DAY], pa.scalar(day, pa.date32())))
