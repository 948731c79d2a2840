"""The report store: where pages for people go, the same path on every target.

A report is a few small files under `<product>/<asset>/<partition>/`. Each file is replaced in one step,
the page last, so that a reader sees a whole page at any time. What is in a report is not known here, nor
how a target's credentials are found (:mod:`ml_platform.engine.report_targets`).
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import tenacity

from ml_platform.contract.faults import EndsTheRunError

ATTEMPTS = 4
#: Uploads to a remote target that are under way at once.
PARALLEL = 8

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
}


class ReportError(EndsTheRunError):
    """A target didn't take a report; the message names it. All other targets have been written."""


class ReportTarget(ABC):
    """One place for reports. ``name`` is how people call it; it holds no secret."""

    #: How many reports may be written at once.
    parallel: ClassVar[int] = 1

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def replace(self, path: str, files: Mapping[str, bytes]) -> str:
        """Make ``files`` all that lies under ``path``; returns the address of the first file."""

    def has(self, path: str, page: str) -> bool:
        """Whether a report's page is there, as far as that can be seen in a moment."""
        return True

    def may_pass(self, error: BaseException) -> bool:
        """Whether trying again can help."""
        return False


class ReportStore:
    """All targets of a deployment."""

    def __init__(self, targets: Sequence[ReportTarget]) -> None:
        self.targets = targets

    def publish(self, path: str, files: Mapping[str, bytes]) -> dict[str, str]:
        """Replace one report on every target; see :meth:`publish_many`."""
        return self.publish_many({path: files})[path]

    def missing(self, paths: Iterable[str], page: str) -> dict[str, str]:
        """Reports whose page isn't there, each with the target that lacks it; remote targets aren't asked.

        Args:
            page: the name of the page's file.
        """
        return {path: target.name for path in paths for target in self.targets if not target.has(path, page)}

    def publish_many(self, reports: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, str]]:
        """Replace reports on every target.

        Args:
            reports: by path, like ``customers/validation_report/2022-01-03``, the files by name; the first
                one is the page that links lead to.

        Returns:
            By path, the address of the page on each target, by the target's name.

        Raises:
            ReportError: a target failed after retries; the others have all reports.
        """
        links: dict[str, dict[str, str]] = {path: {} for path in reports}
        problems = []
        for target in self.targets:
            try:
                for path, link in _write(target, reports).items():
                    links[path][target.name] = link
            except Exception as error:
                problems.append((target.name, error))
        if problems:
            listed = "; ".join(f"{name}: {_described(error)}" for name, error in problems)
            raise ReportError(f"reports could not be written to {listed}") from problems[0][1]
        return links


def _write(target: ReportTarget, reports: Mapping[str, Mapping[str, bytes]]) -> dict[str, str]:
    def write(item: tuple[str, Mapping[str, bytes]]) -> tuple[str, str]:
        path, files = item
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(initial=0.2, max=5),
            retry=tenacity.retry_if_exception(target.may_pass),
            reraise=True,
        )
        return path, retrying(target.replace, path, files)

    if target.parallel == 1:
        return dict(map(write, reports.items()))
    with ThreadPoolExecutor(target.parallel) as pool:
        return dict(pool.map(write, reports.items()))


