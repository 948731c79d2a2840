"""The jobs of a product, and the requests for runs of them.

Their runs carry the product's name and its engine, by which the queue of an instance can limit them.
"""

import uuid
from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg

from ml_platform.contract.assets import DRIFT_REPORT, MAINTENANCE, MODEL, daily
from ml_platform.contract.product import Product
from ml_platform.engine.step import StepRequest
from ml_platform.graph import run_processes
from ml_platform.graph.assets import ModelConfig, asset_key
from ml_platform.graph.bad_days import only_bad_days
from ml_platform.graph.resources import StepRunner
from ml_platform.graph.retries import retrying
from ml_platform.settings import Settings

#: The tag of every job's runs; deploy/dagster.yaml limits how many of a product are at work at once.
PRODUCT_TAG = "ml_platform/product"


ENGINE_TAG = "ml_platform/engine"


#: Dagster's own tag of a run that a sensor requested with a key.
RUN_KEY_TAG = "dagster/run_key"


UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def jobs(product: Product, settings: Settings) -> list[Any]:
    """The daily job, for one day or a range by hand, and the model's job.

    Their runs carry the product's name and its engine, by which the queue of an instance can limit them.
    """
    tags = {PRODUCT_TAG: product.name, ENGINE_TAG: product.engine.default or settings.engine}
    return [
        dg.define_asset_job(
            f"{product.name}_daily",
            selection=[asset_key(product, asset) for asset in daily()],
            description=(
                "Brings days of all daily assets up to date: after a correction, or to repair a day. "
                "Models that have read the day stay as they are; predictions that exist stay too."
            ),
            tags=tags,
        ),
        dg.define_asset_job(
            f"{product.name}_model",
            selection=[asset_key(product, MODEL)],
            description="Trains a month's model, or a retrain as of a later day of the month.",
            tags=tags,
        ),
        dg.define_asset_job(
            f"{product.name}_drift",
            selection=[asset_key(product, DRIFT_REPORT)],
            description="Measures the drift of a month that is over.",
            tags=tags,
        ),
        _maintenance(product, tags),
    ]


def _maintenance(product: Product, tags: Mapping[str, str]) -> dg.JobDefinition:
    @dg.op(name=f"{product.name}_tables", required_resource_keys={"step_runner"})
    def maintain_tables(context: dg.OpExecutionContext) -> None:
        run_processes.mark(context.instance, context.run_id)
        runner: StepRunner = context.resources.step_runner
        request = StepRequest(step=MAINTENANCE, product=product.name, days=(), run_id=context.run_id)
        with retrying(context):
            context.add_output_metadata(runner.run(request, product, context).metadata)

    @dg.job(
        name=f"{product.name}_{MAINTENANCE}",
        tags=tags,
        description=(
            "Joins small files of the tables, and deletes those that no version of the last weeks needs "
            "(ML_PLATFORM_TABLE_RETENTION_DAYS). Changes no rows, but removes records of the ledger that "
            "have been superseded for as long."
        ),
    )
    def maintenance() -> None:
        maintain_tables()

    return maintenance


def unique_key(name: str) -> str:
    """A run key that no request before had.

    The daemon drops a request whose key any run of the sensor ever had, and a state may come back. That no
    request is submitted twice is the daemon's care: it stores a tick's requests before it submits them.
    """
    return f"{name}/{uuid.uuid4().hex[:12]}"


def status_of(instance: dg.DagsterInstance, run_key: str) -> dg.DagsterRunStatus | None:
    """The status of the run with a key of :func:`unique_key`; None if there is no such run.

    One that failed only to show bad days has done its work, and counts as a success.
    """
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: run_key}), limit=1)
    if not runs:
        return None
    status = runs[0].status
    if status == dg.DagsterRunStatus.FAILURE and only_bad_days(instance, runs[0].run_id):
        return dg.DagsterRunStatus.SUCCESS
    return status


def retrain_request(product: Product, month: date, as_of: date | None, *, run_key: str) -> dg.RunRequest:
    """A run that trains a month's model again as of a later day, or decides about the month's own."""
    return dg.RunRequest(
        run_key=run_key,
        partition_key=month.isoformat(),
        run_config=model_config(product, as_of),
        tags={"ml_platform/as_of": (as_of or month).isoformat()},
    )


def model_config(product: Product, as_of: date | None, *, force: bool = False) -> dg.RunConfig:
    """The run configuration of the model's asset."""
    config = ModelConfig(as_of=as_of.isoformat() if as_of else None, force=force)
    return dg.RunConfig(ops={asset_key(product, MODEL).to_python_identifier(): config})


def training_in_progress(instance: dg.DagsterInstance, product: Product) -> bool:
    """Whether a run that trains this product's model is under way, after ending those that were killed."""
    run_processes.reap(instance)
    key = asset_key(product, MODEL)
    unfinished = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return any(
        run.job_name == f"{product.name}_{MODEL}" or key in (run.asset_selection or ()) for run in unfinished
    )
