"""What can't lie in a volume of Unity Catalog: tables.

A volume shows objects of a store as files, under ``/Volumes/catalog/schema/volume``. It has neither locks
between processes nor a rename that fails if the name is taken, and Delta's commits to a folder need both.
Files that are written whole, each by one process, may lie there: deliveries, reports, messages, the wheel.
"""

from __future__ import annotations

import os
import posixpath
import sys
from urllib.parse import unquote, urlsplit

VOLUMES = "/Volumes"

#: Why tables are refused there, and what to use instead.
NO_TABLES = (
    "a volume has neither the locks nor the renames that commits to tables need; use "
    "abfss://container@account.dfs.core.windows.net/path, a folder of a disk, or for ML_PLATFORM_TABLES also "
    "uc:catalog.schema"
)


def is_in_volume(place: str, *, disks: bool | None = None) -> bool:
    """Whether a place lies below ``/Volumes``, however that is written; nothing is opened.

    Args:
        disks: whether this is a machine that has its disks there, which are ordinary folders; macOS is.
    """
    place = place.strip()
    scheme, host, path = ("", "", place) if place.startswith("/") else urlsplit(place)[:3]
    if scheme not in ("", "file", "dbfs") or host not in ("", "localhost"):
        return False
    if disks is None:
        disks = sys.platform == "darwin"
    if (disks and scheme != "dbfs") or not path.startswith("/"):
        return False
    whole = posixpath.normpath("/" + (unquote(path) if scheme else path).lstrip("/")).removeprefix("/dbfs")
    return f"{whole}/".startswith(f"{VOLUMES}/")


def leads_into_volume(folder: str) -> bool:
    """The same of a folder of this machine, whose links are followed."""
    return is_in_volume(folder) or is_in_volume(os.path.realpath(folder))
