"""Random products with random deliveries, and what their tables must hold, worked out record by record.

A case is drawn from a seed: a contract, and the files of a few event days with good records, corrections,
labels and records that can't be used. Each record is drawn first and written second, so what it means is
known without reading any file. Nothing here uses the platform's own code but the contract's model.
"""

from __future__ import annotations

import csv
import functools
import io
import operator
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product

START = date(2024, 1, 28)
DAYS = 8  # over the end of a month, so that the second month has a model
FIRST_MODEL = date(2024, 2, 1)

_NAMES = ("amount", "a b", "Größe", "select", "x.y", "it's", "col,umn", "ROW", "100%", "naïve café")
_TYPES = ("string", "integer", "long", "double", "boolean", "date", "timestamp")
_WORDS = (
    "red",
    "green",
    "Ünï",
    "a,b",
    'say "hi"',
    "two\nlines",
    " edge ",
    "x;y",
    "tab\there",
    "0",
    "NaN",
    "'",
)
_LEAST_LONG, _GREATEST_LONG = -(2**40), 2**40

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Record:
    """A record as it was meant: ``values`` by column, or None if no reader could use it."""

    fields: tuple[str, ...]
    values: Mapping[str, Any] | None
    is_label: bool = False


@dataclass(frozen=True)
class File:
    """A file of a day's delivery."""

    day: date
    name: str
    header: tuple[str, ...]
    records: tuple[Record, ...]
    delimiter: str

    @property
    def text(self) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=self.delimiter, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(record.fields for record in self.records)
        return buffer.getvalue()


@dataclass
class Case:
    """A product and all of its deliveries."""

    seed: int
    product: Product
    files: list[File] = field(default_factory=list)

    @property
    def days(self) -> list[date]:
        return [START + timedelta(days=n) for n in range(DAYS)]

    def of_day(self, day: date) -> list[File]:
        """The day's files in the order in which they count: the one known later wins, then the later name."""

        def known(file: File) -> tuple[date, str]:
            if file.name[:4].isdigit():
                return date.fromisoformat(file.name[:10]), file.name
            is_labels = set(file.header) == self.product.label_file_columns
            late = self.product.source.label_delay_days if is_labels else 0
            return day + timedelta(days=1 + late), file.name

        return sorted((file for file in self.files if file.day == day), key=known)


def case(seed: int) -> Case:
    """The case of a seed, always the same."""
    draw = random.Random(seed)
    product = parse_product(_contract(draw), f"case {seed}")
    found = Case(seed, product)
    for day in found.days:
        found.files += _deliveries(draw, product, day)
    return found


# -- contracts ---------------------------------------------------------------------------------------


def _contract(draw: random.Random) -> dict[str, Any]:
    delimiter = draw.choice([",", ";", "\x01", "\t", "|"])
    columns: dict[str, Any] = {
        "id": {"type": draw.choice(["long", "string", "integer"])},
        "day": {"type": "date"},
    }
    key = ["id"]
    if draw.random() < 0.3:
        columns["line"] = {"type": "integer"}
        key.append("line")
    columns["who"] = {"type": draw.choice(["string", "long", "integer"])}
    aggregate: dict[str, str] = {}
    for name in draw.sample(_NAMES, draw.randint(2, 5)):
        kind = draw.choice(_TYPES)
        columns[name] = _column(draw, kind)
        rules = ["min", "max", "count", "first", "last"]
        if kind in ("integer", "long", "double"):
            rules += ["sum", "mean"]
        aggregate[name] = draw.choice(rules)
    columns["y"] = {"type": "integer", "nullable": True, "allowed": [0, 1]}
    aggregate["y"] = draw.choice(["last", "max", "first", "min"])
    return {
        "name": "case",
        "description": "A random product.",
        "start": str(START),
        "source": {
            "delimiter": delimiter,
            "decimal": draw.choice([".", ","]) if delimiter != "," else ".",
            "null_values": draw.choice([[""], ["", "NULL"]]),
            "key": key,
            "event_day": "day",
            "label": "y",
            "label_delay_days": draw.choice([0, 1, 1, 2]),
            "columns": dict(draw.sample(list(columns.items()), len(columns))),
        },
        "mrds": {
            "entity": ["who"],
            "order_by": [name for name in aggregate if name != "y" and draw.random() < 0.3],
            "aggregate": aggregate,
        },
        "model": {
            "features": _features(columns, aggregate),
            "estimator": {"class": "sklearn.linear_model.LogisticRegression", "params": {"max_iter": 50}},
            "training_months": 1,
            "holdout_days": 4,
            "minimum_rows": 5,
            "minimum_positives": 1,
            "first_month": f"{FIRST_MODEL:%Y-%m}",
        },
        "evaluation": {
            "threshold": 0.5,
            "window_days": draw.choice([1, 3, 31]),
            "minimum_rows": 5,
            "minimum_positives": 1,
        },
        "validation": {
            "quarantined_share": {"warning": 1, "error": 1},
            "severity": dict.fromkeys(
                ("rows_of_weekday", "superseded_share", "labelled_share", "nulls_of_history",
                 "mean_of_history", "spread_of_history", "values_of_history", "shares_of_history"),
                "warning",
            ),
        },
    }  # fmt: skip


