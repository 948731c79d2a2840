"""The ARDS where tasks may write: each writes the files of a day, or of a bucket of a day, and counts them.

Nothing is committed here. A day is one bucket if a task can hold it: then one task reads its files and does
the rest too. Otherwise tasks read its files in parts, whose records go into buckets by key.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa

from ml_platform.contract.assets import ARDS, ARDS_VERSIONS, QUARANTINE
from ml_platform.contract.product import Product
from ml_platform.data_engineering import buckets, resolution, row_versions
from ml_platform.data_engineering.buckets import BucketFiles, Scattered
from ml_platform.data_engineering.day_statistics import CountedPart, Counting
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.delivery_parts import bucket_count, divided, likely_bytes
from ml_platform.data_engineering.files import UnreadableFile
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.reading import Reading, located
from ml_platform.data_engineering.resolution import (
    Account,
    Refusal,
    accounts_together,
    quarantine_schema,
)
from ml_platform.data_engineering.row_versions import History, Timeline
from ml_platform.spark.tasks import Session, each_in_a_task, in_tasks
from ml_platform.storage.day_files import DayFile, DayFiles, held
from ml_platform.storage.tables import Tables


@dataclass(frozen=True)
class Places:
    """The folders of the tables: of the rows, of what can't be used, and of the states that rows had."""

    rows: DayFiles
    quarantine: DayFiles
    versions: DayFiles

    @classmethod
    def of(cls, product: Product, tables: Tables) -> Places | None:
        """Those of a product's tables; None where tasks can't write them."""
        found = [tables.day_files(product.name, table) for table in (ARDS, QUARANTINE, ARDS_VERSIONS)]
        return cls(*[place for place in found if place]) if all(found) else None


@dataclass(frozen=True)
class WrittenDay:
    """What a day has become: why it can't be read, or else its account, and the files of its records.

    Also that of a part of it. ``versions`` are the files of rows that had several states, ``histories`` what
    was counted of these. ``is_too_large``: the day is larger than it seemed, and nothing was done.
    """

    refusal: Refusal | None = None
    account: Account = field(default_factory=Account)
    parts: list[CountedPart] = field(default_factory=list)
    rows: list[DayFile] = field(default_factory=list)
    quarantine: list[DayFile] = field(default_factory=list)
    versions: list[DayFile] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)
    of_files: dict[int, Account] = field(default_factory=dict)
    is_too_large: bool = False


def write(
    session: Session,
    product: Product,
    deliveries: Sequence[Delivery],
    places: Places,
    counting: Counting,
) -> dict[date, WrittenDay]:
    """Resolve these days in tasks that write their files and count; nothing is committed yet."""
    by_day = {delivery.day: delivery for delivery in deliveries}
    whole = [day for day, delivery in by_day.items() if bucket_count(delivery) == 1]
    writer = _Writer(product, places, counting)
    at_most = buckets.HELD_BYTES

    def write_all(days: Sequence[date]) -> Iterator[tuple[date, WrittenDay]]:
        for day in days:
            yield day, writer.whole_day(by_day[day], at_most)

    here = buckets.one_task(whole, sum(likely_bytes(by_day[day]) for day in whole))
    done = in_tasks(session, whole, write_all, WrittenDay, here=here)
    for day, delivery in by_day.items():
        if day not in done or done[day].is_too_large:
            done[day] = _InBuckets(session, writer, delivery).write()
    return done


