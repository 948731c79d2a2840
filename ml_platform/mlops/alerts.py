"""What is wrong with a product, what of it is news, and how people are told.

All pure: findings come from the ledger (and from the graph, for runs and what is overdue), what a channel
has been told is a small state, and the news is the difference. Sending is :mod:`.channels`' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import groupby
from typing import Any, Literal

from ml_platform.product import Product, Severity
from ml_platform.steps import DATA_QUALITY, PERFORMANCE_ABOVE_THRESHOLD, VALIDATED
from ml_platform.storage.ledger import DayRecord

Kind = Literal["check", "outcome", "run", "overdue"]

#: Outcomes that a person must do something about, and how much they matter. What is held back waits for
#: another day, which is told of itself.
_OUTCOMES: dict[str, Severity] = {
    "refused": "error",
    "missing": "error",
    "blocked": "error",
    "empty": "warning",
}
#: Checks over a window: that they fail again on the next day is no news.
_CONTINUING = frozenset({PERFORMANCE_ABOVE_THRESHOLD})
#: Single findings of one asset and check that a message lists; more are counted.
LISTED = 5
#: Findings that are remembered per channel; the oldest ones are forgotten first.
REMEMBERED = 5000


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


@dataclass(frozen=True)
class News:
    """What a channel has not been told yet: what is wrong now, and what is well again."""

    wrong: tuple[Finding, ...] = ()
    well: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.wrong or self.well)


@dataclass(frozen=True)
class Message:
    """A message as plain text."""

    title: str
    body: str
    severity: Literal["error", "warning", "well"]


@dataclass
class Told:
    """What a channel has been told, by finding; plain data, so that a cursor can keep it."""

    findings: dict[str, dict[str, str]] = field(default_factory=dict)

    def news(self, now: Sequence[Finding], gone: Mapping[str, str]) -> News:
        """What of ``now`` is new or has become an error, and what was told and is well.

        Args:
            gone: by key, why a finding is well; of those that aren't wrong any more. What is neither
                wrong nor gone has moved out of sight, and is no news.
        """
        wrong = [
            one
            for one in now
            if one.key not in self.findings
            or (one.severity == "error" and self.findings[one.key]["severity"] == "warning")
        ]
        present = {one.key for one in now}
        well = [
            Finding(
                key=key,
                kind="check",
                asset=told["asset"],
                partition=told["partition"],
                severity=told["severity"],  # type: ignore[arg-type]
                what=gone[key],
                subject=told["subject"],
                since=told["since"],
            )
            for key, told in self.findings.items()
            if key not in present and key in gone
        ]
        return News(tuple(wrong), tuple(well))

    def after(self, now: Sequence[Finding]) -> Told:
        """What the channel knows once it has been told the news."""
        known = {}
        for one in now:
            before = self.findings.get(one.key)
            known[one.key] = {
                "asset": one.asset,
                "partition": one.partition,
                "subject": one.subject,
                "severity": one.severity,
                "since": before["since"] if before else one.since,
            }
        return Told(dict(list(known.items())[-REMEMBERED:]))


# -- findings ----------------------------------------------------------------------------------------


def of_records(records: Mapping[str, Mapping[date, DayRecord]]) -> tuple[list[Finding], dict[str, str]]:
    """What is wrong by the ledger, by asset and day; and by key, why what isn't wrong is well."""
    wrong: dict[str, Finding] = {}
    well: dict[str, str] = {}
    for asset, by_day in records.items():
        since: dict[str, str] = {}
        for day in sorted(by_day):
            found = list(_of_record(asset, day, by_day[day]))
            failing = {one.key for one in found}
            for key in _keys(asset, day, by_day[day]):
                if key not in failing:
                    well[key] = _why_well(by_day[day])
                    since.pop(key, None)
                    wrong.pop(key, None)
            for one in found:
                # A continuing failure keeps the day on which it began.
                since.setdefault(one.key, str(day))
                well.pop(one.key, None)
                wrong[one.key] = replace(one, since=since[one.key])
    return list(wrong.values()), well


