"""The validation report of a day as files: a page that opens offline without a script, JSON, the quarantine.

It words and draws verdicts that were given elsewhere; it judges nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import groupby
from operator import attrgetter

from markupsafe import Markup

from ml_platform.contract.product import Product
from ml_platform.mlops.html import plots
from ml_platform.mlops.html.pages import template
from ml_platform.mlops.links import TODAY, TODAY_PAGE, Around
from ml_platform.mlops.quality.anomalies import FEW_UNUSABLE
from ml_platform.mlops.quality.quarantine import LISTED, Unusable
from ml_platform.mlops.quality.results import Quality, Result
from ml_platform.mlops.remedies import held_back_by, remedies
from ml_platform.storage.rejections import REJECTED

HTML, JSON, QUARANTINE_CSV = "report.html", "report.json", "quarantine.csv"

#: Reasons of the quarantine that a page begins with; all stand below.
_REASONS = 5
_TITLES = {"ards": "Analytics-ready data set", "mrds": "Model-ready data set"}
#: Verdicts from bad to good; the worst of a day's data sets is the day's.
_ORDER = ("refused", "blocked", "missing", "empty", "held_back", "accepted", "warnings", "passed", "not_due")
_HEADLINES = {
    "refused": "Refused",
    "blocked": "Blocked",
    "missing": "Nothing delivered",
    "empty": "No usable rows",
    "held_back": "Held back",
    "accepted": "Accepted",
    "warnings": "Passed with warnings",
    "passed": "Passed",
    "not_due": "No delivery due",
}


@dataclass(frozen=True)
class DataSetDay:
    """The result of a data set's day, and the verdict over it if there was something to judge."""

    asset: str
    day: date
    outcome: str
    reason: str
    counts: Mapping[str, int]
    quality: Quality | None
    accepted: tuple[str, str] | None
    is_rejected: bool = False

    @property
    def verdict(self) -> str:
        if self.accepted:
            return "accepted"
        if self.outcome != "written" or self.quality is None:
            return self.outcome if self.outcome != "written" else "passed"
        return "warnings" if self.quality.warnings else "passed"

    @property
    def title(self) -> str:
        return _TITLES.get(self.asset, self.asset)


@dataclass(frozen=True)
class Page:
    """The files of a report by name, the page first, and what its metadata says."""

    verdict: str
    files: dict[str, bytes]
    figures: dict[str, int] = field(default_factory=dict)
    causes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Line:
    """One expectation of a page, with its small plot."""

    result: Result
    plot: str


def build(
    product: Product,
    day: date,
    histories: Sequence[Sequence[DataSetDay]],
    unusable: Unusable | None,
    around: Around,
) -> Page:
    """The report of ``day``.

    Args:
        histories: a list per data set of what is known of it, by day ascending; ``day`` is the last one
            of a data set that was made, and of the first data set always.
        unusable: the day's quarantine, if there is one.
    """
    shown = [history[-1] for history in histories if history and history[-1].day == day]
    verdict = min((data_set.verdict for data_set in shown), key=_ORDER.index)
    errors = sum(len(data_set.quality.errors) for data_set in shown if data_set.quality)
    warnings = sum(len(data_set.quality.warnings) for data_set in shown if data_set.quality)
    figures = {
        "errors": errors,
        "warnings": warnings,
        "quarantined": unusable.count if unusable else 0,
    }
    files: dict[str, bytes] = {}
    found = causes(shown, unusable)
    files[HTML] = _page(product, day, verdict, shown, histories, unusable, figures, found, around).encode()
    files[JSON] = _json(product, day, verdict, shown, unusable)
    if unusable:
        files[QUARANTINE_CSV] = unusable.as_csv()
    return Page(verdict, files, figures, tuple(found))


def causes(shown: Sequence[DataSetDay], unusable: Unusable | None) -> list[str]:
    """What is wrong with a day, errors first: what its records lack, rather than how many do.

    Args:
        shown: the day's data sets.
    """
    results = [
        result
        for data_set in shown
        for result in (data_set.quality.ordered if data_set.quality else [])
        if not result.passed
    ]
    found = [
        data_set.reason
        for data_set in shown
        if data_set.is_rejected or (data_set.reason and data_set.outcome not in ("blocked", "held_back"))
    ]
    for result in sorted(results, key=attrgetter("is_error"), reverse=True):
        if unusable and result.expectation.startswith(FEW_UNUSABLE):
            counted = unusable.reasons.most_common(_REASONS)
            # What would accept the records is advice, and stands below.
            found += [f"{reason.partition(' (`')[0]}: {count:,}" for reason, count in counted]
            others = len(unusable.reasons) - _REASONS
            found += [f"and {others:,} more reason{'s'[: others > 1]}"] if others > 0 else []
        else:
            found.append(f"{result.statement}: {result.observed}, expected {result.expected}")
    return list(dict.fromkeys(found))


