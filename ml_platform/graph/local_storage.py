"""Dagster's SQLite storage for an instance on this machine, with an event log that keeps its databases open.

Dagster opens and closes a database three to five times for each event, and asks for its tables each time; a
range of days has three events a day and asset. With open databases an event takes a third of the time. The
files are Dagster's own: an instance without this setting reads and writes them as well. In production the
events are in PostgreSQL (deploy/dagster.yaml), and this is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from dagster._core.event_api import EventHandlerFn
from dagster._core.storage.event_log.polling_event_watcher import SqlPollingEventWatcher
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

#: Databases that stay open: that of all assets, and those of the runs that were used last.
_OPEN_AT_MOST = 4
_TIMEOUT_SECONDS = 60


class LocalEventLog(SqliteEventLogStorage):
    """The event log: a database for each run, and one over all assets."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, sqlalchemy.Engine] = OrderedDict()
        self._known: set[tuple[str, str]] = set()
        super().__init__(base_dir, inst_data)
        self._watcher = SqlPollingEventWatcher(self)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> LocalEventLog:
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sqlalchemy.Connection]:
        # Dagster's lock makes this the only use of any connection, so others can be closed here.
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _engine(self, shard: str) -> sqlalchemy.Engine:
        engine = self._engines.pop(shard, None)
        if engine is not None and not Path(self.path_for_shard(shard)).exists():
            # Another process has wiped the run.
            engine.dispose()
            engine = None
            self._initialized_dbs.discard(shard)
        if engine is None:
            engine = sqlalchemy.create_engine(
                self.conn_string_for_shard(shard),
                pool_size=1,
                connect_args={"timeout": _TIMEOUT_SECONDS},
            )
        self._engines[shard] = engine
        while len(self._engines) > _OPEN_AT_MOST:
            self._engines.popitem(last=False)[1].dispose()
        return engine

    def has_table(self, table_name: str) -> bool:
        return self._once(("table", table_name), lambda: super(LocalEventLog, self).has_table(table_name))

    def _has_asset_key_col_on_connection(self, conn: sqlalchemy.Connection, column_name: str) -> bool:
        base = super()._has_asset_key_col_on_connection
        return self._once(("column", column_name), lambda: base(conn, column_name))

    def _once(self, what: tuple[str, str], ask: Callable[[], bool]) -> bool:
        """An answer that stays if it is yes: migrations add tables and columns, and take none away."""
        if what not in self._known:
            if not ask():
                return False
            self._known.add(what)
        return True

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        # Dagster's own waits for the run's file to change; of an open database the write-ahead log does, and
        # readers don't see the event yet when it does. So ask, as with PostgreSQL.
        self._watcher.watch_run(run_id, cursor, callback)

    def end_watch(self, run_id: str, handler: EventHandlerFn) -> None:
        self._watcher.unwatch_run(run_id, handler)

    def wipe(self) -> None:
        self._close()
        super().wipe()

    def dispose(self) -> None:
        self._watcher.close()
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class LocalStorage(DagsterSqliteStorage):
    """What ``storage`` in ``dagster.yaml`` names: Dagster's SQLite storage with this event log.

    Takes ``base_dir``, the folder of the instance.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = LocalEventLog(str(Path(base_dir) / "history" / "runs"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> LocalStorage:
        return cls.from_local(inst_data=inst_data, **config_value)
