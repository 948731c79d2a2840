"""The table ``model_performance``, and which days each of its rows counts.

One row per evaluated day, read by sensors, replays and people. How good the predictions were is measured in
:mod:`.evaluation`; nothing here needs Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from ml_platform.contract.assets import MODEL_PERFORMANCE, PREDICTIONS
from ml_platform.contract.days import DayRange
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.contract.tasks import AT_K, MOST_HIGHEST
from ml_platform.contract.windows import days_evaluated
from ml_platform.machine_learning.retraining import PerformanceRow
from ml_platform.storage.ledger import SETTLED, WITHOUT_ROWS, DayRecord, Ledger, Outcome
from ml_platform.storage.small_tables import ControlTable
from ml_platform.storage.tables import Tables

PERFORMANCE = MODEL_PERFORMANCE
#: In the details of a record of predictions: to which rank all of the day's rows are ranked.
RANKED_TO = "ranked_to"

_SCHEMA = pa.schema(
    [
        ("event_day", pa.date32()),
        ("metric", pa.string()),
        ("rows", pa.int64()),
        ("labelled", pa.int64()),
        ("positives", pa.int64()),
        ("value", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("precision", pa.float64()),
        ("recall", pa.float64()),
        ("roc_auc", pa.float64()),
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
        ("tn", pa.int64()),
        ("baseline", pa.float64()),
        ("sampled", pa.bool_()),
        ("models", pa.list_(pa.string())),
        ("champion_as_of", pa.date32()),
        ("champion_fingerprint", pa.string()),
        ("champion_judged_on", pa.string()),
        ("champion_rows", pa.int64()),
        ("champion_positives", pa.int64()),
        ("champion_value", pa.float64()),
        ("verdict", pa.string()),
        ("fingerprint", pa.string()),
        ("figures", pa.string()),
    ]
)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation of a day is made from: a hash of it, and the event days that it counts.

    ``scored`` are the days of the window whose predictions count, ``labelled`` all whose labels do.
    ``left_out`` names the others that are there, each with its outcome, or why it doesn't count.
    """

    window: DayRange
    inputs: str
    scored: tuple[date, ...]
    labelled: tuple[date, ...]
    left_out: tuple[str, ...]
    unscored: bool


def evaluated(
    product: Product,
    day: date,
    predictions: Mapping[date, DayRecord],
    labels: Mapping[date, DayRecord],
    champion: str | None,
    could_be_used: Callable[[date, date], bool],
) -> Evaluated:
    """What the evaluation of a day is made from.

    A day counts if its predictions do and its labels do: of a day that is blocked after it was scored the
    labels are as doubtful as the features. It counts as it was known on the morning after the evaluated day.

    Args:
        predictions: the ledger's records of the predictions, of the window's days at least.
        labels: the same of the MRDS.
        champion: the fingerprint of the model that serves the day.
        could_be_used: whether an event day of the ARDS could be used on a morning.
    """
    days, as_of = days_evaluated(product, day), day + timedelta(days=1)
    usable = [
        evaluated_day
        for evaluated_day in days
        if evaluated_day in labels
        and labels[evaluated_day].usable_on(as_of)
        and could_be_used(evaluated_day, as_of)
    ]
    there = [evaluated_day for evaluated_day in days if evaluated_day in predictions]
    outcomes = [predictions[evaluated_day].outcome for evaluated_day in there]
    unranked = {
        evaluated_day
        for evaluated_day in there
        if has_rows(predictions[evaluated_day]) and not is_ranked(product, predictions[evaluated_day])
    }
    scored = [
        evaluated_day
        for evaluated_day in there
        if has_rows(predictions[evaluated_day])
        and evaluated_day in set(usable)
        and evaluated_day not in unranked
    ]
    made_from = [
        (evaluated_day, *_content(predictions.get(evaluated_day)), *_content(labels.get(evaluated_day)))
        for evaluated_day in days
        if evaluated_day in predictions or evaluated_day in labels
    ]
    of_highest = [] if product.highest is None else [product.highest, product.model.decision_highest]
    usable_now = [other for other in days if other in labels and labels[other].usable]
    as_known = [] if usable == usable_now else [usable]
    unusable: dict[date, str] = {
        evaluated_day: predictions[evaluated_day].outcome
        for evaluated_day in there
        if not predictions[evaluated_day].usable and not has_rows(predictions[evaluated_day])
    }
    unusable |= {
        evaluated_day: labels[evaluated_day].outcome
        if not labels[evaluated_day].usable
        else f"not usable on {as_of}"
        for evaluated_day in days
        if evaluated_day in labels and evaluated_day not in set(usable)
    }
    why = f"not ranked to k = {product.highest}; a backfill with --rescore does that"
    unusable |= dict.fromkeys(unranked & set(usable), why)
    return Evaluated(
        window=days,
        inputs=fingerprint_of([made_from, champion, *of_highest, *as_known]),
        scored=tuple(scored),
        labelled=tuple(usable),
        left_out=tuple(f"{evaluated_day} ({unusable[evaluated_day]})" for evaluated_day in sorted(unusable)),
        unscored=any(outcome == "no_model" for outcome in outcomes) or set(outcomes) <= {"not_due"},
    )


