"""TEMPORARY stand-in, to be replaced."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

T = {"string": pa.string(), "integer": pa.int32(), "long": pa.int64(), "double": pa.float64(), "date": pa.date32()}


class UnreadableFile(Exception): ...


@dataclass(frozen=True)
class DeliveryFile:
    day: date
    path: str
    name: str
    number: int
    labels_only: bool
    header: tuple[str, ...]
    known_on: date


def read_header(path, source):
    with open(path, newline="") as f:
        return tuple(next(csv.reader(f, delimiter=source.delimiter)))


def parsed_schema(product):
    return pa.schema(
        [("_day", pa.date32()), ("_file", pa.string()), ("_file_number", pa.int32()), ("_record", pa.int64()), ("_kind", pa.string())]
        + [(n, T[c.type]) for n, c in product.source.columns.items()]
        + [("label_known_on", pa.date32()), ("_line", pa.int64()), ("_raw", pa.string()), ("_reason", pa.string())]
    )


def parse_file(file, product) -> Iterator[pa.RecordBatch]:
    out = []
    conv = {"string": str, "integer": int, "long": int, "double": float, "date": date.fromisoformat}
    with open(file.path, newline="") as f:
        for i, r in enumerate(csv.DictReader(f, delimiter=product.source.delimiter)):
            row = {"_day": file.day, "_file": file.name, "_file_number": file.number, "_record": i, "_kind": "label" if file.labels_only else "row"}
            bad = None
            for n, v in r.items():
                c = product.source.columns[n]
                row[n] = conv[c.type](v) if v else c.fill_null
                if row[n] is None and not c.nullable:
                    bad = f"missing required value in {n}"
            if row.get(product.label) is not None:
                row["label_known_on"] = file.known_on
            if bad:
                row = {k: v for k, v in row.items() if k in ("_day", "_file", "_file_number", "_record")} | {"_kind": "bad", "_reason": bad, "_line": i + 2, "_raw": "raw"}
            out.append(row)
    yield from pa.Table.from_pylist(out, schema=parsed_schema(product)).to_batches()


def locate(file, product, records):
    with open(file.path) as f:
        for i, line in enumerate(f):
            if i - 1 in records:
                yield i - 1, i + 1, line.rstrip("\n")
