"""The resources of the graph: the step runner, and MLflow's run of a Dagster run.

Spark and MLflow are imported when a step needs them, so that loading the graph stays quick.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

from ml_platform.contract.product import Product
from ml_platform.contract.secrets import scrubbed
from ml_platform.engine import local
from ml_platform.engine.passing_errors import is_passing
from ml_platform.engine.step import PermanentError, StepRequest, StepResult
from ml_platform.settings import Settings
from ml_platform.spark import output
from ml_platform.spark.session import (
    Length,
    check_downloaded,
    prepare_environment,
    secrets_apart,
    spark_conf,
    write_microseconds,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextlib.contextmanager
def without_secrets(settings: Settings) -> Iterator[None]:
    """Let no error out whose text holds a secret of the settings: Dagster stores and shows it."""
    try:
        yield
    except Exception as error:
        if (clean := scrubbed(error, settings.secrets)) is None:
            raise
        if isinstance(error, PermanentError):
            raise PermanentError(str(clean)) from None
        if is_passing(error):
            raise ConnectionError(str(clean)) from None
        raise clean from None


class StepRunner(Protocol):
    """Runs a step somewhere, and returns its result."""

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult: ...


class LocalStepRunner:
    """Runs steps in this process, all on one Spark session that starts with the first that needs it."""

    def __init__(self, settings: Settings, *, progress: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._progress = progress

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult:
        def say(message: str) -> None:
            context.log.info(message)
            if self._progress:
                self._progress(message)

        def session() -> SparkSession:
            return self.session(length=local.length_of(request, product, self._settings))

        with without_secrets(self._settings):
            return local.run_step(local.context_for(request, product, self._settings, session, say))

    def session(self, *, length: Length = "long") -> SparkSession:
        """The embedded session; the first step of this process that needs it decides what it is made for."""
        from dagster_pyspark import LazyPySparkResource
        from pyspark.sql import SparkSession

        active: SparkSession | None = SparkSession.getActiveSession()
        if active is not None:
            write_microseconds(active)
            return active
        prepare_environment()
        with output.apart(), secrets_apart(spark_conf(self._settings, length=length)) as configuration:
            session: SparkSession = LazyPySparkResource(spark_config=configuration).spark_session
        check_downloaded(self._settings, session)
        return session


class ChosenStepRunner:
    """Runs each step on the engine that the contract chooses for its asset, or else the settings."""

    def __init__(self, settings: Settings, *, progress: Callable[[str], None] | None = None) -> None:
        self._settings = settings
        self._progress = progress
        self._local = LocalStepRunner(settings, progress=progress)
        self._remote: StepRunner | None = None

    def run(self, request: StepRequest, product: Product, context: dg.OpExecutionContext) -> StepResult:
        if product.engine.of(request.step, self._settings.engine) == "local":
            return self._local.run(request, product, context)
        return self._databricks().run(request, product, context)

    def session(self) -> SparkSession:
        """The embedded session, for what is done in this process whatever the engine."""
        return self._local.session()

    def _databricks(self) -> StepRunner:
        if self._remote is None:
            from ml_platform.engine.databricks.runner import DatabricksStepRunner

            self._remote = DatabricksStepRunner(self._settings, progress=self._progress)
        return self._remote


class MlflowRuns:
    """The MLflow run that belongs to a Dagster run, from ``dagster-mlflow``'s resource."""

    def __init__(self, init_context: dg.InitResourceContext, settings: Settings) -> None:
        self._init_context = init_context
        self._settings = settings

    @contextlib.contextmanager
    def parent(self, product: Product, partitions: str) -> Iterator[str]:
        """Hold the Dagster run's MLflow run open, and end it with the status the work had.

        Args:
            partitions: what the run was asked for, in words, which names the run.
        """
        import mlflow

        from ml_platform.machine_learning.registry import Registry

        tracking = Registry.of(self._settings).tracking
        with without_secrets(self._settings):
            tracking.prepare(product.name)
            tracking.end_orphans(product.name, self._is_over)
        config = {
            "experiment_name": tracking.experiment_name(product.name),
            "mlflow_tracking_uri": self._settings.tracking_uri,
            "extra_tags": {"product": product.name},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            from dagster_mlflow import mlflow_tracking

            with without_secrets(self._settings):
                next(mlflow_tracking.resource_fn(self._init_context.replace_config(config)))
        run = mlflow.active_run()
        assert run is not None, "the resource has started or resumed the run"
        # The resource names it after the job, which is the same for every run.
        mlflow.set_tag("mlflow.runName", f"{product.name} {partitions}")
        try:
            yield run.info.run_id
        except BaseException:
            mlflow.end_run("FAILED")
            raise
        mlflow.end_run("FINISHED")

    def _is_over(self, dagster_run_id: str) -> bool:
        """Whether a Dagster run has ended, or isn't known any more."""
        instance = self._init_context.instance
        run = instance.get_run_by_id(dagster_run_id) if instance else None
        return run is None or run.is_finished


def mlflow_runs(settings: Settings) -> dg.ResourceDefinition:
    """The resource ``mlflow`` of the graph."""

    def create(init_context: dg.InitResourceContext) -> Any:
        return MlflowRuns(init_context, settings)

    return dg.ResourceDefinition(create)
