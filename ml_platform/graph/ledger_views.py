"""What ticks need of a ledger, kept in this process for as long as the ledger's version stays.

A sensor ticks every minute, a ledger changes a few times a day: what has been computed from a version of it
is computed again when there is a newer one. Only what is small for ten years of a product is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, TypeVar

from ml_platform.storage.ledger import Ledger

T = TypeVar("T")

_kept: dict[tuple[str, str], tuple[tuple[str | None, object], Any]] = {}
_lock = threading.Lock()


def of_version(ledger: Ledger, name: str, compute: Callable[[], T], *, argument: object = None) -> T:
    """What ``compute`` makes of the ledger; kept under ``name`` until the ledger has another version.

    Args:
        argument: what else the value depends on, as today's date: with another one it is computed again.
    """
    place = (ledger.address, name)
    version = (ledger.version(), argument)
    with _lock:
        known = _kept.get(place)
    if known is not None and known[0] == version:
        value: T = known[1]
        return value
    value = compute()
    with _lock:
        _kept[place] = (version, value)
    return value


def made_from(ledger: Ledger) -> Mapping[date, str]:
    """By day, the fingerprint of the inputs that the ARDS was last made from."""
    return of_version(
        ledger,
        "made_from",
        lambda: {day: record.inputs for day, record in ledger.latest("ards", details=False).items()},
    )
