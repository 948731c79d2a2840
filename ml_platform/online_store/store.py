"""The online store: a SQL table per product with each entity's newest features, for look-ups.

One URL chooses the database: embedded SQLite, PostgreSQL, or Azure SQL Server. A newer event day replaces
an older one, never the other way round; of one day the newer version of the MRDS counts. What a publication
does is in :mod:`.publication`, what databases do differently in :mod:`.dialects`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ml_platform.contract.product import Product
from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.dialects import DIALECTS, VERSION, Key
from ml_platform.online_store.failures import Address, OnlineStoreError, PublicationOvertakenError, translated
from ml_platform.online_store.feature_tables import FeatureTables
from ml_platform.online_store.look_up import FeatureReader
from ml_platform.online_store.publication import Merged, Publication
from ml_platform.online_store.statements import Statements

__all__ = ["Merged", "OnlineStore", "OnlineStoreError", "Publication", "PublicationOvertakenError"]

#: SQL Server takes 2,100 values a statement.
_VALUES_AT_ONCE = 2_000
_MOST_CONNECTIONS = 40


class OnlineStore:
    """The features of all products in one database. Threads may share it."""

    def __init__(self, url: str, *, lock_timeout: float = 60.0, pool_size: int = 10) -> None:
        """Connects to nothing yet.

        Args:
            url: ``sqlite:///<file>``, ``postgresql+psycopg://…`` or ``mssql+mssqlpython://…``.
            lock_timeout: seconds that a change waits for another one to end.
            pool_size: connections that are kept open for look-ups; under load there are up to 40.

        Raises:
            OnlineStoreError: the address is of no database that can be used here.
        """
        self._address = Address(url)
        self._file: Path | None = None
        self._opened_file: tuple[int, int] | None = None
        parsed = self._address.url
        backend = parsed.get_backend_name()
        if backend not in DIALECTS or (backend == "sqlite" and parsed.database in (None, "", ":memory:")):
            raise OnlineStoreError(
                f"the online store can't be {self._address}; accepted are sqlite:///<file>, "
                "postgresql+psycopg://… and mssql+mssqlpython://…"
            )
        self._dialect = DIALECTS[backend](lock_timeout)
        options = {**self._dialect.engine_options(), "hide_parameters": True}
        try:
            # A publication has a connection to itself, and its staging goes with it.
            self._writer = sa.create_engine(parsed, poolclass=sa.NullPool, **options)
            self._reader = sa.create_engine(
                parsed,
                poolclass=sa.QueuePool,
                pool_size=pool_size,
                max_overflow=max(0, _MOST_CONNECTIONS - pool_size),
                pool_use_lifo=True,
                # Without transactions there is nothing to reset.
                pool_reset_on_return=None,
                isolation_level="AUTOCOMMIT",
                **options,
            )
        except (sa.exc.ArgumentError, ImportError) as error:
            raise OnlineStoreError(
                f"the online store {self._address} needs a driver that isn't there "
                f"({self._address.scrub(str(error))}); accepted are postgresql+psycopg://…, and "
                "mssql+mssqlpython://… with ml-platform[sqlserver] installed"
            ) from None
        if backend == "sqlite" and parsed.database and not parsed.database.startswith("file:"):
            self._file = Path(parsed.database)
            self._file.parent.mkdir(parents=True, exist_ok=True)
        self._readers: dict[str, tuple[Product, FeatureReader]] = {}

    def __repr__(self) -> str:
        return f"OnlineStore({str(self._address)!r})"

    def close(self) -> None:
        """Close the connections that are kept for look-ups."""
        self._reader.dispose()

    # -- reading -------------------------------------------------------------------------------------

    def get(self, product: Product, keys: Sequence[Sequence[Any]]) -> list[dict[str, Any] | None]:
        """The stored row of each key, in order; None where there is none.

        Args:
            keys: the entity's columns in the contract's order, in the contract's types.

        Returns:
            Entity, ``event_day``, features, ``mrds_version`` and ``published_at``; times are UTC without
            a zone. A null feature is a None in a row. Where rows hold for some time alone, also
            ``valid_until``, the last date of it; whether that is over is the caller's business.

        Raises:
            OnlineStoreError: the store can't be read.
        """
        self._follow_file()
        product_, reader = self._readers.get(product.name, (None, None))
        if reader is None or product_ is not product:
            reader = FeatureReader(self._reader, self._address, FeatureTables(product, self._dialect))
            self._readers[product.name] = (product, reader)
        return reader.get(keys)

    def _follow_file(self) -> None:
        """Read from the file that has the store's name now: open connections go on reading a deleted one.

        Raises:
            OnlineStoreError: there was a file, and it is gone.
        """
        if self._file is None:
            return
        try:
            status = self._file.stat()
        except FileNotFoundError:
            if self._opened_file is None:
                return  # nothing has been published yet
            self._reader.dispose()
            raise OnlineStoreError(
                f"the file of the online store {self._address} is gone; restore it, or publish again",
                temporary=True,
            ) from None
        found = (status.st_dev, status.st_ino)
        if found != self._opened_file:
            if self._opened_file is not None:
                self._reader.dispose()
            self._opened_file = found

    def count(self, product: Product) -> int:
        """How many entities the store knows."""
        return self._totals(product)[0]

    def newest_day(self, product: Product) -> date | None:
        """The newest event day in the store."""
        return self._totals(product)[1]

    def published_versions(self, product: Product) -> dict[date, int]:
        """The published days, each with the version of the MRDS it came from; none of a store without rows.

        A store without any row holds nothing, whatever it says of days, unless entities were forgotten.

        Raises:
            OnlineStoreError: the store can't be read.
        """
        if self._file is not None and not self._file.exists():
            return {}  # to ask would make the file
        tables, statements = FeatureTables(product, self._dialect), self._statements(product)
        with self._reading() as connection:
            inspector = sa.inspect(connection)
            if not all(inspector.has_table(table.name) for table in (tables.features, tables.days)):
                return {}
            days = {row[0]: int(row[1]) for row in connection.execute(statements.published_versions())}
            filled = connection.execute(
                sa.select(sa.literal(1)).select_from(tables.features).limit(1)
            ).first()
            if filled or not inspector.has_table(tables.forgotten.name):
                return days if filled else {}
            forgotten = sa.select(sa.literal(1)).select_from(tables.forgotten).limit(1)
            return days if connection.execute(forgotten).first() else {}

    def restart_versions(self, product: Product) -> None:
        """Take all that is stored for older than any version of an MRDS that was made anew."""
        with self._changing_features(product) as connection:
            for statement in self._statements(product).restart_versions():
                connection.execute(statement)

    def rows(self, product: Product) -> list[dict[str, Any]]:
        """All rows, ordered by entity; for tests and small stores."""
        tables = FeatureTables(product, self._dialect)
        query = sa.select(tables.features).order_by(*[tables.features.c[name] for name in tables.entity])
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _totals(self, product: Product) -> tuple[int, date | None]:
        with self._reading() as connection:
            row = connection.execute(self._statements(product).totals()).one()
            return int(row[0]), row[1]

    # -- publishing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def publication(self, product: Product, *, version: int, days: Sequence[date]) -> Iterator[Publication]:
        """Publish ``days`` from ``version`` of the MRDS: stage, perhaps withdraw, then merge.

        Raises:
            OnlineStoreError: the stored table can't hold the contract's features, or the database fails.
        """
        with self._changing() as connection:
            tables = FeatureTables(product, self._dialect)
            publication = Publication(connection, tables, version, days, self._translated)
            publication.open()
            yield publication
            publication.close()

    def read_back(self, product: Product, merged: Merged) -> int:
        """Compare what readers see now with what was merged: days, count, newest day, a sample's values.

        Count and newest day are left out when the features have changed again since.

        Returns:
            How many sampled rows were compared; newer rows of their entities are not.

        Raises:
            OnlineStoreError: they differ.
        """
        before = self._last_publication(product)
        if before < merged.number:
            _differs(product, f"the last publication is {before}, not {merged.number}")
        compared = self._compare(product, merged)
        totals = self._totals(product)
        unchanged = before == merged.number == self._last_publication(product)
        if unchanged and totals != (merged.entities, merged.newest_day):
            _differs(
                product,
                f"{totals[0]:,} entities to {totals[1]}, not {merged.entities:,} to {merged.newest_day}",
            )
        return compared

    def _compare(self, product: Product, merged: Merged) -> int:
        names = FeatureTables(product, self._dialect).values
        keys = [[row[name] for name in product.entity] for row in merged.sample]
        compared, differing = 0, []
        for row, stored in zip(merged.sample, self.get(product, keys), strict=True):
            if stored is None or (stored[EVENT_DAY], stored[VERSION]) != (row[EVENT_DAY], merged.version):
                continue
            compared += 1
            differing += [name for name in names if stored[name] != row[name]]
        if differing:
            _differs(product, f"sampled rows have other values of {', '.join(sorted(set(differing)))}")
        return compared

    def _last_publication(self, product: Product) -> int:
        with self._reading() as connection:
            return int(connection.scalar(self._statements(product).last_publication()) or 0)

    # -- forgetting ----------------------------------------------------------------------------------

    def forget(self, product: Product, keys: Sequence[Sequence[Any]], *, reason: str) -> int:
        """Delete entities, and let no publication bring them back until :meth:`unforget`.

        Only the online store is meant: the ARDS and the MRDS keep what was delivered. What is kept here
        of the entity is its key, the reason and the time.

        Returns:
            How many of them had features in the store.
        """
        if not reason.strip():
            raise OnlineStoreError("forgetting needs a reason; it is kept with the key")
        statements, deleted = self._statements(product), 0
        with self._changing_features(product) as connection:
            for chunk in self._chunks(product, keys):
                known = {tuple(row) for row in connection.execute(statements.known_tombstones(chunk))}
                if new := [key for key in chunk if key not in known]:
                    connection.execute(statements.add_tombstones(new, reason))
                deleted += connection.execute(statements.delete_features(chunk)).rowcount
            connection.execute(statements.count_change())
        return deleted

    def unforget(self, product: Product, keys: Sequence[Sequence[Any]]) -> int:
        """Let later publications bring entities back; returns how many of them were to be forgotten."""
        statements = self._statements(product)
        with self._changing_features(product) as connection:
            return sum(
                connection.execute(statements.delete_tombstones(chunk)).rowcount
                for chunk in self._chunks(product, keys)
            )

    def _chunks(self, product: Product, keys: Sequence[Sequence[Any]]) -> Iterator[list[Key]]:
        tables = FeatureTables(product, self._dialect)
        return in_chunks([tables.key(key) for key in keys])

    # -- connections ---------------------------------------------------------------------------------

    def _statements(self, product: Product) -> Statements:
        return Statements(FeatureTables(product, self._dialect))

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._writer, self._address)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with translated(self._reader, self._address), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        """A connection of one's own; it ends as it is when the caller fails."""
        with self._translated():
            connection = self._writer.connect()
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def _changing_features(self, product: Product) -> Iterator[sa.Connection]:
        """One transaction that changes a product's features, which are created if they are missing."""
        with self._changing() as connection, self._translated():
            self._dialect.begin(connection, product.name)
            FeatureTables(product, self._dialect).prepare(connection)
            yield connection
            connection.commit()


def in_chunks(keys: Sequence[Key]) -> Iterator[list[Key]]:
    """The distinct keys, as many at a time as a statement takes."""
    distinct = list(dict.fromkeys(keys))
    # A tombstone has a value a column of the key, and the reason.
    size = min(200, _VALUES_AT_ONCE // (len(distinct[0]) + 1)) if distinct else 1
    for start in range(0, len(distinct), size):
        yield distinct[start : start + size]


def _differs(product: Product, how: str) -> None:
    raise OnlineStoreError(
        f"{product.name}: the online store reads back something else than was published: {how}. See whether "
        "another program or a trigger changes its tables, then materialize the days again with force"
    )
