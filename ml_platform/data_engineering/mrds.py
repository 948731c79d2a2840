"""The model-ready data set: one row per entity and event day, by the contract's rules.

Training and scoring both read it, so that they cannot disagree. What makes the rows is :mod:`.aggregation`'s
business, of a day or of a bucket of it; here the days are brought there, and written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from ml_platform.data_engineering import aggregation, buckets, parcels, row_versions, served_states
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.ards import ARDS
from ml_platform.data_engineering.buckets import BucketFiles, Scattered
from ml_platform.data_engineering.day_statistics import Counted, CountedPart, Counting, Statistics
from ml_platform.data_engineering.row_states import KNOWN_FROM, KNOWN_TO
from ml_platform.data_engineering.row_versions import Morning
from ml_platform.spark.tasks import Session, each_in_a_task, in_tasks
from ml_platform.storage.day_files import DayFile, DayFiles, held
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
    return [*product.entity, EVENT_DAY, *product.mrds.aggregate, LABEL_KNOWN_ON]


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
) -> dict[date, MrdsDay]:
    """Write the MRDS of ``days`` from the ARDS, and what was served of days with versions, in a commit each.

    A day with a sum that its type doesn't hold, or with an entity that no task can hold, comes back with a
    ``refusal``, and what the tables held of it stays.

    Args:
        histories: the days with versions in ``ards_versions``, with the mornings on which rows of them came.
        withheld: those of them that nobody may use as they are now: only what was served is written.
    """
    histories = {day: mornings for day, mornings in (histories or {}).items() if day in days}
    counting = Counting(
        product.label, columns(product), feature_columns(product), statistics, product.task.has_positives
    )
    served: dict[date, Counted] = {}
    if places := _Places.of(product, tables, with_versions=bool(histories)):
        done = _InTasks(session, product, places, histories, counting, frozenset(withheld)).write(days)
        refusals = {day: found.refusal for day, found in done.items() if found.refusal}
        counted = {day: counting.of_parts(found.parts) for day, found in done.items()}
        written = [day for day in days if day not in refusals]
        files = {day: done[day].files for day in written if day in done}
        names = served_states.served_schema(product).names
        sums = {day: sum(found.served_parts, ContentSums()) for day, found in done.items()}
        served = {
            day: Counted(found.rows, fingerprint=found.fingerprint(names)) for day, found in sums.items()
        }
        version = -1
        if written:
            with tables.hold(product.name, MRDS, written):
                as_served = {day: done[day].served for day in written if day in done}
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
class _Aggregated:
    """The files of a day, or of a bucket of it, and what they hold; or why the day is refused.

    ``is_too_large``: the day was taken for smaller than it is, and nothing was done. ``place`` is that of the
    refusal's column.
    """

    parts: list[CountedPart] = field(default_factory=list)
    files: list[DayFile] = field(default_factory=list)
    served: list[DayFile] = field(default_factory=list)
    served_parts: list[ContentSums] = field(default_factory=list)
    refusal: str | None = None
    place: int = -1
    is_too_large: bool = False


@dataclass(frozen=True)
class _Places:
    """The folders of the tables, and the versions of those that are read.

    ``states`` are those of rows of the ARDS that have had several; None if no day has any.
    """

    rows: DayFiles
    rows_version: int
    states: DayFiles | None
    states_version: int
    mrds: DayFiles
    served: DayFiles

    @classmethod
    def of(cls, product: Product, tables: Tables, *, with_versions: bool) -> _Places | None:
        """Those of a product's tables; None where tasks can't write them."""
        name = product.name
        rows, mrds, served = (tables.day_files(name, table) for table in (ARDS, MRDS, MRDS_SERVED))
        if rows is None or mrds is None or served is None:
            return None
        states = tables.day_files(name, ARDS_VERSIONS) if with_versions else None
        states_version = tables.version(name, ARDS_VERSIONS) if with_versions else -1
        return cls(rows, tables.version(name, ARDS), states, states_version, mrds, served)


@dataclass(frozen=True)
class _InTasks:
    """Days of the ARDS, aggregated in tasks that write files; nothing is committed yet."""

    session: Session
    product: Product
    places: _Places
    histories: Mapping[date, Sequence[Morning]]
    counting: Counting
    withheld: frozenset[date]

    def write(self, days: Sequence[date]) -> dict[date, _Aggregated]:
        """One result a day with rows."""
        sizes = self.places.rows.sizes(self.places.rows_version)
        width = len(aggregation.columns(self.product))
        counts = {day: buckets.number_of(buckets.csv_bytes(sizes[day], width)) for day in days}
        small = [day for day in days if counts[day] == 1]
        here = buckets.one_task(small, buckets.csv_bytes(sum(sizes[day] for day in small), width))
        done = self._whole(small, here=here)
        for day in days:
            if counts[day] > 1 or (day in done and done[day].is_too_large):
                done[day] = self._in_buckets(day, counts[day])
        return done

    def _whole(self, days: Sequence[date], *, here: bool) -> dict[date, _Aggregated]:
        """Days of one bucket, each in one task, as far as they are as small as they seem."""
        places, at_most, write = self.places, buckets.HELD_BYTES, self._writer()
        names, versions = aggregation.columns(self.product), self._versions()

        corrected = frozenset(self.histories)

        def write_all(chosen: Sequence[date]) -> Iterator[tuple[date, _Aggregated]]:
            without_rows = {day for day in chosen if day in corrected}
            for day, rows, is_all in places.rows.read_at_most(places.rows_version, chosen, names, at_most):
                without_rows.discard(day)
                states, fits = versions(day, at_most)
                if is_all and fits:
                    yield day, write(day, rows, states, is_whole=True)
                else:
                    yield day, _Aggregated(is_too_large=True)
            # A day that has lost all its rows was served from those that it had.
            for day in sorted(without_rows):
                states, fits = versions(day, at_most)
                if states is not None and fits:
                    yield day, write(day, states.slice(0, 0).select(names), states, is_whole=True)

        return in_tasks(self.session, days, write_all, _Aggregated, here=here)

    def _in_buckets(self, day: date, count: int) -> _Aggregated:
        """A day that no task can hold: its rows are brought together by entity, bucket by bucket."""
        product, places, write = self.product, self.places, self._writer()
        names, keys = aggregation.columns(product), _keys(product)
        with_states = [*names, KNOWN_FROM, KNOWN_TO]
        at_most = buckets.HELD_BYTES
        with BucketFiles.beside(places.mrds, count) as files:
            of_rows = buckets.scatter_day(
                self.session, files, places.rows, places.rows_version, day, names, keys
            )
            of_states: list[Scattered] = []
            if places.states is not None and day in self.histories:
                of_states = buckets.scatter_day(
                    self.session, files, places.states, places.states_version, day, with_states, keys
                )
            shares = buckets.shares([*of_rows, *of_states], at_most)
            paths, state_paths = (
                [path for piece in pieces for path in piece.files] for pieces in (of_rows, of_states)
            )
            is_corrected = places.states is not None and day in self.histories

            def aggregate(number: int) -> _Aggregated:
                rows, is_all = held(files.gather(paths, shares[number], keys), None, at_most)
                states = list(files.gather(state_paths, shares[number], keys))
                if is_all:
                    return write(
                        day,
                        rows,
                        pa.Table.from_batches(states, _no_states(product).schema) if is_corrected else None,
                    )
                return _refused(aggregation.too_many_rows(product, *aggregation.largest(product, day, rows)))

            return _together(each_in_a_task(self.session, len(shares), aggregate, _Aggregated))

    def _versions(self) -> Callable[[date, int], tuple[pa.Table | None, bool]]:
        """What reads the states of a day's rows that have had several, and says whether these are all."""
        places, corrected = self.places, frozenset(self.histories)
        names = [*aggregation.columns(self.product), KNOWN_FROM, KNOWN_TO]
        nothing = _no_states(self.product)

        def read(day: date, at_most: int) -> tuple[pa.Table | None, bool]:
            if places.states is None or day not in corrected:
                return None, True
            found = places.states.read_at_most(places.states_version, [day], names, at_most)
            return next(((rows, is_all) for _, rows, is_all in found), (nothing, True))

        return read

    def _writer(self) -> Callable[..., _Aggregated]:
        product, places, counting, histories = self.product, self.places, self.counting, dict(self.histories)
        withheld = self.withheld
        names = served_states.served_schema(product).names

        def write(
            day: date, rows: pa.Table, states: pa.Table | None, *, is_whole: bool = False
        ) -> _Aggregated:
            try:
                done = aggregation.aggregate(product, day, rows)
            except TooLargeError as error:
                return _refused(error)
            files = [] if day in withheld else places.mrds.write(day, done)
            made = _Aggregated([counting.of_part(done, is_whole=is_whole)], files)
            if states is None:
                return made
            served = served_states.served(product, day, rows, states, histories[day])
            content = ContentSums.of(served, names)
            return replace(made, served=places.served.write(day, served), served_parts=[content])

        return write


