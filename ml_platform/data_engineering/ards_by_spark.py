"""The ARDS where only Spark may write, as in a catalog: it brings records together, and writes the rows.

The files are read once for the account of each day, which says what is to be written, and once for each table
that is: nothing is kept in between, which not every Spark can. Days that one task can hold are not shuffled.
Records of other days are (:mod:`.parcels`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.product import Product
from ml_platform.data_engineering import buckets, parcels, resolution, row_versions
from ml_platform.data_engineering.day_statistics import CountedPart, Counting
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.delivery_parts import bucket_count, divided
from ml_platform.data_engineering.files import UnreadableFile
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.reading import Reading, located
from ml_platform.data_engineering.resolution import (
    Account,
    Refusal,
    accounts_together,
    quarantine_schema,
    rows_schema,
)
from ml_platform.data_engineering.row_versions import History, Timeline
from ml_platform.spark.tasks import numbers, spare_next_task

_DAY, _FACTS = "_day", parcels.FACTS
_FACTS_SCHEMA = pa.schema([(_FACTS, pa.string())])
_PLACES = ("_file_number", "_record")


@dataclass(frozen=True)
class Facts:
    """What is known of a day, or a part of it: as it was read, or as it was resolved.

    Why it can't be read, or else its account and its counted parts, with what each had been before;
    ``orphans`` are its labels without a row, which the account has among what can't be used.
    """

    day: date
    refusal: Refusal | None = None
    account: Account = field(default_factory=Account)
    parts: list[CountedPart] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    of_files: dict[int, Account] = field(default_factory=dict)
    orphans: int = 0
    source: int = 0

    @property
    def versions(self) -> int:
        """How many states there are of rows that have had several."""
        return sum(history.content.rows for history in self.histories)


_PLAIN = TypeAdapter(Facts)


class Delivered:
    """Some days' deliveries, as Spark's tasks read them."""

    def __init__(
        self, spark: SparkSession, product: Product, deliveries: Sequence[Delivery], counting: Counting
    ) -> None:
        self._spark = spark
        self._product = product
        self._counting = counting
        self._whole = [delivery for delivery in deliveries if bucket_count(delivery) == 1]
        self._large = [delivery for delivery in deliveries if bucket_count(delivery) > 1]

    def facts(self) -> dict[date, Facts]:
        """What each day's files hold."""
        product, counting = self._product, self._counting

        def of_day(delivery: Delivery) -> Iterator[pa.Table]:
            yield _as_table(_facts(product, delivery, counting))

        timelines = self._timelines

        def of_bucket(day: date, entries: pa.Table) -> pa.Table:
            resolved = resolution.resolve(product, day, entries)
            account = Account(labels_applied=resolved.labels_applied, quarantined=len(resolved.orphans))
            parts = [counting.of_part(resolved.rows)]
            _, history = row_versions.changes(product, day, entries, resolved.rows, timelines[day], counting)
            found = Facts(
                day, account=account, parts=parts, histories=[history], orphans=len(resolved.orphans)
            )
            return _as_table(found)

        parts: dict[date, list[Facts]] = {}
        for row in self._made(of_day, of_bucket, _FACTS_SCHEMA, self._days).collect():
            found = _PLAIN.validate_json(row[_FACTS])
            parts.setdefault(found.day, []).append(found)
        return {day: _together(of_day) for day, of_day in parts.items()}

    def rows(self, days: Sequence[date]) -> DataFrame:
        """The rows of some days, in the columns of the ARDS."""
        product = self._product

        def of_day(delivery: Delivery) -> Iterator[pa.Table]:
            _, entries = _read_again(product, delivery)
            yield resolution.resolve(product, delivery.day, entries).rows

        def of_bucket(day: date, entries: pa.Table) -> pa.Table:
            return resolution.resolve(product, day, entries).rows

        return self._made(of_day, of_bucket, rows_schema(product), days)

    def versions(self, days: Sequence[date]) -> DataFrame:
        """All states of the rows of some days that have had several."""
        product, timelines = self._product, self._timelines

        def of_day(delivery: Delivery) -> Iterator[pa.Table]:
            _, entries = _read_again(product, delivery)
            yield row_versions.ards_versions(product, delivery.day, entries, timelines[delivery.day])

        def of_bucket(day: date, entries: pa.Table) -> pa.Table:
            return row_versions.ards_versions(product, day, entries, timelines[day])

        return self._made(of_day, of_bucket, row_versions.ards_schema(product), days)

    def quarantine(self, facts: Mapping[date, Facts]) -> DataFrame:
        """The records of some days that can't be used."""
        product, schema = self._product, quarantine_schema()
        days = [day for day, found in facts.items() if found.account.quarantined]
        sources = [source for source in self._sources if source.day in days]
        of_sources: dict[tuple[date, int], list[DeliveryFile]] = {}
        for source in sources:
            of_sources.setdefault((source.day, source.number), []).append(source)

        def of_day(delivery: Delivery) -> Iterator[pa.Table]:
            reading, entries = _read_again(product, delivery)
            yield pa.Table.from_batches(reading.bad, schema)
            yield from located(
                product, delivery.files, resolution.resolve(product, delivery.day, entries).orphans
            )

        def bad(source: int) -> Iterator[pa.Table]:
            reading = Reading(product, [sources[source]])
            for _ in reading.entries():
                yield pa.Table.from_batches(reading.bad, schema)
                reading.bad.clear()
            _require_unchanged(reading)
            yield pa.Table.from_batches(reading.bad, schema)

        def of_bucket(day: date, entries: pa.Table) -> pa.Table:
            orphans = resolution.resolve(product, day, entries).orphans
            return orphans.append_column(_DAY, pa.repeat(pa.scalar(day, pa.date32()), len(orphans)))

        def locate(orphans: pa.Table) -> pa.Table:
            parts = of_sources[orphans[_DAY][0].as_py(), orphans["_file_number"][0].as_py()]
            return pa.concat_tables([schema.empty_table(), *located(product, parts, orphans)])

        found = [self._of_whole_days(of_day, schema, days)]
        if sources:
            found.append(_mapped(self._spark, len(sources), bad, schema))
        if large := [
            delivery.day for delivery in self._large if delivery.day in days and facts[delivery.day].orphans
        ]:
            places = pa.schema(
                [*(resolution.entry_schema(product).field(name) for name in _PLACES), (_DAY, pa.date32())]
            )
            by_file = self._of_buckets(of_bucket, places, large).groupBy(_DAY, "_file_number")
            found.append(by_file.applyInArrow(locate, from_arrow_schema(schema)))
        return reduce(DataFrame.unionByName, found)

    @property
    def _timelines(self) -> dict[date, Timeline]:
        return {delivery.day: Timeline.of(delivery.files) for delivery in (*self._whole, *self._large)}

    @property
    def _days(self) -> list[date]:
        return [delivery.day for delivery in (*self._whole, *self._large)]

    @cached_property
    def _sources(self) -> list[DeliveryFile]:
        """The files of large days in the parts that tasks read, in order."""
        files = [file for delivery in self._large for file in delivery.files]
        return [
            part
            for parts in divided(lambda: self._spark, self._product, files, buckets.PIECE_BYTES)
            for part in parts
        ]

    def _made(
        self,
        of_day: Callable[[Delivery], Iterable[pa.Table]],
        of_bucket: Callable[[date, pa.Table], pa.Table],
        schema: pa.Schema,
        days: Sequence[date],
    ) -> DataFrame:
        """What is made of some days, of the whole ones in a task each, of the others bucket by bucket."""
        found = [self._of_whole_days(of_day, schema, days)]
        if any(delivery.day in days for delivery in self._large):
            found.append(self._of_buckets(of_bucket, schema, days))
        return reduce(DataFrame.unionByName, found)

    def _of_whole_days(
        self, of_day: Callable[[Delivery], Iterable[pa.Table]], schema: pa.Schema, days: Sequence[date]
    ) -> DataFrame:
        chosen = [delivery for delivery in self._whole if delivery.day in days]
        return _mapped(self._spark, len(chosen), lambda number: of_day(chosen[number]), schema)

    def _of_buckets(
        self, of_bucket: Callable[[date, pa.Table], pa.Table], schema: pa.Schema, days: Sequence[date]
    ) -> DataFrame:
        product = self._product
        sources = [source for source in self._sources if source.day in days]
        counts = {delivery.day: bucket_count(delivery) for delivery in self._large}
        entry_schema, keys = resolution.entry_schema(product), resolution.keys(product)
        is_first, piece_bytes = schema is _FACTS_SCHEMA, buckets.PIECE_BYTES

        def assign(number: int) -> Iterator[pa.Table]:
            source = sources[number]
            reading = Reading(product, [source])
            for piece, entries in enumerate(buckets.pieces(reading.entries(), piece_bytes)):
                assigned = buckets.assigned([entries[name] for name in keys], len(entries))
                if (needed := resolution.needed(product, entries, assigned)) is not None:
                    entries, assigned = entries.take(pa.array(needed)), assigned[needed]
                yield from parcels.of_records(
                    source.day, entries, assigned, counts[source.day], source=number, piece=piece
                )
            if not is_first:
                _require_unchanged(reading)
                return
            found = Facts(
                source.day, reading.refusal, reading.account, of_files=reading.of_files, source=number
            )
            yield parcels.of_facts(source.day, number, _PLAIN.dump_json(found).decode())

        def make(found: pa.Table) -> pa.Table:
            day = found[parcels.DAY][0].as_py()
            made = [of_bucket(day, pa.concat_tables([entry_schema.empty_table(), *parcels.records(found)]))]
            if is_first:
                made.append(found.select([_FACTS]).drop_null())
            spare_next_task()
            return pa.concat_tables(made)

        stream = _mapped(self._spark, len(sources), assign, parcels.SCHEMA, a_task=1)
        by_bucket = stream.groupBy(parcels.DAY, parcels.BUCKET)
        return by_bucket.applyInArrow(make, from_arrow_schema(schema))


