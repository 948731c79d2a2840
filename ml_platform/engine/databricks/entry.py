"""The entry point of a step on a cluster: takes the task from Dagster Pipes, runs it, reports back.

``ml-platform-step`` is started by the workspace as a task of the project's wheel, never by hand. It runs
what the embedded engine runs (:mod:`ml_platform.engine.local`), and needs no Dagster there.
"""

from __future__ import annotations

import logging
import os
import platform
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_pipes import (
    PipesCliArgsParamsLoader,
    PipesContext,
    PipesParamsLoader,
    PipesUnityCatalogVolumesContextLoader,
    open_dagster_pipes,
)

from ml_platform.contract import estimators
from ml_platform.contract.secrets import SecretError
from ml_platform.engine import local
from ml_platform.engine.databricks.messages import (
    ENVIRONMENT,
    TASK,
    StepFailed,
    Task,
    VolumeMessageWriter,
    messages_of,
)
from ml_platform.engine.step import PermanentError
from ml_platform.settings import Settings
from ml_platform.spark.session import session_here

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: Packages whose versions tell most of a difference between both ends.
_PACKAGES = (
    "ml-platform", "databricks-connect", "deltalake", "great-expectations", "mlflow-skinny", "numpy",
    "pandas", "pyarrow", "pyspark", "scikit-learn", "scipy", "skops",
)  # fmt: skip


def main() -> None:
    """Run the step that this process was started for.

    Raises:
        Exception: what the step raised; the workspace then shows the task as failed.
    """
    parameters: PipesParamsLoader = PipesCliArgsParamsLoader()  # type: ignore[no-untyped-call]
    if not parameters.is_dagster_pipes_process():
        raise SystemExit("ml-platform-step is started by a Dagster run; to run steps, materialize assets")
    with (
        open_dagster_pipes(
            context_loader=PipesUnityCatalogVolumesContextLoader(),
            message_writer=VolumeMessageWriter(),
            params_loader=parameters,
        ) as pipes,
        _failure_reported(pipes),
        _warnings_forwarded(pipes),
    ):
        _run(pipes)


def _run(pipes: PipesContext) -> None:
    content = pipes.get_extra(TASK)
    # The contract comes with the task, and is checked against these when it is read.
    estimators.allow(content["settings"].get("estimator_modules", ()))
    task = Task.model_validate(content)
    _look_up(task.secrets)
    settings = _settings(task)

    def session() -> SparkSession:
        return session_here(settings)

    pipes.log.info(f"{ENVIRONMENT}: {_versions()}")
    context = local.context_for(task.request, task.product, settings, session, pipes.log.info)
    for message in messages_of(local.run_step(context)):
        pipes.report_custom_message(message)


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def _settings(task: Task) -> Settings:
    """The settings that came with the task; the environment has the others, and the secrets."""
    home = os.environ.get("ML_PLATFORM_HOME") or Path(tempfile.gettempdir()) / "ml_platform"
    return Settings(home=Path(home), **task.settings)


def _look_up(references: Mapping[str, str]) -> None:
    """Put named secrets into this process's environment, but for those that the cluster has put there.

    Raises:
        PermanentError: the workspace doesn't give a secret; names it.
    """
    missing = {name: reference for name, reference in references.items() if name not in os.environ}
    if not missing:
        return
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.errors.base import DatabricksError

    secrets = WorkspaceClient().dbutils.secrets
    for name, reference in missing.items():
        scope, _, key = reference.partition("/")
        try:
            os.environ[name] = secrets.get(scope, key)
        except DatabricksError as error:
            raise PermanentError(
                f"the secret {key!r} of the scope {scope!r}, for {name}, can't be read: {error}"
            ) from error


@contextmanager
def _failure_reported(pipes: PipesContext) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed = StepFailed(
            permanent=isinstance(error, PermanentError | SecretError),
            error=str(error) or type(error).__name__,
            traceback=traceback.format_exc(),
        )
        pipes.report_custom_message(failed.model_dump(mode="json"))
        raise


@contextmanager
def _warnings_forwarded(pipes: PipesContext) -> Iterator[None]:
    """Send what libraries and steps log as warnings or worse to Dagster as well."""
    handler = _Forward(pipes.log)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Forward(logging.Handler):
    def __init__(self, target: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        self._target.log(record.levelno, "%s: %s", record.name, record.getMessage())


if __name__ == "__main__":
    main()
