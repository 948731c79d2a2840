"""Looking features up: one statement for a batch of keys, on a pooled connection.

What may be asked, and of which product, is :mod:`.store`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ml_platform.online_store.dialects import Key
from ml_platform.online_store.failures import Address, is_missing, translated
from ml_platform.online_store.feature_tables import FeatureTables
from ml_platform.online_store.statements import Statements


class FeatureReader:
    """Reads the features of one product, from any thread."""

    def __init__(self, engine: sa.Engine, address: Address, tables: FeatureTables) -> None:
        self._engine = engine
        self._address = address
        self._tables = tables
        self._names = [str(column.name) for column in tables.features.c]
        self._statements = Statements(tables)
        # SQLAlchemy takes longer to make a statement than SQLite to find a row.
        self._row_of_key = self._statements.row_of_key()

    def get(self, keys: Sequence[Sequence[Any]]) -> list[dict[str, Any] | None]:
        """The stored row of each key; see :meth:`.OnlineStore.get`."""
        wanted = [self._tables.key(key) for key in keys]
        distinct = list(dict.fromkeys(wanted))
        width = len(self._tables.entity)
        size = self._tables.dialect.keys_at_once(width)
        found: dict[Key, dict[str, Any]] = {}
        for start in range(0, len(distinct), size):
            for row in self._look_up(distinct[start : start + size]):
                found[row[:width]] = dict(zip(self._names, row, strict=True))
        return [found.get(key) for key in wanted]

    def _look_up(self, keys: Sequence[Key]) -> Sequence[sa.Row[Any]]:
        with translated(self._engine, self._address):
            try:
                if len(keys) == 1:
                    return self._rows(self._row_of_key, {f"key_{n}": v for n, v in enumerate(keys[0])})
                return self._rows(self._statements.rows_of_keys(keys))
            except sa.exc.DBAPIError as error:
                if not is_missing(error, self._engine.dialect.name):
                    raise
                return self._of_older_table(keys)

    def _rows(self, query: sa.Select[Any], key: Mapping[str, Any] | None = None) -> Sequence[sa.Row[Any]]:
        """What the query finds; a connection that broke in the pool is replaced once."""
        try:
            return self._execute(query, key)
        except sa.exc.DBAPIError as error:
            # SQLAlchemy now replaces all that are as old. Tenacity would add a quarter to each look-up.
            if not error.connection_invalidated:
                raise
        return self._execute(query, key)

    def _execute(self, query: sa.Select[Any], key: Mapping[str, Any] | None) -> Sequence[sa.Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(query, key).all()

    def _of_older_table(self, keys: Sequence[Key]) -> Sequence[sa.Row[Any]]:
        """Rows of a table that lacks columns of the contract until its next publication; these are null."""
        tables = self._tables
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            if not inspector.has_table(tables.features.name):
                return []
            stored = {column["name"] for column in inspector.get_columns(tables.features.name)}
        if not stored.issuperset(tables.entity):
            return []
        return self._rows(self._statements.rows_of_keys(keys, stored))
