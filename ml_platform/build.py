"""Products and settings become Dagster definitions; the one place where everything is put together."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ml_platform.contract.loading import load_products
from ml_platform.contract.product import Product
from ml_platform.graph import alerts, assets, jobs, resources, schedules, sensors, today
from ml_platform.settings import Settings


def build_definitions(
    settings: Settings,
    *,
    products: Mapping[str, Product] | None = None,
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The graph of every product whose contract is valid.

    Args:
        products: instead of those in the settings' folders, where a broken contract is left out here
            and reported by :mod:`ml_platform.graph.contract_errors`.
        resource_overrides: resources that stand in for the real ones, by key.
    """
    if products is None:
        products, _ = load_products(settings.product_folders)
    with _no_garbage_collection(), warnings.catch_warnings():
        # Partitioned checks, backfill policies and gaps at the start of a history are what the graph
        # stands on; the version of Dagster is pinned.
        for category in (dg.PreviewWarning, dg.BetaWarning):
            warnings.simplefilter("ignore", category)
        graphs = [_graph(product, settings) for product in products.values()]
    shared = dg.Definitions(
        sensors=[today.today_sensor(products, settings)],
        resources={
            "step_runner": resources.ChosenStepRunner(settings),
            "mlflow": resources.mlflow_runs(settings),
            **(resource_overrides or {}),
        },
        # Each step of the multiprocess executor would start a JVM of its own.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(shared, *graphs)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Whatever drawing a graph makes stays; searching it again and again takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _graph(product: Product, settings: Settings) -> dg.Definitions:
    return dg.Definitions(
        assets=assets.build_assets(product, settings),
        jobs=jobs.jobs(product, settings),
        schedules=schedules.schedules(product, settings),
        sensors=[*sensors.sensors(product, settings), alerts.alert_sensor(product, settings)],
    )
