"""The online store: a SQL table per product with each entity's newest features.

One row per entity; a newer event day replaces an older one, never the other way round. Embedded SQLite
is the store here; every statement is SQLAlchemy Core, and what differs between databases stays in
:meth:`Publication.merge`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from ml_platform.product import EVENT_DAY, Product

BATCH = 10_000
_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "string": sa.String,
    "integer": sa.Integer,
    "long": sa.BigInteger,
    "double": sa.Double,
    "boolean": sa.Boolean,
    "date": sa.Date,
    "timestamp": sa.DateTime,
}


class OnlineStoreError(Exception):
    """The store can't take or give the features; the message says what to do."""


class OnlineStore:
    """The features of all products in one database."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise OnlineStoreError(
                f"the online store {parsed.render_as_string()} is of a kind this version can't write; "
                "accepted are sqlite:///<file> addresses"
            )
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = sa.create_engine(parsed, connect_args={"timeout": 60})

    def get(self, product: Product, keys: Sequence[Sequence[Any]]) -> list[dict[str, Any] | None]:
        """The stored row of each key (the entity's columns in order), None where there is none."""
        table = feature_table(product)
        if not sa.inspect(self._engine).has_table(table.name):
            return [None for _ in keys]
        entity = [table.c[name] for name in product.entity]
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        with self._engine.connect() as connection:
            for key in keys:
                query = sa.select(table).where(*[c == v for c, v in zip(entity, key, strict=True)])
                row = connection.execute(query).mappings().first()
                if row is not None:
                    found[tuple(key)] = dict(row)
        return [found.get(tuple(key)) for key in keys]

    def count(self, product: Product) -> int:
        """How many entities the store knows."""
        table = feature_table(product)
        with self._engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)

    def newest_day(self, product: Product) -> date | None:
        """The newest event day in the store."""
        with self._engine.connect() as connection:
            newest = sa.select(sa.func.max(feature_table(product).c[EVENT_DAY]))
            found: date | None = connection.scalar(newest)
            return found

    def rows(self, product: Product) -> list[dict[str, Any]]:
        """All rows, ordered by entity; for tests and small stores."""
        table = feature_table(product)
        with self._engine.connect() as connection:
            query = sa.select(table).order_by(*[table.c[name] for name in product.entity])
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextlib.contextmanager
    def publication(self, product: Product) -> Iterator[Publication]:
        """One transaction that brings a product's features up to date; readers see all of it or nothing."""
        table = feature_table(product)
        table.metadata.create_all(self._engine)
        self._refuse_other_columns(table)
        with self._engine.connect() as connection:
            # SQLite must take its write lock now: a read lock can't be upgraded beside another writer.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield Publication(connection, product, table)
            connection.commit()

    def _refuse_other_columns(self, table: sa.Table) -> None:
        stored = {info["name"] for info in sa.inspect(self._engine).get_columns(table.name)}
        wanted = set(table.c.keys())
        if stored == wanted:
            return
        raise OnlineStoreError(
            f"the online table {table.name!r} has other columns than the contract "
            f"(only there: {sorted(stored - wanted)}, only in the contract: {sorted(wanted - stored)}); "
            "drop or rename the table and publish again"
        )


class Publication:
    """The steps of one publication, inside its transaction."""

    def __init__(self, connection: sa.Connection, product: Product, table: sa.Table) -> None:
        self._connection = connection
        self._product = product
        self._table = table
        self._staging = feature_table(product, staging=True)
        connection.execute(sa.schema.CreateTable(self._staging))

    def stage(self, rows: Iterable[dict[str, Any]], version: int) -> int:
        """Stage rows that were read from ``version`` of the MRDS; returns how many."""
        staging = self._staging
        insert = sqlite.insert(staging)
        names = [c.name for c in staging.c if c.name not in self._product.entity]
        newer = insert.on_conflict_do_update(
            index_elements=list(self._product.entity),
            set_={name: insert.excluded[name] for name in names},
            where=insert.excluded[EVENT_DAY] > staging.c[EVENT_DAY],
        )
        count = 0
        iterator = iter(rows)
        while batch := [{**row, "mrds_version": version} for row in islice(iterator, BATCH)]:
            self._connection.execute(newer, batch)
            count += len(batch)
        return count

    def withdraw(self, days: Sequence[date]) -> list[tuple[Any, ...]]:
        """Delete stored rows of ``days`` that aren't staged for their day; returns these entities."""
        table, staging = self._table, self._staging
        same = [table.c[name] == staging.c[name] for name in (*self._product.entity, EVENT_DAY)]
        gone = sa.and_(table.c[EVENT_DAY].in_(list(days)), ~sa.exists().where(*same))
        entity = [table.c[name] for name in self._product.entity]
        found = [tuple(row) for row in self._connection.execute(sa.select(*entity).where(gone))]
        if found:
            self._connection.execute(sa.delete(table).where(gone))
        return found

    def merge(self) -> int:
        """Merge what was staged into the table; returns how many entities changed or were confirmed."""
        table, staging = self._table, self._staging
        names = [c.name for c in staging.c]
        insert = sqlite.insert(table).from_select(names, sa.select(staging).where(sa.true()))
        updates = {name: insert.excluded[name] for name in names if name not in self._product.entity}
        merge = insert.on_conflict_do_update(
            index_elements=list(self._product.entity),
            set_={**updates, "published_at": sa.func.current_timestamp()},
            where=insert.excluded[EVENT_DAY] >= table.c[EVENT_DAY],
        )
        changed = self._connection.execute(merge).rowcount
        self._connection.execute(sa.schema.DropTable(staging))
        return int(changed)


def feature_table(product: Product, *, staging: bool = False) -> sa.Table:
    """The table of a product's online features; the staging table has no times and lives a transaction."""
    columns = [
        sa.Column(name, _TYPES[product.mrds_type(name)], primary_key=True, autoincrement=False)
        for name in product.entity
    ]
    columns.append(sa.Column(EVENT_DAY, sa.Date, nullable=False))
    columns += [sa.Column(name, _TYPES[product.mrds_type(name)]) for name in product.features]
    columns.append(sa.Column("mrds_version", sa.BigInteger, nullable=False))
    if staging:
        name = f"{product.name}_features_staging"
        return sa.Table(name, sa.MetaData(), *columns, prefixes=["TEMPORARY"])
    published = sa.Column(
        "published_at", sa.DateTime, nullable=False, server_default=sa.func.current_timestamp()
    )
    return sa.Table(f"{product.name}_features", sa.MetaData(), *columns, published)
