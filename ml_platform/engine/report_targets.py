"""The report targets that a deployment's settings name, with the clients that reach them.

Azure's client comes from ``dagster-azure``'s resource, Databricks' from its SDK; both are imported when the
first report is written. Forms of a target:

- ``file:///srv/reports`` or a path: a folder;
- ``azblob://container/prefix``: Azure Blob storage, of the account in the settings;
- ``/Volumes/catalog/schema/volume/…`` or ``dbfs:/…``: a workspace, with the SDK's own authentication.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ml_platform.contract.volumes import is_in_volume
from ml_platform.engine.step import PermanentError
from ml_platform.settings import LOCAL_REPORTS, Settings
from ml_platform.storage.reports import (
    BlobTarget,
    DatabricksTarget,
    FolderTarget,
    MountedTarget,
    ReportStore,
    ReportTarget,
)

#: Metadata with the path of a report's page in a folder.
REPORT_FILE = "report_file"


def report_store(settings: Settings) -> ReportStore:
    """The store of the settings' targets; a folder in the platform's home if there are none.

    Raises:
        PermanentError: a target can't be understood, or lacks a setting.
    """
    if not settings.report_targets:
        return ReportStore([FolderTarget("folder", settings.reports_path)])
    addresses = [target.get_secret_value() for target in settings.report_targets]
    return ReportStore([_target(settings, address) for address in addresses])


def report_base(settings: Settings) -> str | None:
    """The address below which people find the reports of the first target; None where it can't be told.

    A folder's pages are served by `ml-platform ui`: browsers follow no link to a file from another page.
    """
    if settings.reports_url:
        return settings.reports_url.rstrip("/")
    address = settings.report_targets[0].get_secret_value() if settings.report_targets else ""
    if address.startswith("azblob://"):
        parts = urlsplit(address)
        container = "/".join(part for part in (parts.netloc, parts.path.strip("/")) if part)
        return f"{(settings.blob_account_url or '').rstrip('/')}/{container}"
    if address.startswith("/Volumes/"):
        host = os.environ.get("DATABRICKS_HOST", "").rstrip("/")
        host = host if "://" in host or not host else f"https://{host}"
        return f"{host}/explore/data/volumes{address.removeprefix('/Volumes').rstrip('/')}" if host else None
    return None if address.startswith("dbfs:/") else LOCAL_REPORTS


def report_links(settings: Settings, path: str, written: Mapping[str, str]) -> dict[str, str]:
    """A report's addresses as metadata: ``report`` is the one to follow, the others are the targets' own.

    Args:
        path: of the report below a target, like ``customers/validation_report/2022-01-03``.
        written: the address of its page on each target, by the target's name.
    """
    (name, first), *others = written.items()
    base = report_base(settings)
    page = f"{base}/{path}/{first.rpartition('/')[2]}" if base else first
    links = {"report": page}
    if page != first:
        if first.startswith("file://"):
            links[REPORT_FILE] = unquote(urlsplit(first).path)
        else:
            links[f"report on {name}"] = first
    return links | {f"report on {target}": link for target, link in others}


def served_folder(settings: Settings) -> Path | None:
    """The folder whose reports can be read on this machine: that of the first target that is one."""
    for target in report_store(settings).targets:
        if isinstance(target, FolderTarget):
            return target.root
    return None


def _target(settings: Settings, address: str) -> ReportTarget:
    if address.startswith("azblob://"):
        parts = urlsplit(address)
        if not parts.netloc:
            raise PermanentError(
                f"the report target {address!r} names no container: azblob://container/prefix"
            )
        return BlobTarget(address, parts.netloc, parts.path, _blob_service(settings, address))
    if address.startswith(("/Volumes/", "dbfs:/")):
        mounted = Path(address if address.startswith("/") else f"/dbfs{address.removeprefix('dbfs:')}")
        # On a cluster both are folders; elsewhere they are reached through the workspace.
        if len(mounted.parts) > 2 and Path(*mounted.parts[:3]).is_dir():
            return MountedTarget(address, mounted)
        return DatabricksTarget(address, address, _workspace)
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path)).expanduser().absolute()
        return (MountedTarget if is_in_volume(address) else FolderTarget)(address, folder)
    raise PermanentError(
        f"the report target {parts.scheme}://… is of an unknown kind; accepted are file:///folder, "
        "azblob://container/prefix, /Volumes/catalog/schema/volume/… and dbfs:/…"
    )


def _blob_service(settings: Settings, address: str) -> Callable[[], Any]:
    account = settings.blob_account_url
    if account is None:
        raise PermanentError(
            f"the report target {address} needs ML_PLATFORM_BLOB_ACCOUNT_URL, "
            "like https://account.blob.core.windows.net"
        )

    def connect() -> Any:
        from azure.storage.blob import BlobServiceClient

        secret = settings.blob_credential.value if settings.blob_credential else None
        if secret:
            _require_credential(secret)
        # The report store tries again itself, sooner than the library would, and with an end.
        options: dict[str, Any] = {"retry_total": 0, "connection_timeout": 10}
        try:
            from dagster_azure.blob import (
                AzureBlobStorageDefaultCredential,
                AzureBlobStorageKeyCredential,
                AzureBlobStorageResource,
                AzureBlobStorageSASTokenCredential,
            )
        except ImportError:
            # A remote step has no Dagster.
            from azure.identity import DefaultAzureCredential

            return BlobServiceClient(account, secret or DefaultAzureCredential(), **options)
        credential: Any = AzureBlobStorageDefaultCredential()
        if secret:
            is_token = "sig=" in secret
            credential = (
                AzureBlobStorageSASTokenCredential(token=secret)
                if is_token
                else AzureBlobStorageKeyCredential(key=secret)
            )
        resource = AzureBlobStorageResource(account_url=account, credential=credential)
        with resource.get_client() as client:
            return BlobServiceClient(client.url, client.credential, **options)

    return connect


def _require_credential(secret: str) -> None:
    """Make sure that a secret may be a key or a token; the library would end with an error of base64.

    Raises:
        PermanentError: it is neither.
    """
    if "sig=" in secret:
        return
    try:
        base64.b64decode(secret, validate=True)
    except binascii.Error as error:
        raise PermanentError(
            "ML_PLATFORM_BLOB_CREDENTIAL is neither an account key, which is base64, nor a SAS token, which "
            "has a sig=; copy it again from the storage account's access keys"
        ) from error


def _workspace() -> Any:
    from databricks.sdk import WorkspaceClient

    return WorkspaceClient()
