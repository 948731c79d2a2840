"""Files of a Delta table that the tasks write themselves, for their driver to commit.

A task that holds a whole day as Arrow data writes it as one Parquet file, beside Spark: handing the rows to
the JVM, sorting and writing them there takes five times as long. A file counts only once it is committed
(:meth:`ml_platform.storage.tables.Tables.replace_days_by`); one that never is, since its run was killed, is
deleted by maintenance.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.contract.source import EVENT_DAY
from ml_platform.storage.datasets import in_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds


@dataclass(frozen=True)
class DayFile:
    """A file with rows of one day: its path in the table, bytes, rows, and when it was written (ms)."""

    path: str
    size: int
    rows: int
    written_at: int


@dataclass(frozen=True)
class DayFiles:
    """A table in a folder that this process and all tasks reach."""

    folder: str

    def write(self, day: date, rows: pa.Table) -> list[DayFile]:
        """Write a day's rows, in the table's columns, as one file; none without rows."""
        import pyarrow.parquet as pq

        if not len(rows):
            return []
        name = f"{EVENT_DAY}={day}/part-{uuid.uuid4()}.snappy.parquet"
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.drop_columns([EVENT_DAY]), path, compression="snappy")
        facts = path.stat()
        return [DayFile(name, facts.st_size, len(rows), int(facts.st_mtime * 1000))]

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
        import pyarrow.compute as pc

        dataset = self._dataset(version, days)
        for day in days:
            rows = dataset.to_table(
                columns=list(columns), filter=pc.field(EVENT_DAY) == day, use_threads=False
            )
            if len(rows):
                yield day, rows

    def read_all(
        self, version: int, days: Sequence[date], columns: Sequence[str], where: pc.Expression | None = None
    ) -> pa.Table:
        """The rows of all the days for which ``where`` holds, at one version of the table."""
        return self._dataset(version, days).to_table(columns=list(columns), filter=where)

    def _dataset(self, version: int, days: Sequence[date]) -> ds.Dataset:
        from deltalake import DeltaTable

        of_days = [(EVENT_DAY, "in", [day.isoformat() for day in days])]
        return in_folder(DeltaTable(self.folder, version=version), self.folder, of_days)
