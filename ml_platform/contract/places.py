"""Places of deliveries: a folder, or an address in an object store. Nothing is opened here."""

from __future__ import annotations

import re
from pathlib import Path

from ml_platform.contract.secrets import holds_credentials

#: Schemes of the object stores that deliveries may lie in.
OBJECT_STORES = ("abfss", "az", "s3", "gs")
_ADDRESSES = (
    "abfss://container@account.dfs.core.windows.net/path, az://container/path, s3://bucket/path, "
    "gs://bucket/path"
)


def is_address(path: str) -> bool:
    """Whether a path names a place in an object store."""
    return path.partition("://")[0] in OBJECT_STORES


def place_of_deliveries(given: str | Path) -> str | Path:
    """A folder as a path, which may be relative, or an address without a slash at its end.

    Raises:
        ValueError: it is neither; the message says what is accepted.
    """
    scheme, separator, rest = str(given).partition("://")
    if not separator:
        if re.match(r"[a-z0-9+]{2,}:/", str(given)):
            raise ValueError(f"{given!s} is no folder; write /Volumes/… for a volume, and {_ADDRESSES}")
        return Path(given)
    if scheme not in OBJECT_STORES or not rest.strip("/"):
        raise ValueError(
            f"{given!s} is no place of deliveries that can be read; accepted are a folder, {_ADDRESSES}"
        )
    if scheme == "abfss" and not re.match(r"[^@/]+@[^@/]+", rest):
        raise ValueError(
            f"{given!s} names no account; accepted is abfss://container@account.dfs.core.windows.net/path"
        )
    if holds_credentials(str(given)):
        raise ValueError(
            "a key or a signature can't stand here, where it would be shown; keep it in "
            "ML_PLATFORM_STORAGE_OPTIONS or the environment's own variables"
        )
    return str(given).rstrip("/")


def own_place(given: str) -> str:
    """A place that a contract names itself.

    Raises:
        ValueError: as :func:`place_of_deliveries` does, and for a folder that is relative.
    """
    place = place_of_deliveries(given)
    if isinstance(place, Path) and not place.is_absolute():
        raise ValueError(
            f"{given!r} is relative, and a contract is read from several places; accepted are a folder from "
            f"the root on, like /srv/landing, and {_ADDRESSES}"
        )
    return str(place)
