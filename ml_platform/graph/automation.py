"""What starts runs by itself: the landing sensor, the retrain sensor, the schedule of the models.

All of it is off until it is switched on in the UI. Ticks read names, small tables and the event log;
none starts Spark.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_platform.data_engineering import landing
from ml_platform.engine.step import MAINTENANCE, StepRequest
from ml_platform.graph import partitions, processes
from ml_platform.graph.assets import DAILY_ASSETS, DRIFT_REPORT, MODEL, ModelConfig, asset_key
from ml_platform.graph.resources import StepRunner
from ml_platform.product import DayRange, Product, add_months, fingerprint_of, month_of
from ml_platform.settings import Settings
from ml_platform.steps import NO_DRIFT
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Delivered days, from the newest back, whose files are looked at on every tick.
WATCHED_DAYS = 62
#: Changed days this close to each other are one run; the days between are up to date and cost nothing.
GAP_DAYS = 7
RUNS_A_TICK = 5
#: Day of the month on which a model no longer waits for labels that should have come.
OVERDUE_ON = 5
#: Evaluations for which a retrain was requested, kept in the cursor; only the newest days' can ask again.
REMEMBERED_EVALUATIONS = 20

#: The tag of every job's runs; deploy/dagster.yaml limits how many of a product are at work at once.
PRODUCT_TAG = "ml_platform/product"
ENGINE_TAG = "ml_platform/engine"

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def jobs(product: Product, settings: Settings) -> list[Any]:
    """The daily job, for one day or a range by hand, and the model's job.

    Their runs carry the product's name and its engine, by which the queue of an instance can limit them.
    """
    tags = {PRODUCT_TAG: product.name, ENGINE_TAG: product.engine.default or settings.engine}
    return [
        dg.define_asset_job(
            f"{product.name}_daily",
            selection=[asset_key(product, asset) for asset in DAILY_ASSETS],
            description=(
                "Brings days of all daily assets up to date: after a correction, or to mend a day. "
                "Models that have read the day stay as they are; predictions that exist stay too."
            ),
            tags=tags,
        ),
        dg.define_asset_job(
            f"{product.name}_model",
            selection=[asset_key(product, MODEL)],
            description="Trains a month's model, or a retrain as of a later day of the month.",
            tags=tags,
        ),
        dg.define_asset_job(
            f"{product.name}_drift",
            selection=[asset_key(product, DRIFT_REPORT)],
            description="Measures the drift of a month that is over.",
            tags=tags,
        ),
        _maintenance(product, tags),
    ]


def _maintenance(product: Product, tags: Mapping[str, str]) -> dg.JobDefinition:
    @dg.op(name=f"{product.name}_tables", required_resource_keys={"step_runner"})
    def maintain_tables(context: dg.OpExecutionContext) -> None:
        processes.mark(context.instance, context.run_id)
        runner: StepRunner = context.resources.step_runner
        request = StepRequest(step=MAINTENANCE, product=product.name, days=(), run_id=context.run_id)
        context.add_output_metadata(runner.run(request, product, context).metadata)

    @dg.job(
        name=f"{product.name}_{MAINTENANCE}",
        tags=tags,
        description=(
            "Joins small files of the tables, and deletes those that no version of the last weeks needs "
            "(ML_PLATFORM_TABLE_RETENTION_DAYS). Changes no rows."
        ),
    )
    def maintenance() -> None:
        maintain_tables()

    return maintenance


def sensors(product: Product, settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors of a product."""
    return [_landing_sensor(product, settings), _retrain_sensor(product, settings)]


