"""The SQLite database of a local registry, read without MLflow: which versions it has, and what is wrong.

MLflow's own client says the same after seconds of imports.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_platform.machine_learning.mlflow_store import damaged, has_file
from ml_platform.machine_learning.model_files import (
    FINGERPRINT,
    LIBRARIES,
    MODEL_FILE,
    RegistryError,
    incompatible,
    missing,
)

#: The stage of a version that was deleted: its row stays in MLflow's database.
_DELETED = "Deleted_Internal"


@dataclass(frozen=True)
class StoredVersion:
    """A model version as the registry's database has it: the folder of its file, and its tags."""

    place: str
    tags: dict[str, str]


@dataclass(frozen=True)
class RegistryDatabase:
    """The file of a registry that is one."""

    file: Path

    def versions(self, name: str) -> dict[str, StoredVersion] | None:
        """What the registry has of a model's versions; None without its tables.

        Raises:
            RegistryError: the database is damaged.
        """
        query = (
            "SELECT v.version, v.storage_location, t.key, t.value "
            "FROM model_versions v "
            "LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version "
            "WHERE v.name = ? AND v.current_stage IS NOT ?"
        )
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
            ) as connection:
                rows = connection.execute(query, [name, _DELETED]).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return None
            raise  # it is locked, or the disk is at fault: that passes
        except sqlite3.DatabaseError as error:
            raise RegistryError(damaged(self.file, error)) from error
        stored: dict[str, StoredVersion] = {}
        for version, place, key, value in rows:
            stored.setdefault(str(version), StoredVersion(place or "", {})).tags[key] = value
        return stored

    def absent(self, name: str, versions: Mapping[str, str]) -> dict[str, str]:
        """Those of some versions that the registry lacks, or that can't be loaded, with what is wrong.

        That a file is there and the libraries are those it was made with is seen; the file isn't read.

        Args:
            versions: the training fingerprint of each version; a version of another model counts as absent,
                since a registry that was made anew counts from 1 again.

        Raises:
            RegistryError: the database is damaged.
        """
        if not self.file.exists():
            return dict.fromkeys(versions, f"{self.file} is gone")
        stored = self.versions(name)
        if stored is None:
            return dict.fromkeys(versions, f"{self.file} has no models")
        lost = {}
        for version, fingerprint in versions.items():
            found = stored.get(version)
            if found is None or found.tags.get(FINGERPRINT) != fingerprint:
                lost[version] = f"{self.file} lacks version {version} of {name}, or has another"
            elif not has_file(found.place):
                lost[version] = f"{found.place}/{MODEL_FILE} is gone"
            elif why := incompatible(found.tags.get(LIBRARIES, "").split()):
                lost[version] = f"version {version} of {name} can't be loaded: {why}"
        return lost

    def without_library(self, name: str, versions: Iterable[str]) -> dict[str, str]:
        """Those of some versions of a model that need a library which isn't installed, and which.

        Raises:
            RegistryError: the database is damaged.
        """
        stored = self.versions(name) if self.file.exists() else None
        wanted = {version: (stored or {}).get(version) for version in versions}
        return {
            version: f"version {version} of {name} can't be loaded: {why}"
            for version, found in wanted.items()
            if found is not None and (why := missing(found.tags.get(LIBRARIES, "").split()))
        }
