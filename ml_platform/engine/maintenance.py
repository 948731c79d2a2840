"""Maintenance of a product's tables: what daily runs and backfills leave behind is tidied up.

It changes no rows. A run that is at work meanwhile is not disturbed: files that it is writing are younger
than any that are deleted.
"""

from __future__ import annotations

from datetime import timedelta

from ml_platform.data_engineering.ards import ARDS, QUARANTINE
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepResult
from ml_platform.machine_learning.models import TABLES as MODEL_TABLES
from ml_platform.machine_learning.performance import PERFORMANCE
from ml_platform.machine_learning.scoring import PREDICTIONS
from ml_platform.storage import control
from ml_platform.storage.ledger import DAYS, SORT

LARGE_TABLES = (ARDS, QUARANTINE, MRDS, PREDICTIONS)
CONTROL_TABLES = (DAYS, *MODEL_TABLES, PERFORMANCE)


def maintain(context: StepContext) -> StepResult:
    """Tidy up every table there is; the result's metadata has a line of each."""
    product, tables = context.product.name, context.tables
    keep = timedelta(days=context.settings.table_retention_days)
    done = {}
    for name in LARGE_TABLES:
        if tables.exists(product, name):
            done[name] = tables.maintain(context.spark, product, name, keep)
            context.log(f"{name}: {done[name]}")
    for name in CONTROL_TABLES:
        if tables.control.exists(product, name):
            done[name] = control.maintain(tables, product, name, keep, sort=SORT if name == DAYS else ())
            context.log(f"{name}: {done[name]}")
    return StepResult(days=[], metadata={name: str(one) for name, one in done.items()})