def schedules(product: Product, settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of a product; a finished history needs none."""
    if product.end:
        return []
    return [_model_schedule(product, settings), _drift_schedule(product), _maintenance_schedule(product)]


# -- deliveries --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the landing sensor has seen: the span of days, and the stamps of the newest."""

    first: date | None
    last: date | None
    stamps: Mapping[date, str]

    @classmethod
    def read(cls, cursor: str | None) -> "Seen":
        if not cursor:
            return cls(None, None, {})
        values = json.loads(cursor)
        stamps = {date.fromisoformat(day): stamp for day, stamp in values["stamps"].items()}
        return cls(date.fromisoformat(values["first"]), date.fromisoformat(values["last"]), stamps)

    def write(self) -> str:
        stamps = {day.isoformat(): stamp for day, stamp in self.stamps.items()}
        return json.dumps({"first": str(self.first), "last": str(self.last), "stamps": stamps})


def landed_days(product: Product, settings: Settings) -> list[date]:
    """The delivered days of the product's history, ascending; a day that isn't over is not one yet."""
    last = partitions.daily(product).get_last_partition_key()
    if last is None:
        return []
    history = DayRange(product.start, date.fromisoformat(last))
    return [day for day in landing.delivered_days(product, settings.landing_path) if day in history]


def changed_days(product: Product, settings: Settings, seen: Seen) -> tuple[list[date], Seen]:
    """The delivered days that are new or have new files, and what has been seen then.

    Work is bounded: one listing of the days' names, and a look at the files of the newest only. Changes
    of older days that were seen before are for ``ml-platform backfill``.
    """
    delivered = landed_days(product, settings)
    watched = delivered[-WATCHED_DAYS:]
    stamps = {}
    for day in watched:
        stamp = landing.stamp(product, settings.landing_path, day)
        if stamp is not None:
            stamps[day] = stamp
    changed = [day for day, stamp in stamps.items() if seen.stamps.get(day) != stamp]
    older = delivered[:-WATCHED_DAYS]
    if seen.first is None or seen.last is None:
        changed = older + changed
    else:
        changed = [day for day in older if not seen.first <= day <= seen.last] + changed
    if not delivered:
        return [], seen
    return sorted(changed), Seen(delivered[0], delivered[-1], stamps)


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Few ranges that cover ``days``: one a cluster, and one for all if there are too many clusters."""
    found: list[tuple[date, date]] = []
    for day in days:
        if found and (day - found[-1][1]).days <= GAP_DAYS:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found if len(found) <= RUNS_A_TICK else [(days[0], days[-1])]


def _landing_sensor(product: Product, settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{product.name}_landing_sensor",
        job_name=f"{product.name}_daily",
        minimum_interval_seconds=60,
        description=(
            f"Watches {product.name}'s deliveries, and requests one run over the days that have new or "
            "changed files, for all daily assets."
        ),
    )
    def landing_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        days, seen = changed_days(product, settings, Seen.read(context.cursor))
        if not days:
            newest = f"the newest delivered day is {seen.last}" if seen.last else "nothing has been delivered"
            reason = f"nothing new: {newest}"
            return dg.SensorResult(skip_reason=reason, cursor=context.cursor)
        requests = []
        for first, last in ranges(days):
            inside = {str(day): seen.stamps.get(day) for day in days if first <= day <= last}
            requests.append(
                dg.RunRequest(
                    run_key=f"{first}/{last}/{fingerprint_of(inside)}",
                    tags=partitions.range_tags(first, last),
                )
            )
        events = [
            dg.AssetMaterialization(
                asset_key(product, "landing"),
                partition=day.isoformat(),
                metadata={"folder": str(settings.landing_path / product.name / day.isoformat())},
            )
            for day in days
            if day in seen.stamps
        ]
        return dg.SensorResult(run_requests=requests, cursor=seen.write(), asset_events=events)

    return landing_sensor


# -- retraining --------------------------------------------------------------------------------------


def _retrain_sensor(product: Product, settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{product.name}_retrain_sensor",
        job_name=f"{product.name}_model",
        minimum_interval_seconds=60,
        description=(
            "Requests a retrain when an evaluation of one of the newest three landed days is below the "
            "threshold, once per evaluation and never within the cooldown."
        ),
    )
    def retrain_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from ml_platform.machine_learning import performance, retraining

        tables = Tables.of(settings)
        newest = landed_days(product, settings)[-retraining.NEWEST_DAYS :]
        evaluations = performance.evaluations(tables, product)
        # The ledger has the trainings that were refused as well, which are attempts too.
        attempts = [retraining.Attempt(as_of) for as_of in Ledger(tables, product.name).latest(MODEL)]
        requested: list[str] = json.loads(context.cursor) if context.cursor else []
        busy = training_in_progress(context.instance, product)
        reasons = []
        for day in newest:
            if day not in evaluations:
                reasons.append(f"{day}: not evaluated yet")
                continue
            row = performance.performance_row(evaluations[day])
            decision = retraining.decide(product, row, attempts, newest, in_progress=busy)
            reasons.append(decision.reason)
            evaluation = f"{day}/{row.fingerprint}"
            if decision.act and evaluation not in requested:
                request = retrain_request(product, decision.month, decision.as_of, run_key=evaluation)
                remembered = [*requested, evaluation][-REMEMBERED_EVALUATIONS:]
                return dg.SensorResult(run_requests=[request], cursor=json.dumps(remembered))
            if decision.act:
                reasons[-1] += " was requested before"
        if product.drift.retrain and newest:
            month = add_months(month_of(newest[-1]), -1)
            record = Ledger(tables, product.name).latest(DRIFT_REPORT, {month}).get(month)
            drifted = record is not None and _has_drifted(record)
            decision = retraining.decide_on_drift(product, month, drifted, attempts, newest, busy)
            reasons.append(decision.reason)
            asked = f"drift/{month}"
            if decision.act and asked not in requested:
                request = retrain_request(product, decision.month, decision.as_of, run_key=asked)
                remembered = [*requested, asked][-REMEMBERED_EVALUATIONS:]
                return dg.SensorResult(run_requests=[request], cursor=json.dumps(remembered))
        reason = "; ".join(reasons) or "nothing has been delivered yet"
        return dg.SensorResult(skip_reason=reason, cursor=context.cursor)

    return retrain_sensor


def _has_drifted(record: DayRecord) -> bool:
    return any(
        check["name"] == NO_DRIFT and not check["passed"] for check in record.details.get("checks", [])
    )


def retrain_request(product: Product, month: date, as_of: date, *, run_key: str) -> dg.RunRequest:
    """A run that trains a month's model again, as of a later day."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=month.isoformat(),
        run_config=model_config(product, as_of),
        tags={"ml_platform/as_of": as_of.isoformat()},
    )


