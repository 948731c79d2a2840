"""A table is the same delivery as CSV, Parquet and JSON lines, and what only some can say is defined."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.contract.loading import parse_product
from ml_platform.contract.product import Product
from ml_platform.data_engineering import absences, delivery_parts, files, json_reader, landing, resolution
from ml_platform.data_engineering.delivery_parts import divided
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.reading import Reading, located
from ml_platform.data_engineering.resolution import Account
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform_tests.small_platform import SHOP, D, shop

DAY = D("2024-01-03")
NULLS = ("", "NA", "-999")


def product_of(**source: Any) -> Product:
    """A product with a column of each type."""
    content = {
        **SHOP,
        "name": "each",
        "source": {
            "key": ["visit"],
            "event_day": "day",
            "label": "bought",
            "null_values": list(NULLS),
            "columns": {
                "visit": {"type": "long"},
                "day": {"type": "date"},
                "customer": {"type": "string"},
                "string": {"type": "string", "nullable": True},
                "integer": {"type": "integer", "nullable": True},
                "long": {"type": "long", "fill_null": 3},
                "double": {"type": "double", "nullable": True},
                "boolean": {"type": "boolean", "nullable": True},
                "date": {"type": "date", "nullable": True},
                "timestamp": {"type": "timestamp", "nullable": True},
                "bought": {"type": "integer", "allowed": [0, 1], "nullable": True},
            },
            **source,
        },
        "mrds": {"entity": ["customer"], "aggregate": {"double": "sum", "bought": "last"}},
        "model": {**SHOP["model"], "features": {"numeric": ["double"]}},
        "validation": {"minimum_rows": 1},
    }
    return parse_product(content, "each.yaml")


# -- a table, written in each format by other code than reads it ---------------------------------------

Values = tuple[pa.DataType, list[Any]]
"""A column: its type in Parquet, and its values."""


def as_text(type_: pa.DataType, value: Any, decimal: str) -> str:
    """A value as programs write it to CSV."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if pa.types.is_float32(type_):
        return str(np.float32(value)).replace(".", decimal)
    if isinstance(value, float | Decimal):
        return str(value).replace(".", decimal)
    return value.isoformat() if isinstance(value, date) else str(value)


def to_csv(columns: dict[str, Values], decimal: str, delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    texts = [[as_text(type_, value, decimal) for value in values] for type_, values in columns.values()]
    writer.writerows(zip(*texts, strict=True))
    return text.getvalue().encode()


def to_json_lines(columns: dict[str, Values]) -> bytes:
    def value_of(type_: pa.DataType, value: Any) -> str:
        if pa.types.is_float32(type_) and value is not None:
            return str(np.float32(value)).replace("nan", "NaN").replace("inf", "Infinity")
        if isinstance(value, Decimal):
            return str(value)
        return json.dumps(value.isoformat() if isinstance(value, date) else value, ensure_ascii=False)

    rows = zip(
        *[[value_of(type_, value) for value in values] for type_, values in columns.values()], strict=True
    )
    lines = [
        "{" + ", ".join(f"{json.dumps(n)}: {v}" for n, v in zip(columns, row, strict=True)) + "}\n"
        for row in rows
    ]
    return "".join(lines).encode()


def to_parquet(columns: dict[str, Values], **options: Any) -> bytes:
    arrays = {name: pa.array(values, type_) for name, (type_, values) in columns.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink, **options)
    return sink.getvalue()


def deliver(folder: Path, product: Product, contents: dict[str, bytes], day: date = DAY) -> Delivery:
    place = folder / product.name / day.isoformat()
    place.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (place / name).write_bytes(content)
    return landing.scan(product, folder, [day])[day]


def made(product: Product, delivery: Delivery) -> tuple[Account, list[dict[str, Any]], list[dict[str, Any]]]:
    """The account of a delivery, its rows, and the records that can't be used."""
    assert delivery.refusal is None, delivery.refusal
    reading = Reading(product, delivery.files)
    entries = pa.Table.from_batches(reading.entries(), resolution.entry_schema(product))
    assert reading.refusal is None, reading.refusal
    found = resolution.resolve(product, delivery.day, entries)
    orphans = list(located(product, delivery.files, found.orphans))
    bad = pa.concat_tables(
        [pa.Table.from_batches(reading.bad, resolution.quarantine_schema()), *orphans]
    ).to_pylist()
    labels = Account(labels_applied=found.labels_applied, quarantined=len(found.orphans))
    return reading.account + labels, found.rows.sort_by("visit").to_pylist(), bad


# -- the property --------------------------------------------------------------------------------------


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)  # noqa: DTZ001 - that of a file has no time zone


_moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\\"), max_size=6)
_numbers = st.sampled_from(["7", "-3", "1.0", "1e2", "x", "2.5", "true", "2024-01-03", "0", "NA", " 4 "])


def _array(type_: pa.DataType, values: st.SearchStrategy[Any]) -> Callable[[int], st.SearchStrategy[Values]]:
    return lambda rows: st.tuples(st.just(type_), st.lists(st.none() | values, min_size=rows, max_size=rows))


_strings = [_array(type_, _texts | _numbers) for type_ in (pa.string(), pa.large_string())]
_strings.append(_array(pa.dictionary(pa.int8(), pa.string()), _numbers))
_integers = [
    _array(pa.int64(), st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9) | st.just(-999)),
    _array(pa.int8(), st.integers(-128, 127)),
    _array(pa.uint64(), st.integers(0, 2**64 - 1)),
]
_floats = [
    _array(pa.float64(), st.floats() | st.integers(-9, 9).map(float) | st.just(-0.0)),
    _array(pa.float32(), st.floats(width=32) | st.integers(-9, 9).map(float)),
    _array(pa.decimal128(12, 2), st.decimals(-10_000, 10_000, places=2)),
]
_truths = [_array(pa.bool_(), st.booleans())]
_dates = [
    _array(pa.date32(), st.dates()),
    _array(pa.timestamp("us"), _moments | st.dates(date(1900, 1, 1), date(2200, 1, 1)).map(_midnight)),
    _array(pa.timestamp("ns"), _moments.map(lambda moment: moment.replace(microsecond=123_456))),
    _array(pa.timestamp("ms"), _moments.map(lambda moment: moment.replace(microsecond=123_000))),
    _array(pa.timestamp("us", "UTC"), _moments.map(lambda moment: moment.replace(tzinfo=UTC))),
    _array(
        pa.timestamp("us", "+02:00"),
        _moments.map(lambda moment: moment.replace(tzinfo=timezone(timedelta(hours=2)))),
    ),
]
_FLOAT, _, _DECIMAL = _floats
_KINDS = [*_strings, *_integers, *_floats, *_truths, *_dates]


@st.composite
def tables(draw: st.DrawFn, decimal: str) -> dict[str, Values]:
    rows = draw(st.integers(0, 6))
    found: dict[str, Values] = {
        "visit": (pa.int64(), draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))),
        "day": (pa.date32(), [DAY] * rows),
        "customer": (
            pa.string(),
            draw(st.lists(st.sampled_from(["ann", "bob", None]), min_size=rows, max_size=rows)),
        ),
    }
    for name in ("string", "integer", "long", "double", "boolean", "date", "timestamp", "bought"):
        kinds = _KINDS
        # As a text a number has a point, and in CSV the contract's mark; and a truth is True or true.
        if name == "string":
            kinds = [*_strings, *_integers] if decimal == "," else [*_strings, *_integers, _FLOAT, _DECIMAL]
        elif decimal == "," and name in ("boolean", "date", "timestamp"):
            kinds = [*_strings, *_integers, *_truths, *_dates]
        found[name] = draw(draw(st.sampled_from(kinds))(rows))
    return found


