"""How a product is today: is all done, what is wrong, its champion, its metric and drift over time, its days.

Everything comes from the ledger and the small tables, and from the findings that alerts report as well; no
Spark is started. Drawing it is :mod:`.pages`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from ml_platform.contract.assets import ARDS, CATALOGUE, DRIFT_REPORT, NO_DRIFT, daily
from ml_platform.contract.days import add_months, counted, month_of
from ml_platform.contract.product import Product
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory, champion
from ml_platform.mlops.alerts import messages
from ml_platform.mlops.alerts.findings import Finding
from ml_platform.mlops.alerts.messages import Fact
from ml_platform.mlops.links import Links
from ml_platform.settings import Settings
from ml_platform.storage.ledger import WITHOUT_ROWS, Ledger
from ml_platform.storage.tables import Tables

#: Months of drift that a page shows.
DRIFT_MONTHS = 24
#: Facts that a page spells out; more are counted.
FACTS = 24

#: Outcomes from bad to good: a day is as its worst asset.
WORST_FIRST = (
    "refused",
    "blocked",
    "missing",
    "held_back",
    "not_made",
    "empty",
    "accepted",
    "warnings",
    "no_model",
    "written",
    "not_due",
)


@dataclass(frozen=True)
class AssetLine:
    """An asset: its newest partition with its outcome, and how many partitions had which."""

    name: str
    period: str
    newest: date | None
    outcome: str
    counts: Mapping[str, int]
    behind: int
    """Days that the newest delivered day is ahead of it."""


@dataclass(frozen=True)
class Champion:
    """The model that serves now."""

    version: str
    as_of: date
    kind: str
    serves_since: date
    age: int
    """Days from its as-of date to the newest day there is."""
    reason: str
    rows: int


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a day."""

    day: date
    value: float | None
    lower: float | None
    upper: float | None
    failed: bool


@dataclass(frozen=True)
class DriftMonth:
    """How far each column has drifted in a month, at most over its references."""

    month: date
    scores: Mapping[str, float]
    drifted: int
    measured: int
    exceeds: bool


@dataclass(frozen=True)
class Today:
    """A product as it is at a time."""

    product: Product
    now: datetime
    newest: date | None
    days: Mapping[date, str]
    assets: Sequence[AssetLine]
    facts: Sequence[Fact]
    others: int
    """Facts that are not spelled out."""
    errors: int
    warnings: int
    champion: Champion | None
    evaluated: Sequence[Evaluated]
    promoted_on: Sequence[date]
    drift: Sequence[DriftMonth]
    reports: frozenset[date]
    """The days that have a validation report."""

    @property
    def status(self) -> str:
        """``new``, ``error``, ``warning`` or ``done``."""
        if self.newest is None:
            return "error" if self.errors else "new"
        return "error" if self.errors else "warning" if self.warnings else "done"

    @property
    def headline(self) -> str:
        match self.status:
            case "new":
                return "Nothing has been made yet"
            case "done":
                return "All is done"
            case "warning":
                return "All is done, with warnings"
        return "Needs attention"

    @property
    def latest(self) -> Evaluated | None:
        """The newest evaluation with a value."""
        return next(
            (evaluation for evaluation in reversed(self.evaluated) if evaluation.value is not None), None
        )


def today(
    product: Product,
    settings: Settings,
    findings: Sequence[Finding],
    links: Links,
    now: datetime,
) -> Today:
    """How a product is.

    Args:
        findings: what is wrong with it, as alerts report it.
        now: the time at which it is looked at, in the product's time zone.
    """
    tables = Tables.of(settings)
    ledger = Ledger(tables, product.name)
    outcomes = ledger.outcomes()
    delivered = outcomes.get(ARDS, {})
    newest = max((day for day, outcome in delivered.items() if outcome not in WITHOUT_ROWS), default=None)
    facts = list(_facts(product, findings, links))
    history = ModelHistory(tables, product)
    decisions = history.decisions()
    serving = champion(decisions)
    record = history.by_fingerprint().get(serving.fingerprint) if serving else None
    return Today(
        product=product,
        now=now,
        newest=newest,
        days=_days(outcomes, findings),
        assets=_assets(outcomes, newest),
        facts=facts[:FACTS],
        others=max(len(facts) - FACTS, 0),
        errors=sum(fact.severity == "error" for fact in facts),
        warnings=sum(fact.severity == "warning" for fact in facts),
        champion=None
        if serving is None or record is None
        else Champion(
            version=record.version,
            as_of=record.as_of,
            kind=record.kind,
            serves_since=serving.decided_on,
            age=max(((newest or record.as_of) - record.as_of).days, 0),
            reason=serving.reason,
            rows=record.rows,
        ),
        evaluated=[
            Evaluated(day, row["value"], row["lower"], row["upper"], row["verdict"] == "failed")
            for day, row in performance.evaluations(tables, product).items()
        ],
        promoted_on=[decision.decided_on for decision in decisions if decision.promoted],
        drift=_drift(ledger, newest),
        reports=frozenset(
            day for day, outcome in outcomes.get("validation_report", {}).items() if outcome == "written"
        ),
    )


