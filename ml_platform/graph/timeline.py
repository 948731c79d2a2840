"""Runs of the command line on Dagster's Timeline, which shows only runs of a code location it knows."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ml_platform.settings import PACKAGE

#: What web servers load; of a checkout its workspace names it, and else it has the module's name.
MODULE = "ml_platform.definitions"
WORKSPACE = PACKAGE.parent / "workspace.yaml"


def location_name() -> str:
    """The name of the code location in the web server of this installation."""
    return "ml_platform" if WORKSPACE.exists() else MODULE


def show(instance: dg.DagsterInstance, run_id: str) -> None:
    """Let the Timeline show a run that a process has started by itself; one of a daemon has all it needs."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.remote_job_origin is not None or not instance.is_persistent:
        return
    origin = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name=MODULE), location_name())
    repository = RemoteRepositoryOrigin(origin, SINGLETON_REPOSITORY_NAME)
    instance.run_storage.replace_job_origin(run, RemoteJobOrigin(repository, run.job_name))