def _described(error: BaseException) -> str:
    """What a person needs of an error: its first line. Libraries append requests and headers below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def _page_last(files: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """The files in the order in which a reader may see them appear."""
    return list(files.items())[::-1]


def _content_type(name: str) -> str:
    return _CONTENT_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


class FolderTarget(ReportTarget):
    """A folder of this machine."""

    def __init__(self, name: str, root: Path) -> None:
        super().__init__(name)
        self.root = root

    def has(self, path: str, page: str) -> bool:
        try:
            return (self.root / path / page).stat().st_size > 0
        except OSError:
            return False

    def replace(self, path: str, files: Mapping[str, bytes]) -> str:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in _page_last(files):
            self._write(folder / name, content)
        for other in folder.iterdir():
            if other.name not in files:
                shutil.rmtree(other) if other.is_dir() else other.unlink(missing_ok=True)
        return (folder / next(iter(files))).as_uri()

    def _write(self, file: Path, content: bytes) -> None:
        # Who may read a report is for the umask to say; a temporary file of the library's is its owner's.
        written = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        try:
            written.write_bytes(content)
            written.replace(file)
        except OSError:
            written.unlink(missing_ok=True)
            raise


class MountedTarget(FolderTarget):
    """A volume or DBFS as a cluster mounts it: a file is written whole, under its own name.

    The store behind it shows a file when that is closed, and knows no rename.
    """

    def _write(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)


class BlobTarget(ReportTarget):
    """A container of Azure Blob storage, made if it doesn't exist. An upload replaces a blob in one step.

    Args:
        service: makes the client of the storage account; called once, when the first report is written.
    """

    parallel = PARALLEL

    def __init__(self, name: str, container: str, prefix: str, service: Callable[[], Any]) -> None:
        super().__init__(name)
        self._container_name = container
        self._prefix = prefix.strip("/")
        self._service = service
        self._container: Any = None

    def replace(self, path: str, files: Mapping[str, bytes]) -> str:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import ContentSettings

        container = self._client()
        folder = f"{self._prefix}/{path}" if self._prefix else path
        for name, content in _page_last(files):
            settings = ContentSettings(content_type=_content_type(name), cache_control="no-cache")
            try:
                container.upload_blob(f"{folder}/{name}", content, overwrite=True, content_settings=settings)
            except ResourceNotFoundError:
                self._container = None  # the container is gone, and is made again by the next attempt
                raise
        for blob in container.list_blob_names(name_starts_with=f"{folder}/"):
            if blob.removeprefix(f"{folder}/") not in files:
                # Gone already is as good: another run replaces the same report.
                with contextlib.suppress(ResourceNotFoundError):
                    container.delete_blob(blob)
        address: str = container.get_blob_client(f"{folder}/{next(iter(files))}").url
        return address.partition("?")[0]  # a token would follow it

    def may_pass(self, error: BaseException) -> bool:
        from azure.core.exceptions import (
            HttpResponseError,
            ResourceNotFoundError,
            ServiceRequestError,
            ServiceResponseError,
        )

        if isinstance(error, ServiceRequestError | ServiceResponseError | ResourceNotFoundError):
            return True
        return isinstance(error, HttpResponseError) and (
            error.status_code in (408, 409, 429) or (error.status_code or 0) >= 500
        )

    def _client(self) -> Any:
        from azure.core.exceptions import ResourceExistsError

        if self._container is None:
            container = self._service().get_container_client(self._container_name)
            if not container.exists():
                with contextlib.suppress(ResourceExistsError):  # another run was quicker
                    container.create_container()
            self._container = container
        return self._container


class DatabricksTarget(ReportTarget):
    """A Unity Catalog volume (``/Volumes/…``) or DBFS (``dbfs:/…``) of a workspace, over its API.

    An upload replaces a file of a volume in one step. DBFS has no such step: there a file is written
    beside the old one, which is removed before the new one takes its name.

    Args:
        workspace: makes the client of the workspace; called once.
    """

    parallel = PARALLEL

    def __init__(self, name: str, root: str, workspace: Callable[[], Any]) -> None:
        super().__init__(name)
        self._root = root.rstrip("/")
        self._make = workspace
        self._made: Any = None

    def replace(self, path: str, files: Mapping[str, bytes]) -> str:
        folder = f"{self._root}/{path}"
        if self._root.startswith("dbfs:"):
            self._replace_on_dbfs(folder.removeprefix("dbfs:"), files)
        else:
            self._replace_on_volume(folder, files)
        address = f"{folder}/{next(iter(files))}"
        if self._root.startswith("/Volumes/"):
            return f"{self._workspace.config.host}/explore/data/volumes{folder.removeprefix('/Volumes')}"
        return address

    def _replace_on_volume(self, folder: str, files: Mapping[str, bytes]) -> None:
        import io

        api = self._workspace.files
        api.create_directory(folder)
        for name, content in _page_last(files):
            api.upload(f"{folder}/{name}", io.BytesIO(content), overwrite=True)
        for entry in api.list_directory_contents(folder):
            if entry.name not in files and not entry.is_directory:
                api.delete(f"{folder}/{entry.name}")

    def _replace_on_dbfs(self, folder: str, files: Mapping[str, bytes]) -> None:
        import io

        from databricks.sdk.errors import NotFound

        api = self._workspace.dbfs
        api.mkdirs(folder)
        for name, content in _page_last(files):
            beside = f"{folder}/.{name}.new"
            api.upload(beside, io.BytesIO(content), overwrite=True)
            with contextlib.suppress(NotFound):  # the first report of its path
                api.delete(f"{folder}/{name}")
            api.move(beside, f"{folder}/{name}")
        for entry in list(api.list(folder)):
            if entry.path.rpartition("/")[2] not in files and not entry.is_dir:
                api.delete(entry.path)

    def may_pass(self, error: BaseException) -> bool:
        from databricks.sdk.errors import (
            DeadlineExceeded,
            InternalError,
            TemporarilyUnavailable,
            TooManyRequests,
        )

        return isinstance(
            error,
            DeadlineExceeded | InternalError | TemporarilyUnavailable | TooManyRequests | ConnectionError,
        )

    @property
    def _workspace(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made
