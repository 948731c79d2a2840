"""What people have rejected: days whose data turned out to be garbage, though no check had seen it.

Input like the deliveries themselves, since nothing could tell it a second time: it is kept apart from the
ledger, whose record of a day is made anew with every delivery, and backed up with the deliveries.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.storage.small_tables import COMMIT, ControlTable
from ml_platform.storage.tables import Tables

REJECTIONS = "rejections"
#: What a day is that has been rejected; in the details of its record, since which morning.
REJECTED = "rejected"

_SCHEMA = pa.schema(
    [
        ("day", pa.date32()),
        ("on", pa.date32()),
        ("rows", pa.string()),
        ("by", pa.string()),
        ("reason", pa.string()),
        (COMMIT, pa.int64()),
    ]
)


@dataclass(frozen=True)
class Rejection:
    """That a day may not be used from a morning on, as long as its rows are those that were rejected.

    Attributes:
        on: the morning from which on it counts.
        rows: a hash of the rows that were rejected, whatever their labels.
    """

    day: date
    on: date
    rows: str
    by: str
    reason: str

    @property
    def words(self) -> str:
        """Who, since when and why, for people."""
        return f"rejected by {self.by} on {self.on} ({self.reason})"


class Rejections:
    """The table ``rejections`` of one product."""

    def __init__(self, tables: Tables, product: str) -> None:
        self._table = ControlTable(tables, product, REJECTIONS, _SCHEMA)

    @property
    def address(self) -> str:
        """Where the table lies."""
        return self._table.address

    def read(self, days: Collection[date] | None = None) -> dict[date, list[Rejection]]:
        """What was rejected of some days, or of all, in the order of the mornings from which it counts."""
        found: dict[date, list[Rejection]] = {}
        for row in self._table.read() if days is None or days else ():
            del row[COMMIT]
            if days is None or row["day"] in days:
                found.setdefault(row["day"], []).append(Rejection(**row))
        return {day: sorted(of_day, key=lambda one: one.on) for day, of_day in found.items()}

    def add(self, rejection: Rejection) -> None:
        """Keep a rejection."""
        self._table.append([asdict(rejection)])

    def remove(self, day: date, *, rows: str | None = None) -> int:
        """Take rejections of a day back, as if they had never been; returns how many there were.

        Args:
            rows: a hash of the rows whose rejection it is; by default all of the day are.
        """

        def chosen(table: pa.Table) -> pa.Array:
            of_day = pc.equal(table["day"], pa.scalar(day, pa.date32()))
            return of_day if rows is None else pc.and_(of_day, pc.equal(table["rows"], rows))

        while (removed := self._table.remove_rows(chosen)) is None:
            continue  # somebody else has rejected another day meanwhile
        return removed
