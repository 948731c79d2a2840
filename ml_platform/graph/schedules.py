"""What requests runs when a date has come: the month's model, its drift, the week's maintenance.

All of it is off until it is switched on in the UI. No schedule starts Spark.
"""

from datetime import date, timedelta

import dagster as dg

from ml_platform.contract.assets import MAINTENANCE, MODEL
from ml_platform.contract.days import add_months, month_of
from ml_platform.contract.product import Product
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Day of the month on which a model no longer waits for labels that should have come.
OVERDUE_ON = 5


#: Days after a month's end, or after its last labels are due, on which its drift is measured: what is late
#: by a day or two is in it.
DRIFT_AFTER_DAYS = 2


#: Days that a month's drift waits for the month's labels; beyond it that is worth more early than complete.
DRIFT_WAITS_DAYS = 7


def schedules(product: Product, settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules of a product; a finished history needs none."""
    if product.end:
        return []
    return [_model_schedule(product, settings), _drift_schedule(product), _maintenance_schedule(product)]


# -- the month's model -------------------------------------------------------------------------------


def model_is_due(product: Product, settings: Settings, today: date) -> tuple[bool, str]:
    """Whether this month's model can be trained: its labels are complete, or overdue; and why (not)."""
    month = month_of(today)
    if month < product.first_month:
        return False, f"the first model is that of {product.first_month:%Y-%m}"
    ledger = Ledger(Tables.of(settings), product.name)
    done = ledger.latest(MODEL, {month}, details=False).get(month)
    if done is not None and done.outcome == "written":
        return False, f"the model of {month:%Y-%m} has been trained"
    if done is not None and done.outcome != "not_due":
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
    return record.outcome in ("empty", "not_due") or (labelled > 0 and labelled >= share * rows)


def _model_schedule(product: Product, settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{product.name}_model_schedule",
        job_name=f"{product.name}_model",
        cron_schedule="0 8 * * *",
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
    delay = product.label_takes
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
