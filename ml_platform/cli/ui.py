"""The command ``ui``: the pages of Dagster, MLflow and the reports on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ml_platform.cli.console import console, fail, instance_of
from ml_platform.cli.interruption import interruption
from ml_platform.contract.loading import load_products
from ml_platform.settings import Settings


def ui(
    port: Annotated[int, typer.Option(help="Port of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's UI.")] = 5000,
    reports_port: Annotated[int, typer.Option(help="Port of the reports and the page of today.")] = 3001,
) -> None:
    """Open Dagster, MLflow and the reports on this machine, until interrupted.

    Example: `ml-platform ui --port 3000`
    """
    from ml_platform.cli.servers import HOST, ServerError, require_free, serve
    from ml_platform.machine_learning.registry import Registry

    try:
        require_free(port, "--port")
        require_free(mlflow_port, "--mlflow-port")
        require_free(reports_port, "--reports-port")
    except ServerError as error:
        fail(str(error))
    settings = Settings()
    products, _ = load_products(settings.product_folders)
    tracking = Registry.of(settings).tracking
    for name in products:
        tracking.prepare(name)
    with instance_of(settings):
        pass  # makes its folder and configuration
    console.print(
        f"Today's page is opening on http://{HOST}:{reports_port}, Dagster on http://{HOST}:{port}, "
        f"MLflow on http://{HOST}:{mlflow_port}; stop all with Ctrl-C",
        soft_wrap=True,
    )
    interruption.expect()
    try:
        serve(settings, port, mlflow_port, reports_port)
    except ServerError as error:
        fail(str(error))