@dataclass(frozen=True)
class _Writer:
    """What tasks do with the records that they hold. It travels to them."""

    product: Product
    places: Places
    counting: Counting

    def whole_day(self, delivery: Delivery, at_most: int) -> WrittenDay:
        """Read a day's files, resolve their records and write them."""
        reading = Reading(self.product, delivery.files)
        entries, is_all = held(reading.entries(), resolution.entry_schema(self.product), at_most)
        if not is_all:
            return WrittenDay(is_too_large=True)
        if reading.refusal is not None:
            return WrittenDay(refusal=reading.refusal)
        resolved = resolution.resolve(self.product, delivery.day, entries)
        try:
            orphans = list(located(self.product, delivery.files, resolved.orphans))
        except UnreadableFile as error:
            return WrittenDay(refusal=Refusal.of(error.kind, str(error)))
        unusable = pa.concat_tables([pa.Table.from_batches(reading.bad, quarantine_schema()), *orphans])
        versions, histories = self._history(delivery, entries, resolved.rows, is_whole=True)
        return WrittenDay(
            account=reading.account + _of_labels(resolved),
            of_files=dict(reading.of_files),
            parts=[self.counting.of_part(resolved.rows, is_whole=True)],
            rows=self.places.rows.write(delivery.day, resolved.rows),
            quarantine=self.places.quarantine.write(delivery.day, unusable),
            versions=versions,
            histories=histories,
        )

    def bucket(self, delivery: Delivery, entries: pa.Table) -> tuple[WrittenDay, pa.Table]:
        """Resolve and write the records of a bucket, but for the labels without a row."""
        resolved = resolution.resolve(self.product, delivery.day, entries)
        versions, histories = self._history(delivery, entries, resolved.rows)
        written = WrittenDay(
            account=_of_labels(resolved),
            parts=[self.counting.of_part(resolved.rows)],
            rows=self.places.rows.write(delivery.day, resolved.rows),
            versions=versions,
            histories=histories,
        )
        return written, resolved.orphans

    def _history(
        self, delivery: Delivery, entries: pa.Table, rows: pa.Table, *, is_whole: bool = False
    ) -> tuple[list[DayFile], list[History]]:
        """The states of the rows that have had several, written, and what was known of the rows before."""
        timeline = Timeline.of(delivery.files)
        versions, history = row_versions.changes(
            self.product, delivery.day, entries, rows, timeline, self.counting, is_whole=is_whole
        )
        return self.places.versions.write(delivery.day, versions), [history]


def _of_labels(resolved: resolution.Resolved) -> Account:
    return Account(labels_applied=resolved.labels_applied, quarantined=len(resolved.orphans))


@dataclass(frozen=True)
class _Scattering:
    """What a task has made of a part of a file."""

    written: WrittenDay
    scattered: Scattered


@dataclass(frozen=True)
class _Bucket:
    """What a task has made of a bucket, and the file with the places of labels without a row, if any."""

    written: WrittenDay
    orphans: str | None = None