def model_config(product: Product, as_of: date | None, *, force: bool = False) -> dg.RunConfig:
    """The run configuration of the model's asset."""
    config = ModelConfig(as_of=as_of.isoformat() if as_of else None, force=force)
    return dg.RunConfig(ops={asset_key(product, MODEL).to_python_identifier(): config})


def training_in_progress(instance: dg.DagsterInstance, product: Product) -> bool:
    """Whether a run that trains this product's model is under way, after ending those that were killed."""
    processes.reap(instance)
    key = asset_key(product, MODEL)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    return any(
        run.job_name == f"{product.name}_{MODEL}" or key in (run.asset_selection or ()) for run in unfinished
    )


# -- the month's model -------------------------------------------------------------------------------


def model_is_due(product: Product, settings: Settings, today: date) -> tuple[bool, str]:
    """Whether this month's model can be trained: its labels are complete, or overdue; and why (not)."""
    month = month_of(today)
    if month < product.first_month:
        return False, f"the first model is that of {product.first_month:%Y-%m}"
    ledger = Ledger(Tables.of(settings), product.name)
    done = ledger.latest(MODEL, {month}).get(month)
    if done is not None and done.usable:
        return False, f"the model of {month:%Y-%m} has been trained"
    if done is not None:
        return False, f"the model of {month:%Y-%m} was {done.outcome}: {done.reason}"
    last = month - timedelta(days=1 + product.source.label_delay_days)
    first = max(month_of(last), product.start)
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    known = ledger.latest("mrds", set(days))
    waiting = [day for day in days if day not in known or not _labels_have_come(known[day])]
    if not waiting:
        return True, f"all labels before {month} that can be known have come"
    if today.day >= OVERDUE_ON:
        return True, f"overdue: {len(waiting)} days have no labels, the first is {waiting[0]}"
    return False, f"waiting for the labels of {len(waiting)} days, the first is {waiting[0]}"


def _labels_have_come(record: DayRecord) -> bool:
    return record.outcome == "empty" or bool(record.counts.get("labelled"))


def _model_schedule(product: Product, settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{product.name}_model_schedule",
        job_name=f"{product.name}_model",
        cron_schedule="0 8 1-7 * *",
        execution_timezone=product.timezone,
        description="Trains the month's model once every label before it has come, or is overdue.",
    )
    def model_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        today = context.scheduled_execution_time.date()
        due, reason = model_is_due(product, settings, today)
        if not due:
            return dg.SkipReason(reason)
        month = month_of(today).isoformat()
        return dg.RunRequest(run_key=month, partition_key=month, tags={"ml_platform/reason": reason[:250]})

    return model_schedule


# -- the month's drift -------------------------------------------------------------------------------


def _drift_schedule(product: Product) -> dg.ScheduleDefinition:
    # The labels of the month's last day come so many days after it, in the morning.
    day = min(3 + product.source.label_delay_days, 28)

    @dg.schedule(
        name=f"{product.name}_drift_schedule",
        job_name=f"{product.name}_drift",
        cron_schedule=f"0 9 {day} * *",
        execution_timezone=product.timezone,
        description="Measures the drift of the month before, when its labels have come.",
    )
    def drift_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        month = add_months(month_of(context.scheduled_execution_time.date()), -1)
        if month < product.start:
            return dg.SkipReason(f"{month:%Y-%m} is no whole month of the product")
        return dg.RunRequest(run_key=month.isoformat(), partition_key=month.isoformat())

    return drift_schedule


# -- the week's maintenance --------------------------------------------------------------------------


def _maintenance_schedule(product: Product) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{product.name}_maintenance_schedule",
        job_name=f"{product.name}_{MAINTENANCE}",
        cron_schedule="0 22 * * 0",
        execution_timezone=product.timezone,
        description="Tidies up the tables on Sunday evening.",
    )