@pytest.mark.parametrize(("decimal", "delimiter"), [(".", ","), (",", ";")])
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_table_is_the_same_in_each_format(
    data: st.DataObject, decimal: str, delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    product = product_of(decimal=decimal, delimiter=delimiter)
    columns = data.draw(tables(decimal))
    rows = len(columns["visit"][1])
    contents = {
        "a.csv": to_csv(columns, decimal, delimiter),
        "a.parquet": to_parquet(columns, row_group_size=max(1, rows // 2), version="2.6"),
    }
    if rows:
        contents["a.jsonl"] = to_json_lines(columns)
        contents["a.ndjson.gz"] = gzip.compress(contents["a.jsonl"])
    found = {}
    for name, content in contents.items():
        account, kept, bad = made(
            product, deliver(tmp_path_factory.mktemp("landing"), product, {name: content})
        )
        assert account.delivered == rows
        first_line = 1 + name.endswith(".csv")
        found[name] = account, repr(kept), [row["line"] - first_line for row in bad if "\n" not in row["raw"]]
    expected = found.pop("a.csv")
    for name, one in found.items():
        assert one == expected, name


# -- what a day is -------------------------------------------------------------------------------------

HEADER = "visit,day,customer,spend,pages,channel"
ROWS: dict[str, Values] = {
    "visit": (pa.int64(), [1, 2, 3]),
    "day": (pa.date32(), [DAY] * 3),
    "customer": (pa.string(), ["ann", "bob", "eve"]),
    "spend": (pa.float64(), [1.5, None, 2.0]),
    "pages": (pa.int32(), [1, 2, 3]),
    "channel": (pa.string(), ["web", None, "app"]),
}
LABELS: dict[str, Values] = {
    "visit": (pa.int64(), [2, 1, 9]),
    "day": (pa.date32(), [DAY] * 3),
    "bought": (pa.int64(), [1, None, 0]),
}
WRITERS: dict[str, Callable[[dict[str, Values]], bytes]] = {
    "csv": lambda columns: to_csv(columns, ".", ","),
    "parquet": to_parquet,
    "jsonl": to_json_lines,
}


@pytest.mark.parametrize("rows_as", WRITERS)
@pytest.mark.parametrize("labels_as", WRITERS)
@pytest.mark.parametrize("replaces", [False, True])
def test_formats_are_mixed_within_a_day(tmp_path: Path, rows_as: str, labels_as: str, replaces: bool) -> None:
    more = {name: (type_, values[:1]) for name, (type_, values) in ROWS.items()}
    contents = {
        f"2024-01-04T0500_a.{rows_as}": WRITERS[rows_as](ROWS),
        f"2024-01-04T0600_b.{labels_as}": WRITERS[labels_as](more),
        f"2024-01-05T0600_labels.{labels_as}": WRITERS[labels_as](LABELS),
    }
    if replaces:
        contents[f"2024-01-04T0600_b.{labels_as}.manifest.yaml"] = b"replaces: true\n"
    delivery = deliver(tmp_path, shop(), contents)
    account, kept, bad = made(shop(), delivery)
    assert [row["visit"] for row in kept] == ([1] if replaces else [1, 2, 3])
    assert [row["bought"] for row in kept] == ([None] if replaces else [None, 1, None])
    unusable = [2, 9] if replaces else [9]
    assert [(row["reason"], row["file"]) for row in bad] == [
        ("label without a row", f"2024-01-05T0600_labels.{labels_as}")
    ] * len(unusable)
    assert all(f"{visit}" in row["raw"] for visit, row in zip(unusable, bad, strict=True))
    places = {"csv": {2: 2, 9: 4}, "parquet": {2: 1, 9: 3}, "jsonl": {2: 1, 9: 3}}[labels_as]
    assert [row["line"] for row in bad] == [places[visit] for visit in unusable]
    # delivered = kept + superseded + labels + quarantined
    labels = (0 if replaces else 1) + 1  # of 2, and the one that isn't known yet
    superseded = 3 if replaces else 1
    assert account == Account(
        delivered=7, labels_applied=labels - 1, quarantined=len(unusable), labels_not_yet=1
    )
    assert account.delivered == len(kept) + superseded + labels + len(unusable)


@pytest.mark.parametrize("written_as", WRITERS)
@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda columns: columns.pop("pages"), "missing columns: pages. "),
        (
            lambda columns: columns.update(tags=(pa.list_(pa.int64()), [[1]] * 3)),
            "unexpected columns: tags. ",
        ),
        (
            lambda columns: columns.update(Pages=columns.pop("pages")),
            "missing columns: pages; unexpected columns: Pages",
        ),
        (
            lambda columns: (
                [columns.pop(name) for name in list(columns)] and columns.update(x=(pa.int64(), [1]))
            ),
            "no column of the contract ",
        ),
    ],
)
def test_columns_come_and_go_as_in_csv(
    tmp_path: Path, written_as: str, change: Callable[[dict[str, Values]], Any], refusal: str
) -> None:
    columns = dict(ROWS)
    change(columns)
    delivery = deliver(tmp_path, shop(), {f"a.{written_as}": WRITERS[written_as](columns)})
    assert delivery.refusal is not None
    assert delivery.refusal.startswith(f"a.{written_as}: {refusal}")
    if refusal.startswith("unexpected"):
        ignoring = shop(source__extra_columns=["tags"])
        delivery = deliver(tmp_path, ignoring, {})
        assert (delivery.refusal, delivery.ignored_columns) == (None, {"tags": 1})
        assert made(ignoring, delivery)[0] == Account(delivered=3)


