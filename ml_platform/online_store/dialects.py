"""What differs between the databases of the online store: types, locks, the bulk path, merge and look-up.

Everything the databases agree on is in :mod:`.statements`, and what is done with it, in which order, in
:mod:`.store` and :mod:`.publication`. Nothing here knows of Spark.
"""

from __future__ import annotations

import contextlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, postgresql, sqlite
from sqlalchemy.dialects.mssql import mssqlpython
from sqlalchemy.dialects.postgresql import psycopg

from ml_platform.contract.column_types import COLUMN_TYPES, ColumnType
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.failures import OnlineStoreError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "mrds_version"
PUBLISHED_AT = "published_at"
#: What a statement binds at most: SQL Server takes 2,100 values, SQLite before 3.32 only 999.
_MOST_VALUES = 999
Type = sa.types.TypeEngine[Any]
Key = tuple[Any, ...]


class Dialect(ABC):
    """One kind of database."""

    longest_name: ClassVar[int | None] = None
    staging_prefixes: ClassVar[tuple[str, ...]] = ("TEMPORARY",)

    def __init__(self, lock_timeout: float) -> None:
        self.lock_timeout = lock_timeout

    def engine_options(self) -> dict[str, Any]:
        return {}

    def feature_type(self, type_: ColumnType) -> Type:
        kind: type[Type] = getattr(sa, COLUMN_TYPES[type_].sqlalchemy)
        return kind()

    def key_type(self, type_: ColumnType, columns: int) -> Type:
        """The type of one of the ``columns`` that make the primary key."""
        return self.feature_type(type_)

    def table_options(self) -> dict[str, Any]:
        return {}

    def now(self) -> sa.ColumnElement[Any]:
        """The database's clock, in UTC."""
        return sa.func.current_timestamp()

    @abstractmethod
    def begin(self, connection: sa.Connection, product: str) -> None:
        """Begin a transaction that excludes every other change of the product's tables, not their readers."""

    # -- staging: a table of one session, so that nothing of a session that dies is left ---------------

    def staging_name(self, name: str) -> str:
        return name

    def hold(self, connection: sa.Connection, names: Sequence[str]) -> None:  # noqa: B027 - not all need it
        """Remove the staging of dead sessions, and mark ``names`` as those of this one."""

    def discard(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> None:  # noqa: B027 - not all need it
        """Remove the session's staging, unless it goes with the session."""

    @abstractmethod
    def load(self, connection: sa.Connection, staging: sa.Table, rows: pa.RecordBatch) -> None:
        """Append rows, in the staging table's columns and order."""

    def settle(self, connection: sa.Connection, staging: sa.Table, entity: Sequence[str]) -> None:  # noqa: B027 - not all need it
        """Prepare a loaded staging table for being joined."""

    # -- statements --------------------------------------------------------------------------------

    @abstractmethod
    def merge(
        self, features: sa.Table, source: sa.Select[Any], entity: Sequence[str], cleared: Sequence[str]
    ) -> sa.Executable:
        """Insert or update the rows of ``source`` that are not older than those in ``features``.

        Args:
            source: every column of ``features`` but those the database sets and ``cleared``.
            cleared: columns that the contract no longer has; null in rows that are written.
        """

    def of_keys(
        self, query: sa.Select[Any], columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]
    ) -> sa.Select[Any]:
        """Those rows of ``query`` whose ``columns`` are one of ``keys``."""
        return query.where(among(columns, keys))

    def keys_at_once(self, columns: int) -> int:
        """How many keys of so many columns :meth:`of_keys` takes.

        Each number of keys of several columns is a statement of its own, and SQLAlchemy keeps them all.
        """
        return _MOST_VALUES if columns == 1 else min(100, _MOST_VALUES // columns)

    @property
    @abstractmethod
    def sql(self) -> sa.Dialect:
        """SQLAlchemy's dialect, set to the driver's style of parameters."""


class Sqlite(Dialect):
    """An embedded file. Readers go on beside the one writer (write-ahead log)."""

    sql = sqlite.dialect()

    def engine_options(self) -> dict[str, Any]:
        return {"connect_args": {"timeout": self.lock_timeout}}

    def table_options(self) -> dict[str, Any]:
        return {"sqlite_with_rowid": False}

    def begin(self, connection: sa.Connection, product: str) -> None:
        # Another session may be at work, or switching the file's mode itself; the next one switches it then.
        with contextlib.suppress(sa.exc.OperationalError):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL").close()
        connection.exec_driver_sql("PRAGMA journal_size_limit = 67108864").close()
        for place in ("main", "temp"):
            connection.exec_driver_sql(f"PRAGMA {place}.cache_size = -65536")
        # SQLite must take its write lock now: a read lock can't be upgraded beside another writer.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def load(self, connection: sa.Connection, staging: sa.Table, rows: pa.RecordBatch) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        def values(column: pa.Array) -> list[Any]:
            if pa.types.is_temporal(column.type):
                column = pc.cast(column, pa.string())
            found: list[Any] = column.to_pylist()
            return found

        statement = str(sa.insert(staging).compile(dialect=self.sql))
        # The driver takes rows as they come; a list of them would be a second copy.
        cursor: Any = connection.connection.cursor()
        cursor.executemany(statement, zip(*[values(column) for column in rows.columns], strict=True))
        cursor.close()

    def settle(self, connection: sa.Connection, staging: sa.Table, entity: Sequence[str]) -> None:
        # With the day in it, the index answers joins in the order of the key, without the rows.
        names = dict.fromkeys((*entity, EVENT_DAY))
        index = sa.Index(f"{staging.name}_entity", *[staging.c[name] for name in names])
        connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))

    def merge(
        self, features: sa.Table, source: sa.Select[Any], entity: Sequence[str], cleared: Sequence[str]
    ) -> sa.Executable:
        return _upsert(self, sqlite.insert(features), features, source, entity, cleared)


