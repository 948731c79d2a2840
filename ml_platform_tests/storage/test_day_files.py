"""Days that tasks write as files, and one commit makes part of the table."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from ml_platform.storage.day_files import DayFile, DayFiles
from ml_platform.storage.table_location import LocationError
from ml_platform.storage.tables import Tables
from ml_platform_tests.small_platform import D

FIRST, SECOND, THIRD = D("2024-01-01"), D("2024-01-02"), D("2024-01-03")
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("event_day", pa.date32())])


def rows(day: date, *ids: int, schema: pa.Schema = SCHEMA, **more: Any) -> pa.Table:
    columns = {"id": ids, "name": [f"n{one}" for one in ids], "event_day": [day] * len(ids), **more}
    return pa.table([pa.array(columns[one.name], one.type) for one in schema], schema=schema)


class Desk:
    """A table, and short ways to write and to read it."""

    def __init__(self, folder: Path) -> None:
        self.tables = Tables(str(folder))
        files = self.tables.day_files("shop", "visits")
        assert files is not None
        self.files: DayFiles = files

    def replace(self, contents: dict[date, list[int]], schema: pa.Schema = SCHEMA, **more: Any) -> int:
        files: dict[date, list[DayFile]] = {
            day: self.files.write(day, rows(day, *ids, schema=schema, **more))
            for day, ids in contents.items()
        }
        return self.tables.replace_days_by("shop", "visits", schema, files, list(contents), run_id="r7")

    def ids(self) -> dict[date, list[int]]:
        table = DeltaTable(self.files.folder).to_pyarrow_table()
        found: dict[date, list[int]] = {}
        for row in table.sort_by([("event_day", "ascending"), ("id", "ascending")]).to_pylist():
            found.setdefault(row["event_day"], []).append(row["id"])
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "tables")


def test_exactly_the_days_are_replaced_each_time_in_one_commit(desk: Desk) -> None:
    assert desk.replace({FIRST: [1, 2], SECOND: [3]}) == 0
    assert desk.replace({SECOND: [4, 5], THIRD: [6]}) == 1
    assert desk.ids() == {FIRST: [1, 2], SECOND: [4, 5], THIRD: [6]}
    history = DeltaTable(desk.files.folder).history()
    assert ['"run_id": "r7"' in one["userMetadata"] for one in history] == [True, True]


def test_a_day_without_rows_ends_empty(desk: Desk) -> None:
    desk.replace({FIRST: [1], SECOND: [2]})
    desk.replace({SECOND: []})
    assert desk.ids() == {FIRST: [1]}
    assert desk.files.sizes(1) == {FIRST: 1}


def test_a_file_that_nobody_commits_is_no_part_of_the_table(desk: Desk) -> None:
    desk.replace({FIRST: [1]})
    (lost,) = desk.files.write(FIRST, rows(FIRST, 8, 9))
    assert (Path(desk.files.folder) / lost.path).exists()
    assert desk.ids() == {FIRST: [1]}


def test_a_day_is_read_as_it_was_at_a_version(desk: Desk) -> None:
    desk.replace({FIRST: [1], SECOND: [2]})
    desk.replace({FIRST: [7]})
    found = {
        day: table["id"].to_pylist() for day, table in desk.files.read(0, [FIRST, SECOND, THIRD], ["id"])
    }
    assert found == {FIRST: [1], SECOND: [2]}


def test_a_new_column_is_added_and_one_that_is_gone_stays(desk: Desk) -> None:
    desk.replace({FIRST: [1]})
    wider = pa.schema([("id", pa.int64()), ("price", pa.float64()), ("event_day", pa.date32())])
    assert desk.replace({SECOND: [2]}, schema=wider, price=[0.5]) == 1
    table = DeltaTable(desk.files.folder).to_pyarrow_table().sort_by("id")
    assert table["name"].to_pylist() == ["n1", None]
    assert table["price"].to_pylist() == [None, 0.5]


def test_a_column_of_another_type_is_refused_with_what_to_do_and_nothing_changes(desk: Desk) -> None:
    desk.replace({FIRST: [1]})
    other = pa.schema([("id", pa.string()), ("event_day", pa.date32())])
    with pytest.raises(
        LocationError, match="the column id is long in the table and string by the contract; run again"
    ):
        desk.replace({FIRST: ["x"]}, schema=other)  # type: ignore[list-item]
    assert desk.ids() == {FIRST: [1]}


def test_spark_and_tasks_write_the_same_table_in_turn(desk: Desk, spark: SparkSession) -> None:
    desk.replace({FIRST: [1], SECOND: [2]})
    seen = desk.tables.read(spark, "shop", "visits")
    assert {(row["id"], row["event_day"]) for row in seen.collect()} == {(1, FIRST), (2, SECOND)}
    by_spark = spark.createDataFrame([(5, "n5", SECOND)], "id bigint, name string, event_day date")
    desk.tables.replace_days(spark, "shop", "visits", by_spark, [SECOND], run_id="r8")
    desk.replace({THIRD: [6]})
    expected = {FIRST: [1], SECOND: [5], THIRD: [6]}
    assert desk.ids() == expected
    assert desk.tables.read(spark, "shop", "visits").count() == 3


def test_timestamps_that_spark_has_written_are_read_whatever_their_year(
    spark: SparkSession, tmp_path: Path
) -> None:
    tables, day = Tables(str(tmp_path)), date(2024, 1, 1)
    texts = ["1600-01-01 00:00:00", "2024-01-01 12:00:00.000001", "9999-12-31 00:00:00"]
    rows = spark.createDataFrame([(text,) for text in texts], "seen string").select(
        F.col("seen").cast("timestamp").alias("seen"), F.lit(day).alias("event_day")
    )
    version = tables.replace_days(spark, "shop", "mrds", rows, [day], run_id="test")
    files = tables.day_files("shop", "mrds")
    assert files is not None
    expected = sorted(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in texts)
    assert (
        sorted(pa.Table.from_batches(files.read_in_batches(version, [day], ["seen"]))["seen"].to_pylist())
        == expected
    )
    batches = tables.batches("shop", "mrds", ["seen"], [day])
    assert sorted(value for batch in batches for value in batch["seen"].to_pylist()) == expected
