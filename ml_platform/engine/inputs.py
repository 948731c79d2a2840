"""What a day is made from where that is the same day of another asset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import date
from typing import Any

from ml_platform.contract.hashing import fingerprint_of
from ml_platform.engine import evolution
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import Inputs
from ml_platform.storage.ledger import HISTORY, WITHOUT_ROWS, DayRecord


def from_same_day(
    context: StepContext,
    asset: str,
    days: Sequence[date],
    *,
    fingerprint: str = "fingerprint",
    contracts: Collection[str] | None = None,
    found: Callable[[DayRecord], Any] = lambda _: None,
) -> dict[date, Inputs]:
    """The inputs of a step that reads the same day of one asset.

    A day that isn't there is missing here too; one that was refused, blocked or held back holds this
    one back.

    Args:
        fingerprint: which of the record's fingerprints counts.
        contracts: the versions of the contract whose days can be read; all without them.
        found: of the record of a day that is usable or holds this one back, what travels in ``Inputs.found``.
    """
    known = context.ledger.latest(asset, set(days))
    inputs = {}
    for day in days:
        record = known.get(day)
        if record is None:
            inputs[day] = Inputs("", "missing", f"{asset} has not been materialized for this day")
        elif record.outcome in ("missing", "no_model", "not_due"):
            gone = record.outcome in WITHOUT_ROWS
            inputs[day] = Inputs(record.inputs, record.outcome, record.reason, gone=gone)
        elif record.usable and contracts is not None and record.contract not in contracts:
            inputs[day] = Inputs(record.contract, "held_back", evolution.of_another_contract(context, record))
        elif record.usable:
            inputs[day] = Inputs(content_of(record, fingerprint), found=found(record))
        else:
            why = record.reason
            if record.outcome != "held_back":
                why = f"{asset} is {record.outcome}: {why}"
            held = record.fingerprint or record.inputs
            if record.outcome == "blocked" and record.details.get(HISTORY):
                held = content_of(record)
            inputs[day] = Inputs(held, "held_back", why, found=found(record))
    return inputs


def content_of(record: DayRecord, fingerprint: str = "fingerprint") -> str:
    """What a usable day holds, and held before, by one of its record's fingerprints."""
    found: str = record.details.get("metadata", {}).get(fingerprint) or record.fingerprint or "empty"
    history = record.details.get(HISTORY)
    return fingerprint_of([found, history]) if history and fingerprint == "fingerprint" else found
