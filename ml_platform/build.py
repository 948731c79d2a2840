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
    with quiet_drawing():
        graphs = [graph_of(product, settings) for product in products.values()]
    overview = dg.Definitions(sensors=[today.today_sensor(products, settings)])
    shared = shared_definitions({**resources_of(settings), **(resource_overrides or {})})
    return dg.Definitions.merge(shared, overview, *graphs)


def shared_definitions(given: Mapping[str, Any], *, in_process: bool = True) -> dg.Definitions:
    """What all products of a code location share.

    Args:
        given: resources by key; several of these can be merged if they have the same ones.
        in_process: with the executor for the whole code location.
    """
    # Each step of the multiprocess executor would start a JVM of its own.
    return dg.Definitions(resources=given, executor=dg.in_process_executor if in_process else None)


def resources_of(settings: Settings) -> dict[str, Any]:
    """What the steps of all products need, by key."""
    return {
        "step_runner": resources.ChosenStepRunner(settings),
        "mlflow": resources.mlflow_runs(settings),
    }


@contextmanager
def quiet_drawing() -> Iterator[None]:
    """Draw graphs fast, and without warnings of what they stand on.

    These are partitioned checks, backfill policies and gaps at the start of a history; the version of
    Dagster is pinned.
    """
    with _no_garbage_collection(), warnings.catch_warnings():
        for category in (dg.PreviewWarning, dg.BetaWarning):
            warnings.simplefilter("ignore", category)
        yield


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


def graph_of(product: Product, settings: Settings) -> dg.Definitions:
    """The assets, checks, jobs, schedules and sensors of a product."""
    return dg.Definitions(
        assets=assets.build_assets(product, settings),
        jobs=jobs.jobs(product, settings),
        schedules=schedules.schedules(product, settings),
        sensors=[*sensors.sensors(product, settings), alerts.alert_sensor(product, settings)],
    )
