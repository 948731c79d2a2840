"""A person takes a blocked day as it is: its failed verdict stays, and the day may be used.

The ledger keeps who and why, and since when: no model as of an earlier date learns from the day. It holds for
the content that was there and for what failed then; a new delivery, or another failed expectation, blocks the
day again (:mod:`.verdicts`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from ml_platform.contract.assets import ARDS, validated
from ml_platform.engine.earlier_verdicts import mornings_of
from ml_platform.engine.step import quality_of
from ml_platform.engine.verdicts import AGAIN, UNREADABLE, WITHOUT_USABLE_ROWS, quality_check
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.rejections import REJECTED


def accept(ledger: Ledger, day: date, *, reason: str, by: str, on: date | None = None) -> list[DayRecord]:
    """Accept what is blocked of ``day``; returns the records of it, as they are now.

    Args:
        on: the morning from which on it counts; by default the one on which its rows were known.

    Raises:
        LookupError: nothing of the day is blocked; says what its result is.
        ValueError: no reason is given.
    """
    if not reason.strip():
        raise ValueError("an acceptance needs a reason, which is kept with the day")
    known = {asset: ledger.latest(asset, {day}).get(day) for asset in validated()}
    blocked = [record for record in known.values() if record is not None and record.outcome == "blocked"]
    if not blocked:
        outcomes = [f"{asset} is {record.outcome}" for asset, record in known.items() if record]
        found = ", ".join(outcomes) or "nothing has been materialized"
        raise LookupError(f"there is nothing to accept on {day}: {found}")
    ards = known[ARDS]
    if ards is not None and REJECTED in ards.details:
        raise LookupError(f"{day} was {ards.reason}; take that back with ml-platform reject --undo")
    if ards is not None and (unread := ards.details.get("metadata", {}).get(UNREADABLE)):
        raise LookupError(
            f"{day} can't be accepted: {unread}. Deliver that file again, or take it out of the day's folder"
        )
    first, last = _barred(ards, day, on)
    # What is kept of a day of the MRDS to be learned from ends where it was blocked: it is to be made again.
    accepted = [
        replace(
            _accepted(record, reason.strip(), by),
            barred_from=first,
            barred_to=last,
            inputs=record.inputs + (AGAIN if record.barred_from is not None else ""),
        )
        for record in blocked
    ]
    for record, before in zip(accepted, blocked, strict=True):
        if ledger.record_since([record], {day: before}):
            raise LookupError(f"{record.asset} of {day} has just been done again: look at it once more")
    return accepted


def _barred(ards: DayRecord | None, day: date, on: date | None) -> tuple[date | None, date | None]:
    """Between which as-of dates the day couldn't be used: since its rows came, and until it was accepted."""
    mornings = mornings_of(ards) if ards is not None else None
    came = mornings[-1].day if mornings else None
    if on is None or on <= (came or day + timedelta(days=1)):
        return None, None
    return came, on


def _accepted(record: DayRecord, reason: str, by: str) -> DayRecord:
    quality = quality_of(record)
    assert quality is not None, "what is blocked was judged"
    check = quality_check(quality, (by, reason))
    is_empty = not record.counts.get("rows")
    return replace(
        record,
        outcome="empty" if is_empty else "written",
        reason=WITHOUT_USABLE_ROWS if is_empty else "",
        accepted_by=by,
        accepted_reason=reason,
        details=record.details | {"checks": [check.model_dump(mode="json")]},
    )