def _facts(product: Product, findings: Sequence[Finding], links: Links) -> Iterator[Fact]:
    """What is wrong, errors first and the newest first; of many of a kind the older ones are one entry."""
    groups: list[tuple[Finding, str]] = []
    for _, subject, several in messages.grouped(findings):
        # Days that weren't delivered are all alike.
        alike = several[0].kind == "overdue" or subject == "missing"
        apart = [] if alike and len(several) > 1 else several[-messages.LISTED :]
        older = several[: len(several) - len(apart)]
        if len(older) == 1:
            apart, older = several, []
        groups += [(finding, "") for finding in apart]
        if older:
            newest = older[-1]
            period = CATALOGUE[newest.asset].period if newest.asset in CATALOGUE else "day"
            what = f"{counted(len(older), period)}; the newest: {newest.causes or newest.what}"
            shown = replace(newest, partition=older[0].partition, what=what, causes="", since=older[0].since)
            groups.append((shown, newest.partition))
    groups.sort(key=lambda group: group[1] or group[0].partition, reverse=True)
    groups.sort(key=lambda group: group[0].severity != "error")
    for finding, last in groups:
        yield messages.fact(product, finding, links, last=last)


def _days(outcomes: Mapping[str, Mapping[date, str]], findings: Iterable[Finding]) -> dict[date, str]:
    """By day, what its worst asset has come to."""
    delivered = outcomes.get(ARDS, {})
    if not delivered:
        return {}
    rank = {outcome: number for number, outcome in enumerate(WORST_FIRST)}
    warned = {finding.partition for finding in findings if finding.severity == "warning"}
    assets = [outcomes.get(asset, {}) for asset in daily()]
    first, found = min(delivered), {}
    for n in range((max(delivered) - first).days + 1):
        day = first + timedelta(days=n)
        kinds = [known.get(day, "not_made") for known in assets]
        if str(day) in warned:
            kinds.append("warnings")
        found[day] = min(kinds, key=lambda kind: rank.get(kind, 0))
    return found


def _assets(outcomes: Mapping[str, Mapping[date, str]], newest: date | None) -> list[AssetLine]:
    lines = []
    for asset in CATALOGUE.values():
        known = outcomes.get(asset.name, {})
        last = max(known, default=None)
        behind = 0
        if newest is not None and asset.period == "day":
            behind = (newest - last).days if last else (newest - min(outcomes[ARDS])).days + 1
        counts = Counter(known.values())
        lines.append(
            AssetLine(
                name=asset.name,
                period=asset.period,
                newest=last,
                outcome=known[last] if last else "not_made",
                counts={outcome: counts[outcome] for outcome in reversed(WORST_FIRST) if counts[outcome]},
                behind=max(behind, 0),
            )
        )
    return lines


def _drift(ledger: Ledger, newest: date | None) -> list[DriftMonth]:
    if newest is None:
        return []
    months = [add_months(month_of(newest), -n) for n in range(DRIFT_MONTHS, -1, -1)]
    found = []
    for month, record in ledger.latest(DRIFT_REPORT, months).items():
        if record.outcome != "written":
            continue
        metadata = record.details.get("metadata", {})
        scores: dict[str, float] = {}
        for name, value in metadata.items():
            column, against, _ = name.rpartition(" vs ")
            if against and isinstance(value, int | float):
                scores[column] = max(scores.get(column, 0.0), float(value))
        failed = any(
            check["name"] == NO_DRIFT and not check["passed"] for check in record.details.get("checks", [])
        )
        found.append(
            DriftMonth(month, scores, metadata.get("drifted", 0), metadata.get("measured", 0), failed)
        )
    return found
