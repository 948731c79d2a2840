"""The pages of today, looked at with all that alerts look at: live, and as files with the reports.

A sensor writes the files where something has changed, and once an hour, so that a page says how old it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from ml_platform.contract.product import Product
from ml_platform.engine.report_targets import report_store
from ml_platform.graph.alerts import Clock, links_of, look
from ml_platform.machine_learning.model_history import stamp
from ml_platform.mlops.links import TODAY, TODAY_PAGE
from ml_platform.overview import pages
from ml_platform.overview.today import Today, today
from ml_platform.settings import Settings
from ml_platform.storage.ledger import Ledger
from ml_platform.storage.tables import Tables

#: A tick that lasts longer goes on in the next one; the daemon would end one of a minute.
TICK_SECONDS = 25.0


def look_at(
    product: Product, settings: Settings, instance: dg.DagsterInstance, clock: Clock = datetime.now
) -> Today:
    """How a product is now."""
    now = clock(ZoneInfo(product.timezone))
    situation = look(product, settings, instance, now)
    # From the page of a product reports are two folders up, wherever the pages lie.
    links = replace(links_of(settings), reports="../..")
    return today(product, settings, situation.with_reports(situation.wrong, links), links, now)


class Pages:
    """The pages of some products, each looked at again only where something may have changed."""

    def __init__(
        self,
        products: Mapping[str, Product],
        settings: Settings,
        instance: dg.DagsterInstance,
        clock: Clock = datetime.now,
        problems: Mapping[str, str] | None = None,
    ) -> None:
        self.products = products
        self.settings = settings
        self.instance = instance
        self.clock = clock
        self.problems = problems or {}
        self.links = links_of(settings)

    def of_product(self, name: str) -> str:
        """The page of a product.

        Raises:
            KeyError: there is no such product.
        """
        found = look_at(self.products[name], self.settings, self.instance, self.clock)
        return pages.product_page(found, self.settings, self.links)

    def of_all(self) -> str:
        """The page over all products."""
        found, problems = [], list(self.problems.items())
        for name, product in self.products.items():
            try:
                found.append(look_at(product, self.settings, self.instance, self.clock))
            except Exception as error:  # one product's tables must not hide the others
                problems.append((name, f"it can't be looked at: {type(error).__name__}"))
        return pages.all_page(found, self.settings, self.links, self.clock(UTC), problems)  # type: ignore[arg-type]


def publish(made: Pages, names: list[str] | None = None) -> dict[str, str]:
    """Write the pages of products, and the one over all, to where the reports go.

    Args:
        names: the products; all without them.

    Returns:
        By product, the address of its page; that of all under an empty name.
    """
    store = report_store(made.settings)
    found: dict[str, str] = {}
    for name in [*(made.products if names is None else names), ""]:
        page = made.of_product(name) if name else made.of_all()
        path = f"{name}/{TODAY}" if name else TODAY
        written = store.publish(path, {TODAY_PAGE: page.encode()})
        found[name] = made.links.todays(name or None) or next(iter(written.values()))
    return found


def today_sensor(
    products: Mapping[str, Product], settings: Settings, *, clock: Clock = datetime.now
) -> dg.SensorDefinition:
    """The sensor that keeps the files of the pages up to date."""
    known: dict[str, Any] = {}

    @dg.sensor(
        name="today_sensor",
        minimum_interval_seconds=60,
        description=(
            "Writes the pages of today with the reports: of a product when something of it has changed, and "
            "once an hour."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        made, began, changed = Pages(products, settings, context.instance, clock), time.monotonic(), []
        for name, product in products.items():
            now = _signature(product, settings, context.instance, clock)
            if known.get(name) == now:
                continue
            if time.monotonic() - began > TICK_SECONDS:
                break
            publish_one(made, name)
            known[name] = now
            changed.append(name)
        if changed:
            publish(made, [])
        return dg.SkipReason(f"written: {', '.join(changed)}" if changed else "nothing has changed")

    return sensor


def publish_one(made: Pages, name: str) -> None:
    """Write the page of a product."""
    report_store(made.settings).publish(f"{name}/{TODAY}", {TODAY_PAGE: made.of_product(name).encode()})


def _signature(
    product: Product, settings: Settings, instance: dg.DagsterInstance, clock: Callable[[ZoneInfo], datetime]
) -> Any:
    """Changes with everything that a page shows, and each hour."""
    now = clock(ZoneInfo(product.timezone))
    tables = Tables.of(settings)
    wrong = [(finding.key, finding.severity) for finding in look(product, settings, instance, now).wrong]
    return Ledger(tables, product.name).stamp(), stamp(tables, product), wrong, f"{now:%Y-%m-%d %H}"
