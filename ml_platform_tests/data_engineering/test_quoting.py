"""Quotes and escapes: what any program wrote is read back equal or quarantined, and never altered."""

from __future__ import annotations

import contextlib
import csv
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from ml_platform.contract.loading import ContractError
from ml_platform.contract.product import Product
from ml_platform.data_engineering import exact_reader, fast_reader, quoting
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.landing import scan
from ml_platform.data_engineering.parsing import parse_file, read_header
from ml_platform.data_engineering.quoting import BlockGuard, NotAsPlain
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform_tests.small_platform import D, shop

DAY = D("2024-01-01")
HEADER = "visit,day,customer,bought\n"


def product(escape: str | None = None, columns: Sequence[str] = ("customer",)) -> Product:
    texts = {name: {"type": "string", "nullable": True} for name in columns}
    return shop(
        source__columns={
            "visit": {"type": "long"},
            "day": {"type": "date"},
            **texts,
            "bought": {"type": "integer", "nullable": True, "allowed": [0, 1]},
        },
        source__escape=escape,
        mrds={"entity": ["customer"], "aggregate": {"visit": "count", "bought": "last"}},
        model__features={"numeric": ["visit"]},
        validation={},
    )


def parse(path: Path, contract: Product) -> list[dict[str, Any]]:
    header = read_header(str(path), contract.source)
    file = DeliveryFile(
        day=DAY,
        path=str(path),
        name=path.name,
        number=0,
        labels_only=False,
        header=header,
        known_on=D("2024-01-03"),
    )
    return [row for batch in parse_file(file, contract) for row in batch.to_pylist()]


def never_fast(*_: object) -> Any:
    raise pa.ArrowInvalid("not in this test")


def read_either_way(path: Path, contract: Product) -> list[dict[str, Any]]:
    """The records as the fast reader gives them, which must be those of the exact one."""
    fast = parse(path, contract)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_reader, "read_fast", never_fast)
        assert parse(path, contract) == fast
    return fast


def landed(path: Path, contract: Product, landing: Path, *, apart: bool = True) -> list[dict[str, Any]]:
    """The records of the rows' files that ``land`` makes of a history, in order."""
    split_history(contract, [path], landing, labels_apart=apart)
    delivery = scan(contract, landing, [DAY])[DAY]
    return [
        row
        for file in delivery.files
        if not file.labels_only
        for batch in parse_file(file, contract)
        for row in batch.to_pylist()
    ]


ESCAPED = '1,2024-01-01,"5\\"",0\n2,2024-01-01,"6\\"",1\n3,2024-01-01,ann,1\n'


def test_text_after_a_closing_quote_joins_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + ESCAPED)
    rows = read_either_way(path, product())
    assert [(row["_kind"], row["_line"]) for row in rows] == [("bad", 2), ("bad", 3), ("row", None)]
    assert [row["_raw"] for row in rows[:2]] == ESCAPED.splitlines()[:2]
    assert rows[0]["_reason"].startswith("text after a closing quote")
    assert rows[1]["_reason"].startswith("quote opened and never closed")


@pytest.mark.parametrize("apart", [True, False])
def test_land_brings_such_records_to_the_quarantine_too(tmp_path: Path, apart: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + ESCAPED + '4,2024-01-01,"12" monitor",0\n5,2024-01-01,bob,1\n')
    rows = landed(path, product(), tmp_path / "landing", apart=apart)
    assert [row["_kind"] for row in rows] == ["bad", "bad", "row", "bad", "row"]
    assert [row["visit"] for row in rows if row["_kind"] == "row"] == [3, 5]
    # What would swallow the lines after it is landed as one field.
    assert [row["_raw"] for row in rows if row["_kind"] == "bad"] == [
        '"1,2024-01-01,""5\\"""",0"',
        '"2,2024-01-01,""6\\"""",1"',
        '4,2024-01-01,"12" monitor",0',
    ]
    assert rows[3]["_reason"].startswith("text after a closing quote")


def test_land_reads_the_day_behind_a_broken_field_or_says_that_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    header = "customer,visit,day,bought\n"
    path.write_text(header + '"12" monitor",1,2024-01-01,0\nann,2,2024-01-01,1\n')
    rows = landed(path, product(), tmp_path / "landing")
    assert [(row["_kind"], row["visit"]) for row in rows] == [("bad", None), ("row", 2)]
    path.write_text(header + '"12" monitor",1,soon,0\n')
    with pytest.raises(SplitError, match=r"a.csv, line 2: day: text after a closing quote: which day"):
        split_history(product(), [path], tmp_path / "other")


def test_the_escape_of_the_contract_reads_such_files_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + ESCAPED)
    contract = product("\\")
    for rows in (read_either_way(path, contract), landed(path, contract, tmp_path / "landing")):
        assert [(row["_kind"], row["customer"]) for row in rows] == [
            ("row", '5"'),
            ("row", '6"'),
            ("row", "ann"),
        ]


