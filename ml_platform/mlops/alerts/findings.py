"""What is wrong with a product by the ledger: its findings, kept up with the records of its days.

A finding has a key for as long as it lasts; what of it is news to whom is :mod:`.channel_states`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from ml_platform.contract.assets import ARDS, DAILY_AGGREGATES, PERFORMANCE_ABOVE_THRESHOLD, daily
from ml_platform.contract.monitoring import Severity
from ml_platform.storage.ledger import DayRecord
from ml_platform.storage.rejections import REJECTED

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
#: A finding whose day was recorded longer ago is no longer reported on, and leaves the cursor.
FINDING_DAYS = 90


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


def source_of(key: str) -> str:
    """Where findings with such a key come from: ``runs``, ``clock`` or ``ledger``."""
    return {"run": "runs", "overdue": "clock"}.get(key.partition("/")[0], "ledger")


def day_in(partition: str) -> date | None:
    """The day that a partition is of; None of one that isn't a day's."""
    try:
        day = date.fromisoformat(partition)
    except ValueError:
        return None
    return day if str(day) == partition else None


class Recorded:
    """What is wrong by the ledger, kept up with its records; holds the bad days only."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, date], tuple[Finding, ...]] = {}
        #: By key of a check over a window, the days on which it passed.
        self._passed: dict[str, set[date]] = {}

    def add(self, record: DayRecord) -> None:
        """Take the newest record of a day.

        What steps record of no asset of the graph is told of by those that are made of it.
        """
        if record.asset == DAILY_AGGREGATES:
            return
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
    return day_in(parts[1]) if len(parts) == 3 else None


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
            subject=REJECTED if REJECTED in record.details else check["name"],
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
