"""The model-ready data set: one row per entity and event day, by the contract's rules.

Training and scoring both read it, so that they cannot disagree. What makes the rows is :mod:`.aggregation`'s
business, of a day or of a bucket of it; here the days are brought there, and written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.assets import ARDS_VERSIONS, MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation, buckets, parcels, served_states
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.day_statistics import Counted, Counting, Statistics
from ml_platform.data_engineering.entity_days import ArdsFiles, EntityDays, Made, Make
from ml_platform.data_engineering.made_columns import with_made_columns
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import UsableDays
from ml_platform.data_engineering.windowed_days import KeptDays, WindowedDays
from ml_platform.data_engineering.windowed_rows import Windowing
from ml_platform.spark.tasks import Session
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import ContentSums
from ml_platform.storage.tables import Tables, column, on_days

MRDS = "mrds"
_REASONS = pa.schema([("day", pa.date32()), ("place", pa.int32()), ("reason", pa.string())])


@dataclass(frozen=True)
class MrdsDay:
    """One day of the MRDS: what it holds and the version of the table that has it, or why it is refused.

    Its ``features_fingerprint`` leaves the label out: scoring and publishing don't change when labels come.
    ``served`` is what there is in ``mrds_served``.
    """

    counted: Counted
    delta_version: int | None
    refusal: str | None = None
    served: Counted = field(default_factory=Counted)

    @property
    def counts(self) -> dict[str, int]:
        return self.counted.counts("rows", "labelled", "positives")


def columns(product: Product) -> list[str]:
    """The columns of the MRDS, in order."""
    return [*product.entity, EVENT_DAY, *product.mrds.columns, LABEL_KNOWN_ON]


def feature_columns(product: Product) -> list[str]:
    """The columns that are known when the day is scored."""
    return [*product.entity, EVENT_DAY, *product.features]


def write(
    session: Session,
    product: Product,
    tables: Tables,
    days: Sequence[date],
    *,
    run_id: str,
    statistics: Statistics | None = None,
    histories: Mapping[date, Sequence[Morning]] | None = None,
    withheld: Collection[date] = (),
    usable: UsableDays | None = None,
    labels: Mapping[date, Sequence[date]] | None = None,
) -> dict[date, MrdsDay]:
    """Write the MRDS of ``days`` from the ARDS, and what was served of days with versions, in a commit each.

    A day with a sum that its type doesn't hold, or with an entity that no task can hold, comes back with a
    ``refusal``, and what the tables held of it stays.

    Args:
        histories: the days with versions in ``ards_versions``, with the mornings on which rows of them came.
        withheld: those of them that nobody may use as they are now: only what was served is written.
        usable: which days windows may hold; needed where the contract has features or a label over any.
        labels: of a label that looks ahead, the mornings on which each day's was given, and then changed;
            without any it isn't known yet.
    """
    histories = {day: mornings for day, mornings in (histories or {}).items() if day in days}
    counting = Counting(
        product.label, columns(product), feature_columns(product), statistics, product.task.has_positives
    )
    served: dict[date, Counted] = {}
    if places := _Places.of(product, tables, with_states=bool(histories)):
        done = _in_tasks(
            session,
            product,
            tables,
            places,
            days,
            histories,
            counting,
            frozenset(withheld),
            usable,
            labels or {},
        )
        refusals = {day: found.refusal for day, found in done.items() if found.refusal}
        counted = {day: counting.of_parts(found.parts) for day, found in done.items()}
        written = [day for day in days if day not in refusals]
        files = {day: done[day].files for day in written if day in done}
        names = served_states.served_schema(product).names
        sums = {day: sum(found.states_parts, ContentSums()) for day, found in done.items()}
        served = {
            day: Counted(found.rows, fingerprint=found.fingerprint(names)) for day, found in sums.items()
        }
        version = -1
        if written:
            with tables.hold(product.name, MRDS, written):
                as_served = {day: done[day].states for day in written if day in done}
                if any(as_served.values()) or tables.has_days(product.name, MRDS_SERVED, written):
                    schema = served_states.served_schema(product)
                    tables.replace_days_by(
                        product.name, MRDS_SERVED, schema, as_served, written, run_id=run_id
                    )
                schema = aggregation.schema(product)
                if shown := [day for day in written if day not in withheld]:
                    version = tables.replace_days_by(product.name, MRDS, schema, files, shown, run_id=run_id)
    else:
        by_spark = _BySpark(session(), product, tables, counting, histories, frozenset(withheld))
        version, refusals = by_spark.write(days, run_id)
        counted = by_spark.count([day for day in days if day not in refusals and day not in withheld])
        served = by_spark.count_served([day for day in histories if day not in refusals])
    return {
        day: MrdsDay(Counted(), None, refusals[day])
        if day in refusals
        else MrdsDay(counted.get(day) or counting.of_parts([]), version, served=served.get(day, Counted()))
        for day in days
    }


# -- where tasks write files ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """The tables that are read and written, where they are files."""

    source: ArdsFiles
    mrds: DayFiles
    served: DayFiles

    @classmethod
    def of(cls, product: Product, tables: Tables, *, with_states: bool) -> _Places | None:
        """Those of a product; None where tasks can't write them."""
        source = ArdsFiles.of(product, tables, with_states=with_states)
        mrds, served = (tables.day_files(product.name, table) for table in (MRDS, MRDS_SERVED))
        if source is None or mrds is None or served is None:
            return None
        return cls(source, mrds, served)