def _of_record(asset: str, day: date, record: DayRecord) -> Iterator[Finding]:
    if record.accepted_by:
        return
    metadata = record.details.get("metadata", {})
    common: dict[str, Any] = {
        "asset": asset,
        "partition": str(day),
        "run_id": record.run_id,
        "report": str(metadata.get("report", "")),
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
    if record.outcome in _OUTCOMES and not failed:
        yield Finding(
            key=f"{asset}/{day}/outcome",
            kind="outcome",
            subject=record.outcome,
            severity=_OUTCOMES[record.outcome],
            what=record.reason,
            **common,
        )


def _keys(asset: str, day: date, record: DayRecord) -> list[str]:
    """Every key that a record could have failed under."""
    if record.outcome in ("held_back", "no_model"):
        return []
    checks = [check["name"] for check in record.details.get("checks", [])]
    names = {*checks, *([DATA_QUALITY] if asset in VALIDATED and record.usable else [])}
    return [*(_check_key(asset, day, name) for name in names), f"{asset}/{day}/outcome"]


def _check_key(asset: str, day: date, check: str) -> str:
    return f"{asset}/{check}" if check in _CONTINUING else f"{asset}/{day}/{check}"


def _why_well(record: DayRecord) -> str:
    if record.accepted_by:
        return f"accepted by {record.accepted_by}: {record.accepted_reason}"
    rows = record.counts.get("rows")
    return f"{record.outcome}, {rows:,} rows" if rows is not None else record.outcome


def at_least(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """The findings of a severity or worse."""
    return [one for one in findings if severity == "warning" or one.severity == "error"]


# -- words -------------------------------------------------------------------------------------------


def message(product: Product, news: News, links: Links) -> Message:
    """One message for all news of a product; its length is bounded however much there is."""
    errors = [one for one in news.wrong if one.severity == "error"]
    warnings = [one for one in news.wrong if one.severity == "warning"]
    counts = [
        _counted(len(errors), "error"),
        _counted(len(warnings), "warning"),
        f"{len(news.well)} well again" if news.well else "",
    ]
    lines: list[str] = []
    for heading, findings in (("Errors", errors), ("Warnings", warnings), ("Well again", news.well)):
        if findings:
            lines += [f"{heading}:", *_listed(findings, links, well=heading == "Well again"), ""]
    lines.append(f"All of {product.name}: {links.product(product.name)}")
    return Message(
        title=f"[{product.name}] {', '.join(part for part in counts if part)}",
        body="\n".join(lines),
        severity="error" if errors else ("warning" if warnings else "well"),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}" if count else ""


def _listed(findings: Sequence[Finding], links: Links, *, well: bool) -> Iterator[str]:
    """The findings by asset and subject; of many days the newest ones, and how many there are."""

    def order(one: Finding) -> tuple[str, str]:
        return one.asset, one.subject

    for (asset, subject), group in groupby(sorted(findings, key=order), key=order):
        several = sorted(group, key=lambda one: one.partition)
        if len(several) > LISTED:
            yield (
                f"- {asset}, {subject}: {len(several)} days from {several[0].partition} to "
                f"{several[-1].partition}; the newest of them:"
            )
            several = several[-LISTED:]
        for one in several:
            yield from _told(one, links, well=well)


def _told(one: Finding, links: Links, *, well: bool) -> Iterator[str]:
    place = " ".join(part for part in (one.asset, one.partition) if part)
    yield f"- {place}, {one.subject}: {one.what[:600]}"
    facts = []
    if one.since and (one.since != one.partition or well):
        facts.append(f"{'was wrong ' if well else ''}since {one.since}")
    if one.run_id and not well:
        facts.append(f"run: {links.run(one.run_id)}")
    if one.report and not well:
        facts.append(f"report: {one.report}")
    if facts:
        yield f"  {'; '.join(facts)}"


@dataclass(frozen=True)
class Links:
    """Addresses of Dagster's UI."""

    ui: str

    def run(self, run_id: str) -> str:
        return f"{self.ui.rstrip('/')}/runs/{run_id}"

    def product(self, name: str) -> str:
        return f"{self.ui.rstrip('/')}/asset-groups?asset-selection=key%3A%22{name}%2F*%22"