def damaged(content: bytes, at: float) -> bytes:
    place = int(len(content) * at)
    return content[:place] + bytes(255 - byte for byte in content[place : place + 40]) + content[place + 40 :]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", to_parquet(ROWS)[:-9], "can't be read to its end, as a Parquet file that is damaged"),
        ("a.parquet", to_parquet(ROWS)[:3], "is no Parquet file"),
        ("a.parquet", to_csv(ROWS, ".", ","), "is no Parquet file"),
        ("a.parquet", damaged(to_parquet(ROWS), 0.9), "can't be read to its end, as a Parquet file"),
        ("a.parquet", b"", "the file is empty; expected is a Parquet file"),
        ("a.jsonl", b"", "the file is empty; expected is one JSON object a line"),
        ("a.jsonl", b"\n \n", "the file is empty; expected is one JSON object a line"),
        ("a.jsonl", b'[{"visit": 1}]', "no line has a JSON object: no JSON object; of a JSON array write"),
        ("a.jsonl", b'{\n"visit": 1\n}', "no line has a JSON object: no JSON: Expecting property name"),
        ("a.jsonl", to_parquet(ROWS), "is no JSON lines file: it is a Parquet file: name it *.parquet"),
        ("a.csv", to_parquet(ROWS), "is no CSV file: it is a Parquet file: name it *.parquet"),
        ("a.csv", b"PK\x03\x04" + bytes(50), "is no CSV file: it is a packed file, as those of Excel are"),
        ("a.ndjson.gz", gzip.compress(to_json_lines(ROWS))[:-40], "can't be read to its end"),
    ],
)
def test_a_file_that_cannot_be_read_refuses_its_day(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    delivery = deliver(tmp_path, shop(), {name: content})
    assert delivery.refusal is not None
    assert delivery.refusal.startswith(f"{name}: {reason}")


def test_damage_behind_what_is_planned_refuses_the_day(tmp_path: Path) -> None:
    many: dict[str, Values] = {name: (type_, values * 5000) for name, (type_, values) in ROWS.items()}
    content = to_parquet(many, compression="zstd", write_page_checksum=True)
    delivery = deliver(tmp_path, shop(), {"a.parquet": damaged(content, 0.3)})
    reading = Reading(shop(), delivery.files)
    for _ in reading.entries():
        pass
    assert reading.refusal is not None
    assert not reading.refusal.may_pass
    assert reading.refusal.reason.startswith("a.parquet: can't be read to its end, as a Parquet file")


def test_a_line_that_is_no_record_is_one_record_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "HEAD_LINES", 1)
    good = to_json_lines(ROWS).decode().splitlines()
    lines = [
        good[0],
        good[1][:-5],
        "",
        "7",
        good[1].replace('"visit": 2', '"visit": 2, "visit": 3'),
        good[1].replace("bob", "b\\ud800b"),
        good[1].replace("2.0", "[1, 2]").replace("null", '{"a": [1]}'),
        good[1].replace("}", ', "tags": 1}'),
        "[" * 100_000,
        good[2],
    ]
    content = "\r\n".join(lines).encode() + b'\n{"customer": "b\xff"}\n'
    account, kept, bad = made(shop(), deliver(tmp_path, shop(), {"a.jsonl": content}))
    assert [row["visit"] for row in kept] == [1, 3]
    assert account == Account(delivered=10, quarantined=8)
    assert {row["line"]: row["reason"].partition(" at ")[0] for row in bad} == {
        2: "no JSON: Expecting value",
        4: "no JSON object",
        5: "it names 'visit' twice",
        6: "half of a surrogate pair is no text",
        7: "an object in spend, where one value is expected",
        8: "unexpected columns: tags",
        9: "no JSON that can be read: it is nested too deeply",
        11: "invalid encoding: it is not utf-8, which JSON has to be",
    }
    assert bad[1]["raw"] == "7"


