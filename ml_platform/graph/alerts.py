"""The sensor that tells people: one message a tick, product and channel, of what is wrong and resolved.

It looks at the ledger, at the runs of the last days, and at the clock for what is overdue; what can't be
looked at is a finding itself, and hides no other. The cursor keeps what each channel has been told and moves
after the message was sent: a dead channel is tried again later and later, a crash in between may repeat a
message, none is lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ml_platform.contract.assets import VALIDATION_REPORT, validated
from ml_platform.contract.days import month_of
from ml_platform.contract.product import Product
from ml_platform.data_engineering import absences, day_folders, landing
from ml_platform.data_engineering.arrivals import ArrivalRegister
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.landing import Look
from ml_platform.data_engineering.object_store import Place, landing_of
from ml_platform.engine.report_targets import report_base
from ml_platform.graph import deliveries, failed_runs, ledger_views
from ml_platform.graph.schedules import OVERDUE_ON, model_is_due
from ml_platform.mlops.alerts import channels, messages
from ml_platform.mlops.alerts.channel_states import ChannelState, Entry, read_cursor, write_cursor
from ml_platform.mlops.alerts.findings import (
    FINDING_DAYS,
    Finding,
    at_least,
    day_of,
    missing_key,
    source_of,
    why_well,
)
from ml_platform.mlops.links import Links
from ml_platform.mlops.remedies import (
    DELIVERY_OVERDUE,
    GONE,
    LABELS_OVERDUE,
    MODEL_OVERDUE,
    UNMADE,
)
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DayRecord, Ledger
from ml_platform.storage.tables import Tables

#: Event days that can be overdue, from the newest back whose rows, or whose labels, are due.
OVERDUE_DAYS = 7

Clock = Callable[[ZoneInfo], datetime]


def alert_sensor(product: Product, settings: Settings, *, clock: Clock = datetime.now) -> dg.SensorDefinition:
    """The sensor of a product."""

    @dg.sensor(
        name=f"{product.name}_alert_sensor",
        minimum_interval_seconds=60,
        description=(
            "Tells the configured channels when a check or a run fails, when something is overdue, and when "
            "it is resolved: one message a tick and channel, never the same news twice."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        wanted = [
            configured for configured in channels.configured(settings) if channels.wants(configured, product)
        ]
        if not wanted:
            return dg.SensorResult(skip_reason="no channel wants this product's news", cursor=context.cursor)
        now = clock(ZoneInfo(product.timezone))
        before = read_cursor(context.cursor)
        states = {channel.name: before.get(channel.name, ChannelState()) for channel in wanted}
        situation = look(product, settings, context.instance, now, states.values())
        for source, error in situation.failures.items():
            context.log.warning(f"the {source} can't be looked at: {type(error).__name__}")
        current = situation.recent(now)
        links = links_of(settings)
        outgoing: dict[str, channels.Outgoing] = {}
        words: dict[str, str] = {}
        for channel in wanted:
            state = states[channel.name]
            severity = "error" if "error" in (channel.severity, product.alerts.severity) else "warning"
            known = at_least(current, severity)  # type: ignore[arg-type]
            news = state.news(known, situation.well)
            unknown = situation.failures
            if not news:
                states[channel.name] = state.sent(known, unknown)
                words[channel.name] = "nothing new"
                continue
            refused = state.refused(news, known, now, unknown)
            if state.is_waiting(now):
                states[channel.name] = replace(refused, failures=state.failures, retry_at=state.retry_at)
                words[channel.name] = f"is tried again after {state.retry_at}"
                continue
            with_reports = tuple(situation.with_reports(news.wrong, links))
            outgoing[channel.name] = channels.Outgoing(
                channel,
                messages.message(product, replace(news, wrong=with_reports), links),
            )
            words[channel.name] = f"sent: {len(news.wrong)} wrong, {len(news.well)} resolved"
            states[channel.name] = state.sent(known, unknown)
            before[channel.name] = refused
        for name, problem in channels.send_all(outgoing).items():
            if problem:
                states[name] = before[name]
                words[name] = f"{problem}; is tried again after {before[name].retry_at}"
                context.log.warning(f"the alert channel {name!r} {words[name]}")
        listed = "; ".join(f"{name}: {text}" for name, text in words.items())
        return dg.SensorResult(skip_reason=listed, cursor=write_cursor(states))

    return sensor


def links_of(settings: Settings) -> Links:
    """Where a deployment's pages are."""
    return Links(settings.dagster_ui_url, report_base(settings))


