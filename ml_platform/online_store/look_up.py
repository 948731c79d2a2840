"""Looking features up: one compiled statement for a batch of keys, on a pooled connection.

A look-up takes tens of microseconds, so what can be made once per product is made once, and rows come
straight from the driver. What may be asked, and of which product, is :mod:`.store`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from ml_platform.online_store.dialects import Key, Lookup
from ml_platform.online_store.failures import Address, is_missing, translated
from ml_platform.online_store.feature_tables import FeatureTables

Convert = Callable[[Any], Any]


class FeatureReader:
    """Reads the features of one product, from any thread."""

    def __init__(self, engine: sa.Engine, address: Address, tables: FeatureTables) -> None:
        self._engine = engine
        self._address = address
        self._tables = tables
        self._names = [str(column.name) for column in tables.features.c]
        self._from_database, self._to_database = self._converters()
        self._sizes = tables.dialect.lookup_sizes(len(tables.entity))
        self._lookups: dict[int, Lookup] = {}

    def get(self, keys: Sequence[Sequence[Any]]) -> list[dict[str, Any] | None]:
        """The stored row of each key; see :meth:`.OnlineStore.get`."""
        wanted = [self._tables.key(key) for key in keys]
        distinct = list(dict.fromkeys(wanted))
        width = len(self._tables.entity)
        found: dict[Key, dict[str, Any]] = {}
        for start in range(0, len(distinct), self._sizes[-1]):
            for row in self._look_up(distinct[start : start + self._sizes[-1]]):
                found[row[:width]] = dict(zip(self._names, row, strict=True))
        return [found.get(key) for key in wanted]

    def _converters(self) -> tuple[list[tuple[int, Convert]], list[tuple[int, Convert]]]:
        """What turns the driver's values into Python's, and a key's values into the driver's."""
        tables, dialect = self._tables, self._engine.dialect
        if tables.dialect.driver_has_types:
            return [], []
        types = [column.type.dialect_impl(dialect) for column in tables.features.c]
        return (
            _given([type_.result_processor(dialect, None) for type_ in types]),
            _given([type_.bind_processor(dialect) for type_ in types[: len(tables.entity)]]),
        )

    def _look_up(self, keys: list[Key]) -> list[tuple[Any, ...]]:
        lookup = self._lookup(len(keys))
        if self._to_database:
            keys = [_converted(key, self._to_database) for key in keys]
        if lookup.fixed:
            keys += keys[-1:] * (lookup.size - len(keys))
        with translated(self._engine, self._address):
            try:
                rows = self._execute(lookup.sql, lookup.bind(keys))
            except self._engine.dialect.loaded_dbapi.Error as error:
                if not is_missing(error, self._engine.dialect.name):
                    raise
                rows = self._of_older_table(keys)
        if self._from_database:
            return [_converted(row, self._from_database) for row in rows]
        return rows

    def _lookup(self, count: int) -> Lookup:
        size = next(size for size in self._sizes if size >= count)
        if size not in self._lookups:
            tables = self._tables
            self._lookups[size] = tables.dialect.lookup(tables.features, self._names, tables.entity, size)
        return self._lookups[size]

    def _execute(self, sql: str, parameters: Any) -> list[tuple[Any, ...]]:
        """Rows as the driver gives them. A connection that broke in the pool is replaced once."""
        dialect = self._engine.dialect
        for attempt in (1, 2):
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(sql, parameters)
                return list(cursor.fetchall())
            except dialect.loaded_dbapi.Error as error:
                driver: Any = connection.driver_connection
                if not dialect.is_disconnect(error, driver, None):
                    raise
                connection.invalidate()
                self._engine.dispose()
                if attempt == 2:
                    raise
            finally:
                connection.close()
        raise AssertionError("the second attempt returns or raises")

    def _of_older_table(self, keys: list[Key]) -> list[tuple[Any, ...]]:
        """Rows of a table that lacks columns of the contract until its next publication; these are null."""
        tables = self._tables
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            if not inspector.has_table(tables.features.name):
                return []
            stored = {column["name"] for column in inspector.get_columns(tables.features.name)}
        if not stored.issuperset(tables.entity):
            return []
        names = [name for name in self._names if name in stored]
        lookup = tables.dialect.lookup(tables.features, names, tables.entity, len(keys))
        rows = [dict(zip(names, row, strict=True)) for row in self._execute(lookup.sql, lookup.bind(keys))]
        return [tuple([row.get(name) for name in self._names]) for row in rows]


def _given(converters: Sequence[Convert | None]) -> list[tuple[int, Convert]]:
    """The converters that are there, with their columns' places."""
    return [(n, convert) for n, convert in enumerate(converters) if convert is not None]


def _converted(row: Sequence[Any], converters: Sequence[tuple[int, Convert]]) -> tuple[Any, ...]:
    values = list(row)
    for n, convert in converters:
        values[n] = convert(values[n])
    return tuple(values)
