"""What it costs to read deliveries, beside Arrow's own reader of CSV with the types given.

Arrow alone checks no quotes, dates or keys, gives no reasons and stops at the first bad value. Both run in
this process on one core, in turns, and the least CPU time of each counts; ratios tell more than figures.

Run: `make bench-parsing`, or `python bench/parsing.py --rows 100000 --turns 3`.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv as arrow_csv

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering.conversion import ARROW_TYPES
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.parsing import parse_file, read_header

DAY = date(2024, 1, 1)
COLUMNS = {
    "visit": {"type": "long"},
    "day": {"type": "date"},
    "customer": {"type": "string"},
    "spend": {"type": "double", "nullable": True},
    "pages": {"type": "integer"},
    "channel": {"type": "string", "allowed": ["web", "app"]},
    "bought": {"type": "integer", "nullable": True},
}
NAMES = list(COLUMNS)[:-1]
Values = tuple[str, ...]


def product(**source: Any) -> Product:
    return parse_product(
        {
            "name": "shop",
            "description": "Does a customer buy on the day of a visit?",
            "start": DAY.isoformat(),
            "source": {"key": ["visit"], "event_day": "day", "label": "bought", "columns": COLUMNS, **source},
            "mrds": {"entity": ["customer"], "aggregate": {"spend": "sum", "bought": "last"}},
            "model": {
                "features": {"numeric": ["spend"]},
                "estimator": {"class": "sklearn.linear_model.LogisticRegression"},
            },
            "evaluation": {"threshold": 0.5},
        },
        "shop.yaml",
    )


def values(rows: int) -> Iterator[Values]:
    draw = random.Random(1)
    for visit in range(rows):
        spend, channel = f"{draw.gammavariate(2, 20):.2f}", draw.choice(["web", "app"])
        yield str(visit), DAY.isoformat(), f"c{draw.randrange(90_000):05}", spend, str(visit % 9), channel


def plain(row: Values) -> str:
    return ",".join(row)


def quoted(row: Values) -> str:
    return ",".join(f'"{value}"' for value in row)


def with_commas(row: Values) -> str:
    return ",".join([*row[:2], f'"{row[2]}, of ""York"""', *row[3:]])


def escaped(row: Values) -> str:
    return ",".join([*row[:2], f'"{row[2]} of \\"York\\""', *row[3:]])


#: By kind of file, how a line is written, what the contract says of it, and whether Arrow alone can read it.
KINDS: dict[str, tuple[Callable[[Values], str], dict[str, Any], bool]] = {
    "without quotes": (plain, {}, True),
    "all in quotes": (quoted, {}, True),
    "some quotes": (with_commas, {}, True),
    "escaped quotes": (escaped, {"escape": "\\"}, False),
    "trailing delimiters": (lambda row: plain(row) + ",", {"trailing_delimiter": True}, False),
    "quotes and trailing delimiters": (lambda row: quoted(row) + ",", {"trailing_delimiter": True}, False),
    "gzip": (plain, {}, True),
    "windows-1252": (plain, {"encoding": "windows-1252"}, True),
    "a bad line in the first block": (lambda row: plain(row) + ("x" if row[0] == "7" else ""), {}, False),
    "read exactly": (lambda row: f'{plain(row)} "' if row[0] == "0" else quoted(row), {}, False),
}


def ours(file: DeliveryFile, contract: Product) -> int:
    return sum(len(batch) for batch in parse_file(file, contract))


def arrow(path: Path) -> int:
    types = {name: ARROW_TYPES[column["type"]] for name, column in COLUMNS.items() if name in NAMES}
    with arrow_csv.open_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=8 << 20),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=types),
    ) as reader:
        return sum(len(batch) for batch in reader)


def least(turns: int, *works: Callable[[], int]) -> list[float]:
    """The least CPU seconds of each, in turns."""
    found = [float("inf")] * len(works)
    for _ in range(turns):
        for place, work in enumerate(works):
            before = time.process_time()
            work()
            found[place] = min(found[place], time.process_time() - before)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("| file | MB/s | Arrow alone, MB/s | times as long |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, (line, source, arrow_can) in KINDS.items():
            text = "\n".join([",".join(NAMES), *map(line, values(options.rows)), ""]).encode()
            path = Path(folder) / ("a.csv.gz" if kind == "gzip" else "a.csv")
            path.write_bytes(gzip.compress(text) if kind == "gzip" else text)
            contract = product(**source)
            header = read_header(str(path), contract.source)
            file = DeliveryFile(DAY, str(path), path.name, 0, False, header, DAY)
            assert ours(file, contract) == options.rows
            works = [lambda file=file, contract=contract: ours(file, contract)]
            if arrow_can:
                assert arrow(path) == options.rows
                works.append(lambda path=path: arrow(path))
            mine, *theirs = least(options.turns, *works)
            beside = f"{len(text) / theirs[0] / 1e6:.0f} | {mine / theirs[0]:.2f}" if theirs else " | "
            print(f"| {kind} | {len(text) / mine / 1e6:.0f} | {beside} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