@dataclass
class Situation:
    """What is wrong with a product, by key why what was reported is well, and what couldn't be looked at."""

    ledger: Ledger
    product: str
    wrong: list[Finding] = field(default_factory=list)
    well: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)

    def recent(self, now: datetime) -> list[Finding]:
        """What is wrong, without what the ledger has known for long."""
        oldest = (now - timedelta(days=FINDING_DAYS)).timestamp() * 1e9
        return [finding for finding in self.wrong if not 0 < finding.recorded_at < oldest]

    def with_reports(self, found: Sequence[Finding], links: Links) -> list[Finding]:
        """Findings with the causes that the validation reports name, and the addresses of these."""
        wanted = [finding for finding in found if finding.asset in validated() and finding.recorded_at]
        days = {date.fromisoformat(finding.partition) for finding in messages.listed(wanted)}
        records = self.ledger.latest(VALIDATION_REPORT, days) if days else {}
        return [self._with_report(finding, records, links) for finding in found]

    def _with_report(self, finding: Finding, records: Mapping[date, DayRecord], links: Links) -> Finding:
        if finding.report:  # it is of the asset's own report
            address = links.report(self.product, finding.asset, finding.partition)
            return replace(finding, report=address or finding.report)
        if finding.asset not in validated() or not finding.recorded_at:
            return finding
        record = records.get(date.fromisoformat(finding.partition))
        if record is None or record.outcome != "written":
            return finding
        known = record.details.get("metadata", {})
        address = links.report(self.product, VALIDATION_REPORT, finding.partition)
        return replace(
            finding,
            report=address or str(known.get("report", "")),
            causes=str(known.get("causes", "")) if finding.kind == "check" else "",
        )


def look(
    product: Product,
    settings: Settings,
    instance: dg.DagsterInstance,
    now: datetime,
    states: Sequence[ChannelState] | Any = (),
) -> Situation:
    """What is wrong with a product now; each source is looked at, whatever another one raises.

    Args:
        states: of the channels: of what they have been told it is said why it is well, if it is.
    """
    reported: dict[str, Entry] = {}
    for state in states:
        reported |= {**state.unsent, **state.reported}
    ledger = Ledger(Tables.of(settings), product.name)
    situation = Situation(ledger, product.name)
    sources: dict[str, Callable[[], tuple[list[Finding], Mapping[str, str]]]] = {
        "ledger": lambda: _recorded(ledger, reported),
        "runs": lambda: failed_runs.findings(
            product, instance, now, {(finding.asset, finding.partition) for finding in situation.wrong}
        ),
        "clock": lambda: _overdue(product, settings, ledger, now, reported),
    }
    for source, look_at in sources.items():
        try:
            wrong, well = look_at()
        except Exception as error:
            situation.failures[source] = error
            situation.wrong.append(_unreadable(source, error, now))
            continue
        known = {finding.key for finding in situation.wrong}
        situation.wrong += [finding for finding in wrong if finding.key not in known]
        situation.well |= {key: why for key, why in well.items() if key not in known}
        situation.well[_unreadable_key(source)] = "it can be looked at again"
    return situation


def findings(
    product: Product, settings: Settings, instance: dg.DagsterInstance, clock: Clock = datetime.now
) -> list[Finding]:
    """What is wrong with a product now, however long it has been."""
    return look(product, settings, instance, clock(ZoneInfo(product.timezone))).wrong


