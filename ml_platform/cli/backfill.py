"""Bringing a range of days up to date through Dagster runs: the runs a backfill from the UI makes.

Assets that share a partitions definition and don't wait for another's go into one run over the range;
a stage that has nothing to do needs no run. A replay with retraining goes month by month and asks the
retrain decision as the sensor would have.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from ml_platform.build import build_definitions
from ml_platform.cli.interruption import interruption
from ml_platform.contract.assets import ARDS, CATALOGUE, MODEL, names, nothing_made_from, stages
from ml_platform.contract.days import (
    DayRange,
    in_a_sentence,
    last_day_of,
    month_of,
    months_between,
    named,
)
from ml_platform.contract.product import Product
from ml_platform.contract.windows import partitions_between
from ml_platform.engine import local
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepRequest
from ml_platform.graph import run_processes
from ml_platform.graph.assets import asset_key
from ml_platform.graph.bad_days import MAX_RETRIES_TAG, shows_bad_days
from ml_platform.graph.events import BACKFILL_TAG, not_shown
from ml_platform.graph.jobs import PRODUCT_TAG
from ml_platform.graph.partitions import range_tags
from ml_platform.graph.resources import ChosenStepRunner, LocalStepRunner
from ml_platform.machine_learning.promotion import Decision
from ml_platform.machine_learning.rollback import Rollback
from ml_platform.settings import Settings


@dataclass(frozen=True)
class RunReport:
    """One Dagster run of a backfill; ``success`` says that all was done that could be."""

    assets: tuple[str, ...]
    first: date
    last: date
    run_id: str
    success: bool
    error: str = ""


@dataclass
class Backfill:
    """A backfill of one product in this process; its steps run on the engine that is chosen for them.

    ``started`` is told what each run is about to do, ``progress`` what a step says while it works.
    """

    product: Product
    settings: Settings
    instance: dg.DagsterInstance
    select: Sequence[str] = field(default_factory=names)
    force: bool = False
    rescore: bool = False
    allow_bad_days: bool = False
    started: Callable[[str], None] = lambda _: None
    progress: Callable[[str], None] = lambda _: None
    reports: list[RunReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        run_processes.reap(self.instance)
        self._days: DayRange | None = None
        self._failures: list[str] = []
        self._runner = ChosenStepRunner(self.settings, progress=self.progress)
        definitions = build_definitions(
            self.settings,
            products={self.product.name: self.product},
            resource_overrides={"step_runner": self._runner},
        )
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def run(self, days: DayRange) -> list[RunReport]:
        """Bring every selected asset up to date over ``days``, stage by stage.

        Raises:
            BackfillError: a run failed. All that isn't made from what failed has been brought up to date.
        """
        self._days = days
        self._watch_arrivals(days)
        with self._failing_at_the_end():
            for stage in stages():
                self._stage(self._selected(stage), self._partitions(stage, days), rescore=self.rescore)
        return self.reports

    def train(self, as_of: date | None = None) -> date:
        """Train a model as of a date, after the days that it needs are made under the present contract.

        Days whose delivery isn't there any more stay as an earlier contract made them, and it doesn't learn
        from them: made again, they would be taken for withdrawn.

        Args:
            as_of: by default the latest one, the day after the newest one of the MRDS.

        Returns:
            The as-of date.

        Raises:
            BackfillError: a run failed.
            LookupError: there are no days to learn from.
        """
        from ml_platform.engine import training_plan
        from ml_platform.storage.ledger import Ledger
        from ml_platform.storage.tables import Tables

        if as_of is None:
            known = Ledger(Tables.of(self.settings), self.product.name).latest("mrds", details=False)
            usable = [day for day, record in known.items() if record.usable]
            if not usable:
                raise LookupError(
                    f"{self.product.name} has no day to learn from; land and backfill some first"
                )
            as_of = training_plan.latest_as_of(self.product, max(usable))
        month = month_of(as_of)
        request = self._request(MODEL, [month], as_of=as_of)
        context = self._context(request)
        for plan in training_plan.plans(context, training_plan.as_ofs(context)).values():
            if plan.outdated:
                self._make_again(sorted(plan.outdated))
        self.train_alone(as_of)
        return as_of

    def train_alone(self, as_of: date) -> None:
        """Train a model as of a date from the days as they are; none of them is made again.

        Raises:
            BackfillError: the run failed.
        """
        self._stage((MODEL,), [month_of(as_of)], as_of=as_of)

    def _watch_arrivals(self, days: DayRange) -> None:
        """Keep which files of the days are there now, before anything is made of them.

        Where the ARDS is made on another machine, its deliveries can't be seen from here.
        """
        from ml_platform.data_engineering.arrivals import ArrivalRegister
        from ml_platform.data_engineering.files import FileRules
        from ml_platform.data_engineering.landing import delivered_days, looks
        from ml_platform.data_engineering.object_store import landing_of
        from ml_platform.storage.tables import Tables

        settings, product = self.settings, self.product
        is_here = product.engine.of(ARDS, settings.engine) == "local"
        if not (settings.watch_arrivals and is_here and ARDS in self.select):
            return
        place = landing_of(settings, product)
        there = [day for day in delivered_days(product, place) if day in days]
        register = ArrivalRegister(Tables.of(settings), product)
        now, rules = datetime.now(tz=UTC), FileRules.of(settings, product)
        register.observe(place, looks(product, place, there), now, rules)

    def _make_again(self, days: Sequence[date]) -> None:
        """Make days that an earlier contract made under the present one, as far as there are deliveries."""
        gone = self.without_delivery(DayRange(days[0], days[-1]))
        if left := [day for day in days if day in gone]:
            self.progress(
                f"not learned from: {in_a_sentence('day', left)}, which an "
                "earlier version of the contract made, and whose deliveries are gone"
            )
        for span in apart([day for day in days if day not in gone], gone):
            self._watch_arrivals(span)
            self._stage(("ards", "mrds"), list(span))

    def without_delivery(self, days: DayRange) -> frozenset[date]:
        """The days that have rows and no delivery any more: to make their ARDS would remove their rows.

        None where the ARDS is made on another machine, whose deliveries can't be seen from here.
        """
        from ml_platform.storage.ledger import WITHOUT_ROWS

        if self.product.engine.of("ards", self.settings.engine) != "local":
            return frozenset()
        context = self._context(self._request("ards", list(days)))
        holding = {
            day
            for asset in ("ards", "mrds")
            for day, record in context.ledger.latest(asset, set(days), details=False).items()
            if record.outcome not in WITHOUT_ROWS
        }
        if not holding:
            return frozenset()
        found = CATALOGUE[ARDS].step_class(context).plan(sorted(holding))
        return frozenset(day for day, inputs in found.items() if inputs.gone)

    def run_with_retraining(self, days: DayRange) -> list[RunReport]:
        """Replay all assets over ``days`` as they would have gone: after a failed evaluation, a due retrain.

        Days are scored again with the model that would have served them then.

        Raises:
            BackfillError: a run failed.
        """
        self._days = days
        self._watch_arrivals(days)
        with self._failing_at_the_end():
            self._replay(days)
        return self.reports

    def _replay(self, days: DayRange) -> None:
        all_stages = list(stages())
        position = all_stages.index((MODEL,))
        for stage in all_stages[:position]:
            self._stage(stage, self._partitions(stage, days))
        # What reads the model and says whether it is still good enough goes with it, month by month.
        served = all_stages[position + 1]
        for month in months_between(days.first, days.last):
            last = min(days.last, last_day_of(month))
            start = max(days.first, month)
            if month >= self.product.first_month:
                self._stage((MODEL,), [month])
            while start <= last:
                span = DayRange(start, last)
                self._stage(served, list(span), rescore=True)
                decision = self._retrain_due(span)
                if decision is None:
                    break
                self.progress(decision.reason)
                self._stage((MODEL,), [decision.month], as_of=decision.as_of)
                start = decision.as_of
        for stage in all_stages[position + 2 :]:
            self._stage(self._selected(stage), self._partitions(stage, days))

    def show(self, asset: str, days: DayRange) -> None:
        """Have Dagster show what the ledger knows of an asset's days; what is up to date is not done again.

        Raises:
            BackfillError: the run failed.
        """
        self._days = DayRange(days.first, max(days.last, days.first + timedelta(days=1)))
        is_daily = CATALOGUE[asset].period == "day"
        chosen = list(days) if is_daily else months_between(days.first, days.last)
        with self._failing_at_the_end():
            self._launch((asset,), chosen, as_of=None, rescore=False)

    @contextlib.contextmanager
    def _failing_at_the_end(self) -> Iterator[None]:
        """Raise what has failed meanwhile without stopping the rest."""
        self._failures = []
        try:
            yield
        except BackfillError as error:
            self._failures.append(str(error))
        if self._failures:
            raise BackfillError("; ".join(self._failures))

    def _retrain_due(self, days: DayRange) -> Any:
        from ml_platform.machine_learning import model_history, performance, retraining
        from ml_platform.storage.tables import Tables

        tables = Tables.of(self.settings)
        rows = performance.evaluations(tables, self.product)
        attempts = model_history.attempts(tables, self.product)
        inside = [performance.performance_row(row) for day, row in rows.items() if day in days]
        return retraining.first_retrain(self.product, inside, attempts)

    def _selected(self, assets: Sequence[str]) -> tuple[str, ...]:
        return tuple(asset for asset in assets if asset in self.select)

    def _partitions(self, stage: Sequence[str], days: DayRange) -> list[date]:
        return partitions_between(self.product, CATALOGUE[stage[0]], days)

    def _stage(
        self,
        assets: Sequence[str],
        days: Sequence[date],
        *,
        as_of: date | None = None,
        rescore: bool = False,
    ) -> None:
        """One run over the assets from the first that has something to do."""
        if not days:
            return
        for position, asset in enumerate(assets):
            request = self._request(asset, days, as_of=as_of, rescore=rescore)
            if self.force or self._is_pending(request):
                self._launch(tuple(assets[position:]), days, as_of=as_of, rescore=rescore)
                return

    def _is_pending(self, request: StepRequest) -> bool:
        """Whether a step has something to do, or Dagster isn't told of all that it has done."""
        try:
            context = self._context(request)
            return local.is_pending(context) or not set(request.days).isdisjoint(
                not_shown(self.instance, self.product, context.ledger, request.step)
            )
        except Exception:
            # What can't be asked isn't known to be up to date; its step fails for itself, and says why.
            if request.step in nothing_made_from():
                return True
            raise

    def _request(self, asset: str, days: Sequence[date], **options: Any) -> StepRequest:
        return StepRequest(step=asset, product=self.product.name, days=tuple(days), run_id="", **options)

    def _context(self, request: StepRequest) -> StepContext:
        return local.context_for(request, self.product, self.settings, self._runner.session, self.progress)

    def _launch(
        self, assets: tuple[str, ...], days: Sequence[date], *, as_of: date | None, rescore: bool
    ) -> None:
        first, last = min(days), max(days)
        run_id = str(uuid.uuid4())
        asked = f"as of {as_of}" if as_of else named(CATALOGUE[assets[0]].period, first, last)
        self.started(f"{', '.join(assets)}: {asked}")
        tags = {
            **range_tags(first, last),
            PRODUCT_TAG: self.product.name,
            **({BACKFILL_TAG: str(self._days)} if self._is_of_many() else {}),
            run_processes.PROCESS_TAG: run_processes.mark_of(run_id),
            # The command's own affair: a daemon that sees the run must not start it once more.
            MAX_RETRIES_TAG: "0",
        }
        result = self._job.execute_in_process(
            asset_selection=[asset_key(self.product, asset) for asset in assets],
            instance=self.instance,
            run_id=run_id,
            tags=tags,
            run_config=self._run_config(assets, as_of, rescore),
            raise_on_error=False,
        )
        failed = [event for event in result.all_events if event.is_step_failure]
        # What the run says of bad days, the ledger knows; the backfill goes on.
        failures = [event for event in failed if not shows_bad_days(event)]
        errors = [f"{event.step_key}: {_why(event)}" for event in failures]
        success = result.success or (bool(failed) and not failures)
        self.reports.append(RunReport(assets, first, last, result.run_id, success, "; ".join(errors)))
        if success:
            return
        message = f"{', '.join(assets)} over {asked}: {'; '.join(errors) or 'the run failed'}"
        if not failures or not all(self._spares_the_rest(event) for event in failures):
            raise BackfillError(message)
        self._failures.append(message)
        self.progress(f"{message}; the other assets go on")

    def _is_of_many(self) -> bool:
        """Whether the result of a day is an outcome among others, and fails no run."""
        return self._days is not None and (len(self._days) > 1 or self.allow_bad_days)

    def _spares_the_rest(self, failure: dg.DagsterEvent) -> bool:
        """Whether all else can be done although a step has failed."""
        source = failure.step_failure_data.error_source
        if (source is not None and source.value == "INTERRUPT") or interruption.noticed():
            return False
        alone = {asset_key(self.product, asset).to_python_identifier() for asset in nothing_made_from()}
        return failure.step_key in alone

    def _run_config(self, assets: Sequence[str], as_of: date | None, rescore: bool) -> dict[str, Any]:
        ops: dict[str, Any] = {}
        for asset in assets:
            name = asset_key(self.product, asset).to_python_identifier()
            values = {"force": self.force, "rescore": rescore, "as_of": as_of.isoformat() if as_of else None}
            ops[name] = {"config": {option: values[option] for option in CATALOGUE[asset].options}}
        return {"ops": ops, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class BackfillError(Exception):
    """A run of a backfill failed; what was done before it stays, and the next backfill continues."""


def apart(days: Sequence[date], barriers: Collection[date]) -> list[DayRange]:
    """The ranges that hold ascending days, and none of the barriers; other days between them may be held."""
    ranges: list[DayRange] = []
    for day in days:
        if ranges and not any(ranges[-1].last < barrier < day for barrier in barriers):
            ranges[-1] = DayRange(ranges[-1].first, day)
        else:
            ranges.append(DayRange(day, day))
    return ranges


def _why(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    if event.step_failure_data.user_failure_data is not None:
        return event.step_failure_data.user_failure_data.description or ""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else ""


def roll_back(
    product: Product, settings: Settings, *, reason: str, by: str, to: date | None = None
) -> tuple[Rollback, Decision | None]:
    """Roll the newest promotion back, or all after the model as of ``to``, and decide again.

    Returns:
        What was rolled back, and the champion there is now.

    Raises:
        LookupError: no promotion stands, or ``to`` names no model that has served before.
    """
    from ml_platform.engine.deciding import take_back

    request = StepRequest(step=MODEL, product=product.name, days=(), run_id="rollback")
    runner = LocalStepRunner(settings)
    context = local.context_for(request, product, settings, runner.session, lambda _: None)
    return take_back(context, reason=reason, by=by, to=to)
