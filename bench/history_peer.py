"""The work of the ARDS and the MRDS of `customers`, written by hand for DuckDB: a peer of bench/history.py.

Parses every delivery, leaves out what can't be used, keeps the latest row and the latest label of each key,
writes the rows by day, aggregates them to one row per customer and day, and writes these by day. It gives
no reasons for what it leaves out, no quarantine, no counts, no verdicts, and knows this one product alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

ROWS = """
CREATE TEMP TABLE rows AS
SELECT "ID", "Date", "CustomerNumber", arg_max(struct_pack(
    "CustomerState", "Feature1", "Feature2", "Feature3", "Feature4"), filename) AS newest
FROM read_csv(['{landing}/*/*_interactions.csv', '{landing}/*/*_corrections.csv'],
    delim = '\x01', header = true, filename = true, ignore_errors = true, auto_detect = false,
    columns = {{'ID': 'BIGINT', 'Date': 'DATE', 'CustomerNumber': 'BIGINT', 'CustomerState': 'VARCHAR',
               'Feature1': 'DOUBLE', 'Feature2': 'DOUBLE', 'Feature3': 'DOUBLE', 'Feature4': 'VARCHAR'}})
WHERE "ID" IS NOT NULL AND "CustomerNumber" IS NOT NULL AND "CustomerState" IS NOT NULL
  AND "Feature1" IS NOT NULL AND "Feature2" IS NOT NULL AND "Feature3" IS NOT NULL
  AND coalesce("Feature4", 'Unknown') IN ('Low', 'Medium', 'High', 'Unknown')
  AND "Date" = CAST(split_part(filename, '/', -2) AS DATE)
GROUP BY ALL
"""
LABELS = """
CREATE TEMP TABLE labels AS
SELECT "ID", "Date", "CustomerNumber", arg_max("Target", filename) AS "Target",
       min(CAST(left(split_part(filename, '/', -1), 10) AS DATE)) AS label_known_on
FROM read_csv('{landing}/*/*_labels.csv', delim = '\x01', header = true, filename = true,
    ignore_errors = true, auto_detect = false,
    columns = {{'ID': 'BIGINT', 'Date': 'DATE', 'CustomerNumber': 'BIGINT', 'Target': 'INTEGER'}})
WHERE "Target" IN (0, 1)
GROUP BY ALL
"""
ARDS = """
CREATE TEMP TABLE ards AS
SELECT "ID", "Date", "CustomerNumber", newest."CustomerState" AS "CustomerState",
       newest."Feature1" AS "Feature1", newest."Feature2" AS "Feature2", newest."Feature3" AS "Feature3",
       coalesce(newest."Feature4", 'Unknown') AS "Feature4", "Target", "Date" AS event_day, label_known_on
FROM rows LEFT JOIN labels USING ("ID", "Date", "CustomerNumber")
"""
MRDS = """
SELECT "CustomerNumber", event_day, min("Feature1") AS "Feature1", max("Feature2") AS "Feature2",
       sum("Feature3") AS "Feature3", arg_max("Feature4", "ID") AS "Feature4",
       arg_max("CustomerState", "ID") AS "CustomerState", arg_max_null("Target", "ID") AS "Target",
       arg_max_null(label_known_on, "ID") AS label_known_on
FROM ards GROUP BY ALL
"""


def main(landing: Path, out: Path, threads: int) -> None:
    """Write `out/ards` and `out/mrds`, a folder of parquet for each day."""
    out.mkdir(parents=True)
    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    connection.execute("SET preserve_insertion_order = false")
    for statement in (ROWS, LABELS, ARDS):
        connection.execute(statement.format(landing=landing))
    for name, query in (("ards", "ards"), ("mrds", f"({MRDS})")):
        connection.execute(f"COPY {query} TO '{out / name}' (FORMAT parquet, PARTITION_BY (event_day))")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
