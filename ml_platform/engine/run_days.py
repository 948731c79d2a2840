"""How a daily step does a range of days: which to skip, which to do, in what chunks, and the record of it.

Every daily step goes through :func:`run_days`; what it reads and writes is the step's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, ClassVar

from ml_platform.contract.assets import CODE_VERSIONS, StepName
from ml_platform.engine import evolution, presence
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import DayResult, Inputs, StepResult, Written, result_of
from ml_platform.storage.ledger import WITHDRAWN, WITHOUT_ROWS, DayRecord, Outcome
from ml_platform.storage.tables import OvertakenError

#: How often days are done again that other runs are writing at the same time.
ATTEMPTS = 10


class DailyStep(ABC):
    """A step that makes days of an asset from days of others.

    ``contract_sections`` are the parts of the contract that its result depends on; together with the
    inputs and ``code_version`` they decide whether a day is up to date.
    """

    asset: ClassVar[StepName]
    contract_sections: ClassVar[tuple[str, ...]]
    #: The tables whose days it replaces; those that steer the platform are not among them.
    tables: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: StepContext) -> None:
        self.context = context

    @property
    def code_version(self) -> str:
        """Changes when the code makes something else of the same inputs."""
        return CODE_VERSIONS[self.asset]

    @abstractmethod
    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        """What each day would be made from; needs no Spark."""

    @abstractmethod
    def write(self, days: Sequence[date]) -> dict[date, Written]:
        """Do these days, each table in one commit."""

    def discard(self, days: Sequence[date]) -> None:  # noqa: B027
        """Remove what stands of days that have an outcome instead; most steps keep it, and hold it back."""

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        """Take what there is of these days out of the step's tables: their rows were delivered once, and are
        no longer; each comes back as missing.
        """
        context = self.context
        version: int | None = None
        for table in self.tables:
            removed = context.tables.remove_days(
                lambda: context.spark, context.product.name, table, days, run_id=context.request.run_id
            )
            version = removed if removed is not None else version
        return {day: Written("missing", delta_version=version) for day in days}

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        """The days whose result isn't there as their records say, each with what is wrong.

        It takes milliseconds, and needs no Spark.
        """
        lost: dict[date, str] = {}
        for table in self.tables:
            lost |= presence.lost_rows(self.context, table, records)
        return lost

    def outdated_verdicts(self, records: Mapping[date, DayRecord]) -> list[date]:
        """The days whose content stands, and whose verdict must be given again. Needs no Spark."""
        return []

    def judge_again(self, records: Mapping[date, DayRecord]) -> dict[date, Written]:
        """The days with the verdict they get now, and their content as it is."""
        raise NotImplementedError(f"{self.asset} gives no verdicts")

    def remarks(self, records: Mapping[date, DayRecord]) -> dict[date, dict[str, Any]]:
        """What people should see of days beside their records, as things stand now."""
        return {}

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        """Whether a day that was done before stays as it is although its inputs have changed."""
        return False

    @property
    def contract(self) -> str:
        return self.context.product.hash_of(*self.contract_sections)


@dataclass(frozen=True)
class _Plan:
    """What is to be done of some days now: their inputs, and the records that days have so far."""

    todo: Mapping[date, Inputs]
    known: Mapping[date, DayRecord]
    #: The days that had been done, and whose result is gone: what is wrong with each.
    lost: Mapping[date, str]

    @property
    def doable(self) -> list[date]:
        return sorted(day for day, inputs in self.todo.items() if inputs.outcome is None)

    def withdrawn(self, *, force: bool) -> list[date]:
        """The days that must have no rows any more, and may have some."""
        return sorted(
            day
            for day, inputs in self.todo.items()
            if inputs.gone
            and (record := self.known.get(day)) is not None
            and (force or record.outcome not in WITHOUT_ROWS)
        )

    @property
    def settled(self) -> dict[date, DayRecord]:
        """The records of the days that need not be done."""
        return {day: record for day, record in self.known.items() if day not in self.todo}


def _plan(step: DailyStep, days: Sequence[date], *, force: bool) -> _Plan:
    known = step.context.ledger.latest(step.asset, set(days))
    lost = step.lost(known)
    inputs = _inputs(step, days)
    todo = {
        day: inputs[day]
        for day in days
        if force or day in lost or not _up_to_date(step, known.get(day), inputs[day])
    }
    return _Plan(todo, known, lost)


def _inputs(step: DailyStep, days: Sequence[date]) -> dict[date, Inputs]:
    """What each day would be made from; a day of which that can't be found out is refused for now."""
    found: dict[date, Inputs] = {}
    failed: dict[date, Inputs] = {}

    def look(chosen: Sequence[date]) -> None:
        found.update(step.inputs(chosen))

    def blame(day: date, error: Exception) -> None:
        failed[day] = Inputs("", "refused", _refusal(step, day, error), failed=True)

    step.context.isolation(blame).work(days, look)
    if failed and (readable := [day for day in days if day not in failed]):
        found = step.inputs(readable)  # a step keeps what it has found out of the days it was asked for last
    return {**found, **failed}