def _unreadable_key(source: str) -> str:
    return f"source/{source}"


def _unreadable(source: str, error: Exception, now: datetime) -> Finding:
    # The message of an error may hold anything; what it is about stands in the tick's log.
    return Finding(
        key=_unreadable_key(source),
        kind="source",
        asset="alerts",
        partition="",
        severity="error",
        subject=f"{source} can't be looked at",
        what=f"{type(error).__name__}; until it can, nothing is reported of the {source}",
        since=f"{now:%Y-%m-%d %H:%M %Z}",
    )


# -- the ledger --------------------------------------------------------------------------------------


def _recorded(ledger: Ledger, reported: Mapping[str, Entry]) -> tuple[list[Finding], dict[str, str]]:
    wrong = list(ledger_views.wrong(ledger))
    present = {finding.key for finding in wrong}
    gone: dict[str, dict[str, date | None]] = {}
    for key, entry in reported.items():
        if source_of(key) == "ledger" and key not in present:
            gone.setdefault(entry.asset, {})[key] = day_of(key)
    well = {}
    for asset, keys in gone.items():
        days = None if None in keys.values() else {day for day in keys.values() if day}
        records = ledger.latest(asset, days)
        newest = max(records, default=None)
        for key, day in keys.items():
            reason = why_well(key, records.get(day or newest or date.min))
            if reason is not None:
                well[key] = reason
    return wrong, well


# -- what is overdue ---------------------------------------------------------------------------------


def _overdue(
    product: Product, settings: Settings, ledger: Ledger, now: datetime, reported: Mapping[str, Entry]
) -> tuple[list[Finding], dict[str, str]]:
    wrong: list[Finding] = []
    well: dict[str, str] = {}
    expected = [
        *_expected(product, settings, ledger, now),
        *_unmade(product, settings, ledger, now, reported),
    ]
    for finding, late in expected:
        if late:
            wrong.append(finding)
        else:
            well[finding.key] = "it has come"
    present = {finding.key for finding, _ in expected}
    for key, entry in reported.items():
        if entry.subject in _OF_FILES and key not in present:
            well[key] = "the tables hold what lies there"
    return wrong, well


def _expected(
    product: Product, settings: Settings, ledger: Ledger, now: datetime
) -> Iterator[tuple[Finding, bool]]:
    """What should be there by now, and whether it is late."""
    today = now.date()
    days = [today - timedelta(days=back) for back in range(OVERDUE_DAYS, 0, -1)]
    labelled = {day: day - timedelta(days=product.source.label_delay_days) for day in days}
    records = ledger_views.of_version(
        ledger,
        "recent",
        lambda: ledger.latest("ards", set(labelled.values()), details=False),
        argument=today,
    )
    looks = landing.looks(product, landing_of(settings, product), days)
    for day, with_labels in labelled.items():
        if product.source.label is not None and product.due(with_labels):
            yield from _labels(product, now, with_labels, records.get(with_labels))
        if not product.start <= day <= (product.end or day):
            continue
        if product.due(day):
            yield from _rows(product, settings, now, day, looks[day].stamp)
    if product.end is None and today.day > OVERDUE_ON:
        month = month_of(today)
        due, reason = ledger_views.of_version(
            ledger, "model_is_due", lambda: model_is_due(product, settings, today), argument=today
        )
        what = f"the model of {month:%Y-%m} has not been trained: {reason}"
        yield _late("model", month, MODEL_OVERDUE, what, str(today.replace(day=OVERDUE_ON))), due


def _rows(
    product: Product, settings: Settings, now: datetime, day: date, stamp: str | None
) -> Iterator[tuple[Finding, bool]]:
    due = _morning(product, product.rows_expected_on(day))
    late = stamp is None and now > due
    what = f"rows were expected by {due:%Y-%m-%d %H:%M %Z}"
    if late:
        reasons = absences.why_absent(
            product, landing_of(settings, product), [day], FileRules.of(settings, product)
        )
        what = f"{reasons[day]}; they were expected by {due:%Y-%m-%d %H:%M %Z}"
    finding = _late("landing", day, DELIVERY_OVERDUE, what, f"{due:%Y-%m-%d %H:%M %Z}")
    # A run that has looked for the delivery says the same of the day.
    yield replace(finding, key=missing_key(day)), late


