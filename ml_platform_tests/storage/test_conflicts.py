"""Commits that touch the same days at once, where no lock keeps them apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from delta.exceptions import ConcurrentAppendException
from pyspark.sql import SparkSession

from ml_platform.storage import conflicts
from ml_platform.storage.path_locations import FolderLocation
from ml_platform.storage.tables import Tables

DAY = date(2024, 1, 1)
WRITERS, COMMITS = 3, 2


@pytest.fixture
def unlocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Tables that are protected by Delta's own protocol alone, as those of an object store are."""

    @contextlib.contextmanager
    def lock(*_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(FolderLocation, "lock", lock)
    return Tables(str(tmp_path / "tables"))


def write(tables_: Tables, spark: SparkSession, writer: int) -> None:
    rows = spark.createDataFrame([(DAY, writer, n) for n in range(3)], "event_day date, writer int, n int")
    for _ in range(COMMITS):
        tables_.replace_days(spark, "shop", "mrds", rows, [DAY], run_id=str(writer))


def write_all(unlocked: Tables, spark: SparkSession) -> None:
    write(unlocked, spark, 0)
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(write, unlocked, spark, writer) for writer in range(1, WRITERS + 1)]:
            done.result()


@pytest.mark.slow
def test_a_commit_that_lost_is_made_again_and_no_row_is_lost_or_doubled(
    unlocked: Tables, spark: SparkSession
) -> None:
    write_all(unlocked, spark)
    rows = unlocked.read(spark, "shop", "mrds").toPandas()
    assert len(rows) == 3
    assert rows["writer"].nunique() == 1
    assert sorted(rows["n"]) == [0, 1, 2]
    assert unlocked.version("shop", "mrds") == COMMITS * (WRITERS + 1) - 1


def test_such_commits_do_conflict(
    unlocked: Tables, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "ATTEMPTS", 1)
    with pytest.raises(ConcurrentAppendException):
        write_all(unlocked, spark)
