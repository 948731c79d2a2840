"""The sensor that tells people: one message a tick, product and channel, of what is wrong and well again.

It looks at the ledger, at the runs of the last days, and at the clock for what is overdue. The cursor
keeps what each channel has been told and moves after the message was sent: a dead channel is told later,
a crash in between may repeat a message, none is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ml_platform.data_engineering import landing
from ml_platform.graph.assets import DAILY_ASSETS, DRIFT_REPORT, MODEL
from ml_platform.graph.automation import OVERDUE_ON, model_is_due
from ml_platform.graph.partitions import RANGE_TAGS
from ml_platform.mlops import alerts, channels
from ml_platform.mlops.alerts import Finding, Links, Told
from ml_platform.product import Product, month_of
from ml_platform.settings import AlertChannel, Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Runs that are looked at: those of so many days, and at most so many.
RUN_DAYS, RUNS = 7, 500
#: Event days, from yesterday back, that can be overdue.
OVERDUE_DAYS = 7

Clock = Callable[[ZoneInfo], datetime]


def alert_sensor(product: Product, settings: Settings, *, clock: Clock = datetime.now) -> dg.SensorDefinition:
    """The sensor of a product."""

    @dg.sensor(
        name=f"{product.name}_alert_sensor",
        minimum_interval_seconds=60,
        description=(
            "Tells the configured channels when a check or a run fails, when something is overdue, and when "
            "it is well again: one message a tick and channel, never the same news twice."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        wanted = [one for one in channels.configured(settings) if channels.wants(one, product)]
        if not wanted:
            return dg.SensorResult(skip_reason="no channel wants this product's news", cursor=context.cursor)
        wrong, well = findings(product, settings, context.instance, clock)
        told: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
        words = []
        for channel in wanted:
            before = Told(told.get(channel.name, {}))
            after, outcome = _tell(product, settings, channel, before, wrong, well)
            told[channel.name] = after.findings
            words.append(f"{channel.name}: {outcome}")
            if outcome == _REFUSED:
                context.log.warning(
                    f"the alert channel {channel.name!r} took no message; tried again next tick"
                )
        names = {one.name for one in wanted}
        cursor = json.dumps({name: known for name, known in told.items() if name in names})
        return dg.SensorResult(skip_reason="; ".join(words), cursor=cursor)

    return sensor


_REFUSED = "took no message, is tried again"


def _tell(
    product: Product,
    settings: Settings,
    channel: AlertChannel,
    before: Told,
    wrong: Sequence[Finding],
    well: dict[str, str],
) -> tuple[Told, str]:
    """Send a channel its news; what it knows then, and what happened in words."""
    severity = "error" if "error" in (channel.severity, product.alerts.severity) else "warning"
    now = alerts.at_least(wrong, severity)  # type: ignore[arg-type]
    news = before.news(now, well)
    if not news:
        return before.after(now), "nothing new"
    if not channels.send(channel, alerts.message(product, news, Links(settings.dagster_ui_url))):
        return before, _REFUSED
    return before.after(now), f"told of {len(news.wrong)} wrong, {len(news.well)} well again"


def findings(
    product: Product, settings: Settings, instance: dg.DagsterInstance, clock: Clock = datetime.now
) -> tuple[list[Finding], dict[str, str]]:
    """What is wrong with a product now, and by key why what isn't wrong is well."""
    ledger = Ledger(Tables.of(settings), product.name)
    records: dict[str, dict[date, DayRecord]] = {
        asset: ledger.latest(asset) for asset in (*DAILY_ASSETS, MODEL, DRIFT_REPORT)
    }
    wrong, well = alerts.of_records(records)
    reports = {
        day: str(record.details.get("metadata", {}).get("report", ""))
        for day, record in records["validation_report"].items()
    }
    wrong = [
        replace(one, report=reports.get(date.fromisoformat(one.partition), ""))
        if one.asset in ("ards", "mrds") and not one.report
        else one
        for one in wrong
    ]
    now = clock(ZoneInfo(product.timezone))
    failed, passed = _runs(product, instance, now, {(one.asset, one.partition) for one in wrong})
    overdue, in_time = _overdue(product, settings, records, now)
    return [*wrong, *failed, *overdue], {**well, **passed, **in_time}


# -- runs --------------------------------------------------------------------------------------------


def _runs(
    product: Product, instance: dg.DagsterInstance, now: datetime, known: set[tuple[str, str]]
) -> tuple[list[Finding], dict[str, str]]:
    """The newest run over each job and range of days, if it failed and its day isn't known to be bad."""
    records = instance.get_run_records(
        filters=dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS],
            created_after=now - timedelta(days=RUN_DAYS),
        ),
        limit=RUNS,
    )
    wrong: list[Finding] = []
    well: dict[str, str] = {}
    seen = set()
    for record in records:  # the newest first
        run = record.dagster_run
        assets = _assets_of(run, product)
        if not assets:
            continue
        first, last = _days_of(run)
        key = f"run/{run.job_name}/{','.join(assets)}/{first}/{last}"
        if key in seen:
            continue
        seen.add(key)
        if run.status == dg.DagsterRunStatus.SUCCESS:
            well[key] = f"succeeded in run {run.run_id[:8]}"
        elif not (first == last and any((asset, first) in known for asset in assets)):
            days = first if first == last else f"{first} to {last}"
            wrong.append(
                Finding(
                    key=key,
                    kind="run",
                    asset=", ".join(assets),
                    partition=days,
                    severity="error",
                    subject="run failed",
                    what=_why_failed(instance, run.run_id),
                    since=f"{record.create_timestamp.astimezone(now.tzinfo):%Y-%m-%d %H:%M}",
                    run_id=run.run_id,
                )
            )
    return wrong, well


