"""What the overviews say, as JSON has it: for scripts, which rely on the keys (docs/operating.md lists them).

Days are ``2013-02-08``, months ``2013-02``; what isn't known is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from ml_platform.contract.days import named
from ml_platform.contract.product import Product
from ml_platform.mlops.alerts import messages
from ml_platform.mlops.alerts.findings import Finding
from ml_platform.mlops.alerts.messages import Fact
from ml_platform.mlops.links import Links
from ml_platform.overview import history
from ml_platform.overview.history import ModelLine, OtherScores
from ml_platform.overview.today import Today
from ml_platform.settings import Settings


def summary(product: Product, settings: Settings) -> dict[str, Any]:
    """A product by month, with what is to be known of its models, and where everything is."""
    return {
        "product": product.name,
        "metric": product.evaluation.metric,
        "metric_in_words": product.metric_in_words,
        "months": [
            {
                "month": named("month", line.month),
                "delivered": line.delivered,
                "rows": line.rows,
                "quarantined": line.quarantined,
                "bad_days": line.bad_days,
                "metric": line.metric,
                "models": [_model(model) for model in line.models],
            }
            for line in history.months(product, settings)
        ],
        "no_longer_reproducible": history.not_reproducible(product, settings),
        **_remarks(product, settings),
        "tables": f"{settings.tables_root}/{product.name}",
        "registry": settings.tracking_uri_shown,
        "reports": report_places(settings),
    }


def models(product: Product, settings: Settings) -> dict[str, Any]:
    """Every model of a product, and which days it serves."""
    return {
        "product": product.name,
        "metric": product.evaluation.metric,
        "metric_in_words": product.metric_in_words,
        "models": [_model(model) for model in history.models(product, settings)],
        **_remarks(product, settings),
    }


def findings(product: Product, found: Sequence[Finding], links: Links) -> dict[str, Any]:
    """What is wrong with a product."""
    return {
        "product": product.name,
        "findings": [
            {
                "asset": finding.asset,
                "partition": finding.partition,
                "subject": finding.subject,
                "found": finding.what,
                **_fact(messages.fact(product, finding, links)),
            }
            for finding in found
        ],
    }


def today(found: Today) -> dict[str, Any]:
    """How a product is, as its page of today shows it."""
    champion = found.champion
    return {
        "product": found.product.name,
        "status": found.status,
        "headline": found.headline,
        "looked_at": found.now.isoformat(timespec="seconds"),
        "newest_day": _day(found.newest),
        "days": {str(day): outcome for day, outcome in found.days.items()},
        "assets": [
            {
                "asset": line.name,
                "newest": None if line.newest is None else named(line.period, line.newest),
                "outcome": line.outcome,
                "counts": dict(line.counts),
                "days_behind": line.behind,
            }
            for line in found.assets
        ],
        "errors": found.errors,
        "warnings": found.warnings,
        "facts": [_fact(fact) for fact in found.facts],
        "further_facts": found.others,
        "champion": champion
        and {
            "version": champion.version,
            "as_of": _day(champion.as_of),
            "kind": champion.kind,
            "serves_since": _day(champion.serves_since),
            "age_days": champion.age,
            "rows": champion.rows,
            "reason": champion.reason,
        },
        "metric": found.product.evaluation.metric,
        "metric_in_words": found.product.metric_in_words,
        "evaluations": [
            {
                "day": _day(line.day),
                "value": line.value,
                "lower": line.lower,
                "upper": line.upper,
                "failed": line.failed,
            }
            for line in found.evaluated
        ],
        "drift": [
            {
                "month": named("month", line.month),
                "drifted": line.drifted,
                "measured": line.measured,
                "exceeds": line.exceeds,
                "scores": dict(line.scores),
            }
            for line in found.drift
        ],
    }


def report_places(settings: Settings) -> list[str]:
    """Where reports go, without secrets."""
    return [target.shown for target in settings.report_targets] or [str(settings.reports_path)]


def _remarks(product: Product, settings: Settings) -> dict[str, Any]:
    return {
        "waiting": history.waiting(product, settings),
        "scored_by_other_models": _other_scores(history.other_scores(product, settings)),
    }


def _other_scores(found: Iterable[OtherScores]) -> list[dict[str, Any]]:
    return [
        {
            "first": _day(others.days[0]),
            "last": _day(others.days[-1]),
            "days": len(others.days),
            "rows": others.rows,
            "scored_by": others.scored_by,
            "served_by": others.served_by,
        }
        for others in found
    ]


def _model(line: ModelLine) -> dict[str, Any]:
    return {
        "as_of": _day(line.as_of),
        "month": named("month", line.month),
        "kind": line.kind,
        "version": line.version,
        "rows": line.rows,
        "rows_available": line.rows_available,
        "cause": line.cause,
        "challenger": line.challenger,
        "champion": line.champion,
        "difference_lower": line.lower,
        "difference_upper": line.upper,
        "verdict": line.verdict,
        "reason": line.reason,
        "taken_back": line.taken_back,
        "serves_from": _day(line.serves_from),
        "serves_to": _day(line.serves_to),
        "days_scored": line.days_scored,
        "selection": line.selection or None,
        "remark": line.remark or None,
    }


def _fact(fact: Fact) -> dict[str, Any]:
    return {
        "severity": fact.severity,
        "title": fact.title,
        "causes": list(fact.causes),
        "holds_back": fact.holds_back,
        "remedies": [{"words": remedy.words, "command": remedy.command} for remedy in fact.remedies],
        "since": fact.since,
        "links": dict(fact.links),
    }


def _day(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
