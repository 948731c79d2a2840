"""How a step brings partitions up to date: which to skip, which to do, in what chunks, and the record of it.

Every step goes through :func:`run`; what it reads and writes is its own business. A step remembers nothing
from one call to the next: what it has found out about a partition travels in the partition's :class:`Inputs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, ClassVar

from ml_platform.contract.assets import CATALOGUE, Asset
from ml_platform.contract.days import counted, named
from ml_platform.engine import evolution, presence
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import DayResult, Inputs, StepResult, Written, result_of
from ml_platform.storage.ledger import WITHDRAWN, WITHOUT_ROWS, DayRecord, Outcome
from ml_platform.storage.tables import OvertakenError

#: How often days are done again that other runs are writing at the same time.
ATTEMPTS = 10
#: What the record of a day says that an exception has ended.
FAILED: dict[str, Any] = {"failed": True}


class Step(ABC):
    """How the partitions of an asset are made: its days, or its months by their first days.

    What the catalogue says of the asset is :attr:`spec`. A partition is up to date if it was made from the
    same inputs, under the same sections of the contract, by the same version of the code.
    """

    asset: ClassVar[str]
    #: Partitions that are done before they are recorded together, if not as many as the settings say.
    chunk: ClassVar[int | None] = None

    def __init__(self, context: StepContext) -> None:
        self.context = context

    @property
    def spec(self) -> Asset:
        return CATALOGUE[self.asset]

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables whose days it replaces; those that steer the platform are not among them."""
        return self.spec.table_names

    @property
    def contract(self) -> str:
        return self.context.product.hash_of(*self.spec.sections)

    @property
    def code_version(self) -> str:
        """Changes when the code makes something else of the same inputs."""
        return self.spec.version

    # -- what each step says for itself ---------------------------------------------------------------

    @abstractmethod
    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        """What each day would be made from; needs no Spark. A day that is left out needs nothing.

        Args:
            lost: those of the days that had been done, and whose result is gone.
        """

    @abstractmethod
    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        """Do these days, each table in one commit. A day that is left out is done again.

        Args:
            tries: how often each day has been left out before.
        """

    def first(self, days: Sequence[date]) -> Sequence[tuple[Step, Sequence[date]]]:
        """Other steps that have to be brought up to date before these days are, each over some days."""
        return ()

    def after(self, days: Sequence[date]) -> Sequence[tuple[Step, Sequence[date]]]:
        """Steps over other days that have to be brought up to date once these are."""
        return ()

    # -- what most steps do alike ----------------------------------------------------------------------

    def partitions(self) -> list[date]:
        """What the request asks for, ascending."""
        return sorted(self.context.request.days)

    def prepare(self) -> None:
        """Get ready to do days."""
        evolution.align(self.context)

    def finish(self) -> None:  # noqa: B027
        """Do what is to be done once the days are, even if there were none to do."""

    def is_unfinished(self) -> bool:
        """Whether :meth:`finish` has something to do although every day is up to date. Needs no Spark."""
        return False

    def discard(self, days: Sequence[date]) -> None:  # noqa: B027
        """Remove what stands of days that have an outcome instead; most steps keep it, and hold it back."""

    def hold_back(self, days: Mapping[date, Inputs]) -> dict[date, Written]:
        """What there is to record of days that have an outcome instead; by default the outcome alone."""
        return {}

    def withdraw(self, days: Sequence[date]) -> dict[date, Written]:
        """Take what there is of these days out of the step's tables: their rows were delivered once, and are
        no longer; each comes back as missing.
        """
        context = self.context
        version: int | None = None
        for table in self.tables:
            removed = context.tables.remove_days(
                context.open_spark, context.product.name, table, days, run_id=context.request.run_id
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

    def keeps(self, record: DayRecord, inputs: Inputs) -> bool:
        """Whether a day that was done before stays as it is although its inputs have changed."""
        return False

    def is_outdated(self, work: Mapping[date, Inputs]) -> bool:
        """Whether what a plan has found outside the ledger has changed since. It takes milliseconds."""
        return False

    def is_current(self, record: DayRecord, inputs: Inputs) -> bool:
        """Whether a day that can be done has been, from these inputs."""
        return self.keeps(record, inputs) or record.made_from(
            inputs.fingerprint, self.contract, self.code_version
        )

    def record(self, day: date, inputs: Inputs, written: Written) -> DayRecord:
        """What the ledger is to know of a day."""
        return DayRecord(
            asset=self.asset,
            day=day,
            outcome=written.outcome,
            reason=written.reason,
            inputs=written.inputs or inputs.fingerprint,
            contract=self.contract,
            code_version=self.code_version,
            fingerprint=written.fingerprint,
            counts=written.counts,
            delta_version=written.delta_version,
            run_id=self.context.request.run_id,
            details={
                "metadata": written.metadata,
                "checks": [check.model_dump(mode="json") for check in written.checks],
                **written.details,
            },
            accepted_by=written.accepted[0] if written.accepted else None,
            accepted_reason=written.accepted[1] if written.accepted else None,
            barred_from=written.barred[0],
            barred_to=written.barred[1],
        )

    def results(self, records: Mapping[date, DayRecord], done: Collection[date]) -> list[DayResult]:
        """The days as people see them, each with the day it is asked for by.

        Args:
            records: what the ledger says of the days now.
            done: those that were not up to date.
        """
        remarks = self.remarks(records)
        results = []
        for day, record in records.items():
            result = result_of(record, up_to_date=day not in done)
            results.append(result.model_copy(update={"metadata": result.metadata | remarks.get(day, {})}))
        return results

    def remarks(self, records: Mapping[date, DayRecord]) -> dict[date, dict[str, Any]]:
        """What people should see of days beside their records, as things stand now."""
        return {}

    def summary(self, days: Sequence[date], done: Done) -> dict[str, Any]:
        """What the run shows of itself as a whole."""
        units = f"{self.spec.period}s"
        return {f"{units}_done": len(done.written), f"{units}_up_to_date": len(days) - len(done.todo)}

    def progress(self, position: int, total: int, last: date) -> str:
        """How far the step is, in words."""
        period = self.spec.period
        return f"{self.asset}: {position} of {counted(total, period)}, up to {named(period, last)}"


@dataclass(frozen=True)
class Done:
    """What a step has done: the days that were not up to date, and what was written of them."""

    todo: frozenset[date]
    written: Mapping[date, Written]

    def tally(self, name: str) -> int:
        """How many days were written as what the step calls ``name``."""
        return sum(written.tally == name for written in self.written.values())


@dataclass(frozen=True)
class _Plan:
    """What is to be done of some days now: their inputs, and the records that days have so far.

    ``version`` is the ledger's: while it stays, nothing has been recorded that would change the plan.
    """

    todo: Mapping[date, Inputs]
    known: Mapping[date, DayRecord]
    #: The days that had been done, and whose result is gone: what is wrong with each.
    lost: Mapping[date, str]
    version: str | None

    @property
    def doable(self) -> dict[date, Inputs]:
        return {day: self.todo[day] for day in sorted(self.todo) if self.todo[day].outcome is None}

    def withdrawn(self, *, force: bool) -> list[date]:
        """The days that must have no rows any more, and may have some."""
        return sorted(
            day
            for day, inputs in self.todo.items()
            if inputs.gone
            and (record := self.known.get(day)) is not None
            and (force or record.outcome not in WITHOUT_ROWS)
        )

    def of(self, days: Sequence[date]) -> _Plan:
        """The plan of some of its days."""
        chosen = set(days)
        return replace(self, todo={day: inputs for day, inputs in self.todo.items() if day in chosen})


def is_pending(step: Step, days: Sequence[date], *, force: bool = False) -> bool:
    """Whether any day is to be done. Needs no Spark."""
    if any(is_pending(before, chosen) for before, chosen in step.first(days)):
        return True
    if _plan(step, days, force=force).todo or step.is_unfinished():
        return True
    return any(_plan(other, chosen, force=False).todo for other, chosen in step.after(days))


def run(steps: Sequence[Step], days: Sequence[date], *, force: bool = False) -> StepResult:
    """Bring ``days`` of an asset up to date by one step after another, and report each of them.

    Args:
        steps: the asset's step, and others that add to its records. ``force`` is for the first.

    Raises:
        OvertakenError: other runs have written the same days again and again.
        EndsTheRunError: no day is to blame: the machine, a database or the contract is.
    """
    first, *others = steps
    for before, chosen in first.first(days):
        bring_up_to_date(before, chosen)
    done = bring_up_to_date(first, days, force=force)
    for other, chosen in first.after(days):
        for before, needed in other.first(chosen):
            bring_up_to_date(before, needed)
        bring_up_to_date(other, chosen)
    settled = [day for day in days if day not in done.todo]
    further = {step: bring_up_to_date(step, settled) for step in others}
    if any(part.written for part in further.values()):
        bring_up_to_date(first, settled)  # what they say of a day may ask for it again
    known = first.context.ledger.latest(first.asset, set(days))
    todo = done.todo.union(*(part.todo for part in further.values()))
    metadata = first.summary(days, done)
    for step, more in further.items():
        metadata |= step.summary(settled, more)
    return StepResult(
        days=first.results({day: known[day] for day in days if day in known}, todo), metadata=metadata
    )


def bring_up_to_date(step: Step, days: Sequence[date], *, force: bool = False) -> Done:
    """Do the days that are not up to date, in chunks that are each recorded when they are done.

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
    for why, days_lost in presence.grouped({} if force else plan.lost).items():
        context.log(f"{step.asset}: {why}; done again: {counted(len(days_lost), step.spec.period)}")
    if plan.doable:
        step.prepare()
    else:
        evolution.remember(context)
    size = step.chunk or context.settings.chunk_days
    ordered, written = sorted(plan.todo), dict[date, Written]()
    work = _Work(step, plan, force=force, written=written)
    isolation = context.isolation(work.refuse)
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        before = len(written)
        isolation.work(chunk, work.do)
        if len(written) > before:
            context.log(step.progress(start + len(chunk), len(ordered), chunk[-1]))
    step.finish()
    return Done(frozenset(plan.todo), written)


def _plan(step: Step, days: Sequence[date], *, force: bool) -> _Plan:
    ledger = step.context.ledger
    version = ledger.version()
    known = ledger.latest(step.asset, set(days))
    lost = step.lost(known)
    inputs = _inputs(step, days, lost)
    todo = {
        day: inputs[day]
        for day in days
        if day in inputs and (force or day in lost or not is_up_to_date(step, known.get(day), inputs[day]))
    }
    return _Plan(todo, known, lost, version)


def _inputs(step: Step, days: Sequence[date], lost: Collection[date]) -> dict[date, Inputs]:
    """What each day would be made from; a day of which that can't be found out is refused for now."""
    found: dict[date, Inputs] = {}

    def look(chosen: Sequence[date]) -> None:
        found.update(step.plan(chosen, lost))

    def blame(day: date, error: Exception) -> None:
        found[day] = Inputs("", "refused", _refusal(step, day, error), failed=True)

    step.context.isolation(blame).work(days, look)
    return found


def _refusal(step: Step, day: date, error: Exception) -> str:
    """Why a day is refused whose own function has raised an exception; its traceback goes to the log."""
    return (
        f"{step.asset} failed: {step.context.failure(f'{step.asset}: {named(step.spec.period, day)}', error)}"
    )


#: Outcomes that a day had because of its inputs, which are no obstacle any more.
_OF_INPUTS = frozenset({"missing", "held_back", "no_model", "not_due"})


def is_up_to_date(step: Step, record: DayRecord | None, inputs: Inputs) -> bool:
    """Whether a day is recorded as it would be now; one that has failed never is."""
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
    return step.is_current(record, inputs)


class _Work:
    """Does the days of a plan, chunk by chunk, and plans anew what others have written meanwhile."""

    def __init__(self, step: Step, plan: _Plan, *, force: bool, written: dict[date, Written]) -> None:
        self.step = step
        self.plan = plan
        self.force = force
        self.written = written

    def do(self, days: Sequence[date]) -> None:
        """Do some days, from what they are made of now.

        What another run has written or recorded meanwhile is done again, from what it is made of by then.
        """
        step, context = self.step, self.step.context
        left, tries = list(days), Counter[date]()
        for attempt in range(ATTEMPTS):
            with context.tables.guarded(context.product.name, step.tables):
                # The other run's record may be of what this one has replaced, so such days are done anyway.
                plan = self._plan_of(left, force=self.force or attempt > 0)
                work = plan.doable
                try:
                    written = dict(step.write(work, tries)) if work else {}
                    held = step.hold_back(
                        {day: plan.todo[day] for day in plan.todo if plan.todo[day].outcome}
                    )
                    gone = _withdraw(step, plan, force=self.force or attempt > 0)
                except OvertakenError as error:
                    context.log(f"{step.asset}: {error}; these {step.spec.period}s are done again")
                    self._forget_plan()
                    continue
                found = {
                    day: Written(inputs.outcome, inputs.reason, details=FAILED if inputs.failed else {})
                    for day, inputs in plan.todo.items()
                    if inputs.outcome
                }
                if found:
                    step.discard(sorted(found))
                records = [
                    step.record(day, plan.todo[day], result)
                    for day, result in {**found, **held, **gone, **written}.items()
                ]
                overtaken = context.ledger.record_since(records, plan.known)
            self.written |= written
            unwritten = [day for day in work if day not in written]
            tries.update(unwritten)
            left = sorted({*overtaken, *unwritten})
            if not left:
                self._recorded(plan, records)
                return
            self._forget_plan()
            if overtaken:
                done = counted(len(overtaken), step.spec.period)
                context.log(f"{step.asset}: another run has done {done} of these; they are done again")
        raise OvertakenError(
            f"{context.product.name}/{step.asset}: other runs have changed {left[0]} again and again; "
            "run again when they are done"
        )

    def refuse(self, day: date, error: Exception) -> None:
        """Record that a day has failed; what the tables hold of it stays."""
        step = self.step
        plan = _plan(step, [day], force=True)
        inputs = plan.todo.get(day, Inputs(""))
        written = Written("refused", _refusal(step, day, error), details=FAILED)
        step.discard([day])
        step.context.ledger.record_since([step.record(day, inputs, written)], plan.known)
        self._forget_plan()

    def _plan_of(self, days: Sequence[date], *, force: bool) -> _Plan:
        """The plan of some days: the one of the whole range, while nothing else has been recorded."""
        if self.plan.version == self.step.context.ledger.version():
            plan = self.plan.of(days)
            if not self.step.is_outdated(plan.todo):
                return plan
        return _plan(self.step, days, force=force)

    def _recorded(self, plan: _Plan, records: Sequence[DayRecord]) -> None:
        """Count the commit of these records; the plan is as good as before, unless others came too."""
        now = self.step.context.ledger.version()
        if records and plan.version == self.plan.version and _is_next(plan.version, now):
            self.plan = replace(self.plan, version=now)

    def _forget_plan(self) -> None:
        self.plan = replace(self.plan, version=_OUTDATED)


#: A version that no ledger has.
_OUTDATED = "outdated"


def _is_next(before: str | None, now: str | None) -> bool:
    """Whether exactly one commit lies between two versions of a table."""
    if before is None or now is None:
        return now is not None and now.endswith("/0")
    table, _, number = before.rpartition("/")
    return now == f"{table}/{int(number) + 1}"


def _withdraw(step: Step, plan: _Plan, *, force: bool) -> dict[date, Written]:
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