def _labels(
    product: Product, now: datetime, day: date, record: DayRecord | None
) -> Iterator[tuple[Finding, bool]]:
    if record is None or not record.counts.get("rows"):
        return
    due = _morning(product, product.labels_expected_on(day))
    share = record.counts.get("labelled", 0) / record.counts["rows"]
    minimum = product.validation.minimum_labelled_share
    since = f"{due:%Y-%m-%d %H:%M %Z}"
    what = f"{share:.1%} of the rows have labels; at least {minimum:.1%} were expected by {since}"
    late = share < minimum and now > due
    yield _late("ards", day, LABELS_OVERDUE, what, since), late


_OF_FILES = frozenset({UNMADE, GONE})


def _unmade(
    product: Product, settings: Settings, ledger: Ledger, now: datetime, reported: Mapping[str, Entry]
) -> Iterator[tuple[Finding, bool]]:
    """The days that were last made from other files than those that lie there, and whether for too long."""
    reported_days = [entry.partition for entry in reported.values() if entry.subject == UNMADE]
    pending = deliveries.pending(
        product,
        settings,
        ledger_views.made_from(ledger),
        turn=int(now.timestamp() // 60),
        also=[date.fromisoformat(day) for day in reported_days if " " not in day],
        register=ArrivalRegister(Tables.of(settings), product),
    )
    patience = timedelta(hours=product.alerts.materialized_within_hours)
    place = landing_of(settings, product)
    looks = landing.looks(product, place, list(pending.states))

    def late(day: date, what: str, partition: str = "") -> tuple[Finding, bool]:
        landed = datetime.fromtimestamp(_changed_at(product, place, day, looks), tz=now.tzinfo)
        due = landed + patience
        what = (
            f"{what} at {landed:%Y-%m-%d %H:%M %Z} and {'have' if partition else 'has'} not been materialized"
        )
        finding = _late("ards", day, UNMADE, what, f"{due:%Y-%m-%d %H:%M %Z}")
        if partition:
            finding = replace(finding, partition=partition, key=f"overdue/ards/{UNMADE}")
        return finding, now > due

    unseen = [day for day, state in pending.states.items() if state.stamp == deliveries.UNSEEN]
    if unseen:
        days = f"{unseen[0]} to {unseen[-1]}"
        yield late(unseen[-1], f"{len(unseen)} days were delivered, the last", partition=days)
    for day, state in pending.states.items():
        if state.stamp == deliveries.WITHDRAWN:
            yield late(day, "the day's delivery was withdrawn")
        elif state.stamp != deliveries.UNSEEN:
            yield late(day, "the day's files were changed" if state.made_from else "the day was delivered")
    if pending.warning:
        gone = _late("landing", pending.newest or product.start, GONE, pending.warning, "")
        yield replace(gone, key=f"overdue/landing/{GONE}", partition=""), True


def _changed_at(product: Product, landing_: Place, day: date, looks: Mapping[date, Look]) -> float:
    """When the files of a day were last changed, added or taken away; ``cp -p`` keeps other times.

    An object store doesn't tell when a file was taken away: then it is now.
    """
    place, folder = landing_ / product.name, day_folders.folder_of(product, landing_, day)
    if not isinstance(place, Path) or not isinstance(folder, Path):
        return looks[day].changed or datetime.now(tz=UTC).timestamp()
    try:
        times = [entry.stat().st_ctime for entry in os.scandir(folder)]
        return max([*times, folder.stat().st_ctime])
    except FileNotFoundError:
        return place.stat().st_mtime


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
