"""Maintenance of a product's tables: what daily runs and backfills leave behind is tidied up.

It changes no rows, but removes records of the ledger that nothing reads any more. A run that is at work
meanwhile is not disturbed: files that it is writing are younger than any that are deleted, and where it
records days while the ledger is rewritten, the ledger stays as it is.
"""

from __future__ import annotations

from datetime import timedelta

from ml_platform.contract.assets import small_table_names, table_names
from ml_platform.data_engineering.arrivals import ARRIVALS
from ml_platform.engine.context import StepContext
from ml_platform.engine.step import StepResult
from ml_platform.storage import small_tables, upkeep
from ml_platform.storage.contract_versions import CONTRACTS
from ml_platform.storage.ledger import DAYS, DESCRIBED, SORT
from ml_platform.storage.rejections import REJECTIONS


def small_tables_of_all() -> tuple[str, ...]:
    """The tables of a few rows: those of the assets, and those that steer the platform."""
    return (DAYS, *small_table_names(), CONTRACTS, ARRIVALS, REJECTIONS)


def maintain(context: StepContext) -> StepResult:
    """Tidy up every table there is; the result's metadata has a line of each."""
    product, tables = context.product.name, context.tables
    keep = timedelta(days=context.settings.table_retention_days)
    done: dict[str, str] = {}

    def say(name: str, what: str) -> None:
        done[name] = what
        context.log(f"{name}: {what}")

    for name in table_names():
        if tables.exists(product, name):
            say(name, str(upkeep.maintain(tables, context.spark, product, name, keep)))
    superseded = _of_superseded(context.ledger.compact(keep))
    for name in small_tables_of_all():
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
