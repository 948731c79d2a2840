"""The statements of the online store, each said once for every database.

The order in which they run, and in which transactions, is decided in :mod:`.publication` and
:mod:`.store`. Identifiers are quoted, values are bound.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from ml_platform.contract.source import EVENT_DAY
from ml_platform.online_store.dialects import VERSION, Key, among
from ml_platform.online_store.feature_tables import NUMBER, PUBLICATION, REASON, FeatureTables


class Statements:
    """What is asked of, and done to, the tables of one product."""

    def __init__(self, tables: FeatureTables) -> None:
        self.tables = tables
        self.features = tables.features
        self.days = tables.days
        self.forgotten = tables.forgotten
        self.entity = tables.entity

    # -- looking up ----------------------------------------------------------------------------------

    def row_of_key(self) -> sa.Select[Any]:
        """The row of the key that is bound as ``key_0``, ``key_1`` and so on."""
        columns = [self.features.c[name] for name in self.entity]
        marks = [sa.bindparam(f"key_{n}", type_=column.type) for n, column in enumerate(columns)]
        same = [column == mark for column, mark in zip(columns, marks, strict=True)]
        return sa.select(*self.features.c).where(*same)

    def rows_of_keys(self, keys: Sequence[Key], stored: Collection[str] | None = None) -> sa.Select[Any]:
        """The rows of ``keys``; columns that aren't among the ``stored`` ones are null."""
        chosen = [
            column if stored is None or column.name in stored else sa.null().label(column.name)
            for column in self.features.c
        ]
        columns = [self.features.c[name] for name in self.entity]
        return self.tables.dialect.of_keys(sa.select(*chosen), columns, keys)

    # -- publishing ----------------------------------------------------------------------------------

    def published_versions(self) -> sa.Select[Any]:
        """Every published day with the MRDS version it came from."""
        return sa.select(self.days.c[EVENT_DAY], self.days.c[VERSION])

    def find_gone(
        self, gone: sa.Table, staging: sa.Table, days: Sequence[date], version: int
    ) -> sa.Executable:
        """Number the stored rows that their day no longer has."""
        columns = [self.features.c[name] for name in self._gone_names]
        number = sa.func.row_number().over(order_by=columns)
        query = sa.select(*columns, number).where(self._is_gone(staging, days, version))
        return sa.insert(gone).from_select([*self._gone_names, NUMBER], query)

    def gone_rows(self, gone: sa.Table, first: int, last: int) -> sa.Select[Any]:
        """The gone rows of these numbers."""
        query = sa.select(*[gone.c[name] for name in self._gone_names])
        return query.where(gone.c[NUMBER].between(first, last))

    def gone_since(
        self, gone: sa.Table, staging: sa.Table, days: Sequence[date], version: int
    ) -> sa.Select[Any]:
        """How many rows are gone that weren't when :meth:`find_gone` looked."""
        known = sa.exists().where(*self._same(gone, self.features, self._gone_names))
        query = sa.select(sa.func.count()).select_from(self.features)
        return query.where(self._is_gone(staging, days, version), ~known)

    def withdraw(self, staging: sa.Table, days: Sequence[date], version: int) -> sa.Delete:
        """Delete the stored rows that their day no longer has."""
        return sa.delete(self.features).where(self._is_gone(staging, days, version))

    def drop_older_staged(self, staging: sa.Table) -> sa.Delete:
        """Keep each entity's newest staged row only."""
        newer = staging.alias("newer")
        later = newer.c[EVENT_DAY] > staging.c[EVENT_DAY]
        return sa.delete(staging).where(sa.exists().where(*self._same(newer, staging, self.entity), later))

    def merge(self, staging: sa.Table, version: int, cleared: Sequence[str]) -> sa.Executable:
        """Bring what was staged into the features, but for forgotten entities and older rows."""
        values = [staging.c[name] for name in self.tables.values]
        source = sa.select(*values, sa.bindparam("version", version, sa.BigInteger).label(VERSION))
        source = source.where(~self._is_forgotten(staging))
        return self.tables.dialect.merge(self.features, source, self.entity, cleared)

    def staged_forgotten(self, staging: sa.Table) -> sa.Select[Any]:
        """How many staged entities are to be forgotten."""
        return sa.select(sa.func.count()).select_from(staging).where(self._is_forgotten(staging))

    def arrived(self, staging: sa.Table, version: int) -> sa.Select[Any]:
        """How many staged entities the features hold from that publication, or newer."""
        stored = self.features
        newer = sa.or_(
            stored.c[EVENT_DAY] > staging.c[EVENT_DAY],
            sa.and_(stored.c[EVENT_DAY] == staging.c[EVENT_DAY], stored.c[VERSION] >= version),
        )
        same = sa.and_(*self._same(stored, staging, self.entity))
        return sa.select(sa.func.count()).select_from(staging.join(stored, same)).where(newer)

    def last_publication(self) -> sa.Select[Any]:
        """The number of the newest change."""
        return sa.select(sa.func.max(self.days.c[PUBLICATION]))

    def clear_days(self, days: Sequence[date]) -> sa.Delete:
        """Make room for the new records of ``days``."""
        return sa.delete(self.days).where(_among(self.days.c[EVENT_DAY], days))

    def record_days(self) -> sa.Insert:
        """Record a published day; for many, execute it with a list."""
        columns = self.days.c
        return sa.insert(self.days).values(
            {name: sa.bindparam(name, type_=columns[name].type) for name in (EVENT_DAY, VERSION, PUBLICATION)}
        )

    def restart_versions(self) -> list[sa.Update]:
        """Let a publication of any version replace what is stored, and count the change."""
        before_any = {VERSION: -1}
        return [
            sa.update(self.features).values(before_any),
            sa.update(self.days).values(before_any),
            self.count_change(),
        ]

    def drop_left(self) -> sa.Delete:
        """Delete the stored rows of entities that the newest day no longer has."""
        of_any = self.features.alias("of_any")
        newest = sa.select(sa.func.max(of_any.c[EVENT_DAY])).scalar_subquery()
        return sa.delete(self.features).where(self.features.c[EVENT_DAY] < newest)

    def totals(self) -> sa.Select[int, Any]:
        """The number of entities, and their newest day."""
        count, newest = sa.func.count(), sa.func.max(self.features.c[EVENT_DAY])
        return sa.select(count, newest).select_from(self.features)

    # -- forgetting ----------------------------------------------------------------------------------

    def known_tombstones(self, keys: Sequence[Key]) -> sa.Select[Any]:
        """Those of ``keys`` that are to be forgotten already."""
        columns = [self.forgotten.c[name] for name in self.entity]
        return sa.select(*columns).where(self._keys(self.forgotten, keys))

    def add_tombstones(self, keys: Sequence[Key], reason: str) -> sa.Insert:
        """Let no publication bring these entities back."""
        rows = [dict(zip(self.entity, key, strict=True)) | {REASON: reason} for key in keys]
        return sa.insert(self.forgotten).values(rows)

    def delete_tombstones(self, keys: Sequence[Key]) -> sa.Delete:
        """Let publications bring these entities back."""
        return sa.delete(self.forgotten).where(self._keys(self.forgotten, keys))

    def delete_features(self, keys: Sequence[Key]) -> sa.Delete:
        """Delete what is stored of these entities."""
        return sa.delete(self.features).where(self._keys(self.features, keys))

    def count_change(self) -> sa.Update:
        """Count a change that is no publication, so that a read-back knows of it."""
        newest = self.days.alias("newest")
        last = sa.select(sa.func.max(newest.c[PUBLICATION])).scalar_subquery()
        number = self.days.c[PUBLICATION]
        return sa.update(self.days).where(number == last).values({PUBLICATION: number + 1})

    # -- conditions ----------------------------------------------------------------------------------

    @property
    def _gone_names(self) -> list[str]:
        return list(dict.fromkeys((*self.entity, EVENT_DAY)))

    def _is_gone(self, staging: sa.Table, days: Sequence[date], version: int) -> sa.ColumnElement[bool]:
        staged = sa.exists().where(*self._same(staging, self.features, self._gone_names))
        day, stored_version = self.features.c[EVENT_DAY], self.features.c[VERSION]
        return sa.and_(_among(day, days), stored_version <= version, ~staged)

    def _is_forgotten(self, staging: sa.Table) -> sa.ColumnElement[bool]:
        return sa.exists().where(*self._same(self.forgotten, staging, self.entity))

    def _keys(self, table: sa.Table, keys: Sequence[Key]) -> sa.ColumnElement[bool]:
        return among([table.c[name] for name in self.entity], keys)

    @staticmethod
    def _same(left: Any, right: Any, names: Sequence[str]) -> list[sa.ColumnElement[bool]]:
        return [left.c[name] == right.c[name] for name in names]


def _among(column: sa.ColumnElement[Any], days: Sequence[date]) -> sa.ColumnElement[bool]:
    """That a day is one of ``days``, as few ranges."""
    ranges: list[list[date]] = []
    for day in sorted(set(days)):
        if ranges and day - ranges[-1][1] == timedelta(days=1):
            ranges[-1][1] = day
        else:
            ranges.append([day, day])
    return sa.or_(sa.false(), *[column.between(first, last) for first, last in ranges])