def _assets_of(run: dg.DagsterRun, product: Product) -> list[str]:
    """The product's assets that a run was to make, in the graph's order."""
    selected = [key.path for key in run.asset_selection or ()]
    if not selected and run.job_name in (
        f"{product.name}_daily",
        f"{product.name}_model",
        f"{product.name}_drift",
    ):
        return [run.job_name.removeprefix(f"{product.name}_")]
    order = (*DAILY_ASSETS, MODEL, DRIFT_REPORT)
    chosen = [path[1] for path in selected if len(path) == 2 and path[0] == product.name]
    return sorted(chosen, key=lambda one: order.index(one) if one in order else len(order))


def _days_of(run: dg.DagsterRun) -> tuple[str, str]:
    first, last = (run.tags.get(tag, "") for tag in RANGE_TAGS)
    single = run.tags.get("dagster/partition", "")
    return (first or single, last or single)


def _why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    """Which step failed, and the reason if it is one of ours: other messages may hold anything."""
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    for entry in logs:
        event = entry.dagster_event
        if event is None:
            continue
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            return f"{event.step_key}: {data.user_failure_data.description}"
        error = data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return f"{event.step_key}: {error.cls_name if error else 'failed'}"
    return "the run ended before a step did"


# -- what is overdue ---------------------------------------------------------------------------------


def _overdue(
    product: Product, settings: Settings, records: dict[str, dict[date, DayRecord]], now: datetime
) -> tuple[list[Finding], dict[str, str]]:
    wrong: list[Finding] = []
    well: dict[str, str] = {}
    for finding, late in _expected(product, settings, records, now):
        if late:
            wrong.append(finding)
        else:
            well[finding.key] = "it has come"
    return wrong, well


def _expected(
    product: Product, settings: Settings, records: dict[str, dict[date, DayRecord]], now: datetime
) -> Iterator[tuple[Finding, bool]]:
    """What should be there by now, and whether it is late."""
    today = now.date()
    for back in range(OVERDUE_DAYS, 0, -1):
        day = today - timedelta(days=back)
        if not product.start <= day <= (product.end or day):
            continue
        stamp = landing.stamp(product, settings.landing_path, day)
        if product.due(day):
            yield from _rows(product, now, day, stamp)
            yield from _labels(product, now, day, records["ards"].get(day))
        if stamp is not None:
            yield from _materialized(product, settings, now, day, records["ards"].get(day))
    if product.end is None and today.day > OVERDUE_ON:
        month = month_of(today)
        due, reason = model_is_due(product, settings, today)
        what = f"the model of {month:%Y-%m} has not been trained: {reason}"
        yield _late("model", month, "model overdue", what, str(today.replace(day=OVERDUE_ON))), due


def _rows(product: Product, now: datetime, day: date, stamp: str | None) -> Iterator[tuple[Finding, bool]]:
    due = _morning(product, product.rows_expected_on(day))
    what = f"no rows have been delivered; they were expected by {due:%Y-%m-%d %H:%M}"
    yield (
        _late("landing", day, "delivery overdue", what, f"{due:%Y-%m-%d %H:%M}"),
        stamp is None and now > due,
    )


def _labels(
    product: Product, now: datetime, day: date, record: DayRecord | None
) -> Iterator[tuple[Finding, bool]]:
    if record is None or not record.counts.get("rows"):
        return
    due = _morning(product, product.labels_expected_on(day))
    share = record.counts.get("labelled", 0) / record.counts["rows"]
    minimum = product.validation.minimum_labelled_share
    what = (
        f"{share:.1%} of the rows have labels; at least {minimum:.1%} were expected by {due:%Y-%m-%d %H:%M}"
    )
    late = share < minimum and now > due
    yield _late("ards", day, "labels overdue", what, f"{due:%Y-%m-%d %H:%M}"), late


def _materialized(
    product: Product, settings: Settings, now: datetime, day: date, record: DayRecord | None
) -> Iterator[tuple[Finding, bool]]:
    folder = settings.landing_path / product.name / day.isoformat()
    landed = datetime.fromtimestamp(_newest(folder), tz=now.tzinfo)
    due = landed + timedelta(hours=product.alerts.materialized_within_hours)
    what = f"the delivery of {landed:%Y-%m-%d %H:%M} has not been materialized"
    late = record is None and now > due
    yield _late("ards", day, "materialization overdue", what, f"{due:%Y-%m-%d %H:%M}"), late


def _newest(folder: Path) -> float:
    return max((one.stat().st_mtime for one in folder.iterdir()), default=folder.stat().st_mtime)


def _morning(product: Product, day: date) -> datetime:
    """The time on a day by which what arrives on it should have come."""
    return datetime.combine(day, time(product.alerts.due_hour), ZoneInfo(product.timezone))


def _late(asset: str, day: date, subject: str, what: str, since: str) -> Finding:
    return Finding(
        key=f"overdue/{asset}/{day}/{subject}",
        kind="overdue",
        asset=asset,
        partition=str(day),
        severity="error",
        subject=subject,
        what=what,
        since=since,
    )
