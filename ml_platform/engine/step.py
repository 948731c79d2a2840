"""What goes into a step and what comes out of it, as plain data.

The same request and result travel within a process and to a cluster, so everything here can be written
as JSON. What a step does is in :mod:`.steps` and :mod:`.maintenance`; where it
runs is a runner's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ml_platform.contract.assets import DATA_QUALITY, StepName
from ml_platform.contract.faults import EndsTheRunError
from ml_platform.mlops.quality.results import Quality
from ml_platform.storage.ledger import DayRecord, Outcome

#: Outcomes with which a run of just that day ends as a failure, with what to do about it.
FAILING_OUTCOMES: dict[str, str] = {
    "missing": "deliver the day, then materialize it again",
    "empty": "if rows were expected, deliver them and materialize the day again",
    "refused": "fix the delivery, then materialize the day again",
    "blocked": "fix the data and materialize the day again, or accept it (ml-platform accept)",
    "held_back": "fix the day above it, then materialize both again",
}

#: What to do about a day whose own function has raised an exception.
FAILED_ADVICE = (
    "see the traceback in the log of the run and fix its cause, then materialize the day again; every run "
    "tries it again"
)


#: In the details of a record: what to do about it, where that isn't what one does about every such outcome.
ADVICE = "advice"


class StepRequest(BaseModel):
    """Which days (or months, by their first day) of an asset to do, and how."""

    model_config = ConfigDict(frozen=True)

    step: StepName
    product: str
    days: tuple[date, ...]
    run_id: str
    force: bool = False
    rescore: bool = False
    as_of: date | None = None
    mlflow_parent_run_id: str | None = None


class Check(BaseModel):
    """The verdict of an asset check on one day."""

    name: str
    passed: bool
    severity: Literal["ERROR", "WARN"] = "ERROR"
    description: str = ""
    metadata: dict[str, Any] = {}


class DayResult(BaseModel):
    """The result of one partition."""

    day: date
    outcome: Outcome
    reason: str = ""
    up_to_date: bool = False
    fingerprint: str | None = None
    metadata: dict[str, Any] = {}
    checks: list[Check] = []
    advice: str | None = None
    """What to do about it, where that isn't what one does about every such outcome."""

    @property
    def failure(self) -> str | None:
        """Why a run of only this partition has failed, or None.

        A day whose rows have just been taken out, since its delivery is gone, is as it should be: the assets
        that are made from it must follow.
        """
        if "withdrawn_rows" in self.metadata and not self.up_to_date:
            return None
        if self.outcome == "empty" and "accepted_by" in self.metadata:
            return None  # a person has seen that nothing of it can be used
        advice = self.advice or FAILING_OUTCOMES.get(self.outcome)
        return f"{self.day} is {self.outcome}: {self.reason}. Now: {advice}." if advice else None


class StepResult(BaseModel):
    """What a step did: one result per partition asked for, and what holds for all of them."""

    days: list[DayResult]
    metadata: dict[str, Any] = {}


class PermanentError(EndsTheRunError):
    """Trying again can't help; the message says what would."""


@dataclass(frozen=True)
class Inputs:
    """What a day would be made from: a fingerprint, or the outcome that it must have."""

    fingerprint: str
    outcome: Outcome | None = None
    reason: str = ""
    failed: bool = False
    """Whether finding this out has failed; such a day is tried again by every run."""
    gone: bool = False
    """Whether there are no rows of the day any more, so that what was made of them must go."""
    found: Any = None
    """What else was found out, for the step itself when it does the day."""


@dataclass(frozen=True)
class Written:
    """A day that was done: its outcome, what it holds, and what people should see of it.

    ``inputs`` is given when the day was not made from all of its inputs anew. ``details`` is what later
    runs need to know of the day, and ``accepted`` who accepted its failed verdict, and why.
    """

    outcome: Outcome
    reason: str = ""
    fingerprint: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    delta_version: int | None = None
    inputs: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    accepted: tuple[str, str] | None = None
    barred: tuple[date | None, date | None] = (None, None)
    """From which as-of date to which the day couldn't be learned from: see :class:`.ledger.DayRecord`."""
    tally: str = ""
    """What the run counts the day as, in its own metadata."""


def result_of(record: DayRecord, *, day: date | None = None, up_to_date: bool = False) -> DayResult:
    """What the ledger knows of a day, as a result; for skipped days as good as for those just done."""
    metadata: dict[str, Any] = {"outcome": record.outcome}
    if record.reason:
        metadata["reason"] = record.reason
    metadata |= record.counts
    if record.delta_version is not None:
        metadata["delta_version"] = record.delta_version
    if record.fingerprint:
        metadata["fingerprint"] = record.fingerprint
    if record.accepted_by:
        metadata |= {"accepted_by": record.accepted_by, "accepted_reason": record.accepted_reason}
    return DayResult(
        day=day or record.day,
        outcome=record.outcome,
        reason=record.reason,
        up_to_date=up_to_date,
        fingerprint=record.fingerprint,
        metadata=metadata | record.details.get("metadata", {}),
        checks=[_check_of(record, check) for check in record.details.get("checks", [])],
        advice=record.details.get(ADVICE) or (FAILED_ADVICE if record.failed else None),
    )


def quality_of(record: DayRecord) -> Quality | None:
    """The verdict that a day was given, with all its expectations."""
    plain = record.details.get("quality")
    return None if plain is None else Quality.of(plain)


def _check_of(record: DayRecord, plain: dict[str, Any]) -> Check:
    check = Check(**plain)
    quality = quality_of(record) if check.name == DATA_QUALITY else None
    if quality is None:
        return check
    return check.model_copy(update={"metadata": {"expectations": quality.table, **check.metadata}})
