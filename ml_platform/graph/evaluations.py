"""Which evaluations of the newest days don't know yet what is there now.

A day is evaluated with its own rows, in the morning; the labels of its window's newest day may come in a
later tick, or their run may end later. The landing sensor then asks for these evaluations once more. Those of
older days are for backfills: labels that came after a day change nothing of its evaluation.
"""

from __future__ import annotations

from datetime import date

from ml_platform.contract.product import Product
from ml_platform.contract.windows import days_evaluated
from ml_platform.engine.evaluated_days import EvaluatedDays
from ml_platform.graph import deliveries, ledger_views
from ml_platform.machine_learning import performance
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.machine_learning.promotion import serving
from ml_platform.machine_learning.retraining import NEWEST_DAYS
from ml_platform.settings import Settings
from ml_platform.storage.ledger import WITHOUT_ROWS, Ledger
from ml_platform.storage.tables import Tables


def outdated(product: Product, settings: Settings, ledger: Ledger, newest: date | None) -> list[date]:
    """Those of the newest landed days whose evaluations were made from something else than is there now.

    Args:
        newest: the newest landed day.
    """
    return ledger_views.of_version(
        ledger, "outdated_evaluations", lambda: _outdated(product, settings, ledger), argument=newest
    )


def _outdated(product: Product, settings: Settings, ledger: Ledger) -> list[date]:
    days = deliveries.landed_days(product, settings)[-NEWEST_DAYS:]
    evaluated = ledger.latest(performance.PERFORMANCE, set(days), details=False)
    if not evaluated:
        return []
    inside = {day for evaluation_day in evaluated for day in days_evaluated(product, evaluation_day)}
    there = EvaluatedDays.of(ledger, inside)
    decisions = ModelHistory(Tables.of(settings), product).decisions()
    found = []
    for day, record in evaluated.items():
        if record.outcome in WITHOUT_ROWS:
            continue
        if there.evaluated(product, day, serving(decisions, day)).inputs != record.inputs:
            found.append(day)
    return found
