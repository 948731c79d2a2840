"""Files of a Delta table that the tasks write themselves, for their driver to commit.

A task that holds a whole day as Arrow data writes it as one Parquet file, beside Spark: handing the rows to
the JVM, sorting and writing them there takes five times as long. A file counts only once it is committed
(:meth:`ml_platform.storage.tables.Tables.replace_days_by`); one that never is, since its run was killed, is
deleted by maintenance.
"""

from __future__ import annotations

import functools
import operator
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.contract.source import EVENT_DAY
from ml_platform.storage.datasets import in_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds


_SCRATCH = "_scratch-"
#: A batch that is read while others wait; of each of four files two wait.
_ROWS_READ_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class DayFile:
    """A file with rows of one day: its path in the table, bytes, rows, and when it was written (ms)."""

    path: str
    size: int
    rows: int
    written_at: int


@dataclass(frozen=True)
class RowGroup:
    """A part of a file that is read by itself: the file's path in the table, and which of its parts."""

    path: str
    number: int


@dataclass(frozen=True)
class DayFiles:
    """A table in a folder that this process and all tasks reach.

    Args:
        where: a column of truth values: only rows in which it is true are read, though all are counted.
        row_group: rows of each part of a file that is written, of which one can be read without the others.
    """

    folder: str
    where: str | None = None
    row_group: int = 1 << 20

    def write(self, day: date, rows: pa.Table) -> list[DayFile]:
        """Write a day's rows, in the table's columns, as one file; none without rows."""
        import pyarrow.parquet as pq

        if not len(rows):
            return []
        name = f"{EVENT_DAY}={day}/part-{uuid.uuid4()}.snappy.parquet"
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            rows.drop_columns([EVENT_DAY]), path, compression="snappy", row_group_size=self.row_group
        )
        facts = path.stat()
        return [DayFile(name, facts.st_size, len(rows), int(facts.st_mtime * 1000))]

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder in the table's, for files on the way that no version of the table has; gone in the end."""
        # Neither Delta nor Spark looks for a table's files in folders with such a name.
        folder = Path(self.folder, f"{_SCRATCH}{uuid.uuid4()}")
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, keep: timedelta) -> None:
        """Delete such folders that are older than ``keep``: a run that was killed has left them behind."""
        oldest = time.time() - keep.total_seconds()
        for folder in Path(self.folder).glob(f"{_SCRATCH}*"):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)

    def sizes(self, version: int) -> Counter[date]:
        """Rows of each day that has any, at one version of the table."""
        import pyarrow as pa
        from deltalake import DeltaTable

        files = pa.table(DeltaTable(self.folder, version=version).get_add_actions(flatten=True))
        days, rows = files[f"partition.{EVENT_DAY}"], files["num_records"]
        found: Counter[date] = Counter()
        for day, count in zip(days.to_pylist(), rows.to_pylist(), strict=True):
            found[day] += count
        return found

    def read(
        self, version: int, days: Sequence[date], columns: Sequence[str]
    ) -> Iterator[tuple[date, pa.Table]]:
        """Each day with its rows, at one version of the table; a day without rows is left out."""
        for day, rows, _ in self.read_at_most(version, days, columns, sys.maxsize):
            yield day, rows

    def read_at_most(
        self, version: int, days: Sequence[date], columns: Sequence[str], at_most: int
    ) -> Iterator[tuple[date, pa.Table, bool]]:
        """Each day with its rows, at one version of the table, and whether these are all it has.

        A day without rows is left out; of one with more than ``at_most`` bytes no more are read.
        """
        import pyarrow.compute as pc

        dataset = self._dataset(version, days)
        for day in days:
            of_day = pc.field(EVENT_DAY) == day
            chosen = of_day if self.where is None else of_day & pc.field(self.where)
            scanner = dataset.scanner(columns=list(columns), filter=chosen, use_threads=False)
            rows, is_all = held(scanner.to_batches(), scanner.projected_schema, at_most)
            if len(rows):
                yield day, rows, is_all

    def row_groups(self, version: int, day: date) -> list[RowGroup]:
        """The parts that a day's files can be read in, at one version of the table."""
        return [
            RowGroup(fragment.path, number)
            for fragment in self._dataset(version, [day]).get_fragments()
            for number in range(fragment.num_row_groups)
        ]

    def read_row_group(
        self, version: int, day: date, part: RowGroup, columns: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a part of a day, a batch at a time."""
        import pyarrow.compute as pc

        dataset = self._dataset(version, [day])
        (fragment,) = [found for found in dataset.get_fragments() if found.path == part.path]
        yield from fragment.subset(row_group_ids=[part.number]).to_batches(
            schema=dataset.schema,
            columns=list(columns),
            filter=None if self.where is None else pc.field(self.where),
            batch_readahead=1,
            fragment_readahead=1,
            use_threads=False,
        )

    def read_in_batches(
        self,
        version: int,
        days: Sequence[date],
        columns: Sequence[str],
        chosen: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of all the days, at one version of the table, a batch at a time; few are read ahead.

        Args:
            chosen: of which rows; parts of files that can have none of them aren't read.
        """
        import pyarrow.compute as pc

        where = [] if self.where is None else [pc.field(self.where)]
        where += [] if chosen is None else [chosen]
        yield from self._dataset(version, days).to_batches(
            columns=list(columns),
            filter=functools.reduce(operator.and_, where) if where else None,
            batch_size=_ROWS_READ_AT_ONCE,
            batch_readahead=2,
        )

    def _dataset(self, version: int, days: Sequence[date]) -> ds.Dataset:
        from deltalake import DeltaTable

        of_days = [(EVENT_DAY, "in", [day.isoformat() for day in days])]
        return in_folder(DeltaTable(self.folder, version=version), self.folder, of_days)


def held(batches: Iterable[pa.RecordBatch], schema: pa.Schema, at_most: int) -> tuple[pa.Table, bool]:
    """The batches as a table, and whether they are all: no more are taken above ``at_most`` bytes."""
    import pyarrow as pa

    gathered: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size > at_most:
            return pa.Table.from_batches(gathered, schema), False
    return pa.Table.from_batches(gathered, schema), True
