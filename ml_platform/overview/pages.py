"""The pages of today as HTML: of a product, and over all of them. They need no script and load nothing.

Links to reports are relative, so that the same page is right from a folder, from Blob storage, and from
`ml-platform ui`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from urllib.parse import quote

from markupsafe import Markup

from ml_platform.contract.product import Product
from ml_platform.mlops.html import plots
from ml_platform.mlops.html.pages import template
from ml_platform.mlops.links import TODAY, TODAY_PAGE, Links
from ml_platform.overview.today import WORST_FIRST, DriftMonth, Today
from ml_platform.settings import LOCAL_MLFLOW, MLFLOW_OF_MODELS, Settings

#: What outcomes are called.
WORDS: Mapping[str, str] = {
    "written": "done",
    "warnings": "with warnings",
    "accepted": "accepted",
    "empty": "without rows",
    "no_model": "before a model",
    "not_due": "not due",
    "missing": "not delivered",
    "held_back": "held back",
    "not_made": "not all made",
    "blocked": "blocked",
    "refused": "refused",
}
_BAD = frozenset({"refused", "blocked", "missing", "held_back"})
#: Columns of drift that are shown, those that drifted most.
_COLUMNS = 16
#: Days whose squares all lead to their reports; of older ones only those that are not as they should be.
_LINKED_DAYS = 366
_STRIP_DAYS = 30


def product_page(today: Today, settings: Settings, links: Links) -> str:
    """The page of a product."""
    product = today.product
    rows, left_out = _heat(product, today.drift)
    return template("today.html").render(
        today=today,
        product=product,
        folder=TODAY,
        page=TODAY_PAGE,
        links=[
            ("Dagster", links.product(product.name)),
            ("MLflow", f"{_mlflow(settings)}/#/experiments?{MLFLOW_OF_MODELS}"),
        ],
        situation=list(_situation(today)),
        metric=_drawn(
            plots.timeline(
                [
                    plots.Point(
                        evaluation.day,
                        evaluation.value,
                        evaluation.lower,
                        evaluation.upper,
                        evaluation.failed,
                    )
                    for evaluation in today.evaluated
                ],
                product.evaluation.threshold,
                today.promoted_on,
                f"{product.metric_in_words} over time",
            )
        )
        if today.latest
        else "",
        model_link=_model_link(product, settings, today),
        legend=_legend(today.days),
        halves=[(year, [_drawn(half) for half in drawn]) for year, drawn in _years(today)],
        bad_of_year=Counter(day.year for day, kind in today.days.items() if kind in _BAD),
        drift=today.drift,
        drift_rows=rows,
        columns_left_out=left_out,
        assets=[(line, links.partitions(product.name, line.name)) for line in today.assets],
        words=WORDS,
    )


def all_page(
    todays: Sequence[Today],
    settings: Settings,
    links: Links,
    now: datetime,
    problems: Sequence[tuple[str, str]] = (),
) -> str:
    """The page over all products; those that need attention stand first.

    Args:
        problems: products that can't be looked at, with the reason.
    """
    order = {"error": 0, "warning": 1, "new": 2, "done": 3}
    todays = sorted(
        todays, key=lambda product_today: (order[product_today.status], product_today.product.name)
    )
    wrong = sum(product_today.status == "error" for product_today in todays) + len(problems)
    count = len(todays) + len(problems)
    headline = f"All {count:,} products are done" if not wrong else f"{wrong:,} of {count:,} need attention"
    return template("all_today.html").render(
        headline=headline,
        lines=[
            (product_today, _drawn(_strip(product_today)), _drawn(_spark(product_today)))
            for product_today in todays
        ],
        problems=problems,
        now=now,
        folder=TODAY,
        page=TODAY_PAGE,
        links=[("Dagster", links.ui), ("MLflow", f"{_mlflow(settings)}/#/experiments?{MLFLOW_OF_MODELS}")],
    )


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - drawn and escaped by plots


def _situation(today: Today) -> Iterator[str]:
    if today.newest is None:
        yield f"Its history begins on {today.product.start}."
        return
    yield f"The newest delivered day is {today.newest}"
    behind = [line for line in today.assets if line.behind]
    yield (
        "and everything is made up to it."
        if not behind
        else (
            f"and {', '.join(line.name for line in behind)} {'is' if len(behind) == 1 else 'are'} behind it."
        )
    )
    if today.product.end and today.newest >= today.product.end:
        yield "The history is complete."
    else:
        following = today.newest + timedelta(days=1)
        due = next(
            (day for n in range(_STRIP_DAYS) if today.product.due(day := following + timedelta(days=n))), None
        )
        if due is not None:
            yield f"Next are the rows of {due}, expected on {today.product.rows_expected_on(due)}."


def _legend(days: Mapping[date, str]) -> list[tuple[str, str, int]]:
    counts = Counter(days.values())
    return [(kind, WORDS[kind], counts[kind]) for kind in reversed(WORST_FIRST) if counts[kind]]


def _years(today: Today) -> Iterator[tuple[int, list[str]]]:
    """The half years of each year that have days, the newest year first."""
    if not today.days:
        return
    first, last = min(today.days), max(today.days)
    recent = last - timedelta(days=_LINKED_DAYS)

    def link(day: date) -> str | None:
        if day not in today.reports or (day <= recent and today.days[day] in ("written", "no_model")):
            return None
        return f"../validation_report/{day}/report.html"

    for year in range(last.year, first.year - 1, -1):
        halves = [(date(year, 1, 1), date(year, 6, 30)), (date(year, 7, 1), date(year, 12, 31))]
        yield (
            year,
            [
                plots.calendar(start, end, today.days, WORDS, link)
                for start, end in halves
                if start <= last and end >= first
            ],
        )


def _heat(
    product: Product, months: Sequence[DriftMonth]
) -> tuple[list[tuple[str, list[tuple[float | None, str]]]], int]:
    """A row a column, those that drifted most first; and how many columns are left out."""
    most: dict[str, float] = {}
    for month in months:
        for column, score in month.scores.items():
            threshold = product.drift.thresholds.get(column, product.drift.threshold)
            most[column] = max(most.get(column, 0.0), score / threshold)
    chosen = sorted(most, key=lambda column: (-most[column], column))[:_COLUMNS]

    def level(column: str, score: float | None) -> str:
        if score is None:
            return ""
        share = score / product.drift.thresholds.get(column, product.drift.threshold)
        return "0" if share < 0.5 else "1" if share < 1 else "2" if share < 2 else "3"

    rows = [
        (
            column,
            [(month.scores.get(column), level(column, month.scores.get(column))) for month in months],
        )
        for column in chosen
    ]
    return rows, len(most) - len(chosen)


def _strip(today: Today) -> str:
    if not today.days:
        return ""
    last = max(today.days)
    days = [last - timedelta(days=n) for n in range(_STRIP_DAYS - 1, -1, -1)]
    kinds = [today.days.get(day, "unknown") for day in days]
    return plots.strip(kinds, [f"{day} {WORDS.get(kind, '')}" for day, kind in zip(days, kinds, strict=True)])


def _spark(today: Today) -> str:
    recent = today.evaluated[-90:]
    return plots.sparkline(
        [evaluation.value for evaluation in recent],
        [evaluation.failed for evaluation in recent],
        f"{today.product.metric_in_words}",
    )


def _mlflow(settings: Settings) -> str:
    return (settings.mlflow_ui_url or LOCAL_MLFLOW).rstrip("/")


def _model_link(product: Product, settings: Settings, today: Today) -> str | None:
    """The champion's version in MLflow; None where the workspace is the UI, whose address isn't known."""
    if today.champion is None or settings.registry_schema is not None:
        return None
    name = quote(product.name, safe="")
    return f"{_mlflow(settings)}/#/models/{name}/versions/{today.champion.version}?{MLFLOW_OF_MODELS}"
