"""The model-ready data set: one row per entity and event day, by the contract's rules.

Training and scoring both read it, so that they cannot disagree. What makes the rows is :mod:`.aggregation`'s
business, of a day or of a bucket of it; here the days are brought there, and written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from ml_platform.contract.assets import MRDS_SERVED
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering import aggregation, served_states
from ml_platform.data_engineering.day_statistics import Counted, Counting, Statistics
from ml_platform.data_engineering.entity_days import ArdsFiles, EntityDays, Made, Make
from ml_platform.data_engineering.entity_days_by_spark import EntityDaysBySpark, written_without_refused
from ml_platform.data_engineering.made_columns import with_made_columns
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.data_engineering.trailing_windows import UsableDays
from ml_platform.data_engineering.windowed_by_spark import WindowedBySpark
from ml_platform.data_engineering.windowed_days import KeptDays, WindowedDays
from ml_platform.data_engineering.windowed_rows import Windowing
from ml_platform.spark.tasks import Session
from ml_platform.storage.day_files import DayFiles
from ml_platform.storage.fingerprints import ContentSums
from ml_platform.storage.tables import Tables

MRDS = "mrds"


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
        windowing = _windowing(product, usable, labels, histories) if product.mrds.over_days else None
        by_spark = _BySpark(session(), product, tables, counting, histories, frozenset(withheld), windowing)
        version, refusals = by_spark.write(days, run_id)
        counted = by_spark.count([day for day in days if day not in refusals and day not in withheld])
        served = by_spark.count_served([day for day in histories if day not in refusals])
    return {
        day: MrdsDay(Counted(), None, refusals[day])
        if day in refusals
        else MrdsDay(counted.get(day) or counting.of_parts([]), version, served=served.get(day, Counted()))
        for day in days
    }


def _windowing(
    product: Product,
    usable: UsableDays | None,
    labels: Mapping[date, Sequence[date]] | None,
    histories: Mapping[date, Sequence[Morning]],
) -> Windowing:
    """What decides the windows of days.

    Raises:
        ValueError: it isn't known which days they may hold.
    """
    if usable is None:
        raise ValueError(f"{product.name}: nobody said which days the windows of mrds.features may hold")
    return Windowing(product, usable, labels or {}, histories)


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
    windowing = _windowing(product, usable, labels, histories)
    with places.mrds.scratch() as folder:
        rows, states = DayFiles(str(folder / "rows")), DayFiles(str(folder / "states"))
        own = made_by(_Make(product, rows, states, dict(histories), counting, withheld, is_on_the_way=True))
        windowed = WindowedDays(
            windowing,
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
    """Days of the ARDS, aggregated where Spark brings their rows together, and written by it.

    Attributes:
        windowing: what windows are put together by, where the contract has any.
    """

    spark: SparkSession
    product: Product
    tables: Tables
    counting: Counting
    histories: Mapping[date, Sequence[Morning]]
    withheld: frozenset[date] = frozenset()
    windowing: Windowing | None = None

    def write(self, days: Sequence[date], run_id: str) -> tuple[int, dict[date, str]]:
        """Write the days in one commit; its version, and why days are refused instead."""
        refusals: dict[date, str] = {}
        counts = self._source.counts(days, refusals)
        version = written_without_refused(
            days,
            refusals,
            lambda chosen: self._write(chosen, counts, run_id) if chosen else -1,
            lambda chosen: self._refusals(chosen, counts),
        )
        return version, refusals

    def _write(self, days: Sequence[date], counts: Mapping[date, int], run_id: str) -> int:
        tables, name = self.tables, self.product.name
        shown = [day for day in days if day not in self.withheld]
        with tables.hold(name, MRDS, days):
            corrected = [day for day in days if day in self.histories]
            if corrected or tables.has_days(name, MRDS_SERVED, days):
                served = self._served(corrected, counts)
                tables.replace_days(self.spark, name, MRDS_SERVED, served, days, run_id=run_id)
            if not shown:
                return -1
            rows = self._rows(shown, counts)
            return tables.replace_days(self.spark, name, MRDS, rows, shown, run_id=run_id)

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

    @property
    def _source(self) -> EntityDaysBySpark:
        return EntityDaysBySpark(self.spark, self.product, self.tables, aggregation.columns(self.product))

    def _rows(self, days: Sequence[date], counts: Mapping[date, int]) -> DataFrame:
        product = self.product
        if self.windowing is not None:
            return self._windowed(days, counts, with_states=False).current()
        schema = aggregation.schema(product)

        def aggregate(day: date, rows: pa.Table) -> pa.Table:
            return with_made_columns(product, aggregation.aggregate(product, day, rows), schema)

        return self._source.current(days, counts, aggregate, schema)

    def _served(self, days: Sequence[date], counts: Mapping[date, int]) -> DataFrame:
        product, schema = self.product, served_states.served_schema(self.product)
        if self.windowing is not None and days:
            return self._windowed(days, counts, with_states=True).served()
        histories = dict(self.histories)

        def serve(day: date, rows: pa.Table, states: pa.Table) -> pa.Table:
            served = served_states.served(product, day, rows, states, histories[day])
            return with_made_columns(product, served, schema)

        return self._source.states(days, counts, serve, schema)

    def _windowed(
        self, days: Sequence[date], counts: Mapping[date, int], *, with_states: bool
    ) -> WindowedBySpark:
        """Days on their way to the tables, which have yet to get what is of windows."""
        assert self.windowing is not None, "the contract has windows"
        product, source, histories = self.product, self._source, dict(self.histories)
        schema = served_states.own_schema(product)

        def aggregate(day: date, rows: pa.Table) -> pa.Table:
            return aggregation.aggregate(product, day, rows)

        def serve(day: date, rows: pa.Table, states: pa.Table) -> pa.Table:
            return served_states.served(product, day, rows, states, histories[day])

        corrected = [day for day in days if day in histories] if with_states else []
        return WindowedBySpark.of(
            self.spark,
            self.tables,
            self.windowing,
            sorted(days),
            source.current(days, counts, aggregate, aggregation.own_schema(product)),
            source.states(corrected, counts, serve, schema),
        )

    def _refusals(self, days: Sequence[date], counts: Mapping[date, int]) -> dict[date, str]:
        """The days with a sum or a mean that its type doesn't hold, each with the reason."""
        product = self.product
        found = self._source.refusals(
            days, counts, lambda day, rows: aggregation.aggregate(product, day, rows)
        )
        if found or self.windowing is None:
            return found
        return self._windowed(days, counts, with_states=True).refusals()
