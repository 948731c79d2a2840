"""Days of the MRDS get what is of trailing windows, in tasks: some days each, of a share of the entities.

The windows of neighbouring days hold mostly the same days, so these are read once for as many days as fit.
What the windows give is :mod:`.trailing_windows`' business; the rows that get it lie in files on the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_platform.contract.assets import DAILY_AGGREGATES, DAILY_AGGREGATES_VERSIONS
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.data_engineering import aggregation, buckets, daily_aggregates, served_states
from ml_platform.data_engineering.aggregation import TooLargeError
from ml_platform.data_engineering.daily_aggregates import ENTITY_HASH
from ml_platform.data_engineering.day_statistics import Counting
from ml_platform.data_engineering.entity_days import Made, refused, together
from ml_platform.data_engineering.windowed_rows import DayOnTheWay, Windowing, reached
from ml_platform.spark.tasks import Session, each_in_a_task
from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.fingerprints import ContentSums
from ml_platform.storage.tables import Tables

#: Rows of days that a task lays out at once: 300 to 400 bytes of memory each were measured.
ROWS_AT_ONCE = 1_500_000
#: What it takes to read a row, and leave it to another share, beside laying it out and adding up its windows.
READING = 0.2


@dataclass(frozen=True)
class Work:
    """The days of a task, and its share of the entities."""

    days: tuple[date, ...]
    share: int = 0
    shares: int = 1

    def within(self, product: Product, rows: pa.Table) -> pa.Table:
        """The rows of its share of the entities."""
        if self.shares == 1:
            return rows
        low, high = daily_aggregates.share_of_hashes(self.share, self.shares)
        hashes = _hashes(product, rows)
        return rows.filter(pa.array((hashes >= low) & (hashes <= high)))


@dataclass(frozen=True)
class KeptDays:
    """What is kept of each entity and day, and its states, if there is any. It travels to tasks."""

    product: Product
    kept: DayFiles | None
    kept_version: int
    versions: DayFiles | None
    versions_version: int

    @classmethod
    def of(cls, product: Product, tables: Tables) -> KeptDays:
        """That of a product whose tables lie in a folder."""
        found: list[tuple[DayFiles | None, int]] = []
        for table in (DAILY_AGGREGATES, DAILY_AGGREGATES_VERSIONS):
            there = tables.exists(product.name, table)
            files = tables.day_files(product.name, table) if there else None
            found.append((files, tables.version(product.name, table) if there else -1))
        (kept, kept_version), (versions, versions_version) = found
        return cls(product, kept, kept_version, versions, versions_version)

    def divided(self, days: Sequence[date]) -> list[Work]:
        """Days in tasks, of which each lays out at most so many rows of its windows.

        Many days in a row read the days before them once for all, but have to be done in shares of the
        entities, of which each reads all rows and leaves a file a day.
        """
        if not days:
            return []
        sizes = self.kept.sizes(self.kept_version) if self.kept is not None else {}
        cheapest: list[Work] = []
        least: float | None = None
        blocks = 1
        while blocks < 2 * len(days):
            divided = [_shared(self.product, block, sizes) for block in _in_blocks(days, blocks)]
            cost = sum(rows * (1 + READING * len(work)) for rows, work in divided)
            if least is None or cost < least:
                least, cheapest = cost, [task for _, work in divided for task in work]
            blocks *= 2
        return cheapest

    def in_windows(self, work: Work, outputs: pa.Table | None) -> tuple[pa.Table, pa.Table]:
        """What is kept of the days in the windows, and its states: of all entities, or those of outputs."""
        product = self.product
        within = reached(product, work.days)
        days = [] if within is None else list(within)
        hashes = None if outputs is None else pc.unique(pa.array(_hashes(product, outputs)))

        def read(files: DayFiles | None, version: int, schema: pa.Schema) -> pa.Table:
            if files is None or not days:
                return schema.empty_table()
            low, high = daily_aggregates.share_of_hashes(work.share, work.shares)
            where = None
            if work.shares > 1:
                where = (pc.field(ENTITY_HASH) >= low) & (pc.field(ENTITY_HASH) <= high)
            batches = (
                batch
                if hashes is None
                else batch.filter(pc.is_in(batch.column(ENTITY_HASH), value_set=hashes))
                for batch in files.read_in_batches(version, days, schema.names, where)
            )
            return pa.Table.from_batches(batches, schema)

        return (
            read(self.kept, self.kept_version, daily_aggregates.schema(product)),
            read(self.versions, self.versions_version, daily_aggregates.versions_schema(product)),
        )


@dataclass(frozen=True)
class _Done:
    """What a task made of its days."""

    days: dict[date, Made] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowedDays:
    """Days on the way, and what their windows are put together from.

    Attributes:
        rows, states: the files of days on the way, as they are now and as they were served.
        kept: what their windows are put together from.
        mrds, served: the tables whose files are written.
    """

    windowing: Windowing
    rows: DayFiles
    states: DayFiles
    kept: KeptDays
    mrds: DayFiles
    served: DayFiles

    @property
    def product(self) -> Product:
        return self.windowing.product

    def write(
        self, session: Session, own: Mapping[date, Made], counting: Counting, withheld: Collection[date]
    ) -> dict[date, Made]:
        """Files of the tables for each of some days on the way; a day that was refused stays so."""
        done = {day: made for day, made in own.items() if made.refusal}
        on_the_way = {day: made for day, made in own.items() if not made.refusal}
        work = self.kept.divided(sorted(on_the_way))
        complete = _Complete(self, on_the_way, counting, frozenset(withheld))

        def do(number: int) -> _Done:
            return complete(work[number])

        results = each_in_a_task(session, len(work), do, _Done, here=len(work) == 1)
        parts: dict[date, list[Made]] = {}
        for result in results:
            for day, made in result.days.items():
                parts.setdefault(day, []).append(made)
        return done | {day: together(made) for day, made in parts.items()}


def _in_blocks(days: Sequence[date], count: int) -> list[Sequence[date]]:
    """Days in so many blocks of about the same length; none is empty."""
    ends = [len(days) * number // count for number in range(count + 1)]
    return [days[start:end] for start, end in itertools.pairwise(ends) if start < end]


def _shared(product: Product, days: Sequence[date], sizes: Mapping[date, int]) -> tuple[int, list[Work]]:
    """How many rows the windows of some days hold, and the tasks that do these days."""
    rows = sum(sizes.get(day, 0) for day in reached(product, days) or ())
    shares = max(1, -(-rows // ROWS_AT_ONCE))
    return rows, [Work(tuple(days), share, shares) for share in range(shares)]


@dataclass(frozen=True)
class _Complete:
    """What a task does with days on the way. It travels there."""

    windowed: WindowedDays
    own: Mapping[date, Made]
    counting: Counting
    withheld: frozenset[date]

    def __call__(self, work: Work) -> _Done:
        try:
            return _Done(self._complete(work))
        except TooLargeError as error:
            if len(work.days) == 1:
                return _Done({work.days[0]: refused(error)})
            # One of the days is to blame: each is done by itself.
            found: dict[date, Made] = {}
            for day in work.days:
                found |= self(Work((day,), work.share, work.shares)).days
            return _Done(found)

    def _complete(self, work: Work) -> dict[date, Made]:
        windowed, product = self.windowed, self.windowed.product
        on_the_way: list[DayOnTheWay] = []
        for day in work.days:
            rows = _read(windowed.rows, self.own[day].files, day, aggregation.own_schema(product))
            states = _read(windowed.states, self.own[day].states, day, served_states.own_schema(product))
            on_the_way.append(DayOnTheWay(day, work.within(product, rows), work.within(product, states)))
        outputs: pa.Table | None = None
        if product.mrds.population is None:
            names = [*product.entity_of_day, EVENT_DAY]
            outputs = pa.concat_tables(
                [table.select(names) for of_day in on_the_way for table in (of_day.rows, of_day.states)]
            )
        kept = windowed.kept.in_windows(work, outputs)
        return {
            day: self._written(work, day, rows, states)
            for day, rows, states in windowed.windowing.complete(on_the_way, *kept)
        }

    def _written(self, work: Work, day: date, rows: pa.Table, states: pa.Table) -> Made:
        windowed = self.windowed
        return Made(
            [self.counting.of_part(rows, is_whole=work.shares == 1)],
            [] if day in self.withheld else windowed.mrds.write(day, rows),
            windowed.served.write(day, states),
            [ContentSums.of(states, states.column_names)] if self.own[day].states else [],
        )


def _read(files: DayFiles, chosen: Sequence[DayFile], day: date, schema: pa.Schema) -> pa.Table:
    """The rows of files on the way, which no version of a table has."""
    if not chosen:
        return schema.empty_table()
    found = pa.concat_tables([pq.ParquetFile(Path(files.folder, file.path)).read() for file in chosen])
    days = pa.repeat(pa.scalar(day, pa.date32()), len(found))
    return found.append_column(EVENT_DAY, days).select(schema.names).cast(schema)


def _hashes(product: Product, rows: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    keys = [rows[name] for name in product.entity_of_day]
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = buckets.assigned(keys, len(rows)).view(np.int64)
    return found
