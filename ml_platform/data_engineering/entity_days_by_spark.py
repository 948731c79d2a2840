"""Days of the ARDS, made into something of their entities where Spark brings their rows together.

As :mod:`.entity_days` for places in which only Spark writes: a catalog, or an object store. What is made of
some entities' rows of a day is the same function of Arrow tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import ARDS_VERSIONS
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, buckets, parcels
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.storage.tables import Tables, column, on_days

#: Why days are refused, one of several reasons a row: the one with the least place counts.
REASONS = pa.schema([("day", pa.date32()), ("place", pa.int32()), ("reason", pa.string())])

MakeRows = Callable[[date, pa.Table], pa.Table]
MakeStates = Callable[[date, pa.Table, pa.Table], pa.Table]


@dataclass(frozen=True)
class EntityDaysBySpark:
    """Days of the ARDS, and what is made of them.

    Attributes:
        columns: those that are read.
    """

    spark: SparkSession
    product: Product
    tables: Tables
    columns: Sequence[str]

    def counts(self, days: Sequence[date], refusals: dict[date, str]) -> dict[date, int]:
        """The number of buckets of each day; a day with an entity that fills more than one is refused.

        That is seen before anything is brought together: no task could hold what there is of such an entity.
        """
        product, keys = self.product, self.product.entity_of_day
        width = len(self.columns)
        rows = self._rows(days)
        sizes = rows.groupBy(EVENT_DAY).count().collect()
        counts = {row[EVENT_DAY]: buckets.number_of(buckets.csv_bytes(row["count"], width)) for row in sizes}
        most = buckets.HELD_BYTES // buckets.csv_bytes(1, width)
        if large := [row[EVENT_DAY] for row in sizes if row["count"] > most]:
            of_large = rows.where(on_days(large))
            share = buckets.in_spark(keys, max(counts.values()))
            shares = of_large.groupBy(EVENT_DAY, share.alias("share")).count()
            suspects = {row[EVENT_DAY] for row in shares.where(F.col("count") > most).collect()}
            if suspects:
                of_suspects = rows.where(on_days(suspects))
                by_entity = of_suspects.groupBy(*{EVENT_DAY: None, **dict.fromkeys(keys)}).count()
                for row in by_entity.where(F.col("count") > most).orderBy("count").collect():
                    entity = [row[name] for name in product.entity]
                    refusals[row[EVENT_DAY]] = str(aggregation.too_many_rows(product, entity, row["count"]))
        return counts

    def current(
        self, days: Sequence[date], counts: Mapping[date, int], make: MakeRows, schema: pa.Schema
    ) -> DataFrame:
        """What is made of some days' rows as they are now, in ``schema``."""
        if not days:
            return self.nothing(schema)
        return self._by_bucket(
            self._rows(days), counts, lambda rows: make(rows[EVENT_DAY][0].as_py(), rows), schema
        )

    def states(
        self, days: Sequence[date], counts: Mapping[date, int], make: MakeStates, schema: pa.Schema
    ) -> DataFrame:
        """What is made of corrected days: of their rows, and of the states of those that have had several."""
        if not days:
            return self.nothing(schema)
        names = [*self.columns, EVENT_DAY]
        states = self.tables.read_days(self.spark, self.product.name, ARDS_VERSIONS, days)
        states = states.select(*[column(name) for name in (*names, KNOWN_FROM, KNOWN_TO)])
        never = F.lit(None).cast("date")
        rows = self._rows(days).withColumns({KNOWN_FROM: never, KNOWN_TO: never})

        def make_both(both: pa.Table) -> pa.Table:
            is_now = both[KNOWN_FROM].is_null()
            return make(both[EVENT_DAY][0].as_py(), both.filter(is_now), both.filter(pc.invert(is_now)))

        return self._by_bucket(rows.unionByName(states), counts, make_both, schema)

    def refusals(
        self,
        days: Sequence[date],
        counts: Mapping[date, int],
        make: MakeRows,
        corrected: Sequence[date] = (),
        make_states: MakeStates | None = None,
    ) -> dict[date, str]:
        """The days with a sum or a mean that its type doesn't hold, each with the reason.

        Args:
            corrected: those of the days of which states are made as well.
        """

        def refuse(day: date, rows: pa.Table) -> pa.Table:
            return against(lambda: make(day, rows), day)

        found = reasons(self.current(days, counts, refuse, REASONS))
        if make_states is None or not corrected:
            return found

        def refuse_states(day: date, rows: pa.Table, states: pa.Table) -> pa.Table:
            return against(lambda: make_states(day, rows, states), day)

        return reasons(self.states(corrected, counts, refuse_states, REASONS)) | found

    def nothing(self, schema: pa.Schema) -> DataFrame:
        """No rows, in a schema."""
        return self.spark.createDataFrame([], from_arrow_schema(schema))

    def _rows(self, days: Sequence[date]) -> DataFrame:
        rows = self.tables.read_days(self.spark, self.product.name, ARDS, days)
        return rows.select(*[column(name) for name in (*self.columns, EVENT_DAY)])

    def _by_bucket(
        self,
        rows: DataFrame,
        counts: Mapping[date, int],
        make: Callable[[pa.Table], pa.Table],
        schema: pa.Schema,
    ) -> DataFrame:
        return parcels.by_bucket(rows, EVENT_DAY, self.product.entity_of_day, counts, make, schema)


def against(make: Callable[[], object], day: date) -> pa.Table:
    """What keeps a day, or a part of it, from being made, in :data:`REASONS`."""
    try:
        make()
    except TooLargeError as error:
        found = [{"day": day, "place": error.place, "reason": str(error)}]
        return pa.Table.from_pylist(found, schema=REASONS)
    return REASONS.empty_table()


def reasons(found: DataFrame) -> dict[date, str]:
    """Of each refused day one reason, which doesn't depend on how the days were divided."""
    ordered = sorted(found.collect(), key=lambda row: (row["place"], row["reason"]), reverse=True)
    return {row["day"]: row["reason"] for row in ordered}


def written_without_refused(
    days: Sequence[date],
    refusals: dict[date, str],
    write: Callable[[Sequence[date]], int],
    look: Callable[[Sequence[date]], Mapping[date, str]],
) -> int:
    """The version that days are written in, without those that turn out to have a total beyond its type.

    Args:
        refusals: those that are refused already; gets the others.
        look: why some days are refused.
    """
    while True:
        chosen = [day for day in days if day not in refusals]
        try:
            return write(chosen)
        except Exception as error:
            found = look(chosen) if TooLargeError.__name__ in str(error) else {}
            if not found:
                raise
            refusals |= found
