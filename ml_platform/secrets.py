"""Secrets by name: a setting may name a secret of an Azure Key Vault instead of holding it.

``keyvault://<vault>/<name>`` stands for the secret's newest version; any other value is itself. A secret is
looked up when it is used, with Azure's default credential, and is never kept, shown or logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

SCHEME = "keyvault://"


class SecretError(Exception):
    """A named secret can't be had; the message names the vault and the secret, and what to do."""


def resolve(value: str, *, client: Callable[[str], Any] | None = None) -> str:
    """The value itself, or the secret that it names.

    Args:
        client: makes the client of a vault from its address; Azure's, with the default credential.

    Raises:
        SecretError: the name can't be understood, or the vault doesn't give the secret.
    """
    if not value.startswith(SCHEME):
        return value
    parts = urlsplit(value)
    vault, name = parts.netloc, parts.path.strip("/")
    if not vault or not name or "/" in name:
        raise SecretError(f"{value!r} names no secret; accepted is {SCHEME}<vault>/<name>")
    from azure.core.exceptions import AzureError, ResourceNotFoundError

    address = f"https://{vault}" if "." in vault or ":" in vault else f"https://{vault}.vault.azure.net"
    try:
        found = (client or _client)(address).get_secret(name).value
    except ResourceNotFoundError as error:
        raise SecretError(f"the key vault {vault} has no secret {name!r}") from error
    except AzureError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SecretError(
            f"the key vault {vault} doesn't give the secret {name!r}: {first}; may this process read it?"
        ) from error
    if not found:
        raise SecretError(f"the secret {name!r} of the key vault {vault} is empty")
    return str(found)


def _client(address: str) -> Any:
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    return SecretClient(address, DefaultAzureCredential())