class PostgreSql(Dialect):
    """PostgreSQL, by way of psycopg."""

    longest_name = 63
    sql = psycopg.dialect()  # type: ignore[no-untyped-call]

    def engine_options(self) -> dict[str, Any]:
        return {"connect_args": {"connect_timeout": 10}}

    def feature_type(self, type_: ColumnType) -> Type:
        return sa.Text() if type_ == "string" else super().feature_type(type_)

    def key_type(self, type_: ColumnType, columns: int) -> Type:
        """Strings compare by their bytes: exact, and much faster to index than by a language's rules."""
        return sa.Text(collation="C") if type_ == "string" else self.feature_type(type_)

    def now(self) -> sa.ColumnElement[Any]:
        return sa.func.timezone("UTC", sa.func.statement_timestamp())

    def begin(self, connection: sa.Connection, product: str) -> None:
        wait = sa.func.set_config("lock_timeout", f"{round(self.lock_timeout * 1000)}ms", True)
        connection.execute(sa.select(wait))
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(product, 0))))

    def load(self, connection: sa.Connection, staging: sa.Table, rows: pa.RecordBatch) -> None:
        from psycopg import Connection as Psycopg
        from psycopg.sql import SQL, Identifier

        names = SQL(", ").join(Identifier(str(column.name)) for column in staging.c)
        statement = SQL("COPY {} ({}) FROM STDIN").format(Identifier(str(staging.name)), names)
        driver = connection.connection.driver_connection
        assert isinstance(driver, Psycopg)
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(copy_text(rows))

    def settle(self, connection: sa.Connection, staging: sa.Table, entity: Sequence[str]) -> None:
        name = self.sql.identifier_preparer.format_table(staging)
        connection.exec_driver_sql(f"ANALYZE {name}")

    def merge(
        self, features: sa.Table, source: sa.Select[Any], entity: Sequence[str], cleared: Sequence[str]
    ) -> sa.Executable:
        return _upsert(self, postgresql.insert(features), features, source, entity, cleared)

    def of_keys(
        self, query: sa.Select[Any], columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]
    ) -> sa.Select[Any]:
        """One array a column of the key, so that one prepared statement serves any number of keys."""
        # A bound array has no collation of its own; the key's counts.
        types = [sa.Text() if isinstance(column.type, sa.Text) else column.type for column in columns]
        arrays = [
            sa.literal(list(values), postgresql.ARRAY(type_))
            for values, type_ in zip(zip(*keys, strict=True), types, strict=True)
        ]
        names = [sa.column(f"key_{n}", type_) for n, type_ in enumerate(types)]
        wanted = sa.func.unnest(*arrays).table_valued(*names).render_derived(name="wanted")
        same = [column == key for column, key in zip(columns, wanted.c, strict=True)]
        return query.join(wanted, sa.and_(*same))

    def keys_at_once(self, columns: int) -> int:
        return 10_000