def has_rows(record: DayRecord) -> bool:
    """Whether a day has predictions, by a record of them: those of a day that is held back stay."""
    return record.outcome == "written" or (record.outcome == "held_back" and record.fingerprint is not None)


def scored_days(ledger: Ledger, days: Collection[date]) -> dict[date, DayRecord]:
    """The days among some that have predictions, each with the record that says which."""
    # What was withdrawn with its rows, or removed for want of a model, is kept no longer.
    of_rows: set[Outcome] = {*SETTLED, *WITHOUT_ROWS, "no_model"}
    settled = ledger.latest(PREDICTIONS, days, outcomes=of_rows)
    newest = ledger.latest(PREDICTIONS, days, outcomes={*of_rows, "held_back"})
    found = {day: record if has_rows(record) else settled.get(day) for day, record in newest.items()}
    return {day: record for day, record in found.items() if record is not None and has_rows(record)}


def ranked_to(record: DayRecord) -> int:
    """To which rank all rows of a day's predictions are ranked; 0 if they aren't."""
    found = int(record.details.get(RANKED_TO, 0))
    # A day of fewer rows is ranked as a whole.
    return MOST_HIGHEST if found and record.counts.get("rows", 0) <= found else found


def is_ranked(product: Product, record: DayRecord) -> bool:
    """Whether a day's predictions tell its highest rows, if the metric asks for them."""
    if product.evaluation.metric not in AT_K or product.highest is None:
        return True
    return ranked_to(record) >= product.highest


def _content(record: DayRecord | None) -> tuple[str | None, str | None]:
    return (record.outcome, record.fingerprint) if record else (None, None)


def table(tables: Tables, product: Product) -> ControlTable:
    """The table of a product's evaluations."""
    return ControlTable(tables, product.name, PERFORMANCE, _SCHEMA)


def replace(tables: Tables, product: Product, days: Sequence[date], rows: Sequence[dict[str, Any]]) -> None:
    """Make ``rows`` the evaluations of ``days``; a day that has none there has no evaluation afterwards."""
    place = table(tables, product)
    if rows or any(row["event_day"] in set(days) for row in place.read()):
        place.replace(f"event_day IN ({', '.join(repr(str(day)) for day in days)})", rows)


def evaluations(tables: Tables, product: Product) -> dict[date, dict[str, Any]]:
    """Every evaluation, by day ascending."""
    rows = {row["event_day"]: row for row in table(tables, product).read()}
    return {day: rows[day] for day in sorted(rows)}


def performance_row(row: dict[str, Any]) -> PerformanceRow:
    """An evaluation, as the retrain decision sees it."""
    return PerformanceRow(
        event_day=row["event_day"],
        fingerprint=row["fingerprint"],
        verdict=row["verdict"],
        champion_as_of=row["champion_as_of"],
        champion_rows=row["champion_rows"],
        champion_positives=row["champion_positives"],
        champion_metric=row["champion_value"],
        judged_on=row["champion_judged_on"] or "scored",
    )