@dataclass(frozen=True)
class _InBuckets:
    """A day that no task can hold."""

    session: Session
    writer: _Writer
    delivery: Delivery

    def write(self) -> WrittenDay:
        """Read the day's files into buckets, and resolve and write each."""
        product, delivery = self.writer.product, self.delivery
        of_files = divided(self.session, product, delivery.files, buckets.PIECE_BYTES)
        sources = [part for parts in of_files for part in parts]
        with BucketFiles.beside(self.writer.places.rows, bucket_count(delivery)) as files:
            read = self._scatter(files, sources)
            if refused := next((part.written for part in read if part.written.refusal), None):
                return refused
            resolved = self._resolve(files, [part.scattered for part in read])
            if refused := next((bucket.written for bucket in resolved if bucket.written.refusal), None):
                return refused
            orphans = [bucket.orphans for bucket in resolved if bucket.orphans is not None]
            found = self._locate(of_files, orphans) if orphans else []
            if refused := next((part for part in found if part.refusal), None):
                return refused
        return _together([*(part.written for part in read), *(bucket.written for bucket in resolved), *found])

    def _scatter(self, files: BucketFiles, sources: Sequence[DeliveryFile]) -> list[_Scattering]:
        """The records of the files in buckets, and those that can't be used in the quarantine."""
        writer, day, piece_bytes = self.writer, self.delivery.day, buckets.PIECE_BYTES
        product, keys = writer.product, resolution.keys(writer.product)

        def scatter(number: int) -> _Scattering:
            reading = Reading(product, [sources[number]])
            quarantined: list[DayFile] = []

            def quarantine(at_least: int) -> None:
                if sum(batch.nbytes for batch in reading.bad) >= at_least:
                    unusable = pa.Table.from_batches(reading.bad, quarantine_schema())
                    quarantined.extend(writer.places.quarantine.write(day, unusable))
                    reading.bad.clear()

            def tables() -> Iterator[tuple[pa.Table, buckets.Numbers]]:
                for entries in buckets.pieces(reading.entries(), piece_bytes):
                    numbers = buckets.assigned([entries[name] for name in keys], len(entries))
                    if (needed := resolution.needed(product, entries, numbers)) is not None:
                        entries, numbers = entries.take(pa.array(needed)), numbers[needed]
                    yield entries, numbers
                    quarantine(piece_bytes)

            scattered = files.scatter(tables())
            quarantine(0)
            return _Scattering(
                WrittenDay(
                    reading.refusal,
                    reading.account,
                    quarantine=quarantined,
                    of_files=dict(reading.of_files),
                ),
                scattered,
            )

        return each_in_a_task(self.session, len(sources), scatter, _Scattering)

    def _resolve(self, files: BucketFiles, scattered: Sequence[Scattered]) -> list[_Bucket]:
        """Resolve and write the records of each bucket."""
        writer, delivery, at_most = self.writer, self.delivery, buckets.HELD_BYTES
        keys, schema = resolution.keys(writer.product), resolution.entry_schema(writer.product)
        paths = [path for part in scattered for path in part.files]
        shares = buckets.shares(scattered, at_most)

        def resolve(number: int) -> _Bucket:
            entries, is_all = held(files.gather(paths, shares[number], keys), schema, at_most)
            if not is_all:
                return _Bucket(WrittenDay(refusal=Refusal(_TOO_MANY, may_pass=False)))
            written, orphans = writer.bucket(delivery, entries)
            if not len(orphans):
                return _Bucket(written)
            path = str(Path(files.folder, f"{uuid.uuid4()}.orphans"))
            with pa.ipc.new_file(path, orphans.schema) as sink:
                sink.write_table(orphans)
            return _Bucket(written, path)

        return each_in_a_task(self.session, len(shares), resolve, _Bucket)

    def _locate(self, of_files: Sequence[Sequence[DeliveryFile]], paths: Sequence[str]) -> list[WrittenDay]:
        """The labels without a row of each file in the quarantine; they are in the account already."""
        writer, day = self.writer, self.delivery.day
        chosen = [parts for parts in of_files if parts[0].labels_only]

        def locate(number: int) -> WrittenDay:
            tables = [pa.ipc.open_file(pa.memory_map(path)).read_all() for path in paths]
            quarantined: list[DayFile] = []
            try:
                for found in located(writer.product, chosen[number], pa.concat_tables(tables)):
                    quarantined += writer.places.quarantine.write(day, found)
            except UnreadableFile as error:
                return WrittenDay(refusal=Refusal.of(error.kind, str(error)))
            return WrittenDay(quarantine=quarantined)

        return each_in_a_task(self.session, len(chosen), locate, WrittenDay)


_TOO_MANY = (
    "the files of labels have more records of one key than a task can hold at once; take out what repeats "
    "in them"
)


def _together(parts: Sequence[WrittenDay]) -> WrittenDay:
    """What the parts of a day make."""
    return WrittenDay(
        account=sum((part.account for part in parts), Account()),
        parts=[counted for part in parts for counted in part.parts],
        rows=[file for part in parts for file in part.rows],
        quarantine=[file for part in parts for file in part.quarantine],
        versions=[file for part in parts for file in part.versions],
        histories=[history for part in parts for history in part.histories],
        of_files=accounts_together(part.of_files for part in parts),
    )
