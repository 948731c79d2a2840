"""Where tables live, by the setting that names the place.

The kinds are

- a local folder: ``/srv/tables``;
- an object store: ``abfss://container@account.dfs.core.windows.net/path``;
- a schema of Unity Catalog: ``uc:catalog.schema``, with the tables ``catalog.schema.<product>_<table>``.

Tables at a path can be opened in-process, by ``deltalake``; those of a catalog need a Spark session. So the
small tables that steer the platform always lie at a path (:mod:`.path_locations`); see :mod:`.small_tables`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ml_platform.contract.volumes import NO_TABLES, is_in_volume, leads_into_volume
from ml_platform.storage.catalog_location import CatalogLocation
from ml_platform.storage.locks import DEFAULT_SECONDS
from ml_platform.storage.path_locations import FolderLocation, ObjectStoreLocation
from ml_platform.storage.table_location import LocationError, TableLocation

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

UNITY_CATALOG = "uc:"
OBJECT_STORE = "abfss"
_SCHEME = re.compile(r"([A-Za-z][\w+.-]+)(://?)")


def location_of(
    place: str,
    *,
    options: Mapping[str, str] | None = None,
    session: Callable[[], SparkSession] | None = None,
    lock_seconds: float = DEFAULT_SECONDS,
) -> TableLocation:
    """The root that a setting names.

    Args:
        options: of ``deltalake``, for object stores.
        lock_seconds: how long a commit waits for another one's lock, where there are locks.
        session: gives the session on which a catalog's tables are opened.

    Raises:
        LocationError: the place is of none of the kinds, or lies in a volume, which can hold no tables.
    """
    if is_in_volume(place):
        raise LocationError(f"no tables can be kept at {place}: {NO_TABLES}")
    if place.startswith(UNITY_CATALOG):
        parts = place.removeprefix(UNITY_CATALOG).split(".")
        if len(parts) != 2 or not all(re.fullmatch(r"[^\s/\\`.]+", part) for part in parts):
            raise LocationError(f"{place!r} names no schema; accepted is {UNITY_CATALOG}catalog.schema")
        catalog, schema = parts
        return CatalogLocation(catalog, schema, session)
    # A letter alone is a disk of Windows.
    scheme, separator = (found[1], found[2]) if (found := _SCHEME.match(place)) else ("", "")
    if not scheme:
        if leads_into_volume(place):
            raise LocationError(
                f"no tables can be kept at {place}, which leads to {os.path.realpath(place)}: {NO_TABLES}"
            )
        return FolderLocation(place, lock_seconds=lock_seconds)
    if scheme != OBJECT_STORE or separator != "://":
        raise LocationError(
            f"no tables can be kept at {scheme}{separator}…; accepted are a folder, "
            f"abfss://container@account.dfs.core.windows.net/path and {UNITY_CATALOG}catalog.schema"
        )
    return ObjectStoreLocation(place.rstrip("/"), options)
