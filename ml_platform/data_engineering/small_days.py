"""Days that fit in the memory of one task: a task reads a day's files once and hands on what became of them.

No record is shuffled. What a day adds up to is the same as :mod:`.large_days` finds with shuffles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY, LABEL_KNOWN_ON
from ml_platform.data_engineering.day_statistics import Counted, Counting
from ml_platform.data_engineering.files import UnreadableFile
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.parsing import locate, parsed_schema
from ml_platform.data_engineering.replacements import USED, records_of
from ml_platform.data_engineering.resolution import (
    ORPHAN,
    REFUSALS,
    Account,
    Refusal,
    Resolution,
    ards_columns,
    quarantine_schema,
)
from ml_platform.spark.tasks import in_tasks, numbers, spare_next_task
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.tables import column

#: Bytes of a day's files, unpacked, up to which a task holds the day in memory: about a million records.
SMALL_BYTES = 64 << 20

_PLACE = ("file", "line", "raw", "reason")


def is_small(delivery: Delivery) -> bool:
    """Whether one task can hold the day."""
    return sum(file.likely_bytes for file in delivery.files) <= SMALL_BYTES


@dataclass(frozen=True)
class WrittenDay:
    """What became of a day: why it can't be read, or else its account, and the files of its records."""

    refusal: Refusal | None = None
    account: Account | None = None
    counted: Counted = field(default_factory=Counted)
    rows: list[DayFile] = field(default_factory=list)
    quarantine: list[DayFile] = field(default_factory=list)


def write(
    spark: SparkSession,
    product: Product,
    deliveries: Sequence[Delivery],
    rows_in: DayFiles,
    quarantine_in: DayFiles,
    counting: Counting,
) -> dict[date, WrittenDay]:
    """Resolve these days, each in one task that writes its files and counts; nothing is committed yet."""
    by_day = {delivery.day: delivery for delivery in deliveries}

    def write_all(days: Sequence[date]) -> Iterator[tuple[date, WrittenDay]]:
        for day in days:
            yield day, _Day(product, by_day[day]).write(rows_in, quarantine_in, counting)

    return in_tasks(spark, list(by_day), write_all, WrittenDay)


def resolve(spark: SparkSession, product: Product, deliveries: Sequence[Delivery]) -> Resolution:
    """What becomes of these days, each in one task, for Spark to write.

    The files are read twice, once for the account and the quarantine and once for the rows: that costs a
    quarter of what it would cost Spark to hold the rows in between.
    """
    found = _in_tasks(spark, product, deliveries, with_rows=False).persist()
    facts = {
        row[EVENT_DAY]: json.loads(row["_facts"])
        for row in found.where(F.col("_kind") == "day").select(EVENT_DAY, "_facts").collect()
    }
    refusals = {day: Refusal(**one["refusal"]) for day, one in facts.items() if "refusal" in one}
    readable = [delivery for delivery in deliveries if delivery.day not in refusals]
    rows = _in_tasks(spark, product, readable, with_rows=True)
    return Resolution(
        rows=rows.select(*[column(name) for name in ards_columns(product)]),
        quarantine=found.where(F.col("_kind") == "bad").select(
            F.lit(product.name).alias("product"),
            F.col(EVENT_DAY),
            *[F.col(f"_{name}").alias(name) for name in _PLACE],
        ),
        accounts={day: Account(**one) for day, one in facts.items() if day not in refusals},
        refusals=refusals,
        release=lambda: found.unpersist(),
    )


def _in_tasks(
    spark: SparkSession, product: Product, deliveries: Sequence[Delivery], *, with_rows: bool
) -> DataFrame:
    """The rows of the days, or all else that becomes of them, in :func:`_schema`."""

    def resolve_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column("number").to_pylist():
                resolved = _Day(product, deliveries[number])
                yield from resolved.rows() if with_rows else resolved.others()
        spare_next_task()

    schema = from_arrow_schema(_schema(product))
    return numbers(spark, len(deliveries)).mapInArrow(resolve_all, schema)


def _schema(product: Product) -> pa.Schema:
    """ARDS rows (``row``), quarantined records (``bad``), and an account of each day (``day``)."""
    quarantine = quarantine_schema()
    return pa.schema(
        [
            ("_kind", pa.string()),
            ("_facts", pa.string()),
            *rows_schema(product),
            *[(f"_{name}", quarantine.field(name).type) for name in _PLACE],
        ]
    )


