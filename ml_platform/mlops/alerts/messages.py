"""The words of a message: all news of a product, each finding with its causes and the way out.

All pure: findings are those of :mod:`.findings`, and the news what :mod:`.channel_states` says. Sending is
:mod:`.channels`' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal
from zoneinfo import ZoneInfo

from ml_platform.contract.assets import (
    CATALOGUE,
    CHECKS,
    DATA_QUALITY,
    LANDING,
)
from ml_platform.contract.days import counted, named
from ml_platform.contract.monitoring import Severity
from ml_platform.contract.product import Product
from ml_platform.mlops.alerts.channel_states import News
from ml_platform.mlops.alerts.findings import Finding, day_in
from ml_platform.mlops.links import Links
from ml_platform.mlops.remedies import DELIVERY_OVERDUE, Remedy, held_back_by, in_words, remedies
from ml_platform.storage.rejections import REJECTED

#: Single findings of one asset and check that a message lists; more are counted.
LISTED = 3
#: Characters of a cause, and causes of a finding, that people are shown; the report has all.
_CHARACTERS, _CAUSES = 600, 5
#: What stops the assets below from being made.
_BLOCKING = frozenset({"missing", "refused", "blocked", REJECTED, DATA_QUALITY, DELIVERY_OVERDUE})


@dataclass(frozen=True)
class Message:
    """A message as plain text."""

    title: str
    body: str
    severity: Literal["error", "warning", "resolved"]


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
    if asset in CATALOGUE and day_in(partition):
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
    day, end = day_in(partition), day_in(last or partition)
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
