"""One publication: rows are staged without a lock, then merged in one transaction, then read back.

The staging belongs to the connection, so a publication that dies leaves nothing. Which rows are published,
and whether a publication that failed is tried again, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml_platform.contract import online
from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.dialects import VERSION, Key
from ml_platform.online_store.failures import OnlineStoreError, PublicationOvertakenError
from ml_platform.online_store.feature_tables import PUBLICATION, FeatureTables
from ml_platform.online_store.names import VALID_UNTIL
from ml_platform.online_store.statements import Statements

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 20_000
GONE_AT_ONCE = 250_000
_SAMPLED_OF_A_BATCH = 4


@dataclass(frozen=True)
class Merged:
    """What a merge did, and what a read-back must find.

    Attributes:
        published: entities whose row is new or was replaced, by a newer one or by itself.
        older: staged entities whose stored row is newer; it stays.
        forgotten: staged entities that are to be forgotten.
        withdrawn: stored rows that their day no longer has; each fell back to an earlier row, or went.
        left: stored rows of entities that the newest day does not have, where each has all that are scored.
        entities: rows in the store after the merge, of which ``newest_day`` is the newest event day.
        number: counts the changes of the product's features.
    """

    published: int
    older: int
    forgotten: int
    withdrawn: int
    left: int
    entities: int
    newest_day: date | None
    number: int
    days: tuple[date, ...]
    version: int
    sample: tuple[dict[str, Any], ...] = field(repr=False)


class Publication:
    """The features of some days, from one version of the MRDS, on their way into the store.

    Made by :meth:`.OnlineStore.publication`. Nothing is visible to readers before :meth:`merge` returns.
    """

    def __init__(
        self,
        connection: sa.Connection,
        tables: FeatureTables,
        version: int,
        days: Sequence[date],
        translated: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._statements = Statements(tables)
        self._version = version
        self._days = tuple(sorted(set(days)))
        if not self._days:
            raise ValueError("a publication is of one day or more")
        self._translated = translated
        self._staging, self._gone = tables.staging(), tables.gone()
        self._staged = 0
        self._withdrawn: int | None = None
        self._sample: list[dict[str, Any]] = []
        self._cleared: list[str] = []

    def open(self) -> None:
        """Bring the product's tables up to the contract, and create the staging."""
        tables, connection = self._tables, self._connection
        with self._translated():
            tables.dialect.begin(connection, tables.product.name)
            self._cleared = tables.prepare(connection)
            connection.commit()
            tables.dialect.hold(connection, [self._staging.name, self._gone.name])
            for table in (self._staging, self._gone):
                connection.execute(sa.schema.CreateTable(table))
            connection.commit()

    def close(self) -> None:
        """Remove the staging."""
        with self._translated():
            self._connection.rollback()
            self._tables.dialect.discard(self._connection, (self._staging, self._gone))

    def stage(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Stage rows of the days, one per entity, in the columns entity, ``event_day``, features.

        Args:
            batches: Arrow batches of any size, with these columns among theirs; NaN becomes null.

        Returns:
            The number of rows.
        """
        dialect, count = self._tables.dialect, 0
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                rows = self._normal(batch.slice(start, ROWS_AT_ONCE))
                with self._translated():
                    dialect.load(self._connection, self._staging, rows)
                    # A transaction that is open while the rows are computed would hold back clean-up.
                    self._connection.commit()
                self._sample += _spread(rows)
                count += rows.num_rows
        with self._translated():
            dialect.settle(self._connection, self._staging, self._tables.entity)
            self._connection.commit()
        self._staged += count
        return count

    def withdrawn(self) -> Iterator[list[Key]]:
        """Find the stored rows that their day no longer has, when all rows of the days are staged.

        Yields:
            Their entities, each followed by the row's day, in lists of up to 250,000; earlier rows of
            these entities can be given to :meth:`stage_earlier` between two lists.
        """
        statements, connection = self._statements, self._connection
        with self._translated():
            count = self._withdrawn = self._find_gone()
            connection.commit()
        for first in range(1, count + 1, GONE_AT_ONCE):
            with self._translated():
                query = statements.gone_rows(self._gone, first, first + GONE_AT_ONCE - 1)
                rows = [tuple(row) for row in connection.execute(query)]
                connection.commit()
            yield rows

    def stage_earlier(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Stage rows to which withdrawn entities fall back; an entity's newest staged row counts."""
        count = self.stage(batches)
        if count:
            with self._translated():
                drop = self._statements.drop_older_staged(self._staging)
                self._staged -= self._change(drop)
                self._connection.commit()
        return count

    def _find_gone(self) -> int:
        find = self._statements.find_gone(self._gone, self._staging, self._days, self._version)
        return self._change(find)

    def merge(self) -> Merged:
        """Merge what was staged, in one transaction; withdrawn entities without an earlier row go.

        Raises:
            PublicationOvertakenError: a newer publication of one of the days came first.
            OnlineStoreError: the database failed, or holds something else than was staged.
                In all cases nothing is changed.
        """
        connection = self._connection
        with self._translated():
            self._tables.dialect.begin(connection, self._tables.product.name)
            if self._withdrawn is None:
                self._withdrawn = self._find_gone()
            self._refuse_if_overtaken()
            merged = self._merge(self._withdrawn)
            connection.commit()
            return merged

    def _refuse_if_overtaken(self) -> None:
        statements, product = self._statements, self._tables.product.name
        days = set(self._days)
        for day, version in self._connection.execute(statements.published_versions()):
            if day in days and version > self._version:
                raise PublicationOvertakenError(
                    f"{product}: {day} is published from version {version} of the MRDS already, and this is "
                    f"version {self._version}. If the MRDS was made anew, drop the tables "
                    f"{self._tables.features.name} and {self._tables.days.name}, and publish all days again"
                )
        query = statements.gone_since(self._gone, self._staging, self._days, self._version)
        if self._connection.scalar(query):
            raise PublicationOvertakenError(f"{product}: another publication of these days came first")

    def _merge(self, withdrawn: int) -> Merged:
        connection, statements, staging = self._connection, self._statements, self._staging
        if withdrawn:
            connection.execute(statements.withdraw(staging, self._days, self._version))
        forgotten = int(connection.scalar(statements.staged_forgotten(staging)) or 0)
        published = self._change(statements.merge(staging, self._version, self._cleared))
        arrived = int(connection.scalar(statements.arrived(staging, self._version)) or 0)
        if arrived != self._staged - forgotten:
            raise OnlineStoreError(
                f"{self._tables.product.name}: of {self._staged - forgotten:,} published entities the online "
                f"store holds {arrived:,}; nothing was published. See whether a trigger or another program "
                f"changes the table {self._tables.features.name}"
            )
        left = 0
        if self._tables.product.mrds.population is not None:
            left = self._change(statements.drop_left())
        number = int(connection.scalar(statements.last_publication()) or 0) + 1
        connection.execute(statements.clear_days(self._days))
        records = [{EVENT_DAY: d, VERSION: self._version, PUBLICATION: number} for d in self._days]
        connection.execute(statements.record_days(), records)
        entities, newest = connection.execute(statements.totals()).one()
        return Merged(
            published=published,
            older=max(arrived - published, 0),
            forgotten=forgotten,
            withdrawn=withdrawn,
            left=left,
            entities=entities,
            newest_day=newest,
            number=number,
            days=self._days,
            version=self._version,
            sample=tuple(self._sample),
        )

    def _change(self, statement: sa.Executable) -> int:
        """Execute a statement; how many rows it changed."""
        options = {"preserve_rowcount": True}
        return int(self._connection.execute(statement, execution_options=options).rowcount)

    def _normal(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows in the staging's columns and types; NaN, which not every database has, is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        schema = self._tables.arrow_schema
        if self._tables.expires:
            rows = _with_ends(self._tables.product, rows)
        rows = rows.select(schema.names).cast(schema)
        columns = [
            pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column
            for column in rows.columns
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def _with_ends(product: Product, rows: pa.RecordBatch) -> pa.RecordBatch:
    """The rows, each with the last date on which it holds."""
    import pyarrow as pa

    of_day = rows[EVENT_DAY].dictionary_encode()
    ends = [online.valid_until(product, day) for day in of_day.dictionary.to_pylist()]
    return rows.append_column(VALID_UNTIL, pa.array(ends, pa.date32()).take(of_day.indices))


def _spread(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """A few rows from all over a batch."""
    step = max(1, rows.num_rows // _SAMPLED_OF_A_BATCH)
    found: list[dict[str, Any]] = rows.take(list(range(0, rows.num_rows, step))).to_pylist()
    return found[:_SAMPLED_OF_A_BATCH]