@pytest.mark.parametrize(
    ("escape", "field", "value"),
    [
        (None, '"12" monitor"', None),
        (None, '12" monitor', '12" monitor'),  # a file that knows no quotes
        (None, '"12"" monitor"', '12" monitor'),
        (None, '"a" ', None),
        (None, '"C:\\"', "C:\\"),  # read with escapes the quote would never be closed
        (None, '"C:\\","x"', None),
        (None, '"a\\\\b"', None),  # one backslash or two
        ('"', '"a\\\\b"', "a\\\\b"),
        ("\\", '"a\\\\b"', "a\\b"),
        (None, "a\\\\b", "a\\\\b"),
        ("\\", "a\\\\b", None),  # Spark means two, pandas one
        ("\\", "a\\b", "a\\b"),
        ("\\", '5\\"', '5"'),  # as Python and pandas write it
        (None, '5\\"', None),
        ("\\", '"a\\b"', None),
        ("\\", '"a""b"', 'a"b'),
        ("\\", '"a\\""b"', None),
        ("\\", '"\\\\\\""', '\\"'),
        ("^", '"5^" wide"', '5" wide'),
    ],
)
def test_what_can_mean_two_things_is_no_value(
    tmp_path: Path, escape: str | None, field: str, value: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + f"1,2024-01-01,{field},0\n2,2024-01-01,ann,1\n")
    first, second = read_either_way(path, product(escape))
    assert (first["_kind"], first["customer"]) == (("bad", None) if value is None else ("row", value))
    assert (second["_kind"], second["customer"]) == ("row", "ann")


def test_a_bad_value_in_a_file_with_quotes_is_found_by_the_fast_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_exactly(*_: object) -> Any:
        raise AssertionError("the whole file is read again")

    path = tmp_path / "a.csv"
    path.write_text(
        HEADER + '1,2024-01-01,"a\n""b""",0\n\n2,2024-01-01,"c\n\n\nd",7\n3,2024-01-01,"e\nf",0,\n'
    )
    expected = read_either_way(path, product())
    monkeypatch.setattr(exact_reader, "read_exactly", never_exactly)
    assert parse(path, product()) == expected
    assert [row["_line"] for row in expected] == [None, 5, 9]
    assert expected[1]["_raw"] == '2,2024-01-01,"c\n\n\nd",7'


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    blocks=st.lists(
        st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"a", b'","', b"a" * 61]), max_size=40).map(
            b"".join
        ),
        max_size=4,
    ),
    stride=st.sampled_from([1, 7, 64, 1 << 20]),
)
def test_quotes_are_judged_alike_one_by_one_and_by_words(blocks: list[bytes], stride: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quoting, "_STRIDE_BYTES", stride)
        by_words, one_by_one = BlockGuard(product('"').source), BlockGuard(product('"').source)
        patch.setattr(one_by_one, "_is_strict", lambda _: False)
        for block in blocks:
            found: list[Any] = []
            for guard in (by_words, one_by_one):
                try:
                    found.append((guard.plain(block + b"\n"), guard.open, guard.bare, guard.quoted))
                except NotAsPlain:
                    found.append(None)
            assert found[0] == found[1]
            if found[0] is None:
                return


@pytest.mark.parametrize("escape", ["ab", "a", " ", "\n", "é", ","])
def test_an_escape_that_could_be_text_is_refused(escape: str) -> None:
    with pytest.raises(ContractError, match="escape"):
        product(escape)


# -- written by other programs -----------------------------------------------------------------------

TEXTS = st.lists(st.sampled_from(['"', ",", "\\", "\n", "\r\n", "a", " ", "é", "'"]), max_size=6).map("".join)
VALUES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
FEW = settings(max_examples=20, deadline=None, derandomize=True)
Rows = Sequence[tuple[str, str]]
DUCKDB = duckdb.connect(config={"threads": 1})


def frame(values: Rows) -> pd.DataFrame:
    """Rows with two random texts: the customer, and the channel in the last column."""
    return pd.DataFrame(
        {
            "visit": range(len(values)),
            "day": "2024-01-01",
            "customer": [value for value, _ in values],
            "channel": [value for _, value in values],
        }
    )


def by_csv(values: Rows, path: Path, **how: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **how)
        writer.writerow(frame(values).columns)
        writer.writerows(frame(values).itertuples(index=False))


def by_pandas(values: Rows, path: Path, **how: Any) -> None:
    frame(values).to_csv(path, index=False, **how)


def by_duckdb(values: Rows, path: Path, how: str = "") -> None:
    DUCKDB.register("rows", frame(values))
    DUCKDB.execute(f"copy (select * from rows order by visit) to '{path}' (header{how})")


