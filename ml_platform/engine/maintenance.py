"""Maintenance of a product's tables: what daily runs and backfills leave behind is tidied up.

It changes no rows, but removes records of the ledger that nothing reads any more. A run that is at work
meanwhile is not disturbed: files that it is writing are younger than any that are deleted, and where it
records days while the ledger is rewritten, the ledger stays as it is.
"""

from __future__ import annotations

from datetime import timedelta

from ml_platform.data_engineering.ards import ARDS, QUARANTINE
from ml_platform.data_engineering.mrds import MRDS
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepResult
from ml_platform.machine_learning.model_history import TABLES as MODEL_TABLES
from ml_platform.machine_learning.performance import PERFORMANCE
from ml_platform.machine_learning.scoring import PREDICTIONS
from ml_platform.storage import small_tables
from ml_platform.storage.contract_versions import CONTRACTS
from ml_platform.storage.ledger import DAYS, DESCRIBED, SORT

LARGE_TABLES = (ARDS, QUARANTINE, MRDS, PREDICTIONS)
CONTROL_TABLES = (DAYS, *MODEL_TABLES, PERFORMANCE, CONTRACTS)


def maintain(context: StepContext) -> StepResult:
    """Tidy up every table there is; the result's metadata has a line of each."""
    product, tables = context.product.name, context.tables
    keep = timedelta(days=context.settings.table_retention_days)
    done: dict[str, str] = {}

    def say(name: str, what: str) -> None:
        done[name] = what
        context.log(f"{name}: {what}")

    for name in LARGE_TABLES:
        if tables.exists(product, name):
            say(name, str(tables.maintain(context.spark, product, name, keep)))
    superseded = _of_superseded(context.ledger.compact(keep))
    for name in CONTROL_TABLES:
        if tables.control.exists(product, name):
            if name == DAYS:
                maintained = small_tables.maintain(
                    tables, product, name, keep, sort=SORT, described=DESCRIBED
                )
                say(name, f"{maintained}{superseded}")
            else:
                say(name, str(small_tables.maintain(tables, product, name, keep)))
    return StepResult(days=[], metadata=done)


def _of_superseded(removed: int | None) -> str:
    if removed is None:
        return "; superseded records stay until the next time, since a run has just recorded days"
    return f", {removed:,} superseded records removed"
