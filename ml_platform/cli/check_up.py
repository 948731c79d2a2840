"""Whether what the ledger says of a product is there: tables, models, online store, reports, events.

To examine changes nothing (:mod:`.findings`); a repair makes again what the deliveries and the ledger allow
(:mod:`.repairs`). The rest, like the ledger itself, rollbacks without a trace and deliveries, comes from a
backup (docs/operating.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ml_platform.cli.findings import Examination, Finding
from ml_platform.cli.repairs import Repair
from ml_platform.contract.assets import ARDS, CATALOGUE, MODEL, names, nothing_made_from, table_names
from ml_platform.contract.product import Product
from ml_platform.settings import Settings
from ml_platform.storage.ledger import DAYS
from ml_platform.storage.path_locations import FolderLocation, PathLocation
from ml_platform.storage.tables import Tables

if TYPE_CHECKING:
    import dagster as dg


def check_up(
    product: Product,
    settings: Settings,
    open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]],
    *,
    repair: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """What isn't as the ledger says; with ``repair``, what still isn't after all that can be made again was.

    Raises:
        BackfillError: a run of the repair failed.
    """
    examination = Examination(product, settings)
    found = _look(examination, open_instance)
    if not repair or not any(finding.repairable for finding in found):
        return found
    work = Repair(examination, say)
    work.set_aside(found)
    if all(finding.part in nothing_made_from() for finding in examination.unusable()):
        with open_instance() as instance:
            work.repair(instance)
            work.report_again(instance)
    return _look(examination, open_instance)


def is_new(product: Product, settings: Settings) -> bool:
    """Whether nothing of a product has been recorded yet, so that nothing can be missing."""
    return not Tables.of(settings).control.exists(product.name, DAYS)


def not_looked_at(product: Product, settings: Settings) -> list[str]:
    """What can't be seen from here, in sentences that say where to look."""
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:
        return []  # this is the other machine
    tables = Tables.of(settings)
    parts: dict[str, list[str]] = {}
    for asset in names():
        engine = product.engine.of(asset, settings.engine)
        if asset == MODEL or engine == "local":
            continue
        if asset == ARDS:
            parts.setdefault(engine, []).append("the deliveries")
        if not CATALOGUE[asset].tables:
            if not CATALOGUE[asset].small_tables:  # these every machine sees
                parts.setdefault(engine, []).append(asset)
        elif isinstance(tables.location, FolderLocation):
            parts.setdefault(engine, []).append(asset)
    places = [
        f"{', '.join(made)}: made on {engine}; run ml-platform doctor {product.name} there"
        for engine, made in parts.items()
    ]
    if not isinstance(tables.location, PathLocation):
        places.append(
            f"the rows of {', '.join(table_names())}: {settings.tables_root} is a catalog, which only Spark "
            "opens; look there"
        )
    return places


def _look(
    examination: Examination, open_instance: Callable[[], AbstractContextManager[dg.DagsterInstance]]
) -> list[Finding]:
    """All findings; Dagster's instance is opened where there is one, and not made."""
    databases = examination.databases()
    found = examination.examine(databases)
    if any(finding.part == "dagster" for finding in databases):
        return found
    if not (examination.dagster_home / "dagster.yaml").exists():
        return found + examination.events(None)
    with open_instance() as instance:
        return found + examination.events(instance)
