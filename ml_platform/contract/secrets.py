"""Secrets: the type of every setting that can hold one, and those that are looked up by name.

A setting may name a secret of an Azure Key Vault instead of holding it: ``keyvault://<vault>/<name>`` stands
for the secret's newest version; any other value is itself. A secret is looked up when it is used, with
Azure's default credential, and is never kept, shown or logged.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from ml_platform.contract.faults import EndsTheRunError

SCHEME = "keyvault://"
MASK = "***"
#: A shorter text is no secret that could be told from ordinary words.
_SHORTEST_SECRET = 4

#: ``scheme://user:password@host``; a password may hold any character, so the last @ ends it.
_USER = re.compile(r"^([a-zA-Z][\w+.-]*://)([^:@/?#]*):(.+)@", re.DOTALL)
#: ``https://token@host``; what stands before the @ of other schemes is a container.
_TOKEN = re.compile(r"^(https?://)([^:@/?#]+)@", re.DOTALL)
_PARAMETER = re.compile(r"([?&;][^=&;#?]+)=([^&;#]*)")


class Secret(SecretStr):
    """A setting that can hold a secret. As text, in errors and as JSON it is masked."""

    @property
    def shown(self) -> str:
        """What of it people may see."""
        return MASK if self.get_secret_value() else ""

    @property
    def value(self) -> str:
        """The secret; one that is named is looked up now.

        Raises:
            SecretError: the vault doesn't give the secret.
        """
        return resolve(self.get_secret_value())

    def secrets(self) -> Iterator[str]:
        """The texts that nobody may see, in whatever way they are written."""
        value = self.get_secret_value()
        if value.startswith(SCHEME):
            return
        yield from _spellings(value)
        for word in value.split():  # several addresses may stand in one setting
            yield from _secrets_of(word)

    def _display(self) -> str:
        return self.shown


class SecretAddress(Secret):
    """An address, or a place of another kind, that can hold a password; what is secret in it isn't shown."""

    @property
    def shown(self) -> str:
        value = self.get_secret_value()
        value = _USER.sub(rf"\1\2:{MASK}@", value)
        value = _TOKEN.sub(rf"\1{MASK}@", value)
        return _PARAMETER.sub(rf"\1={MASK}", value) if "://" in value else value

    @property
    def without_credentials(self) -> str:
        """An address of HTTP without its user and password; any other is itself."""
        value = self.get_secret_value()
        if not value.startswith(("http://", "https://")):
            return value
        return _TOKEN.sub(r"\1", _USER.sub(r"\1", value))

    @property
    def credentials(self) -> tuple[str, str] | None:
        """The user and the password of an address of HTTP, as a client sends them."""
        value = self.get_secret_value()
        if value.startswith(("http://", "https://")) and (found := _USER.match(value)):
            return unquote(found[2]), unquote(found[3])
        return None

    def secrets(self) -> Iterator[str]:
        yield from _secrets_of(self.get_secret_value())


def _secrets_of(address: str) -> Iterator[str]:
    """What is secret in an address, in whatever way it is written; nothing in any other text."""
    if "://" not in address or address.startswith(SCHEME):
        return
    if found := _USER.match(address):
        yield from _spellings(found[3])
    if found := _TOKEN.match(address):
        yield from _spellings(found[2])
    for _, parameter in _PARAMETER.findall(address):
        yield from _spellings(parameter)


def _spellings(secret: str) -> Iterator[str]:
    for text in {secret, unquote(secret), quote(secret, safe=""), quote(unquote(secret), safe="")}:
        if len(text) >= _SHORTEST_SECRET:
            yield text


def holds_credentials(address: str) -> bool:
    """Whether a place that should hold no secret has a user's password, a token or a signature."""
    return bool(_USER.match(address) or _TOKEN.match(address) or re.search(r"[?&]sig=", address))


class ScrubbedError(Exception):
    """An error whose own text held a secret, which is masked; the original is not kept."""


def scrubbed(error: BaseException, secrets: Collection[str]) -> ScrubbedError | None:
    """What to raise instead of an error whose text, or that of its causes, holds a secret."""
    text = "".join(traceback.format_exception(error))
    if not any(secret in text for secret in secrets):
        return None
    return ScrubbedError(scrub(f"{type(error).__name__}: {error}", secrets))


def scrub(text: str, secrets: Collection[str]) -> str:
    """``text`` with a mask instead of each secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


class SecretError(EndsTheRunError):
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
