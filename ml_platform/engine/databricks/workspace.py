"""A workspace over its API: the calls that steps need, each tried again while it may still succeed.

The SDK itself tries again what was throttled (429, 503) or lost its connection; 500, 502 and 504 are added
here. That a request may have been carried out although its answer was an error is the callers' business.
"""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

from databricks.sdk.clock import Clock, RealClock
from databricks.sdk.config import Config
from databricks.sdk.core import ApiClient
from databricks.sdk.errors import (
    BadRequest,
    DeadlineExceeded,
    InternalError,
    NotFound,
    PermissionDenied,
    TemporarilyUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.retries import retried
from databricks.sdk.service.catalog import TablesAPI
from databricks.sdk.service.files import FilesAPI
from databricks.sdk.service.iam import CurrentUserAPI
from databricks.sdk.service.jobs import JobsAPI

from ml_platform.engine.step import PermanentError

_TRANSIENT = (InternalError, TemporarilyUnavailable, TooManyRequests, DeadlineExceeded)
#: Answers that will be the same next time.
REFUSALS = (BadRequest, NotFound, PermissionDenied, Unauthenticated)


class PatientClient(ApiClient):
    """The SDK's client, with more patience."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._config = config

    def do(self, *args: Any, data: Any = None, **kwargs: Any) -> Any:
        start = data.tell() if data is not None and data.seekable() else 0

        def rewind() -> None:
            if data is not None:
                data.seek(start)

        call = retried(
            is_retryable=_why_again,
            timeout=timedelta(seconds=self._config.retry_timeout_seconds or 300),
            clock=self._config.clock,
            before_retry=rewind,
        )(super().do)
        return call(*args, data=data, **kwargs)


def _why_again(error: BaseException) -> str | None:
    # The SDK has no class of its own for 502 and other answers of what lies before the workspace.
    known = isinstance(error, _TRANSIENT) or type(error) is DatabricksError
    return type(error).__name__ if known else None


class Workspace:
    """The jobs and files of a workspace. Host and credentials are found as by every Databricks tool.

    Args:
        clock: tells and passes the time between attempts and polls.

    Raises:
        PermanentError: no host or no credentials are configured.
    """

    def __init__(self, retry_seconds: int, *, clock: Clock | None = None) -> None:
        self.clock = clock or RealClock()
        try:
            config = Config(
                retry_timeout_seconds=retry_seconds,
                http_timeout_seconds=60,
                clock=self.clock,
                product="ml-platform",
                product_version="0.1.0",
            )
        except ValueError as error:
            raise PermanentError(
                "no Databricks workspace is configured: set DATABRICKS_HOST and DATABRICKS_TOKEN, or a "
                f"profile of the Databricks CLI ({_first_line(error)})"
            ) from error
        self.host = str(config.host)
        self.api_client = PatientClient(config)
        self.jobs: JobsAPI = _untyped(JobsAPI)(self.api_client)
        self.files: FilesAPI = _untyped(FilesAPI)(self.api_client)

    def user(self) -> str:
        """Who is asking; fails if the credentials are not good."""
        return _untyped(CurrentUserAPI)(self.api_client).me().user_name or ""

    def catalog_tables(self) -> TablesAPI:
        """The tables of Unity Catalog."""
        found: TablesAPI = _untyped(TablesAPI)(self.api_client)
        return found

    def has_file(self, path: str) -> bool:
        try:
            self.files.get_metadata(path)
        except NotFound:
            return False
        return True

    def put(self, path: str, content: bytes) -> None:
        """Write a file of a volume in one step, and the folder it lies in."""
        self.files.create_directory(path.rpartition("/")[0])
        self.files.upload(path, io.BytesIO(content), overwrite=True)

    def remove_folder(self, path: str) -> None:
        """Remove a folder of a volume with all that is in it; one that isn't there is as good."""
        try:
            entries = list(self.files.list_directory_contents(path))
        except NotFound:
            return
        for entry in entries:
            inside = f"{path}/{entry.name}"
            if entry.is_directory:
                self.remove_folder(inside)
            else:
                _unless_gone(self.files.delete, inside)
        _unless_gone(self.files.delete_directory, path)


def _untyped(api: Any) -> Any:
    """The SDK's classes are typed but for their constructors."""
    return api


def _unless_gone(delete: Any, path: str) -> None:
    try:
        delete(path)
    except NotFound:
        return


def in_words(error: BaseException) -> str:
    """An error of the workspace in one line."""
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"
