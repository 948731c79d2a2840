"""Whatever a column holds, and whichever of the two writers wrote it: every common reader opens the table."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from ml_platform.storage.tables import Tables

DAY = date(9999, 12, 31)

#: The least, the greatest and other odd values of each type that a contract may have.
EXTREMES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "string": (pa.string(), ["", "é\U0001f600\n\"'\\", "x" * 40_000]),
    "integer": (pa.int32(), [-(2**31), 2**31 - 1, 0]),
    "long": (pa.int64(), [-(2**63), 2**63 - 1, 0]),
    "double": (pa.float64(), [-1.7976931348623157e308, 5e-324, 1e16]),
    "boolean": (pa.bool_(), [True, False, True]),
    "date": (pa.date32(), [date.min, date.max, date(1582, 10, 10)]),
    "timestamp": (
        pa.timestamp("us", tz="UTC"),
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(1883, 11, 18, 12, 3, 58, tzinfo=UTC),
        ],
    ),
}


def rows() -> pa.Table:
    """A row for each value, one of nulls, and the day they belong to."""
    columns: dict[str, pa.Array] = {"id": pa.array(range(4), pa.int64())}
    columns |= {name: pa.array([*values, None], type_) for name, (type_, values) in EXTREMES.items()}
    return pa.table({**columns, "event_day": pa.array([DAY] * 4, pa.date32())})


@pytest.fixture(params=["spark", "tasks"])
def table(request: pytest.FixtureRequest, tmp_path: Path, spark: SparkSession) -> Path:
    """The folder of a table with these rows, written by Spark or as tasks write."""
    tables, given = Tables(str(tmp_path)), rows()
    if request.param == "spark":
        rows_ = spark.createDataFrame(given).coalesce(1)
        tables.replace_days(spark, "shop", "odd", rows_, [DAY], run_id="r")
    else:
        files = tables.day_files("shop", "odd")
        assert files is not None
        written = {DAY: files.write(DAY, given)}
        tables.replace_days_by("shop", "odd", given.schema, written, [DAY], run_id="r")
    return tmp_path / "shop" / "odd"


def plain(found: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python has them, timestamps as microseconds since 1970: some readers drop their zone."""
    given = rows().schema
    columns = {}
    for name in given.names:
        values = found[name]
        if pa.types.is_timestamp(values.type):
            assert values.type.unit == "us", values.type
            values = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
        elif name == "event_day" and not pa.types.is_date(values.type):
            values = values.cast(pa.string()).cast(pa.date32())
        columns[name] = values
    ordered: list[dict[str, Any]] = pa.table(columns).sort_by("id").to_pylist()
    return ordered


def test_spark_deltalake_duckdb_and_polars_read_every_type_and_its_extremes(
    table: Path, spark: SparkSession
) -> None:
    expected = plain(rows())
    files = [str(path) for path in table.rglob("*.parquet") if "_delta_log" not in path.parts]
    assert len(files) == 1
    timestamp = pq.ParquetFile(files[0]).schema.column(
        [one.name for one in pq.ParquetFile(files[0]).schema].index("timestamp")
    )
    assert timestamp.physical_type == "INT64"
    assert plain(spark.read.format("delta").load(str(table)).toArrow()) == expected
    assert plain(DeltaTable(str(table)).to_pyarrow_table()) == expected
    read = f"SELECT * FROM read_parquet('{files[0]}', hive_partitioning = true)"
    with duckdb.connect() as connection:
        assert plain(connection.sql(read).to_arrow_table()) == expected
    assert plain(pl.read_delta(str(table)).to_arrow()) == expected
    assert plain(pl.scan_parquet(files[0], hive_partitioning=True).collect().to_arrow()) == expected