def test_names_of_later_lines_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs leave out what is null, so the first lines need not have every name."""
    monkeypatch.setattr(json_reader, "HEAD_LINES", 1)
    product = shop(
        source__columns={
            **SHOP["source"]["columns"],
            "spend": {"type": "double", "nullable": True, "aliases": ["Spend"]},
        }
    )
    head = '{"visit": 1, "day": "2024-01-03", "customer": "ann", "pages": 1}'
    more = head.replace("1,", "2,", 1).replace("}", ', "Spend": 2.5, "channel": "app"}')
    both = more.replace("2,", "3,", 1).replace("}", ', "spend": 1}')
    delivery = deliver(tmp_path, product, {"a.jsonl": f"{head}\n{more}\n{both}\n".encode()})
    assert delivery.missing_columns == {"spend": 1, "channel": 1}
    _, kept, bad = made(product, delivery)
    assert [(row["spend"], row["channel"]) for row in kept] == [(None, "other"), (2.5, "app")]
    assert [row["reason"] for row in bad] == ["it names spend twice, as 'Spend' and 'spend'"]


def test_rows_in_a_file_that_began_with_labels_are_not_taken_for_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "HEAD_LINES", 1)
    label = '{"visit": 1, "day": "2024-01-03", "bought": 1}'
    rows = to_json_lines(ROWS)
    delivery = deliver(tmp_path, shop(), {"a.jsonl": rows, "b.jsonl": f"{label}\n".encode() + rows})
    account, kept, bad = made(shop(), delivery)
    assert account == Account(delivered=7, labels_applied=1, quarantined=3)
    assert kept[0]["bought"] == 1
    assert (
        bad[0]["reason"]
        == "it has channel, in a file whose first lines have nothing but key, event day and label"
    )


def test_what_no_csv_could_hold_is_quarantined_with_its_row(tmp_path: Path) -> None:
    columns = {
        **ROWS,
        "customer": (pa.binary(), [b"ann", b"\xff", b"eve"]),
        "spend": (pa.list_(pa.float64()), [None, None, [1.0, 2.0]]),
    }
    account, kept, bad = made(shop(), deliver(tmp_path, shop(), {"a.parquet": to_parquet(columns)}))
    assert [row["customer"] for row in kept] == ["ann"]
    assert account == Account(delivered=3, quarantined=2)
    assert [(row["line"], row["reason"]) for row in bad] == [
        (2, "invalid encoding: customer is not utf-8"),
        (3, "unparseable value in spend: '[1.0, 2.0]' is not a double"),
    ]
    assert json.loads(bad[1]["raw"]) == {
        "visit": "3",
        "day": "2024-01-03",
        "customer": "eve",
        "spend": "[1.0, 2.0]",
        "pages": "3",
        "channel": "app",
    }


def test_a_dictionary_that_stands_for_far_more_than_the_file_has_is_refused_before_it_takes_room(
    tmp_path: Path,
) -> None:
    rows = 100_000
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, "int32")), pa.array(["a" * 100_000]))
    table = pa.table(
        {
            "visit": pa.array(range(rows)),
            "day": pa.array([DAY] * rows),
            "customer": values,
            "pages": pa.array([1] * rows),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    delivery = deliver(tmp_path, shop(), {"a.parquet": sink.getvalue()})
    reading, before = Reading(shop(), delivery.files), pa.total_allocated_bytes()
    most = 0
    for _ in reading.entries():
        most = max(most, pa.total_allocated_bytes() - before)
    assert reading.refusal is not None
    assert "times its size" in reading.refusal.reason
    assert most < 100 << 20


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_large_file_is_read_in_parts_that_number_its_rows(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        delivery_parts, "each_in_a_task", lambda _, count, look, __: [look(n) for n in range(count)]
    )
    rows = 3000
    columns: dict[str, Values] = {
        "visit": (pa.int64(), list(range(rows))),
        "day": (pa.date32(), [DAY] * rows),
        "customer": (pa.string(), ["ann"] * rows),
        "spend": (pa.string(), ["x" if n % 1000 == 700 else "1" for n in range(rows)]),
        "pages": (pa.int64(), [1] * rows),
    }
    content = to_parquet(columns, row_group_size=250) if name == "a.parquet" else to_json_lines(columns)
    delivery = deliver(tmp_path, shop(), {name: content})
    whole = made(shop(), delivery)
    (parts,) = divided(lambda: None, shop(), delivery.files, delivery.files[0].likely_bytes // 5)  # type: ignore[arg-type, return-value]
    assert len(parts) > 3
    assert [row["line"] for row in whole[2]] == [701, 1701, 2701]
    assert made(shop(), replace(delivery, files=tuple(parts))) == whole
    orphans = pa.table({"_file_number": [0, 0, 0], "_record": [5, 1500, 2999]})
    found = pa.concat_tables(list(located(shop(), parts, orphans)))
    assert found["line"].to_pylist() == [6, 1501, 3000]
    assert ["1500" in raw for raw in found["raw"].to_pylist()] == [False, True, False]


def test_planning_opens_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_file = files.open_file

    def opening(path: str, rules: Any) -> Any:
        opened.append(Path(path).name)
        return open_file(path, rules)

    monkeypatch.setattr(files, "open_file", opening)
    names = [f"a.{ending}" for ending in WRITERS]
    delivery = deliver(tmp_path, shop(), {name: WRITERS[name[2:]](ROWS) for name in names})
    assert sorted(opened) == sorted(names)
    assert all(file.likely_bytes for file in delivery.files)


def test_a_day_with_nothing_but_an_excel_file_says_what_to_do(tmp_path: Path) -> None:
    place = tmp_path / "shop" / DAY.isoformat()
    place.mkdir(parents=True)
    (place / "visits.XLSX").write_bytes(b"PK")
    (place / "visits.json").write_bytes(b"{}")
    said = absences.why_absent(shop(), tmp_path, [DAY])[DAY]
    assert "visits.XLSX, visits.json can't be read" in said
    assert "save the sheet as 'CSV UTF-8 (comma delimited)', or write it as Parquet" in said
    assert "is to be named *.jsonl or *.ndjson" in said


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", None])
def test_texts_are_read_in_each_encoding(tmp_path: Path, encoding: str | None) -> None:
    options: dict[str, Any] = {"row_group_size": 2, "data_page_version": "2.0"}
    if encoding is not None:
        options |= {"use_dictionary": False, "column_encoding": {"customer": encoding, "channel": encoding}}
    contents = {"a.parquet": to_parquet(ROWS, **options)}
    account, kept, _ = made(shop(), deliver(tmp_path, shop(), contents))
    assert account == Account(delivered=3)
    assert [(row["customer"], row["channel"]) for row in kept] == [
        ("ann", "web"),
        ("bob", "other"),
        ("eve", "app"),
    ]


# -- histories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decimal", "delimiter"), [(".", ","), (",", ";")])
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_history_in_another_format_becomes_the_same_deliveries(
    data: st.DataObject, decimal: str, delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    product = product_of(
        decimal=decimal,
        delimiter=delimiter,
        columns={
            **{
                name: column.model_dump(exclude_unset=True)
                for name, column in product_of().source.columns.items()
            },
            "boolean": {"type": "boolean", "nullable": True, "true": ["ja"], "false": ["nein"]},
            "date": {"type": "date", "nullable": True, "format": ["%d.%m.%Y", "iso"]},
        },
    )
    columns = data.draw(tables(decimal).filter(lambda found: len(found["visit"][1]) > 0))
    contents = {"a.parquet": to_parquet(columns), "a.jsonl": to_json_lines(columns)}
    for name, content in contents.items():
        folder = tmp_path_factory.mktemp("history")
        (folder / name).write_bytes(content)
        split_history(product, [folder / name], folder / "landed", labels_apart=False)
        landed = landing.scan(product, folder / "landed", [DAY])[DAY]
        direct = deliver(folder, product, {f"2024-01-04T0600_{name}": content})
        account, kept, bad = made(product, direct)
        of_landed = made(product, landed)
        assert of_landed[0] == account
        assert repr(of_landed[1]) == repr(kept)
        assert len(of_landed[2]) == len(bad)


def test_a_history_in_excel_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "history.xlsx"
    path.write_bytes(b"PK")
    with pytest.raises(SplitError, match=r"history\.xlsx: Excel files aren't read, .*: save the sheet as"):
        split_history(shop(), [path], tmp_path / "landed")


@pytest.mark.parametrize("written_as", WRITERS)
def test_labels_of_a_history_are_split_off(tmp_path: Path, written_as: str) -> None:
    path = tmp_path / f"history.{written_as}"
    path.write_bytes(WRITERS[written_as]({**ROWS, "bought": (pa.int64(), [1, None, 0])}))
    summary = split_history(shop(), [path], tmp_path / "landed")
    assert (summary.days, summary.rows, summary.labels) == (1, 3, 2)
    names = sorted(file.name for file in (tmp_path / "landed" / "shop" / "2024-01-03").iterdir())
    assert names == ["2024-01-04T0600_history.csv", "2024-01-05T0600_labels.csv"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_what_a_contract_says_of_texts_holds_for_texts_alone(tmp_path: Path, name: str) -> None:
    product = product_of(
        decimal=",",
        thousands=".",
        delimiter=";",
        columns={
            **{n: c.model_dump(exclude_unset=True) for n, c in product_of().source.columns.items()},
            "boolean": {"type": "boolean", "true": ["ja"], "false": ["nein"]},
        },
    )
    columns: dict[str, Values] = {
        "visit": (pa.int64(), [1, 2]),
        "day": (pa.date32(), [DAY] * 2),
        "customer": (pa.string(), ["ann", "bob"]),
        "boolean": (pa.bool_(), [True, False]),
        "double": (pa.float64(), [1.234, 2.5]),
        "long": (pa.decimal128(9, 3), [Decimal("1.000"), Decimal("2.000")]),
        "integer": (pa.string(), ["1.234", "7"]),
    }
    contents = {name: to_parquet(columns) if name == "a.parquet" else to_json_lines(columns)}
    _, kept, _ = made(product, deliver(tmp_path, product, contents))
    chosen = [[row[n] for n in ("boolean", "double", "long", "integer")] for row in kept]
    assert chosen == [[True, 1.234, 1, 1234], [False, 2.5, 2, 7]]
