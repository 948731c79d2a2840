"""What requests runs when something has happened: the landing sensor and the retrain sensor.

All of it is off until it is switched on in the UI. Ticks read names, small tables, the event log, and of new
files their bytes; none starts Spark.
"""

import functools
import json
from collections.abc import Mapping
from datetime import date

import dagster as dg

from ml_platform.contract.assets import DRIFT_REPORT, NO_DRIFT
from ml_platform.contract.product import Product
from ml_platform.data_engineering.arrivals import ArrivalRegister
from ml_platform.data_engineering.object_store import landing_of
from ml_platform.graph import deliveries, ledger_views, partitions, run_processes
from ml_platform.graph.assets import asset_key
from ml_platform.graph.jobs import UNFINISHED, retrain_request, status_of, training_in_progress, unique_key
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Evaluations for which a retrain was requested, kept in the cursor; only the newest days' can ask again.
REMEMBERED_EVALUATIONS = 20


def sensors(product: Product, settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors of a product."""
    return [_landing_sensor(product, settings), _retrain_sensor(product, settings)]


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
        tables = Tables.of(settings)
        ledger = Ledger(tables, product.name)
        pending = deliveries.pending(
            product,
            settings,
            ledger_views.made_from(ledger),
            turn=requested.turn,
            also=requested.days,
            register=ArrivalRegister(tables, product),
            watching=settings.watch_arrivals,
        )
        if pending.warning:
            context.log.warning(pending.warning)
        due = requested.due(pending.states, lambda key: status_of(context.instance, key))
        new = [_request_over(first, last, pending, due) for first, last in deliveries.ranges(list(due))]
        after = requested.after(pending.states, new, pending.next_turn)
        cursor = after.write()
        if not new:  # a day that waits for people doesn't keep others waiting
            again, after = _windows_again(context.instance, product, settings, ledger, after)
            cursor = after.write()
            if again is not None:
                return dg.SensorResult(run_requests=[again], cursor=cursor)
            again = _evaluate_again(context.instance, product, settings, ledger, pending.newest)
            if again is not None:
                return dg.SensorResult(run_requests=[again], cursor=cursor)
        if not new:
            return dg.SensorResult(skip_reason=_nothing_due(pending), cursor=cursor)
        requests = [
            dg.RunRequest(run_key=request.run_key, tags=partitions.range_tags(request.first, request.last))
            for request in new
        ]
        events = [
            dg.AssetMaterialization(
                asset_key(product, "landing"),
                partition=day.isoformat(),
                metadata={"folder": str(landing_of(settings, product) / product.name / day.isoformat())},
            )
            for day in due
            if pending.states[day].stamp not in (deliveries.UNSEEN, deliveries.WITHDRAWN)
        ]
        return dg.SensorResult(run_requests=requests, cursor=cursor, asset_events=events)

    return landing_sensor


def _windows_again(
    instance: dg.DagsterInstance,
    product: Product,
    settings: Settings,
    ledger: Ledger,
    requested: deliveries.Requested,
) -> tuple[dg.RunRequest | None, deliveries.Requested]:
    """A run over the days whose windows hold days that have changed since, once no other run is at work.

    Also what has been requested by then, in which days are found that such runs leave as they are.
    """
    if not product.mrds.over_days:
        return None, requested
    from ml_platform.graph import trailing_days

    states = trailing_days.outdated(product, settings, ledger)
    if states:
        run_processes.reap(instance)
    at_work = dg.RunsFilter(job_name=f"{product.name}_daily", statuses=UNFINISHED)
    if states and instance.get_runs(at_work, limit=1):
        return None, requested
    due = requested.windows_due(states, lambda key: status_of(instance, key))
    if not due:
        return None, requested.after_windows(states, [])
    first, last = min(due), max(due)
    request = deliveries.Request(
        first,
        last,
        unique_key(f"windows/{first}/{last}"),
        attempt=max(due.values()),
        tokens={day: states[day].token for day in due},
    )
    again = dg.RunRequest(run_key=request.run_key, tags=partitions.range_tags(first, last))
    return again, requested.after_windows(states, [request])


def _evaluate_again(
    instance: dg.DagsterInstance, product: Product, settings: Settings, ledger: Ledger, newest: date | None
) -> dg.RunRequest | None:
    """A run over the newest evaluations that don't know yet what is there, once no other run is at work.

    For one state of the ledger one such run is requested; one that failed, or whose process has died, again,
    some times.
    """
    from ml_platform.graph import evaluations

    days = evaluations.outdated(product, settings, ledger, newest)
    if days:
        run_processes.reap(instance)
    at_work = dg.RunsFilter(job_name=f"{product.name}_daily", statuses=UNFINISHED)
    if not days or instance.get_runs(at_work, limit=1):
        return None
    for attempt in range(1, deliveries.ATTEMPTS + 1):
        key = f"evaluations/{days[0]}/{days[-1]}/{ledger.version()}/{attempt}"
        status = status_of(instance, key)
        if status is None:
            return dg.RunRequest(
                run_key=key,
                asset_selection=[asset_key(product, "model_performance")],
                tags=partitions.range_tags(days[0], days[-1]),
            )
        if status != dg.DagsterRunStatus.FAILURE:
            return None
    return None


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
        from ml_platform.machine_learning import model_history, performance, retraining

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
        decided = model_history.stamp(tables, product)
        attempts = ledger_views.of_version(
            ledger, "attempts", lambda: model_history.attempts(tables, product), argument=decided
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
            ledger, "due", lambda: model_history.decisions_due(tables, product), argument=decided
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
        return key is not None and (not key or status_of(self._instance, key) is not None)

    def with_(self, evaluation: str, key: str) -> str:
        """The cursor that remembers one more; the oldest are forgotten."""
        keys = {name: known for name, known in self._keys.items() if name != evaluation} | {evaluation: key}
        return json.dumps(dict(list(keys.items())[-REMEMBERED_EVALUATIONS:]))


def _has_drifted(record: DayRecord) -> bool:
    return any(
        check["name"] == NO_DRIFT and not check["passed"] for check in record.details.get("checks", [])
    )
