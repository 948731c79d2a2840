"""A person takes a day's data for garbage, though no check has seen it: the day may be used no longer.

The opposite of an acceptance (:mod:`.acceptance`). It counts from a morning on: what was served before stays,
and is what models as of earlier dates learn from. The day is blocked until other rows of it come; these are
read as repaired, as those of a delivery that replaces its day are.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from ml_platform.contract.assets import ARDS
from ml_platform.contract.product import Product
from ml_platform.engine.step import quality_of
from ml_platform.engine.verdicts import AGAIN, Content, of_rejection, rejected_check, rows_hash
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.rejections import REJECTED, Rejection, Rejections
from ml_platform.storage.tables import Tables


def reject(tables: Tables, product: Product, day: date, *, reason: str, by: str, on: date) -> DayRecord:
    """Reject the rows that a day has now; returns its record, as it is now.

    What is made of the day follows when the day is made again, which the next run over it does.

    Args:
        on: the morning from which on it counts.

    Raises:
        LookupError: the day has no rows that are used; says what its result is.
        ValueError: no reason is given, or no rows of the day can have been known on that morning.
    """
    if not reason.strip():
        raise ValueError("a rejection needs a reason, which is kept with the day")
    if on <= day:
        raise ValueError(
            f"no row of {day} was known on {on}; a day can be rejected from the morning after it on"
        )
    ledger = Ledger(tables, product.name)
    record = ledger.latest(ARDS, {day}).get(day)
    quality = quality_of(record) if record is not None else None
    if record is None or quality is None or record.outcome != "written":
        found = f"{ARDS} is {record.outcome}" if record is not None else "nothing has been materialized"
        raise LookupError(f"there is nothing to reject on {day}: {found}")
    if record.accepted_by:
        raise LookupError(
            f"{day} was blocked, and accepted by {record.accepted_by}; correct its delivery, or withdraw it"
        )
    rejection = Rejection(day, on, rows_hash(product, Content.of(record)), by, reason.strip())
    check = rejected_check(rejection, quality)
    rejected = replace(
        record,
        outcome="blocked",
        reason=rejection.words,
        inputs=record.inputs + AGAIN,
        details=record.details | of_rejection(rejection) | {"checks": [check.model_dump(mode="json")]},
    )
    rejections = Rejections(tables, product.name)
    rejections.add(rejection)
    if ledger.record_since([rejected], {day: record}):
        rejections.remove(day, rows=rejection.rows)
        raise LookupError(f"{ARDS} of {day} has just been done again: look at it once more")
    return rejected


def take_back(tables: Tables, product: Product, day: date) -> int:
    """Take all rejections of a day back, as if they had never been; returns how many there were.

    The day is as it was when it is made again, which the next run over it does.

    Raises:
        LookupError: there are none.
    """
    removed = Rejections(tables, product.name).remove(day)
    if not removed:
        raise LookupError(f"nothing of {day} has been rejected")
    ledger = Ledger(tables, product.name)
    # A run that began before may record the day once more as rejected.
    while (record := ledger.latest(ARDS, {day}).get(day)) is not None:
        reason = "its rejection was taken back" if REJECTED in record.details else record.reason
        again = replace(record, inputs=record.inputs + AGAIN, reason=reason)
        if not ledger.record_since([again], {day: record}):
            break
    return removed
