"""MLflow's client, and its SQLite database: made aside and renamed, so that no process finds half of one."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ml_platform.machine_learning.model_files import MODEL_FILE, RegistryError
from ml_platform.storage import locks

# -- the store -------------------------------------------------------------------------------------


def mlflow_module() -> Any:
    """MLflow, without what it would say and send of itself."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return import_module("mlflow")


@lru_cache(maxsize=16)
def prepared_client(tracking_uri: str, registry_uri: str) -> Any:
    """A client of stores that exist and have this MLflow's tables."""
    mlflow = mlflow_module()
    for uri in {tracking_uri, registry_uri}:
        database = sqlite_file(uri)
        if database is not None:
            prepare_sqlite(uri, database)
    return mlflow.MlflowClient(tracking_uri, registry_uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    if not uri.startswith("sqlite:"):
        return None
    # A store behind an API needs none of it, and a remote step doesn't have it then.
    from sqlalchemy.engine import make_url

    name = make_url(uri).database
    return Path(name).absolute() if name and name != ":memory:" else None


def damaged(database: Path, error: BaseException) -> str:
    """What a person is to do about a database of MLflow that can't be read."""
    return (
        f"MLflow's database {database} is damaged ({error}): restore it from a backup, or let ml-platform "
        "doctor --repair move it aside and train the models again"
    )


def has_file(location: str | None) -> bool:
    """Whether a model's file is there; of one that isn't in a local folder it is taken for granted."""
    return urlsplit(location or "").scheme not in ("", "file") or local_file(location) is not None


def local_file(location: str | None) -> Path | None:
    """A model's file, if it is in a local folder, and there."""
    parts = urlsplit(location or "")
    if parts.scheme not in ("", "file"):
        return None
    path = Path(unquote(parts.path)) / MODEL_FILE
    try:
        return path if path.stat().st_size > 0 else None
    except OSError:
        return None


def prepare_sqlite(uri: str, database: Path) -> None:
    """Create or upgrade the tables, by one process at a time: MLflow's migrations have no lock.

    A migration that is stopped half-way leaves tables with which no later one can go on. So it works on a
    file beside, which takes the database's name when it is whole.

    Raises:
        RegistryError: the database is damaged.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with locks.held(Path(f"{database}.lock"), f"MLflow's store {database}"):
        try:
            half_made = database.exists() and _is_half_made(database)
            if database.exists() and not half_made and _is_current(database):
                return
            _make_beside(database, None if half_made or not database.exists() else database)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # it is locked, or the disk is full: that passes
            raise RegistryError(damaged(database, error)) from error


def _is_half_made(database: Path) -> bool:
    """Whether a first creation was stopped: nothing can have been written yet."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if any(name.startswith("_alembic_tmp_") for name in tables) or "alembic_version" not in tables:
            return not any(
                connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()  # noqa: S608 - fixed names
                for name in ("runs", "registered_models", "logged_models")
                if name in tables
            )
    return False


def _is_current(database: Path) -> bool:
    """Whether a database has the tables of this MLflow."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    return revisions == [_get_latest_schema_revision()]


def _make_beside(database: Path, before: Path | None) -> None:
    """Make or upgrade the tables in a file beside, then give it the database's name.

    Args:
        before: what is to be upgraded; a new database without it.
    """
    from mlflow.db import upgrade

    beside = database.with_name(f"{database.name}.new")
    for path in (beside, *_with_logs(beside)):
        path.unlink(missing_ok=True)  # of a process that was killed
    if before is not None:
        with contextlib.closing(sqlite3.connect(before, timeout=60)) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            source.execute("BEGIN IMMEDIATE")  # nobody writes what the copy would lack
            with contextlib.closing(sqlite3.connect(beside)) as copy:
                source.backup(copy)
    upgrade.callback(f"sqlite:///{beside}")  # the command `mlflow db upgrade`
    with contextlib.closing(sqlite3.connect(beside, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in _with_logs(database):
        path.unlink(missing_ok=True)  # they belong to the file that is replaced
    beside.replace(database)


def _with_logs(database: Path) -> tuple[Path, Path]:
    """SQLite's write-ahead log of a database, and the log's index."""
    return database.with_name(f"{database.name}-wal"), database.with_name(f"{database.name}-shm")