def _no_states(product: Product) -> pa.Table:
    """No states of rows, in the columns that are read of them: of a rejected day no row need have changed."""
    names = [*aggregation.columns(product), KNOWN_FROM, KNOWN_TO]
    return row_versions.ards_schema(product).empty_table().select(names)


def _keys(product: Product) -> list[str]:
    """The columns that tell entities of a day apart."""
    return [name for name in product.entity if name != EVENT_DAY]


def _refused(error: TooLargeError) -> _Aggregated:
    return _Aggregated(refusal=str(error), place=error.place)


def _together(shares: Sequence[_Aggregated]) -> _Aggregated:
    """What the parts of a day make: its files, or the first of the reasons against it."""
    if refused := [share for share in shares if share.refusal]:
        return min(refused, key=lambda share: (share.place, share.refusal))
    return _Aggregated(
        parts=[part for share in shares for part in share.parts],
        files=[file for share in shares for file in share.files],
        served=[file for share in shares for file in share.served],
        served_parts=[part for share in shares for part in share.served_parts],
    )


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
            return served_states.served(product, day, now, before, histories[day])

        return self._by_bucket(rows.unionByName(states), counts, serve, schema)

    def _counts(self, days: Sequence[date], refusals: dict[date, str]) -> dict[date, int]:
        """The number of buckets of each day; a day with an entity that fills more than one is refused.

        That is seen before anything is brought together: no task could hold what there is of such an entity.
        """
        product, keys = self.product, _keys(self.product)
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
        return parcels.by_bucket(rows, EVENT_DAY, _keys(self.product), counts, make, schema)

    def _aggregated(self, days: Sequence[date], counts: Mapping[date, int]) -> DataFrame:
        product = self.product

        def aggregate(rows: pa.Table) -> pa.Table:
            return aggregation.aggregate(product, rows[EVENT_DAY][0].as_py(), rows)

        return self._by_bucket(self._rows(days), counts, aggregate, aggregation.schema(product))

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