def rows_schema(product: Product) -> pa.Schema:
    """The schema of the ARDS."""
    parsed, types = parsed_schema(product), {EVENT_DAY: pa.date32()}
    return pa.schema([(name, types.get(name) or parsed.field(name).type) for name in ards_columns(product)])


class _Day:
    """A day's delivery, read by this task."""

    def __init__(self, product: Product, delivery: Delivery) -> None:
        self._product = product
        self._delivery = delivery
        parsed = pa.Table.from_batches(
            [batch for file in delivery.files for batch in records_of(file, product)], parsed_schema(product)
        )
        self._records = len(parsed)
        kind = parsed["_kind"]
        refused = parsed.filter(pc.is_in(kind, pa.array(list(REFUSALS)))).slice(0, 1).to_pylist()
        self._unread = Refusal.of(refused[0]["_kind"], refused[0]["_reason"]) if refused else None
        is_bad = pc.equal(kind, "bad")
        self._bad = parsed.filter(is_bad)
        self._not_yet = pc.sum(pc.equal(kind, "pending")).as_py() or 0
        is_used = pc.is_in(kind, pa.array(list(USED)))
        usable = parsed if pc.all(is_used).as_py() is not False else parsed.filter(is_used)
        self._entries = _Entries(product, usable.combine_chunks())

    def write(self, rows_in: DayFiles, quarantine_in: DayFiles, counting: Counting) -> WrittenDay:
        """Write the rows, and the records for the quarantine, as files."""
        if self._refusal is not None:
            return WrittenDay(refusal=self._refusal)
        day = self._delivery.day
        bad = [
            _table(quarantine_schema(), {**self._of_day(columns), "product": self._product.name})
            for columns in self._unusable
        ]
        rows = _table(rows_schema(self._product), self._of_day(self._entries.rows()))
        return WrittenDay(
            account=self._account,
            counted=counting.of_rows(rows),
            rows=rows_in.write(day, rows),
            quarantine=quarantine_in.write(day, pa.concat_tables(bad)),
        )

    def rows(self) -> Iterator[pa.RecordBatch]:
        """One row per key.

        Raises:
            UnreadableFile: a file can't be read any more that could be read when the day was accounted for.
        """
        if self._unread is not None:
            raise UnreadableFile(
                f"{self._delivery.day}: the delivery changed while it was read: {self._unread.reason}"
            )
        yield from self._batches("row", self._entries.rows())

    def others(self) -> Iterator[pa.RecordBatch]:
        """The records for the quarantine, and the account of the day or why it can't be read."""
        if self._refusal is not None:
            facts: dict[str, Any] = {"refusal": asdict(self._refusal)}
        else:
            facts = asdict(self._account)
            for columns in self._unusable:
                yield from self._batches("bad", {f"_{name}": values for name, values in columns.items()})
        yield from self._batches("day", {"_facts": pa.array([json.dumps(facts)])})

    @cached_property
    def _orphans(self) -> pa.Table:
        return self._entries.orphans()

    @cached_property
    def _refusal(self) -> Refusal | None:
        """Why the day can't be used, as its files were read or when records were looked up in them again."""
        if self._unread is not None:
            return self._unread
        try:
            self._unusable  # noqa: B018 - looks into the files
        except UnreadableFile as error:
            return Refusal.of(error.kind, str(error))
        return None

    @property
    def _account(self) -> Account:
        return Account(
            delivered=self._records,
            labels_applied=self._entries.labels_applied,
            quarantined=len(self._bad) + len(self._orphans),
            labels_not_yet=self._not_yet,
        )

    @cached_property
    def _unusable(self) -> list[dict[str, Any]]:
        """Place and reason of the records for the quarantine, in columns."""
        bad = {name: self._bad[f"_{name}"] for name in _PLACE}
        return [bad, self._located(self._orphans)] if len(self._orphans) else [bad]

    def _located(self, orphans: pa.Table) -> dict[str, Any]:
        """Records with their lines and texts, which takes a second look into their files."""
        wanted: dict[int, set[int]] = {}
        for place in orphans.to_pylist():
            wanted.setdefault(place["_file_number"], set()).add(place["_record"])
        found = [
            (file.name, line, raw, ORPHAN)
            for file in self._delivery.files
            if file.number in wanted
            for _, line, raw in locate(file, self._product, wanted[file.number])
        ]
        return {name: pa.array(values) for name, values in zip(_PLACE, zip(*found, strict=True), strict=True)}

    def _batches(self, kind: str, columns: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        """Some columns of the schema, the others null."""
        yield from _table(_schema(self._product), {**self._of_day(columns), "_kind": kind}).to_batches()

    def _of_day(self, columns: dict[str, Any]) -> dict[str, Any]:
        return {EVENT_DAY: self._delivery.day, **columns}


def _table(schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """Columns and values that hold for every row, as a table; what isn't given is null."""
    count = next(len(values) for values in columns.values() if isinstance(values, pa.Array | pa.ChunkedArray))

    def array(one: pa.Field) -> Any:
        values = columns.get(one.name)
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        return pa.repeat(pa.scalar(values, one.type), count)

    return pa.Table.from_arrays([array(one) for one in schema], schema=schema)


class _Entries:
    """The usable records of a day, in the order in which they were delivered: the later one wins."""

    def __init__(self, product: Product, entries: pa.Table) -> None:
        self._product = product
        self._entries = entries
        # Every record has the delivery's event day, so it tells no keys apart.
        constant = (product.source.event_day, EVENT_DAY)
        self._keys = [name for name in product.ards_key if name not in constant] or ["_day"]
        position = pa.array(np.arange(len(entries), dtype="int64"))
        nothing = pa.scalar(None, pa.int64())
        is_row = pc.equal(entries["_kind"], "row")
        self._placed = (
            entries.select(self._keys)
            .append_column("_row", pc.if_else(is_row, position, nothing))
            .append_column("_of_label_file", pc.if_else(is_row, nothing, position))
            .append_column("_label", pc.if_else(entries[product.label].is_valid(), position, nothing))
        )
        self._by_key = self._group(
            self._placed, self._keys, [("_row", "max"), ("_label", "max"), ("_of_label_file", "count")]
        )
        self._found = self._by_key["_row_max"].is_valid()

    @property
    def labels_applied(self) -> int:
        """Keys with a row that got a label from a label file."""
        labelled = pc.greater(self._by_key["_of_label_file_count"], 0)
        return pc.sum(pc.and_(labelled, self._found)).as_py() or 0

    def rows(self) -> dict[str, Any]:
        """One row per key: the latest row, with the latest label that any file brought."""
        product, entries = self._product, self._entries
        chosen = self._by_key.filter(self._found)
        label_at = chosen["_label_max"]
        latest = entries.take(chosen["_row_max"])
        columns = {name: latest[name] for name in product.source.columns}
        columns[product.label] = entries[product.label].take(label_at)
        columns[LABEL_KNOWN_ON] = self._known_on().take(label_at)
        return columns

    def orphans(self) -> pa.Table:
        """File and record number of the records of label files whose key has no row."""
        if pc.all(self._found).as_py() is not False:
            return self._entries.slice(0, 0)
        by_key = self._group(self._placed, self._keys, [("_row", "count"), ("_of_label_file", "list")])
        lists = by_key.filter(pc.equal(by_key["_row_count"], 0))["_of_label_file_list"]
        places = pc.list_flatten(lists).drop_null()
        orphans = self._entries.select(["_file_number", "_record", "_kind"]).take(places)
        # A label whose key has gone with the rows that were replaced is superseded like these.
        return orphans.filter(pc.equal(orphans["_kind"], "label"))

    def _known_on(self) -> pa.Array:
        """By position of a key's latest label: the first day on which a file brought that value."""
        product, entries = self._product, self._entries
        if pc.count(self._placed["_label"]).as_py() == pc.count(self._by_key["_label_max"]).as_py():
            return entries[LABEL_KNOWN_ON]
        labelled = self._placed.select([*self._keys, "_label"])
        labelled = labelled.append_column("_value", entries[product.label])
        labelled = labelled.append_column("_known_on", entries[LABEL_KNOWN_ON])
        labelled = labelled.filter(labelled["_label"].is_valid())
        values = self._group(labelled, [*self._keys, "_value"], [("_label", "max"), ("_known_on", "min")])
        known_on = np.zeros(len(entries), dtype="int32")
        known_on[values["_label_max"].to_numpy()] = values["_known_on_min"].cast(pa.int32()).to_numpy()
        return pa.array(known_on).cast(pa.date32())

    @staticmethod
    def _group(table: pa.Table, keys: Sequence[str], aggregates: list[tuple[str, str]]) -> pa.Table:
        # Tasks are the parallelism there is; each one's threads would compete with the other's.
        return pa.TableGroupBy(table, list(keys), use_threads=False).aggregate(aggregates)
