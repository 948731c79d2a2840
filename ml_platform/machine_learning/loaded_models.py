"""A version's model in memory: read from its file once by a process, if the libraries are like those then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from tempfile import TemporaryDirectory
from typing import Any

from ml_platform.machine_learning.mlflow_store import mlflow_module
from ml_platform.machine_learning.model_files import (
    LIBRARIES,
    NO_THRESHOLD,
    THRESHOLD,
    MissingLibraryError,
    UnloadableError,
    incompatible,
    missing,
    read_pipeline,
)


@dataclass(frozen=True)
class LoadedModel:
    """A model version, ready to score."""

    pipeline: Any
    threshold: float | None
    fingerprint: str


def threshold_in(tags: Mapping[str, str]) -> float | None:
    """The threshold that the tags of a version name; None if its kind of label has no decisions."""
    said = tags[THRESHOLD]
    return None if said == NO_THRESHOLD else float(said)


def check_libraries(name: str, version: str, tags: Mapping[str, str]) -> None:
    """See that a version was made with libraries like those that are installed; older ones don't say.

    Raises:
        MissingLibraryError: one isn't installed.
        UnloadableError: one is installed in another major version.
    """
    made_with = tags.get(LIBRARIES, "").split()
    if why := missing(made_with):
        raise MissingLibraryError(f"version {version} of {name} can't be loaded: {why}")
    if why := incompatible(made_with):
        raise UnloadableError(f"version {version} of {name} can't be loaded: {why}")


@lru_cache(maxsize=32)
def read_there(tracking_uri: str, registry_uri: str, file_uri: str, fingerprint: str) -> Any:
    """The pipeline in a file; ``fingerprint`` tells it from a model that had the same address before."""
    mlflow = mlflow_module()
    with TemporaryDirectory(prefix="ml-platform-") as folder:
        file = mlflow.artifacts.download_artifacts(
            artifact_uri=file_uri, dst_path=folder, tracking_uri=tracking_uri, registry_uri=registry_uri
        )
        return read_pipeline(file, file_uri)


@lru_cache(maxsize=32)
def read_here(file: str, fingerprint: str) -> Any:
    """The pipeline in a local file; ``fingerprint`` tells it from a model that was there before."""
    return read_pipeline(file, file)
