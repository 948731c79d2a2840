"""Which days of the MRDS were made when days of their trailing windows were otherwise.

A correction changes the windows of the days after it, which have no new files of their own. The landing
sensor has these made again once the corrected days are; and a day of which what is kept for windows has
failed, as it holds back the days after it.
"""

from __future__ import annotations

from datetime import date
from typing import NoReturn

from ml_platform.contract.assets import MRDS
from ml_platform.contract.product import Product
from ml_platform.engine import local
from ml_platform.engine.step import StepRequest
from ml_platform.graph import ledger_views
from ml_platform.graph.deliveries import State
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger


def outdated(product: Product, settings: Settings, ledger: Ledger) -> dict[date, State]:
    """Those days, ascending, in their states; looked for anew whenever something has been recorded."""
    return ledger_views.of_version(ledger, "outdated_windows", lambda: _outdated(product, settings))


def _outdated(product: Product, settings: Settings) -> dict[date, State]:
    from ml_platform.engine.steps.mrds import Mrds

    request = StepRequest(step=MRDS, product=product.name, days=(), run_id="")
    context = local.context_for(request, product, settings, _no_session, lambda _: None)
    step = Mrds(context)
    stamps = step.outdated() | step.failed_for_windows()
    return {day: State(stamps[day], None) for day in sorted(stamps)}


def _no_session() -> NoReturn:
    raise AssertionError("to look for outdated days needs no Spark")