ALL = {"quoting": csv.QUOTE_ALL}
BACKSLASH = {"escapechar": "\\", "doublequote": False}
DOUBLED: dict[str, Callable[[Rows, Path], None]] = {
    "csv": by_csv,
    "csv, all quoted": lambda values, path: by_csv(values, path, **ALL),
    "pandas": by_pandas,
    "pandas, all quoted": lambda values, path: by_pandas(values, path, **ALL),
    "duckdb": by_duckdb,
    "duckdb, all quoted": lambda values, path: by_duckdb(values, path, ", force_quote *"),
}
ESCAPING: dict[str, Callable[[Rows, Path], None]] = {
    "csv": lambda values, path: by_csv(values, path, **BACKSLASH),
    "csv, all quoted": lambda values, path: by_csv(values, path, **BACKSLASH, **ALL),
    "pandas": lambda values, path: by_pandas(values, path, **BACKSLASH),
    "pandas, quotes doubled": lambda values, path: by_pandas(values, path, escapechar="\\"),
    "duckdb": lambda values, path: by_duckdb(values, path, ", escape '\\'"),
    "duckdb, all quoted": lambda values, path: by_duckdb(values, path, ", escape '\\', force_quote *"),
}


@contextlib.contextmanager
def written(write: Callable[[Rows, Path], None], values: Rows) -> Iterator[Path]:
    """A file of these values for as long as it is needed; a fixture would be one for all examples."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        write(values, path)
        yield path


def read_values(values: Rows, path: Path, escape: str | None) -> list[dict[str, Any]]:
    """The records of a file of these values; those that are rows have them as they were."""
    rows = read_either_way(path, product(escape, ("customer", "channel")))
    good = [row for row in rows if row["_kind"] == "row"]
    assert len({row["visit"] for row in good}) == len(good)
    for row in good:
        given_values = tuple(value or None for value in values[row["visit"]])
        assert (row["customer"], row["channel"]) == given_values
    return rows


def bad_values(values: Rows, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    good = {row["visit"] for row in rows if row["_kind"] == "row"}
    return [pair for visit, pair in enumerate(values) if visit not in good]


@pytest.mark.parametrize("writer", DOUBLED)
@FEW
@given(values=VALUES)
def test_doubled_quotes_are_read_back_equal_or_quarantined(writer: str, values: Rows) -> None:
    with written(DOUBLED[writer], values) as path:
        with path.open(newline="", encoding="utf-8") as file:
            records = len([fields for fields in csv.reader(file) if fields]) - 1
        assert records == len(values)
        rows = read_values(values, path, None)
        assert len(rows) == records
        assert all("\\" in "".join(pair) for pair in bad_values(values, rows))
        # Where the contract says that there are no escapes, nothing is left to doubt.
        rows = read_values(values, path, '"')
        assert len(rows) == records
        assert not bad_values(values, rows)


@pytest.mark.parametrize("writer", ESCAPING)
@FEW
@given(values=VALUES)
def test_escaped_quotes_are_read_back_equal_or_quarantined(writer: str, values: Rows) -> None:
    with written(ESCAPING[writer], values) as path:
        rows = read_values(values, path, "\\")
        assert len(rows) == len(values)
        bad = bad_values(values, rows)
        assert all("\\" in "".join(pair) for pair in bad)
        if "all quoted" in writer:
            assert not bad


@pytest.mark.parametrize("writer", [name for name in ESCAPING if name.startswith("duckdb")])
@FEW
@given(values=VALUES)
def test_escaped_quotes_are_never_altered_where_the_contract_does_not_know_of_them(
    writer: str, values: Rows
) -> None:
    with written(ESCAPING[writer], values) as path:
        read_values(values, path, None)


@FEW
@given(values=VALUES, escape=st.sampled_from([None, '"', "\\", "^"]))
def test_land_alters_no_value(values: Rows, escape: str | None) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        if escape in (None, '"'):
            by_csv(values, path, **ALL)
        else:
            by_csv(values, path, escapechar=escape, doublequote=False, **ALL)
        contract = product(escape, ("customer", "channel"))
        rows = landed(path, contract, Path(folder) / "landing")
        assert len(rows) == len(values)
        for row in rows:
            if row["_kind"] == "row":
                expected = tuple(value or None for value in values[row["visit"]])
                assert (row["customer"], row["channel"]) == expected
            else:
                assert escape is None
                assert "\\" in row["_raw"]


@pytest.mark.parametrize("quote_all", [False, True])
def test_what_spark_writes_is_read_back_equal_or_quarantined(
    spark: SparkSession, tmp_path: Path, quote_all: bool
) -> None:
    draw = random.Random(7)
    texts = ['"', ",", "\\", "\n", "a", " ", "é"]
    values = [
        ("".join(draw.choices(texts, k=draw.randrange(5))), "".join(draw.choices(texts, k=draw.randrange(5))))
        for _ in range(600)
    ]
    how = {"header": True, "quoteAll": quote_all, "ignoreLeadingWhiteSpace": False}
    written = spark.createDataFrame(frame(values)).coalesce(1).sortWithinPartitions("visit")
    written.write.csv(str(tmp_path / "out"), ignoreTrailingWhiteSpace=False, **how)
    (path,) = (tmp_path / "out").glob("*.csv")
    rows = read_values(values, path, "\\")
    assert len(rows) == len(values)
    bad = bad_values(values, rows)
    # Spark escapes only within quotes: a backslash before a backslash without quotes can mean one or two.
    assert all("\\\\" in first + second or second.endswith("\\") for first, second in bad)
    assert len(bad) < (1 if quote_all else 60)
    read_values(values, path, None)
