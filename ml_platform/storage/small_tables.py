"""Small Delta tables that steer the platform: the ledger, the models, the decisions.

They hold a few rows a day, are read before every step and by commands that need no Spark, so they are
read and written in-process. A table that grows with the data does not belong here.

They always lie at a path, also when the large tables are in Unity Catalog. Sensors and the command line
read the ledger every minute, where there is no Spark session and none is worth starting; and what
``deltalake`` offers for ``uc://`` can't commit to managed tables, since the catalog vends outside engines
credentials to read those only. At a path a commit is one conditional put, which the store itself refuses to
the second of two writers, wherever they run. People who want to query them in the catalog declare them
there as external tables (deploy/README.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ml_platform.storage.tables import Tables
from ml_platform.storage.upkeep import Maintained

if TYPE_CHECKING:
    from deltalake import DeltaTable, WriterProperties

FILES_BEFORE_COMPACTION = 50
#: The column in which a table keeps the number of the commit that a row came with.
COMMIT = "commit"
#: Rows of a joined file that are read or passed over together, where a table is sorted.
_ROWS_TOGETHER = 64


class ControlTable:
    """One small table of a product, with a fixed schema.

    ``sort`` are the columns that most reads choose by: joined files are sorted by them, so that a read of a
    few rows passes over the others. ``described`` are those of which the table's log has least and greatest
    values of each file, all if none are named: to read these costs more than to read the rows.
    """

    def __init__(
        self,
        tables: Tables,
        product: str,
        name: str,
        schema: pa.Schema,
        *,
        sort: Sequence[str] = (),
        described: Sequence[str] = (),
    ) -> None:
        self.tables = tables
        self.product = product
        self.name = name
        self.schema = schema
        self.sort = sort
        self.properties = _describing(described)

    @property
    def address(self) -> str:
        """Where the table lies."""
        return self.tables.control.address(self.product, self.name)

    def stamp(self) -> str | None:
        """Changes with every commit, and costs little; None if the table doesn't exist yet."""
        return self.tables.control.stamp(self.product, self.name)

    def version(self) -> str | None:
        """Which table it is and its version, without reading it; None if it doesn't exist yet."""
        place = self.tables.control
        if not place.exists(self.product, self.name):
            return None
        table = place.opened(self.product, self.name)
        return f"{table.metadata().id}/{table.version()}"

    def identity(self) -> str | None:
        """Which table it is: another one after it was deleted and made anew; None if it doesn't exist."""
        place = self.tables.control
        if not place.exists(self.product, self.name):
            return None
        return str(place.opened(self.product, self.name).metadata().id)

    def read(self) -> list[dict[str, Any]]:
        """All rows; none if the table doesn't exist yet."""
        rows: list[dict[str, Any]] = self.scan().to_pylist()
        return rows

    def scan(self, where: Any = None, *, without: Collection[str] = ()) -> pa.Table:
        """The rows that fulfil an Arrow expression, as Arrow has them; all without one.

        Columns of ``without`` are not read, and null. From an object store files come whole all the same.
        """
        place = self.tables.control
        if not place.exists(self.product, self.name):
            return self.schema.empty_table()
        parts = [
            part.to_table([name for name in part.schema.names if name not in without], filter=where)
            for part in place.small_datasets(self.product, self.name, where)
        ]
        table = pa.concat_tables(parts) if parts else self.schema.empty_table()
        missing = [field for field in self.schema if field.name not in table.column_names]
        for field in missing:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        return table.select(self.schema.names)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add rows in one commit; returns its number, or -1 without rows.

        A column ``commit`` gets the number, which orders the rows of a table, whichever machines they come
        from and whatever the clocks of these say.
        """
        if not rows:
            return -1
        if COMMIT not in self.schema.names:
            self._write(rows, mode="append", schema_mode="merge")
            return self.tables.control.version(self.product, self.name)
        with self.lock():
            number = self.tables.control.append_numbered(
                self.product, self.name, self._arrow(rows), COMMIT, properties=self.properties
            )
            self._keep_few_files()
        return number

    def overwrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Make ``rows`` all that the table holds, in one commit."""
        self._write(rows, mode="overwrite", schema_mode="overwrite")

    def replace(self, predicate: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the rows that fulfil ``predicate`` (SQL), in one commit; a column that is new is added."""
        with self.lock():
            if self.tables.control.exists(self.product, self.name):
                self._write(rows, mode="overwrite", schema_mode="merge", predicate=predicate)
            else:
                self._write(rows, mode="append")

    def remove_rows(self, choose: Callable[[pa.Table], pa.Array]) -> int | None:
        """Rewrite the table without some rows, in one commit that is the one after the version looked at.

        Rows are sorted by :attr:`sort`, of each value in the order in which they were read before.

        Args:
            choose: of a table's rows, with all their columns, which to remove.

        Returns:
            How many were removed; None if another commit came first, and all is as it was.
        """
        from deltalake import CommitProperties, write_deltalake
        from deltalake.exceptions import CommitFailedError

        place = self.tables.control
        with self.lock():
            if not place.exists(self.product, self.name):
                return 0
            # Opened before it is read: rows that come in between are of a version that comes before this one.
            opened = place.open(self.product, self.name)
            parts = [part.to_table() for part in place.datasets(self.product, self.name, None)]
            table = pa.concat_tables(parts, promote_options="default") if parts else self.schema.empty_table()
            missing = [field for field in self.schema if field.name not in table.column_names]
            whole = table
            for field in missing:
                whole = whole.append_column(field, pa.nulls(len(whole), field.type))
            remove = choose(whole)
            removed = pc.sum(remove).as_py() or 0
            if not removed:
                return 0
            kept = table.filter(pc.invert(remove))
            kept = kept.append_column("_read", pa.array(range(len(kept)), pa.int64()))
            keys = [(name, "ascending") for name in (*self.sort, "_read")]
            kept = kept.take(pc.sort_indices(kept, sort_keys=keys)).drop_columns("_read")
            try:
                write_deltalake(
                    opened,
                    kept,
                    mode="overwrite",
                    writer_properties=_of_joined_files(),
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            except CommitFailedError:
                return None
        return int(removed)

    @property
    def locks(self) -> bool:
        """Whether :meth:`lock` keeps others out."""
        return self.tables.control.locks

    def lock(self) -> AbstractContextManager[None]:
        """Keep others from writing, where the table's place has locks, while one looks and writes."""
        return self.tables.control.lock(self.product, self.name)

    def _write(self, rows: Sequence[Mapping[str, Any]], **options: Any) -> None:
        with self.lock():
            self.tables.control.write(self.product, self.name, self._arrow(rows), **options)
            self._keep_few_files()

    def _arrow(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)

    def _keep_few_files(self) -> None:
        from deltalake.exceptions import CommitFailedError

        table = self.tables.control.open(self.product, self.name)
        if len(table.file_uris()) > FILES_BEFORE_COMPACTION:
            # Where nothing is locked another process may be doing the same; the rows are there.
            with contextlib.suppress(CommitFailedError):
                _join(table, self.sort)
                table.create_checkpoint()


def copy(source: Tables, target: Tables, product: str, name: str) -> None:
    """Copy a small table as it is now, if it exists, to where there is none."""
    place = source.control
    if place.exists(product, name):
        parts = [part.to_table() for part in place.datasets(product, name, None)]
        if parts:  # all rows of a table may have been removed
            rows = pa.concat_tables(parts, promote_options="default")
            target.control.write(product, name, rows, mode="error")


def in_order_of_commit(row: Mapping[str, Any]) -> tuple[int, int]:
    """Sorts the rows of a table with :data:`COMMIT` and ``recorded_at`` by when they were committed.

    Rows from before there were numbers come first, in the order of the clocks that wrote them.
    """
    return -1 if row[COMMIT] is None else row[COMMIT], row["recorded_at"]


def _join(table: DeltaTable, sort: Sequence[str]) -> int:
    """Join a table's files, and say how many were joined."""
    if len(table.file_uris()) <= 1:
        return 0
    if not sort:
        return int(table.optimize.compact()["numFilesRemoved"])
    return int(table.optimize.z_order(sort, writer_properties=_of_joined_files())["numFilesRemoved"])


def _of_joined_files() -> WriterProperties:
    from deltalake import WriterProperties

    return WriterProperties(compression="ZSTD", max_row_group_size=_ROWS_TOGETHER)


def _describing(columns: Sequence[str]) -> dict[str, str]:
    return {"delta.dataSkippingStatsColumns": ",".join(columns)} if columns else {}


def maintain(
    tables: Tables,
    product: str,
    name: str,
    keep: timedelta,
    *,
    sort: Sequence[str] = (),
    described: Sequence[str] = (),
) -> Maintained:
    """Join the files of a small table that exists, and delete those no version of the last ``keep`` needs."""
    place = tables.control
    with place.lock(product, name):
        table = place.open(product, name)
        properties = _describing(described)
        if properties.items() - table.metadata().configuration.items():  # it is older than the property
            table.alter.set_table_properties(properties)
        joined = _join(table, sort)
        deleted = table.vacuum(keep // timedelta(hours=1), dry_run=False, full=True)
        table.create_checkpoint()
        table.cleanup_metadata()
        files = pa.table(table.get_add_actions(flatten=True)).to_pydict()
    return Maintained(joined, len(deleted), len(files["path"]), sum(files["size_bytes"]))
