"""What starts runs by itself: the landing sensor, the retrain sensor, the schedule of the models.

All of it is off until it is switched on in the UI. Ticks read names, small tables and the event log;
none starts Spark.
"""

import functools
import json
import uuid
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ml_platform.engine.step import MAINTENANCE, StepRequest
from ml_platform.graph import deliveries, ledger_views, partitions, processes
from ml_platform.graph.assets import DAILY_ASSETS, DRIFT_REPORT, MODEL, ModelConfig, asset_key
from ml_platform.graph.resources import StepRunner
from ml_platform.graph.retries import retrying
from ml_platform.product import Product, add_months, month_of
from ml_platform.settings import Settings
from ml_platform.steps import NO_DRIFT
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Day of the month on which a model no longer waits for labels that should have come.
OVERDUE_ON = 5
#: Days after a month's end, or after its last labels are due, on which its drift is measured: what is late
#: by a day or two is in it.
DRIFT_AFTER_DAYS = 2
#: Days that a month's drift waits for the month's labels; beyond it that is worth more early than complete.
DRIFT_WAITS_DAYS = 7
#: Evaluations for which a retrain was requested, kept in the cursor; only the newest days' can ask again.
REMEMBERED_EVALUATIONS = 20

#: The tag of every job's runs; deploy/dagster.yaml limits how many of a product are at work at once.
PRODUCT_TAG = "ml_platform/product"
ENGINE_TAG = "ml_platform/engine"
#: Dagster's own tag of a run that a sensor requested with a key.
RUN_KEY_TAG = "dagster/run_key"

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
        with retrying(context):
            context.add_output_metadata(runner.run(request, product, context).metadata)

    @dg.job(
        name=f"{product.name}_{MAINTENANCE}",
        tags=tags,
        description=(
            "Joins small files of the tables, and deletes those that no version of the last weeks needs "
            "(ML_PLATFORM_TABLE_RETENTION_DAYS). Changes no rows, but removes records of the ledger that "
            "have been superseded for as long."
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


def _landing_sensor(product: Product, settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{product.name}_landing_sensor",
        job_name=f"{product.name}_daily",
        minimum_interval_seconds=60,
        description=(
            f"Watches {product.name}'s deliveries, and requests one run over the days that were last made "
            "from other files than those that lie there, for all daily assets; and then one over the newest "
            "evaluations, if labels came after them."
        ),
    )
    def landing_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        requested = deliveries.Requested.read(context.cursor)
        ledger = Ledger(Tables.of(settings), product.name)
        made_from = ledger_views.made_from(ledger)
        pending = deliveries.pending(product, settings, made_from, turn=requested.turn, also=requested.days)
        if pending.warning:
            context.log.warning(pending.warning)
        due = requested.due(pending.states, lambda key: _status_of(context.instance, key))
        new = [_request_over(first, last, pending, due) for first, last in deliveries.ranges(list(due))]
        cursor = requested.after(pending.states, new, pending.next_turn).write()
        if not new and not pending.states:
            again = _evaluate_again(context.instance, product, settings, ledger, pending.newest)
            if again is not None:
                return dg.SensorResult(run_requests=[again], cursor=cursor)
        if not new:
            return dg.SensorResult(skip_reason=_nothing_due(pending), cursor=cursor)
        requests = [
            dg.RunRequest(run_key=one.run_key, tags=partitions.range_tags(one.first, one.last)) for one in new
        ]
        events = [
            dg.AssetMaterialization(
                asset_key(product, "landing"),
                partition=day.isoformat(),
                metadata={"folder": str(settings.landing_path / product.name / day.isoformat())},
            )
            for day in due
            if pending.states[day].stamp not in (deliveries.UNSEEN, deliveries.WITHDRAWN)
        ]
        return dg.SensorResult(run_requests=requests, cursor=cursor, asset_events=events)

    return landing_sensor


def _evaluate_again(
    instance: dg.DagsterInstance, product: Product, settings: Settings, ledger: Ledger, newest: date | None
) -> dg.RunRequest | None:
    """A run over the newest evaluations that don't know yet what is there, once no other run is at work.

    Its key is that of the ledger's version: for one state of the ledger the daemon starts one such run.
    """
    from ml_platform.graph import evaluations

    days = evaluations.outdated(product, settings, ledger, newest)
    at_work = dg.RunsFilter(job_name=f"{product.name}_daily", statuses=_UNFINISHED)
    if not days or instance.get_runs(at_work, limit=1):
        return None
    return dg.RunRequest(
        run_key=f"evaluations/{days[0]}/{days[-1]}/{ledger.version()}",
        asset_selection=[asset_key(product, "model_performance")],
        tags=partitions.range_tags(days[0], days[-1]),
    )


def _request_over(
    first: date, last: date, pending: deliveries.Pending, due: Mapping[date, int]
) -> deliveries.Request:
    inside = {day: pending.states[day] for day in due if first <= day <= last}
    return deliveries.Request(
        first,
        last,
        unique_key(f"{first}/{last}"),
        attempt=max(due[day] for day in inside),
        tokens={day: state.token for day, state in inside.items() if state.stamp != deliveries.UNSEEN},
    )


def _nothing_due(pending: deliveries.Pending) -> str:
    newest = (
        f"the newest delivered day is {pending.newest}" if pending.newest else "nothing has been delivered"
    )
    if pending.states:
        return f"{len(pending.states)} days wait for runs that were requested: {newest}"
    return f"nothing new: {newest}"


def unique_key(name: str) -> str:
    """A run key that no request before had.

    The daemon drops a request whose key any run of the sensor ever had, and a state may come back. That no
    request is submitted twice is the daemon's care: it stores a tick's requests before it submits them.
    """
    return f"{name}/{uuid.uuid4().hex[:12]}"


def _status_of(instance: dg.DagsterInstance, run_key: str) -> dg.DagsterRunStatus | None:
    """The status of the run with a key of :func:`unique_key`; None if there is no such run."""
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1)
    return runs[0].status if runs else None


# -- retraining --------------------------------------------------------------------------------------


def _retrain_sensor(product: Product, settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{product.name}_retrain_sensor",
        job_name=f"{product.name}_model",
        minimum_interval_seconds=60,
        description=(
            "Requests a retrain when an evaluation of one of the newest three landed days is below the "
            "threshold, once per evaluation and never within the cooldown; and the comparison of a model "
            "that had to wait for the labels of the days after it."
        ),
    )
    def retrain_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from ml_platform.machine_learning import models, performance, retraining

        tables = Tables.of(settings)
        newest = deliveries.landed_days(product, settings)[-retraining.NEWEST_DAYS :]
        ledger = Ledger(tables, product.name)
        evaluations = ledger_views.of_version(
            performance.table(tables, product),
            "newest",
            lambda: {
                day: row for day, row in performance.evaluations(tables, product).items() if day in newest
            },
            argument=tuple(newest),
        )
        decided = tuple(tables.control.stamp(product.name, name) for name in models.TABLES)
        attempts = ledger_views.of_version(
            ledger, "attempts", lambda: models.attempts(tables, product), argument=decided
        )
        memory = _Asked(context)
        # The runs at work are looked at only if there is a reason to train.
        is_busy = functools.cache(lambda: training_in_progress(context.instance, product))
        reasons = []
        for day in newest:
            if day not in evaluations:
                reasons.append(f"{day}: not evaluated yet")
                continue
            row = performance.performance_row(evaluations[day])
            decision = retraining.decide(product, row, attempts, newest, in_progress=False)
            if decision.act and is_busy():
                decision = retraining.decide(product, row, attempts, newest, in_progress=True)
            reasons.append(decision.reason)
            evaluation = f"{day}/{row.fingerprint}"
            if decision.act and not memory.has(evaluation):
                key = unique_key(evaluation)
                request = retrain_request(product, decision.month, decision.as_of, run_key=key)
                return dg.SensorResult(run_requests=[request], cursor=memory.with_(evaluation, key))
            if decision.act:
                reasons[-1] += " was requested before"
        due = ledger_views.of_version(
            ledger, "due", lambda: models.decisions_due(tables, product), argument=decided
        )
        for model in due:
            reasons.append(f"the model as of {model.as_of} can be compared")
            compared = f"compare/{model.as_of}/{model.fingerprint}"
            if not is_busy() and not memory.has(compared):
                as_of = model.as_of if model.kind == "retrain" else None
                key = unique_key(compared)
                request = retrain_request(product, model.month, as_of, run_key=key)
                return dg.SensorResult(run_requests=[request], cursor=memory.with_(compared, key))
        if product.drift.retrain and newest:
            month = retraining.drift_month(product, newest[-1])
            record = ledger_views.of_version(
                ledger, "drift", lambda: ledger.latest(DRIFT_REPORT, {month}).get(month), argument=month
            )
            drifted = record is not None and _has_drifted(record)
            decision = retraining.decide_on_drift(product, month, drifted, attempts, newest, False)
            if decision.act and is_busy():
                decision = retraining.decide_on_drift(product, month, drifted, attempts, newest, True)
            reasons.append(decision.reason)
            measured = f"drift/{month}/{record.fingerprint or record.inputs}" if record else ""
            if decision.act and not memory.has(measured):
                key = unique_key(measured)
                request = retrain_request(product, decision.month, decision.as_of, run_key=key)
                return dg.SensorResult(run_requests=[request], cursor=memory.with_(measured, key))
        reason = "; ".join(reasons) or "nothing has been delivered yet"
        return dg.SensorResult(skip_reason=reason, cursor=context.cursor)

    return retrain_sensor


class _Asked:
    """The evaluations for which a retrain was requested, with the keys of its runs; a sensor's cursor.

    One whose run never came to be counts as not requested.
    """

    def __init__(self, context: dg.SensorEvaluationContext) -> None:
        self._instance = context.instance
        values = json.loads(context.cursor) if context.cursor else {}
        # A list of evaluations is a cursor of an earlier version, which knew no runs.
        self._keys: dict[str, str] = values if isinstance(values, dict) else dict.fromkeys(values, "")

    def has(self, evaluation: str) -> bool:
        key = self._keys.get(evaluation)
        return key is not None and (not key or _status_of(self._instance, key) is not None)

    def with_(self, evaluation: str, key: str) -> str:
        """The cursor that remembers one more; the oldest are forgotten."""
        keys = {name: known for name, known in self._keys.items() if name != evaluation} | {evaluation: key}
        return json.dumps(dict(list(keys.items())[-REMEMBERED_EVALUATIONS:]))


def _has_drifted(record: DayRecord) -> bool:
    return any(
        check["name"] == NO_DRIFT and not check["passed"] for check in record.details.get("checks", [])
    )


def retrain_request(product: Product, month: date, as_of: date | None, *, run_key: str) -> dg.RunRequest:
    """A run that trains a month's model again as of a later day, or decides about the month's own."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=month.isoformat(),
        run_config=model_config(product, as_of),
        tags={"ml_platform/as_of": (as_of or month).isoformat()},
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
    done = ledger.latest(MODEL, {month}, details=False).get(month)
    if done is not None and done.usable:
        return False, f"the model of {month:%Y-%m} has been trained"
    if done is not None:
        return False, f"the model of {month:%Y-%m} was {done.outcome}: {done.reason}"
    last = product.last_labelled_day(month)
    first = max(month_of(last), product.start)
    days = product.due_days(first + timedelta(days=n) for n in range((last - first).days + 1))
    known = ledger.latest("mrds", set(days), details=False)
    waiting = [day for day in days if day not in known or not _labels_have_come(product, known[day])]
    if not waiting:
        return True, f"all labels before {month} that can be known have come"
    if today.day >= OVERDUE_ON:
        return True, f"overdue: {len(waiting)} days have no labels, the first is {waiting[0]}"
    return False, f"waiting for the labels of {len(waiting)} days, the first is {waiting[0]}"


def _labels_have_come(product: Product, record: DayRecord) -> bool:
    """Whether a day has its labels; the few that come early don't make it one."""
    labelled, rows = record.counts.get("labelled", 0), record.counts.get("rows", 0)
    share = product.validation.minimum_labelled_share
    return record.outcome == "empty" or (labelled > 0 and labelled >= share * rows)


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


def drifts_due(product: Product, today: date) -> dict[str, date]:
    """The months whose drift is to be measured today, by the keys of their runs.

    A month's labels can be known so many days after its end as labels take. One whose labels take longer than
    :data:`DRIFT_WAITS_DAYS` is measured twice: without them when its rows have come, and with them.
    """
    delay = product.source.label_delay_days
    twice = delay > DRIFT_WAITS_DAYS
    found = {}
    if twice and (rows_alone := today - timedelta(days=DRIFT_AFTER_DAYS)).day == 1:
        month = add_months(rows_alone, -1)
        found[f"{month}"] = month
    if (with_labels := today - timedelta(days=DRIFT_AFTER_DAYS + delay)).day == 1:
        month = add_months(with_labels, -1)
        found[f"{month}/labels" if twice else f"{month}"] = month
    return found


def _drift_schedule(product: Product) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{product.name}_drift_schedule",
        job_name=f"{product.name}_drift",
        cron_schedule="0 9 * * *",
        execution_timezone=product.timezone,
        description=(
            "Measures the drift of a month when its labels have come; where they take longer than a week, "
            "first without them, two days after its end."
        ),
    )
    def drift_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        due = drifts_due(product, context.scheduled_execution_time.date())
        due = {run_key: month for run_key, month in due.items() if month >= product.start}
        if not due:
            return dg.SkipReason("no month's drift is to be measured today")
        return [
            dg.RunRequest(run_key=run_key, partition_key=month.isoformat()) for run_key, month in due.items()
        ]

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
