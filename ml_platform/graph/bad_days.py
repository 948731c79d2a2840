"""Bad days in Dagster: which partitions a run has left without a usable result, and how it shows them.

The result of a day is an outcome, and stops nothing; but a bad day must not look done. Each step notes its
bad days in its run's log, and plans them once more after they were materialized. When the run's last step has
done its work, it fails with one error that names them all, and of a run that failed Dagster shows a partition
that was planned and not materialized since as failed. In a backfill from the UI a partition counts as failed
if no run of the backfill materialized it, and everything downstream of it isn't run any more; so only the
last asset of a backfill leaves bad days out (:func:`materialize_apart`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    DagsterEvent,
    DagsterEventBatchMetadata,
    EngineEventData,
    generate_event_batch_id,
)
from dagster._core.execution.plan.execute_step import _get_output_asset_events

from ml_platform.contract.assets import CATALOGUE, Asset, names
from ml_platform.contract.days import add_months, counted, month_of, named
from ml_platform.contract.product import Product
from ml_platform.engine.step import DayResult
from ml_platform.mlops.remedies import remedies
from ml_platform.storage.ledger import NOT_DONE

#: Groups of days that an error names, and characters of the reason of each: what a page shows at a glance.
NAMED = 10
REASON_CHARACTERS = 300
#: Seconds between the last materialization of a backfill's run and its end. The daemon asks for the
#: materializations first and then for the runs that have failed, and takes what lies between for failed.
PAUSE_SECONDS = 5.0
#: The metadata by which a run's events are recognized.
_NOTE, _SETTLED = "bad_days", "bad_days_shown"
BACKFILL_ID_TAG = "dagster/backfill"
MAX_RETRIES_TAG = "dagster/max_retries"


@dataclass(frozen=True, order=True)
class Bad:
    """A partition that can't be used: of which asset, by its place in the catalogue, and why."""

    place: int
    outcome: str
    reason: str

    @property
    def asset(self) -> str:
        return names()[self.place]


#: By asset and partition.
Notes = dict[str, dict[date, Bad]]


@dataclass(frozen=True)
class _Log:
    """What a run's log says of a product: its bad days, whether its last step has named them, and whether
    the page of its backfill counts them as failed.
    """

    notes: Notes
    is_settled: bool = False
    is_shown: bool = False

    @property
    def partitions(self) -> set[tuple[str, date]]:
        """The bad partitions, by period."""
        return {(CATALOGUE[asset].period, day) for asset, bad in self.notes.items() for day in bad}


class RunDays:
    """The bad days of one product in a run, as one of the run's steps sees them.

    Made after the step's work is done; notes the step's own bad days.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, product: Product, asset: Asset, days: Sequence[DayResult]
    ) -> None:
        self._context = context
        self._product = product
        self._asset = asset
        self._asked = [day.day for day in days]
        place = names().index(asset.name)
        own = {
            day.day: Bad(place, day.outcome, day.reason[:REASON_CHARACTERS])
            for day in days
            if day.outcome in NOT_DONE
        }
        log = _read(context.instance, context.run_id, product)
        if own:
            log.notes[asset.name] = own
            _note(context, product, asset, own, len(days))
        self._log = log

    @property
    def red(self) -> list[date]:
        """The step's partitions that must not look done: bad ones, and those made of one that is."""
        of_same_days = {self._asset.name, *_upstream(self._asset)}
        found = {day for asset in of_same_days for day in self._log.notes.get(asset, {})}
        return [day for day in self._asked if day in found]

    @property
    def is_last(self) -> bool:
        """Whether the run ends with this step, for its product, and so must show all bad days."""
        in_run = _assets_of_run(self._context, self._product)
        if self._asset.name == in_run[-1]:
            return True
        # A step that waits to be tried again may come after the last one.
        return self._log.is_settled and not _downstream(self._asset) & {*in_run}

    def withheld(self) -> list[date]:
        """The step's partitions that its backfill must count as failed; none where that isn't for it to say.

        If a bad day is none of its own partitions, another one stands for it.
        """
        backfill_id = self._context.run.tags.get(BACKFILL_ID_TAG)
        if backfill_id is None or not self.is_last:
            return []
        instance = self._context.instance
        backfill = instance.get_backfill(backfill_id)
        if backfill is None or not backfill.is_asset_backfill:
            return []  # of a job's backfill only the runs count
        keys = [key for key in backfill.asset_selection or () if key.path[0] == self._product.name]
        if _downstream(self._asset) & {key.path[-1] for key in keys}:
            return []
        bad = self._log.partitions
        shown: set[tuple[str, date]] = set()
        for log in _logs_of_backfill(self._context, self._product, backfill_id):
            bad |= log.partitions
            shown |= log.partitions if log.is_shown else set()
        # What this very run finds is for it to show, whatever an earlier one has shown.
        return sorted({self._stand_in(*partition) for partition in self._log.partitions | (bad - shown)})

    def _stand_in(self, period: str, day: date) -> date:
        own = self._asset.period
        wanted = month_of(day) if own == "month" and period == "day" else day
        if own == period or own == "month":
            return wanted if wanted in self._asked else self._asked[-1]
        return max((asked for asked in self._asked if month_of(asked) == day), default=self._asked[-1])

    def plan_again(self) -> None:
        """Plan the step's red partitions once more; after their materialization, of a run that will fail."""
        plan_again(self._context, self._context.asset_key, self.red)

    def failure(self, withheld: Sequence[date]) -> dg.Failure | None:
        """What the run must end with after its last step; None if it has no bad day, or goes on.

        Such a run is not tried again: what it could do is done.
        """
        notes = self._log.notes
        if not self.is_last or not (notes or withheld):
            return None
        context, instance = self._context, self._context.instance
        backfill_id = context.run.tags.get(BACKFILL_ID_TAG)
        data = EngineEventData(
            metadata={_SETTLED: dg.MetadataValue.bool(bool(withheld)), "product": self._product.name}
        )
        instance.report_engine_event("All days that can be done are done.", context.run, data)
        if not _errors(instance, context.run_id):
            instance.add_run_tags(context.run_id, {MAX_RETRIES_TAG: "0"})
        if backfill_id is not None:
            time.sleep(PAUSE_SECONDS)
            if not notes:
                for log in _logs_of_backfill(context, self._product, backfill_id):
                    for asset, bad in log.notes.items():
                        notes.setdefault(asset, {}).update(bad)
        return dg.Failure(
            in_words(self._product, notes),
            metadata={_NOTE: len({day for bad in notes.values() for day in bad})},
            allow_retries=False,
        )


