"""Locks between processes, as files: each with a time limit, and with the name of its holder.

The operating system releases a lock when its process ends, however it ends. What holds one for longer than
the limit is a process that hangs or is stopped, and only a person can decide to end it; so the error says
which process it is. What is locked, and why, is the caller's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import filelock

#: Longer than any commit and most maintenance of one table, and short enough that a night's run still ends.
DEFAULT_SECONDS = 1800.0


class LockedError(TimeoutError):
    """Another process has held a lock for longer than the time limit; the message names it."""


@contextlib.contextmanager
def held(path: Path, what: str, *, seconds: float = DEFAULT_SECONDS) -> Iterator[None]:
    """Hold the lock of a file until the end of the block; a thread that holds it already only counts.

    Args:
        path: of the lock's file, which is made and stays.
        what: is locked, for the error.
        seconds: to wait for another process.

    Raises:
        LockedError: the lock could not be had within ``seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One object per file; the limit goes with each wait, as callers may have different ones.
    lock = filelock.FileLock(path, is_singleton=True)
    is_first = not lock.is_locked
    try:
        lock.acquire(timeout=seconds)
    except filelock.Timeout as error:
        raise LockedError(
            f"{what} is locked by {_holder(path)}, and did not become free within {seconds:g} seconds. "
            f"If that process hangs, end it: its lock ends with it. The lock is {path}"
        ) from error
    try:
        if is_first:
            _sign(path)
        yield
    finally:
        lock.release()


def _sign(path: Path) -> None:
    """Write into a lock's file who holds it; that it can't be written is no reason not to go on."""
    facts = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "program": Path(sys.argv[0]).name if sys.argv else "python",
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(facts), encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {facts['pid']} ({facts['program']}) on {facts['host']}, which has held it since "
            f"{facts['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
