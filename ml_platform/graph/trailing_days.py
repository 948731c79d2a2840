"""Which days of the MRDS were made when days of their trailing windows were otherwise.

A correction changes the windows of the days after it, which have no new files of their own. The landing
sensor has these made again once the corrected days are.
"""

from __future__ import annotations

from datetime import date
from typing import NoReturn

from ml_platform.contract.assets import MRDS
from ml_platform.contract.product import Product
from ml_platform.engine import local
from ml_platform.engine.step import StepRequest
from ml_platform.graph import ledger_views
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger


def outdated(product: Product, settings: Settings, ledger: Ledger) -> list[date]:
    """Those days, ascending; looked for anew whenever something has been recorded."""
    return ledger_views.of_version(ledger, "outdated_windows", lambda: _outdated(product, settings))


def _outdated(product: Product, settings: Settings) -> list[date]:
    from ml_platform.engine.steps.mrds import Mrds

    request = StepRequest(step=MRDS, product=product.name, days=(), run_id="")
    context = local.context_for(request, product, settings, _no_session, lambda _: None)
    return Mrds(context).outdated()


def _no_session() -> NoReturn:
    raise AssertionError("to look for outdated days needs no Spark")
