"""What is wrong with a product, what of it is news to a channel, and the words of a message.

All pure: findings come from the ledger (and from the graph, for runs and what is overdue), what a channel has
been told is a small state, and the news is the difference. Sending is :mod:`.channels`' business.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any, Literal
from zoneinfo import ZoneInfo

from ml_platform.contract.assets import (
    ARDS,
    CATALOGUE,
    CHECKS,
    DATA_QUALITY,
    LANDING,
    PERFORMANCE_ABOVE_THRESHOLD,
    daily,
)
from ml_platform.contract.days import counted, named
from ml_platform.contract.monitoring import Severity
from ml_platform.contract.product import Product
from ml_platform.mlops.links import Links
from ml_platform.mlops.remedies import DELIVERY_OVERDUE, Remedy, held_back_by, in_words, remedies
from ml_platform.storage.ledger import DayRecord

Kind = Literal["check", "outcome", "run", "overdue", "source"]

#: Outcomes that a person must do something about, and how much they matter. What is held back waits for
#: another day, which is told of itself.
_OUTCOMES: dict[str, Severity] = {
    "refused": "error",
    "missing": "error",
    "blocked": "error",
    "empty": "warning",
}
#: Checks over a window: that they fail again on the next day is no news.
CONTINUING = frozenset({PERFORMANCE_ABOVE_THRESHOLD})
#: Single findings of one asset and check that a message lists; more are counted.
LISTED = 3
#: Characters of a cause, and causes of a finding, that people are shown; the report has all.
_CHARACTERS, _CAUSES = 600, 5
#: What stops the assets below from being made.
_BLOCKING = frozenset({"missing", "refused", "blocked", DATA_QUALITY, DELIVERY_OVERDUE})
#: A finding whose day was recorded longer ago is no longer reported on, and leaves the cursor.
FINDING_DAYS = 90
#: Minutes until a channel that took no message is tried again, doubled with each failure, and at most.
FIRST_RETRY_MINUTES, LAST_RETRY_MINUTES = 1, 60
#: A cursor that is longer is compressed.
_PLAIN_CHARACTERS = 4000


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. ``key`` names it for as long as it lasts.

    ``what`` holds observed and expected; it never holds a row's values. ``since`` is a day, or a time.
    """

    key: str
    kind: Kind
    asset: str
    partition: str
    severity: Severity
    what: str
    subject: str = ""
    since: str = ""
    run_id: str = ""
    report: str = ""
    causes: str = ""
    """What the day's report names as the causes, where it says more than ``what``."""
    recorded_at: int = 0
    """When the ledger recorded it, in nanoseconds; 0 for what isn't in the ledger."""


@dataclass(frozen=True)
class News:
    """What a channel has not been told yet: what is wrong now, and what is resolved."""

    wrong: tuple[Finding, ...] = ()
    well: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wrong or self.well)


@dataclass(frozen=True)
class Message:
    """A message as plain text."""

    title: str
    body: str
    severity: Literal["error", "warning", "resolved"]


# -- what a channel has been told --------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A finding as a cursor keeps it."""

    asset: str
    partition: str
    subject: str
    severity: Severity
    since: str

    @classmethod
    def of(cls, finding: Finding, since: str = "") -> Entry:
        return cls(
            finding.asset, finding.partition, finding.subject, finding.severity, since or finding.since
        )