def _column(draw: random.Random, kind: str) -> dict[str, Any]:
    column: dict[str, Any] = {"type": kind, "nullable": draw.random() < 0.7}
    if kind == "string" and draw.random() < 0.4:
        column["allowed"] = draw.sample(_WORDS, 4)
        if draw.random() < 0.5:
            column["fill_null"] = column["allowed"][0]
    elif kind in ("integer", "long") and draw.random() < 0.3:
        column["fill_null"] = 7
    return column


def _features(columns: Mapping[str, Any], aggregate: Mapping[str, str]) -> dict[str, list[str]]:
    numeric, categorical = [], []
    for name, rule in aggregate.items():
        if name != "y":
            is_number = columns[name]["type"] in ("integer", "long", "double") or rule == "count"
            (numeric if is_number else categorical).append(name)
    return {"numeric": numeric, "categorical": categorical}


# -- deliveries --------------------------------------------------------------------------------------


def _deliveries(draw: random.Random, product: Product, day: date) -> list[File]:
    if draw.random() < 0.08:
        return []
    names = draw.sample(
        [
            "a.csv",
            "b.csv",
            "z.csv",
            f"{day + timedelta(days=1)}T0600_rows.csv",
            f"{day + timedelta(days=2)}_more.csv",
            f"{day + timedelta(days=4)}.csv",
            "Ünï code.csv",
        ],
        draw.randint(1, 5),
    )
    width = len(product.source.key)
    # Keys are drawn from few, so that records meet.
    keys = sorted(
        {tuple(_key_part(draw, product, n) for n in range(width)) for _ in range(draw.randint(5, 40))}
    )
    files = []
    for number, name in enumerate(names):
        of_labels = number > 0 and draw.random() < 0.5
        files.append(_file(draw, product, day, name, keys, of_labels=of_labels))
    return files


def _key_part(draw: random.Random, product: Product, n: int) -> Any:
    number = draw.randint(0, 60) if n == 0 else draw.randint(0, 2)
    return f"k{number}" if product.source.columns[product.source.key[n]].type == "string" else number


def _file(
    draw: random.Random, product: Product, day: date, name: str, keys: Sequence[Key], *, of_labels: bool
) -> File:
    source = product.source
    if of_labels:
        header = [*source.key, source.event_day, source.label]
    else:
        header = [column for column in source.columns if column != source.label or draw.random() < 0.5]
        if set(header) == product.label_file_columns:
            header = list(source.columns)
    draw.shuffle(header)
    records = []
    for _ in range(draw.randint(0, 40)):
        key = draw.choice(keys)
        if of_labels and draw.random() < 0.05:
            key = tuple("k999" if isinstance(part, str) else 999 for part in key)  # a label without a row
        records.append(_record(draw, product, day, header, key, of_labels=of_labels))
    return File(day, name, tuple(header), tuple(records), source.delimiter)


def _record(
    draw: random.Random, product: Product, day: date, header: Sequence[str], key: Key, *, of_labels: bool
) -> Record:
    source = product.source
    values: dict[str, Any] = dict(zip(source.key, key, strict=True)) | {source.event_day: day}
    usable = True
    for name in header:
        if name in values:
            continue
        declared = source.columns[name]
        if name == source.label:
            # An empty label in a label file is a case of its own, and not drawn here.
            values[name] = None if not of_labels and draw.random() < 0.4 else draw.randint(0, 1)
        elif name == "who":
            number = draw.randint(0, 12)
            values[name] = f"w{number}" if declared.type == "string" else number
        elif draw.random() < 0.15:
            values[name] = None
        else:
            values[name] = _value(draw, declared)
        if values[name] is None:
            if declared.fill_null is not None:
                values[name] = declared.fill_null
            elif not declared.nullable:
                usable = False
    texts = {name: _text(values[name], product) for name in header}
    for name in header:
        declared = source.columns[name]
        if values[name] == declared.fill_null and declared.fill_null is not None and draw.random() < 0.5:
            texts[name] = draw.choice(source.null_values)
        # A word that happens to stand for null means null.
        if texts[name] in source.null_values and values[name] != declared.fill_null:
            usable = usable and declared.nullable
            values[name] = None
    fields = [texts[name] for name in header]
    if draw.random() < 0.06:
        usable = False
        wrong = draw.choice(["width", "day", "type", "label"])
        place = header.index(source.event_day)
        if wrong == "width":
            fields.append("more")
        elif wrong == "day":
            fields[place] = str(day + timedelta(days=1))
        elif wrong == "label" and source.label in header:
            fields[header.index(source.label)] = draw.choice(["2", "-1", "yes", "1.5"])
        else:
            fields[place] = draw.choice(["not a day", "2024-13-01", "2024-02-30"])
    return Record(tuple(fields), values if usable else None, of_labels)