def _in_tasks(
    session: Session,
    product: Product,
    tables: Tables,
    places: _Places,
    days: Sequence[date],
    histories: Mapping[date, Sequence[Morning]],
    counting: Counting,
    withheld: frozenset[date],
    usable: UsableDays | None,
    labels: Mapping[date, Sequence[date]],
) -> dict[date, Made]:
    """What tasks make of days with rows; nothing is committed yet."""

    def made_by(make: Make) -> dict[date, Made]:
        columns, corrected = aggregation.columns(product), frozenset(histories)
        made = EntityDays(session, product, places.source, columns, corrected, make, places.mrds)
        return made.write(days)

    if not product.mrds.over_days:
        return made_by(_Make(product, places.mrds, places.served, dict(histories), counting, withheld))
    if usable is None:
        raise ValueError(f"{product.name}: nobody said which days the windows of mrds.features may hold")
    with places.mrds.scratch() as folder:
        rows, states = DayFiles(str(folder / "rows")), DayFiles(str(folder / "states"))
        own = made_by(_Make(product, rows, states, dict(histories), counting, withheld, is_on_the_way=True))
        windowed = WindowedDays(
            Windowing(product, usable, labels, histories),
            rows,
            states,
            KeptDays.of(product, tables),
            places.mrds,
            places.served,
        )
        return windowed.write(session, own, counting, withheld)


@dataclass(frozen=True)
class _Make:
    """What becomes of a day's rows of some entities: the MRDS's, and of a corrected day what was served.

    Attributes:
        is_on_the_way: whether the rows have yet to get what is of trailing windows.
    """

    product: Product
    rows: DayFiles
    served: DayFiles
    histories: Mapping[date, Sequence[Morning]]
    counting: Counting
    withheld: frozenset[date]
    is_on_the_way: bool = False

    def __call__(self, day: date, rows: pa.Table, states: pa.Table | None, *, is_whole: bool) -> Made:
        product = self.product
        done = aggregation.aggregate(product, day, rows)
        if not self.is_on_the_way:
            done = with_made_columns(product, done, aggregation.schema(product))
        shown = self.is_on_the_way or day not in self.withheld
        parts = [] if self.is_on_the_way else [self.counting.of_part(done, is_whole=is_whole)]
        made = Made(parts, self.rows.write(day, done) if shown else [])
        if states is None:
            return made
        served = served_states.served(product, day, rows, states, self.histories[day])
        if not self.is_on_the_way:
            served = with_made_columns(product, served, served_states.served_schema(product))
        content = [] if self.is_on_the_way else [ContentSums.of(served, served.column_names)]
        return replace(made, states=self.served.write(day, served), states_parts=content)


# -- where only Spark writes ------------------------------------------------------------------------


