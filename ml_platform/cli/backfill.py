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
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_platform.build import build_definitions
from ml_platform.cli.interruption import interruption
from ml_platform.contract.assets import StepName
from ml_platform.contract.days import DayRange, add_months, month_of
from ml_platform.contract.product import Product
from ml_platform.engine import local
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepRequest
from ml_platform.graph import run_processes
from ml_platform.graph.assets import DAILY_ASSETS, DRIFT_REPORT, MODEL, asset_key
from ml_platform.graph.events import BACKFILL_TAG
from ml_platform.graph.jobs import PRODUCT_TAG
from ml_platform.graph.partitions import range_tags
from ml_platform.graph.resources import ChosenStepRunner, LocalStepRunner
from ml_platform.settings import Settings

_BEFORE_MODELS: tuple[StepName, ...] = ("ards", "mrds", "online_features", "validation_report")
_AFTER_MODELS: tuple[StepName, ...] = ("predictions", "model_performance")
ASSETS: tuple[StepName, ...] = (*_BEFORE_MODELS, MODEL, *_AFTER_MODELS, DRIFT_REPORT)

assert set(ASSETS) == {*DAILY_ASSETS, MODEL, DRIFT_REPORT}

#: Nothing is made from these. When one fails all else goes on, and the backfill fails at its end.
NOTHING_MADE_FROM: frozenset[StepName] = frozenset({"online_features", "validation_report", DRIFT_REPORT})


