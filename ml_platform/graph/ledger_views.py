"""What ticks need of a product's small tables, kept in this process for as long as these stay as they are.

A sensor ticks every minute, a ledger changes a few times a day. While it is as it was, nothing of it is read;
when it has changed, what was recorded since. Only what is small for ten years of a product is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Protocol, TypeVar

from ml_platform.mlops.alerts.findings import CONTINUING, Finding, Recorded
from ml_platform.storage.ledger import Ledger

T = TypeVar("T")


class Stamped(Protocol):
    """A table that says cheaply whether it has changed."""

    @property
    def address(self) -> str: ...

    def stamp(self) -> str | None: ...


_kept: dict[tuple[str, str], tuple[tuple[str | None, object], Any]] = {}
_lock = threading.Lock()


def of_version(table: Stamped, name: str, compute: Callable[[], T], *, argument: object = None) -> T:
    """What ``compute`` makes of a table; kept under ``name`` until the table changes.

    Args:
        argument: what else the value depends on, as today's date: with another one it is computed again.
    """
    place = (table.address, name)
    version = (table.stamp(), argument)
    with _lock:
        known = _kept.get(place)
    if known is not None and known[0] == version:
        value: T = known[1]
        return value
    value = compute()
    with _lock:
        _kept[place] = (version, value)
    return value


@dataclass
class _View:
    """A ledger's bad days, and what the days of the ARDS were made from."""

    stamp: str | None = None
    identity: str | None = None
    read_on: date | None = None
    commit: int | None = None
    recorded: Recorded = field(default_factory=Recorded)
    wrong: Sequence[Finding] = ()
    made_from: dict[date, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def follow(self, ledger: Ledger) -> None:
        """Read what was recorded since the last look; everything at first, once a day, and of a new table."""
        stamp, today = ledger.stamp(), datetime.now(tz=UTC).date()
        if (stamp, today) == (self.stamp, self.read_on):
            return
        identity = ledger.identity()
        goes_on = self.commit is not None and (identity, today) == (self.identity, self.read_on)
        changes = ledger.changes(self.commit if goes_on else None, keep=CONTINUING)
        recorded = self.recorded if goes_on else Recorded()
        for asset, day in changes.others:
            recorded.clear(asset, day)
        for record in changes.records:
            recorded.add(record)
        self.recorded, self.wrong = recorded, recorded.wrong()
        self.made_from = {**self.made_from, **changes.inputs} if goes_on else changes.inputs
        self.commit = changes.commit if changes.commit is not None or not goes_on else self.commit
        self.stamp, self.identity, self.read_on = stamp, identity, today


_views: dict[str, _View] = {}


def _view(ledger: Ledger) -> _View:
    with _lock:
        view = _views.setdefault(ledger.address, _View())
    with view.lock:
        view.follow(ledger)
    return view


def made_from(ledger: Ledger) -> Mapping[date, str]:
    """By day, the fingerprint of the inputs that the ARDS was last made from."""
    return _view(ledger).made_from


def wrong(ledger: Ledger) -> Sequence[Finding]:
    """What is wrong by the ledger, however long it has been."""
    return _view(ledger).wrong
