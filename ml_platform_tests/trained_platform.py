"""A small platform with a model, made once, and copies of it whose registries a test may damage."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ml_platform.machine_learning import loaded_models
from ml_platform.machine_learning.model_files import LIBRARIES
from ml_platform.machine_learning.model_history import ModelRecord
from ml_platform_tests import tasks_here
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.small_platform import D, Platform, deliver_visits, forget_registry


def trained(home: Path, days: Sequence[date]) -> Platform:
    """A platform of some days, made without Spark, with the model of 2024-02."""
    session: Any = tasks_here.TasksHere()
    platform = Platform(settings_in(home), session)
    deliver_visits(platform, days, rows=80)
    for step in ("ards", "mrds"):
        platform.run(step, days)
    platform.run("model", D("2024-02-01"))
    return platform


def copied(made: Platform, home: Path) -> Platform:
    shutil.copytree(made.settings.home, home, copy_function=shutil.copy2)
    copy = Platform(settings_in(home), made.spark)
    with database(copy) as connection:  # MLflow keeps absolute paths
        for table, column in (
            ("model_versions", "storage_location"),
            ("model_versions", "source"),
            ("experiments", "artifact_location"),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                [str(made.settings.home), str(home)],
            )
    forget()
    return copy


def forget() -> None:
    """The next load is another process's."""
    forget_registry()
    loaded_models.read_here.cache_clear()
    loaded_models.read_there.cache_clear()


@contextlib.contextmanager
def database(platform: Platform) -> Iterator[sqlite3.Connection]:
    path = platform.settings.tracking_uri.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        yield connection
        connection.commit()


def file_of(platform: Platform, model: ModelRecord) -> Path:
    with database(platform) as connection:
        (place,) = connection.execute(
            "SELECT storage_location FROM model_versions WHERE version = ?", [int(model.version)]
        ).fetchone()
    return Path(str(place).removeprefix("file://")) / "model.skops"


def rename_class(platform: Platform, model: ModelRecord, before: str, after: str) -> None:
    """Have a model's file hold a class by a path at which there is none, as after an upgrade."""
    path = file_of(platform, model)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert before.encode() in content["schema.json"]
    content["schema.json"] = content["schema.json"].replace(before.encode(), after.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    forget()


def set_libraries(platform: Platform, model: ModelRecord, text: str) -> None:
    with database(platform) as connection:
        changed = connection.execute(
            "UPDATE model_version_tags SET value = ? WHERE key = ? AND version = ?",
            [text, LIBRARIES, int(model.version)],
        )
        assert changed.rowcount == 1
    forget()
