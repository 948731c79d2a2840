"""The MRDS of `customers` with trailing windows, written by hand for DuckDB: a peer of bench/history.py.

Groups the rows of the ARDS by customer and day, adds up windows by window functions, and writes the rows by
day. It knows no corrections, no days that can't be used, no verdicts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
from deltalake import DeltaTable

WINDOWS = (7, 28, 90)


def main(folder: Path, threads: int) -> None:
    """Write `duckdb`, a folder of parquet for each day."""
    files = [str(file) for file in DeltaTable(str(folder / "tables" / "customers" / "ards")).file_uris()]
    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    connection.execute("SET preserve_insertion_order = false")
    columns = ", ".join(
        f"sum(s1) OVER w{n} AS sum_Feature1_{n}, sum(s3) OVER w{n} AS sum_Feature3_{n}, "
        f"max(m2) OVER w{n} AS max_Feature2_{n}, sum(c) OVER w{n} AS count_ID_{n}"
        for n in WINDOWS
    )
    named = ", ".join(
        f'w{n} AS (PARTITION BY "CustomerNumber" ORDER BY event_day '
        f"RANGE BETWEEN INTERVAL {n - 1} DAYS PRECEDING AND CURRENT ROW)"
        for n in WINDOWS
    )
    query = f"""
    SELECT "CustomerNumber", event_day, f1, m2, s3, f4, state, label, {columns} FROM (
        SELECT "CustomerNumber", event_day, min("Feature1") AS f1, sum("Feature1") AS s1,
               max("Feature2") AS m2, sum("Feature3") AS s3, arg_max("Feature4", "ID") AS f4,
               arg_max("CustomerState", "ID") AS state, arg_max_null("Target", "ID") AS label,
               count("ID") AS c
        FROM read_parquet({files}, hive_partitioning = true) GROUP BY ALL
    ) WINDOW {named}
    """
    connection.execute(f"COPY ({query}) TO '{folder / 'duckdb'}' (FORMAT parquet, PARTITION_BY (event_day))")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
