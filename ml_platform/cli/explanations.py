"""Errors of libraries and the machine in one sentence: what, where, and what to do.

The platform's own errors have their sentences already. The traceback belongs into the log file.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ml_platform.settings import Settings
from ml_platform.spark import output

#: Free bytes below which a disk counts as full: a database or a table's file needs some room at least.
_ROOM = 16 << 20
_FULL = ("no space left on device", "database or disk is full", "disk quota exceeded", "os error 28")
_JVM_SAYS = (
    "answer from java side is empty",
    "error while sending or receiving",
    "py4jnetworkerror",
    "java gateway process exited",
    "connection refused",
)
_WORKER_SAYS = ("python worker exited unexpectedly", "python worker failed to connect", "eofexception")
_MEMORY_SAYS = ("outofmemoryerror", "java heap space", "gc overhead limit")
_DAMAGED = ("malformed", "not a database", "disk I/O error")
_BY_WHOM = "by somebody, or by the machine because it ran out of memory (see journalctl -k)"
_AGAIN = "what was done stays; run the same command again"


def explain(error: BaseException, settings: Settings) -> str | None:
    """The sentence for an error that isn't the platform's own; None if there is none."""
    chain = list(_chain(error))
    said = "\n".join(f"{type(cause).__name__}: {cause}" for cause in chain).lower()
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in chain) or any(
        sign in said for sign in _FULL
    ):
        return f"the disk is full: {_full_places(settings, chain)}. Make room; {_AGAIN}"
    if any(sign in said for sign in _MEMORY_SAYS):
        return (
            f"Spark has too little memory, {settings.spark_driver_memory}: give it more with "
            f"ML_PLATFORM_SPARK_DRIVER_MEMORY, or do fewer days at once with ML_PLATFORM_CHUNK_DAYS; {_AGAIN}"
        )
    if _is_of_spark(chain) and any(sign in said for sign in _WORKER_SAYS):
        return (
            f"a worker of Spark was killed, {_BY_WHOM}: {_AGAIN}, with fewer days at once "
            "(ML_PLATFORM_CHUNK_DAYS) if it happens again"
        )
    if _is_of_spark(chain) and any(sign in said for sign in _JVM_SAYS):
        log = settings.home / "logs" / output.NAME
        return f"Spark's JVM was killed, {_BY_WHOM}, or ended for a reason that {log} has: {_AGAIN}"
    for cause in chain:
        if _is_of_sqlite(cause) and any(sign in str(cause) for sign in _DAMAGED):
            return (
                f"a SQLite database is damaged ({_first_line(cause)}): restore it from a backup; "
                f"those of {settings.home} are mlflow/mlflow.db, online/features.db and dagster/history"
            )
        if isinstance(cause, PermissionError) and cause.filename:
            return f"{cause.filename} can't be used, permission is denied: see its owner and its mode"
    return None


def sentence_of(error: Exception, settings: Settings) -> str:
    """What a person needs of an error: its own words if the platform has raised it, or an explanation."""
    explained = explain(error, settings)
    if explained is not None:
        return explained
    first, *_ = [*str(error).strip().splitlines(), ""]
    if type(error).__module__.partition(".")[0] == "ml_platform":
        return str(error)
    return f"{type(error).__name__}: {first or 'no reason given'}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_of_spark(chain: list[BaseException]) -> bool:
    return any(type(cause).__module__.partition(".")[0] in ("py4j", "pyspark") for cause in chain)


def _is_of_sqlite(error: BaseException) -> bool:
    return isinstance(getattr(error, "orig", None) or error, sqlite3.DatabaseError)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"


def _full_places(settings: Settings, chain: list[BaseException]) -> str:
    """The places that have no room, or the one that the error names."""
    named = [str(cause.filename) for cause in chain if isinstance(cause, OSError) and cause.filename]
    places = [settings.home, Path(tempfile.gettempdir())]
    if not isinstance(settings.landing, str):
        places.append(settings.landing_path)
    places += [
        Path(folder) for folder in (settings.tables_root, os.environ.get("DAGSTER_HOME", "")) if "/" in folder
    ]
    full = []
    for place in dict.fromkeys(places):
        existing = next((candidate for candidate in (place, *place.parents) if candidate.exists()), None)
        if existing is not None and (free := shutil.disk_usage(existing).free) < _ROOM:
            full.append(f"{place} has {free / 1e6:.1f} MB left")
    return "; ".join(dict.fromkeys([*named, *full])) or "see the free space of ML_PLATFORM_HOME and of /tmp"