def _value(draw: random.Random, declared: Any) -> Any:
    if declared.allowed is not None and declared.type == "string":
        return draw.choice(declared.allowed)
    match declared.type:
        case "string":
            return draw.choice(_WORDS)
        case "integer":
            return draw.choice([0, -1, 2**31 - 1, -(2**31), draw.randint(-50, 50)])
        case "long":
            return draw.choice([0, draw.randint(_LEAST_LONG, _GREATEST_LONG), draw.randint(-9, 9)])
        case "double":
            return draw.choice([0.0, 0.1, 1e-9, 1e15, -2.5, draw.uniform(-1e3, 1e3)])
        case "boolean":
            return draw.random() < 0.5
        case "date":
            return draw.choice([date(1, 1, 1), date(9999, 12, 31), date(2024, 2, draw.randint(1, 29))])
        case _:
            return draw.choice(
                [
                    datetime(1900, 1, 1, tzinfo=UTC),
                    datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
                    datetime(2024, 1, draw.randint(1, 31), 3, 4, 5, draw.randint(0, 999999), UTC),
                ]
            )


def _text(value: Any, product: Product) -> str:
    match value:
        case None:
            return product.source.null_values[0]
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value).replace(".", product.source.decimal)
        case datetime():
            return value.isoformat()
        case date():
            return value.isoformat()
        case _:
            return str(value)


# -- what the tables must hold -----------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """What one day's delivery comes to."""

    rows: dict[Key, dict[str, Any]]
    delivered: int
    superseded: int
    labels_applied: int
    quarantined: int


def known_on(product: Product, file: File) -> date:
    """The day since which the labels of a file are known."""
    try:
        return date.fromisoformat(file.name[:10])
    except ValueError:
        return file.day + timedelta(days=1 + product.source.label_delay_days)


def expected_day(case: Case, day: date) -> Expected | None:
    """The ARDS of a day; None if no rows were delivered."""
    product, source = case.product, case.product.source
    files = case.of_day(day)
    if all(set(file.header) == product.label_file_columns for file in files):
        return None
    rows: dict[Key, dict[str, Any]] = {}
    labels: dict[Key, list[tuple[int, date]]] = defaultdict(list)
    label_records: dict[Key, int] = defaultdict(int)
    counts = dict.fromkeys(("delivered", "rows", "bad"), 0)
    for file in files:
        for record in file.records:
            counts["delivered"] += 1
            if record.values is None:
                counts["bad"] += 1
                continue
            key = tuple(record.values[name] for name in source.key)
            if record.is_label:
                label_records[key] += 1
            else:
                counts["rows"] += 1
                rows[key] = {name: record.values.get(name) for name in source.columns}
            if record.values.get(source.label) is not None:
                labels[key].append((record.values[source.label], known_on(product, file)))
    for key, row in rows.items():
        given = labels.get(key)
        row[source.label] = given[-1][0] if given else None
        row["label_known_on"] = min(on for value, on in given if value == given[-1][0]) if given else None
    orphans = sum(n for key, n in label_records.items() if key not in rows)
    applied = sum(key in rows for key in label_records)
    repeated = sum(n for key, n in label_records.items() if key in rows) - applied
    return Expected(
        rows=rows,
        delivered=counts["delivered"],
        superseded=counts["rows"] - len(rows) + repeated,
        labels_applied=applied,
        quarantined=counts["bad"] + orphans,
    )


def expected_features(
    product: Product, day: date, rows: Mapping[Key, Mapping[str, Any]]
) -> dict[Any, dict[str, Any]]:
    """The MRDS of a day by entity."""
    groups: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    order = (*product.mrds.order_by, *product.ards_key)
    for row in sorted(rows.values(), key=lambda row: tuple(_null_first(row[name]) for name in order)):
        groups[row["who"]].append(row)
    found = {}
    for who, group in groups.items():
        result: dict[str, Any] = {"who": who, "event_day": day}
        for name, rule in product.mrds.aggregate.items():
            result[name] = _aggregate(rule, [row[name] for row in group], product.source.columns[name].type)
        label, rule = product.label, product.mrds.aggregate[product.label]
        known = [row["label_known_on"] for row in group]
        if rule in ("min", "max") and any(row[label] is None for row in group):
            result[label] = None
        on = {"first": known[0], "last": known[-1]}.get(rule, max((k for k in known if k), default=None))
        result["label_known_on"] = on if result[label] is not None else None
        found[who] = result
    return found


def _null_first(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if not isinstance(value, str) else value.encode())


def _aggregate(rule: str, values: list[Any], kind: str) -> Any:
    present = [value for value in values if value is not None]
    if rule == "count":
        return len(present)
    if rule in ("first", "last"):
        return values[0] if rule == "first" else values[-1]
    if not present:
        return None
    if rule in ("min", "max"):
        by = (lambda value: value.encode()) if kind == "string" else None
        return (min if rule == "min" else max)(present, key=by)
    total = functools.reduce(operator.add, sorted(present), 0.0 if kind == "double" else 0)
    return total if rule == "sum" else float(total) / len(present)
