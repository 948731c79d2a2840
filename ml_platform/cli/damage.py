"""Files that are damaged: SQLite databases and the logs of tables; what is moved aside stays."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

State = Literal["missing", "damaged", "unreadable", "gone from the deliveries"]
_SUFFIX = ".damaged"
#: What SQLite says when it was kept from looking by who works on the database; anything else but damage is
#: a database that can't be read.
_IN_USE = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
#: The primary code of an error is in the lowest byte of its extended code.
_PRIMARY = 0xFF


def torn_commit(table: Path) -> Path | None:
    """The newest commit of a table, if it is cut off and all before it are whole."""
    commits = sorted((table / "_delta_log").glob("[0-9]*.json"))
    broken = [path for path in commits if not _is_whole(path)]
    return broken[0] if len(commits) > 1 and broken == commits[-1:] else None


def _is_whole(commit: Path) -> bool:
    try:
        lines = commit.read_text().splitlines()
        return bool(lines) and all(isinstance(json.loads(line), dict) for line in lines if line)
    except (OSError, ValueError):
        return False


def wrong_with(database: Path) -> tuple[State, str] | None:
    """Whether a SQLite database that is there is damaged or can't be read, and what SQLite says of it."""
    try:
        database.stat()
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return "unreadable", str(error)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
        if code in _IN_USE:
            return None
        return "damaged" if code in _DAMAGED else "unreadable", str(error)
    return None if verdict == "ok" else ("damaged", str(verdict))


def beside(path: Path) -> list[Path]:
    """What belongs to a SQLite database: its log, and the log's index."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]


def move_aside(path: Path) -> Path:
    """Give a file or folder a name beside it that says that it is damaged; returns its new place."""
    number = 1
    while (target := path.with_name(f"{path.name}{_SUFFIX}-{number}")).exists():
        number += 1
    return path.rename(target)
