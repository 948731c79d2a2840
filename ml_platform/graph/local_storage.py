"""The storage that ``dagster.yaml`` of earlier versions names: Dagster's own, with the same files."""

from __future__ import annotations

from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData


class LocalStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage, under the name that it had here."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> LocalStorage:
        return cls.from_local(inst_data=inst_data, **config_value)