@dataclass(frozen=True)
class _BySpark:
    """Days of the ARDS, aggregated where Spark brings their rows together, and written by it."""

    spark: SparkSession
    product: Product
    tables: Tables
    counting: Counting
    histories: Mapping[date, Sequence[Morning]]
    withheld: frozenset[date] = frozenset()

    def write(self, days: Sequence[date], run_id: str) -> tuple[int, dict[date, str]]:
        """Write the days in one commit; its version, and why days are refused instead."""
        refusals: dict[date, str] = {}
        counts = self._counts(days, refusals)

        def write() -> int:
            chosen = [day for day in days if day not in refusals]
            if not chosen:
                return -1
            tables, name = self.tables, self.product.name
            shown = [day for day in chosen if day not in self.withheld]
            with tables.hold(name, MRDS, chosen):
                corrected = [day for day in chosen if day in self.histories]
                if corrected or tables.has_days(name, MRDS_SERVED, chosen):
                    served = self._served(corrected, counts)
                    tables.replace_days(self.spark, name, MRDS_SERVED, served, chosen, run_id=run_id)
                if not shown:
                    return -1
                rows = self._aggregated(shown, counts)
                return tables.replace_days(self.spark, name, MRDS, rows, shown, run_id=run_id)

        try:
            return write(), refusals
        except Exception as error:
            if TooLargeError.__name__ not in str(error):
                raise
        refusals |= self._refusals([day for day in days if day not in refusals], counts)
        return write(), refusals

    def count(self, days: Sequence[date]) -> dict[date, Counted]:
        """What the table holds of some days."""
        if not days:
            return {}
        rows = self.tables.read_days(self.spark, self.product.name, MRDS, days)
        return self.counting.of_frame(rows, aggregation.schema(self.product))

    def count_served(self, days: Sequence[date]) -> dict[date, Counted]:
        """What there is of some days in the table of what was served."""
        if not days:
            return {}
        product, schema = self.product, served_states.served_schema(self.product)
        counting = Counting(product.label, schema.names, has_positives=False)
        rows = self.tables.read_days(self.spark, product.name, MRDS_SERVED, days)
        return counting.of_frame(rows, schema)

    def _served(self, days: Sequence[date], counts: Mapping[date, int]) -> DataFrame:
        """What was served of days with versions: of their rows, and the states of those that have several."""
        product, histories = self.product, dict(self.histories)
        schema = served_states.served_schema(product)
        names = aggregation.columns(product)
        if not days:
            return self.spark.createDataFrame([], from_arrow_schema(schema))
        states = self.tables.read_days(self.spark, product.name, ARDS_VERSIONS, days)
        states = states.select(*[column(name) for name in (*names, EVENT_DAY, KNOWN_FROM, KNOWN_TO)])
        nothing = F.lit(None).cast("date")
        rows = self._rows(days).withColumns({KNOWN_FROM: nothing, KNOWN_TO: nothing})

        def serve(rows: pa.Table) -> pa.Table:
            day = rows[EVENT_DAY][0].as_py()
            is_now = rows[KNOWN_FROM].is_null()
            now, before = rows.filter(is_now), rows.filter(pc.invert(is_now))
            served = served_states.served(product, day, now, before, histories[day])
            return with_made_columns(product, served, schema)

        return self._by_bucket(rows.unionByName(states), counts, serve, schema)

    def _counts(self, days: Sequence[date], refusals: dict[date, str]) -> dict[date, int]:
        """The number of buckets of each day; a day with an entity that fills more than one is refused.

        That is seen before anything is brought together: no task could hold what there is of such an entity.
        """
        product, keys = self.product, self.product.entity_of_day
        width = len(aggregation.columns(product))
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

    def _rows(self, days: Sequence[date]) -> DataFrame:
        rows = self.tables.read_days(self.spark, self.product.name, ARDS, days)
        return rows.select(*[column(name) for name in (*aggregation.columns(self.product), EVENT_DAY)])

    def _by_bucket(
        self,
        rows: DataFrame,
        counts: Mapping[date, int],
        make: Callable[[pa.Table], pa.Table],
        schema: pa.Schema,
    ) -> DataFrame:
        return parcels.by_bucket(rows, EVENT_DAY, self.product.entity_of_day, counts, make, schema)

    def _aggregated(self, days: Sequence[date], counts: Mapping[date, int]) -> DataFrame:
        product = self.product

        schema = aggregation.schema(product)

        def aggregate(rows: pa.Table) -> pa.Table:
            made = aggregation.aggregate(product, rows[EVENT_DAY][0].as_py(), rows)
            return with_made_columns(product, made, schema)

        return self._by_bucket(self._rows(days), counts, aggregate, schema)

    def _refusals(self, days: Sequence[date], counts: Mapping[date, int]) -> dict[date, str]:
        """The days with a sum or a mean that its type doesn't hold, each with the reason."""
        product = self.product

        def refuse(rows: pa.Table) -> pa.Table:
            day = rows[EVENT_DAY][0].as_py()
            found = []
            try:
                aggregation.aggregate(product, day, rows)
            except TooLargeError as error:
                found.append({"day": day, "place": error.place, "reason": str(error)})
            return pa.Table.from_pylist(found, schema=_REASONS)

        found = self._by_bucket(self._rows(days), counts, refuse, _REASONS).collect()
        ordered = sorted(found, key=lambda row: (row["place"], row["reason"]), reverse=True)
        return {row["day"]: row["reason"] for row in ordered}