def _json(
    product: Product, day: date, verdict: str, shown: Sequence[DataSetDay], unusable: Unusable | None
) -> bytes:
    content = {
        "product": product.name,
        "day": day.isoformat(),
        "verdict": verdict,
        "data_sets": [
            {
                "asset": data_set.asset,
                "outcome": data_set.outcome,
                "reason": data_set.reason,
                "counts": dict(data_set.counts),
                "accepted": {"by": data_set.accepted[0], "reason": data_set.accepted[1]}
                if data_set.accepted
                else None,
                "expectations": data_set.quality.plain() if data_set.quality else [],
            }
            for data_set in shown
        ],
        "quarantine": {
            "records": unusable.count if unusable else 0,
            "reasons": dict(unusable.reasons.most_common()) if unusable else {},
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def _page(
    product: Product,
    day: date,
    verdict: str,
    shown: Sequence[DataSetDay],
    histories: Sequence[Sequence[DataSetDay]],
    unusable: Unusable | None,
    figures: Mapping[str, int],
    found: Sequence[str],
    around: Around,
) -> str:
    by_asset = {history[-1].asset: history for history in histories if history}
    sections = []
    for data_set in shown:
        lines = _lines(data_set, by_asset[data_set.asset])
        passed = [line for line in lines if line.result.passed]
        sections.append(
            {
                "day": data_set,
                "failed": [line for line in lines if not line.result.passed],
                "passed": [
                    (dimension, list(group))
                    for dimension, group in groupby(passed, key=lambda line: line.result.dimension)
                ],
                "strip": Markup(_strip(by_asset[data_set.asset], day)),  # noqa: S704 - drawn and escaped by plots
            }
        )
    return template("validation_report.html").render(
        product=product,
        day=day,
        verdict=verdict,
        headline=_HEADLINES[verdict],
        causes=found,
        remedies=[
            remedy
            for data_set in shown
            if data_set.verdict == verdict
            for remedy in remedies(
                product.name,
                data_set.asset,
                REJECTED if data_set.is_rejected else data_set.outcome,
                str(day),
            )
        ],
        held_back=held_back_by(shown[0].asset) if verdict in ("blocked", "refused") else [],
        around=around,
        today=f"../../{TODAY}/{TODAY_PAGE}",
        partition=around.links.partition(product.name, shown[0].asset, str(day)),
        reasons=[
            (data_set.title, data_set.reason)
            for data_set in shown
            if data_set.outcome == verdict == "held_back"
        ],
        accepted=[(data_set.title, *data_set.accepted) for data_set in shown if data_set.accepted],
        figures=figures,
        counts=shown[0].counts,
        sections=sections,
        unusable=unusable,
        listed=LISTED,
        quarantine_csv=QUARANTINE_CSV,
        json_file=JSON,
        meanings=product.meanings,
    )


def _lines(today: DataSetDay, history: Sequence[DataSetDay]) -> list[_Line]:
    if today.quality is None:
        return []
    days = [today.day - timedelta(days=n) for n in range(len(_span(history, today.day)) - 1, -1, -1)]
    known = {
        earlier.day: {result.expectation: result for result in earlier.quality.results}
        for earlier in history
        if earlier.quality
    }
    lines = []
    for result in today.quality.ordered:
        past = [known.get(day, {}).get(result.expectation) for day in days]
        label = f"{result.expectation}: {days[0]} to {days[-1]}"
        plot = plots.sparkline(
            [earlier.value if earlier else None for earlier in past],
            [earlier is not None and not earlier.passed for earlier in past],
            label,
        )
        lines.append(_Line(result, Markup(plot)))  # noqa: S704 - drawn and escaped by plots
    return lines


def _span(history: Sequence[DataSetDay], day: date) -> list[date]:
    """Every day from the first of the history to ``day``."""
    return [history[0].day + timedelta(days=n) for n in range((day - history[0].day).days + 1)]


def _strip(history: Sequence[DataSetDay], day: date) -> str:
    known = {earlier.day: earlier for earlier in history}
    days = _span(history, day)
    kinds = [known[earlier].verdict if earlier in known else "unknown" for earlier in days]
    labels = [
        f"{earlier} {_HEADLINES.get(kind, 'not attempted')}"
        for earlier, kind in zip(days, kinds, strict=True)
    ]
    return plots.strip(kinds, labels)
