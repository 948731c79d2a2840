"""The drift report of a month as files: an overview that opens anywhere, JSON, and Evidently's own pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date

from ml_platform.contract.assets import DRIFT_REPORT, NO_DRIFT
from ml_platform.contract.product import Product
from ml_platform.mlops.drift.measures import ColumnDrift, Comparison
from ml_platform.mlops.html.pages import template
from ml_platform.mlops.links import TODAY, TODAY_PAGE, Around
from ml_platform.mlops.remedies import remedies

HTML, JSON = "report.html", "report.json"
#: Categories that have come or gone which a cell of a page names, and characters of each.
NAMED_CATEGORIES, LONGEST_CATEGORY = 5, 40


@dataclass(frozen=True)
class MonthDrift:
    """What was found out about a month."""

    month: date
    model: str | None
    rows: int
    left_out: Sequence[str]
    comparisons: Sequence[Comparison]
    sampled: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def drifted(self) -> list[ColumnDrift]:
        return [column for comparison in self.comparisons for column in comparison.drifted]

    @property
    def measured(self) -> int:
        return sum(len(comparison.measured) for comparison in self.comparisons)


def exceeds(product: Product, month: MonthDrift) -> list[Comparison]:
    """The comparisons in which more columns drifted than the contract allows."""
    return [
        comparison
        for comparison in month.comparisons
        if comparison.drifted
        and comparison.share is not None
        and comparison.share > product.drift.maximum_share
    ]


def summary(product: Product, month: MonthDrift) -> str:
    """The month in one line."""
    if not month.comparisons:
        return "nothing to compare with yet"
    if not month.measured:
        return "too little data to measure drift"
    parts = []
    for comparison in month.comparisons:
        names = ", ".join(f"{c.column} ({_score(c)})" for c in comparison.drifted)
        told = f"{len(comparison.drifted)} of {len(comparison.measured)} columns drifted"
        parts.append(f"against {comparison.reference}: {told}" + (f": {names}" if names else ""))
    return "; ".join(parts)


def table(month: MonthDrift) -> str:
    """All columns as a markdown table, drifted ones first."""
    lines = [
        "| column | against | verdict | score | threshold | nulls | range | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for column in ordered(month):
        cells = [
            column.column,
            column.reference,
            f"**{column.verdict}**" if column.verdict == "drifted" else column.verdict,
            _score(column),
            f"{column.threshold:g}",
            _change(_share(column.nulls_before), _share(column.nulls_now)),
            _change(column.range_before, column.range_now),
            "; ".join(why(column)),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def ordered(month: MonthDrift) -> list[ColumnDrift]:
    """All columns of all comparisons: drifted ones first, then by score."""
    every = [column for comparison in month.comparisons for column in comparison.columns]
    return sorted(
        every, key=lambda column: (column.verdict != "drifted", -(column.score or 0.0), column.column)
    )


def why(column: ColumnDrift) -> list[str]:
    """What there is to say of a column beside its score."""
    told = list(column.reasons)
    if column.new_categories:
        told.append(f"new: {_some(column.new_categories, column.new_count)}")
    if column.gone_categories:
        told.append(f"gone: {_some(column.gone_categories, column.gone_count)}")
    return told


def _some(categories: Sequence[str], count: int) -> str:
    """The first few of so many categories, none longer than a person reads, and how many more there are."""
    shown = [
        text if len(text) <= LONGEST_CATEGORY else f"{text[: LONGEST_CATEGORY - 1]}…"
        for text in categories[:NAMED_CATEGORIES]
    ]
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def causes(month: MonthDrift) -> list[str]:
    """The drifted columns with what is known of each, those that drifted most first."""
    found = []
    for column in ordered(month):
        if column.verdict == "drifted":
            known = "; ".join(why(column))
            against = f"{column.column} against {column.reference}: {_score(column)} of {column.threshold:g}"
            found.append(f"{against}; {known}" if known else against)
    return found


def build(product: Product, month: MonthDrift, around: Around) -> dict[str, bytes]:
    """The files of the report, the overview first."""
    pages = {
        f"evidently_{position}.html": (comparison, comparison.html)
        for position, comparison in enumerate(month.comparisons, start=1)
        if comparison.html is not None
    }
    shown = {name: comparison for name, (comparison, _) in pages.items()}
    files = {HTML: _page(product, month, shown, around).encode()}
    files[JSON] = _json(product, month)
    return files | {name: html for name, (_, html) in pages.items()}


def _json(product: Product, month: MonthDrift) -> bytes:
    content = {
        "product": product.name,
        "month": f"{month.month:%Y-%m}",
        "model": month.model,
        "rows": month.rows,
        "sampled": month.sampled,
        "left_out": list(month.left_out),
        "summary": summary(product, month),
        "comparisons": [
            {
                "reference": comparison.reference,
                "share_of_drifted_columns": comparison.share,
                "columns": [asdict(column) for column in comparison.columns],
            }
            for comparison in month.comparisons
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, default=str).encode()


def _page(product: Product, month: MonthDrift, pages: Mapping[str, Comparison], around: Around) -> str:
    return template("drift_report.html").render(
        around=around,
        today=f"../../{TODAY}/{TODAY_PAGE}",
        partition=around.links.partition(product.name, DRIFT_REPORT, str(month.month)),
        causes=causes(month),
        remedies=remedies(product.name, DRIFT_REPORT, NO_DRIFT, str(month.month))
        if exceeds(product, month)
        else [],
        product=product,
        month=month,
        exceeding=exceeds(product, month),
        summary=summary(product, month),
        sections=[
            (comparison, [name for name, shown in pages.items() if shown is comparison], _ordered(comparison))
            for comparison in month.comparisons
        ],
        why=why,
        share=_share,
        change=_change,
        json_file=JSON,
        meanings=product.meanings,
    )


def _ordered(comparison: Comparison) -> list[ColumnDrift]:
    return sorted(
        comparison.columns, key=lambda column: (column.verdict != "drifted", -(column.score or 0.0))
    )


def _score(column: ColumnDrift) -> str:
    return "-" if column.score is None else f"{column.score:.3f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _change(before: str, now: str) -> str:
    return now if before == now else f"{before or '-'} → {now or '-'}"