def _mapped(
    spark: SparkSession,
    count: int,
    make: Callable[[int], Iterable[pa.Table]],
    schema: pa.Schema,
    **options: Any,
) -> DataFrame:
    """What tasks make of the numbers from 0 to ``count`` - 1."""

    def make_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("number").to_pylist():
                for made in make(number):
                    yield from made.cast(schema).to_batches()
        spare_next_task()

    return numbers(spark, count, **options).mapInArrow(make_all, from_arrow_schema(schema))


def _read(product: Product, delivery: Delivery) -> tuple[Reading, pa.Table]:
    """A day's files, read to their end or to a refusal, and the records that are brought together by key."""
    reading = Reading(product, delivery.files)
    return reading, pa.Table.from_batches(reading.entries(), resolution.entry_schema(product))


def _read_again(product: Product, delivery: Delivery) -> tuple[Reading, pa.Table]:
    """The same of a day that has been accounted for.

    Raises:
        UnreadableFile: a file can't be read any more that could be read then.
    """
    reading, entries = _read(product, delivery)
    _require_unchanged(reading)
    return reading, entries


def _require_unchanged(reading: Reading) -> None:
    if reading.refusal is not None:
        day = reading.files[0].day
        raise UnreadableFile(f"{day}: the delivery changed while it was read: {reading.refusal.reason}")