@dataclass(frozen=True)
class ChannelState:
    """What one channel has been told, and how its last deliveries went.

    ``unsent`` are findings that were news when the channel took no message: should they be well before it
    takes one, it is told that they were wrong.
    """

    reported: Mapping[str, Entry] = field(default_factory=dict)
    unsent: Mapping[str, Entry] = field(default_factory=dict)
    failures: int = 0
    retry_at: str = ""

    def is_waiting(self, now: datetime) -> bool:
        """Whether it is too early to try the channel again."""
        return bool(self.retry_at) and now < datetime.fromisoformat(self.retry_at)

    def news(self, now: Sequence[Finding], well: Mapping[str, str]) -> News:
        """What of ``now`` is new or has become an error, and what was wrong and is well.

        Args:
            well: by key, why a finding is well; of those that aren't wrong any more. What is neither
                wrong nor well has moved out of sight, and is no news.
        """
        wrong = [
            finding
            for finding in now
            if finding.key not in self.reported
            or (finding.severity == "error" and self.reported[finding.key].severity == "warning")
        ]
        present = {finding.key for finding in now}
        resolved = [
            Finding(
                key=key,
                kind="check",
                asset=entry.asset,
                partition=entry.partition,
                severity=entry.severity,
                what=well[key],
                subject=entry.subject,
                since=entry.since,
            )
            for key, entry in {**self.unsent, **self.reported}.items()
            if key not in present and key in well
        ]
        return News(tuple(wrong), tuple(resolved))

    def sent(self, now: Sequence[Finding], unknown: Collection[str] = ()) -> ChannelState:
        """The state once the channel knows all of ``now``.

        Args:
            unknown: sources (:func:`source_of`) that could not be looked at; what was reported of them stays.
        """
        return ChannelState({**self._of(unknown), **self._entries(now)})

    def refused(
        self, news: News, now: Sequence[Finding], at: datetime, unknown: Collection[str] = ()
    ) -> ChannelState:
        """The state after the channel took no message; the next one is due later and later."""
        minutes = min(FIRST_RETRY_MINUTES * 2 ** min(self.failures, 16), LAST_RETRY_MINUTES)
        resolved = {finding.key for finding in news.well}
        known = {finding.key for finding in now} | resolved
        kept = {key: entry for key, entry in self.reported.items() if key in known} | self._of(unknown)
        waiting = {
            key: entry for key, entry in self.unsent.items() if key in known or source_of(key) in unknown
        }
        fresh = {finding.key: Entry.of(finding) for finding in news.wrong if finding.key not in waiting}
        retry = (at + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        return ChannelState(kept, {**waiting, **fresh}, self.failures + 1, retry)

    def _of(self, sources: Collection[str]) -> dict[str, Entry]:
        return {
            key: entry
            for key, entry in self.reported.items()
            if source_of(key) in sources or ("clock" in sources and entry.subject == DELIVERY_OVERDUE)
        }

    def _entries(self, now: Sequence[Finding]) -> dict[str, Entry]:
        known = {**self.unsent, **self.reported}
        return {
            finding.key: Entry.of(finding, known[finding.key].since if finding.key in known else "")
            for finding in now
        }


def source_of(key: str) -> str:
    """Where findings with such a key come from: ``runs``, ``clock`` or ``ledger``."""
    return {"run": "runs", "overdue": "clock"}.get(key.partition("/")[0], "ledger")


def read_cursor(cursor: str | None) -> dict[str, ChannelState]:
    """The states of the channels, by name."""
    if not cursor:
        return {}
    if cursor.startswith("z"):
        cursor = zlib.decompress(base64.b85decode(cursor[1:])).decode()
    values = json.loads(cursor)
    if "channels" not in values:
        return {name: ChannelState(_of_earlier_version(told)) for name, told in values.items()}
    return {
        name: ChannelState(
            _unpacked(state["reported"]), _unpacked(state["unsent"]), state["failures"], state["retry_at"]
        )
        for name, state in values["channels"].items()
    }


def write_cursor(states: Mapping[str, ChannelState]) -> str:
    """The states as a cursor: days of one finding as ranges, and compressed where that is long."""
    channels = {
        name: {
            "reported": _packed(state.reported),
            "unsent": _packed(state.unsent),
            "failures": state.failures,
            "retry_at": state.retry_at,
        }
        for name, state in states.items()
    }
    text = json.dumps({"channels": channels}, separators=(",", ":"))
    if len(text) <= _PLAIN_CHARACTERS:
        return text
    return "z" + base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def _of_earlier_version(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """The findings of a cursor that had one entry of plain fields each, and no outcome in its keys."""
    found = {}
    for key, values in told.items():
        entry = Entry(**values)
        found[key.removesuffix("outcome") + entry.subject if key.endswith("/outcome") else key] = entry
    return found


def _packed(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Entries by what they have in common: the days of each group as ranges; all others one by one."""
    groups: dict[tuple[str, str, Severity], list[date]] = {}
    others = []
    for key, entry in entries.items():
        day = _day_of(entry.partition)
        if day and key == f"{entry.asset}/{day}/{entry.subject}" and entry.since == entry.partition:
            groups.setdefault((entry.asset, entry.subject, entry.severity), []).append(day)
        else:
            others.append([key, entry.asset, entry.partition, entry.subject, entry.severity, entry.since])
    return {"days": [[*group, _ranges(days)] for group, days in groups.items()], "others": others}


def _unpacked(packed: Mapping[str, Any]) -> dict[str, Entry]:
    entries = {}
    for asset, subject, severity, days in packed["days"]:
        for day in _days(days):
            entries[f"{asset}/{day}/{subject}"] = Entry(asset, str(day), subject, severity, str(day))
    for key, asset, partition, subject, severity, since in packed["others"]:
        entries[key] = Entry(asset, partition, subject, severity, since)
    return entries


def _day_of(partition: str) -> date | None:
    try:
        day = date.fromisoformat(partition)
    except ValueError:
        return None
    return day if str(day) == partition else None


def _ranges(days: Iterable[date]) -> list[list[int]]:
    """Days as [first, how many] with the first as an ordinal."""
    found: list[list[int]] = []
    for day in sorted({day.toordinal() for day in days}):
        if found and day == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([day, 1])
    return found


def _days(ranges: Iterable[Sequence[int]]) -> Iterator[date]:
    for first, length in ranges:
        yield from (date.fromordinal(first + n) for n in range(length))


# -- findings ----------------------------------------------------------------------------------------


class Recorded:
    """What is wrong by the ledger, kept up with its records; holds the bad days only."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, date], tuple[Finding, ...]] = {}
        #: By key of a check over a window, the days on which it passed.
        self._passed: dict[str, set[date]] = {}

    def add(self, record: DayRecord) -> None:
        """Take the newest record of a day."""
        self.clear(record.asset, record.day)
        found = tuple(_of_record(record.asset, record.day, record))
        if found:
            self._findings[record.asset, record.day] = found
        for check in record.details.get("checks", []):
            if check["name"] in CONTINUING and check["passed"]:
                key = _check_key(record.asset, record.day, check["name"])
                self._passed.setdefault(key, set()).add(record.day)

    def clear(self, asset: str, day: date) -> None:
        """Forget a day, of which nothing is wrong."""
        self._findings.pop((asset, day), None)
        for key, days in self._passed.items():
            if key.startswith(f"{asset}/"):
                days.discard(day)

    def wrong(self) -> list[Finding]:
        """All findings, by asset and day; a check over a window is one, since the day on which it began."""
        found: list[Finding] = []
        continuing: dict[str, dict[date, Finding]] = {}
        for (_, day), findings in sorted(self._findings.items()):
            for finding in findings:
                if finding.subject in CONTINUING:
                    continuing.setdefault(finding.key, {})[day] = finding
                else:
                    found.append(replace(finding, since=str(day)))
        for key, by_day in continuing.items():
            passed = self._passed.get(key, set())
            newest = max(by_day)
            if any(day > newest for day in passed):
                continue
            well = max(passed, default=date.min)
            found.append(replace(by_day[newest], since=str(min(day for day in by_day if day > well))))
        return found


def of_records(records: Mapping[str, Mapping[date, DayRecord]]) -> list[Finding]:
    """What is wrong by the ledger; ``records`` by asset and day."""
    recorded = Recorded()
    for by_day in records.values():
        for record in by_day.values():
            recorded.add(record)
    return recorded.wrong()


def missing_key(day: date) -> str:
    """The key of a day that wasn't delivered, whether the clock says so or a run has found out."""
    return f"{ARDS}/{day}/missing"


def day_of(key: str) -> date | None:
    """The day in the key of a finding of the ledger; None for one that goes on over days."""
    parts = key.split("/")
    return _day_of(parts[1]) if len(parts) == 3 else None


def why_well(key: str, record: DayRecord | None) -> str | None:
    """Why a finding that is gone is well, by its day's newest record; None where that can't be said.

    A day that is held back or can't be scored is neither, nor is one that is wrong for another reason.
    """
    if record is None or record.outcome in ("held_back", "no_model"):
        return None
    if record.accepted_by:
        return f"accepted by {record.accepted_by}: {record.accepted_reason}"
    if any(finding.severity == "error" for finding in _of_record(record.asset, record.day, record)):
        return None
    rows = record.counts.get("rows")
    return f"{record.outcome}, {rows:,} rows" if rows is not None else record.outcome


def _of_record(asset: str, day: date, record: DayRecord) -> Iterator[Finding]:
    if record.accepted_by:
        return
    metadata = record.details.get("metadata", {})
    common: dict[str, Any] = {
        "asset": asset,
        "partition": str(day),
        "run_id": record.run_id,
        "report": str(metadata.get("report", "")),
        "recorded_at": record.recorded_at,
    }
    failed = [check for check in record.details.get("checks", []) if not check["passed"]]
    for check in failed:
        yield Finding(
            key=_check_key(asset, day, check["name"]),
            kind="check",
            subject=check["name"],
            severity="error" if check["severity"] == "ERROR" else "warning",
            what=check["description"],
            **common,
        )
    if record.outcome == "missing" and asset != ARDS and asset in daily():
        return  # it is said once, of the deliveries
    if record.outcome in _OUTCOMES and not failed:
        yield Finding(
            key=f"{asset}/{day}/{record.outcome}",
            kind="outcome",
            subject=record.outcome,
            severity=_OUTCOMES[record.outcome],
            what=record.reason,
            **common,
        )


def _check_key(asset: str, day: date, check: str) -> str:
    return f"{asset}/{check}" if check in CONTINUING else f"{asset}/{day}/{check}"


def at_least(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """The findings of a severity or worse."""
    return [finding for finding in findings if severity == "warning" or finding.severity == "error"]


# -- words -------------------------------------------------------------------------------------------


def message(product: Product, news: News, links: Links) -> Message:
    """One message for all news of a product; its length is bounded however much there is."""
    errors = [finding for finding in news.wrong if finding.severity == "error"]
    warnings = [finding for finding in news.wrong if finding.severity == "warning"]
    counts = [
        counted(len(errors), "error") if errors else "",
        counted(len(warnings), "warning") if warnings else "",
        f"{len(news.well)} resolved" if news.well else "",
    ]
    lines: list[str] = []
    for heading, findings in (("Errors", errors), ("Warnings", warnings), ("Resolved", news.well)):
        if findings:
            lines += [f"{heading}:", *_listed(product, findings, links, well=heading == "Resolved"), ""]
    if page := links.todays(product.name):
        lines.append(f"Today: {page}")
    lines.append(f"All of {product.name}: {links.product(product.name)}")
    return Message(
        title=f"[{product.name}] {', '.join(part for part in counts if part)}",
        body="\n".join(lines),
        severity="error" if errors else ("warning" if warnings else "resolved"),
    )


def listed(findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings that a message names one by one."""
    for _, _, group in grouped(findings):
        yield from group[-LISTED:]


def grouped(findings: Sequence[Finding]) -> Iterator[tuple[str, str, list[Finding]]]:
    """The findings by asset and subject, each group by partition ascending."""

    def order(finding: Finding) -> tuple[str, str]:
        return finding.asset, finding.subject

    for (asset, subject), group in groupby(sorted(findings, key=order), key=order):
        yield asset, subject, sorted(group, key=lambda finding: finding.partition)


def _listed(product: Product, findings: Sequence[Finding], links: Links, *, well: bool) -> Iterator[str]:
    """The findings by asset and subject; of many days the newest ones, and how many there are."""
    for asset, subject, several in grouped(findings):
        if len(several) > LISTED:
            yield (
                f"- {asset}, {in_words(subject)}: {counted(len(several), _period(asset))} from "
                f"{_when(asset, several[0].partition, several[-1].partition)}; the newest of them:"
            )
            several = several[-LISTED:]
        for finding in several:
            yield from _resolved(finding) if well else _told(fact(product, finding, links))


def _resolved(finding: Finding) -> Iterator[str]:
    place = " ".join(part for part in (finding.asset, finding.partition) if part)
    yield f"- {place}, {in_words(finding.subject)}: {finding.what[:_CHARACTERS]}"
    if finding.since:
        yield f"  was wrong since {finding.since}"


def _told(told: Fact) -> Iterator[str]:
    yield f"- {told.title}: {told.causes[0]}"
    yield from (f"  {cause}" for cause in told.causes[1:])
    if told.holds_back:
        yield f"  holds back: {told.holds_back}"
    for remedy in told.remedies[:1]:
        yield f"  now: {_lower(remedy.words)}: {remedy.command}"
    if told.since:
        yield f"  {told.since}"
    yield from (f"  {name}: {address}" for name, address in told.links)


# -- a finding as people see it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """A finding in words: what and when, the causes, what it holds back, the way out, and where to look."""

    title: str
    causes: tuple[str, ...]
    holds_back: str
    remedies: tuple[Remedy, ...]
    since: str
    links: tuple[tuple[str, str], ...]
    severity: Severity


def fact(product: Product, finding: Finding, links: Links, *, last: str = "") -> Fact:
    """A finding in words.

    Args:
        last: the last partition of several that share the finding, which is the first one's.
    """
    name, asset, partition = product.name, finding.asset, finding.partition
    blocks = finding.severity == "error" and finding.subject in _BLOCKING
    held = held_back_by(asset) if blocks and asset in (*CATALOGUE, LANDING) else []
    addresses = [("report", finding.report)] if finding.report else []
    if asset in CATALOGUE and _day_of(partition):
        addresses.append(("day", links.partition(name, asset, last or partition)))
    if finding.kind == "check" and finding.subject in CHECKS:
        addresses.append(("check", links.check(name, asset, finding.subject)))
    if finding.run_id:
        addresses.append(("run", links.run(finding.run_id)))
    causes = finding.causes.split("; ") if finding.causes else [finding.what]
    return Fact(
        title=", ".join(part for part in (_when(asset, partition, last), _subject(finding)) if part),
        causes=tuple(cause[:_CHARACTERS] for cause in causes[:_CAUSES]),
        holds_back=f"{', '.join(held)} of the day" if held else "",
        remedies=tuple(
            remedies(name, asset, finding.subject, partition, severity=finding.severity, last=last)
        ),
        since=_since(product, finding),
        links=tuple(addresses),
        severity=finding.severity,
    )


def _subject(finding: Finding) -> str:
    words = in_words(finding.subject)
    # What is overdue names what it is of.
    alone = finding.kind == "source" or finding.asset == LANDING or words.startswith(finding.asset)
    return words if alone else f"{finding.asset} {words}"


def _when(asset: str, partition: str, last: str) -> str:
    """A partition of an asset, or those from it to ``last``; a single day with its weekday."""
    day, end = _day_of(partition), _day_of(last or partition)
    if day is None or end is None:
        return partition
    shown = named(_period(asset), day, end)
    return f"{day:%a} {shown}" if day == end and _period(asset) == "day" else shown


def _period(asset: str) -> str:
    return CATALOGUE[asset].period if asset in CATALOGUE else "day"


def _since(product: Product, finding: Finding) -> str:
    """Since when, with the time zone; of what the ledger knows, when it was found."""
    parts = [f"since {finding.since}"] if finding.since and finding.since != finding.partition else []
    if finding.recorded_at:
        at = datetime.fromtimestamp(finding.recorded_at / 1e9, tz=ZoneInfo(product.timezone))
        parts.append(f"found {at:%Y-%m-%d %H:%M %Z}")
    return ", ".join(parts)


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