def _refusal(step: DailyStep, day: date, error: Exception) -> str:
    """Why a day is refused whose own function has raised an exception; its traceback goes to the log."""
    return f"{step.asset} failed: {step.context.failure(f'{step.asset}: {day}', error)}"


def is_pending(step: DailyStep, days: Sequence[date], *, force: bool = False) -> bool:
    """Whether any day is to be done or judged again. Needs no Spark."""
    plan = _plan(step, days, force=force)
    return bool(plan.todo) or bool(_outdated_verdicts(step, plan.settled))


#: Outcomes that a day had because of its inputs, which are no obstacle any more.
_OF_INPUTS = frozenset({"missing", "held_back", "no_model", "not_due"})


def _up_to_date(step: DailyStep, record: DayRecord | None, inputs: Inputs) -> bool:
    if record is None or record.failed or inputs.failed:
        return False
    if inputs.outcome is not None:
        return (record.outcome, record.inputs, record.reason) == (
            inputs.outcome,
            inputs.fingerprint,
            inputs.reason,
        )
    if record.outcome in _OF_INPUTS:
        return False
    return step.keeps(record, inputs) or record.made_from(
        inputs.fingerprint, step.contract, step.code_version
    )


def run_days(step: DailyStep, days: Sequence[date], *, force: bool = False) -> StepResult:
    """Bring ``days`` of an asset up to date, in chunks that are each recorded when they are done.

    A day that must not or can't be done gets its outcome and keeps what the tables hold of it, but for one
    that has been withdrawn: its rows go. A day whose own function raises an exception is refused, and every
    run tries it again. The other days go on. A run that was killed continues with the first chunk that isn't
    recorded. Runs may work on the same days at once: what stays is made from what the last of them has seen.

    Raises:
        OvertakenError: other runs have written the same days again and again.
        EndsTheRunError: no day is to blame: the machine, a database or the contract is.
    """
    context = step.context
    plan = _plan(step, days, force=force)
    todo = plan.todo
    for why, days_lost in presence.grouped(plan.lost).items():
        context.log(f"{step.asset}: {why}; {len(days_lost)} days are done again")
    if plan.doable:
        evolution.align(context)
    else:
        evolution.remember(context)
    size, ordered, done = context.settings.chunk_days, sorted(todo), 0

    def do(some: Sequence[date]) -> None:
        nonlocal done
        done += _do(step, some, force=force)

    isolation = context.isolation(lambda day, error: _refuse(step, day, error))
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        before = done
        isolation.work(chunk, do)
        if done > before:
            context.log(f"{step.asset}: {start + len(chunk)} of {len(ordered)} days, to {chunk[-1]}")
    judged = _judge_again(step, plan.settled)
    known = context.ledger.latest(step.asset, set(days))
    remarks = step.remarks(known)

    def result(day: date) -> DayResult:
        found = result_of(known[day], up_to_date=day not in todo and day not in judged)
        return found.model_copy(update={"metadata": found.metadata | remarks.get(day, {})})

    return StepResult(
        days=[result(day) for day in days],
        metadata={"days_done": done, "days_up_to_date": len(days) - len(todo)}
        | ({"days_judged_again": len(judged)} if judged else {}),
    )


def _do(step: DailyStep, days: Sequence[date], *, force: bool) -> int:
    """Do some days, from what they are made of now; says how many were written.

    What another run has written or recorded meanwhile is done again, from what it is made of by then.
    """
    context, done, left = step.context, 0, list(days)
    for attempt in range(ATTEMPTS):
        # The other run's record may be of what this one has replaced, so such days are done in any case.
        again = force or attempt > 0
        with context.tables.guarded(context.product.name, step.tables):
            plan = _plan(step, left, force=again)
            try:
                written = dict(step.write(plan.doable)) if plan.doable else {}
                gone = _withdraw(step, plan, force=force)
            except OvertakenError as error:
                context.log(f"{step.asset}: {error}; these days are done again")
                continue
            found = {
                day: Written(one.outcome, one.reason, details=FAILED if one.failed else {})
                for day, one in plan.todo.items()
                if one.outcome
            }
            if found:
                step.discard(sorted(found))
            records = [
                _record(step, day, plan.todo[day].fingerprint, one)
                for day, one in {**found, **gone, **written}.items()
            ]
            overtaken = context.ledger.record_since(records, plan.known)
        done += len(written)
        left = sorted(overtaken.union(day for day in plan.doable if day not in written))
        if not left:
            return done
        if overtaken:
            context.log(
                f"{step.asset}: another run has done {len(overtaken)} of the days; they are done again"
            )
    raise OvertakenError(
        f"{context.product.name}/{step.asset}: other runs have changed {left[0]} again and again; "
        "run again when they are done"
    )


