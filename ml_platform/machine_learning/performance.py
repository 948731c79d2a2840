"""The table ``model_performance``: one row per evaluated day, read by sensors, replays and people."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa

from ml_platform.machine_learning.retraining import PerformanceRow
from ml_platform.product import Product
from ml_platform.steps import StepName
from ml_platform.storage.control import ControlTable
from ml_platform.storage.tables import Tables

PERFORMANCE: StepName = "model_performance"

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
        ("champion_rows", pa.int64()),
        ("champion_positives", pa.int64()),
        ("champion_value", pa.float64()),
        ("verdict", pa.string()),
        ("fingerprint", pa.string()),
    ]
)


def table(tables: Tables, product: Product) -> ControlTable:
    """The table of a product's evaluations."""
    return ControlTable(tables, product.name, PERFORMANCE, _SCHEMA)


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
    )