def _facts(product: Product, delivery: Delivery, counting: Counting) -> Facts:
    reading, entries = _read(product, delivery)
    if reading.refusal is not None:
        return Facts(delivery.day, reading.refusal)
    resolved = resolution.resolve(product, delivery.day, entries)
    try:
        for _ in located(product, delivery.files, resolved.orphans):
            pass
    except UnreadableFile as error:
        return Facts(delivery.day, Refusal.of(error.kind, str(error)))
    labels = Account(labels_applied=resolved.labels_applied, quarantined=len(resolved.orphans))
    parts = [counting.of_part(resolved.rows, is_whole=True)]
    timeline = Timeline.of(delivery.files)
    _, history = row_versions.changes(
        product, delivery.day, entries, resolved.rows, timeline, counting, is_whole=True
    )
    return Facts(
        delivery.day,
        None,
        reading.account + labels,
        parts,
        [history],
        reading.of_files,
        len(resolved.orphans),
    )


def _together(parts: Sequence[Facts]) -> Facts:
    """The facts of a day from those of its parts; of its refusals the first."""
    day = parts[0].day
    if refused := [part for part in parts if part.refusal is not None]:
        return min(refused, key=lambda part: part.source)
    return Facts(
        day=day,
        account=sum((part.account for part in parts), Account()),
        parts=[counted for part in parts for counted in part.parts],
        histories=[history for part in parts for history in part.histories],
        of_files=accounts_together(part.of_files for part in parts),
        orphans=sum(part.orphans for part in parts),
    )


def _as_table(facts: Facts) -> pa.Table:
    return pa.table({_FACTS: [_PLAIN.dump_json(facts).decode()]}, schema=_FACTS_SCHEMA)