def plan_again(context: dg.AssetExecutionContext, key: dg.AssetKey, days: Sequence[date]) -> None:
    """Plan partitions once more, so that they are shown as failed if the run fails."""
    for day in days:
        planned = DagsterEvent.build_asset_materialization_planned_event(
            context.job_name,
            key.to_python_identifier(),
            AssetMaterializationPlannedData(key, partition=day.isoformat()),
        )
        context.instance.report_dagster_event(planned, context.run_id)


def only_bad_days(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a failed run has done all that could be done, and failed just to show its bad days."""
    failures = _failures(instance, run_id)
    return bool(failures) and all(shows_bad_days(event) for event in failures)


def shows_bad_days(failure: DagsterEvent) -> bool:
    """Whether a step failed just to show the bad days of its run."""
    data = failure.step_failure_data.user_failure_data
    return data is not None and _NOTE in data.metadata


def in_words(product: Product, notes: Mapping[str, Mapping[date, Bad]]) -> str:
    """The bad days with their causes and what to do; days in a row with one cause are named together."""
    causes: dict[tuple[str, date], Bad] = {}
    for asset, bad in notes.items():
        for day, cause in bad.items():
            key = (CATALOGUE[asset].period, day)
            causes[key] = min(cause, causes.get(key, cause))
    groups: list[list[tuple[str, date]]] = []
    for partition in sorted(causes):
        if groups and _goes_on(causes, groups[-1][-1], partition):
            groups[-1].append(partition)
        else:
            groups.append([partition])
    days = sum(period == "day" for period, _ in causes)
    numbers = [
        counted(count, word) for word, count in (("day", days), ("month", len(causes) - days)) if count
    ]
    lines = [f"{' and '.join(numbers)} can't be used; all that can be done is done."]
    for group in groups[:NAMED]:
        (period, first), (_, last) = group[0], group[-1]
        cause = causes[group[0]]
        lines.append(
            f"{named(period, first, last)} {cause.outcome.replace('_', ' ')} ({cause.asset}): {cause.reason}"
        )
        ways = remedies(product.name, cause.asset, cause.outcome, str(first), last=str(last))
        lines += [f"  {way.words}: {way.command}" for way in ways]
    if more := sum(len(group) for group in groups[NAMED:]):
        lines.append(f"And {more:,} more: ml-platform summary {product.name}")
    return "\n".join(lines)


def materialize_apart(
    context: dg.AssetExecutionContext,
    days: Sequence[date],
    withheld: Collection[date],
    metadata: Mapping[str, Any],
) -> None:
    """Log by hand the materializations that Dagster would make of an output, which the step doesn't yield.

    Those of ``withheld`` days belong to no run, so that a backfill doesn't count them; people see them.
    """
    step = context.op_execution_context.get_step_execution_context()
    key = context.asset_key
    output_def = next(
        output
        for output in step.op_def.output_defs
        if output.name == context.assets_def.get_output_name_for_asset_key(key)
    )
    events = [
        *_get_output_asset_events(
            key,
            [day.isoformat() for day in days],
            dg.Output(None, output_name=output_def.name, metadata=dict(metadata)),
            output_def,
            {},
            step,
            context.assets_def.execution_type,
        )
    ]
    apart = {day.isoformat() for day in withheld}
    own = []
    for event in events:
        assert isinstance(event, dg.AssetMaterialization)
        if event.partition in apart:
            context.instance.report_runless_asset_event(event)
        else:
            own.append(event)
    batch = generate_event_batch_id()  # type: ignore[no-untyped-call]
    for position, event in enumerate(own):
        DagsterEvent.asset_materialization(
            step, event, DagsterEventBatchMetadata(batch, position == len(own) - 1)
        )


# -- notes in a run's log ----------------------------------------------------------------------------


def _note(
    context: dg.AssetExecutionContext,
    product: Product,
    asset: Asset,
    bad: Mapping[date, Bad],
    asked: int,
) -> None:
    """Put a step's bad days into the log of its run; reasons that repeat are stored once."""
    reasons = sorted({(cause.outcome, cause.reason) for cause in bad.values()})
    days = {day.isoformat(): reasons.index((cause.outcome, cause.reason)) for day, cause in bad.items()}
    first, cause = next(iter(bad.items()))
    words = f"{asset.name}: {len(bad):,} of {asked:,} can't be used, the first is {first}: {cause.outcome}"
    note = {"product": product.name, "asset": asset.name, "reasons": reasons, "days": days}
    data = EngineEventData(metadata={_NOTE: dg.MetadataValue.json(note)})
    context.instance.report_engine_event(f"{words}, {cause.reason}", context.run, data)


def _read(instance: dg.DagsterInstance, run_id: str, product: Product) -> _Log:
    notes: Notes = {}
    settled: list[bool] = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        metadata = event.engine_event_data.metadata if event and event.event_specific_data else {}
        if _SETTLED in metadata and metadata["product"].value == product.name:
            settled.append(bool(metadata[_SETTLED].value))
        if _NOTE not in metadata:
            continue
        note: Any = metadata[_NOTE].value
        if note["product"] != product.name or note["asset"] not in CATALOGUE:
            continue
        place = names().index(note["asset"])
        notes[note["asset"]] = {
            date.fromisoformat(day): Bad(place, *note["reasons"][reason])
            for day, reason in note["days"].items()
        }
    return _Log(notes, bool(settled), any(settled))


def _logs_of_backfill(
    context: dg.AssetExecutionContext, product: Product, backfill_id: str
) -> Iterator[_Log]:
    """Of the runs of a backfill that are over; one that is at work shows its bad days itself."""
    for run in context.instance.get_runs(dg.RunsFilter(tags={BACKFILL_ID_TAG: backfill_id})):
        if run.is_finished and run.run_id != context.run_id:
            yield _read(context.instance, run.run_id, product)


def _failures(instance: dg.DagsterInstance, run_id: str) -> list[DagsterEvent]:
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return [entry.dagster_event for entry in logs if entry.dagster_event is not None]


def _errors(instance: dg.DagsterInstance, run_id: str) -> list[DagsterEvent]:
    return [event for event in _failures(instance, run_id) if not shows_bad_days(event)]


# -- what lies above and below an asset --------------------------------------------------------------


def _parents(asset: Asset) -> set[str]:
    return {reads.asset for reads in asset.reads if reads.asset in CATALOGUE} | {*asset.after}


def _upstream(asset: Asset) -> set[str]:
    """The assets of the same days that a partition is made from, directly or not."""
    found: set[str] = set()
    for name in _parents(asset):
        if CATALOGUE[name].period == asset.period:
            found |= {name, *_upstream(CATALOGUE[name])}
    return found


def _downstream(asset: Asset) -> set[str]:
    """The assets that Dagster draws below one, directly or not."""
    found: set[str] = set()
    for name, other in CATALOGUE.items():
        if asset.name in _parents(other):
            found |= {name, *_downstream(other)}
    return found


def _assets_of_run(context: dg.AssetExecutionContext, product: Product) -> list[str]:
    """The product's assets that a run makes, in the catalogue's order, which is that of its steps."""
    steps = context.run.step_keys_to_execute
    keys = {
        key.path[-1]
        for key in context.job_def.asset_layer.executable_asset_keys
        if key.path[0] == product.name and (not steps or key.to_python_identifier() in steps)
    }
    return [name for name in names() if name in keys]


def _goes_on(
    causes: Mapping[tuple[str, date], Bad], last: tuple[str, date], next_one: tuple[str, date]
) -> bool:
    """Whether a partition follows another one, and has its cause; reasons may name their own day."""
    (period, day), (other_period, other) = last, next_one
    follows = add_months(day, 1) if period == "month" else day + timedelta(days=1)
    this, that = (
        (cause.place, cause.outcome, cause.reason.replace(str(when), ""))
        for cause, when in ((causes[last], day), (causes[next_one], other))
    )
    return period == other_period and other == follows and this == that