@dataclass(frozen=True)
class RunReport:
    """One Dagster run of a backfill."""

    assets: tuple[StepName, ...]
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
    select: Sequence[StepName] = ASSETS
    force: bool = False
    rescore: bool = False
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
        before, after = self._selected(_BEFORE_MODELS), self._selected(_AFTER_MODELS)
        with self._failing_at_the_end():
            self._stage(before, list(days))
            if MODEL in self.select:
                self._stage((MODEL,), self._months(days))
            self._stage(after, list(days), rescore=self.rescore)
            self._measure_drift(days)
        return self.reports

    def train(self, as_of: date | None = None) -> date:
        """Train a model as of a date, after the days that it needs are made under the present contract.

        Days whose delivery isn't there any more stay as an earlier contract made them, and it doesn't learn
        from them: made again, they would be taken for withdrawn.

        Args:
            as_of: by default the day after the newest one of the MRDS.

        Returns:
            The as-of date.

        Raises:
            BackfillError: a run failed.
            LookupError: there are no days to learn from.
        """
        from ml_platform.engine.steps import model
        from ml_platform.storage.ledger import Ledger
        from ml_platform.storage.tables import Tables

        if as_of is None:
            known = Ledger(Tables.of(self.settings), self.product.name).latest("mrds", details=False)
            usable = [day for day, record in known.items() if record.usable]
            if not usable:
                raise LookupError(
                    f"{self.product.name} has no day to learn from; land and backfill some first"
                )
            as_of = max(usable) + timedelta(days=1)
        month = month_of(as_of)
        request = self._request(MODEL, [month], as_of=as_of)
        (plan,) = model.plan(self._context(request))
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

    def _make_again(self, days: Sequence[date]) -> None:
        """Make days that an earlier contract made under the present one, as far as there are deliveries."""
        gone = self.without_delivery(DayRange(days[0], days[-1]))
        if left := [day for day in days if day in gone]:
            self.progress(
                f"{len(left):,} days from {left[0]} to {left[-1]}, which an earlier version of the contract "
                "made, are not learned from: their deliveries are not there any more"
            )
        for span in apart([day for day in days if day not in gone], gone):
            self._stage(("ards", "mrds"), list(span))

    def without_delivery(self, days: DayRange) -> frozenset[date]:
        """The days that have rows and no delivery any more: to make their ARDS would remove their rows.

        None where the ARDS is made on another machine, whose deliveries can't be seen from here.
        """
        from ml_platform.engine.daily_steps import DAILY_STEPS
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
        found = DAILY_STEPS["ards"](context).inputs(sorted(holding))
        return frozenset(day for day, inputs in found.items() if inputs.gone)

    def run_with_retraining(self, days: DayRange) -> list[RunReport]:
        """Replay all assets over ``days`` as they would have gone: after a failed evaluation, a due retrain.

        Days are scored again with the model that would have served them then.

        Raises:
            BackfillError: a run failed.
        """
        self._days = days
        with self._failing_at_the_end():
            self._replay(days)
        return self.reports

    def _replay(self, days: DayRange) -> None:
        self._stage(_BEFORE_MODELS, list(days))
        for month in _months_of(days):
            last = min(days.last, add_months(month, 1) - timedelta(days=1))
            start = max(days.first, month)
            if month >= self.product.first_month:
                self._stage((MODEL,), [month])
            while start <= last:
                span = DayRange(start, last)
                self._stage(_AFTER_MODELS, list(span), rescore=True)
                decision = self._retrain_due(span)
                if decision is None:
                    break
                self.progress(decision.reason)
                self._stage((MODEL,), [decision.month], as_of=decision.as_of)
                start = decision.as_of
        self._measure_drift(days)

    def show(self, asset: StepName, days: DayRange) -> None:
        """Have Dagster show what the ledger knows of an asset's days; what is up to date is not done again.

        Raises:
            BackfillError: the run failed.
        """
        self._days = DayRange(days.first, max(days.last, days.first + timedelta(days=1)))
        chosen = list(_months_of(days)) if asset in (MODEL, DRIFT_REPORT) else list(days)
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

    def _measure_drift(self, days: DayRange) -> None:
        if DRIFT_REPORT in self.select:
            self._stage((DRIFT_REPORT,), list(_whole_months_of(days)))

    def _retrain_due(self, days: DayRange) -> Any:
        from ml_platform.machine_learning import model_history, performance, retraining
        from ml_platform.storage.tables import Tables

        tables = Tables.of(self.settings)
        rows = performance.evaluations(tables, self.product)
        attempts = model_history.attempts(tables, self.product)
        inside = [performance.performance_row(row) for day, row in rows.items() if day in days]
        return retraining.first_retrain(self.product, inside, attempts)

    def _selected(self, assets: Sequence[StepName]) -> tuple[StepName, ...]:
        return tuple(asset for asset in assets if asset in self.select)

    def _months(self, days: DayRange) -> list[date]:
        return [month for month in _months_of(days) if month >= self.product.first_month]

    def _stage(
        self,
        assets: Sequence[StepName],
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
        try:
            return local.is_pending(self._context(request))
        except Exception:
            # What can't be asked isn't known to be up to date; its step fails for itself, and says why.
            if request.step in NOTHING_MADE_FROM:
                return True
            raise

    def _request(self, asset: StepName, days: Sequence[date], **options: Any) -> StepRequest:
        return StepRequest(step=asset, product=self.product.name, days=tuple(days), run_id="", **options)

    def _context(self, request: StepRequest) -> StepContext:
        return local.context_for(request, self.product, self.settings, self._runner.session, self.progress)

    def _launch(
        self, assets: tuple[StepName, ...], days: Sequence[date], *, as_of: date | None, rescore: bool
    ) -> None:
        first, last = min(days), max(days)
        run_id = str(uuid.uuid4())
        asked = f"as of {as_of}" if as_of else str(DayRange(first, last))
        self.started(f"{', '.join(assets)}: {asked}")
        tags = {
            **range_tags(first, last),
            PRODUCT_TAG: self.product.name,
            **({BACKFILL_TAG: str(self._days)} if self._days and len(self._days) > 1 else {}),
            run_processes.PROCESS_TAG: run_processes.mark_of(run_id),
        }
        result = self._job.execute_in_process(
            asset_selection=[asset_key(self.product, asset) for asset in assets],
            instance=self.instance,
            run_id=run_id,
            tags=tags,
            run_config=self._run_config(assets, as_of, rescore),
            raise_on_error=False,
        )
        failures = [event for event in result.all_events if event.is_step_failure]
        errors = [f"{event.step_key}: {_why(event)}" for event in failures]
        self.reports.append(RunReport(assets, first, last, result.run_id, result.success, "; ".join(errors)))
        if result.success:
            return
        message = f"{', '.join(assets)} over {asked}: {'; '.join(errors) or 'the run failed'}"
        if not failures or not all(self._spares_the_rest(event) for event in failures):
            raise BackfillError(message)
        self._failures.append(message)
        self.progress(f"{message}; the other assets go on")

    def _spares_the_rest(self, failure: dg.DagsterEvent) -> bool:
        """Whether all else can be done although a step has failed."""
        source = failure.step_failure_data.error_source
        if (source is not None and source.value == "INTERRUPT") or interruption.noticed():
            return False
        alone = {asset_key(self.product, asset).to_python_identifier() for asset in NOTHING_MADE_FROM}
        return failure.step_key in alone

    def _run_config(self, assets: Sequence[StepName], as_of: date | None, rescore: bool) -> dict[str, Any]:
        ops: dict[str, Any] = {}
        for asset in assets:
            name = asset_key(self.product, asset).to_python_identifier()
            if asset == MODEL:
                values = {"force": self.force, "as_of": as_of.isoformat() if as_of else None}
                ops[name] = {"config": values}
            else:
                ops[name] = {"config": {"force": self.force}}
                if asset == "predictions":
                    ops[name]["config"]["rescore"] = rescore
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


def _months_of(days: DayRange) -> Iterator[date]:
    month = month_of(days.first)
    while month <= days.last:
        yield month
        month = add_months(month, 1)


def _whole_months_of(days: DayRange) -> Iterator[date]:
    for month in _months_of(days):
        if month >= days.first and add_months(month, 1) - timedelta(days=1) <= days.last:
            yield month


def _why(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    if event.step_failure_data.user_failure_data is not None:
        return event.step_failure_data.user_failure_data.description or ""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else ""


def roll_back(product: Product, settings: Settings, *, reason: str, by: str) -> tuple[Any, Any]:
    """Take the newest promotion back and decide again; returns it and the champion there is now.

    Raises:
        LookupError: no promotion stands.
    """
    from ml_platform.engine.steps.model import take_back

    request = StepRequest(step=MODEL, product=product.name, days=(), run_id="rollback")
    runner = LocalStepRunner(settings)
    context = local.context_for(request, product, settings, runner.session, lambda _: None)
    return take_back(context, reason=reason, by=by)