def _sql_server(paramstyle: str) -> sa.Dialect:
    """SQLAlchemy's dialect as it is when connected to any version that is in support."""
    dialect: sa.Dialect = mssqlpython.dialect(paramstyle=paramstyle)  # type: ignore[no-untyped-call]
    dialect.server_version_info = (15, 0)
    return dialect


class SqlServer(Dialect):
    """Azure SQL Server, by way of mssql-python.

    Its bulk copy opens a connection of its own, which sees no temporary table: staging tables are ordinary
    ones here, each held by an application lock that ends with the session.
    """

    longest_name = 128
    staging_prefixes = ()
    sql = _sql_server("pyformat")
    _named: ClassVar[sa.Dialect] = _sql_server("named")
    _COLLATION: ClassVar[str] = "Latin1_General_100_BIN2"
    _KEY_BYTES: ClassVar[int] = 900

    LOCK: ClassVar[str] = (
        "SET NOCOUNT ON; DECLARE @result INT; "
        "EXEC @result = sp_getapplock @Resource = :name, @LockMode = 'Exclusive', @LockOwner = :owner, "
        "@LockTimeout = :wait; SELECT @result; SET NOCOUNT OFF"
    )

    def feature_type(self, type_: ColumnType) -> Type:
        match type_:
            case "string":
                return mssql.NVARCHAR()
            case "double":
                return sa.Float(53)
            case "timestamp":
                return mssql.DATETIME2(6)  # type: ignore[no-untyped-call]
            case _:
                return super().feature_type(type_)

    def key_type(self, type_: ColumnType, columns: int) -> Type:
        """Strings compare by code point, and all columns fit into the 900 bytes a key may have."""
        if type_ != "string":
            return self.feature_type(type_)
        return mssql.NVARCHAR(self._KEY_BYTES // columns // 2, collation=self._COLLATION)

    def now(self) -> sa.ColumnElement[Any]:
        return sa.func.sysutcdatetime()

    def begin(self, connection: sa.Connection, product: str) -> None:
        connection.execute(sa.text("SET XACT_ABORT ON"))
        connection.execute(sa.text(f"SET LOCK_TIMEOUT {round(self.lock_timeout * 1000)}"))
        wait = round(self.lock_timeout * 1000)
        if not self._lock(connection, product, "Transaction", wait):
            raise OnlineStoreError(
                f"another session changes the online tables of {product}; publish again when it is done",
                temporary=True,
            )

    def _lock(self, connection: sa.Connection, name: str, owner: str, wait: int) -> bool:
        result = connection.scalar(sa.text(self.LOCK), {"name": name, "owner": owner, "wait": wait})
        return result is not None and int(result) >= 0

    def staging_name(self, name: str) -> str:
        return f"{name}_{uuid.uuid4().hex[:12]}"

    def hold(self, connection: sa.Connection, names: Sequence[str]) -> None:
        stems = {name.rpartition("_")[0] for name in names}
        for found in sa.inspect(connection).get_table_names():
            # A lock that can be had belongs to nobody: the session that made the table is gone.
            if found.rpartition("_")[0] in stems and self._lock(connection, found, "Session", 0):
                sa.Table(found, sa.MetaData()).drop(connection, checkfirst=True)
        for name in names:
            self._lock(connection, name, "Session", 0)

    def discard(self, connection: sa.Connection, tables: Sequence[sa.Table]) -> None:
        for table in tables:
            table.drop(connection, checkfirst=True)
        connection.commit()

    def load(self, connection: sa.Connection, staging: sa.Table, rows: pa.RecordBatch) -> None:
        cursor: Any = connection.connection.cursor()
        name = self.sql.identifier_preparer.format_table(staging)
        cursor.bulkcopy_arrow(
            name, rows, column_mappings=list(rows.schema.names), keep_nulls=True, table_lock=True, timeout=0
        )
        cursor.close()

    def merge(
        self, features: sa.Table, source: sa.Select[Any], entity: Sequence[str], cleared: Sequence[str]
    ) -> sa.Executable:
        # SQLAlchemy has no MERGE. It escapes this text for the driver, so the names must not be yet.
        compiled = source.compile(dialect=self._named)
        quote = self._named.identifier_preparer.quote_identifier

        def pair(name: str) -> tuple[str, str]:
            return f"target.{quote(name)}", f"source.{quote(name)}"

        names = [str(column.name) for column in source.selected_columns]
        same = " AND ".join("{} = {}".format(*pair(name)) for name in entity)
        updates = ["{} = {}".format(*pair(name)) for name in names if name not in entity]
        updates += [f"{pair(name)[0]} = NULL" for name in cleared]
        updates.append(f"{pair(PUBLISHED_AT)[0]} = SYSUTCDATETIME()")
        day, new_day = pair(EVENT_DAY)
        version, new_version = pair(VERSION)
        return sa.text(
            f"MERGE INTO {quote(features.name)} WITH (HOLDLOCK) AS target\n"
            f"USING ({compiled}) AS source\n"
            f"ON {same}\n"
            f"WHEN MATCHED AND ({new_day} > {day} OR ({new_day} = {day} AND {new_version} >= {version}))\n"
            f"THEN UPDATE SET {', '.join(updates)}\n"
            f"WHEN NOT MATCHED BY TARGET THEN INSERT ({', '.join(map(quote, names))})\n"
            f"VALUES ({', '.join(pair(name)[1] for name in names)});"
        ).bindparams(**compiled.params)


DIALECTS: dict[str, type[Dialect]] = {"sqlite": Sqlite, "postgresql": PostgreSql, "mssql": SqlServer}


def among(columns: Sequence[sa.ColumnElement[Any]], keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """That ``columns`` are one of ``keys``."""
    if len(columns) == 1:
        values = [key[0] for key in keys]
        return columns[0].in_(sa.bindparam(None, values, columns[0].type, expanding=True))
    # Not `IN` with tuples: SQL Server knows none, and SQLite would read the whole table.
    return sa.or_(
        *[
            sa.and_(*[c == sa.literal(value, c.type) for c, value in zip(columns, key, strict=True)])
            for key in keys
        ]
    )


def _upsert(
    dialect: Dialect,
    insert: Any,
    features: sa.Table,
    source: sa.Select[Any],
    entity: Sequence[str],
    cleared: Sequence[str],
) -> sa.Executable:
    names = [str(column.name) for column in source.selected_columns]
    # In the order of the key, the entries of an index page are written together.
    insert = insert.from_select(names, source.order_by(*[source.selected_columns[n] for n in entity]))
    new = insert.excluded
    updates = {name: new[name] for name in names if name not in entity}
    updates |= {name: sa.null() for name in cleared}
    newer = sa.or_(
        new[EVENT_DAY] > features.c[EVENT_DAY],
        sa.and_(new[EVENT_DAY] == features.c[EVENT_DAY], new[VERSION] >= features.c[VERSION]),
    )
    statement: sa.Executable = insert.on_conflict_do_update(
        index_elements=list(entity), set_={**updates, PUBLISHED_AT: dialect.now()}, where=newer
    )
    return statement


def copy_text(rows: pa.RecordBatch) -> bytes:
    """The rows in the text format of PostgreSQL's COPY."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def text(column: pa.Array) -> pa.Array:
        if not pa.types.is_string(column.type):
            return pc.cast(column, pa.string())
        if pc.any(pc.match_substring_regex(column, r"[\\\t\n\r]")).as_py():
            for found, written in (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r")):
                column = pc.replace_substring(column, found, written)
        return column

    if rows.num_rows == 0:
        return b""
    lines = pc.binary_join_element_wise(
        *[text(column) for column in rows.columns], "\t", null_handling="replace", null_replacement=r"\N"
    )
    return b"\n".join(line.encode() for line in lines.to_pylist()) + b"\n"