def _judge_again(step: DailyStep, settled: Mapping[date, DayRecord]) -> list[date]:
    """Give days that stand as they are a new verdict, where what they are held against has changed."""
    outdated = _outdated_verdicts(step, settled)
    if not outdated:
        return []
    judged: dict[date, Written] = {}

    def judge(days: Sequence[date]) -> None:
        judged.update(step.judge_again({day: settled[day] for day in days}))

    def blame(day: date, error: Exception) -> None:
        judged[day] = Written("refused", _refusal(step, day, error), details=FAILED)

    step.context.isolation(blame).work(outdated, judge)
    step.context.ledger.record_since(
        [_record(step, day, settled[day].inputs, written) for day, written in judged.items()], settled
    )
    step.context.log(f"{step.asset}: {len(judged)} days judged again")
    return list(judged)


def _withdraw(step: DailyStep, plan: _Plan, *, force: bool) -> dict[date, Written]:
    """Empty the days that are missing and were not; says of each how many rows it had."""
    days = plan.withdrawn(force=force)
    if not days:
        return {}
    outcomes: set[Outcome] = {"written", "blocked", *WITHOUT_ROWS}
    last = step.context.ledger.latest(step.asset, days, outcomes=outcomes, details=False)
    had = {day for day, record in last.items() if record.outcome not in WITHOUT_ROWS}
    done = step.withdraw(days)
    found = {}
    for day in days:
        metadata, details = dict(done[day].metadata), dict(done[day].details)
        if day in had:
            rows = last[day].counts.get("rows", 0)
            step.context.log(f"{step.asset}: {day} has been withdrawn, and its {rows:,} rows with it")
            metadata, details = {"withdrawn_rows": rows} | metadata, {WITHDRAWN: rows} | details
        inputs = plan.todo[day]
        found[day] = replace(
            done[day],
            outcome=inputs.outcome or "missing",
            reason=inputs.reason,
            metadata=metadata,
            details=details,
        )
    return found


def _outdated_verdicts(step: DailyStep, settled: Mapping[date, DayRecord]) -> list[date]:
    """The days to be judged again; those among them of which that can't be found out."""
    found: list[date] = []

    def look(days: Sequence[date]) -> None:
        found.extend(step.outdated_verdicts({day: settled[day] for day in days}))

    step.context.isolation(lambda day, _: found.append(day)).work(sorted(settled), look)
    return found


def _refuse(step: DailyStep, day: date, error: Exception) -> None:
    """Record that a day has failed; what the tables hold of it stays."""
    plan = _plan(step, [day], force=True)
    written = Written("refused", _refusal(step, day, error), details=FAILED)
    step.discard([day])
    step.context.ledger.record_since([_record(step, day, plan.todo[day].fingerprint, written)], plan.known)


#: What the record of a day says that an exception has ended.
FAILED = {"failed": True}


def _record(step: DailyStep, day: date, inputs: str, written: Written) -> DayRecord:
    return DayRecord(
        asset=step.asset,
        day=day,
        outcome=written.outcome,
        reason=written.reason,
        inputs=written.inputs or inputs,
        contract=step.contract,
        code_version=step.code_version,
        fingerprint=written.fingerprint,
        counts=written.counts,
        delta_version=written.delta_version,
        run_id=step.context.request.run_id,
        details={
            "metadata": written.metadata,
            "checks": [check.model_dump(mode="json") for check in written.checks],
            **written.details,
        },
        accepted_by=written.accepted[0] if written.accepted else None,
        accepted_reason=written.accepted[1] if written.accepted else None,
    )


def from_same_day(
    context: StepContext,
    asset: str,
    days: Sequence[date],
    *,
    fingerprint: str = "fingerprint",
    contracts: Collection[str] | None = None,
) -> dict[date, Inputs]:
    """The inputs of a step that reads the same day of one asset.

    A day that isn't there is missing here too; one that was refused, blocked or held back holds this
    one back.

    Args:
        fingerprint: which of the record's fingerprints counts.
        contracts: the versions of the contract whose days can be read; all without them.
    """
    known = context.ledger.latest(asset, set(days))
    found = {}
    for day in days:
        record = known.get(day)
        if record is None:
            found[day] = Inputs("", "missing", f"{asset} has not been materialized for this day")
        elif record.outcome in ("missing", "no_model", "not_due"):
            gone = record.outcome in WITHOUT_ROWS
            found[day] = Inputs(record.inputs, record.outcome, record.reason, gone=gone)
        elif record.usable and contracts is not None and record.contract not in contracts:
            found[day] = Inputs(record.contract, "held_back", evolution.of_another_contract(context, record))
        elif record.usable:
            found[day] = Inputs(content_of(record, fingerprint))
        else:
            why = record.reason
            if record.outcome != "held_back":
                why = f"{asset} is {record.outcome}: {why}"
            found[day] = Inputs(record.fingerprint or record.inputs, "held_back", why)
    return found


def content_of(record: DayRecord, fingerprint: str = "fingerprint") -> str:
    """What a usable day holds, by one of its record's fingerprints."""
    return record.details.get("metadata", {}).get(fingerprint) or record.fingerprint or "empty"
