"""Maintenance tidies up, and changes no rows."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ml_platform.storage.tables import on_days
from ml_platform_tests.small_platform import D, Platform, days, deliver_visits

CHOSEN = days("2024-01-01", "2024-01-04")


def folder(platform: Platform, table: str) -> Path:
    return Path(platform.tables.path("shop", table))


def files(platform: Platform, table: str, day: str) -> list[Path]:
    return sorted((folder(platform, table) / f"event_day={day}").glob("*.parquet"))


def leave_behind(platform: Platform, table: str, name: str, *, age_days: float, within: str = "") -> Path:
    """A file, or a folder with one, that no version of a table names, like that of a run that was killed."""
    path = folder(platform, table) / name
    (path / within).parent.mkdir(parents=True, exist_ok=True)
    (path / within).write_bytes(b"half a file")
    then = time.time() - age_days * 86_400
    os.utime(path, (then, then))
    return path


@pytest.mark.slow
def test_small_files_are_joined_and_old_ones_of_no_version_deleted(platform: Platform) -> None:
    deliver_visits(platform, CHOSEN)
    platform.run("ards", CHOSEN)
    platform.run("mrds", CHOSEN)
    day = D("2024-01-02")
    rows = platform.tables.read_days(platform.spark, "shop", "ards", [day])
    platform.tables.replace_days(platform.spark, "shop", "ards", rows.repartition(3), [day], run_id="test")
    before = {table: platform.rows(table) for table in ("ards", "mrds")}
    fingerprints = platform.fingerprints("ards", "mrds")
    old = [
        leave_behind(platform, "ards", "event_day=2024-01-03/part-00000-killed.snappy.parquet", age_days=40),
        leave_behind(platform, "days", "part-00000-killed.snappy.parquet", age_days=40),
        leave_behind(platform, "ards", "_scratch-killed", age_days=40, within="part.arrow"),
    ]
    at_work = leave_behind(platform, "ards", "_scratch-now", age_days=2, within="part.arrow")
    young = leave_behind(platform, "ards", "event_day=2024-01-03/part-00001-now.snappy.parquet", age_days=2)
    table = platform.tables.read(platform.spark, "shop", "ards").where(on_days([day]))
    assert len(table.inputFiles()) == 3

    told = platform.run("maintenance", []).metadata

    assert set(told) == {"ards", "mrds", "days", "contracts"}
    assert told["ards"].startswith("4 files of ")
    assert told["ards"].endswith("3 joined with others, 1 old ones deleted")
    assert told["days"].endswith(", 0 superseded records removed")
    assert told["mrds"].endswith("0 joined with others, 0 old ones deleted")
    assert not any(path.exists() for path in old)
    # What a run may still be writing stays, and so do the files of yesterday's version.
    assert young.exists()
    assert at_work.exists()
    assert len(files(platform, "ards", "2024-01-02")) == 5
    for name, rows_before in before.items():
        assert platform.rows(name).equals(rows_before)
    assert platform.fingerprints("ards", "mrds") == fingerprints
    assert (
        platform.run("maintenance", [])
        .metadata["days"]
        .endswith("; 0 joined with others, 0 old ones deleted, 0 superseded records removed")
    )

    again = platform.run("ards", CHOSEN)
    assert all(result.up_to_date for result in again.days)
